"""Run the images through the left part of the graph: one pass, one preallocated matrix."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, islice
from pathlib import PurePath
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from fre.ahead import in_order
from fre.appearance import appearance
from fre.augmentation import Augmentation
from fre.backbones import Backbone
from fre.duplicates import duplicate_thumbnail
from fre.errors import DatasetError, ImageError, OptionError
from fre.fusion import too_small_a_region
from fre.geometry import FULL_RANGE, Fit, Geometry, Tiling
from fre.graph import FEATURES, FeatureLayout, feature_model, pooling_matrix
from fre.images import ImageSource, LoadedImage, file_of, image_size, iter_loaded
from fre.roi import Roi, cells
from fre.runtime import LANES, Runtime, open_runtime
from fre.storage import is_url
from fre.types import FloatArray, Progress

__all__ = [
    "FeatureBatch",
    "FeatureExtractor",
    "FeatureRunner",
    "FeatureStream",
    "Features",
    "SeenImage",
    "combined_digest",
    "pool_features",
    "source_name",
]

BATCH = 4
"""Images that a thread takes at a time."""

READERS = 4
"""Threads that fetch what is no local file."""

NO_THUMBNAIL = np.zeros((0, 0), np.uint8)
"""Where thumbnails would take more memory than all else. (Not a part of one: that would keep the
whole.)"""

AHEAD = 4
"""Images for each core that are read before the network asks for them."""

_Input: TypeAlias = "tuple[int, int, int, NDArray[np.uint8]]"
"""Numbers of image, copy and tile, and pixels."""


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
        appearance: float64 (n, 5), from `fre.appearance.appearance`; ``None``: not measured.
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


class FeatureRunner:
    """Images to features, by a network that is given as it is: all that a worker needs.

    Args:
        model: a serialised ONNX model, from `fre.graph.feature_model`.
        layouts: of the features of each layer; a flat feature is those of all layers, one after
            the other.
        geometry: how an image meets the input.
        roi: the part of the images that is looked at; ``None`` is all.
        threads: threads of the network; 0 takes all cores.
        readers: threads that fetch images from a store, to be decoded where the network runs.
    """

    def __init__(
        self,
        model: bytes,
        layouts: Sequence[FeatureLayout],
        geometry: Geometry,
        roi: Roi | None = None,
        *,
        threads: int = 0,
        readers: int = READERS,
    ) -> None:
        self.layouts = tuple(layouts)
        self.geometry = geometry
        self.roi = roi
        self.readers = readers
        self._model = model
        self._threads = threads

    @cached_property
    def _runtime(self) -> Runtime:
        return open_runtime(self._model, [FEATURES], threads=self._threads, many=True)

    @property
    def cores(self) -> int:
        """How many threads to have for `run` and all other work."""
        return self._runtime.cores

    def release(self) -> None:
        """Give back the memory that the network works in, until it is needed again."""
        self.__dict__.pop("_runtime", None)

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

    def run(
        self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]], out: FloatArray | None = None
    ) -> FloatArray:
        """Features of images, computed on the thread that calls it.

        Args:
            images: uint8 (N, H, W, 3), or N of (H, W, 3), at the input's size.
            out: float32 (N, D), to write them to; ``None`` makes a new array.

        Returns:
            float32 (N, D).
        """
        if out is None:
            out = np.empty((len(images), self.dimension), np.float32)
        runtime = self._runtime.lane
        # One by one: the maps of several at a time do not fit into a core's cache.
        for row, pixels in enumerate(images):
            runtime.run(pixels[None], out=[out[row : row + 1]])
        return out

    def check(self, image: LoadedImage) -> None:
        """Refuse an image that the region of interest does not fit.

        Raises:
            ImageError: it does not.
        """
        if self.roi is not None:
            self.roi.check(image.original_size, file_of(image.source))

    def measured(self, image: LoadedImage) -> NDArray[np.float64]:
        """Return the pixel statistics of an image's inspected part: see `fre.appearance`."""
        shown = None if self.roi is None else self.roi.at_size(image.pixels.shape[:2])
        return appearance(image.pixels, shown)

    def inputs(
        self, image: LoadedImage, augmentation: Augmentation | None
    ) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
        """What the network is given of an image: numbers of copy and tile, and pixels.

        Raises:
            OptionError: none of its tiles shows anything inspected.
        """
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


