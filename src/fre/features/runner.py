"""The network that turns images into features."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fre.features.layout import FeatureLayout
from fre.features.network import FEATURES
from fre.images.geometry import Geometry
from fre.images.preparation import Preparation
from fre.images.roi import Roi
from fre.runtimes.runtime import Runtime, open_runtime
from fre.types import FloatArray

BATCH = 4
"""Images that a thread takes at a time."""


READERS = 4
"""Threads that fetch what is no local file."""


AHEAD = 4
"""Images for each core that are read before the network asks for them."""


class FeatureRunner:
    """Images to features, by a network that is given as it is: all that a worker needs.

    Args:
        model: a serialised ONNX model, from `fre.features.network.feature_model`.
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
        self.preparation = Preparation(geometry, roi)
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
