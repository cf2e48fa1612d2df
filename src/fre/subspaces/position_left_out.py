"""Leave-one-out residuals at each location: of each image under the subspace of all others.

Leaving one image out takes a multiple of y y^T from a location's scatter A, y its vector there. No
further decomposition is needed. With A = V diag(l) V^T and z = V^T y, the resolvent of
A' = A - w y y^T is known in closed form (Sherman and Morrison, 1950):

    y^T (A' - s)^-1 y = f(s) / (1 - w f(s)),    f(s) = sum of z_a^2 / (l_a - s).

The squared residual is the part of |y|^2 in the directions of A' whose eigenvalues are below a
cut. It is half of |y|^2 minus 1 / pi times the integral of the real part of the resolvent along
s = cut + i t, t from 0 to infinity. Substituting t = e^u, the trapezoidal rule is off by about
2 exp(-pi^2 / `STEP`) of |y|^2. The cut is the strongest eigenvalue outside the subspace of all
images. Eigenvalues of A' and A interlace, so this one separates as many directions of
A' as of A. All images of a location share the nodes, so f is two products of matrices.

The covariance of a location has a share of the covariances around it, where the image stays in.
That share is small where there are more images than channels (`ROWS_A_CHANNEL`): with 1.8 times as
many, residuals are 2 % too small. Folds are less exact there: `benchmarks/left_out.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fre.parallel import on_slices
from fre.subspaces.protocols import PRIOR_IMAGES, FitOptions, Scope
from fre.types import FloatArray

ROWS_A_CHANNEL = 1.5
"""Images for each channel, from which on each is left out by itself."""

STEP = 0.8
"""Distance of the nodes in the logarithm of t."""

LOWEST = 0.005
"""First node, as a share of the distance that one image of average size moves an eigenvalue by."""

HIGHEST = 1e4
"""Last node, as a multiple of the largest eigenvalue."""

ROUNDING = 1e-6
"""Eigenvalues below this share of the largest are rounding: eight times that of one float32."""

ROWS = 256
"""Images at a time, so that working memory stays in the core's cache."""

BLOCK_BYTES = 2**20
"""Working memory on each core."""


def leaves_one_out(n: int, channels: int, options: FitOptions) -> bool:
    """Return whether images are left out one by one; if not, folds are.

    Args:
        n: number of images, each with one vector at each location.
        channels: length of the vectors.
        options: options of the fit.
    """
    return n >= ROWS_A_CHANNEL * channels and options.prior <= PRIOR_IMAGES


@dataclass(frozen=True)
class LeftOut:
    """Subspaces of all images but one, for each image that they were fitted to.

    Attributes:
        n: number of images.
        mean: float32 (P, C), mean of all images.
        energies: float32 (P, C), eigenvalues of the scatter of all images, strongest first; the
            cut, which is the first that the subspace leaves out, is 1.
        vectors: float32 (P, C, C), eigenvectors as columns, divided by the root of the cut.
        cut: float32 (P,), the eigenvalue at the cut; 0 where the subspace leaves nothing out.
        weights: float32 (P,), multiple of y y^T that an image has in the scatter.
        ranks: int (P,), dimensions of the subspaces.
    """

    scope: ClassVar[Scope] = "position"
    kind: ClassVar[str] = "pca"
    n: int
    mean: FloatArray
    energies: FloatArray
    vectors: FloatArray
    cut: FloatArray
    weights: FloatArray
    ranks: NDArray[np.intp]

    @classmethod
    def of(
        cls,
        n: int,
        mean: NDArray[np.float64],
        energies: NDArray[np.float64],
        vectors: FloatArray,
        ranks: NDArray[np.intp],
        weights: NDArray[np.float64],
    ) -> LeftOut:
        """Return the subspaces of decomposed scatters.

        Args:
            n: number of images.
            mean: float64 (P, C).
            energies: float64 (P, C), eigenvalues, strongest first.
            vectors: float32 (P, C, C), eigenvectors as columns in the same order; overwritten.
            ranks: int (P,), number of the directions that each subspace keeps.
            weights: float64 (P,), multiple of y y^T that an image has in the scatter.
        """
        channels = energies.shape[1]
        last = np.minimum(ranks, channels - 1)[:, None]
        cut = np.take_along_axis(energies, last, axis=1)[:, 0]
        # Directions without any variance are left out together with those of rounding alone.
        cut = np.maximum(cut, ROUNDING * energies[:, 0])
        cut = np.where(cut > 0, cut, 1.0)
        vectors /= np.sqrt(cut)[:, None, None]
        return cls(
            n,
            mean.astype(np.float32),
            (energies / cut[:, None]).astype(np.float32),
            vectors,
            np.where(ranks < channels, cut, 0).astype(np.float32),
            weights.astype(np.float32),
            ranks,
        )

    @property
    def rank(self) -> int:
        """The largest of the dimensions."""
        return int(self.ranks.max(initial=0))

    def stored(self) -> LeftOut:
        """Return the subspaces themselves, which no graph stores."""
        return self

    def describe(self) -> dict[str, Any]:
        """Return rank and n as plain JSON values."""
        return {"rank": self.rank, "n": self.n}

    def squared_residuals(self, X: FloatArray, channels: int | None = None) -> FloatArray:
        """Return the squared residual of each image under the subspaces of all others.

        Args:
            X: float32 (b, C * P), features of some of the images that were fitted, flattened from
                (channels, height, width).
            channels: not used, as the subspaces know their channels.

        Returns:
            float32 (b, P).
        """
        positions, channels = self.mean.shape
        vectors = X.reshape(len(X), channels, positions)
        residuals = np.empty((len(X), positions), np.float32)

        def work(part: slice) -> None:
            for start in range(0, len(X), ROWS):
                rows = slice(start, start + ROWS)
                centred = vectors[rows, :, part].transpose(2, 0, 1) - self.mean[part, None, :]
                residuals[rows, part] = self._residuals(centred, part).T

        on_slices(work, positions, max(1, BLOCK_BYTES // (4 * min(len(X), ROWS) * channels)))
        return residuals

    def _residuals(self, centred: FloatArray, part: slice) -> FloatArray:
        """Return the squared residuals of centred vectors: float32 (p, b, C) to (p, b)."""
        squares = np.square(centred @ self.vectors[part])
        weights, energies = self.weights[part, None, None], self.energies[part]
        top = max(float(energies.max(initial=1)), 1.0) * HIGHEST
        t = np.exp(np.arange(np.log(LOWEST / self.n), np.log(top) + STEP, STEP)).astype(np.float32)
        apart = energies[:, :, None] - 1
        poles = weights / (np.square(apart) + np.square(t))
        real, imaginary = squares @ (apart * poles), squares @ (t * poles)
        below = np.square(1 - real)
        below += np.square(imaginary)
        np.square(imaginary, out=imaginary)
        real -= np.square(real)
        real -= imaginary
        real /= below
        outside = 0.5 * squares.sum(axis=2)
        outside -= (real @ t) * (STEP / np.pi) / self.weights[part, None]
        # Without the image, the mean is further from it, too.
        scale = self.cut[part, None] * (self.n / (self.n - 1)) ** 2
        return np.asarray(np.maximum(outside, 0) * scale, np.float32)
