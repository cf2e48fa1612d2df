"""Statistics of good images, a few at a time: what training needs when features are let go of.

Images are dealt into folds before any is read. Each fold has sufficient statistics of its own for
every subspace: those of all images, and of all but one fold, are their sums. So one pass over the
images makes the subspaces that a detector has and those that it is calibrated by; statistics that
were gathered apart, on other machines or before an interruption, add up to the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import ModelFileError, OptionError
from fre.features import pool_features
from fre.graph import FeatureLayout, LayerSubspace
from fre.presets import Scope
from fre.subspace.incremental import Accumulator, SubspaceStatistics, block_rows
from fre.subspace.patch import PatchStatistics
from fre.subspace.position import PositionStatistics
from fre.types import FloatArray, MaskArray

__all__ = ["Learner", "Part", "PartStatistics", "fitted", "part_name"]

PartStatistics: TypeAlias = SubspaceStatistics | PositionStatistics | PatchStatistics

BLOCK_ROWS = 128
"""Features of positions that are absorbed at once: of more, their copies would take more memory
than the statistics."""

KINDS: dict[Scope, type[PartStatistics]] = {
    "image": SubspaceStatistics,
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
            return partial(SubspaceStatistics.of, capacity=capacity)
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


class Learner:
    """Statistics of each part for each fold.

    Args:
        parts: what is to be fitted.
        layouts: of the features that are given, without pooling or as the parts want them.
        folds: their number; 1, where nothing is calibrated.
        capacity: directions that are kept of an image-wide subspace.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        layouts: Sequence[FeatureLayout],
        *,
        folds: int,
        capacity: int,
    ) -> None:
        self.parts = tuple(parts)
        self.capacity = capacity
        self._layouts = {layout.layer: layout for layout in layouts}
        self._borders = np.cumsum([layout.dimension for layout in layouts])[:-1]
        self._folds = [
            [
                Accumulator[Any](part.maker(capacity), block=part.block(capacity))
                for part in self.parts
            ]
            for _ in range(folds)
        ]
        self.rows = np.zeros(folds, np.intp)

    def split(self, X: FloatArray) -> list[FloatArray]:
        """The features of each part: float32 (n, D), of all layers, to (n, D_part)."""
        blocks = dict(zip(self._layouts, np.split(X, self._borders, axis=1), strict=True))
        features = []
        for part in self.parts:
            given, wanted = self._layouts[part.layout.layer], part.layout
            block = blocks[wanted.layer]
            if given.pool != wanted.pool:
                block = pool_features(block, given, wanted)
            features.append(block)
        return features

    def add(self, X: FloatArray, fold: NDArray[np.intp]) -> None:
        """Take in some rows.

        Args:
            X: float32 (b, D), of all layers.
            fold: (b,), the fold of each.
        """
        features = self.split(X)
        for number in np.unique(fold):
            chosen = fold == number
            self.rows[number] += int(chosen.sum())
            for accumulator, block in zip(self._folds[number], features, strict=True):
                accumulator.add(np.ascontiguousarray(block[chosen]))

    def statistics(self) -> dict[int, list[PartStatistics]]:
        """For each fold that has images, the statistics of each part."""
        return {
            fold: [accumulator.result() for accumulator in self._folds[fold]]
            for fold in range(len(self._folds))
            if self.rows[fold]
        }

    def merge(self, *others: Learner) -> Learner:
        """A learner of all that this one and others have taken in; they stay as they are.

        Features that wait for a full block are absorbed: it costs less to store what is merged.

        Raises:
            OptionError: another has other parts or folds.
        """
        merged = Learner(
            self.parts, [*self._layouts.values()], folds=len(self._folds), capacity=self.capacity
        )
        learners = (self, *others)
        for learner in learners:
            names = [part.name for part in learner.parts]
            if names != [part.name for part in self.parts] or len(learner.rows) != len(self.rows):
                raise OptionError("only learners of the same parts and folds add up")
            merged.rows += learner.rows
        for fold, accumulators in enumerate(merged._folds):
            holders = [learner for learner in learners if learner.rows[fold]]
            for index, part in enumerate(self.parts):
                found = [learner._folds[fold][index].result() for learner in holders]
                if found:
                    accumulators[index] = Accumulator(
                        part.maker(self.capacity),
                        block=part.block(self.capacity),
                        absorbed=found[0].merge(*found[1:]) if len(found) > 1 else found[0],
                    )
        return merged

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays to store; `restore` takes them in. Nothing is rounded."""
        arrays: dict[str, NDArray[Any]] = {"rows": self.rows}
        for fold, accumulators in enumerate(self._folds):
            for part, accumulator in zip(self.parts, accumulators, strict=True):
                name = f"{fold}/{part.name}"
                if accumulator.pending is not None:
                    arrays[f"{name}/pending"] = accumulator.pending
                if accumulator.absorbed is not None:
                    stored = accumulator.absorbed.to_arrays()
                    arrays |= {f"{name}/{key}": values for key, values in stored.items()}
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Go on from what `to_arrays` stored of a learner of the same parts and folds.

        Raises:
            ModelFileError: the arrays are damaged, or of another learner.
        """
        if "rows" not in arrays or arrays["rows"].shape != self.rows.shape:
            raise ModelFileError("the statistics are of another training, or damaged")
        # All of it, or none: what is damaged half-way must not be gone on from.
        folds = [
            [self._restored(arrays, f"{fold}/{part.name}/", part, int(rows)) for part in self.parts]
            for fold, rows in enumerate(arrays["rows"])
        ]
        self._folds, self.rows = folds, arrays["rows"].copy()

    def _restored(
        self, arrays: Mapping[str, NDArray[Any]], prefix: str, part: Part, rows: int
    ) -> Accumulator[Any]:
        stored = {
            name.removeprefix(prefix): values
            for name, values in arrays.items()
            if name.startswith(prefix)
        }
        pending = stored.pop("pending", None)
        absorbed = KINDS[part.scope].from_arrays(stored) if stored else None
        found = (0 if absorbed is None else absorbed.n) + (0 if pending is None else len(pending))
        if found != rows:
            raise ModelFileError(f"{prefix} holds statistics of {found} rows, not of {rows}")
        return Accumulator(
            part.maker(self.capacity),
            block=part.block(self.capacity),
            absorbed=absorbed,
            pending=pending,
        )


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
    if isinstance(statistics, SubspaceStatistics):
        return statistics.cut(variance=variance, rank=rank, at_most=at_most)
    return statistics.fit(variance=variance, prior=prior)
