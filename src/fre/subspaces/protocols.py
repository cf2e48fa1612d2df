"""Protocols of statistics and subspaces, which all three scopes (image, position, patch) follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fre.types import FloatArray

Scope: TypeAlias = Literal["image", "position", "patch"]

PRIOR_IMAGES = 32
"""The neighbourhood of a location counts as much as this many images."""

S = TypeVar("S", bound="Statistics")
B = TypeVar("B", bound="Subspace")


@dataclass(frozen=True)
class FitOptions:
    """How statistics become a subspace.

    Attributes:
        variance: share of the variance that the principal components keep, in (0, 1].
        rank: fixed number of components of an image-wide subspace; ``None`` goes by the variance.
        at_most: limit of the components of an image-wide subspace; ``None`` sets none.
        prior: weight of the 3 x 3 neighbourhood in the covariance of a position, in images.
        exact_rank: whether a ``rank`` above the rank of the features is an error. If not, the
            subspace has as many components as the features allow.
    """

    variance: float = 0.97
    rank: int | None = None
    at_most: int | None = None
    prior: float = PRIOR_IMAGES
    exact_rank: bool = True


class Subspace(Protocol):
    """A fitted subspace: it turns features into squared residuals.

    Attributes:
        scope: ``"image"``, one subspace for the whole feature map; ``"position"``, one for each
            location; ``"patch"``, one that all locations share.
        kind: ``"pca"``; or ``"tied"`` or ``"plain"``, an autoencoder.
        n: number of features that it was fitted to.
    """

    @property
    def scope(self) -> Scope: ...

    @property
    def kind(self) -> str: ...

    @property
    def n(self) -> int: ...

    @property
    def rank(self) -> int:
        """Number of components; with a subspace per position, the largest number."""

    def squared_residuals(self, X: FloatArray, channels: int, /) -> FloatArray:
        """Return the squared residuals of features, summed over the channels.

        Args:
            X: float32 (n, C * P), flattened from (channels, locations).
            channels: number of channels, C.

        Returns:
            float32 (n, P).
        """

    def stored(self: B) -> B:
        """Return the subspace as the default preset's graph stores it, in half precision."""

    def describe(self) -> dict[str, Any]:
        """Return rank, kept variance and further figures as plain JSON values."""


class Statistics(Protocol):
    """Sufficient statistics of features: they add up, and a subspace follows from them.

    Attributes:
        fixed_size: whether they take the same memory for any number of images, so that many are
            merged in one pass.
        n: number of images (of features, one for each image, tile or augmented copy).
    """

    fixed_size: ClassVar[bool]

    @property
    def n(self) -> int: ...

    @property
    def span(self) -> int | None:
        """Number of dimensions that image-wide features span; ``None`` for other scopes."""

    def merge(self: S, *others: S) -> S:
        """Return the statistics of all sets of features."""

    def update(self: S, X: FloatArray, /) -> S:
        """Return the statistics of these features and of X, float32 (b, C * P)."""

    def fit(self, options: FitOptions = ..., /) -> Subspace:
        """Return the principal subspace; raise OptionError for options out of range."""

    def mean_squared_residuals(self, subspace: Any, channels: int, /) -> NDArray[np.float64]:
        """Return the mean squared residual of these features under a subspace of the same scope.

        With mean m and scatter S of n features, and a subspace of mean m' and complement W, the
        mean of |W^T (x - m')|^2 is tr(W^T S W) / n + |W^T (m - m')|^2: no feature is needed.

        Returns:
            float64 (P,); (1,) for scope ``"patch"``, the mean over the locations.
        """

    def mean_of(self, maps: FloatArray, /) -> NDArray[np.float64]:
        """Return the mean of squared-residual maps, (n, P), shaped as `mean_squared_residuals`."""

    def to_arrays(self, *, compact: bool = ...) -> dict[str, NDArray[Any]]:
        """Return arrays to store: exact ones, or smaller ones that are rounded."""

    @classmethod
    def from_arrays(cls: type[S], arrays: Mapping[str, NDArray[Any]]) -> S:
        """Return the stored statistics; raise ModelFileError for missing or misshapen arrays."""