class FeatureExtractor(FeatureRunner):
    """A backbone up to some of its layers, with pooling, at a fixed input size.

    Args:
        backbone: the frozen network.
        layers: name of the layer, or names of several.
        pool: edge of the pooling windows, in locations of the feature map.
        size: height and width of the input.
        fit: how images are brought to that size.
        tiling: how they are cut into tiles of that size instead.
        roi: the part of the images that is looked at; ``None`` is all.
        bits: range of the 16-bit values of image files, as in `fre.geometry.Preparation`.
        threads: threads of the network; 0 takes all cores.

    Attributes:
        inspected: bool (H, W), the pixels of the input that are looked at; ``None`` is all.
        network: the backbone's graph up to the deepest layer.

    Raises:
        BackboneError: an unknown layer, or a size that the network can't take.
        OptionError: ``pool`` does not fit the feature map.
    """

    network: onnx.ModelProto

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
        bits: int | None = FULL_RANGE,
        threads: int = 0,
    ) -> None:
        self.backbone = backbone
        geometry = Geometry(size, fit, tiling, bits)
        # Tiles differ in what they show of the region: it is applied before an image is cut.
        self.inspected = None if roi is None or tiling else roi.at_input(geometry)
        names = [layers] if isinstance(layers, str) else list(layers)
        self.network = backbone.graph(names, size)
        # The network itself knows best how large its feature maps are.
        probe = open_runtime(self.network.SerializeToString(), names, threads=threads)
        shapes = [output.shape for output in probe.run(np.zeros((1, 3, *size), np.float32))]
        layouts = [
            FeatureLayout(name, shape[1], (shape[2], shape[3]), pool)
            for name, shape in zip(names, shapes, strict=True)
        ]
        grids = [layout.grid for layout in layouts]
        if self.inspected is not None and not any(cells(self.inspected, g).any() for g in grids):
            raise OptionError(too_small_a_region(size))
        super().__init__(
            self._built(layouts, size).SerializeToString(), layouts, geometry, roi, threads=threads
        )

    def model(self) -> bytes:
        """The network and the pooling, as a `FeatureRunner` takes them."""
        return self._model

    def _built(self, layouts: Sequence[FeatureLayout], size: tuple[int, int]) -> onnx.ModelProto:
        normalisation = self.backbone.normalisation
        return feature_model(self.network, normalisation, layouts, size, self.inspected)

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
            DatasetError: none of them can be read, or they have more rows than were reserved.
        """
        reserved = self._capacity(sources, augmentation)
        X = np.empty((reserved, self.dimension), np.float32)
        stream = FeatureStream(
            self,
            sources,
            augmentation=augmentation,
            skip_unreadable=skip_unreadable,
            progress=progress,
            out=X,
        )
        batches: list[FeatureBatch] = []
        filled = 0
        for batch in stream:
            stop = filled + len(batch.X)
            if stop > len(X):
                X = np.concatenate([X[:filled], np.empty_like(X)])
            if stop > reserved:  # else it is there already
                X[filled:stop] = batch.X
            filled = stop
            batches.append(replace(batch, X=batch.X[:0]))
        if sources and not stream.images:
            raise DatasetError(
                f"none of the {len(sources)} images can be read: {stream.skipped[0]}"
            )

        def joined(column: Callable[[FeatureBatch], NDArray[np.intp]]) -> NDArray[np.intp]:
            return np.concatenate([np.empty(0, np.intp), *map(column, batches)])

        return Features(
            X[:filled],
            tuple(image.sha256 for image in stream.images),
            tuple(stream.skipped),
            tuple(image.place for image in stream.images),
            np.stack([image.thumbnail for image in stream.images]) if stream.images else None,
            joined(lambda batch: batch.image),
            joined(lambda batch: batch.tile),
            joined(lambda batch: batch.copy),
            tuple(image.size for image in stream.images),
            tuple(source_name(sources[image.place]) for image in stream.images),
            np.array([image.appearance for image in stream.images]),
        )

    def _capacity(self, sources: Sequence[ImageSource], augmentation: Augmentation | None) -> int:
        """Rows to reserve; of images in tiles as many as if all were like the first."""
        return max(1, self.rows(sources, augmentation))

    def rows(self, sources: Sequence[ImageSource], augmentation: Augmentation | None = None) -> int:
        """How many rows of features the images make, if all are of the size of the first.

        Raises:
            ImageError: tiles are to be counted, and the first image can't be read.
        """
        copies = 1 if augmentation is None else 1 + augmentation.copies
        tiles = 1
        if self.geometry.tiling is not None and sources:
            tiles = self.geometry.count(image_size(sources[0]))
        return len(sources) * copies * tiles


@dataclass(frozen=True)
class SeenImage:
    """An image whose features were computed.

    Attributes:
        place: its place among those that were asked for.
        sha256: digest of its file, in hexadecimal.
        size: its original height and width.
        thumbnail: uint8 (64, 64).
        appearance: five pixel statistics, from `fre.appearance.appearance`.
    """

    place: int
    sha256: str
    size: tuple[int, int]
    thumbnail: NDArray[np.uint8]
    appearance: tuple[float, ...] = ()

    def at(self, place: int) -> SeenImage:
        """The same at another place, without its thumbnail."""
        return replace(self, place=place, thumbnail=NO_THUMBNAIL)

    def to_note(self) -> tuple[Any, ...]:
        """All but the thumbnail as plain JSON values; `of_note` takes them."""
        return (self.place, self.sha256, *self.size, *self.appearance)

    @classmethod
    def of_note(cls, note: Sequence[Any]) -> SeenImage:
        """What `to_note` gave."""
        place, sha256, height, width, *measured = note
        return cls(place, sha256, (height, width), NO_THUMBNAIL, tuple(measured))


@dataclass(frozen=True)
class FeatureBatch:
    """Some rows of features.

    Attributes:
        X: float32 (b, D).
        image: (b,), the place of each row's image among those that were seen.
        tile: (b,), which of the image's tiles it is.
        copy: (b,), 0 for a row of an image as it is, above that for an augmented copy.
    """

    X: FloatArray
    image: NDArray[np.intp]
    tile: NDArray[np.intp]
    copy: NDArray[np.intp]


class FeatureStream:
    """Features of images, a batch at a time, while further images are read on other threads.

    Args:
        extractor: computes them.
        sources: files, or arrays, uint8 (H, W, 3).
        augmentation: makes further rows of each image; ``None`` makes none.
        skip_unreadable: leave out images that can't be read, instead of stopping.
        progress: called after each image.
        out: float32 (n, D), to write the features to, from its first row on; batches that it has
            no room for have arrays of their own.

    Attributes:
        images: those that were seen so far, a few batches ahead of what was yielded.
        skipped: errors of those that were left out.
    """

    def __init__(
        self,
        extractor: FeatureRunner,
        sources: Sequence[ImageSource],
        *,
        augmentation: Augmentation | None = None,
        skip_unreadable: bool = False,
        progress: Progress | None = None,
        out: FloatArray | None = None,
    ) -> None:
        self.images: list[SeenImage] = []
        self.skipped: list[ImageError] = []
        self._out = np.empty((0, 0), np.float32) if out is None else out
        self._extractor = extractor
        self._sources = sources
        self._augmentation = augmentation
        self._skip_unreadable = skip_unreadable
        self._progress = progress

    def __iter__(self) -> Iterator[FeatureBatch]:
        """Yields batches; raises ImageError for an image that is not to be left out."""
        cores = self._extractor.cores
        threads = ThreadPoolExecutor(cores, "fre-features")
        try:
            batches, ahead = self._batches(threads), min(LANES, cores)
            for (batch, X), _ in in_order(self._run, batches, workers=threads, ahead=ahead):
                rows = np.array([(image, tile, copy) for image, copy, tile, _ in batch], np.intp)
                yield FeatureBatch(X, *rows.T)
        finally:
            # Without waiting: see `in_order`.
            threads.shutdown(wait=False)

    def _batches(self, threads: ThreadPoolExecutor) -> Iterator[tuple[list[_Input], FloatArray]]:
        """Inputs of the network, and where their features go."""
        inputs = self._inputs(threads)
        start = 0
        while batch := list(islice(inputs, BATCH)):
            stop = start + len(batch)
            if stop <= len(self._out):
                out = self._out[start:stop]
            else:
                # Made on this thread: what others make, the allocator keeps for each of them.
                out = np.empty((len(batch), self._extractor.dimension), np.float32)
            yield batch, out
            start = stop

    def _run(self, batch: tuple[list[_Input], FloatArray]) -> None:
        inputs, out = batch
        self._extractor.run([pixels for *_, pixels in inputs], out)

    def _inputs(self, threads: ThreadPoolExecutor) -> Iterator[_Input]:
        extractor = self._extractor
        loaded = iter_loaded(
            self._sources,
            extractor.geometry.preparation,
            workers=threads,
            # Local files are read where they are decoded, which spares a change of threads.
            readers=extractor.readers if any(map(is_url, self._sources)) else None,
            ahead=AHEAD * extractor.cores if extractor.geometry.tiling is None else 2,
            digest=True,
            thumbnail=duplicate_thumbnail,
        )
        for place, image in enumerate(loaded):
            try:
                if isinstance(image, ImageError):
                    raise image
                extractor.check(image)
                number = len(self.images)
                assert image.thumbnail is not None
                self.images.append(
                    SeenImage(
                        place,
                        image.sha256,
                        image.original_size,
                        image.thumbnail,
                        tuple(map(float, extractor.measured(image))),
                    )
                )
                for copy, tile, pixels in extractor.inputs(image, self._augmentation):
                    yield number, copy, tile, pixels
            except ImageError as error:
                if not self._skip_unreadable:
                    raise
                self.skipped.append(error)
            if self._progress:
                self._progress("Extracting features", place + 1, len(self._sources))


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


def source_name(source: ImageSource) -> str:
    """Return the file name of an image; empty for an array."""
    return "" if isinstance(source, np.ndarray) else PurePath(str(source)).name


def combined_digest(digests: Iterable[str]) -> str:
    """What ``sha256sum FILES | cut -c1-64 | sort | sha256sum`` prints for the files."""
    lines = "".join(f"{digest}\n" for digest in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()
