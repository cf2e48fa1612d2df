"""Features of all images in one preallocated matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np
import onnx
from numpy.typing import NDArray

from fre.backbones import Backbone
from fre.errors import DatasetError, OptionError
from fre.features.layout import FeatureLayout
from fre.features.network import feature_model
from fre.features.runner import FeatureRunner
from fre.features.stream import FeatureBatch, FeatureStream
from fre.features.table import Features
from fre.images.augmentation import Augmentation
from fre.images.decode import ImageSource, image_size
from fre.images.preparation import Preparation
from fre.images.roi import cells, too_small_a_region
from fre.runtimes.runtime import open_runtime
from fre.types import Progress


class FeatureExtractor(FeatureRunner):
    """A backbone up to some of its layers, with pooling, at a fixed input size.

    Args:
        backbone: frozen network.
        layers: name of the layer, or names of several.
        preparation: how images become inputs.
        pool: side of the pooling windows, in locations of the feature map.
        threads: number of threads of the network, 0 for all cores.

    Attributes:
        inspected: bool (H, W), inspected pixels of the input; ``None`` is all of them.
        network: graph of the backbone up to the deepest layer.

    Raises:
        BackboneError: an unknown layer, or a size that the network can't take.
        OptionError: ``pool`` does not fit the feature map.
    """

    network: onnx.ModelProto

    def __init__(
        self,
        backbone: Backbone,
        layers: str | Sequence[str],
        preparation: Preparation,
        *,
        pool: int = 1,
        threads: int = 0,
    ) -> None:
        self.backbone = backbone
        geometry, roi = preparation.geometry, preparation.roi
        size = geometry.size
        # Tiles show different parts of the region, which is applied before an image is cut.
        self.inspected = None if roi is None or geometry.tiling else roi.at_input(geometry)
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
        """Return the serialised network with pooling, as `FeatureRunner` takes it."""
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
            skip_unreadable: skip images that can't be read, instead of stopping.
            progress: called after each image.

        Raises:
            ImageError: an image can't be read, or the region of interest does not fit it.
            DatasetError: none of the images can be read.
        """
        # As if all images were like the first, whose tiles are counted.
        reserved = max(1, self.rows(sources, augmentation))
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
            if stop > reserved:  # else the stream wrote it there
                X[filled:stop] = batch.X
            filled = stop
            batches.append(replace(batch, X=batch.X[:0]))
        if sources and not stream.images:
            raise DatasetError(
                f"none of the {len(sources)} images can be read: {stream.skipped[0]}"
            )

        return Features(
            X[:filled],
            tuple(image.sha256 for image in stream.images),
            tuple(stream.skipped),
            tuple(image.place for image in stream.images),
            np.stack([image.thumbnail for image in stream.images]) if stream.images else None,
            _joined(batches, "image"),
            _joined(batches, "tile"),
            _joined(batches, "copy"),
            tuple(image.size for image in stream.images),
            tuple(source_name(sources[image.place]) for image in stream.images),
            np.array([image.appearance for image in stream.images]),
        )

    def rows(self, sources: Sequence[ImageSource], augmentation: Augmentation | None = None) -> int:
        """Return the number of feature rows, if all images have the size of the first.

        Raises:
            ImageError: the first image can't be read to count its tiles.
        """
        copies = 1 if augmentation is None else 1 + augmentation.copies
        tiles = 1
        if self.geometry.tiling is not None and sources:
            tiles = self.geometry.count(image_size(sources[0]))
        return len(sources) * copies * tiles


def _joined(batches: Sequence[FeatureBatch], column: str) -> NDArray[np.intp]:
    return np.concatenate([np.empty(0, np.intp), *(getattr(batch, column) for batch in batches)])


def source_name(source: ImageSource) -> str:
    """Return the file name of an image; empty for an array."""
    return "" if isinstance(source, np.ndarray) else PurePath(str(source)).name
