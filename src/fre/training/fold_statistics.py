"""Statistics of each fold, accumulated batch by batch, so that features need not be kept.

Images are dealt into folds before any is read. The statistics of all images, and of all folds but
one, are sums over folds. So one pass over the images is enough for the subspaces of a detector and
of its cross-fit. Statistics from other machines, or from before an interruption, add up as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.errors import ModelFileError, OptionError
from fre.features.layout import FeatureLayout
from fre.subspaces.accumulator import Accumulator
from fre.subspaces.cross_fit import extrapolate, leave_one_fold_out, merged
from fre.subspaces.position import PositionStatistics
from fre.subspaces.protocols import FitOptions, Statistics, Subspace
from fre.training.parts import KINDS, Part
from fre.types import FloatArray, Progress


class FoldStatistics:
    """The statistics of each part for each fold.

    Args:
        parts: parts of the detector.
        layouts: layouts of the added features: without pooling, or pooled as the parts are.
        folds: number of folds.
        coarse: number of folds of parts with statistics of a fixed size; ``folds``, if ``None``.
        leave_one_out: names of parts whose images are left out one by one; they need no folds.
        capacity: directions that image-wide statistics keep.

    Attributes:
        rows: (folds,), number of features of each fold.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        layouts: Sequence[FeatureLayout],
        *,
        folds: int,
        capacity: int,
        coarse: int | None = None,
        leave_one_out: Collection[str] = (),
    ) -> None:
        self.parts = tuple(parts)
        self.layouts = tuple(layouts)
        self.capacity = capacity
        self.coarse = folds if coarse is None else coarse
        self.leave_one_out = frozenset(leave_one_out)
        self.rows = np.zeros(folds, np.intp)
        self._folds = [
            [self._accumulator(part) for _ in range(self.folds_of(part))] for part in self.parts
        ]

    def folds_of(self, part: Part) -> int:
        """Return the number of a part's folds; fold k is in the one of number k modulo it."""
        if part.name in self.leave_one_out:
            return 1
        return self.coarse if part.fixed_size else len(self.rows)

    def _accumulator(self, part: Part, **restored: Any) -> Accumulator[Any]:
        capacity = self.capacity
        return Accumulator(part.statistics_of(capacity), block=part.block(capacity), **restored)

    def empty(self) -> FoldStatistics:
        """Return statistics of the same parts and folds, without any feature."""
        return FoldStatistics(
            self.parts,
            self.layouts,
            folds=len(self.rows),
            capacity=self.capacity,
            coarse=self.coarse,
            leave_one_out=self.leave_one_out,
        )

    def add(self, X: FloatArray, fold: NDArray[np.intp]) -> None:
        """Add features.

        Args:
            X: float32 (b, D), of all layers.
            fold: (b,), the fold of each row.
        """
        self.rows += np.bincount(fold, minlength=len(self.rows))
        for part, accumulators in zip(self.parts, self._folds, strict=True):
            features = part.features(X, self.layouts)
            own = fold % len(accumulators)
            for number in np.unique(own):
                accumulators[number].add(np.ascontiguousarray(features[own == number]))

    def statistics(self) -> list[dict[int, Statistics]]:
        """Return, for each part, the statistics of each fold that has features."""
        return [
            {
                number: accumulator.result()
                for number, accumulator in enumerate(accumulators)
                if self.rows[number :: len(accumulators)].any()
            }
            for accumulators in self._folds
        ]

    def merge(self, *others: FoldStatistics) -> FoldStatistics:
        """Return the statistics of all features of this object and others, which do not change.

        Features that wait for a full block are accumulated, as statistics cost less to store.

        Raises:
            OptionError: another has other parts or folds.
        """
        total = self.empty()
        everything = (self, *others)
        for each in everything:
            names = [part.name for part in each.parts]
            if names != [part.name for part in self.parts] or len(each.rows) != len(self.rows):
                raise OptionError("only statistics of the same parts and folds add up")
            total.rows += each.rows
        by_part = zip(*(each.statistics() for each in everything), strict=True)
        for part, accumulators, found in zip(self.parts, total._folds, by_part, strict=True):
            for number in range(len(accumulators)):
                if present := [by_fold[number] for by_fold in found if number in by_fold]:
                    accumulators[number] = self._accumulator(part, absorbed=merged(present))
        return total

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return arrays to store, which `restore` reads. Nothing is rounded."""
        arrays: dict[str, NDArray[Any]] = {"rows": self.rows}
        for part, accumulators in zip(self.parts, self._folds, strict=True):
            for number, accumulator in enumerate(accumulators):
                name = f"{number}/{part.name}"
                if accumulator.pending is not None:
                    arrays[f"{name}/pending"] = accumulator.pending
                if accumulator.absorbed is not None:
                    stored = accumulator.absorbed.to_arrays()
                    arrays |= {f"{name}/{key}": values for key, values in stored.items()}
        return arrays

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Resume from the arrays that `to_arrays` returned for the same parts and folds.

        Raises:
            ModelFileError: the arrays are damaged, or of other parts or folds.
        """
        if "rows" not in arrays or arrays["rows"].shape != self.rows.shape:
            raise ModelFileError("the statistics are of another training, or damaged")
        rows = arrays["rows"]
        # All of it, or none: half-damaged statistics must not be resumed.
        folds = [
            [
                self._restored(arrays, f"{number}/{part.name}/", part, int(rows[number::k].sum()))
                for number in range(k)
            ]
            for part in self.parts
            for k in [self.folds_of(part)]
        ]
        self._folds, self.rows = folds, rows.copy()

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
        return self._accumulator(part, absorbed=absorbed, pending=pending)

    def fit(
        self, options: FitOptions, progress: Progress | None = None
    ) -> tuple[list[Statistics], list[Subspace], list[Subspace]]:
        """Fit each part to all features.

        Args:
            options: options of the fit.
            progress: called after each part.

        Returns:
            For each part: the statistics of all features; their subspace; and what `held_out`
            takes, the same or the subspaces of all features but one.
        """
        totals = [merged([*by_fold.values()]) for by_fold in self.statistics()]
        own: list[Subspace] = []
        left_out: list[Subspace] = []
        for part, total in zip(self.parts, totals, strict=True):
            if part.name in self.leave_one_out:
                assert isinstance(total, PositionStatistics)
                subspaces: tuple[Subspace, Subspace] = total.fit_left_out(options)
            else:
                subspaces = (total.fit(options),) * 2
            own.append(subspaces[0])
            left_out.append(subspaces[1])
            if progress:
                progress("Fitting", len(own), len(totals))
        return totals, own, left_out

    def held_out(
        self, own: Sequence[Subspace], options: FitOptions
    ) -> Iterator[tuple[int, HeldOutSubspaces]]:
        """Yield each fold and the subspaces that its held-out residuals follow from.

        The subspaces of one fold exist at a time. Folds come in such an order that a part with
        fewer folds is fitted once for each of its folds.

        Args:
            own: the third of `fit`.
            options: options of the fit; a fixed rank is cut to what all but a fold allow.

        Raises:
            OptionError: all features are in one fold.
        """
        lenient = replace(options, exact_rank=False)
        present = np.flatnonzero(self.rows)
        order = present[np.lexsort((present, present % self.coarse))]
        apart: list[Iterator[tuple[int, Subspace] | None]] = []
        for part, by_fold in zip(self.parts, self.statistics(), strict=True):
            if part.name in self.leave_one_out:
                apart.append(repeat(None))
                continue
            own_folds = [int(fold) % self.folds_of(part) for fold in order]
            distinct = list(dict.fromkeys(own_folds))
            others = leave_one_fold_out([by_fold[number] for number in distinct])
            apart.append(_repeated(own_folds, others, lenient))
        total = int(self.rows.sum())
        for fold in order:
            found = [next(subspaces) for subspaces in apart]
            yield int(fold), HeldOutSubspaces(self.parts, self.layouts, [*own], found, total)


