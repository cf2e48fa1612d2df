"""From which size on defects are found, in pixels of the network's input.

    python benchmarks/defect_size.py DATASET...

Spots and scratches of known width are drawn on the good test images, at their full size, and scored
by a model of the default preset that was trained on the good training images. A spot is a disc, a
scratch a line eight times as long as wide; both are darker or brighter by twice the standard
deviation of the image's grey levels, at least by 40. The width in pixels of the input is the width
in the image times the ratio of the sizes.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw

from fre import FRE
from fre.datasets import open_dataset, require_test, require_train
from fre.evaluation.metrics import auroc
from fre.images.decode import read_image
from fre.types import ImageArray
from measuring import evenly, table

WIDTHS = (2, 4, 6, 8, 12, 16, 24)
KINDS = ("spot", "scratch")
LENGTH = 8
CONTRAST, LEAST_CONTRAST = 2.0, 40.0
SHARPNESS = 4
MIDDLE = (0.3, 0.7)
"""Where defects lie, as shares of height and width: the background of a part shows none."""


def with_defect(image: ImageArray, width: float, kind: str, rng: np.random.Generator) -> ImageArray:
    """Draw a defect on a copy of an image.

    Args:
        image: uint8 (H, W, 3).
        width: width of the defect, in pixels of the image.
        kind: one of `KINDS`.
        rng: draws the place, the angle, and dark or bright.

    Returns:
        The copy.
    """
    height, length = image.shape[:2]
    row, column = rng.uniform(*MIDDLE, 2) * (height, length)
    angle = rng.uniform(0, np.pi)
    sign = rng.choice((-1, 1))
    half = (LENGTH - 1) * width / 2 if kind == "scratch" else 0.0
    ends = [
        (
            SHARPNESS * (column + s * half * np.cos(angle)),
            SHARPNESS * (row + s * half * np.sin(angle)),
        )
        for s in (-1, 1)
    ]
    # Drawn larger and reduced, so that its border is smooth and its width exact.
    mask = Image.new("L", (SHARPNESS * length, SHARPNESS * height))
    draw = ImageDraw.Draw(mask)
    draw.line(ends, fill=255, width=max(1, round(SHARPNESS * width)))
    for x, y in ends:
        radius = SHARPNESS * width / 2
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    share = np.asarray(mask.reduce(SHARPNESS), np.float32)[:, :, None] / 255
    grey = image.astype(np.float32)
    change = sign * max(LEAST_CONTRAST, CONTRAST * float(grey.std()))
    return np.clip(grey + share * change, 0, 255).astype(np.uint8)


def found(dataset: Path, count: int) -> dict[str, dict[int, tuple[float, float]]]:
    """Return AUROC and recall by kind and width in input pixels."""
    opened = open_dataset(dataset)
    model = FRE(frozen=True).fit([sample.path for sample in require_train(opened)])
    good = [sample.path for sample in require_test(opened) if sample.good]
    images = [read_image(path) for path in evenly(good, count)]
    clean = [p.score for p in model.predict_many(images)]
    results: dict[str, dict[int, tuple[float, float]]] = {}
    for kind in KINDS:
        for width in WIDTHS:
            rng = np.random.default_rng(width)
            drawn = [
                with_defect(image, width / model.geometry.scale(image.shape[:2]), kind, rng)
                for image in images
            ]
            predictions = list(model.predict_many(drawn))
            scores = [p.score for p in predictions]
            labels = np.repeat([False, True], [len(clean), len(scores)])
            results.setdefault(kind, {})[width] = (
                auroc(np.array([*clean, *scores]), labels),
                float(np.mean([p.anomalous for p in predictions])),
            )
    return results


@click.command()
@click.argument("datasets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--count", default=24, show_default=True, help="Good test images of each set.")
def main(datasets: tuple[Path, ...], count: int) -> None:
    """Print AUROC and recall against the width of the defect."""
    measured = {dataset.name: found(dataset, count) for dataset in datasets}
    head = ["width in input px", *(f"{name}, {kind}" for name in measured for kind in KINDS)]
    lines = [
        [
            str(width),
            *(
                " / ".join(f"{value:.2f}" for value in measured[name][kind][width])
                for name in measured
                for kind in KINDS
            ),
        ]
        for width in WIDTHS
    ]
    print("AUROC against the images without defects / recall at the model's threshold\n")
    print(table(head, lines))


if __name__ == "__main__":
    main()
