"""What scores become if JPEGs are decoded at the input's size, not resized to it.

    python benchmarks/jpeg_scaling.py DATASET

The images of DATASET are written anew as colour JPEGs of twice the input's size. A JPEG decoder can
halve them itself, at less cost than a resize takes, but with a filter of its own. The detector is
fitted to images of either way and scores the test images of either way; printed are the image AUROC
and how far the scores of good test images are from those of the way that it was fitted to, in
standard deviations of these.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fre import FRE
from fre.datasets import open_dataset, require_test, require_train
from fre.images import read_image
from fre.metrics import auroc
from fre.types import ImageArray
from measuring import table

SIDE = 256
WAYS = ("resized", "decoded at half its size")


def both_ways(file: Path) -> Iterator[ImageArray]:
    """The image at the input's size: resized, and halved by the decoder."""
    encoded = io.BytesIO()
    Image.fromarray(read_image(file)).resize((2 * SIDE, 2 * SIDE)).save(encoded, "JPEG", quality=92)
    with Image.open(encoded) as whole:
        yield np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    with Image.open(encoded) as halved:
        halved.draft("RGB", (SIDE, SIDE))
        yield np.asarray(halved)


def read(files: Sequence[Path]) -> list[list[ImageArray]]:
    """By the way, the images."""
    return [list(images) for images in zip(*map(both_ways, files), strict=True)]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--preset", default="default", show_default=True)
@click.option("--count", default=200, show_default=True, help="Images to train on, at most.")
def main(folder: Path, preset: str, count: int) -> None:
    """Measure on DATASET."""
    dataset = open_dataset(folder)
    samples = require_test(dataset)
    defective = np.array([not sample.good for sample in samples])
    trained_on = read([sample.path for sample in require_train(dataset)[:count]])
    tested_on = read([sample.path for sample in samples])
    rows = []
    for way, images in zip(WAYS, trained_on, strict=True):
        model = FRE("efficientnet_lite0", preset=preset, size=SIDE).fit(images)
        scores: dict[str, NDArray[np.float64]] = {
            other: np.array([found.score for found in model.predict_many(tested)])
            for other, tested in zip(WAYS, tested_on, strict=True)
        }
        good = scores[way][~defective]
        for other, found in scores.items():
            shift = (found[~defective] - good).mean() / good.std()
            rows.append([way, other, f"{auroc(found, defective):.3f}", f"{shift:+.2f}"])
    print(f"{len(trained_on[0])} training images of {dataset.name}, preset {preset}\n")
    print(table(["trained on images that are", "tested", "image AUROC", "shift"], rows))


if __name__ == "__main__":
    main()
