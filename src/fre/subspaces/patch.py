"""One small subspace for all locations: what is normal anywhere on a texture.

The channels of all locations of all images are one point cloud in R^C. Where parts are not
aligned, or where a surface has no parts, a location has no meaning of its own. The sufficient
statistics have the form of a single position's, and add up exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fre.subspaces.arrays import take
from fre.subspaces.position import PositionStatistics
from fre.subspaces.protocols import FitOptions, Scope
from fre.types import FloatArray, MaskArray

DEFAULTS = FitOptions()

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

    scope: ClassVar[Scope] = "patch"
    kind: ClassVar[str] = "pca"
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

    def stored(self) -> PatchSubspace:
        """Return the subspace itself, which is in half precision."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return rank, kept variance and n as plain JSON values."""
        return {"rank": self.rank, "kept_variance": self.kept_variance, "n": self.n}

    def squared_residuals(self, X: FloatArray, channels: int | None = None) -> FloatArray:
        """Return the squared residual at every location.

        Args:
            X: float32 (n, C * P), flattened from (channels, height, width).
            channels: not used, as the subspace knows its channels.

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
        pooled: statistics of all vectors, in the form of a single position's.
        locations: bool (P,), the locations that count; ``None`` is all.
    """

    fixed_size: ClassVar[bool] = True
    span: ClassVar[None] = None
    n: int
    grid: tuple[int, int]
    pooled: PositionStatistics
    locations: MaskArray | None = None

    @classmethod
    def of(
        cls, X: FloatArray, grid: tuple[int, int], locations: MaskArray | None = None
    ) -> PatchStatistics:
        """Return the statistics of some images.

        Args:
            X: float32 (n, C * P), n >= 1, flattened from (channels, height, width).
            grid: height and width.
            locations: bool (P,), the locations that count, one at least; ``None`` is all.

        Raises:
            OptionError: the features at these locations are not finite.
        """
        step = max(1, BLOCK_BYTES // (8 * X.shape[1]))
        first, *rest = (
            PositionStatistics.of(_vectors(X[start : start + step], grid, locations), (1, 1))
            for start in range(0, len(X), step)
        )
        return cls(len(X), grid, first.merge(*rest) if rest else first, locations)

    def merge(self, *others: PatchStatistics) -> PatchStatistics:
        """Return the statistics of all sets of images, exactly."""
        n = self.n + sum(part.n for part in others)
        pooled = self.pooled.merge(*(part.pooled for part in others))
        return replace(self, n=n, pooled=pooled)

    def update(self, X: FloatArray) -> PatchStatistics:
        """Return the statistics of these images and more images, exactly.

        Args:
            X: float32 (b, C * P), b >= 1, as for `of`.
        """
        return self.merge(PatchStatistics.of(X, self.grid, self.locations))

    def mean_squared_residuals(
        self, subspace: PatchSubspace, channels: int | None = None
    ) -> NDArray[np.float64]:
        """Return the mean squared residual over images and locations: float64 (1,)."""
        complement = subspace.complement.astype(np.float64)
        return self.pooled.mean_outside(subspace.mean[None], complement[None])

    def mean_of(self, maps: FloatArray) -> NDArray[np.float64]:
        """Return the mean of squared-residual maps, (n, P), over the locations, too: (1,)."""
        mean = maps.mean(axis=0, dtype=np.float64)
        inside = mean if self.locations is None else mean[self.locations]
        return np.asarray(inside.mean(keepdims=True))

    def fit(self, options: FitOptions = DEFAULTS) -> PatchSubspace:
        """Return the principal subspace of all locations.

        Args:
            options: variance; the prior has no effect, as all locations are in it already.
        """
        fitted = self.pooled.fit(replace(options, prior=0))
        return PatchSubspace(
            self.n,
            self.grid,
            fitted.mean[0],
            fitted.complement[0],
            fitted.rank,
            fitted.kept_variance,
        )

    def to_arrays(self, *, compact: bool = False) -> dict[str, NDArray[Any]]:
        """Return arrays to store, which `from_arrays` reads.

        Args:
            compact: as for `PositionStatistics.to_arrays`.
        """
        everywhere = np.ones(self.grid[0] * self.grid[1], bool)
        counted = everywhere if self.locations is None else self.locations
        return {
            **self.pooled.to_arrays(compact=compact),
            "images": np.array(self.n, np.int64),
            "map": np.array(self.grid, np.int64),
            "places": counted,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> PatchStatistics:
        """Return the statistics that `to_arrays` stored; other arrays are ignored.

        Raises:
            ModelFileError: an array is missing or has the wrong shape.
        """
        what = "the statistics of the patches"
        height, width = (int(length) for length in take(arrays, "map", (2,), what))
        locations = take(arrays, "places", (height * width,), what).astype(bool)
        return cls(
            int(take(arrays, "images", (), what)),
            (height, width),
            PositionStatistics.from_arrays(arrays),
            None if locations.all() else locations,
        )


def _vectors(X: FloatArray, grid: tuple[int, int], locations: MaskArray | None) -> FloatArray:
    """Float32 (n, C * P) to (n * P, C): a row for each location of each image."""
    planes = X.reshape(len(X), -1, grid[0] * grid[1])
    if locations is not None:
        planes = planes[:, :, locations]
    return np.ascontiguousarray(planes.transpose(0, 2, 1)).reshape(-1, planes.shape[1])
