"""Very wide and very large images: resized, a larger input, and tiles, in one table.

    python benchmarks/large_images.py [--case scans] [--case photos]

Draws woven cloth with shading and noise, the same at each run: line scans of 200 x 5000 pixels and
photographs of 6000 x 8000. Half of the test images have one spot, darker or brighter than the cloth
by 40 grey levels, as wide as the case says. The rest is `input_size.py`, which does the same for
datasets of real images.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw

from fre.types import ImageArray
from input_size import HEAD, rows
from measuring import table

PERIOD, NOISE, SHADING, CONTRAST = 20, 4.0, 12.0, 40.0
TILES = "--tile 320 --overlap 64"


@dataclass(frozen=True)
class Case:
    """Images of one size, the width of their defects, and the trainings that are compared."""

    height: int
    width: int
    defect: int
    train: int
    test: int
    options: tuple[str, ...]


CASES = {
    "scans": Case(
        *(200, 5000, 12, 24, 24),
        (
            "",
            "--size 128x3200",
            "--tile 192x512 --overlap 64",
            "--tile 192x512 --overlap 64 --set scope=patch",
            "--defect-size 12",
        ),
    ),
    "photos": Case(
        *(6000, 8000, 60, 8, 8),
        ("", "--size 768x1024", f"{TILES} --size 1536x2048 --set scope=patch", "--defect-size 60"),
    ),
}


def cloth(rng: np.random.Generator, height: int, width: int) -> ImageArray:
    """Draw woven cloth.

    Args:
        rng: draws phase, shading and noise.
        height: in pixels.
        width: in pixels.

    Returns:
        uint8 (height, width).
    """
    phase = rng.uniform(0, 2 * np.pi, 2)
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None]
    grey = 120 + 30 * (
        np.sin(2 * np.pi * y / PERIOD + phase[0]) + np.sin(2 * np.pi * x / PERIOD + phase[1])
    )
    slope = rng.uniform(-SHADING, SHADING, 2)
    grey = grey + slope[0] * (y / height - 0.5) + slope[1] * (x / width - 0.5)
    grey += NOISE * rng.standard_normal((height, width), np.float32)
    return np.clip(grey, 0, 255).astype(np.uint8)


def spot(rng: np.random.Generator, case: Case) -> tuple[Image.Image, int]:
    """Draw a mask (255 in the defect), and the defect's change in grey levels."""
    mask = Image.new("L", (case.width, case.height))
    radius = case.defect / 2
    row = rng.uniform(radius, case.height - radius)
    column = rng.uniform(radius, case.width - radius)
    box = (column - radius, row - radius, column + radius, row + radius)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    return mask, int(rng.choice((-1, 1)) * CONTRAST)


def draw(folder: Path, case: Case) -> None:
    """Write the case as a dataset in the layout of MVTec AD."""
    rng = np.random.default_rng(0)
    places = {"train/good": case.train, "test/good": case.test // 2, "test/spot": case.test // 2}
    for place, count in places.items():
        (folder / place).mkdir(parents=True)
        for number in range(count):
            image = cloth(rng, case.height, case.width)
            if place == "test/spot":
                mask, change = spot(rng, case)
                inside = np.asarray(mask) > 0
                image[inside] = np.clip(image[inside].astype(int) + change, 0, 255)
                truth = folder / "ground_truth" / "spot" / f"{number:03}_mask.png"
                truth.parent.mkdir(parents=True, exist_ok=True)
                mask.save(truth)
            Image.fromarray(image).save(folder / place / f"{number:03}.jpg", quality=95)


@click.command()
@click.option("--case", "names", multiple=True, type=click.Choice(list(CASES)), default=list(CASES))
def main(names: tuple[str, ...]) -> None:
    """Print one table of all cases."""
    found: list[list[str]] = []
    for name in names:
        case = CASES[name]
        with tempfile.TemporaryDirectory() as parent:
            folder = Path(parent) / f"{name}, {case.height} x {case.width}, spots of {case.defect}"
            print(f"drawing {folder.name}", file=sys.stderr)
            draw(folder, case)
            found += rows(folder, {text or "(none)": text.split() for text in case.options})
    print(table(HEAD, found))


if __name__ == "__main__":
    main()
