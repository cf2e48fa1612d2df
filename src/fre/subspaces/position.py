"""A small subspace for every location: what is normal just here.

At each location of a feature map, the channels of all images are a point cloud in R^C; its
principal subspace sees what the image-wide subspace cannot, texture that is out of place. Counts,
means and scatter matrices are exact sufficient statistics: they add up, in fixed memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError
from fre.parallel import on_all_cores, on_slices
from fre.subspaces.arrays import check_finite, take
from fre.subspaces.position_left_out import LeftOut
from fre.subspaces.protocols import FitOptions, Scope
from fre.types import FloatArray

Float64: TypeAlias = NDArray[np.float64]

BLOCK_BYTES = 2**19
"""Working memory for copies of features, on each core: it stays in the core's cache."""

LEAST_POSITIONS = 16
"""Positions that are taken at a time: so many float32 lie in one line of a cache."""

MOST_BYTES = 16 * 2**20
"""Working memory that is not exceeded for their sake."""

EIGH_BYTES = 2**20
"""Covariances that are decomposed in one call: small parts keep all cores busy to the end."""

DEFAULTS = FitOptions()


@dataclass(frozen=True)
class PositionSubspace:
    """An affine subspace of the channels for each location.

    Each is kept as its orthogonal complement, which is the smaller part at 97 % of the variance.
    Computed from the subspace, the squared residual is a difference of large squares; computed
    from the complement, it is a sum of small ones, for which half precision is enough.

    Attributes:
        n: number of images it was fitted on.
        grid: height and width of the feature map.
        mean: float64 (P, C), P = height * width, rows first.
        complement: float16 (P, C, r), orthonormal columns but for rounding, weakest first; a
            location that needs fewer than r has columns of zeros; r >= 1.
        ranks: int (P,), the dimensions of the subspaces.
        kept_variance: share of the energy of all locations that they hold, in [0, 1].
    """

    scope: ClassVar[Scope] = "position"
    kind: ClassVar[str] = "pca"
    n: int
    grid: tuple[int, int]
    mean: Float64
    complement: NDArray[np.float16]
    ranks: NDArray[np.intp]
    kept_variance: float

    @property
    def channels(self) -> int:
        """Length of the vector at a location, C."""
        return int(self.complement.shape[1])

    @property
    def rank(self) -> int:
        """The largest of the dimensions, k."""
        return int(self.ranks.max(initial=0))

    def stored(self) -> PositionSubspace:
        """Return the subspace itself, which is in half precision."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return rank, kept variance, n and mean rank as plain JSON values."""
        return {
            "rank": self.rank,
            "kept_variance": self.kept_variance,
            "n": self.n,
            "mean_rank": float(self.ranks.mean()),
        }

    def squared_residuals(self, X: FloatArray, channels: int | None = None) -> FloatArray:
        """Return the squared residual at every location.

        Args:
            X: float32 (n, C * P), flattened from (channels, height, width).
            channels: not used, as the subspace knows its channels.

        Returns:
            float32 (n, P): |W^T (x - m)|^2 for each location's vector x and complement W.
        """
        n, positions = len(X), len(self.mean)
        vectors = X.reshape(n, self.channels, positions)
        mean = self.mean.astype(np.float32)
        energies = np.empty((n, positions), np.float32)

        def work(part: slice) -> None:
            centred = vectors[:, :, part].transpose(2, 0, 1) - mean[part, None, :]
            outside = centred @ self.complement[part].astype(np.float32)
            energies[:, part] = np.square(outside).sum(axis=2).T

        on_slices(work, positions, _width(4 * n * self.channels))
        return energies


