"""Cross-fitting: the squared residuals that training images would have if they were new.

Under the subspace of all n images the residual of a training image is too small. Under a subspace
fitted without its fold, to m < n images, it is too large, as that subspace saw less than the final
one. The residual of a new image lies between the two; `extrapolate` says where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError
from fre.subspaces.protocols import FitOptions, Statistics, Subspace
from fre.subspaces.protocols import S as AnyStatistics
from fre.types import FloatArray

CHEAP_FOLDS = 20
"""More folds than these change little."""

CHEAP_IMAGES = 8000
"""Images that all the decompositions of a cross-fit may have in sum, beyond the folds asked for."""


def cheap_folds(n: int, asked: int) -> int:
    """Return a number of folds for subspaces whose cross-fit decomposes n x n inner products.

    Args:
        n: number of images.
        asked: smallest number of folds.
    """
    return max(asked, min(CHEAP_FOLDS, CHEAP_IMAGES // n))


def folds_of(n: int, folds: Sequence[NDArray[np.intp]]) -> NDArray[np.intp]:
    """Return the fold of each of n images: (n,).

    Args:
        n: number of images.
        folds: images of each fold.
    """
    fold_of = np.zeros(n, np.intp)
    for number, fold in enumerate(folds):
        fold_of[fold] = number
    return fold_of


S = TypeVar("S", bound="Additive")


class Additive(Protocol):
    """Statistics that add up."""

    def merge(self: S, *others: S) -> S:
        """Return the statistics of all sets of images."""


def sums_without(folds: Sequence[S]) -> Iterator[S]:
    """Yield, for each fold in order, the statistics of all other folds.

    Subtracting one fold from the sum of all would be wrong: a subspace cut to its strongest
    directions leans towards each image, and subtraction does not undo that. So sums of halves of
    the folds are merged once and shared: about k log2 k merges for k folds.

    Args:
        folds: statistics of each fold.

    Raises:
        OptionError: there is only one.
    """
    if len(folds) < 2:
        raise OptionError("cross-fitting needs images in two folds or more")
    return _sums_without(folds, None)


def merged(statistics: Sequence[AnyStatistics]) -> AnyStatistics:
    """Return the statistics of all sets of features."""
    first, *rest = statistics
    return first.merge(*rest) if rest else first


def leave_one_fold_out(folds: Sequence[AnyStatistics]) -> Iterator[AnyStatistics]:
    """Yield, for each fold, the statistics of all other folds.

    Raises:
        OptionError: there is only one fold.
    """
    if len(folds) < 2 or not folds[0].fixed_size:
        yield from sums_without(folds)
        return
    for held in folds:
        yield merged([fold for fold in folds if fold is not held])


@dataclass(frozen=True)
class CrossFit:
    """A subspace fitted to all features, and the held-out residuals of these.

    Attributes:
        subspace: subspace fitted to all features.
        residuals: float32 (n, P), squared residuals as if each feature had been left out.
        statistics: statistics that the subspace was fitted to; ``None`` for an autoencoder.
        coordinates: float32 (n, r), each feature along the basis of image-wide statistics, from
            their mean; ``None`` if the statistics have lost a part of the features.
    """

    subspace: Subspace
    residuals: FloatArray
    statistics: Statistics | None = None
    coordinates: FloatArray | None = None


def cross_fit(
    X: FloatArray,
    channels: int,
    folds: Sequence[NDArray[np.intp]],
    statistics_of: Callable[[FloatArray], Statistics],
    options: FitOptions,
) -> CrossFit:
    """Fit a subspace to all features, and one to all but each fold, by their statistics.

    Args:
        X: float32 (n, C * P), a feature a row.
        channels: number of channels, C.
        folds: rows of each fold; two folds or more, none empty.
        statistics_of: makes the statistics of features, float32 (b, C * P).
        options: options of the fit; a fixed rank is cut to what all but a fold allow.

    Raises:
        OptionError: ``variance`` or ``rank`` is out of range, or there is one fold only.
    """
    by_fold = [statistics_of(X[rows]) for rows in folds]
    lenient = replace(options, exact_rank=False)
    held_out = (
        (rows, others.fit(lenient).squared_residuals(X[rows], channels))
        for rows, others in zip(folds, leave_one_fold_out(by_fold), strict=True)
    )
    total = merged(by_fold)
    subspace = total.fit(options)
    return CrossFit(subspace, new_residuals(X, channels, subspace, held_out), total)


def new_residuals(
    X: FloatArray,
    channels: int,
    subspace: Subspace,
    held_out: Iterable[tuple[NDArray[np.intp], FloatArray]],
) -> FloatArray:
    """Return the squared residuals that features would have if they were new: float32 (n, P).

    Args:
        X: float32 (n, C * P), the features that the subspace was fitted to.
        channels: number of channels, C.
        subspace: subspace fitted to all features.
        held_out: for each fold its rows, and their squared residuals under the other folds'
            subspace.
    """
    residuals = subspace.squared_residuals(X, channels)
    for rows, apart in held_out:
        residuals[rows] = extrapolate(
            apart, residuals[rows], fitted_on=len(X) - len(rows), of=len(X)
        )
    return residuals


def _sums_without(folds: Sequence[S], outside: S | None) -> Iterator[S]:
    if len(folds) == 1:
        assert outside is not None
        yield outside
        return
    half = len(folds) // 2
    for inside, rest in ((folds[:half], folds[half:]), (folds[half:], folds[:half])):
        first, *others = rest if outside is None else (outside, *rest)
        yield from _sums_without(inside, first.merge(*others) if others else first)


def extrapolate(held_out: FloatArray, own: FloatArray, *, fitted_on: int, of: int) -> FloatArray:
    """Squared residuals as they would be under a subspace of all images but the image itself.

    To first order the expected residual of a fit with c parameters an output is a (1 + c / m) on
    new data and a (1 - c / n) on its own data (Akaike, "Fitting autoregressive models for
    prediction", 1969; Amari and Murata, "Statistical theory of learning curves under entropic
    loss criterion", 1993). It is a line in one variable, which is 1 / m and -1 / n; the value
    wanted is the one at 1 / n. That needs neither a nor c, and holds for each image and location.

    Args:
        held_out: float32, squared residuals under a subspace of other images.
        own: float32, the same shape: of the same images under the subspace of all.
        fitted_on: m, number of the other images.
        of: n, number of all images.

    Returns:
        float32, the same shape; between ``own`` and ``held_out``, and close to the latter.
    """
    share = (of - fitted_on) / (of + fitted_on)
    return np.asarray((1 - share) * held_out + share * own, np.float32)


def check_groups(groups: Sequence[str]) -> None:
    """Refuse groups that can't be dealt into folds.

    Raises:
        OptionError: all images are of one group.
    """
    if len(set(groups)) < 2:
        raise OptionError(
            f"all {len(groups)} images are of one group, {groups[0]!r}; cross-fitting needs two "
            "groups or more"
        )


def make_folds(
    n: int, *, folds: int = 5, seed: int = 0, groups: Sequence[str] | None = None
) -> list[NDArray[np.intp]]:
    """A seeded permutation of n images, dealt into folds of nearly equal size.

    Args:
        n: number of images, at least 2.
        folds: the number of folds; n, if there are fewer images.
        seed: random seed of the permutation.
        groups: (n,), labels; images of one group are in one fold. The largest groups are dealt
            first, each to the fold that is smallest by then; there are no more folds than groups.

    Returns:
        For each fold, the indices of its images, ascending.

    Raises:
        OptionError: all images are of one group.
    """
    if groups is not None:
        return _grouped_folds(groups, folds, seed)
    order = np.random.default_rng(seed).permutation(n)
    return [np.sort(part) for part in np.array_split(order, min(folds, n))]


def _grouped_folds(groups: Sequence[str], folds: int, seed: int) -> list[NDArray[np.intp]]:
    check_groups(groups)
    labels, of_image, sizes = np.unique(np.array(groups), return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    fold_of = np.empty(len(labels), np.intp)
    filled = np.zeros(min(folds, len(labels)), np.intp)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        fold_of[group] = np.argmin(filled)
        filled[fold_of[group]] += sizes[group]
    return [np.flatnonzero(fold_of[of_image] == fold) for fold in range(len(filled))]
