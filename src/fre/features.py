"""Run the images through the left part of the graph: one pass, one preallocated matrix."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from fre.augmentation import Augmentation
from fre.backbones import Backbone
from fre.cores import available_cores
from fre.duplicates import duplicate_thumbnail
from fre.errors import DatasetError, ImageError, OptionError
from fre.fusion import too_small_a_region
from fre.geometry import Fit, Geometry, Tiling
from fre.graph import FEATURES, FeatureLayout, feature_model, pooling_matrix
from fre.images import ImageSource, LoadedImage, iter_loaded
from fre.roi import Roi, cells
from fre.runtime import open_runtime
from fre.types import FloatArray, Progress

__all__ = ["FeatureExtractor", "Features", "combined_digest", "pool_features"]

BATCH = 16

MEMORY_LIMIT = 4 * 2**30
"""Bytes of features that are held at once."""


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

    @property
    def n(self) -> int:
        """The number of images."""
        return len(self.sha256)

    def rows_of(self, images: NDArray[np.intp]) -> NDArray[np.intp]:
        """All rows of some images."""
        return images if self.image is None else np.flatnonzero(np.isin(self.image, images))

    @property
    def originals(self) -> NDArray[np.intp]:
        """The rows that are no augmented copies."""
        return np.arange(len(self.X)) if self.copy is None else np.flatnonzero(self.copy == 0)

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


class FeatureExtractor:
    """A backbone up to some of its layers, with pooling, at a fixed input size.

    Args:
        backbone: the frozen network.
        layers: name of the layer, or names of several.
        pool: edge of the pooling windows, in locations of the feature map.
        size: height and width of the input.
        fit: how images are brought to that size.
        tiling: how they are cut into tiles of that size instead.
        roi: the part of the images that is looked at; ``None`` is all.
        threads: threads of the network; 0 takes all cores.

    Attributes:
        geometry: how an image meets the input.
        inspected: bool (H, W), the pixels of the input that are looked at; ``None`` is all.
        network: the backbone's graph up to the deepest layer.
        layouts: how the features of each layer are made up; a flat feature is those of all
            layers, one after the other.

    Raises:
        BackboneError: an unknown layer, or a size that the network can't take.
        OptionError: ``pool`` does not fit the feature map.
    """

    network: onnx.ModelProto
    layouts: tuple[FeatureLayout, ...]

    def __init__(
        self,
        backbone: Backbone,
        layers: str | Sequence[str],
        *,
        pool: int,
        size: tuple[int, int],
        fit: Fit = "stretch",
        tiling: Tiling | None = None,
        roi: Roi | None = None,
        threads: int = 0,
    ) -> None:
        self.backbone = backbone
        self.geometry = Geometry(size, fit, tiling)
        self.roi = roi
        # Tiles differ in what they show of the region: it is applied before an image is cut.
        self.inspected = None if roi is None or tiling else roi.at_input(self.geometry)
        names = [layers] if isinstance(layers, str) else list(layers)
        self.network = backbone.graph(names, size)
        # The network itself knows best how large its feature maps are.
        probe = open_runtime(self.network.SerializeToString(), names, threads=threads)
        shapes = [output.shape for output in probe.run(np.zeros((1, 3, *size), np.float32))]
        self.layouts = tuple(
            FeatureLayout(name, shape[1], (shape[2], shape[3]), pool)
            for name, shape in zip(names, shapes, strict=True)
        )
        grids = [layout.grid for layout in self.layouts]
        if self.inspected is not None and not any(cells(self.inspected, g).any() for g in grids):
            raise OptionError(too_small_a_region(size))
        model = feature_model(
            self.network, backbone.normalisation, self.layouts, size, self.inspected
        )
        self._runtime = open_runtime(model.SerializeToString(), [FEATURES], threads=threads)

    @property
    def layout(self) -> FeatureLayout:
        """How the features of the only layer are made up."""
        (layout,) = self.layouts
        return layout

    @property
    def dimension(self) -> int:
        """Length of a flat feature."""
        return sum(layout.dimension for layout in self.layouts)

    def split(self, X: FloatArray) -> list[FloatArray]:
        """The features of each layer, as views: float32 (n, D) to (n, D_l)."""
        borders = np.cumsum([layout.dimension for layout in self.layouts])[:-1]
        return np.split(X, borders, axis=1)

    def run(self, images: NDArray[np.uint8]) -> FloatArray:
        """Features of images, uint8 (N, H, W, 3) at the input's size: float32 (N, D)."""
        return self._runtime.run(images)[0]

    def extract(
        self,
        sources: Sequence[ImageSource],
        *,
        augmentation: Augmentation | None = None,
        skip_unreadable: bool = False,
        progress: Progress | None = None,
    ) -> Features:
        """Read images and compute their features.

        Args:
            sources: files, or arrays, uint8 (H, W, 3).
            augmentation: makes further rows of each image; ``None`` makes none.
            skip_unreadable: leave out images that can't be read, instead of stopping.
            progress: called after each image.

        Raises:
            ImageError: an image can't be read, or the region of interest does not fit it.
            DatasetError: none of them can be read, or their features need too much memory.
        """
        gathered = _Gathered(self._capacity(len(sources), augmentation), self.dimension, self.run)
        skipped: list[ImageError] = []
        loaded = iter_loaded(
            sources,
            self.geometry.target,
            workers=available_cores(),
            ahead=2 * BATCH if self.geometry.tiling is None else 2,
            digest=True,
        )
        for done, image in enumerate(loaded, start=1):
            try:
                if isinstance(image, ImageError):
                    raise image
                if self.roi is not None:
                    self.roi.check(image.original_size, _path(image.source))
                gathered.add(done - 1, image, self._inputs(image, augmentation))
            except ImageError as error:
                if not skip_unreadable:
                    raise
                skipped.append(error)
            if progress:
                progress("Extracting features", done, len(sources))
        if sources and not gathered.sha256:
            raise DatasetError(f"none of the {len(sources)} images can be read: {skipped[0]}")
        return gathered.features(skipped)

    def _capacity(self, images: int, augmentation: Augmentation | None) -> int:
        """Rows to reserve: pages of memory that are never written to cost nothing."""
        if self.geometry.tiling is None:
            return images * (1 if augmentation is None else 1 + augmentation.copies)
        return max(1, MEMORY_LIMIT // (4 * self.dimension))

    def _inputs(
        self, image: LoadedImage, augmentation: Augmentation | None
    ) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """What the network is given of an image: numbers of copy and tile, and pixels."""
        pixels, shown = image.pixels, None
        if self.roi is not None:
            # Before it is moved about, what is ignored must not reach what is inspected.
            pixels = self.roi.cover(pixels)
            if self.geometry.tiling is not None:
                shown = self.roi.shown_by(self.geometry.grid(image.original_size))
                if not any(shown):
                    raise OptionError("the masks leave nothing to inspect: mark a larger region")
        variants = [pixels]
        if augmentation is not None:
            copies = augmentation.of(pixels, image.sha256)
            variants += copies if self.roi is None else map(self.roi.cover, copies)
        for copy, variant in enumerate(variants):
            inputs = self.geometry.inputs(variant, image.original_size)
            for index, tile in enumerate(inputs):
                if shown is None or shown[index]:
                    yield copy, index, tile


def _path(source: ImageSource) -> Path | None:
    return None if isinstance(source, np.ndarray) else Path(source)


class _Gathered:
    """Rows of features, as they come."""

    def __init__(
        self, capacity: int, dimension: int, run: Callable[[NDArray[np.uint8]], FloatArray]
    ) -> None:
        self._X = np.empty((capacity, dimension), np.float32)
        self._run = run
        self._batch: list[NDArray[np.uint8]] = []
        self._image: list[int] = []
        self._tile: list[int] = []
        self._copy: list[int] = []
        self._kept: list[int] = []
        self._sizes: list[tuple[int, int]] = []
        self._thumbnails: list[NDArray[np.uint8]] = []
        self.sha256: list[str] = []

    def add(
        self, place: int, image: LoadedImage, inputs: Iterable[tuple[int, int, NDArray[np.uint8]]]
    ) -> None:
        for copy, tile, pixels in inputs:
            if len(self._image) == len(self._X):
                raise DatasetError(
                    f"the tiles of {len(self._kept)} images fill {MEMORY_LIMIT / 2**30:.1f} GB: "
                    "train with fewer images, larger tiles, or less overlap"
                )
            self._batch.append(pixels)
            self._image.append(len(self._kept))
            self._tile.append(tile)
            self._copy.append(copy)
            if len(self._batch) == BATCH:
                self._flush()
        self.sha256.append(image.sha256)
        self._kept.append(place)
        self._sizes.append(image.original_size)
        self._thumbnails.append(duplicate_thumbnail(image.pixels))

    def _flush(self) -> None:
        if self._batch:
            stop = len(self._image)
            self._X[stop - len(self._batch) : stop] = self._run(np.stack(self._batch))
            self._batch.clear()

    def features(self, skipped: Sequence[ImageError]) -> Features:
        self._flush()
        return Features(
            self._X[: len(self._image)],
            tuple(self.sha256),
            tuple(skipped),
            tuple(self._kept),
            np.stack(self._thumbnails) if self._thumbnails else None,
            np.array(self._image, np.intp),
            np.array(self._tile, np.intp),
            np.array(self._copy, np.intp),
            tuple(self._sizes),
        )


def pool_features(X: FloatArray, fine: FeatureLayout, coarse: FeatureLayout) -> FloatArray:
    """Features of a feature map as it is, pooled as the graph would pool them.

    Args:
        X: float32 (n, D), of the layout ``fine``.
        fine: without pooling.
        coarse: of the same layer, with pooling.

    Returns:
        float32 (n, D'), of the layout ``coarse``.
    """
    maps = X.reshape(len(X), -1, *fine.grid)
    rows = pooling_matrix(fine.grid[0], coarse.pooled[0])
    columns = pooling_matrix(fine.grid[1], coarse.pooled[1])
    pooled: FloatArray = np.matmul(np.matmul(rows, maps), columns.T)
    return pooled.reshape(len(X), coarse.dimension)


def combined_digest(digests: Iterable[str]) -> str:
    """What ``sha256sum FILES | cut -c1-64 | sort | sha256sum`` prints for the files."""
    lines = "".join(f"{digest}\n" for digest in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()
