"""The subspace of good features, in closed form.

The shallow linear autoencoder of FRE (Ndiour, Ahuja, Genc and Tickoo, BMVC 2023, section 3) has
its optimum where its decoder spans the leading principal components (Baldi and Hornik, 1989).
Features are few and long, or many and short; the smaller of the two Gram matrices, X X^T or
X^T X, is accumulated in float64 and decomposed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError
from fre.types import FloatArray

__all__ = ["Gram", "Subspace", "check_groups", "check_rank", "make_folds"]

Float64: TypeAlias = NDArray[np.float64]

BLOCK_BYTES = 64 * 2**20
"""Working memory for float64 copies of parts of the features."""


@dataclass(frozen=True)
class Subspace:
    """An affine subspace of a feature space, and what is known of the features it came from.

    Attributes:
        n: number of features it was fitted on.
        mean: float64 (D,).
        basis: float64 (D, k), orthonormal columns, strongest first; k may be 0.
        singular_values: float64 (k,), of the centred features along the basis.
        discarded: energy (sum of squares of the centred features) outside the basis.
    """

    n: int
    mean: Float64
    basis: Float64
    singular_values: Float64
    discarded: float

    @property
    def dimension(self) -> int:
        """Length of a feature, D."""
        return int(self.basis.shape[0])

    @property
    def rank(self) -> int:
        """Number of basis vectors, k."""
        return int(self.basis.shape[1])

    @property
    def kept_variance(self) -> float:
        """Share of the energy that the basis holds, in [0, 1]; 1 if there is no energy."""
        kept = float(np.sum(self.singular_values**2))
        total = kept + self.discarded
        return kept / total if total > 0 else 1.0

    def residual(self, X: NDArray[np.floating]) -> Float64:
        """What the subspace can't reconstruct of some features.

        Args:
            X: (n, D).

        Returns:
            float64 (n, D): (x - mean) - V V^T (x - mean), for each row x.
        """
        centred = X - self.mean
        return np.asarray(centred - (centred @ self.basis) @ self.basis.T)

    def energies(self, X: NDArray[np.floating], channels: int) -> FloatArray:
        """Squared residual at every location, without a copy of the features.

        Deviations from the mean are taken in float64 and multiplied in float32.

        Args:
            X: float (n, D), flattened from (channels, locations).
            channels: number of channels.

        Returns:
            float32 (n, locations): the squared residual, summed over the channels.

        Raises:
            OptionError: features of another length, or not of so many channels.
        """
        n, dimension = X.shape
        if dimension != self.dimension or channels < 1 or dimension % channels:
            raise OptionError(
                f"the features have {dimension} entries in {channels} channels; the subspace is "
                f"of features with {self.dimension}"
            )
        locations = dimension // channels
        step = max(1, BLOCK_BYTES // (8 * max(1, n) * locations)) * locations
        parts = [slice(start, start + step) for start in range(0, dimension, step)]
        basis = self.basis.astype(np.float32)

        def centred(part: slice) -> FloatArray:
            return np.asarray(X[:, part] - self.mean[part], np.float32)

        codes = np.zeros((n, self.rank), np.float32)
        for part in parts:
            codes += centred(part) @ basis[part]
        energies = np.zeros((n, locations), np.float32)
        for part in parts:
            residual = centred(part)
            residual -= codes @ basis[part].T
            np.square(residual, out=residual)
            energies += residual.reshape(n, residual.shape[1] // locations, locations).sum(axis=1)
        return energies


def choose_rank(
    energies: Float64,
    *,
    variance: float,
    rank: int | None,
    tolerance: float,
    beyond: float = 0.0,
) -> int:
    """How many principal components to keep.

    Args:
        energies: squared singular values, largest first.
        variance: share of the energy to keep, in (0, 1].
        rank: a fixed number instead, or ``None``.
        tolerance: energies up to this are rounding, not signal.
        beyond: energy that there is besides, in directions that are not known.

    Raises:
        OptionError: ``rank`` is more than the data allow.
    """
    available = int(np.count_nonzero(energies > tolerance))
    if rank is not None:
        if rank > available:
            raise OptionError(
                f"rank {rank} is more than the good images allow: their features span "
                f"{available} dimensions; use a rank of at most {available}, or more images"
            )
        return rank
    if available == 0:
        return 0
    cumulative = np.cumsum(energies[:available])
    # The last of the cumulative sums may miss its own total by a rounding error.
    wanted = variance * (cumulative[-1] + beyond)
    return min(int(np.searchsorted(cumulative, wanted)) + 1, available)


def _columns(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of the columns of a matrix, each small enough to be copied as float64."""
    width = max(1, BLOCK_BYTES // (8 * n_rows))
    for start in range(0, n_columns, width):
        yield slice(start, min(start + width, n_columns))


def _rows(n_rows: int, n_columns: int) -> Iterator[slice]:
    return _columns(n_columns, n_rows)


def _mean(X: NDArray[np.floating]) -> Float64:
    return np.asarray(X.mean(axis=0, dtype=np.float64))


def _inner_products(X: NDArray[np.floating], mean: Float64) -> Float64:
    """Float64 (n, n): inner products of the centred rows."""
    n, dimension = X.shape
    products = np.zeros((n, n))
    for part in _columns(n, dimension):
        block = X[:, part] - mean[part]
        products += block @ block.T
    return products


def _scatter(X: NDArray[np.floating], mean: Float64) -> Float64:
    """Float64 (D, D): the sum over rows of the outer products of the centred rows."""
    n, dimension = X.shape
    scatter = np.zeros((dimension, dimension))
    for part in _rows(n, dimension):
        block = X[part] - mean
        scatter += block.T @ block
    return scatter


def _descending(symmetric: Float64) -> tuple[Float64, Float64]:
    """Eigenvalues, largest first and not below zero, and the eigenvectors as columns.

    The sign of a vector, which the decomposition leaves open, is such that its largest entry is
    positive.
    """
    values, vectors = np.linalg.eigh(symmetric)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    largest = np.take_along_axis(vectors, np.argmax(np.abs(vectors), axis=0)[None], axis=0)
    return values, vectors * np.where(largest < 0, -1.0, 1.0)


def rounding_energy(largest: float, size: int, n: int, mean: Float64) -> float:
    """The largest energy that rounding alone may show in a direction without any.

    Rounding comes from the decomposition, relative to the largest energy, and from the
    subtraction of the mean, relative to the mean.

    Args:
        largest: energy of the strongest direction.
        size: of the Gram matrix.
        n: number of features.
        mean: float64 (D,).
    """
    epsilon = float(np.finfo(np.float64).eps)
    decomposition = largest * size * 4 * epsilon
    return decomposition + n * float(mean @ mean) * (4 * epsilon) ** 2


def _limited(k: int, at_most: int | None) -> int:
    return k if at_most is None else min(k, at_most)


def check_rank(variance: float, rank: int | None) -> None:
    """Refuse a share of variance or a rank that makes no sense.

    Raises:
        OptionError: ``variance`` is not in (0, 1], or ``rank`` is below 1.
    """
    if not 0 < variance <= 1:
        raise OptionError(f"variance must be above 0 and at most 1, not {variance}")
    if rank is not None and rank < 1:
        raise OptionError(f"rank must be at least 1, not {rank}")


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
        seed: of the permutation.
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


class Gram:
    """Features, and the inner products from which all their subspaces follow.

    Args:
        X: float (n, D), a feature a row, n >= 1. Kept, not copied.
    """

    def __init__(self, X: NDArray[np.floating]) -> None:
        self.X = X
        self.mean = _mean(X)
        self.wide = X.shape[0] <= X.shape[1]
        self.products = (_inner_products if self.wide else _scatter)(X, self.mean)

    def fit(
        self, *, variance: float = 0.97, rank: int | None = None, at_most: int | None = None
    ) -> Subspace:
        """The principal subspace of all the features.

        Args:
            variance: the share of the energy to keep, in (0, 1]: k is the smallest that does.
            rank: a fixed k instead.
            at_most: no larger k than this, whatever the variance.

        Returns:
            The subspace. Constant features have one of rank 0; k never exceeds the rank of the
            centred features, so that nothing is divided by a singular value of zero.

        Raises:
            OptionError: ``variance`` or ``rank`` is out of range.
        """
        k = self.rank(variance=variance, rank=rank, at_most=at_most)
        energies, U = self._spectrum
        basis = self._basis(energies, U, k)
        singular_values = np.sqrt(energies[:k])
        discarded = float(np.sum(energies[k:]))
        return Subspace(len(self.X), self.mean, basis, singular_values, discarded)

    def rank(
        self, *, variance: float = 0.97, rank: int | None = None, at_most: int | None = None
    ) -> int:
        """The k of `fit`; raises what it raises."""
        check_rank(variance, rank)
        energies, _ = self._spectrum
        tolerance = self._rounding(energies)
        k = choose_rank(energies, variance=variance, rank=rank, tolerance=tolerance)
        return _limited(k, at_most)

    @cached_property
    def _spectrum(self) -> tuple[Float64, Float64]:
        return _descending(self.products)

    def directions(self, at_most: int) -> tuple[Float64, Float64]:
        """All energies and the strongest directions, to no variance in particular.

        Args:
            at_most: number of directions.

        Returns:
            float64 (n,) or (D,), squared singular values, largest first; and float64 (D, k),
            orthonormal columns, of those that are more than rounding.
        """
        energies, U = self._spectrum
        k = min(at_most, int(np.count_nonzero(energies > self._rounding(energies))))
        return energies, self._basis(energies, U, k)

    def coordinates(self, k: int) -> Float64:
        """The features along the k strongest of `directions`, from the mean: float64 (n, k)."""
        energies, U = self._spectrum
        if self.wide:
            return np.asarray(U[:, :k] * np.sqrt(energies[:k]))
        return np.asarray((self.X - self.mean) @ U[:, :k])

    def _basis(self, energies: Float64, U: Float64, k: int) -> Float64:
        if not self.wide:
            return U[:, :k].copy()
        n, dimension = self.X.shape
        weights = U[:, :k] / np.sqrt(energies[:k])
        basis = np.empty((dimension, k))
        for part in _columns(n, dimension):
            basis[part] = (self.X[:, part] - self.mean[part]).T @ weights
        return basis

    def cross_fit(
        self,
        folds: list[NDArray[np.intp]],
        *,
        channels: int,
        variance: float = 0.97,
        rank: int | None = None,
        at_most: int | None = None,
    ) -> Iterator[tuple[NDArray[np.intp], FloatArray]]:
        """Residual maps of the features under subspaces that were fitted without them.

        A feature's residual under its own subspace is far too small when n is about k. Each fold
        is scored by the subspace of the other folds, which follows from the same inner products.

        Args:
            folds: the rows of each fold; two folds or more, none empty.
            channels: number of channels; D is flattened from (channels, locations).
            variance: as for `fit`.
            rank: as for `fit`, but cut to what the other folds allow.
            at_most: as for `fit`.

        Yields:
            For each fold: its rows, and float32 (rows, locations): the squared residual, summed
            over the channels.

        Raises:
            OptionError: ``variance`` or ``rank`` is out of range.
        """
        check_rank(variance, rank)
        for held in folds:
            if self.wide:
                others = np.setdiff1d(np.arange(len(self.X)), held)
                weights = self._reconstruction_weights(others, held, variance, rank, at_most)
                yield held, _residual_map_from_rows(self.X, others, held, weights, channels)
            else:
                yield held, self._held_out_map(held, channels, variance, rank, at_most)

    def _rounding(self, energies: Float64) -> float:
        return rounding_energy(float(energies[0]), energies.size, len(self.X), self.mean)

    def _reconstruction_weights(
        self,
        others: NDArray[np.intp],
        held: NDArray[np.intp],
        variance: float,
        rank: int | None,
        at_most: int | None,
    ) -> Float64:
        """How the reconstruction of each held-out feature is made up of the other features.

        With K the inner products centred on the mean of the others, U, s their decomposition,
        and B = U_k s_k^-2 U_k^T K_oh, the reconstruction of x_h is m + sum_o B_oh (x_o - m).

        Returns:
            float64 (others, held): its columns sum to 1.
        """
        inner = self.products[np.ix_(others, others)]
        cross = self.products[np.ix_(others, held)]
        column = inner.mean(axis=1, keepdims=True)
        centred = inner - column - column.T + column.mean()
        cross_centred = cross - cross.mean(axis=0, keepdims=True) - column + column.mean()
        energies, U = _descending(centred)
        k = _limited(self._cut(energies, variance, rank), at_most)
        B = (U[:, :k] / energies[:k]) @ (U[:, :k].T @ cross_centred)
        return np.asarray(B + (1 - B.sum(axis=0)) / len(others))

    def _cut(self, energies: Float64, variance: float, rank: int | None) -> int:
        """The rank for a part of the features: a fixed one is cut to what they allow."""
        tolerance = self._rounding(energies)
        if rank is not None:
            return min(rank, int(np.count_nonzero(energies > tolerance)))
        return choose_rank(energies, variance=variance, rank=None, tolerance=tolerance)

    def _held_out_map(
        self,
        held: NDArray[np.intp],
        channels: int,
        variance: float,
        rank: int | None,
        at_most: int | None,
    ) -> FloatArray:
        n = len(self.X)
        rest = n - len(held)
        block = self.X[held] - self.mean
        total = block.sum(axis=0)
        # The centred features sum to zero, so those of the others sum to minus the fold's sum.
        inner = self.products - block.T @ block - np.outer(total, total) / rest
        energies, V = _descending(inner)
        k = _limited(self._cut(energies, variance, rank), at_most)
        subspace = Subspace(
            rest,
            self.mean - total / rest,
            V[:, :k],
            np.sqrt(energies[:k]),
            float(energies[k:].sum()),
        )
        return subspace.energies(self.X[held], channels)


def _residual_map_from_rows(
    X: NDArray[np.floating],
    others: NDArray[np.intp],
    held: NDArray[np.intp],
    weights: Float64,
    channels: int,
) -> FloatArray:
    locations = X.shape[1] // channels
    mixing = weights.T.astype(X.dtype)
    total = np.zeros((len(held), locations), np.float32)
    step = max(1, BLOCK_BYTES // (4 * len(X) * locations))
    for start in range(0, channels, step):
        part = slice(start * locations, min(start + step, channels) * locations)
        residual = X[held, part] - mixing @ X[others, part]
        total += np.square(residual).reshape(len(held), -1, locations).sum(axis=1)
    return total
