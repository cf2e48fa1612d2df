"""Features of a set of images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from fre.errors import ImageError
from fre.images.geometry import Geometry
from fre.images.roi import Roi
from fre.types import FloatArray


@dataclass(frozen=True)
class Features:
    """What a backbone says of a set of images.

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
        sizes: (n,), original height and width of each image; ``None``: that of the input.
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

    def rows_of(self, images: NDArray[np.intp]) -> NDArray[np.intp]:
        """All rows of some images."""
        return images if self.image is None else np.flatnonzero(np.isin(self.image, images))

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

    def originals_of(self, folds: list[NDArray[np.intp]]) -> list[NDArray[np.intp]]:
        """For each set of images, which of `originals` are of them."""
        images = self._image_of_originals()
        return [np.flatnonzero(np.isin(images, fold)) for fold in folds]

    def largest(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """For each image the largest value of its original rows: float64 (n,).

        Args:
            values: one for each of `originals`.
        """
        result = np.full(self.n, -np.inf)
        np.maximum.at(result, self._image_of_originals(), values)
        return result

    def map_maxima(
        self, maps: Iterable[FloatArray], geometry: Geometry, roi: Roi | None
    ) -> NDArray[np.float64]:
        """For each image the largest value of its anomaly map: float64 (n,).

        Args:
            maps: float32 (H, W), one for each of `originals`.
            geometry: how the inputs were made of images.
            roi: the part of the images that is looked at; ``None`` is all.
        """
        result = np.full(self.n, -np.inf)
        rows = self.originals
        tiles = np.zeros(len(rows), np.intp) if self.tile is None else self.tile[rows]
        for index, group in groupby(
            zip(self._image_of_originals(), tiles, maps, strict=True), key=lambda row: row[0]
        ):
            size = geometry.size if self.sizes is None else self.sizes[index]
            parts: list[FloatArray | None] = [None] * geometry.count(size)
            for _, tile, values in group:
                parts[tile] = values
            whole = geometry.content(parts, size)
            if roi is not None and geometry.tiling is not None:
                whole = whole * roi.at_size((whole.shape[0], whole.shape[1]))
            result[index] = whole.max()
        return result

    def _image_of_originals(self) -> NDArray[np.intp]:
        return self.originals if self.image is None else self.image[self.originals]
