"""One small subspace for all locations: what is normal anywhere on a texture.

The channels of all locations of all images are one point cloud in R^C. Where parts are not
aligned, or where a surface has no parts, a location has no meaning of its own. The sufficient
statistics are those of a single position, and add up as exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fre.subspace.position import PositionStatistics
from fre.types import FloatArray, MaskArray

__all__ = ["PatchStatistics", "PatchSubspace"]

BLOCK_BYTES = 64 * 2**20
"""Working memory for float64 copies of parts of the features."""


@dataclass(frozen=True)
class PatchSubspace:
    """An affine subspace of the channels, the same for every location.

    It is kept as its orthogonal complement, for the reasons given in `fre.subspace.position`.

    Attributes:
        n: number of images it was fitted on.
        grid: height and width of the feature map.
        mean: float64 (C,).
        complement: float16 (C, r), orthonormal columns but for rounding, weakest first; r >= 1.
        rank: dimensions of the subspace.
        kept_variance: share of the energy that it holds, in [0, 1].
    """

    n: int
    grid: tuple[int, int]
    mean: NDArray[np.float64]
    complement: NDArray[np.float16]
    rank: int
    kept_variance: float

    @property
    def channels(self) -> int:
        """Length of the vector at a location, C."""
        return int(self.complement.shape[0])

    def energies(self, X: FloatArray) -> FloatArray:
        """Squared residual at every location.

        Args:
            X: float32 (n, C * P), flattened from (channels, height, width).

        Returns:
            float32 (n, P): |W^T (x - m)|^2 for each location's vector x and the complement W.
        """
        vectors = X.reshape(len(X), self.channels, -1)
        mean = self.mean.astype(np.float32)[:, None]
        outward = self.complement.T.astype(np.float32)
        energies = np.empty((len(X), vectors.shape[2]), np.float32)
        for row, image in enumerate(vectors):
            energies[row] = np.square(outward @ (image - mean)).sum(axis=0)
        return energies


@dataclass(frozen=True)
class PatchStatistics:
    """Count, mean and scatter matrix of the vectors at all locations.

    Attributes:
        n: number of images.
        grid: height and width of the feature map.
        pooled: the statistics of all vectors, as those of a single position.
    """

    n: int
    grid: tuple[int, int]
    pooled: PositionStatistics

    @classmethod
    def of(
        cls, X: FloatArray, grid: tuple[int, int], places: MaskArray | None = None
    ) -> PatchStatistics:
        """The statistics of some images.

        Args:
            X: float32 (n, C * P), n >= 1, flattened from (channels, height, width).
            grid: height and width.
            places: bool (P,), the locations that count, one at least; ``None`` is all.
        """
        step = max(1, BLOCK_BYTES // (8 * X.shape[1]))
        first, *rest = (
            PositionStatistics.of(_vectors(X[start : start + step], grid, places), (1, 1))
            for start in range(0, len(X), step)
        )
        return cls(len(X), grid, first.merge(*rest) if rest else first)

    def merge(self, *others: PatchStatistics) -> PatchStatistics:
        """The statistics of all sets of images, exactly."""
        n = self.n + sum(part.n for part in others)
        return PatchStatistics(n, self.grid, self.pooled.merge(*(part.pooled for part in others)))

    def fit(self, *, variance: float = 0.97, prior: float = 0) -> PatchSubspace:
        """The principal subspace of all locations.

        Args:
            variance: the share of the energy to keep, in (0, 1].
            prior: not used: all locations are in it already.
        """
        fitted = self.pooled.fit(variance=variance, prior=0)
        return PatchSubspace(
            self.n,
            self.grid,
            fitted.mean[0],
            fitted.complement[0],
            fitted.rank,
            fitted.kept_variance,
        )


def _vectors(X: FloatArray, grid: tuple[int, int], places: MaskArray | None) -> FloatArray:
    """Float32 (n, C * P) to (n * P, C): a row for each location of each image."""
    planes = X.reshape(len(X), -1, grid[0] * grid[1])
    if places is not None:
        planes = planes[:, :, places]
    return np.ascontiguousarray(planes.transpose(0, 2, 1)).reshape(-1, planes.shape[1])
