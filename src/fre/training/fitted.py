"""The record of a fitted detector: what training ends with, and what an update or a merge needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.errors import DatasetError, ModelFileError
from fre.features.table import RowIndex
from fre.inference.training_images import TrainingImages
from fre.subspaces.arrays import take
from fre.subspaces.cross_fit import CrossFit
from fre.subspaces.image_statistics import ImageStatistics
from fre.subspaces.protocols import FitOptions, Statistics, Subspace
from fre.training.parts import KINDS, Part
from fre.types import FloatArray

KEPT_ROWS = 4096
"""Rows of held-out residuals that a model keeps: 22 MB with the default preset."""

LEAST_IMAGES = 3
"""With two images, each is scored by the other alone: both score the same, and half of all good
images would score more."""


@dataclass(frozen=True)
class FittedPart:
    """A part of a fitted detector.

    Attributes:
        part: layer, pooling and scope.
        subspace: fitted to all good images, as the graph stores it.
        statistics: statistics of the features of all good images; ``None`` for an autoencoder.
        residuals: float32 (r, P), held-out squared residuals of good images.
        coordinates: float32 (r, k), coordinates of the rows' features in the statistics' basis,
            from which the features follow; ``None`` if they do not.
    """

    part: Part
    subspace: Subspace
    statistics: Statistics | None
    residuals: FloatArray
    coordinates: FloatArray | None = None

    @classmethod
    def of(
        cls, part: Part, fit: CrossFit, originals: NDArray[np.intp] | None = None, *, half: bool
    ) -> FittedPart:
        """Return the part of a cross-fit.

        Args:
            part: that was fitted.
            fit: its cross-fit.
            originals: rows to keep, those that are no augmented copies; ``None`` is all.
            half: whether the graph stores the subspace in half precision.
        """
        rows = np.arange(len(fit.residuals)) if originals is None else originals
        coordinates = fit.coordinates
        if coordinates is not None and len(coordinates) != len(rows):
            coordinates = None
        subspace = fit.subspace.stored() if half else fit.subspace
        return cls(part, subspace, fit.statistics, fit.residuals[rows], coordinates)

    @property
    def known(self) -> Statistics:
        """The statistics of a part that is no autoencoder."""
        assert self.statistics is not None
        return self.statistics

    def features(self, more: int) -> FloatArray | None:
        """Return the features that the statistics were made of, while more would fit in, too.

        Args:
            more: number of further features.

        Returns:
            float32 (n, D), in the order of the residuals; ``None`` if they do not follow from the
            statistics, or the statistics of all of them would be beyond the capacity.
        """
        statistics = self.statistics
        if self.coordinates is None or not isinstance(statistics, ImageStatistics):
            return None
        if statistics.n + more > statistics.capacity:
            return None
        return statistics.features(self.coordinates)


@dataclass(frozen=True)
class FittedDetector:
    """A fitted detector, before it is a model.

    Attributes:
        parts: parts of the detector.
        fold: (m,), the fold of each image that has held-out residuals. The scales that the image
            is scored by come from the other folds.
        image: (r,), the image that each row of residuals is of, ascending.
        tile: (r,), the tile of the image.
        sizes: (m, 2), original height and width of each image.
        images: names and digests of all good images.
        chosen: (m,), which of all good images each one with held-out residuals is, ascending.
    """

    parts: tuple[FittedPart, ...]
    fold: NDArray[np.intp]
    image: NDArray[np.intp]
    tile: NDArray[np.intp]
    sizes: NDArray[np.intp]
    images: TrainingImages
    chosen: NDArray[np.intp]

    @classmethod
    def of(
        cls,
        parts: Sequence[FittedPart],
        index: RowIndex,
        fold: NDArray[np.intp],
        images: TrainingImages,
        chosen: NDArray[np.intp] | None = None,
    ) -> FittedDetector:
        """Return the record of fitted parts and their rows; without ``chosen``, of all images."""
        sizes = np.zeros((index.n, 2), np.intp) if index.sizes is None else index.sizes
        if chosen is None:
            chosen = np.arange(index.n)
        return cls(tuple(parts), fold, index.image, index.tile, sizes, images, chosen)

    @property
    def n(self) -> int:
        """The number of images that have held-out residuals."""
        return len(self.fold)

    @property
    def index(self) -> RowIndex:
        """Image and tile of each row of residuals."""
        known = self.sizes.any() or not self.n
        return RowIndex(self.image, self.tile, self.n, self.sizes if known else None)

    @property
    def folds_of_rows(self) -> list[NDArray[np.intp]]:
        """The rows of each fold that has images."""
        of_row = self.fold[self.image]
        return [np.flatnonzero(of_row == number) for number in np.unique(of_row)]

    def frozen(self) -> FittedDetector:
        """Return the detector without statistics: its model cannot be updated or merged."""
        parts = (replace(part, statistics=None, coordinates=None) for part in self.parts)
        return replace(self, parts=tuple(parts))

    def limited(self) -> FittedDetector:
        """Return the detector with residuals of fewer images, spread evenly, if there are many."""
        each = max(1, round(len(self.image) / self.n))
        kept = max(32, KEPT_ROWS // each)
        if self.n <= kept:
            return self
        chosen = np.linspace(0, self.n - 1, kept).round().astype(np.intp)
        rows = np.flatnonzero(np.isin(self.image, chosen))
        return FittedDetector(
            tuple(
                replace(part, residuals=part.residuals[rows], coordinates=None)
                for part in self.parts
            ),
            self.fold[chosen],
            np.searchsorted(chosen, self.image[rows]),
            self.tile[rows],
            self.sizes[chosen],
            self.images,
            self.chosen[chosen],
        )

    def beside(self, other: FittedDetector, parts: Sequence[FittedPart]) -> FittedDetector:
        """Return a detector of the images of both.

        Args:
            other: detector whose images come last.
            parts: with the residuals of both.
        """
        return FittedDetector(
            tuple(parts),
            np.concatenate([self.fold, other.fold]),
            np.concatenate([self.image, other.image + self.n]),
            np.concatenate([self.tile, other.tile]),
            np.concatenate([self.sizes, other.sizes]),
            self.images.beside(other.images),
            np.concatenate([self.chosen, other.chosen + len(self.images)]),
        )

    def check_variance(self, n: int) -> None:
        """Refuse good images whose features have no variance.

        The files differ, as `check_enough` has seen. So the images are copies in other files, the
        inspected region shows no difference, or the network's weights are unusable.

        Args:
            n: number of images, for the message.

        Raises:
            DatasetError: the features of every image-wide part span fewer than two dimensions.
        """
        found = (part.statistics.span for part in self.parts if part.statistics is not None)
        spans = [span for span in found if span is not None]
        if spans and max(spans) < LEAST_IMAGES - 1:
            seen = "no difference between them" if max(spans) == 0 else "only 2 different ones"
            raise DatasetError(
                f"{n} good images, but the network sees {seen}: they are copies, differ outside "
                f"the inspected region only, or the weights are unusable; give {LEAST_IMAGES} "
                "different images or more"
            )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return arrays to store, which `from_arrays` reads; statistics are rounded.

        The list of images is stored apart, as every model has it.
        """
        arrays: dict[str, NDArray[Any]] = {
            "fold": self.fold.astype(np.int32),
            "image": self.image.astype(np.int32),
            "tile": self.tile.astype(np.int32),
            "sizes": self.sizes.astype(np.int32),
            "chosen": self.chosen.astype(np.int32),
        }
        for one in self.parts:
            stored = one.known.to_arrays(compact=True)
            arrays |= {f"{one.part.name}/{key}": values for key, values in stored.items()}
            arrays[f"{one.part.name}/energies"] = one.residuals
            if one.coordinates is not None:
                arrays[f"{one.part.name}/coordinates"] = one.coordinates
        return arrays

    @classmethod
    def from_arrays(
        cls,
        parts: Sequence[Part],
        options: FitOptions,
        arrays: Mapping[str, NDArray[Any]],
        *,
        half: bool,
    ) -> FittedDetector:
        """Return the detector that `to_arrays` stored, its subspaces fitted anew.

        Args:
            parts: parts of the detector.
            options: options of their fit.
            arrays: by name.
            half: whether the graph stores subspaces in half precision.

        Raises:
            ModelFileError: an array is missing or has the wrong shape.
        """
        what = "what the model has learnt"
        fold, image, tile = (
            take(arrays, name, (None,), what).astype(np.intp) for name in ("fold", "image", "tile")
        )
        sizes = take(arrays, "sizes", (len(fold), 2), what).astype(np.intp)
        images = TrainingImages.from_arrays(arrays)
        chosen = take(arrays, "chosen", (len(fold),), what).astype(np.intp)
        fits = len(tile) == len(image) and len(fold) > 0
        fits = fits and 0 <= chosen.min() <= chosen.max() < len(images)
        if not fits or not np.array_equal(np.unique(image), np.arange(len(fold))):
            raise ModelFileError(f"{what} is damaged: its rows are of other images")
        fitted = []
        for part in parts:
            prefix = f"{part.name}/"
            stored = {
                name.removeprefix(prefix): values
                for name, values in arrays.items()
                if name.startswith(prefix)
            }
            height, width = part.layout.pooled
            residuals = take(stored, "energies", (len(image), height * width), what)
            statistics = KINDS[part.scope].from_arrays(stored)
            coordinates = None
            if "coordinates" in stored and statistics.span is not None:
                shape = (statistics.n, statistics.span)
                coordinates = take(stored, "coordinates", shape, what).astype(np.float32)
            subspace = statistics.fit(options)
            fitted.append(
                FittedPart(
                    part,
                    subspace.stored() if half else subspace,
                    statistics,
                    residuals.astype(np.float32),
                    coordinates,
                )
            )
        return cls(tuple(fitted), fold, image, tile, sizes, images, chosen)


def check_enough(sha256: Sequence[str], n: int) -> None:
    """Refuse to fit a model to fewer than three different images.

    Args:
        sha256: digest of each image that could be read.
        n: number of all images.

    Raises:
        DatasetError: too few could be read, or too few of them differ.
    """
    if len(sha256) < LEAST_IMAGES:
        raise DatasetError(
            f"training needs {LEAST_IMAGES} good images or more; {len(sha256)} of {n} could be read"
        )
    if (different := len(set(sha256))) < LEAST_IMAGES:
        raise DatasetError(no_variance(len(sha256), different))


def no_variance(n: int, different: int) -> str:
    """Return the message about images that are copies of one or two."""
    found = "all of them are equal" if different == 1 else "only 2 of them are different"
    return (
        f"{n} good images, but {found}: copies say nothing of how good parts vary; give "
        f"{LEAST_IMAGES} different images or more"
    )
