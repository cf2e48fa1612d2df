"""Statistics of image-wide features: accumulated batch by batch, and merged.

The statistics of features are their count n, their mean m, and an orthonormal basis V with singular
values s, V diag(s^2) V^T = K, which stands for the scatter S, the sum of (x - m) (x - m)^T. Two
sets of features have the scatter

    S = S_a + S_b + n_a n_b / (n_a + n_b) (m_a - m_b) (m_a - m_b)^T

(Chan, Golub and LeVeque, 1979), so V and s of both follow from the columns V_a s_a, V_b s_b and
the weighted gap between the means: what the new columns add to the old basis is orthogonalised,
and a small matrix is decomposed (Brand, 2006; Ross, Lim, Lin and Yang, 2008). No D x D matrix is
formed, and features need not be kept.

Where some directions will be left out all the same, and the others are not too weak, the inner
products of the columns V_a s_a, V_b s_b and the gap are decomposed instead, as in
`fre.subspaces.gram`: a third of the work. They square what the columns differ by, so a
direction whose energy is w of the largest leans on the others by about 1e-16 / w.

While the rank is within the capacity, K = S but for rounding. Beyond it the weakest directions are
left out, and K = S - E. E is a sum of the parts left out, so it is positive semidefinite;
its trace is the discarded energy, and its norm |E| is at most the sum, ``lost``, of the largest
energies that were left out at each time. Hence, whatever the order and the split of the features,

- v^T K v <= v^T S v <= v^T K v + lost, for every direction v of length 1;
- l_i <= L_i <= l_i + lost, l_i and L_i the i-th largest eigenvalues of K and S (Weyl);
- the k strongest directions of K hold at least l_1 + ... + l_k of the energy, and no k directions
  hold more than that and min(k lost, discarded);
- sin(angle) <= lost / (l_k - l_{k+1} - lost), for the largest principal angle between the k
  strongest directions of K and of S, where the denominator is positive (Davis and Kahan, 1970);
- two orders of the same features have |K - K'| <= max(lost, lost').

These are worst cases. Far beyond the capacity, and where a spectrum falls as slowly as that of real
features, the bound on the angle says nothing, though the strongest directions are still close
(benchmarks/incremental.py).

V stays in float64. float32 would halve the memory, but each update would tilt every strong
direction by about 3e-8 more, and the sum would no longer be exact. `to_arrays` can round V once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError
from fre.subspaces.arrays import check_finite, take
from fre.subspaces.gram import Gram
from fre.subspaces.protocols import FitOptions
from fre.subspaces.subspace import ImageSubspace, choose_rank, rounding_energy
from fre.types import FloatArray

Float64: TypeAlias = NDArray[np.float64]

CAPACITY = 1024
"""Directions that are kept unless another number is asked for."""

BLOCK_ROWS = 256
"""Features that are absorbed at once, or more. Each time costs about as much as turning the whole
basis."""

BLOCK_BYTES = 16 * 2**20
"""Working memory for products with parts of the basis."""

DRIFT = 1e-12
"""Columns may miss being orthonormal by this; some thousand updates take them there."""

WEAKEST = 1e-5
"""Share of the largest energy that every kept direction must have, if columns are decomposed by
their inner products."""

NEARLY = 0.1
"""Columns that miss being orthonormal by this at most (Frobenius norm of the difference of their
inner products) may be decomposed by these: their condition is that of 1.1 at most."""

DEFAULTS = FitOptions()

INT16_MAX = np.iinfo(np.int16).max

EPSILON = float(np.finfo(np.float64).eps)


def block_rows(capacity: int) -> int:
    """Features that are best absorbed at once by statistics of that capacity."""
    return max(BLOCK_ROWS, capacity // 2)


@dataclass(frozen=True, eq=False)
class ImageStatistics:
    """Count, mean and leading principal components of features, in O(capacity x D) memory.

    Attributes:
        n: number of features.
        mean: float64 (D,).
        basis: float64 (D, r), orthonormal columns, strongest first; 0 <= r <= capacity.
        singular_values: float64 (r,), of the centred features along the basis; above 0.
        discarded: energy (sum of squares of the centred features) outside the basis.
        lost: no direction has more than this much energy outside the basis, but for rounding; 0
            while the rank is within the capacity.
        capacity: the largest r.
    """

    fixed_size: ClassVar[bool] = False
    n: int
    mean: Float64
    basis: Float64
    singular_values: Float64
    discarded: float
    lost: float
    capacity: int

    @property
    def dimension(self) -> int:
        """Length of a feature, D."""
        return int(self.basis.shape[0])

    @property
    def rank(self) -> int:
        """Number of basis vectors, r."""
        return int(self.basis.shape[1])

    @property
    def span(self) -> int:
        """Number of dimensions that the features span, as far as they are kept."""
        return self.rank

    @property
    def energy(self) -> float:
        """Sum of squares of the centred features, in the basis and outside."""
        return float(np.sum(self.singular_values**2)) + self.discarded

    @classmethod
    def of(cls, X: NDArray[np.floating], *, capacity: int = CAPACITY) -> ImageStatistics:
        """The statistics of some features.

        Args:
            X: float (n, D), a feature a row, n >= 1. Not changed, and not kept.
            capacity: the most directions to keep, from 1.

        Raises:
            OptionError: no features, features that are not finite, or a capacity below 1.
        """
        if capacity < 1:
            raise OptionError(f"capacity must be at least 1, not {capacity}")
        if X.ndim != 2 or X.size == 0:
            raise OptionError(f"the features must be a matrix of one row or more, not {X.shape}")
        dimension = X.shape[1]
        nothing = np.zeros((dimension, 0))
        return cls(0, np.zeros(dimension), nothing, np.zeros(0), 0.0, 0.0, capacity).update(X)

    @classmethod
    def of_gram(cls, gram: Gram, *, capacity: int = CAPACITY) -> ImageStatistics:
        """Return the statistics of features whose inner products are known.

        Args:
            gram: Gram matrix of the features.
            capacity: the most directions to keep, from 1.
        """
        energies, basis = gram.directions(capacity)
        k = basis.shape[1]
        beyond = energies[k:]
        return cls(
            len(gram.X),
            gram.mean,
            basis,
            np.sqrt(energies[:k]),
            float(np.sum(beyond)),
            float(beyond.max(initial=0)) if k == capacity else 0.0,
            capacity,
        )

    def update(self, X: NDArray[np.floating]) -> ImageStatistics:
        """The statistics of these features and some more.

        An update with one feature costs about as much as one with 256: see `Accumulator`.

        Args:
            X: float (b, D), b >= 1. Not changed, and not kept.

        Raises:
            OptionError: no features, features of another length, or not finite.
        """
        if X.ndim != 2 or len(X) == 0:
            raise OptionError(f"the features must be a matrix of one row or more, not {X.shape}")
        self._check_dimension(X.shape[1])
        statistics, block = self, block_rows(self.capacity)
        for start in range(0, len(X), block):
            statistics = statistics._with_rows(X[start : start + block])
        return statistics

    def merge(self, *others: ImageStatistics) -> ImageStatistics:
        """The statistics of all sets of features; its capacity is the largest of theirs.

        Raises:
            OptionError: features of another length.
        """
        merged = self
        for other in others:
            merged._check_dimension(other.dimension)
            large, small = (merged, other) if merged.rank >= other.rank else (other, merged)
            rows = np.empty((small.rank + 1, small.dimension))
            np.multiply(small.basis.T, small.singular_values[:, None], out=rows[:-1])
            merged = large._joined(rows, small)
        return merged

    def fit(self, options: FitOptions = DEFAULTS) -> ImageSubspace:
        """Return the principal subspace, as `fre.subspaces.gram.Gram.fit` does of the features.

        The sign of a basis vector is such that its largest entry is positive. The discarded
        variance counts: the rank is the smallest that keeps the share of all of it, or all
        directions that are kept if they hold less.

        Raises:
            OptionError: ``variance`` or ``rank`` is out of range.
        """
        rank = options.rank
        if rank is not None and options.exact_rank and self.rank == self.capacity < rank:
            raise OptionError(
                f"rank {rank} is more than the {self.capacity} directions that are kept; use a "
                f"rank of at most {self.capacity}, or a larger capacity"
            )
        energies = self.singular_values**2
        size = min(self.n, self.dimension)
        largest = float(energies.max(initial=0))
        k = choose_rank(
            energies,
            options,
            tolerance=rounding_energy(largest, size, self.n, self.mean),
            beyond=self.discarded,
        )
        basis = self.basis[:, :k].copy()
        if k:
            basis *= np.where(-basis.min(axis=0) > basis.max(axis=0), -1.0, 1.0)
        discarded = float(np.sum(energies[k:])) + self.discarded
        return ImageSubspace(self.n, self.mean, basis, self.singular_values[:k].copy(), discarded)

    def mean_squared_residuals(self, subspace: ImageSubspace, channels: int) -> Float64:
        """Return the mean squared residual of these features at each location: float64 (P,).

        The discarded variance counts in full, spread over the locations as the rest is.

        Args:
            subspace: subspace fitted to these features or of others.
            channels: number of channels.
        """
        V = subspace.basis
        # The factors of the scatter, and the gap between the means as one more of them.
        factors = np.empty((self.dimension, self.rank + 1))
        np.multiply(self.basis, self.singular_values, out=factors[:, :-1])
        factors[:, -1] = (self.mean - subspace.mean) * np.sqrt(self.n)
        codes = V.T @ factors
        locations = self.dimension // channels
        squares = np.zeros(locations)
        for start in range(0, self.dimension, locations):
            part = slice(start, start + locations)
            squares += np.square(factors[part] - V[part] @ codes).sum(axis=1)
        total = float(squares.sum())
        share = squares / total if total > 0 else np.full(locations, 1 / locations)
        return np.asarray((squares + self.discarded * share) / self.n)

    def mean_of(self, maps: FloatArray) -> Float64:
        """Return the mean of squared-residual maps, (n, P): float64 (P,)."""
        return np.asarray(maps.mean(axis=0, dtype=np.float64))

    def features(self, coordinates: NDArray[np.floating]) -> FloatArray:
        """The features that have these coordinates: float32 (b, D).

        While ``lost`` is 0, all fitted features follow from their coordinates, but for rounding.

        Args:
            coordinates: float (b, r), along the basis, from the mean.
        """
        X = np.empty((len(coordinates), self.dimension), np.float32)
        for part in _parts(self.dimension, len(X)):
            X[:, part] = coordinates @ self.basis[part].T + self.mean[part]
        return X

    def to_arrays(self, *, compact: bool = False) -> dict[str, NDArray[Any]]:
        """Return arrays to store, which `from_arrays` reads.

        Args:
            compact: whether the basis is stored in int16, multiples of a step for each direction,
                which turns each by about 5e-5, once; else nothing changes. Count, mean, spectrum
                and energy are always kept as they are.
        """
        steps = {}
        basis = self.basis
        if compact:
            largest = np.abs(basis).max(axis=0, initial=np.finfo(np.float32).tiny)
            steps = {"basis_step": (largest / INT16_MAX).astype(np.float32)}
            basis = np.rint(basis / steps["basis_step"]).clip(-INT16_MAX, INT16_MAX)
            basis = basis.astype(np.int16)
        return {
            "n": np.array(self.n, np.int64),
            "mean": self.mean,
            "basis": basis,
            **steps,
            "singular_values": self.singular_values,
            "discarded": np.array(self.discarded),
            "lost": np.array(self.lost),
            "capacity": np.array(self.capacity, np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> ImageStatistics:
        """Return the statistics that `to_arrays` stored; other arrays are ignored.

        Raises:
            ModelFileError: an array is missing or has the wrong shape.
        """
        what = "the statistics of an image-wide subspace"
        mean = take(arrays, "mean", (None,), what).astype(np.float64)
        singular_values = take(arrays, "singular_values", (None,), what).astype(np.float64)
        stored = take(arrays, "basis", (len(mean), len(singular_values)), what)
        basis = stored.astype(np.float64)
        if stored.dtype == np.int16:
            basis *= take(arrays, "basis_step", (len(singular_values),), what)
        basis = _upright(basis)
        return cls(
            int(take(arrays, "n", (), what)),
            mean,
            basis,
            singular_values,
            float(take(arrays, "discarded", (), what)),
            float(take(arrays, "lost", (), what)),
            int(take(arrays, "capacity", (), what)),
        )

    def _check_dimension(self, dimension: int) -> None:
        if dimension != self.dimension:
            raise OptionError(
                f"the features have {dimension} entries, and those before have {self.dimension}: "
                "only features of the same layer, pooling and input size add up"
            )

    def _with_rows(self, X: NDArray[np.floating]) -> ImageStatistics:
        mean = X.mean(axis=0, dtype=np.float64)
        check_finite(mean)
        rows = np.empty((len(X) + 1, X.shape[1]))
        centred = rows[:-1]
        np.subtract(X, mean, out=centred)
        # A sum of large numbers is off by more than the last bit; the deviations' sum is not.
        correction = centred.mean(axis=0)
        centred -= correction
        block = ImageStatistics(
            len(X), mean + correction, self.basis[:, :0], np.zeros(0), 0.0, 0.0, self.capacity
        )
        return self._joined(rows, block)

    def _joined(self, rows: Float64, other: ImageStatistics) -> ImageStatistics:
        """Join another set of features.

        Args:
            rows: float64 (c + 1, D), factors of the other's scatter, which is the sum of their
                outer products, and room for one more row; overwritten.
            other: count, mean, discarded energy and capacity of the other set.
        """
        n = self.n + other.n
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.n / n)
        np.multiply(gap, np.sqrt(self.n * (other.n / n)), out=rows[-1])

        capacity = max(self.capacity, other.capacity)
        together = replace(
            self,
            n=n,
            mean=mean,
            discarded=self.discarded + other.discarded,
            lost=self.lost + other.lost,
            capacity=capacity,
        )
        if self.rank + len(rows) > capacity:
            turned = together._with_columns_by_products(rows)
            if turned is not None:
                return turned
        return together._with_columns(rows)

    def _with_columns_by_products(self, rows: Float64) -> ImageStatistics | None:
        """`_with_columns` at a third of the cost; ``None`` where that would not be exact enough."""
        V, s, r = self.basis, self.singular_values, self.rank
        size = r + len(rows)
        products = np.zeros((size, size))
        for part in _parts(self.dimension, size):
            columns = np.concatenate([(V[part] * s).T, rows[:, part]])
            products += columns @ columns.T
        energies, U = np.linalg.eigh(products)
        energies, U = np.maximum(energies[::-1], 0), U[:, ::-1]
        k = self.capacity
        if energies[k - 1] <= WEAKEST * energies[0]:
            return None
        rounding = rounding_energy(float(energies[0]), size, self.n, self.mean)
        beyond = float(energies[k])
        weights = U[:, :k] / np.sqrt(energies[:k])
        weights[:r] *= s[:, None]
        basis = np.empty((self.dimension, k))
        for part in _parts(self.dimension, k):
            np.matmul(V[part], weights[:r], out=basis[part])
            basis[part] += rows[:, part].T @ weights[r:]
        return replace(
            self,
            basis=_upright(basis),
            singular_values=np.sqrt(energies[:k]),
            discarded=self.discarded + float(np.sum(energies[k:])),
            lost=self.lost + (beyond if beyond > rounding else 0.0),
        )

    def _with_columns(self, rows: Float64) -> ImageStatistics:
        """The statistics whose scatter is larger by the outer products of some vectors.

        Args:
            rows: float64 (c, D); overwritten.
        """
        V, s = self.basis, self.singular_values
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))
        scale = max(float(norms.max()), float(s.max(initial=0)))
        # What is below this is rounding: of the decomposition, or of the subtraction of the mean.
        offset = np.sqrt(self.n) * _length(self.mean)
        tolerance = 4 * EPSILON * (scale * (self.rank + len(rows)) + offset)

        along, Q, beyond, dropped = _orthogonalised(V, rows, tolerance)
        r, q = self.rank, Q.shape[1]
        core = np.zeros((r + q, r + len(rows)))
        np.fill_diagonal(core[:r], s)
        core[:r, r:], core[r:, r:] = along, beyond
        U, values = _left_vectors(core)

        k = min(self.capacity, int(np.count_nonzero(values > tolerance)))
        basis = np.empty((self.dimension, k))
        for part in _parts(self.dimension, k):
            np.matmul(V[part], U[:r, :k], out=basis[part])
            basis[part] += Q[part] @ U[r:, :k]
        left_out = values[k:]
        signal = left_out[left_out > tolerance]
        return replace(
            self,
            basis=_upright(basis),
            singular_values=values[:k],
            discarded=self.discarded + dropped + float(np.sum(left_out**2)),
            lost=self.lost + float(signal.max(initial=0)) ** 2,
        )


def _orthogonalised(
    V: Float64, rows: Float64, tolerance: float
) -> tuple[Float64, Float64, Float64, float]:
    """Split vectors into their parts along a basis and outside of it.

    Args:
        V: float64 (D, r), orthonormal columns.
        rows: float64 (c, D), the vectors; overwritten.
        tolerance: directions with singular values up to this are dropped.

    Returns:
        ``along`` (r, c), an orthonormal ``Q`` (D, q), orthogonal to V, and ``beyond`` (q, c), such
        that ``rows.T`` = V along + Q beyond, except for the dropped directions; and the energy of
        these directions.
    """
    along = V.T @ rows.T
    for part in _parts(len(V), len(rows)):
        rows[:, part] -= along.T @ V[part].T
    Q, triangle = np.linalg.qr(rows.T)
    # An unpivoted QR of dependent vectors makes up directions, which need not be orthogonal to V.
    U, values, W = np.linalg.svd(triangle, full_matrices=False)
    kept = values > tolerance
    Q = Q @ U[:, kept]
    weights = values[kept, None] * W[kept]
    # What is small beside the vectors it was left of still leans on V: once more (Kahan).
    again = V.T @ Q
    for part in _parts(len(V), Q.shape[1]):
        Q[part] -= V[part] @ again
    along += again @ weights
    dropped = float(np.sum(values[~kept] ** 2))
    if again.size:
        Q, triangle = orthonormalised(Q)
        weights = triangle @ weights
    return along, Q, weights, dropped


def orthonormalised(Q: Float64) -> tuple[Float64, Float64]:
    """The QR decomposition of columns that are nearly orthonormal, as a rule.

    Then Cholesky's of their inner products is as exact, and made of products of matrices alone,
    which take a fraction of the time (Yamamoto, Nakatsukasa, Yanagisawa and Fukaya, 2015).
    """
    products = Q.T @ Q
    if np.linalg.norm(products - np.eye(len(products))) > NEARLY:
        return np.linalg.qr(Q)
    triangle: Float64 = np.asarray(np.linalg.cholesky(products).T, np.float64)
    return Q @ np.linalg.inv(triangle), triangle


def _left_vectors(matrix: Float64) -> tuple[Float64, Float64]:
    """Left singular vectors, as columns, and singular values, largest first."""
    if not matrix.size:
        return np.zeros((0, 0)), np.zeros(0)
    U, values, _ = np.linalg.svd(matrix, full_matrices=False)
    return U, values


def _upright(V: Float64) -> Float64:
    """Columns that rounding has made lean on one another, made orthonormal again."""
    ones = np.ones(V.shape[1])
    # The row sums of V^T V - I, without the product of two large matrices.
    if np.abs(V.T @ (V @ ones) - ones).max(initial=0) <= DRIFT:
        return V
    Q, triangle = np.linalg.qr(V)
    Q *= np.sign(np.diag(triangle))
    return Q


def _length(vector: Float64) -> float:
    return float(np.sqrt(vector @ vector))


def _parts(dimension: int, width: int) -> Iterator[slice]:
    """Slices of the entries of ``width`` vectors, each of a bounded size."""
    step = max(1, BLOCK_BYTES // (8 * max(1, width)))
    for start in range(0, dimension, step):
        yield slice(start, start + step)
