"""The mean residual of images that are gone, under any subspace: it follows from their statistics.

With mean m and scatter S of n images, and a subspace whose mean is m' and whose complement is W,
the mean of |W^T (x - m')|^2 over them is tr(W^T S W) / n + |W^T (m - m')|^2.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.subspaces.image_statistics import ImageStatistics
from fre.subspaces.patch import PatchStatistics, PatchSubspace
from fre.subspaces.position import PositionStatistics, PositionSubspace
from fre.subspaces.subspace import ImageSubspace

Float64: TypeAlias = NDArray[np.float64]


def mean_energies(
    statistics: ImageStatistics | PositionStatistics | PatchStatistics,
    subspace: ImageSubspace | PositionSubspace | PatchSubspace,
    channels: int,
) -> Float64:
    """The mean over some images of the squared residual at each location.

    Args:
        statistics: of the images.
        subspace: of the same kind, of these images or of others.
        channels: of the feature map.

    Returns:
        float64 (P,); of a subspace of all positions (1,), the mean over the positions as well.
        What the statistics of an image-wide subspace have discarded counts in full, spread over
        the locations as the rest is.
    """
    if isinstance(statistics, ImageStatistics):
        assert isinstance(subspace, ImageSubspace)
        return _image_wide(statistics, subspace, channels)
    if isinstance(statistics, PositionStatistics):
        assert isinstance(subspace, PositionSubspace)
        return _by_position(statistics, subspace.mean, subspace.complement.astype(np.float64))
    assert isinstance(subspace, PatchSubspace)
    complement = subspace.complement.astype(np.float64)
    return _by_position(statistics.pooled, subspace.mean[None], complement[None])


def _by_position(statistics: PositionStatistics, mean: Float64, complement: Float64) -> Float64:
    """Of means (P, C) and complements (P, C, r)."""
    spread = np.sum(np.matmul(statistics.scatter, complement) * complement, axis=(1, 2))
    gap = np.matmul((statistics.mean - mean)[:, None, :], complement)[:, 0]
    return np.asarray(spread / statistics.n + np.square(gap).sum(axis=1))


def _image_wide(statistics: ImageStatistics, subspace: ImageSubspace, channels: int) -> Float64:
    V = subspace.basis
    # The factors of the scatter, and the gap between the means as one more of them.
    factors = np.empty((statistics.dimension, statistics.rank + 1))
    np.multiply(statistics.basis, statistics.singular_values, out=factors[:, :-1])
    factors[:, -1] = (statistics.mean - subspace.mean) * np.sqrt(statistics.n)
    codes = V.T @ factors
    locations = statistics.dimension // channels
    energies = np.zeros(locations)
    for start in range(0, statistics.dimension, locations):
        part = slice(start, start + locations)
        energies += np.square(factors[part] - V[part] @ codes).sum(axis=1)
    total = float(energies.sum())
    share = energies / total if total > 0 else np.full(locations, 1 / locations)
    return np.asarray((energies + statistics.discarded * share) / statistics.n)
