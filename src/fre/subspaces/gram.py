"""The subspace of good features, in closed form.

The shallow linear autoencoder of FRE (Ndiour, Ahuja, Genc and Tickoo, BMVC 2023, section 3) has
its optimum where its decoder spans the leading principal components (Baldi and Hornik, 1989).
Features are few and long, or many and short; the smaller of the two Gram matrices, X X^T or
X^T X, is accumulated in float64 and decomposed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fre.subspaces.arrays import check_finite
from fre.subspaces.protocols import FitOptions
from fre.subspaces.subspace import (
    BLOCK_BYTES,
    Float64,
    ImageSubspace,
    _columns,
    _descending,
    _rows,
    choose_rank,
    rounding_energy,
)
from fre.types import FloatArray


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


DEFAULTS = FitOptions()


class Gram:
    """Features, and the inner products from which all their subspaces follow.

    Args:
        X: float (n, D), a feature a row, n >= 1. Kept, not copied.

    Raises:
        OptionError: the features are not finite.
    """

    def __init__(self, X: NDArray[np.floating]) -> None:
        self.X = X
        self.mean = _mean(X)
        check_finite(self.mean)
        self.wide = X.shape[0] <= X.shape[1]
        self.products = (_inner_products if self.wide else _scatter)(X, self.mean)

    def fit(self, options: FitOptions = DEFAULTS) -> ImageSubspace:
        """Return the principal subspace of all the features.

        The subspace of constant features has rank 0. The rank never exceeds the rank of the
        centred features, so no division by a singular value of zero occurs.

        Raises:
            OptionError: ``variance`` or ``rank`` is out of range.
        """
        energies, U = self._spectrum
        k = self.rank(options)
        basis, discarded = self._basis(energies, U, k), float(np.sum(energies[k:]))
        return ImageSubspace(len(self.X), self.mean, basis, np.sqrt(energies[:k]), discarded)

    def rank(self, options: FitOptions = DEFAULTS) -> int:
        """Return the rank of `fit`, which raises the same errors."""
        energies, _ = self._spectrum
        return choose_rank(energies, options, tolerance=self._rounding(energies))

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
        self, folds: list[NDArray[np.intp]], channels: int, options: FitOptions = DEFAULTS
    ) -> Iterator[tuple[NDArray[np.intp], FloatArray]]:
        """Yield the squared residuals of each fold under the subspace of the other folds.

        A feature's residual under its own subspace is far too small when n is about the rank. The
        subspace of the other folds follows from the same inner products.

        Args:
            folds: rows of each fold; two folds or more, none empty.
            channels: number of channels; D is flattened from (channels, locations).
            options: options of the fit; a fixed rank is cut to what the other folds allow.

        Yields:
            For each fold: its rows, and float32 (rows, locations), summed over the channels.

        Raises:
            OptionError: ``variance`` or ``rank`` is out of range.
        """
        options = replace(options, exact_rank=False)
        for held in folds:
            if self.wide:
                others = np.setdiff1d(np.arange(len(self.X)), held)
                weights = self._reconstruction_weights(others, held, options)
                yield held, _residual_map_from_rows(self.X, others, held, weights, channels)
            else:
                yield held, self._without(held, options).squared_residuals(self.X[held], channels)

    def _rounding(self, energies: Float64) -> float:
        return rounding_energy(float(energies[0]), energies.size, len(self.X), self.mean)

    def _reconstruction_weights(
        self,
        others: NDArray[np.intp],
        held: NDArray[np.intp],
        options: FitOptions,
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
        k = choose_rank(energies, options, tolerance=self._rounding(energies))
        B = (U[:, :k] / energies[:k]) @ (U[:, :k].T @ cross_centred)
        return np.asarray(B + (1 - B.sum(axis=0)) / len(others))

    def _without(self, held: NDArray[np.intp], options: FitOptions) -> ImageSubspace:
        """Return the subspace of all features but some."""
        n = len(self.X)
        rest = n - len(held)
        block = self.X[held] - self.mean
        total = block.sum(axis=0)
        # The centred features sum to zero, so those of the others sum to minus the fold's sum.
        inner = self.products - block.T @ block - np.outer(total, total) / rest
        energies, V = _descending(inner)
        k = choose_rank(energies, options, tolerance=self._rounding(energies))
        return ImageSubspace(
            rest,
            self.mean - total / rest,
            V[:, :k],
            np.sqrt(energies[:k]),
            float(energies[k:].sum()),
        )


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
