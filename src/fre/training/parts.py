"""A part of a detector: one layer, one pooling, one scope, and its statistics and subspace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from fre.features.layout import FeatureLayout, pool_features
from fre.subspaces.image_statistics import ImageStatistics, block_rows
from fre.subspaces.patch import PatchStatistics
from fre.subspaces.position import PositionStatistics
from fre.subspaces.position_left_out import leaves_one_out
from fre.subspaces.protocols import FitOptions, Scope, Statistics
from fre.types import FloatArray, MaskArray

BLOCK_ROWS = 128
"""Features of positions that are accumulated at once. Copies of more would take more memory than
the statistics."""

KINDS: dict[Scope, type[Statistics]] = {
    "image": ImageStatistics,
    "position": PositionStatistics,
    "patch": PatchStatistics,
}
"""The statistics of each scope."""


@dataclass(frozen=True)
class Part:
    """A part of a detector: its features, and the scope of its subspace.

    Attributes:
        layout: layer, grid and pooling of the features.
        scope: scope of the subspace.
        locations: bool (P,), the inspected locations; ``None`` is all.
    """

    layout: FeatureLayout
    scope: Scope
    locations: MaskArray | None = None

    @property
    def name(self) -> str:
        """The name that tells the part from other parts of a detector."""
        return part_name(self.layout.layer, self.scope, self.layout.pool)

    @property
    def fixed_size(self) -> bool:
        """Whether its statistics take the same memory for any number of images."""
        return KINDS[self.scope].fixed_size

    def leaves_one_out(self, n: int, options: FitOptions) -> bool:
        """Return whether n images, of one row each, are left out one by one."""
        return self.scope == "position" and leaves_one_out(n, self.layout.channels, options)

    def features(self, X: FloatArray, layouts: Sequence[FeatureLayout]) -> FloatArray:
        """Return the part's features: float32 (n, D_part), contiguous.

        Args:
            X: float32 (n, D), features of all layers, one layer after the other.
            layouts: layouts of these layers, without pooling or pooled as the part is.
        """
        start = 0
        for given in layouts:
            stop = start + given.dimension
            if given.layer == self.layout.layer:
                block = X[:, start:stop]
                if given.pool != self.layout.pool:
                    block = pool_features(block, given, self.layout)
                return np.ascontiguousarray(block)
            start = stop
        raise KeyError(self.layout.layer)

    def statistics_of(self, capacity: int) -> Callable[[FloatArray], Statistics]:
        """Return the function that makes statistics of the part's features, float32 (n, D)."""
        if self.scope == "image":
            return partial(ImageStatistics.of, capacity=capacity)
        if self.scope == "position":
            return partial(PositionStatistics.of, grid=self.layout.pooled)
        nowhere = self.locations is None or not self.locations.any()
        locations = None if nowhere else self.locations
        return partial(PatchStatistics.of, grid=self.layout.pooled, locations=locations)

    def block(self, capacity: int) -> int:
        """Return how many of its features are best accumulated at once."""
        return block_rows(capacity) if self.scope == "image" else BLOCK_ROWS


def part_name(layer: str, scope: Scope, pool: int) -> str:
    """Return the name of the part of that layer, scope and pooling."""
    return f"{layer}/{scope}/{pool}"
