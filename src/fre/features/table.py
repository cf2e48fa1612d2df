"""Features of a set of images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fre.errors import ImageError
from fre.types import FloatArray


@dataclass(frozen=True)
class RowIndex:
    """Which image and tile each row of features or residuals is of.

    Attributes:
        image: (r,), number of the image, ascending.
        tile: (r,), number of the tile in the image; 0 for a whole image.
        n: number of images.
        sizes: (n, 2), original height and width of each image; ``None``: the input size.
    """

    image: NDArray[np.intp]
    tile: NDArray[np.intp]
    n: int
    sizes: NDArray[np.intp] | None

    def largest(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return, for each image, the largest value of its rows: (r,) to float64 (n,)."""
        result = np.full(self.n, -np.inf)
        np.maximum.at(result, self.image, values)
        return result


@dataclass(frozen=True)
class Features:
    """Features of a set of images, a row each, or one for each tile and augmented copy.

    Attributes:
        X: float32 (r, D), a flat feature a row: one of each image; or one of each tile and of
            each augmented copy of it.
        sha256: (n,), digest of each image's file (of its pixels, for an array), in hexadecimal.
        skipped: errors of the images that were left out.
        kept: (n,), the place of each image among those that were asked for; ``None`` is all.
        thumbnails: uint8 (n, 64, 64), to find near-duplicates by; ``None`` if not made.
        image: (r,), which image a row is of, ascending; ``None``: a row each.
        tile: (r,), which of the image's tiles a row is of; ``None``: images are whole.
        copy: (r,), 0 for a row of an image as it is, above that for an augmented copy; ``None``:
            all as they are.
        sizes: (n,), original height and width of each image; ``None``: the input size.
        names: (n,), file name of each image, empty for an array; ``None``: not known.
        appearance: float64 (n, 5), from `fre.images.appearance.appearance`; ``None``: not measured.
    """

    X: FloatArray
    sha256: tuple[str, ...]
    skipped: tuple[ImageError, ...]
    kept: tuple[int, ...] | None = None
    thumbnails: NDArray[np.uint8] | None = None
    image: NDArray[np.intp] | None = None
    tile: NDArray[np.intp] | None = None
    copy: NDArray[np.intp] | None = None
    sizes: tuple[tuple[int, int], ...] | None = None
    names: tuple[str, ...] | None = None
    appearance: NDArray[np.float64] | None = None

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.sha256)

    def by_tile(self) -> list[Features]:
        """The features of each tile by themselves, of images that all have the same tiles."""
        assert self.tile is not None
        assert self.image is not None
        assert self.copy is not None
        return [
            replace(
                self,
                X=self.X[rows],
                image=self.image[rows],
                tile=self.tile[rows],
                copy=self.copy[rows],
            )
            for tile in np.unique(self.tile)
            for rows in [np.flatnonzero(self.tile == tile)]
        ]

    @property
    def originals(self) -> NDArray[np.intp]:
        """The rows that are no augmented copies."""
        return np.arange(len(self.X)) if self.copy is None else np.flatnonzero(self.copy == 0)

    @property
    def images_of_rows(self) -> NDArray[np.intp]:
        """The image of each row."""
        return np.arange(len(self.X)) if self.image is None else self.image

    @property
    def index(self) -> RowIndex:
        """Image and tile of each of `originals`."""
        rows = self.originals
        tile = np.zeros(len(rows), np.intp) if self.tile is None else self.tile[rows]
        sizes = None if self.sizes is None else np.array(self.sizes, np.intp).reshape(-1, 2)
        return RowIndex(self.images_of_rows[rows], tile, self.n, sizes)
