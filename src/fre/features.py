"""Run the images through the left part of the graph: one pass, one preallocated matrix."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from fre.backbones import Backbone
from fre.cores import available_cores
from fre.duplicates import duplicate_thumbnail
from fre.errors import DatasetError, ImageError
from fre.graph import FEATURES, FeatureLayout, feature_model, pooling_matrix
from fre.images import ImageSource, iter_loaded
from fre.runtime import open_runtime
from fre.types import FloatArray, Progress

__all__ = ["FeatureExtractor", "Features", "combined_digest", "pool_features"]

BATCH = 16


@dataclass(frozen=True)
class Features:
    """What a backbone says of a set of images.

    Attributes:
        X: float32 (n, D), a flat feature a row.
        sha256: digest of each image's file (of its pixels, for an array), in hexadecimal.
        skipped: errors of the images that were left out.
        rows: (n,), the place of each image among those that were asked for; ``None`` is all.
        thumbnails: uint8 (n, 64, 64), to find near-duplicates by; ``None`` if not made.
    """

    X: FloatArray
    sha256: tuple[str, ...]
    skipped: tuple[ImageError, ...]
    rows: tuple[int, ...] | None = None
    thumbnails: NDArray[np.uint8] | None = None


class FeatureExtractor:
    """A backbone up to some of its layers, with pooling, at a fixed input size.

    Args:
        backbone: the frozen network.
        layers: name of the layer, or names of several.
        pool: edge of the pooling windows, in locations of the feature map.
        size: height and width of the input.
        threads: threads of the network; 0 takes all cores.

    Attributes:
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
        threads: int = 0,
    ) -> None:
        self.backbone = backbone
        self.size = size
        names = [layers] if isinstance(layers, str) else list(layers)
        self.network = backbone.graph(names, size)
        # The network itself knows best how large its feature maps are.
        probe = open_runtime(self.network.SerializeToString(), names, threads=threads)
        shapes = [output.shape for output in probe.run(np.zeros((1, 3, *size), np.float32))]
        self.layouts = tuple(
            FeatureLayout(name, shape[1], (shape[2], shape[3]), pool)
            for name, shape in zip(names, shapes, strict=True)
        )
        model = feature_model(self.network, backbone.normalisation, self.layouts, size)
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
        skip_unreadable: bool = False,
        progress: Progress | None = None,
    ) -> Features:
        """Read images and compute their features.

        Args:
            sources: files, or arrays, uint8 (H, W, 3).
            skip_unreadable: leave out images that can't be read, instead of stopping.
            progress: called after each image.

        Raises:
            ImageError: an image can't be read.
            DatasetError: none of them can.
        """
        X = np.empty((len(sources), self.dimension), np.float32)
        batch: list[NDArray[np.uint8]] = []
        digests: list[str] = []
        skipped: list[ImageError] = []
        rows: list[int] = []
        thumbnails: list[NDArray[np.uint8]] = []

        def flush() -> None:
            if batch:
                X[len(digests) - len(batch) : len(digests)] = self.run(np.stack(batch))
                batch.clear()

        loaded = iter_loaded(
            sources, self.size, workers=available_cores(), ahead=2 * BATCH, digest=True
        )
        for done, image in enumerate(loaded, start=1):
            if isinstance(image, ImageError):
                if not skip_unreadable:
                    raise image
                skipped.append(image)
            else:
                batch.append(image.pixels)
                digests.append(image.sha256)
                rows.append(done - 1)
                thumbnails.append(duplicate_thumbnail(image.pixels))
            if len(batch) == BATCH:
                flush()
            if progress:
                progress("Extracting features", done, len(sources))
        flush()
        if sources and not digests:
            raise DatasetError(f"none of the {len(sources)} images can be read: {skipped[0]}")
        return Features(
            X[: len(digests)],
            tuple(digests),
            tuple(skipped),
            tuple(rows),
            np.stack(thumbnails) if thumbnails else None,
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
