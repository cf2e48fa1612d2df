"""Training on more images than fit in memory: their features are never all held.

A first pass absorbs every image into statistics of its fold. A second one looks once more at some
of them, and computes what the residual of each would be if it had been left out, of which scales
and thresholds are made. A checkpoint after every so many images lets a training that was stopped go
on where it was, to the same model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fre.errors import DatasetError, ImageError
from fre.features.extractor import FeatureExtractor
from fre.features.runner import FeatureRunner
from fre.features.stream import FeatureBatch, FeatureStream, ImageRecord
from fre.features.table import Features
from fre.images.decode import ImageSource
from fre.scoring.calibration import Calibration
from fre.scoring.graph import LayerSubspace
from fre.subspaces.cross_fit import extrapolate, folds_of, sums_without
from fre.subspaces.image_statistics import ImageStatistics
from fre.subspaces.subspace import ImageSubspace
from fre.training.build import Assembled, assemble_fused, assemble_reference
from fre.training.checkpoint import _identity, _State
from fre.training.config import Configuration
from fre.training.fitted import FittedDetector, FittedPart, squared_residuals_under
from fre.training.fold_statistics import FoldStatistics
from fre.training.parts import Part, PartStatistics, fitted, part_name
from fre.training.plan import OVERALL_POOL, FusedPlan, StreamOptions
from fre.training.readout import as_stored, detector_of, fuse
from fre.types import FloatArray, Progress

CHUNK = 256
"""Images between two moments at which a checkpoint may be written."""


LEAST_IMAGES = 3
"""Of two images each is judged by the other alone: both score the same, and half of all good parts
would score more."""

JUDGED_ROWS = 64
"""Rows of the second pass that are looked at together: subspaces are converted for each look."""

CALIBRATION_ROWS = 8192
"""Rows that the second pass looks at: enough for a false-alarm rate of 0.001."""


@dataclass(frozen=True)
class Streamed:
    """What two passes over the images have found.

    Attributes:
        subspaces: of all images, for each part.
        energies: for each part float32 (r, P), the residuals of the rows that were looked at
            again, as if each of their images had been left out.
        calibration: those rows, without features.
        folds: the images of each fold, among those that were looked at again.
        images: all that were absorbed.
        skipped: errors of those that were left out.
        statistics: of all images, for each part; empty makes a model that can't learn more.
    """

    subspaces: list[LayerSubspace]
    energies: list[FloatArray]
    calibration: Features
    folds: list[NDArray[np.intp]]
    images: tuple[ImageRecord, ...]
    skipped: tuple[ImageError, ...]
    statistics: list[PartStatistics] = field(default_factory=list)


class StreamFit(Protocol):
    """What goes through the images twice: `stream_fit`, or the same on many machines."""

    def __call__(
        self,
        extractor: FeatureExtractor,
        sources: Sequence[ImageSource],
        parts: Sequence[Part],
        folds: Sequence[NDArray[np.intp]],
        options: StreamOptions,
        *,
        identity: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> Streamed:
        """See `stream_fit`."""


def learnt_from(streamed: Streamed, parts: Sequence[Part]) -> FittedDetector | None:
    """What a model can learn more from; ``None`` without statistics."""
    if not streamed.statistics:
        return None
    found = zip(parts, streamed.statistics, streamed.energies, strict=True)
    return FittedDetector.of(
        [FittedPart(*part) for part in found], streamed.calibration, streamed.folds
    )


def assemble_streamed(
    extractor: FeatureExtractor,
    streamed: Streamed,
    parts: Sequence[Part],
    plan: FusedPlan | None,
    settings: Configuration,
    false_alarm_rate: float,
) -> Assembled:
    """The model of what two passes over the images have found.

    Args:
        extractor: of the parts' layers.
        streamed: what was found.
        parts: from `stream_plan`, like the plan.
        plan: what the default preset reads; ``None`` for the reference.
        settings: of the training.
        false_alarm_rate: in (0, 1).

    Raises:
        OptionError: too small a region of interest.
    """
    calibration = streamed.calibration
    if plan is None:
        ((energies,), (subspace,)) = (streamed.energies, streamed.subspaces)
        assert isinstance(subspace, ImageSubspace)
        by_image = Calibration.fit(
            calibration.largest(energies.sum(axis=1, dtype=np.float64)),
            calibration.largest(energies.max(axis=1)),
            false_alarm_rate,
        )
        assembled = assemble_reference(extractor, subspace, by_image)
        return replace(assembled, learnt=learnt_from(streamed, parts))
    found = {
        part.name: (part.layout, subspace, energies)
        for part, subspace, energies in zip(
            parts, streamed.subspaces, streamed.energies, strict=True
        )
    }
    layout, overall, energies = found[part_name(plan.overall, "image", OVERALL_POOL)]
    assert isinstance(overall, ImageSubspace)
    head = fuse(
        extractor,
        plan,
        [found[part_name(part.layer, part.scope, part.pool)] for part in plan.layers],
        (layout, overall, energies),
        calibration.originals_of(streamed.folds),
        settings.reading,
    )
    fitted = detector_of([head], calibration, extractor)
    assembled = assemble_fused(extractor, fitted, plan, settings, false_alarm_rate)
    return replace(assembled, learnt=learnt_from(streamed, parts))


def stream_fit(
    extractor: FeatureExtractor,
    sources: Sequence[ImageSource],
    parts: Sequence[Part],
    folds: Sequence[NDArray[np.intp]],
    options: StreamOptions,
    *,
    identity: Mapping[str, Any],
    progress: Progress | None = None,
) -> Streamed:
    """Fit subspaces to images whose features are let go of.

    Args:
        extractor: of the parts' layers.
        sources: files, or arrays, uint8 (H, W, 3).
        parts: what is to be fitted.
        folds: the places of each fold among the sources.
        options: of the fit.
        identity: what must be the same for a checkpoint to be of this training; the files'
            names, sizes and times are added.
        progress: called after each image.

    Raises:
        ImageError: an image can't be read.
        DatasetError: fewer than two images can be read.
        OptionError: a rank that the images do not allow.
    """
    fold_of = folds_of(len(sources), folds)
    learner = FoldStatistics(parts, extractor.layouts, folds=len(folds), capacity=options.capacity)
    state = _State(learner, options, _identity(identity, sources, options))
    state.resume()
    _absorb(extractor, sources, fold_of, state, options, progress)
    check_enough([image.sha256 for image in state.images], sources)
    return _look_again(extractor, sources, fold_of, state, options, progress)


def check_enough(sha256: Sequence[str], sources: Sequence[ImageSource]) -> None:
    """Refuse to fit a model to fewer than three different images.

    Args:
        sha256: digest of each image that could be read.
        sources: all images.

    Raises:
        DatasetError: too few could be read, or too few of them differ.
    """
    if len(sha256) < LEAST_IMAGES:
        raise DatasetError(
            f"training needs {LEAST_IMAGES} good images or more; {len(sha256)} of {len(sources)} "
            "could be read"
        )
    if (different := len(set(sha256))) < LEAST_IMAGES:
        raise DatasetError(no_variance(len(sha256), different))


def check_variance(statistics: Sequence[PartStatistics], n: int) -> None:
    """Refuse images in which a network sees fewer than three different ones.

    Args:
        statistics: of all parts that were fitted.
        n: number of images.

    Raises:
        DatasetError: the features of every image-wide part span fewer than two dimensions.
    """
    ranks = [part.rank for part in statistics if isinstance(part, ImageStatistics)]
    if ranks and max(ranks) < LEAST_IMAGES - 1:
        raise DatasetError(no_variance(n, max(ranks) + 1))


def no_variance(n: int, different: int) -> str:
    """Return what to say of images that are copies of one or two."""
    found = "all of them are equal" if different == 1 else "only 2 of them are different"
    return (
        f"{n} good images, but {found}: copies say nothing of how good parts vary; give "
        f"{LEAST_IMAGES} different images or more"
    )


def _absorb(
    extractor: FeatureExtractor,
    sources: Sequence[ImageSource],
    fold_of: NDArray[np.intp],
    state: _State,
    options: StreamOptions,
    progress: Progress | None,
) -> None:
    """The first pass."""
    while state.consumed < len(sources):
        start = state.consumed
        stop = min(start + CHUNK, len(sources))
        images, skipped = absorb(
            extractor,
            sources[start:stop],
            fold_of[start:stop],
            state.learner,
            options,
            offset_progress(progress, "Learning", start, len(sources)),
        )
        state.images += [image.at(start + image.place) for image in images]
        state.skipped += skipped
        state.consumed = stop
        state.checkpoint()


def absorb(
    extractor: FeatureRunner,
    sources: Sequence[ImageSource],
    fold_of: NDArray[np.intp],
    learner: FoldStatistics,
    options: StreamOptions,
    progress: Progress | None = None,
) -> tuple[list[ImageRecord], list[ImageError]]:
    """Let a learner take in some images.

    Args:
        extractor: of the learner's layers.
        sources: files, or arrays, uint8 (H, W, 3).
        fold_of: the fold of each.
        learner: it.
        options: of the fit.
        progress: called after each image.

    Returns:
        Images that were taken in, and errors of those that were left out.

    Raises:
        ImageError: an image can't be read, and is not to be left out.
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
        learner.add(batch.X, fold_of[at])
    return stream.images, stream.skipped


