"""Cross-fit a detector in two passes over the images, without keeping their features.

The first pass accumulates the statistics of each fold. The second reads images once more, as many
as scales and thresholds need, and computes their held-out residuals. A checkpoint is written now
and then during the first pass, and an interrupted training resumes from it to the same model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fre.errors import ImageError
from fre.features.extractor import FeatureExtractor, source_name
from fre.features.layout import FeatureLayout
from fre.features.runner import FeatureRunner
from fre.features.stream import FeatureBatch, FeatureStream, ImageRecord
from fre.features.table import RowIndex
from fre.images.augmentation import Augmentation
from fre.images.decode import ImageSource
from fre.inference.training_images import TrainingImages
from fre.training.checkpoint import CHECKPOINT_SECONDS, FirstPass, identity_of
from fre.training.fitted import FittedDetector, FittedPart, check_enough
from fre.training.fold_statistics import FoldStatistics, HeldOutSubspaces
from fre.training.folds import Folds
from fre.training.parts import Part
from fre.training.plan import DetectorPlan
from fre.types import FloatArray, Progress

CHUNK = 256
"""Images between two moments at which a checkpoint may be written."""

HELD_OUT_ROWS = 64
"""Rows of the second pass that are computed together: subspaces are converted each time."""

CALIBRATION_ROWS = 8192
"""Rows that the second pass reads: enough for a false-alarm rate of 0.001."""


@dataclass(frozen=True)
class StreamOptions:
    """How images are read in the two passes.

    Attributes:
        augmentation: makes further rows of each image in the first pass; ``None`` makes none.
        skip_unreadable: leave out images that can't be read, instead of stopping.
        checkpoint: file from which an interrupted training resumes; ``None`` writes none.
        checkpoint_seconds: least time between two checkpoints.
    """

    augmentation: Augmentation | None = None
    skip_unreadable: bool = False
    checkpoint: Path | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS


@dataclass(frozen=True)
class Job:
    """The images of a training, and how they are read.

    Attributes:
        extractor: feature extractor of the parts' layers.
        sources: files, or arrays, uint8 (H, W, 3).
        fold_of: (n,), the fold of each image.
        options: how the images are read.
        identity: settings on which the model depends, for checkpoints.
    """

    extractor: FeatureExtractor
    sources: Sequence[ImageSource]
    fold_of: NDArray[np.intp]
    options: StreamOptions
    identity: Mapping[str, Any]


class TwoPasses(Protocol):
    """The two passes over the images: `LocalPasses`, or on a cluster."""

    def session(self) -> AbstractContextManager[Any]:
        """Return a context in which both passes run."""

    def accumulate(
        self, job: Job, statistics: FoldStatistics, progress: Progress | None
    ) -> tuple[FoldStatistics, list[ImageRecord], list[ImageError]]:
        """Accumulate the statistics of each fold, in the first pass.

        Args:
            job: the images.
            statistics: statistics of the detector's parts, without any feature.
            progress: called after each image.

        Returns:
            Statistics of all images, their records in order, and errors of skipped images.
        """

    def hold_out(
        self,
        job: Job,
        subspaces: Iterable[tuple[int, HeldOutSubspaces]],
        chosen: NDArray[np.intp],
        progress: Progress | None,
    ) -> HeldOutResiduals:
        """Compute held-out residuals, in the second pass.

        Args:
            job: the images.
            subspaces: subspaces of each fold, one after the other.
            chosen: the images to read.
            progress: called after each image.
        """


class StreamedRows:
    """Features that are computed twice and not kept: rows of `fre.training.pipeline.fit_detector`.

    Args:
        extractor: feature extractor of the plan's layers.
        sources: files, or arrays, uint8 (H, W, 3).
        passes: go through the images.
        options: how the images are read.
        identity: settings on which the model depends; a checkpoint of others is not resumed.

    Attributes:
        images: after `cross_fit`, records of the images that were read.
        skipped: after `cross_fit`, errors of the images that were left out.
    """

    def __init__(
        self,
        extractor: FeatureExtractor,
        sources: Sequence[ImageSource],
        passes: TwoPasses,
        options: StreamOptions,
        identity: Mapping[str, Any],
    ) -> None:
        self.images: list[ImageRecord] = []
        self.skipped: list[ImageError] = []
        self._extractor = extractor
        self._sources = sources
        self._passes = passes
        self._options = options
        self._identity = identity

    @property
    def layouts(self) -> tuple[FeatureLayout, ...]:
        """The layouts of the features of each layer."""
        return self._extractor.layouts

    def cross_fit(
        self,
        plan: DetectorPlan,
        parts: tuple[Part, ...],
        folds: Folds,
        progress: Progress | None = None,
    ) -> FittedDetector:
        """Fit each part to all images and cross-fit it; see `fre.training.pipeline.FeatureRows`."""
        with self._passes.session():
            return self._cross_fit(plan, parts, folds, progress)

    def _cross_fit(
        self,
        plan: DetectorPlan,
        parts: tuple[Part, ...],
        folds: Folds,
        progress: Progress | None,
    ) -> FittedDetector:
        sources = self._sources
        job = Job(self._extractor, sources, folds.of_image, self._options, self._identity)
        nothing = FoldStatistics(
            parts,
            self.layouts,
            folds=folds.count,
            coarse=folds.coarse,
            capacity=plan.capacity,
            leave_one_out=[part.name for part in parts if folds.leaves_one_out(part, plan.fit)],
        )
        statistics, self.images, self.skipped = self._passes.accumulate(job, nothing, progress)
        sha256 = [image.sha256 for image in self.images]
        check_enough(sha256, len(sources))
        totals, own, left_out = statistics.fit(plan.fit, progress)
        found = self._passes.hold_out(
            job,
            statistics.held_out(left_out, plan.fit),
            calibration_images(self.images, self._extractor),
            progress,
        ).in_order()
        fitted = (
            FittedPart(part, subspace.stored() if plan.half else subspace, total, residuals)
            for part, subspace, total, residuals in zip(
                parts, own, totals, found.residuals, strict=True
            )
        )
        names = [source_name(sources[image.place]) for image in self.images]
        places = [image.place for image in found.images]
        return FittedDetector.of(
            [*fitted],
            found.index,
            folds.of_image[places],
            TrainingImages.of(names, sha256),
            np.searchsorted([image.place for image in self.images], places),
        )


@dataclass(frozen=True)
class LocalPasses:
    """The two passes in this process."""

    def session(self) -> AbstractContextManager[Any]:
        """Return a context that does nothing."""
        return nullcontext()

    def accumulate(
        self, job: Job, statistics: FoldStatistics, progress: Progress | None
    ) -> tuple[FoldStatistics, list[ImageRecord], list[ImageError]]:
        """Accumulate the statistics of each fold; see `TwoPasses`."""
        options, sources, fold_of = job.options, job.sources, job.fold_of
        identity = identity_of(
            job.identity, sources, fold_of, options.augmentation, options.skip_unreadable
        )
        state = FirstPass(statistics, options.checkpoint, options.checkpoint_seconds, identity)
        state.resume()
        while state.consumed < len(sources):
            start = state.consumed
            stop = min(start + CHUNK, len(sources))
            images, skipped = accumulate(
                job.extractor,
                sources[start:stop],
                fold_of[start:stop],
                statistics,
                options,
                offset_progress(progress, "Learning", start, len(sources)),
            )
            state.images += [image.at(start + image.place) for image in images]
            state.skipped += skipped
            state.consumed = stop
            state.checkpoint()
        return statistics, state.images, state.skipped

    def hold_out(
        self,
        job: Job,
        subspaces: Iterable[tuple[int, HeldOutSubspaces]],
        chosen: NDArray[np.intp],
        progress: Progress | None,
    ) -> HeldOutResiduals:
        """Compute held-out residuals; see `TwoPasses`."""
        found: list[HeldOutResiduals] = []
        done = 0
        for fold, of_fold in subspaces:
            places = chosen[job.fold_of[chosen] == fold]
            if not len(places):
                continue
            piece = held_out_residuals(
                job.extractor,
                [job.sources[place] for place in places],
                of_fold,
                job.options,
                offset_progress(progress, "Calibrating", done, len(chosen)),
            )
            images = tuple(image.at(int(places[image.place])) for image in piece.images)
            found.append(replace(piece, images=images))
            done += len(places)
        return HeldOutResiduals.join(found)


def accumulate(
    extractor: FeatureRunner,
    sources: Sequence[ImageSource],
    fold_of: NDArray[np.intp],
    statistics: FoldStatistics,
    options: StreamOptions,
    progress: Progress | None = None,
) -> tuple[list[ImageRecord], list[ImageError]]:
    """Add the features of some images to the statistics of their folds.

    Args:
        extractor: feature extractor of the statistics' layers.
        sources: files, or arrays, uint8 (H, W, 3).
        fold_of: the fold of each image.
        statistics: that the features are added to.
        options: how the images are read.
        progress: called after each image.

    Returns:
        Records of the images that were read, and errors of skipped images.

    Raises:
        ImageError: an image can't be read, and is not to be skipped.
    """
    stream = FeatureStream(
        extractor,
        sources,
        augmentation=options.augmentation,
        skip_unreadable=options.skip_unreadable,
        progress=progress,
    )
    for batch in stream:
        at = np.array([stream.images[number].place for number in batch.image])
        statistics.add(batch.X, fold_of[at])
    return stream.images, stream.skipped


@dataclass(frozen=True)
class HeldOutResiduals:
    """Held-out residuals of some images.

    Attributes:
        residuals: for each part float32 (r, P), held-out squared residuals of each row.
        image: (r,), number of the row's image.
        tile: (r,), number of the tile in the image.
        images: records of the images.
    """

    residuals: list[FloatArray]
    image: NDArray[np.intp]
    tile: NDArray[np.intp]
    images: tuple[ImageRecord, ...]

    @classmethod
    def join(cls, pieces: Sequence[HeldOutResiduals]) -> HeldOutResiduals:
        """Return the residuals of all pieces, the rows of each after those before it."""
        before = np.cumsum([0, *(len(piece.images) for piece in pieces)])
        nothing = np.zeros(0, np.intp)
        return cls(
            [np.concatenate(parts) for parts in zip(*(p.residuals for p in pieces), strict=True)],
            np.concatenate(
                [nothing, *(p.image + start for p, start in zip(pieces, before, strict=False))]
            ),
            np.concatenate([nothing, *(piece.tile for piece in pieces)]),
            tuple(image for piece in pieces for image in piece.images),
        )

    def in_order(self) -> HeldOutResiduals:
        """Return the same with images, and the rows of each, in the order of their places."""
        by_place = np.argsort([image.place for image in self.images], kind="stable")
        rank = np.empty(len(by_place), np.intp)
        rank[by_place] = np.arange(len(by_place))
        rows = np.argsort(rank[self.image], kind="stable")
        return HeldOutResiduals(
            [values[rows] for values in self.residuals],
            rank[self.image][rows],
            self.tile[rows],
            tuple(self.images[number] for number in by_place),
        )

    @property
    def index(self) -> RowIndex:
        """Image and tile of each row."""
        sizes = np.array([image.size for image in self.images], np.intp).reshape(-1, 2)
        return RowIndex(self.image, self.tile, len(self.images), sizes)


def held_out_residuals(
    extractor: FeatureRunner,
    sources: Sequence[ImageSource],
    subspaces: HeldOutSubspaces,
    options: StreamOptions,
    progress: Progress | None = None,
) -> HeldOutResiduals:
    """Compute the held-out residuals of some images of one fold.

    Args:
        extractor: feature extractor of the parts' layers.
        sources: files, or arrays, uint8 (H, W, 3).
        subspaces: subspaces of the fold.
        options: how the images are read.
        progress: called after each image.

    Raises:
        ImageError: an image can't be read, and is not to be skipped.
    """
    stream = FeatureStream(
        extractor, sources, skip_unreadable=options.skip_unreadable, progress=progress
    )
    pieces: list[HeldOutResiduals] = []
    waiting: list[FeatureBatch] = []

    def compute() -> None:
        pieces.append(
            HeldOutResiduals(
                subspaces.residuals(np.concatenate([batch.X for batch in waiting])),
                np.concatenate([batch.image for batch in waiting]),
                np.concatenate([batch.tile for batch in waiting]),
                (),
            )
        )
        waiting.clear()

    for batch in stream:
        waiting.append(batch)
        if sum(len(batch.X) for batch in waiting) >= HELD_OUT_ROWS:
            compute()
    if waiting:
        compute()
    return replace(HeldOutResiduals.join(pieces), images=tuple(stream.images))


def calibration_images(images: Sequence[ImageRecord], extractor: FeatureRunner) -> NDArray[np.intp]:
    """Return the places of images, spread evenly over all, that make enough rows.

    Args:
        images: all that were read.
        extractor: that makes rows of them.
    """
    each = max(1, round(np.mean([extractor.geometry.count(image.size) for image in images])))
    wanted = min(len(images), max(32, CALIBRATION_ROWS // each))
    picked = np.linspace(0, len(images) - 1, wanted).round().astype(int)
    return np.array([images[index].place for index in np.unique(picked)], np.intp)


def offset_progress(
    progress: Progress | None, task: str, start: int, total: int
) -> Progress | None:
    """Return a callback for a piece of a task that begins at ``start`` and has ``total`` steps."""
    if progress is None:
        return None

    def show(_: str, done: int, __: int) -> None:
        progress(task, start + done, total)

    return show
