"""Statistics of good images, a few at a time: what training needs when features are let go of.

Images are dealt into folds before any is read. Each fold has sufficient statistics of its own for
every subspace: those of all images, and of all but one fold, are their sums. So one pass over the
images makes the subspaces that a detector has and those that it is calibrated by; statistics that
were gathered apart, on other machines or before an interruption, add up to the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.errors import ModelFileError, OptionError
from fre.features.layout import FeatureLayout, pool_features
from fre.subspaces.image_statistics import Accumulator
from fre.training.parts import KINDS, Part, PartStatistics
from fre.types import FloatArray


class FoldStatistics:
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

    def merge(self, *others: FoldStatistics) -> FoldStatistics:
        """A learner of all that this one and others have taken in; they stay as they are.

        Features that wait for a full block are absorbed: it costs less to store what is merged.

        Raises:
            OptionError: another has other parts or folds.
        """
        merged = FoldStatistics(
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