def offset_progress(
    progress: Progress | None, task: str, start: int, total: int
) -> Progress | None:
    """What tells of a part of a task, which begins at ``start``, as of a whole of ``total``."""
    if progress is None:
        return None

    def show(_: str, done: int, __: int) -> None:
        progress(task, start + done, total)

    return show


@dataclass(frozen=True)
class HeldOutSubspaces:
    """The subspaces of all images, and of all folds but one.

    Attributes:
        own: of all images, for each part.
        others: the same without the images of a fold, by its number.
        rows: (k,), of each fold.
        statistics: of all images, for each part.
    """

    own: list[LayerSubspace]
    others: dict[int, list[LayerSubspace]]
    rows: NDArray[np.intp]
    statistics: list[PartStatistics]

    @classmethod
    def of(
        cls, learner: FoldStatistics, options: StreamOptions, progress: Progress | None = None
    ) -> HeldOutSubspaces:
        """Those that follow from what a learner has taken in.

        Args:
            learner: of the parts.
            options: of the fit.
            progress: called after each subspace.

        Raises:
            OptionError: a rank that the images do not allow, or images of one fold only.
        """
        statistics = learner.statistics()
        steps = len(learner.parts) * (len(statistics) + 1)
        done = 0

        def fit(part: PartStatistics, rank: int | None) -> LayerSubspace:
            nonlocal done
            subspace = fitted(
                part,
                variance=options.variance,
                rank=rank,
                at_most=options.at_most,
                prior=options.prior,
            )
            done += 1
            if progress:
                progress("Fitting", done, steps)
            return subspace

        own: list[LayerSubspace] = []
        others: dict[int, list[LayerSubspace]] = {fold: [] for fold in statistics}
        wholes: list[PartStatistics] = []
        for of_folds in zip(*statistics.values(), strict=True):
            parts: tuple[Any, ...] = of_folds
            for fold, rest in zip(others, sums_without(parts), strict=True):
                others[fold].append(fit(rest, _allowed(options.rank, rest)))
            wholes.append(parts[0].merge(*parts[1:]))
            own.append(fit(wholes[-1], options.rank))
        if options.half:
            own = [_stored(subspace) for subspace in own]
        return cls(own, others, learner.rows, wholes)

    def of_fold(self, fold: int) -> HeldOutSubspaces:
        """Those that images of one fold need."""
        return replace(self, others={fold: self.others[fold]}, statistics=[])

    def squared_residuals(
        self, features: Sequence[FloatArray], parts: Sequence[Part], fold: int
    ) -> list[FloatArray]:
        """For each part the residuals of some rows, as if their images had been left out.

        Args:
            features: of each part, from `FoldStatistics.split`.
            parts: of the learner.
            fold: of the rows.
        """
        of = int(self.rows.sum())
        fitted_on = of - int(self.rows[fold])
        results = []
        for part, block, own, others in zip(
            parts, features, self.own, self.others[fold], strict=True
        ):
            X, channels = np.ascontiguousarray(block), part.layout.channels
            held_out, seen = (
                squared_residuals_under(subspace, X, channels) for subspace in (others, own)
            )
            results.append(extrapolate(held_out, seen, fitted_on=fitted_on, of=of))
        return results


