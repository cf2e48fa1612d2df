"""What a model has learnt, in a form that can learn more.

Beside the statistics of the features there are the residuals of good images, each as if it had been
left out: scales, thresholds and p-values are made of them. They belong to a fit of n images. With N
images residuals are smaller, and those of images that are gone can't be computed anew. But two
points of the learning curve are known of them (see `fre.subspaces.cross_fit`). One is what they are
under a subspace that has not seen them: that of n, left out, or, on average and from their
statistics, that of the N - n others; the larger of the two counts. The other is what they are, on
average, under the subspace of all N, which has seen them. As there, the value for images that are
left out of N lies on the line between the two.

While no more images were learnt than an image-wide subspace's statistics have room for, none of
this is needed for it: its features can be had back from the statistics, and it is fitted and
calibrated again as in a training on all images.

From the residuals that are exact follows, too, which of the old images shrink more than others
(`image_shrinkage`), as the new ones are akin to them: a line for all alike says nothing of that, and spread
is what thresholds are made of.

Elsewhere new images have a third: under a subspace of the old images and half of the new ones.
Where the residuals fall more slowly than by that line, as those of image-wide subspaces do while
their rank still grows, what the new ones show is taken for the old ones, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.errors import ModelFileError
from fre.features.table import Features
from fre.scoring.graph import LayerSubspace
from fre.subspaces.arrays import take
from fre.subspaces.cross_fit import extrapolate, folds_of
from fre.subspaces.image_statistics import ImageStatistics
from fre.subspaces.mean_residuals import mean_energies
from fre.subspaces.patch import PatchStatistics
from fre.subspaces.subspace import ImageSubspace
from fre.training.parts import KINDS, Part, PartStatistics
from fre.training.training_images import TrainingImages
from fre.types import FloatArray

KEPT_ROWS = 4096
"""Rows of residuals that are kept: 22 MB of the default preset's."""


KINSHIP = 0.5
"""See `image_shrinkage`."""


@dataclass(frozen=True)
class FittedPart:
    """One subspace, or one for each position, and the residuals that it is judged by.

    Attributes:
        part: what it is of.
        statistics: of the features of all good images.
        energies: float32 (r, P), squared residuals of good images as if each had been left out.
        coordinates: float32 (r, k), where in an image-wide subspace's statistics the features of
            these rows are; ``None`` if they can't be had back from there.
    """

    part: Part
    statistics: PartStatistics
    energies: FloatArray
    coordinates: FloatArray | None = None

    @classmethod
    def trained(
        cls,
        part: Part,
        statistics: PartStatistics,
        energies: FloatArray,
        coordinates: FloatArray | None,
    ) -> FittedPart:
        """From a training, or an update that was fitted as one.

        Args:
            part: what it is of.
            statistics: of all features.
            energies: of the images as they are, without augmented copies.
            coordinates: of all features.
        """
        if coordinates is not None and len(coordinates) != len(energies):
            coordinates = None
        return cls(part, statistics, energies, coordinates)

    def features(self, more: int) -> FloatArray | None:
        """What the statistics were made of, as long as they would hold some more, too.

        Args:
            more: number of features.

        Returns:
            float32 (n, D), in the order of the residuals; ``None`` if they can't be had back, or
            the statistics of all of them would be beyond the capacity.
        """
        statistics = self.statistics
        if self.coordinates is None or not isinstance(statistics, ImageStatistics):
            return None
        if statistics.n + more > statistics.capacity:
            return None
        return statistics.features(self.coordinates)

    def shares(
        self, subspace: LayerSubspace, n: int, others: LayerSubspace | None = None
    ) -> NDArray[np.float64]:
        """By what the residuals shrink, on average, if images are left out of a fit of more.

        Args:
            subspace: of these images and others.
            n: rows that it was fitted to.
            others: that of the others alone; ``None``, where they are fewer than these.

        Returns:
            float64 (P,), or (1,) for a subspace of all positions.
        """
        before = self.statistics.n
        channels = self.part.layout.channels
        mean = self.energies.mean(axis=0, dtype=np.float64)
        if isinstance(self.statistics, PatchStatistics):
            places = self.statistics.places
            mean = (mean if places is None else mean[places]).mean(keepdims=True)
        held, fitted_on = mean, before
        if others is not None and n > 2 * before:
            held, fitted_on = mean_energies(self.statistics, others, channels), n - before
        own = mean_energies(self.statistics, subspace, channels)
        share = (n - fitted_on) / (n + fitted_on)
        wanted = (1 - share) * held + share * own
        shares = np.divide(wanted, mean, out=np.ones_like(own), where=mean > 0)
        # Images of another kind make for a large residual; they don't make it larger than it was.
        most = np.divide(own, mean, out=np.ones_like(own), where=mean > 0)
        return np.asarray(np.minimum(shares, np.maximum(most, 1.0)))

    def scaled(
        self, shares: NDArray[np.float64], kinship: NDArray[np.float64] | None = None
    ) -> FloatArray:
        """The residuals times a factor for each location.

        Args:
            shares: float64 (P,), or (1,).
            kinship: float64 (r,), from `image_shrinkage`, by which rows then differ; the mean at each
                location is the same with it and without.
        """
        if kinship is None:
            return np.asarray(self.energies * shares, np.float32)
        energies = self.energies * kinship[:, None]
        mean, weighted = (x.mean(axis=0, dtype=np.float64) for x in (self.energies, energies))
        factors = shares * np.divide(mean, weighted, out=np.ones_like(mean), where=weighted > 0)
        return np.asarray(energies * factors, np.float32)


