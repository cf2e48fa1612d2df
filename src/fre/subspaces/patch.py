"""One small subspace for all locations: what is normal anywhere on a texture.

The channels of all locations of all images are one point cloud in R^C. Where parts are not
aligned, or where a surface has no parts, a location has no meaning of its own. The sufficient
statistics are those of a single position, and add up as exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fre.subspaces.arrays import take
from fre.subspaces.position import PositionStatistics
from fre.types import FloatArray, MaskArray

BLOCK_BYTES = 64 * 2**20
"""Working memory for float64 copies of parts of the features."""


@dataclass(frozen=True)
class PatchSubspace:
    """An affine subspace of the channels, the same for every location.

    It is kept as its orthogonal complement, for the reasons given in `fre.subspaces.position`.

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

    def squared_residuals(self, X: FloatArray) -> FloatArray:
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
        places: bool (P,), the locations that count; ``None`` is all.
    """

    n: int
    grid: tuple[int, int]
    pooled: PositionStatistics
    places: MaskArray | None = None

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
        return cls(len(X), grid, first.merge(*rest) if rest else first, places)

    def merge(self, *others: PatchStatistics) -> PatchStatistics:
        """The statistics of all sets of images, exactly."""
        n = self.n + sum(part.n for part in others)
        pooled = self.pooled.merge(*(part.pooled for part in others))
        return replace(self, n=n, pooled=pooled)

    def update(self, X: FloatArray) -> PatchStatistics:
        """The statistics of these images and some more, exactly.

        Args:
            X: float32 (b, C * P), b >= 1, as for `of`.
        """
        return self.merge(PatchStatistics.of(X, self.grid, self.places))

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

    def to_arrays(self, dtype: DTypeLike = np.float64) -> dict[str, NDArray[Any]]:
        """Arrays to store; `from_arrays` makes of them what they were made of.

        Args:
            dtype: of the scatter matrix.
        """
        places = np.ones(self.grid[0] * self.grid[1], bool) if self.places is None else self.places
        return {
            **self.pooled.to_arrays(dtype),
            "images": np.array(self.n, np.int64),
            "map": np.array(self.grid, np.int64),
            "places": places,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> PatchStatistics:
        """What `to_arrays` stored; other names in ``arrays`` are passed over.

        Raises:
            ModelFileError: an array is missing or has the wrong shape.
        """
        what = "the statistics of the patches"
        height, width = (int(length) for length in take(arrays, "map", (2,), what))
        places = take(arrays, "places", (height * width,), what).astype(bool)
        return cls(
            int(take(arrays, "images", (), what)),
            (height, width),
            PositionStatistics.from_arrays(arrays),
            None if places.all() else places,
        )


def _vectors(X: FloatArray, grid: tuple[int, int], places: MaskArray | None) -> FloatArray:
    """Float32 (n, C * P) to (n * P, C): a row for each location of each image."""
    planes = X.reshape(len(X), -1, grid[0] * grid[1])
    if places is not None:
        planes = planes[:, :, places]
    return np.ascontiguousarray(planes.transpose(0, 2, 1)).reshape(-1, planes.shape[1])
