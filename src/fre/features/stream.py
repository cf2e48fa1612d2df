"""Features of files, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.errors import ImageError
from fre.features.runner import AHEAD, BATCH, FeatureRunner, _Input
from fre.images.augmentation import Augmentation
from fre.images.decode import ImageSource
from fre.images.loading import iter_loaded
from fre.images.near_duplicates import duplicate_thumbnail
from fre.parallel import in_order
from fre.runtimes.runtime import LANES
from fre.storage.remote import is_url
from fre.types import FloatArray, Progress

NO_THUMBNAIL = np.zeros((0, 0), np.uint8)
"""Where thumbnails would take more memory than all else. (Not a part of one: that would keep the
whole.)"""


@dataclass(frozen=True)
class ImageRecord:
    """An image whose features were computed.

    Attributes:
        place: its place among those that were asked for.
        sha256: digest of its file, in hexadecimal.
        size: its original height and width.
        thumbnail: uint8 (64, 64).
        appearance: five pixel statistics, from `fre.images.appearance.appearance`.
    """

    place: int
    sha256: str
    size: tuple[int, int]
    thumbnail: NDArray[np.uint8]
    appearance: tuple[float, ...] = ()

    def at(self, place: int) -> ImageRecord:
        """The same at another place, without its thumbnail."""
        return replace(self, place=place, thumbnail=NO_THUMBNAIL)

    def to_note(self) -> tuple[Any, ...]:
        """All but the thumbnail as plain JSON values; `of_note` takes them."""
        return (self.place, self.sha256, *self.size, *self.appearance)

    @classmethod
    def of_note(cls, note: Sequence[Any]) -> ImageRecord:
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
        self.images: list[ImageRecord] = []
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
                    ImageRecord(
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
