"""A network with pooling that turns inputs into features."""

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
"""Number of inputs that a thread takes at a time."""
READERS = 4
"""Number of threads that fetch remote files."""
AHEAD = 4
"""Number of images for each core that are read ahead."""


class FeatureRunner:
    """Computes features of images with a given network, on this machine or on a Ray worker.

    Args:
        model: serialised ONNX model, from `fre.features.network.feature_model`.
        layouts: layout of each layer's features, which follow each other in a flat feature.
        geometry: how images are resized, padded or tiled for the input.
        roi: inspected region of the images; ``None`` inspects them whole.
        threads: number of threads of the network, 0 for all cores.
        readers: number of threads that fetch remote images.

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

    @property
    def preparation(self) -> Preparation:
        """How image files become inputs of the network."""
        return Preparation(self.geometry, self.roi)

    @cached_property
    def _runtime(self) -> Runtime:
        return open_runtime(self._model, [FEATURES], threads=self._threads, many=True)

    @property
    def cores(self) -> int:
        """Number of threads for `run` and all other work."""
        return self._runtime.cores

    @property
    def lanes(self) -> int:
        """Number of calls of `run` at a time."""
        return self._runtime.lanes

    def release(self) -> None:
        """Free the memory of the network, until the next run."""
        self.__dict__.pop("_runtime", None)

    @property
    def layout(self) -> FeatureLayout:
        """Layout of the features of the only layer."""
        (layout,) = self.layouts
        return layout

    @property
    def dimension(self) -> int:
        """Length of a flat feature."""
        return sum(layout.dimension for layout in self.layouts)

    def split(self, X: FloatArray) -> list[FloatArray]:
        """Return the features of each layer as views: float32 (n, D) to (n, D_l) each."""
        borders = np.cumsum([layout.dimension for layout in self.layouts])[:-1]
        return np.split(X, borders, axis=1)

    def run(
        self, images: NDArray[np.uint8] | Sequence[NDArray[np.uint8]], out: FloatArray | None = None
    ) -> FloatArray:
        """Compute features on the calling thread.

        Args:
            images: uint8 (N, H, W, 3), or N arrays (H, W, 3), at the input's size.
            out: float32 (N, D), array to fill; ``None`` makes a new one.

        Returns:
            float32 (N, D).
        """
        if out is None:
            out = np.empty((len(images), self.dimension), np.float32)
        runtime = self._runtime.lane
        # One by one: the feature maps of several inputs do not fit into a core's cache.
        for row, pixels in enumerate(images):
            runtime.run(pixels[None], out=[out[row : row + 1]])
        return out
