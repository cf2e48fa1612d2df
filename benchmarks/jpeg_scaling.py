"""What scores become as JPEGs are decoded at a reduced scale, not decoded whole and resized.

    python benchmarks/jpeg_scaling.py DATASET [--side 512]

The images of DATASET are written anew as colour JPEGs, of some number of pixels a side. A JPEG
decoder can shrink them itself, at less cost than a resize takes, but with a filter of its own;
`fre.images.jpeg` says when it may, and makes the result look as if it had been resized. The
detector is fitted to images that were brought to the input's size in one way, and scores the test
images in every way. Printed are the image AUROC, and how far the scores of good test images are
from those of the way that it was fitted to, in standard deviations of these."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fre import FRE
from fre.datasets import open_dataset, require_test, require_train
from fre.evaluation.metrics import auroc
from fre.images.decode import decode_resized, read_image
from fre.types import ImageArray
from measuring import table

SIDE = 256


def encoded(file: Path, side: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(read_image(file)).resize((side, side)).save(data, "JPEG", quality=92)
    return data.getvalue()


def resized(data: bytes) -> ImageArray:
    with Image.open(io.BytesIO(data)) as whole:
        return np.asarray(whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def decoded(data: bytes) -> ImageArray:
    return decode_resized(data, (SIDE, SIDE), name="image")[0]


def by_the_decoder_alone(data: bytes) -> ImageArray:
    with Image.open(io.BytesIO(data)) as small:
        small.draft("RGB", (SIDE, SIDE))
        return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


WAYS: dict[str, Callable[[bytes], ImageArray]] = {
    "decoded whole, resized": resized,
    "as fre reads files": decoded,
    "decoded as small as can be": by_the_decoder_alone,
}


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--preset", default="default", show_default=True)
@click.option("--count", default=200, show_default=True, help="Images to train on, at most.")
@click.option(
    "--side",
    "sides",
    type=int,
    multiple=True,
    default=(512, 564, 640, 768, 1024),
    show_default=True,
    help="Of the JPEGs, in pixels; may be repeated.",
)
def main(folder: Path, preset: str, count: int, sides: Sequence[int]) -> None:
    """Measure on DATASET."""
    dataset = open_dataset(folder)
    samples = require_test(dataset)
    good = np.array([sample.good for sample in samples])
    to_train = [sample.path for sample in require_train(dataset)[:count]]
    rows = []
    for side in sides:
        train = [encoded(file, side) for file in to_train]
        test = [encoded(sample.path, side) for sample in samples]
        tested = {way: [read(data) for data in test] for way, read in WAYS.items()}
        for way, read in WAYS.items():
            detector = FRE("efficientnet_lite0", preset=preset, size=SIDE)
            model = detector.fit([read(data) for data in train])
            scores: dict[str, NDArray[np.float64]] = {
                other: np.array([found.score for found in model.predict_many(images)])
                for other, images in tested.items()
            }
            usual = scores[way][good]
            for other, found in scores.items():
                shift = (found[good] - usual).mean() / usual.std()
                rows.append([str(side), way, other, f"{auroc(found, ~good):.3f}", f"{shift:+.2f}"])
    print(f"{len(to_train)} training images of {dataset.name}, preset {preset}, {SIDE} px input\n")
    print(table(["JPEG, px", "trained on images", "tested", "image AUROC", "shift"], rows))


if __name__ == "__main__":
    main()
