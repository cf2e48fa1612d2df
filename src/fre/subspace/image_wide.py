"""An image-wide subspace by its closed form, and what it says of images that are left out of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fre.subspace.crossfit import extrapolate
from fre.subspace.incremental import SubspaceStatistics
from fre.subspace.pca import Gram, Subspace
from fre.types import FloatArray

__all__ = ["ImageWide", "coordinates_of", "fit_image_wide"]


@dataclass(frozen=True)
class ImageWide:
    """A subspace and its calibration.

    Attributes:
        subspace: of all features.
        energies: float32 (n, P), squared residuals at each location, as if each feature had been
            left out of the fit.
        statistics: from which the subspace follows.
        coordinates: float32 (n, r), of each feature along their basis, from their mean; ``None``
            if they have lost a part of the features.
    """

    subspace: Subspace
    energies: FloatArray
    statistics: SubspaceStatistics
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
) -> ImageWide:
    """Fit to all features, and cross-fit their residuals.

    Args:
        X: float32 (n, D), contiguous, a feature a row, flattened from (channels, P).
        channels: number of channels.
        folds: the rows of each fold; two folds or more, none empty.
        variance: share of the energy that the subspace keeps.
        capacity: directions to keep in the statistics.
        rank: a fixed number of dimensions instead of a share.
        at_most: their limit.

    Raises:
        OptionError: ``variance`` or ``rank`` is out of range.
    """
    gram = Gram(X)
    statistics = SubspaceStatistics.of_gram(gram, capacity=capacity)
    subspace = statistics.cut(variance=variance, rank=rank, at_most=at_most)
    energies = subspace.energies(X, channels)
    for rows, residuals in gram.cross_fit(
        folds, channels=channels, variance=variance, rank=rank, at_most=at_most
    ):
        energies[rows] = extrapolate(
            residuals, energies[rows], fitted_on=len(X) - len(rows), of=len(X)
        )
    return ImageWide(subspace, energies, statistics, coordinates_of(gram, statistics))


def coordinates_of(gram: Gram, statistics: SubspaceStatistics) -> FloatArray | None:
    """`ImageWide.coordinates` of statistics that were made of these inner products."""
    return None if statistics.lost else gram.coordinates(statistics.rank).astype(np.float32)
