"""The default preset with few training images, with and without shifted and turned copies.

    python benchmarks/few_images.py DATASET...

Each row draws so many good training images at random, several times, and evaluates on all test
images. The input follows the shape of the images. Figures are means over the draws; AUPRO is at the
input's size.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import click
import numpy as np
from PIL import Image

from fre import FRE, Model
from fre.datasets import load_mask, open_dataset, require_test, require_train
from fre.datasets.samples import Dataset
from fre.errors import FREWarning
from fre.evaluation.metrics import PixelMetrics, auroc
from measuring import table

COUNTS = (4, 8, 16, 32)
COPIES = 4
MOST_WITH_COPIES = 16


def figures(opened: Dataset, count: int, copies: int, draws: int) -> tuple[float, float, float]:
    """Return the mean image AUROC, its smallest value, and the mean AUPRO over some draws."""
    paths = [sample.path for sample in require_train(opened)]
    found = []
    for seed in range(draws):
        chosen = sorted(np.random.default_rng(seed).choice(len(paths), count, replace=False))
        found.append(
            measure(FRE(augment=copies, frozen=True).fit([paths[i] for i in chosen]), opened)
        )
    aurocs, aupros = zip(*found, strict=True)
    return float(np.mean(aurocs)), min(aurocs), float(np.mean(aupros))


def measure(model: Model, opened: Dataset) -> tuple[float, float]:
    """Return image AUROC, and AUPRO at the input's size."""
    samples = require_test(opened)
    pixels, scores = PixelMetrics(), []
    with warnings.catch_warnings():
        # Few images do not show all aspects of the test images.
        warnings.simplefilter("ignore", FREWarning)
        predictions = model.predict_many([sample.path for sample in samples])
        for sample, prediction in zip(samples, predictions, strict=True):
            scores.append(prediction.score)
            mask = None if sample.good else load_mask(sample, prediction.image_size)
            if mask is not None:
                height, width = prediction.input_map.shape
                resized = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
                mask = np.asarray(resized)
            if sample.good or mask is not None:
                pixels.add(prediction.input_map, mask)
    aupro = pixels.compute().aupro
    return auroc(scores, [not sample.good for sample in samples]), aupro or float("nan")


@click.command()
@click.argument("datasets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--draws", default=3, show_default=True, help="Random choices of the images.")
def main(datasets: tuple[Path, ...], draws: int) -> None:
    """Print one table: a row for each number of images, two columns for each data set."""
    rows = [(n, c) for n in COUNTS for c in (0, COPIES) if not c or n <= MOST_WITH_COPIES]
    lines = {row: [f"{row[0]}" + (f", {row[1]} copies each" if row[1] else "")] for row in rows}
    head = ["training images"]
    for dataset in datasets:
        opened = open_dataset(dataset)
        head += [f"{dataset.name}: image AUROC (lowest draw)", "AUPRO"]
        for row in rows:
            mean, least, aupro = figures(opened, *row, draws)
            lines[row] += [f"{mean:.3f} ({least:.3f})", f"{aupro:.3f}"]
            print(dataset.name, *lines[row], file=sys.stderr, flush=True)
    print(table(head, lines.values()))


if __name__ == "__main__":
    main()
