"""What shifted and turned copies of the good images buy where there are few of them.

    python benchmarks/few_shot.py DATASET...

For each random draw of good images and each amount of alteration, the default preset's subspaces
are fitted on the images and their copies. A copy is in the fold of its image, and only images, not
copies, set scales. Prints Markdown: mean image AUROC and AUPRO over the draws, of the same draws
in every row; and how far below the first row a single draw fell at worst.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from ablation import Residuals, by_layer, masks_at
from fre.backbones import get_backbone
from fre.datasets import open_dataset, require_test, require_train
from fre.features.extractor import FeatureExtractor
from fre.images.decode import read_resized
from fre.subspaces.cross_fit import make_folds
from fre.training.plan import plan_detector
from fre.types import FloatArray
from ideas import (
    DATA,
    JSON,
    SIZE,
    Figures,
    Material,
    Recipe,
    altered,
    measure,
    note,
    with_their_copies,
    write,
)
from measuring import evenly

COUNTS = (4, 8, 16)
"""Of good images."""


@dataclass(frozen=True)
class Amount:
    """How copies are altered.

    Attributes:
        copies: number of copies of each image.
        pixels: largest shift along either axis.
        degrees: largest rotation either way.
    """

    copies: int = 0
    pixels: float = 0
    degrees: float = 0

    def __str__(self) -> str:
        if not self.copies:
            return "no copies"
        return f"{self.copies} copies, {self.pixels:g} px, {self.degrees:g} degrees"


AMOUNTS = (
    Amount(),
    Amount(4, 2, 0),
    Amount(4, 4, 2),
    Amount(8, 4, 2),
    Amount(4, 8, 5),
)


def few_shot(folder: Path, edge: int, draws: int, tests: int) -> Figures:
    """The figures of each draw, by a column for each number of images, and by amount and draw."""
    network = get_backbone()
    layers = plan_detector(network)
    names = dict(zip(("fine", "middle", "coarse"), layers.names, strict=True))
    size = (edge, edge)
    dataset = open_dataset(folder)
    good = [sample.path for sample in require_train(dataset)]
    samples = evenly(require_test(dataset), tests)  # their order is by kind
    masks = masks_at(samples, size)
    extractor = FeatureExtractor(network, layers.names, pool=1, size=size)
    layouts = {layout.layer: layout for layout in extractor.layouts}
    test = by_layer(extractor, extractor.extract([sample.path for sample in samples]).X)
    results: Figures = {f"{folder.name}, {count}": {} for count in COUNTS}
    for draw in range(draws):
        chosen = np.random.default_rng(draw).permutation(len(good))[: max(COUNTS)]
        images = [read_resized(good[i], size)[0] for i in chosen]
        plain = extractor.extract(images).X
        altered_by: dict[tuple[float, float], FloatArray] = {}
        for amount in AMOUNTS:
            how = (amount.pixels, amount.degrees)
            most = max(each.copies for each in AMOUNTS if (each.pixels, each.degrees) == how)
            if most and how not in altered_by:
                rng = np.random.default_rng(draw)
                altered_by[how] = np.stack(
                    [
                        extractor.extract([altered(image, *how, rng) for image in images]).X
                        for _ in range(most)
                    ]
                )
            for count in COUNTS:
                more = [altered_by[how][i, :count] for i in range(amount.copies)]
                X = np.concatenate([plain[:count], *more])
                folds = with_their_copies(make_folds(count), count, amount.copies)
                residuals = Residuals(layouts, by_layer(extractor, X), test, folds)
                material = Material(residuals, names, size, samples, masks, originals=count)
                column, row = f"{folder.name}, {count}", f"{amount}; {draw}"
                results[column][row] = note(column, row, measure(material, Recipe()))
    return results


def table(results: Figures, draws: int) -> str:
    """Markdown: mean figures, and in brackets the lowest difference of a draw from no copies."""
    heads = [f"{column}: AUROC | AUPRO" for column in results]
    lines = [f"| | {' | '.join(heads)} |", "| --- |" + " ---: | ---: |" * len(heads)]
    for amount in AMOUNTS:
        cells = []
        for rows in results.values():
            for figure in ("auroc", "aupro"):
                values, base = (
                    np.array([rows[f"{each}; {draw}"][figure] for draw in range(draws)])
                    for each in (amount, AMOUNTS[0])
                )
                worst = f" ({(values - base).min():+.3f})" if amount.copies else ""
                cells.append(f"{values.mean():.3f}{worst}")
        lines.append(f"| {amount} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@DATA
@SIZE
@click.option("--draws", type=int, default=3, show_default=True, help="Of good images.")
@click.option("--tests", type=int, default=120, show_default=True, help="Test images, at most.")
@JSON
def main(data: tuple[Path, ...], size: int, draws: int, tests: int, json_file: Path | None) -> None:
    """Print what altered copies buy with few good images."""
    results: Figures = {}
    for folder in data:
        results.update(few_shot(folder, size, draws, tests))
    print(table(results, draws))
    write(json_file, results, [str(amount) for amount in AMOUNTS])


if __name__ == "__main__":
    main()