@dataclass(frozen=True)
class HeldOutResiduals:
    """What the second pass has found of some images.

    Attributes:
        energies: for each part float32 (r, P), the residuals of each row, as if its image had
            been left out.
        image: (r,), which of the images a row is of.
        tile: (r,), which of the image's tiles.
        images: those that were looked at.
    """

    energies: list[FloatArray]
    image: NDArray[np.intp]
    tile: NDArray[np.intp]
    images: tuple[ImageRecord, ...]

    @classmethod
    def join(cls, pieces: Sequence[HeldOutResiduals]) -> HeldOutResiduals:
        """What was found of all images: the rows of each after those of the one before."""
        before = np.cumsum([0, *(len(piece.images) for piece in pieces)])
        nothing = np.zeros(0, np.intp)
        return cls(
            [np.concatenate(parts) for parts in zip(*(p.energies for p in pieces), strict=True)],
            np.concatenate(
                [nothing, *(p.image + start for p, start in zip(pieces, before, strict=False))]
            ),
            np.concatenate([nothing, *(piece.tile for piece in pieces)]),
            tuple(image for piece in pieces for image in piece.images),
        )

    def in_order(self) -> HeldOutResiduals:
        """The same with images, and the rows of each, in the order of their places."""
        by_place = np.argsort([image.place for image in self.images], kind="stable")
        rank = np.empty(len(by_place), np.intp)
        rank[by_place] = np.arange(len(by_place))
        rows = np.argsort(rank[self.image], kind="stable")
        return HeldOutResiduals(
            [values[rows] for values in self.energies],
            rank[self.image][rows],
            self.tile[rows],
            tuple(self.images[number] for number in by_place),
        )


