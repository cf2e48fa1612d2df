"""How close held-out residuals per position come to those of subspaces fitted again.

    python benchmarks/left_out.py DATASET [--images 300,200,100] [--write docs/calibration.md]

Of the default preset's layers with a subspace per position, a square of positions is taken. For
some images, subspaces are fitted again to all other images, as the truth. Beside it: five and
twenty folds, extrapolated; each image left out by itself; and the residuals of images that were
seen. The ratio to the truth: its mean, and its root mean square distance from 1.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from fre.backbones import get_backbone
from fre.datasets import training_images
from fre.detector import FRE
from fre.features.layout import FeatureLayout
from fre.subspaces.cross_fit import cross_fit, make_folds
from fre.subspaces.position import PositionStatistics
from fre.subspaces.position_left_out import leaves_one_out
from fre.subspaces.protocols import FitOptions
from fre.training.plan import plan_detector
from measuring import evenly, publish, table

SIDE = 6
"""Side of the square of positions."""

REFITS = 40
"""Images that subspaces are fitted again without."""


def square(X: NDArray[np.float32], layout: FeatureLayout) -> NDArray[np.float32]:
    """Return the features of a square in the middle: float32 (n, C * SIDE * SIDE)."""
    top, left = ((length - SIDE) // 2 for length in layout.grid)
    maps = X.reshape(len(X), layout.channels, *layout.grid)
    return np.ascontiguousarray(maps[:, :, top : top + SIDE, left : left + SIDE]).reshape(
        len(X), -1
    )


def ratios(X: NDArray[np.float32], channels: int) -> list[str]:
    """Return the cells of a row: mean and distance of each way's ratio to the truth."""
    grid, options = (SIDE, SIDE), FitOptions()
    rows = np.array(evenly(range(len(X)), REFITS))
    truth = np.concatenate(
        [
            PositionStatistics.of(np.delete(X, row, axis=0), grid)
            .fit(options)
            .squared_residuals(X[row : row + 1])
            for row in rows
        ]
    )
    of = partial(PositionStatistics.of, grid=grid)
    subspace, left_out = of(X).fit_left_out(options)
    ways = [
        subspace.squared_residuals(X),
        *(
            cross_fit(X, channels, make_folds(len(X), folds=k), of, options).residuals
            for k in (5, 20)
        ),
        left_out.squared_residuals(X),
    ]
    # A border has fewer neighbours here than in the whole map.
    inner = np.ravel(np.pad(np.ones((SIDE - 2, SIDE - 2), bool), 1))
    found = [way[rows][:, inner] / truth[:, inner] for way in ways]
    return [f"{q.mean():.3f}, {np.sqrt(np.square(q - 1).mean()):.3f}" for q in found]


class Counts(click.ParamType):
    """Numbers of images with commas."""

    name = "numbers"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        try:
            return [int(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers, such as 200,100", param, ctx)


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", type=Counts(), default="300,200,100", show_default=True)
@click.option("--write", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(data: Path, images: list[int], write: Path | None) -> None:
    """Compare on a dataset that fre can read."""
    files = evenly(training_images(data), max(images))
    detector = FRE()
    extractor, _ = detector._extractor_for(get_backbone(), files, 0, None)
    X = extractor.extract(files).X
    layouts = {layout.layer: layout for layout in extractor.layouts}
    rows = []
    for part in plan_detector(extractor.backbone).parts(extractor.layouts, None):
        if part.scope != "position":
            continue
        features, layout = part.features(X, extractor.layouts), layouts[part.layout.layer]
        for n in images:
            chosen = np.array(evenly(range(len(X)), n))
            cells = ratios(square(features[chosen], layout), layout.channels)
            used = leaves_one_out(len(chosen), layout.channels, FitOptions())
            label = [f"{layout.layer}, {layout.channels}", str(len(chosen))]
            rows.append([*label, *cells, "one by one" if used else "five folds"])
    head = ["layer, channels", "images", "seen", "5 folds", "20 folds", "one by one", "fre takes"]
    text = f"{data.name}:\n\n{table(head, rows)}"
    publish(text, write, "left out")


if __name__ == "__main__":
    main()
