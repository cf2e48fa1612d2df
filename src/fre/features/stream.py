"""Features of image files, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import ImageError
from fre.features.runner import AHEAD, BATCH, FeatureRunner
from fre.images.augmentation import Augmentation
from fre.images.decode import ImageSource, file_of
from fre.images.preparation import NetworkInput
from fre.parallel import in_order
from fre.storage.remote import is_url
from fre.types import FloatArray, Progress

NO_THUMBNAIL = np.zeros((0, 0), np.uint8)
"""Stands for a thumbnail that is not kept. (A slice of the thumbnail would keep all of it.)"""


class FeatureError(ImageError):
    """An image for which the network gives features that are NaN or infinite."""


@dataclass(frozen=True)
class ImageRecord:
    """Record of an image whose features were computed.

    Attributes:
        place: index of the image among the sources.
        sha256: digest of the file, in hexadecimal.
        size: original height and width.
        thumbnail: uint8 (64, 64), for near-duplicates.
        appearance: five pixel statistics, from `fre.images.appearance.appearance`.
    """

    place: int
    sha256: str
    size: tuple[int, int]
    thumbnail: NDArray[np.uint8]
    appearance: tuple[float, ...] = ()

    def at(self, place: int) -> ImageRecord:
        """Return the record with another index, without thumbnail."""
        return replace(self, place=place, thumbnail=NO_THUMBNAIL)

    def to_note(self) -> tuple[Any, ...]:
        """Return everything but the thumbnail as plain JSON values."""
        return (self.place, self.sha256, *self.size, *self.appearance)

    @classmethod
    def of_note(cls, note: Sequence[Any]) -> ImageRecord:
        """Return the record that `to_note` wrote."""
        place, sha256, height, width, *measured = note
        return cls(place, sha256, (height, width), NO_THUMBNAIL, tuple(measured))


_Input: TypeAlias = tuple[int, NetworkInput]
"""Number of the image, and one of its inputs."""


@dataclass(frozen=True)
class FeatureBatch:
    """A batch of feature rows.

    Attributes:
        X: float32 (b, D).
        image: (b,), index of each row's image in `FeatureStream.images`.
        tile: (b,), index of each row's tile in its image.
        copy: (b,), 0 for the image itself, above 0 for an augmented copy.
    """

    X: FloatArray
    image: NDArray[np.intp]
    tile: NDArray[np.intp]
    copy: NDArray[np.intp]


class FeatureStream:
    """Iterator over batches of features, which reads further images on other threads.

    Args:
        extractor: network that computes the features.
        sources: files, or arrays, uint8 (H, W, 3).
        augmentation: makes further rows of each image; ``None`` makes none.
        skip_unreadable: skip images that can't be read, instead of stopping.
        progress: called after each image.
        out: float32 (n, D), array to fill from its first row on; batches beyond it have arrays of
            their own.

    Attributes:
        images: records of the images read so far, a few batches ahead of the yielded ones.
        skipped: errors of the skipped images.
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
        """Yield batches.

        Raises:
            ImageError: an image can't be used, and ``skip_unreadable`` is false.
            FeatureError: the features of an image are not finite.
        """
        cores = self._extractor.cores
        threads = ThreadPoolExecutor(cores, "fre-features")
        try:
            batches, ahead = self._batches(threads), self._extractor.lanes
            for (batch, X), _ in in_order(self._run, batches, workers=threads, ahead=ahead):
                rows = np.array([(image, one.tile, one.copy) for image, one in batch], np.intp)
                yield FeatureBatch(X, *rows.T)
        finally:
            # Without waiting: see `in_order`.
            threads.shutdown(wait=False)

    def _batches(self, threads: ThreadPoolExecutor) -> Iterator[tuple[list[_Input], FloatArray]]:
        """Yield inputs of the network, and the array for their features."""
        inputs = self._inputs(threads)
        start = 0
        while batch := list(islice(inputs, BATCH)):
            stop = start + len(batch)
            if stop <= len(self._out):
                out = self._out[start:stop]
            else:
                # Allocated on this thread: the allocator keeps memory for each thread.
                out = np.empty((len(batch), self._extractor.dimension), np.float32)
            yield batch, out
            start = stop

    def _run(self, batch: tuple[list[_Input], FloatArray]) -> None:
        inputs, out = batch
        self._extractor.run([one.pixels for _, one in inputs], out)
        if not np.isfinite(out).all():
            raise self._not_finite(inputs, out)

    def _not_finite(self, inputs: list[_Input], out: FloatArray) -> FeatureError:
        """Return the error for the first of some inputs whose features are not finite."""
        row = int(np.isfinite(out).all(axis=1).argmin())
        parts = zip(self._extractor.layouts, self._extractor.split(out[[row]]), strict=True)
        layers = ", ".join(layout.layer for layout, X in parts if not np.isfinite(X).all())
        place = self.images[inputs[row][0]].place
        path = file_of(self._sources[place])
        return FeatureError(
            path,
            f"{'' if path else f'image {place}: '}the network gives NaN or infinite features of "
            f"{layers}: it overflows or divides by zero; take another backbone or other layers, "
            "or leave the image out if no other has this fault",
        )

    def _inputs(self, threads: ThreadPoolExecutor) -> Iterator[_Input]:
        extractor = self._extractor
        loaded = extractor.preparation.load_many(
            self._sources,
            workers=threads,
            # Decoding threads read local files themselves, which saves a change of threads.
            readers=extractor.readers if any(map(is_url, self._sources)) else None,
            ahead=AHEAD * extractor.cores if extractor.geometry.tiling is None else 2,
            identify=True,
        )
        for place, image in enumerate(loaded):
            try:
                if isinstance(image, ImageError):
                    raise image
                number = len(self.images)
                assert image.thumbnail is not None
                self.images.append(
                    ImageRecord(
                        place,
                        image.sha256,
                        image.original_size,
                        image.thumbnail,
                        tuple(map(float, extractor.preparation.appearance(image))),
                    )
                )
                for network_input in extractor.preparation.inputs(image, self._augmentation):
                    yield number, network_input
            except ImageError as error:
                if not self._skip_unreadable:
                    raise
                self.skipped.append(error)
            if self._progress:
                self._progress("Extracting features", place + 1, len(self._sources))