def held_out_residuals(
    extractor: FeatureRunner,
    sources: Sequence[ImageSource],
    fold: int,
    judges: HeldOutSubspaces,
    learner: FoldStatistics,
    options: StreamOptions,
    progress: Progress | None = None,
) -> HeldOutResiduals:
    """Look once more at some images of a fold.

    Args:
        extractor: of the learner's layers.
        sources: files, or arrays, uint8 (H, W, 3).
        fold: of all of them.
        judges: of that fold.
        learner: of the parts; what it has taken in does not matter.
        options: of the fit.
        progress: called after each image.

    Raises:
        ImageError: an image can't be read, and is not to be left out.
    """
    stream = FeatureStream(
        extractor, sources, skip_unreadable=options.skip_unreadable, progress=progress
    )
    pieces: list[HeldOutResiduals] = []
    waiting: list[FeatureBatch] = []

    def look() -> None:
        X = np.concatenate([batch.X for batch in waiting])
        pieces.append(
            HeldOutResiduals(
                judges.squared_residuals(learner.split(X), learner.parts, fold),
                np.concatenate([batch.image for batch in waiting]),
                np.concatenate([batch.tile for batch in waiting]),
                (),
            )
        )
        waiting.clear()

    for batch in stream:
        waiting.append(batch)
        if sum(len(batch.X) for batch in waiting) >= JUDGED_ROWS:
            look()
    if waiting:
        look()
    return replace(HeldOutResiduals.join(pieces), images=tuple(stream.images))


def _allowed(rank: int | None, statistics: PartStatistics) -> int | None:
    """A fixed rank, cut to what a part of the images allows."""
    if rank is None or not isinstance(statistics, ImageStatistics):
        return rank
    return min(rank, statistics.rank)


def _stored(subspace: LayerSubspace) -> LayerSubspace:
    return as_stored(subspace) if isinstance(subspace, ImageSubspace) else subspace


def _look_again(
    extractor: FeatureExtractor,
    sources: Sequence[ImageSource],
    fold_of: NDArray[np.intp],
    state: _State,
    options: StreamOptions,
    progress: Progress | None,
) -> Streamed:
    """The second pass, over as many images as make enough rows."""
    judges = HeldOutSubspaces.of(state.learner, options, progress)
    chosen = calibration_places(state.images, extractor)
    found: list[HeldOutResiduals] = []
    done = 0
    for fold in np.unique(fold_of[chosen]):
        places = [place for place in chosen if fold_of[place] == fold]
        judged = held_out_residuals(
            extractor,
            [sources[place] for place in places],
            int(fold),
            judges,
            state.learner,
            options,
            offset_progress(progress, "Calibrating", done, len(chosen)),
        )
        seen = tuple(image.at(places[image.place]) for image in judged.images)
        found.append(replace(judged, images=seen))
        done += len(places)
    judged = HeldOutResiduals.join(found).in_order()
    folds = fold_of[[image.place for image in judged.images]]
    return streamed_from(judges, judged, folds, state.images, state.skipped)


def streamed_from(
    judges: HeldOutSubspaces,
    judged: HeldOutResiduals,
    folds: NDArray[np.intp],
    images: Sequence[ImageRecord],
    skipped: Sequence[ImageError],
) -> Streamed:
    """What the two passes have found.

    Args:
        judges: from the first pass.
        judged: from the second one.
        folds: the fold of each image of the second pass.
        images: all that were absorbed.
        skipped: errors of those that were left out.
    """
    calibration = Features(
        np.zeros((len(judged.image), 0), np.float32),
        tuple(seen.sha256 for seen in judged.images),
        (),
        image=judged.image,
        tile=judged.tile,
        copy=np.zeros(len(judged.image), np.intp),
        sizes=tuple(seen.size for seen in judged.images),
    )
    return Streamed(
        judges.own,
        judged.energies,
        calibration,
        [np.flatnonzero(folds == number) for number in np.unique(folds)],
        tuple(images),
        tuple(skipped),
        judges.statistics,
    )


def calibration_places(images: Sequence[ImageRecord], extractor: FeatureRunner) -> list[int]:
    """Places of images that are spread evenly over all, as many as make enough rows.

    Args:
        images: all that were absorbed.
        extractor: that makes rows of them.
    """
    each = max(1, round(np.mean([extractor.geometry.count(seen.size) for seen in images])))
    wanted = min(len(images), max(32, CALIBRATION_ROWS // each))
    picked = np.linspace(0, len(images) - 1, wanted).round().astype(int)
    return [images[index].place for index in np.unique(picked)]
