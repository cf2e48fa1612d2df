"""The PCA subspace of whole feature maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError
from fre.subspaces.protocols import FitOptions, Scope
from fre.types import FloatArray

Float64: TypeAlias = NDArray[np.float64]


BLOCK_BYTES = 64 * 2**20
"""Working memory for float64 copies of parts of the features."""


@dataclass(frozen=True)
class ImageSubspace:
    """An affine subspace of a feature space, and what is known of the features it came from.

    Attributes:
        n: number of features it was fitted on.
        mean: float64 (D,).
        basis: float64 (D, k), orthonormal columns, strongest first; k may be 0.
        singular_values: float64 (k,), of the centred features along the basis.
        discarded: energy (sum of squares of the centred features) outside the basis.
    """

    scope: ClassVar[Scope] = "image"
    kind: ClassVar[str] = "pca"
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

    def stored(self) -> ImageSubspace:
        """Return the subspace with its basis rounded to half precision."""
        return replace(self, basis=self.basis.astype(np.float16).astype(np.float64))

    def describe(self) -> dict[str, Any]:
        """Return rank, kept variance, n and spectrum as plain JSON values."""
        return {
            "rank": self.rank,
            "kept_variance": self.kept_variance,
            "n": self.n,
            "singular_values": [float(value) for value in self.singular_values],
            "discarded": self.discarded,
        }

    def residual(self, X: NDArray[np.floating]) -> Float64:
        """Return the residual of features: the part that the subspace cannot reconstruct.

        Args:
            X: (n, D).

        Returns:
            float64 (n, D): (x - mean) - V V^T (x - mean), for each row x.
        """
        centred = X - self.mean
        return np.asarray(centred - (centred @ self.basis) @ self.basis.T)

    def squared_residuals(self, X: NDArray[np.floating], channels: int) -> FloatArray:
        """Squared residual at every location, without a copy of the features.

        Differences from the mean are computed in float64, products in float32.

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
        squares = np.zeros((n, locations), np.float32)
        for part in parts:
            residual = centred(part)
            residual -= codes @ basis[part].T
            np.square(residual, out=residual)
            squares += residual.reshape(n, residual.shape[1] // locations, locations).sum(axis=1)
        return squares


def choose_rank(
    energies: Float64, options: FitOptions, *, tolerance: float, beyond: float = 0.0
) -> int:
    """Return the number of principal components to keep.

    Args:
        energies: squared singular values, largest first.
        options: variance or rank, and the limit.
        tolerance: squared singular values up to this are rounding, not signal.
        beyond: sum of the squared singular values of directions that are not known.

    Raises:
        OptionError: ``variance`` or ``rank`` is out of range, or ``rank`` exceeds the rank of
            the features although it must be exact.
    """
    check_rank(options.variance, options.rank)
    available = int(np.count_nonzero(energies > tolerance))
    if options.rank is not None:
        if options.rank > available and options.exact_rank:
            raise OptionError(
                f"rank {options.rank} is more than the good images allow: their features span "
                f"{available} dimensions; use a rank of at most {available}, or more images"
            )
        k = min(options.rank, available)
    elif available == 0:
        k = 0
    else:
        cumulative = np.cumsum(energies[:available])
        # The last of the cumulative sums may miss its own total by a rounding error.
        wanted = options.variance * (cumulative[-1] + beyond)
        k = min(int(np.searchsorted(cumulative, wanted)) + 1, available)
    return k if options.at_most is None else min(k, options.at_most)


def _columns(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of the columns of a matrix, each small enough to be copied as float64."""
    width = max(1, BLOCK_BYTES // (8 * n_rows))
    for start in range(0, n_columns, width):
        yield slice(start, min(start + width, n_columns))


def _rows(n_rows: int, n_columns: int) -> Iterator[slice]:
    return _columns(n_columns, n_rows)


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
        size: number of rows of the Gram matrix.
        n: number of features.
        mean: float64 (D,).
    """
    epsilon = float(np.finfo(np.float64).eps)
    decomposition = largest * size * 4 * epsilon
    return decomposition + n * float(mean @ mean) * (4 * epsilon) ** 2


def check_rank(variance: float, rank: int | None) -> None:
    """Refuse a share of variance or a rank that makes no sense.

    Raises:
        OptionError: ``variance`` is not in (0, 1], or ``rank`` is below 1.
    """
    if not 0 < variance <= 1:
        raise OptionError(f"variance must be above 0 and at most 1, not {variance}")
    if rank is not None and rank < 1:
        raise OptionError(f"rank must be at least 1, not {rank}")
