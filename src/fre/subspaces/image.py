"""An image-wide subspace by its closed form, and what it says of images that are left out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.subspaces.cross_fit import extrapolate, sums_without
from fre.subspaces.gram import Gram
from fre.subspaces.image_statistics import Accumulator, ImageStatistics, block_rows
from fre.subspaces.subspace import ImageSubspace
from fre.types import FloatArray

EXACT_ROWS = 3072
"""Features whose inner products are decomposed whole, which costs as the cube of their number; of
more features the strongest directions are kept as they are absorbed, which costs as the number."""


@dataclass(frozen=True)
class ImageWide:
    """A subspace and its calibration.

    Attributes:
        subspace: of all features.
        energies: float32 (n, P), squared residuals at each location, as if each feature had been
            left out of the fit.
        statistics: from which the subspace follows.
        coordinates: float32 (n, r), of each feature along their basis, from their mean; ``None``
            if they have lost a part of the features, or there are more of them than directions.
    """

    subspace: ImageSubspace
    energies: FloatArray
    statistics: ImageStatistics
    coordinates: FloatArray | None


def fit_image_wide(
    X: FloatArray,
    channels: int,
    folds: list[NDArray[np.intp]],
    *,
    variance: float,
    capacity: int,
    rank: int | None = None,
    at_most: int | None = None,
    calibrated: Callable[[int], None] | None = None,
) -> ImageWide:
    """Fit to all features, and cross-fit their residuals.

    Args:
        X: float32 (n, D), a feature a row, flattened from (channels, P).
        channels: number of channels.
        folds: the rows of each fold; two folds or more, none empty.
        variance: share of the energy that the subspace keeps.
        capacity: directions to keep in the statistics; more, if the subspace has more.
        rank: a fixed number of dimensions instead of a share.
        at_most: their limit.
        calibrated: called with the number of features of each fold that was cross-fitted.

    Raises:
        OptionError: ``variance`` or ``rank`` is out of range.
    """
    cut: dict[str, Any] = {"variance": variance, "at_most": at_most}
    if len(X) <= EXACT_ROWS:
        gram = Gram(X)
        needed = gram.rank(rank=rank, **cut)
        statistics = ImageStatistics.of_gram(gram, capacity=max(capacity, needed))
        coordinates = coordinates_of(gram, statistics)
        held_out = gram.cross_fit(folds, channels=channels, rank=rank, **cut)
    else:
        parts = [_absorbed(X, rows, capacity) for rows in folds]
        statistics = parts[0].merge(*parts[1:])
        coordinates = None
        held_out = _cross_fit(X, channels, folds, parts, rank, cut)
    subspace = statistics.cut(rank=rank, **cut)
    energies = subspace.squared_residuals(X, channels)
    for rows, residuals in held_out:
        energies[rows] = extrapolate(
            residuals, energies[rows], fitted_on=len(X) - len(rows), of=len(X)
        )
        if calibrated:
            calibrated(len(rows))
    return ImageWide(subspace, energies, statistics, coordinates)


def coordinates_of(gram: Gram, statistics: ImageStatistics) -> FloatArray | None:
    """`ImageWide.coordinates` of statistics that were made of these inner products."""
    return None if statistics.lost else gram.coordinates(statistics.rank).astype(np.float32)


def _cross_fit(
    X: FloatArray,
    channels: int,
    folds: list[NDArray[np.intp]],
    parts: list[ImageStatistics],
    rank: int | None,
    cut: dict[str, Any],
) -> Iterator[tuple[NDArray[np.intp], FloatArray]]:
    """`fre.subspaces.gram.Gram.cross_fit`, from the statistics of each fold."""
    for rows, rest in zip(folds, sums_without(parts), strict=True):
        allowed = None if rank is None else min(rank, rest.rank)
        yield rows, rest.cut(rank=allowed, **cut).squared_residuals(X[rows], channels)


def _absorbed(X: FloatArray, rows: NDArray[np.intp], capacity: int) -> ImageStatistics:
    of = partial(ImageStatistics.of, capacity=capacity)
    accumulator = Accumulator(of, block=block_rows(capacity))
    for start in range(0, len(rows), block_rows(capacity)):
        accumulator.add(X[rows[start : start + block_rows(capacity)]])
    return accumulator.result()