@dataclass(frozen=True)
class FittedDetector:
    """All that an update needs of the images that are gone.

    Attributes:
        parts: what was fitted.
        fold: (m,), the fold of each image whose residuals are there: what is normal for it is
            told by the images of the other folds.
        image: (r,), which of those images a row is of, ascending.
        tile: (r,), which of the image's tiles.
        sizes: (m, 2), original height and width of each image.
        images: all images that the statistics are of; empty if they are not known.
    """

    parts: tuple[FittedPart, ...]
    fold: NDArray[np.intp]
    image: NDArray[np.intp]
    tile: NDArray[np.intp]
    sizes: NDArray[np.intp]
    images: TrainingImages = field(default_factory=TrainingImages)

    @classmethod
    def of(
        cls, parts: Sequence[FittedPart], features: Features, folds: Sequence[NDArray[np.intp]]
    ) -> FittedDetector:
        """From a training.

        Args:
            parts: with a row of residuals for each of `Features.originals`.
            features: their images.
            folds: the images of each fold.
        """
        rows = features.originals
        sizes = np.zeros((features.n, 2), np.intp)
        if features.sizes is not None:
            sizes[:] = features.sizes
        return cls(
            tuple(parts),
            folds_of(features.n, folds),
            rows if features.image is None else features.image[rows],
            np.zeros(len(rows), np.intp) if features.tile is None else features.tile[rows],
            sizes,
            TrainingImages.of(features.names or ("",) * features.n, features.sha256),
        )

    @property
    def n(self) -> int:
        """The number of images whose residuals are there."""
        return len(self.fold)

    @property
    def calibration(self) -> Features:
        """Those images, without features."""
        return Features(
            np.zeros((len(self.image), 0), np.float32),
            ("",) * self.n,
            (),
            image=self.image,
            tile=self.tile,
            copy=np.zeros(len(self.image), np.intp),
            sizes=tuple((int(height), int(width)) for height, width in self.sizes),
        )

    @property
    def folds(self) -> list[NDArray[np.intp]]:
        """The images of each fold that has any."""
        return [np.flatnonzero(self.fold == number) for number in np.unique(self.fold)]

    @property
    def folds_of_rows(self) -> list[NDArray[np.intp]]:
        """The rows of the images of each fold that has any."""
        of_row = self.fold[self.image]
        return [np.flatnonzero(of_row == number) for number in np.unique(of_row)]

    def limited(self) -> FittedDetector:
        """With the residuals of fewer images, spread evenly over all, if there are too many."""
        each = max(1, round(len(self.image) / self.n))
        kept = max(32, KEPT_ROWS // each)
        if self.n <= kept:
            return self
        chosen = np.linspace(0, self.n - 1, kept).round().astype(np.intp)
        rows = np.flatnonzero(np.isin(self.image, chosen))
        return FittedDetector(
            tuple(
                replace(part, energies=part.energies[rows], coordinates=None) for part in self.parts
            ),
            self.fold[chosen],
            np.searchsorted(chosen, self.image[rows]),
            self.tile[rows],
            self.sizes[chosen],
            self.images,
        )

    def beside(self, other: FittedDetector, parts: Sequence[FittedPart]) -> FittedDetector:
        """The images of both, with parts that hold the residuals of both."""
        return FittedDetector(
            tuple(parts),
            np.concatenate([self.fold, other.fold]),
            np.concatenate([self.image, other.image + self.n]),
            np.concatenate([self.tile, other.tile]),
            np.concatenate([self.sizes, other.sizes]),
            self.images.beside(other.images),
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Arrays to store; `from_arrays` takes them in. Statistics are rounded to float32, once."""
        arrays: dict[str, NDArray[Any]] = {
            "fold": self.fold.astype(np.int32),
            "image": self.image.astype(np.int32),
            "tile": self.tile.astype(np.int32),
            "sizes": self.sizes.astype(np.int32),
            **self.images.to_arrays(),
        }
        for learnt in self.parts:
            stored = learnt.statistics.to_arrays(np.float32)
            arrays |= {f"{learnt.part.name}/{key}": values for key, values in stored.items()}
            arrays[f"{learnt.part.name}/energies"] = learnt.energies
            if learnt.coordinates is not None:
                arrays[f"{learnt.part.name}/coordinates"] = learnt.coordinates
        return arrays

    @classmethod
    def from_arrays(
        cls, parts: Sequence[Part], arrays: Mapping[str, NDArray[Any]]
    ) -> FittedDetector:
        """What `to_arrays` stored.

        Args:
            parts: what was fitted.
            arrays: by name.

        Raises:
            ModelFileError: an array is missing or has the wrong shape.
        """
        what = "what the model has learnt"
        fold, image, tile = (
            take(arrays, name, (None,), what).astype(np.intp) for name in ("fold", "image", "tile")
        )
        sizes = take(arrays, "sizes", (len(fold), 2), what).astype(np.intp)
        fits = len(tile) == len(image) and len(fold) > 0
        if not fits or not np.array_equal(np.unique(image), np.arange(len(fold))):
            raise ModelFileError(f"{what} is damaged: its rows are of other images")
        learnt = []
        for part in parts:
            prefix = f"{part.name}/"
            stored = {
                name.removeprefix(prefix): values
                for name, values in arrays.items()
                if name.startswith(prefix)
            }
            height, width = part.layout.pooled
            energies = take(stored, "energies", (len(image), height * width), what)
            statistics: PartStatistics = KINDS[part.scope].from_arrays(stored)
            coordinates = None
            if "coordinates" in stored and isinstance(statistics, ImageStatistics):
                shape = (statistics.n, statistics.rank)
                coordinates = take(stored, "coordinates", shape, what).astype(np.float32)
            learnt.append(FittedPart(part, statistics, energies.astype(np.float32), coordinates))
        images = TrainingImages.from_arrays(arrays)
        return cls(tuple(learnt), fold, image, tile, sizes, images)


def image_shrinkage(pairs: Sequence[tuple[FloatArray, FloatArray]]) -> NDArray[np.float64] | None:
    """How rows differ in what their residuals shrink by, as more images are learnt.

    Images to which new ones are akin shrink most, those that stay alone least. The residuals under
    image-wide subspaces show it, where they can be computed anew; the logarithm of what others
    shrink by follows that of these with correlations of 0.12 to 0.98, 0.70 in the median, and
    slopes of 0.09 to 0.80, 0.43 in the median (`benchmarks/kinship.py`, tiles and screw).

    Args:
        pairs: float32 (r, P) each, the residuals of the same rows under such subspaces, before
            and after.

    Returns:
        float64 (r,), factors whose geometric mean is 1; ``None`` without any pair.
    """
    if not pairs:
        return None
    logs = []
    for before, after in pairs:
        sums = [np.maximum(x.sum(axis=1, dtype=np.float64), 1e-12) for x in (before, after)]
        logs.append(np.log(sums[1] / sums[0]))
    log = np.mean(logs, axis=0)
    return np.asarray(np.exp(KINSHIP * (log - log.mean())))


def residuals(
    X: FloatArray, channels: int, before: LayerSubspace, after: LayerSubspace
) -> FloatArray:
    """Squared residuals of new images as if each were left out of the fit that has them.

    Args:
        X: float32 (b, D), the new images.
        channels: of the feature map.
        before: a subspace without them.
        after: the subspace with them.

    Returns:
        float32 (b, P).
    """
    held, own = (squared_residuals_under(subspace, X, channels) for subspace in (before, after))
    return extrapolate(held, own, fitted_on=before.n, of=after.n)


def squared_residuals_under(subspace: LayerSubspace, X: FloatArray, channels: int) -> FloatArray:
    """Float32 (b, P): squared residuals of features, float32 (b, D), under any subspace."""
    if isinstance(subspace, ImageSubspace):
        return subspace.squared_residuals(X, channels)
    return subspace.squared_residuals(X)
