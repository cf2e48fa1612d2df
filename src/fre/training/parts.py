"""Parts of a detector: one subspace, or one for each location."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeAlias

from fre.features.layout import FeatureLayout
from fre.scoring.graph import LayerSubspace
from fre.subspaces.image_statistics import ImageStatistics, block_rows
from fre.subspaces.patch import PatchStatistics
from fre.subspaces.position import PositionStatistics
from fre.types import FloatArray, MaskArray

Scope: TypeAlias = Literal["image", "position", "patch"]


PartStatistics: TypeAlias = ImageStatistics | PositionStatistics | PatchStatistics


BLOCK_ROWS = 128
"""Features of positions that are absorbed at once: of more, their copies would take more memory
than the statistics."""


KINDS: dict[Scope, type[PartStatistics]] = {
    "image": ImageStatistics,
    "position": PositionStatistics,
    "patch": PatchStatistics,
}


@dataclass(frozen=True)
class Part:
    """One subspace, or one for each position.

    Attributes:
        layout: the layer, and how it is pooled.
        scope: of the subspaces.
        places: bool (P,), the locations that are looked at; ``None`` is all.
    """

    layout: FeatureLayout
    scope: Scope
    places: MaskArray | None = None

    @property
    def name(self) -> str:
        """What tells it apart from other parts of a detector."""
        return part_name(self.layout.layer, self.scope, self.layout.pool)

    def maker(self, capacity: int) -> Callable[[FloatArray], PartStatistics]:
        """What makes statistics of its features, float32 (n, D)."""
        if self.scope == "image":
            return partial(ImageStatistics.of, capacity=capacity)
        if self.scope == "position":
            return partial(PositionStatistics.of, grid=self.layout.pooled)
        places = None if self.places is None or not self.places.any() else self.places
        return partial(PatchStatistics.of, grid=self.layout.pooled, places=places)

    def block(self, capacity: int) -> int:
        """How many of its features are absorbed at once."""
        return block_rows(capacity) if self.scope == "image" else BLOCK_ROWS


def part_name(layer: str, scope: Scope, pool: int) -> str:
    """The name of the part of that layer, scope and pooling."""
    return f"{layer}/{scope}/{pool}"


def fitted(
    statistics: PartStatistics,
    *,
    variance: float,
    rank: int | None,
    at_most: int | None,
    prior: float,
) -> LayerSubspace:
    """The subspace that follows from some statistics.

    Args:
        statistics: of a part.
        variance: share of the energy to keep.
        rank: a fixed number of dimensions of an image-wide subspace instead.
        at_most: their limit.
        prior: weight of the neighbourhood of a position, in images.

    Raises:
        OptionError: ``variance`` or ``rank`` is out of range.
    """
    if isinstance(statistics, ImageStatistics):
        return statistics.cut(variance=variance, rank=rank, at_most=at_most)
    return statistics.fit(variance=variance, prior=prior)
