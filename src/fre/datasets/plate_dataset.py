"""A data set of drawn plates in the layout of MVTec AD."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fre.datasets.plates import KINDS, MIN_SIZE, draw_plate
from fre.errors import OptionError
from fre.storage.staged_folder import staged_folder
from fre.types import Progress


class _Picture(NamedTuple):
    """One image of the data set: where it goes, and how it is drawn."""

    split: str
    kind: str
    number: int
    seed: tuple[int, int, int]
    severity: float = 0.5


@dataclass(frozen=True)
class PlateSet:
    """The contents of a data set of plates.

    Attributes:
        n_train: number of good images to train on, at least 1.
        n_good: number of good images to test on.
        n_defect: number of defective images to test on, spread evenly over ``KINDS``.
        size: side of the square images in pixels, at least 64.
        seed: seed of the plates, not negative.

    Raises:
        OptionError: a number out of its range.
    """

    n_train: int = 60
    n_good: int = 20
    n_defect: int = 40
    size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"n_train": 1, "size": MIN_SIZE}
        for name, value in vars(self).items():
            if value < least.get(name, 0):
                raise OptionError(f"{name} must be at least {least.get(name, 0)}; got {value}")

    def pictures(self) -> Iterator[_Picture]:
        """Yield the images."""
        for stream, (split, count) in enumerate((("train", self.n_train), ("test", self.n_good))):
            yield from (_Picture(split, "good", i, (self.seed, stream, i)) for i in range(count))
        borders = [self.n_defect * i // len(KINDS) for i in range(len(KINDS) + 1)]
        rng = np.random.default_rng((self.seed, 2))
        for kind, (first, end) in zip(KINDS, pairwise(borders), strict=True):
            # Each kind from faint to plain, in no order that its file names would give away.
            for i, place in enumerate(rng.permutation(end - first)):
                severity = (float(place) + 0.5) / (end - first)
                yield _Picture("test", kind, i, (self.seed, 2, first + i), severity)


def write_dataset(root: Path, plates: PlateSet, progress: Progress | None = None) -> None:
    """Write a data set of plates into a new or empty folder, whole or not at all.

    Equal sets give the same bytes with the same versions of NumPy and Pillow.

    Args:
        root: folder to make or fill.
        plates: the data set.
        progress: called after every image.

    Raises:
        OutputError: ``root`` is not an empty folder, or can't be written.
    """
    pictures = list(plates.pictures())
    with staged_folder(root) as folder:
        for done, picture in enumerate(pictures, start=1):
            _write(folder, picture, plates.size)
            if progress is not None:
                progress("drawing", done, len(pictures))


def _write(root: Path, picture: _Picture, size: int) -> None:
    split, kind, number, seed, severity = picture
    image, mask = draw_plate(seed, kind=kind, severity=severity, size=size)
    _write_png(root / split / kind / f"{number:03d}.png", image)
    if kind != "good":
        file = root / "ground_truth" / kind / f"{number:03d}_mask.png"
        _write_png(file, mask.astype(np.uint8) * np.uint8(255))


def _write_png(file: Path, pixels: NDArray[np.uint8]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Noise hardly compresses: more effort would cost time and save nothing.
    Image.fromarray(pixels).save(file, compress_level=2)