@dataclass(frozen=True)
class PositionStatistics:
    """Counts, means and scatter matrices of the vectors at each location.

    Attributes:
        n: number of images.
        grid: height and width of the feature map.
        mean: float64 (P, C).
        scatter: float64 (P, C, C), the sum over images of the outer products of the centred
            vectors.
    """

    fixed_size: ClassVar[bool] = True
    span: ClassVar[None] = None
    n: int
    grid: tuple[int, int]
    mean: Float64
    scatter: Float64

    @classmethod
    def of(cls, X: FloatArray, grid: tuple[int, int]) -> PositionStatistics:
        """Return the statistics of some images.

        Args:
            X: float32 (n, C * P), n >= 1, flattened from (channels, height, width).
            grid: height and width.

        Raises:
            OptionError: the features are not finite.
        """
        n, positions = len(X), grid[0] * grid[1]
        vectors = X.reshape(n, -1, positions)
        channels = vectors.shape[1]
        mean = np.asarray(vectors.mean(axis=0, dtype=np.float64)).T.copy()
        check_finite(mean)
        scatter = np.empty((positions, channels, channels))

        def work(part: slice) -> None:
            centred = vectors[:, :, part].transpose(2, 0, 1) - mean[part, None, :]
            np.matmul(centred.transpose(0, 2, 1), centred, out=scatter[part])

        on_slices(work, positions, _width(8 * n * channels))
        return cls(n, grid, mean, scatter)

    def update(self, X: FloatArray) -> PositionStatistics:
        """Return the statistics of these images and more images, exactly.

        Args:
            X: float32 (b, C * P), b >= 1, as for `of`.

        Raises:
            OptionError: no features, or features of another length.
        """
        if X.ndim != 2 or len(X) == 0:
            raise OptionError(f"the features must be a matrix of one row or more, not {X.shape}")
        if X.shape[1] != self.mean.size:
            raise OptionError(
                f"the features have {X.shape[1]} entries, and those before have {self.mean.size}: "
                "only features of the same layer and input size add up"
            )
        block = PositionStatistics.of(X, self.grid)
        gap = block.mean - self.mean
        n = self.n + block.n
        weighted = gap * np.sqrt(self.n * (block.n / n))
        scatter = block.scatter

        def work(part: slice) -> None:
            scatter[part] += self.scatter[part]
            scatter[part] += weighted[part, :, None] * weighted[part, None, :]

        positions, channels = self.mean.shape
        on_slices(work, positions, _width(8 * channels**2))
        return PositionStatistics(n, self.grid, self.mean + gap * (block.n / n), scatter)

    def merge(self, *others: PositionStatistics) -> PositionStatistics:
        """Return the statistics of all sets of images, exactly (Chan, Golub and LeVeque, 1979).

        Raises:
            OptionError: feature maps of other sizes.
        """
        for other in others:
            if (other.grid, other.mean.shape) != (self.grid, self.mean.shape):
                raise OptionError(
                    f"feature maps of {other.mean.shape[1]} channels at {other.grid} do not add "
                    f"up with those of {self.mean.shape[1]} channels at {self.grid}"
                )
        sets = (self, *others)
        n = sum(part.n for part in sets)
        mean = np.zeros_like(self.mean)
        for part in sets:
            mean += part.mean * (part.n / n)
        gaps = np.stack([(part.mean - mean) * np.sqrt(part.n) for part in sets], axis=1)
        scatter = np.empty_like(self.scatter)

        def work(part: slice) -> None:
            np.matmul(gaps[part].transpose(0, 2, 1), gaps[part], out=scatter[part])
            for one in sets:
                scatter[part] += one.scatter[part]

        positions, channels = self.mean.shape
        on_slices(work, positions, _width(8 * channels**2))
        return PositionStatistics(n, self.grid, mean, scatter)

    def mean_squared_residuals(
        self, subspace: PositionSubspace, channels: int | None = None
    ) -> Float64:
        """Return the mean squared residual of these images at each location: float64 (P,)."""
        return self.mean_outside(subspace.mean, subspace.complement.astype(np.float64))

    def mean_outside(self, mean: Float64, complement: Float64) -> Float64:
        """Return the mean squared residual, (P,), for means (P, C) and complements (P, C, r)."""
        spread = np.sum(np.matmul(self.scatter, complement) * complement, axis=(1, 2))
        gap = np.matmul((self.mean - mean)[:, None, :], complement)[:, 0]
        return np.asarray(spread / self.n + np.square(gap).sum(axis=1))

    def mean_of(self, maps: FloatArray) -> Float64:
        """Return the mean of squared-residual maps, (n, P): float64 (P,)."""
        return np.asarray(maps.mean(axis=0, dtype=np.float64))

    def fit(self, options: FitOptions = DEFAULTS) -> PositionSubspace:
        """Return the principal subspaces of all locations.

        Few images say little of a location by themselves, so the covariances around it weigh in:
        the one used is (n S + prior S') / (n + prior), S its own, S' the mean of the S of the
        3 x 3 locations around it, cut at the borders.

        Args:
            options: variance and prior; a rank and its limit have no effect.
        """
        energies, ranks, columns, _ = self._decomposed(options, keep=False)
        return self._subspace(energies, ranks, columns)

    def fit_left_out(self, options: FitOptions = DEFAULTS) -> tuple[PositionSubspace, LeftOut]:
        """Return `fit`, and the subspaces of all images but one, from the same decompositions."""
        energies, ranks, columns, vectors = self._decomposed(options, keep=True)
        # Number of locations around each, itself included, that its covariance is blended with.
        height, width = (
            np.minimum(np.arange(length) + 2, length) - np.maximum(np.arange(length) - 1, 0)
            for length in self.grid
        )
        share = options.prior / self.n / np.ravel(np.outer(height, width))
        weights = (1 + share) / (self.n + options.prior) * (self.n / (self.n - 1))
        left_out = LeftOut.of(self.n, self.mean, energies, np.concatenate(vectors), ranks, weights)
        return self._subspace(energies, ranks, columns), left_out

    def _decomposed(
        self, options: FitOptions, *, keep: bool
    ) -> tuple[Float64, NDArray[np.intp], list[NDArray[np.float16]], list[FloatArray]]:
        """Return `_fit_part` of all locations; complements and vectors are of parts of them."""
        height, width = self.grid
        step = max(1, EIGH_BYTES // (8 * self.mean.shape[1] ** 2))
        parts = [
            (row, slice(start, min(start + step, width)))
            for row in range(height)
            for start in range(0, width, step)
        ]
        found = on_all_cores(partial(self._fit_part, *part, options, keep) for part in parts)
        energies, ranks, columns, vectors = zip(*found, strict=True)
        return np.concatenate(energies), np.concatenate(ranks), [*columns], [*vectors]

    def _subspace(
        self, energies: Float64, ranks: NDArray[np.intp], found: list[NDArray[np.float16]]
    ) -> PositionSubspace:
        # At least one column, if only of zeros: not every runtime takes an empty matrix.
        channels = energies.shape[1]
        most = max(1, channels - int(ranks.min()))
        complement = np.zeros((len(ranks), channels, most), np.float16)
        start = 0
        for columns in found:
            complement[start : start + len(columns), :, : columns.shape[2]] = columns
            start += len(columns)
        total = float(energies.sum())
        kept = float(np.where(np.arange(channels) < ranks[:, None], energies, 0).sum())
        share = kept / total if total > 0 else 1.0
        return PositionSubspace(self.n, self.grid, self.mean, complement, ranks, share)

    def _fit_part(
        self, row: int, columns: slice, options: FitOptions, keep: bool
    ) -> tuple[Float64, NDArray[np.intp], NDArray[np.float16], FloatArray]:
        """Decompose the covariances of some neighbours in a row.

        Returns:
            Eigenvalues, float64 (w, C), strongest first; ranks, (w,); complements, float16
            (w, C, r), weakest first; and, if ``keep``, eigenvectors, float32 (w, C, C), strongest
            first.
        """
        first = row * self.grid[1]
        mean = self.mean[first + columns.start : first + columns.stop]
        energies, vectors = np.linalg.eigh(self._blended(row, columns, options.prior))
        energies = np.maximum(energies[:, ::-1], 0)
        channels = energies.shape[1]
        tolerance = energies[:, :1] * channels * 4 * np.finfo(np.float64).eps
        tolerance = tolerance + np.square(mean).sum(axis=1)[:, None] * 1e-28
        available = np.count_nonzero(energies > tolerance, axis=1)
        short = np.cumsum(energies, axis=1) < options.variance * energies.sum(axis=1)[:, None]
        ranks = np.minimum(np.count_nonzero(short, axis=1) + 1, available)
        most = channels - int(ranks.min())
        outside = np.arange(most) < channels - ranks[:, None]
        complement = np.where(outside[:, None, :], vectors[:, :, :most], 0.0)
        kept = vectors[:, :, ::-1] if keep else vectors[:0]
        return energies, ranks, complement.astype(np.float16), kept.astype(np.float32)

    def _blended(self, row: int, columns: slice, prior: float) -> Float64:
        """Return covariances of neighbours in a row, blended with those around them: (w, C, C)."""
        height, width = self.grid
        channels = self.mean.shape[1]
        rows = np.arange(max(0, row - 1), min(height, row + 2))
        around = np.arange(max(0, columns.start - 1), min(width, columns.stop + 1))
        beside = np.abs(np.arange(columns.start, columns.stop)[:, None] - around)
        weights = np.repeat((beside <= 1)[:, None, :], len(rows), axis=1).astype(np.float64)
        weights *= prior / weights.sum(axis=(1, 2), keepdims=True)
        weights[:, rows == row] += self.n * (beside == 0)[:, None, :]
        weights /= self.n * (self.n + prior)
        maps = self.scatter.reshape(height, width, -1)
        block = maps[rows[0] : rows[-1] + 1, around[0] : around[-1] + 1]
        blended = weights.reshape(len(weights), -1) @ block.reshape(-1, channels**2)
        return np.asarray(blended.reshape(-1, channels, channels))

    def to_arrays(self, *, compact: bool = False) -> dict[str, NDArray[Any]]:
        """Return arrays to store, which `from_arrays` reads.

        Args:
            compact: whether the upper triangles of the scatter matrices are stored in float32,
                which changes entries by up to 6e-8 of their size; else nothing changes.
        """
        rows, columns = np.triu_indices(self.mean.shape[1])
        return {
            "n": np.array(self.n, np.int64),
            "grid": np.array(self.grid, np.int64),
            "mean": self.mean,
            "scatter": self.scatter[:, rows, columns].astype(np.float32 if compact else np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> PositionStatistics:
        """Return the statistics that `to_arrays` stored; other arrays are ignored.

        Raises:
            ModelFileError: an array is missing or has the wrong shape.
        """
        what = "the statistics of the positions"
        height, width = (int(length) for length in take(arrays, "grid", (2,), what))
        positions = height * width
        mean = take(arrays, "mean", (positions, None), what).astype(np.float64)
        channels = mean.shape[1]
        rows, columns = np.triu_indices(channels)
        triangles = take(arrays, "scatter", (positions, len(rows)), what)
        scatter = np.empty((positions, channels, channels))
        scatter[:, rows, columns] = triangles
        scatter[:, columns, rows] = triangles
        return cls(int(take(arrays, "n", (), what)), (height, width), mean, scatter)


def _width(each: int) -> int:
    """Return how many positions of so many bytes each are best worked on at a time."""
    return max(1, BLOCK_BYTES // each, min(LEAST_POSITIONS, MOST_BYTES // each))