def _repeated(
    folds: Sequence[int], others: Iterator[Statistics], options: FitOptions
) -> Iterator[tuple[int, Subspace]]:
    """Yield, for each fold, rows and subspace of the others; equal folds follow one another."""
    last: int | None = None
    found: tuple[int, Subspace] | None = None
    for fold in folds:
        if fold != last or found is None:
            statistics = next(others)
            found, last = (statistics.n, statistics.fit(options)), fold
        yield found


@dataclass(frozen=True)
class HeldOutSubspaces:
    """Subspaces fitted to all images and to all folds but one, for held-out residuals.

    Attributes:
        parts: parts of the detector.
        layouts: layouts of the features that are given, as for `FoldStatistics`.
        own: the subspace of all images, for each part; or the subspaces of all images but one.
        others: for each part the subspace of all folds but one, and its number of features; or
            ``None``, if ``own`` leaves each image out.
        total: number of features of all images.
    """

    parts: tuple[Part, ...]
    layouts: tuple[FeatureLayout, ...]
    own: list[Subspace]
    others: list[tuple[int, Subspace] | None]
    total: int

    def residuals(self, X: FloatArray) -> list[FloatArray]:
        """Return, for each part, the held-out squared residuals of features of the fold.

        Args:
            X: float32 (b, D), of all layers.

        Returns:
            float32 (b, P) for each part.
        """
        found = []
        for part, own, others in zip(self.parts, self.own, self.others, strict=True):
            features, channels = part.features(X, self.layouts), part.layout.channels
            residuals = own.squared_residuals(features, channels)
            if others is not None:
                n, subspace = others
                apart = subspace.squared_residuals(features, channels)
                residuals = extrapolate(apart, residuals, fitted_on=n, of=self.total)
            found.append(residuals)
        return found
