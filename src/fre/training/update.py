"""Models that learn more: from new good images, or from one another.

Nothing is needed but model files. The backbone is taken out of their graph, and the statistics that
training left beside it add up; the new graph is made as in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.backbones.model_file import embedded_backbone
from fre.datasets import training_images
from fre.errors import (
    AnomalousError,
    DatasetError,
    FrozenModelError,
    ImageError,
    ModelFileError,
)
from fre.features.extractor import FeatureExtractor, source_name
from fre.features.layout import combined_digest
from fre.features.table import Features
from fre.images.appearance import AppearanceLimits
from fre.images.decode import ImageSource, check_several
from fre.images.loading import source_digest
from fre.inference.document import now
from fre.inference.predictor import P, Predictor
from fre.onnx_tools.side_arrays import read_arrays
from fre.scoring.calibration import Calibration
from fre.scoring.fusion import Reading
from fre.scoring.graph import LayerSubspace
from fre.subspaces.image import fit_image_wide
from fre.subspaces.subspace import ImageSubspace
from fre.training.build import finish
from fre.training.config import Configuration
from fre.training.fitted import (
    FittedDetector,
    FittedPart,
    image_shrinkage,
    residuals,
    squared_residuals_under,
)
from fre.training.fold_statistics import FoldStatistics
from fre.training.parts import Part, PartStatistics, fitted
from fre.training.plan import FusedPlan, LayerPlan, StreamOptions, stream_plan
from fre.training.readout import as_stored
from fre.training.training_images import TrainingImages
from fre.training.two_pass import Streamed, assemble_streamed, offset_progress
from fre.types import FloatArray, Progress

BLOCK_ROWS = 512
"""Rows of features that are learnt at once: about 170 MB of the default preset's."""

HALVED = 8
"""New images that are more than this part of the old ones are cross-fitted in two halves."""

DEFAULT_RATE = 0.01
"""For the pixel threshold, where the model's threshold was not chosen by a false-alarm rate."""


NAMED = 5
"""Names that an error lists."""

OF_THE_FIRST = ("near_duplicates", "calibration_images")


@dataclass(frozen=True)
class Rebuilt:
    """What it takes to make a model again.

    Attributes:
        extractor: of the backbone that is in it.
        parts: what is fitted.
        plan: what the default preset reads; ``None`` for the reference.
        settings: of its training.
        options: of its fit.
        learnt: what it has learnt.
    """

    extractor: FeatureExtractor
    parts: list[Part]
    plan: FusedPlan | None
    settings: Configuration
    options: StreamOptions
    learnt: FittedDetector

    @classmethod
    def of(cls, model: Predictor, threads: int) -> Rebuilt:
        _check_not_frozen(model)
        metadata = model.metadata
        learning, reading = metadata["learning"], metadata.get("reading")
        try:
            plan = None
            if learning["layers"] is not None:
                layers = tuple(LayerPlan(**layer) for layer in learning["layers"])
                plan = FusedPlan(layers, learning["overall"])
            settings = Configuration(
                preset=metadata["preset"],
                backbone=metadata["backbone"]["name"],
                pool=None,
                subspace="pca",
                variance=learning["variance"],
                rank=learning["rank"],
                scope=None,
                score_layers=None,
                map_layers=None,
                reading=Reading(**reading) if reading else Reading(),
            )
            backbone = embedded_backbone(model.data, metadata)
            extractor = FeatureExtractor(
                backbone,
                plan.names if plan else metadata["backbone"]["layers"],
                pool=1 if plan else learning["pool"],
                size=model.geometry.size,
                fit=model.geometry.fit,
                tiling=model.geometry.tiling,
                bits=model.geometry.bits,
                roi=model.roi,
                threads=threads,
            )
            parts, options = stream_plan(extractor, plan, settings)
        except (KeyError, TypeError) as error:
            raise ModelFileError(f"the model's metadata lack {error}") from error
        return cls(
            extractor,
            parts,
            plan,
            settings,
            options,
            FittedDetector.from_arrays(parts, read_arrays(model.data)),
        )

    def fit(self, statistics: PartStatistics) -> LayerSubspace:
        """The subspace that the model has of some statistics."""
        subspace = fitted(
            statistics,
            variance=self.options.variance,
            rank=self.options.rank,
            at_most=self.options.at_most,
            prior=self.options.prior,
        )
        if self.options.half and isinstance(subspace, ImageSubspace):
            # What the graph will have, so that its residuals are those of the graph.
            return as_stored(subspace)
        return subspace

    def assemble(
        self,
        learnt: FittedDetector,
        subspaces: Sequence[LayerSubspace],
        model: P,
        origin: dict[str, Any],
        limits: AppearanceLimits | None,
    ) -> P:
        """The model of what was learnt, which decides as another one does."""
        before = model.calibration
        streamed = Streamed(
            list(subspaces),
            [part.energies for part in learnt.parts],
            learnt.calibration,
            learnt.folds,
            (),
            (),
        )
        rate = DEFAULT_RATE if before.false_alarm_rate is None else before.false_alarm_rate
        assembled = assemble_streamed(
            self.extractor, streamed, self.parts, self.plan, self.settings, rate
        )
        calibration: Calibration = assembled.calibration
        if before.false_alarm_rate is None:
            # A threshold that was given stays what it is.
            calibration = calibration.at_threshold(before.threshold)
        assembled = replace(assembled, calibration=calibration, learnt=learnt, appearance=limits)
        # What was said of the first images alone.
        origin = {key: value for key, value in origin.items() if key not in OF_THE_FIRST}
        if learnt.n < origin["n_images"]:
            origin["calibration_images"] = learnt.n
        parameters = model.metadata.get("parameters")
        made = finish(self.extractor, assembled, self.settings, origin, parameters)
        return model.with_data(made)


def learnt_of(model: Predictor) -> FittedDetector:
    """What a model has learnt.

    Raises:
        FrozenModelError: the file does not hold it.
    """
    return Rebuilt.of(model, threads=1).learnt


def _check_not_frozen(model: Predictor) -> None:
    if "learning" not in model.metadata:
        raise FrozenModelError(
            "the model can't learn more: it was trained with --frozen, as an autoencoder or with "
            "a model for each tile, or comes from elsewhere; train again on all good images"
        )


def update_model(
    model: P,
    images: Path | str | Iterable[ImageSource],
    *,
    accept_anomalous: bool = False,
    skip_unreadable: bool = False,
    threads: int = 0,
    progress: Progress | None = None,
) -> P:
    """See `fre.Model.update`.

    Args:
        model: which stays as it is.
        images: good ones.
        accept_anomalous: learn from images that the model calls anomalous, too.
        skip_unreadable: leave out images that can't be read, instead of stopping.
        threads: of the network; 0 takes all cores.
        progress: called as the work advances.
    """
    _check_not_frozen(model)
    check_several(images)
    sources: list[ImageSource] = (
        [*training_images(Path(images))] if isinstance(images, (str, Path)) else list(images)
    )
    if not sources:
        raise DatasetError("an update needs 1 good image or more, found none")
    workshop = Rebuilt.of(model, threads)
    _check_new(workshop.learnt.images, sources)
    readable, anomalous = _judged(model, sources, skip_unreadable, progress)
    if anomalous and not accept_anomalous:
        raise AnomalousError(anomalous, len(readable), model.threshold)
    learnt, subspaces, sha256, measured = _learn(workshop, readable, progress)
    limits = model.appearance
    if limits is not None:
        limits = limits.merge(AppearanceLimits.of(measured))
    origin = _grown(model.metadata["provenance"], sha256, len(anomalous))
    return workshop.assemble(learnt, subspaces, model, origin, limits)


def _learn(
    workshop: Rebuilt, readable: Sequence[ImageSource], progress: Progress | None
) -> tuple[FittedDetector, list[LayerSubspace], list[str], list[NDArray[np.float64]]]:
    """Add images to what a model has learnt.

    Returns:
        What is learnt with them, its subspaces, and digest and pixel statistics of each image.
    """
    learnt = workshop.learnt
    subspaces = [workshop.fit(part.statistics) for part in learnt.parts]
    sha256: list[str] = []
    measured: list[NDArray[np.float64]] = []
    each = workshop.extractor.rows(readable[:1])
    start = 0
    while start < len(readable):
        # No more than were learnt before: from there on the learning curve is close to a line.
        known = learnt.parts[0].statistics.n
        stop = start + max(1, min(BLOCK_ROWS, known) // each)
        features = workshop.extractor.extract(
            readable[start:stop],
            progress=offset_progress(progress, "Learning", start, len(readable)),
        )
        learnt, subspaces = _absorb(workshop, learnt, subspaces, features)
        sha256 += features.sha256
        measured += () if features.appearance is None else [*features.appearance]
        start = stop
    return learnt, subspaces, sha256, measured


def _grown(provenance: dict[str, Any], sha256: Sequence[str], accepted: int) -> dict[str, Any]:
    """Provenance of a model after an update.

    Args:
        provenance: of the model before it.
        sha256: digest of each new image.
        accepted: number of new images that the model called anomalous.

    Raises:
        DatasetError: the model has learnt the same set of images before.
    """
    digest = combined_digest(sha256)
    # Models of older versions know the digest of the whole set alone.
    if digest in _batches(provenance):
        raise DatasetError(_all_again(len(sha256)))
    return {
        **provenance,
        "n_images": provenance["n_images"] + len(sha256),
        "images_sha256": combined_digest([provenance["images_sha256"], digest]),
        "history": [
            *provenance.get("history", []),
            {
                "date": now(),
                "n_added": len(sha256),
                "images_sha256": digest,
                "n_accepted_anomalous": accepted,
            },
        ],
    }


def _all_again(n: int) -> str:
    return (
        f"the model has learnt these {n} images already; to count them twice would make its "
        "threshold too low"
    )


def _check_new(known: TrainingImages, sources: Sequence[ImageSource]) -> None:
    """Refuse images that a model has learnt before.

    Raises:
        DatasetError: some are; the message names them.
    """
    names = [source_name(source) or f"image {place}" for place, source in enumerate(sources)]
    # A file that can't be read has no digest, and the first step that reads it says so.
    found = [(n, d) for n, d in zip(names, map(source_digest, sources), strict=True) if d]
    again = known.shared(TrainingImages.of(*zip(*found, strict=True))) if found else []
    if not again:
        return
    if len(again) == len(sources):
        raise DatasetError(_all_again(len(again)))
    raise DatasetError(
        f"the model has learnt {len(again)} of these {len(sources)} images already: "
        f"{_some(again)}; to count them twice would make its threshold too low: leave them out"
    )


def _some(names: Sequence[str]) -> str:
    """The first few of some names."""
    shown = ", ".join(name or "an array" for name in sorted(names)[:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _batches(provenance: Mapping[str, Any]) -> set[str]:
    """Digests of the sets of images that a model has learnt, as far as its metadata tell them."""
    found = {provenance["images_sha256"]}
    for step in provenance.get("history", ()):
        found |= set().union(*map(_batches, step.get("merged", (step,))))
    return found


def _judged(
    model: Predictor,
    sources: list[ImageSource],
    skip_unreadable: bool,
    progress: Progress | None,
) -> tuple[list[ImageSource], list[tuple[Path | int, float]]]:
    """The images that can be read, and name and score of those that are anomalous."""
    readable: list[ImageSource] = []
    anomalous: list[tuple[Path | int, float]] = []
    predictions = model.predict_many(sources, errors="return")
    for place, (source, prediction) in enumerate(zip(sources, predictions, strict=True)):
        if progress:
            progress("Scoring", place + 1, len(sources))
        if isinstance(prediction, ImageError):
            if not skip_unreadable:
                raise prediction
            continue
        readable.append(source)
        if prediction.anomalous:
            anomalous.append((prediction.path or place, prediction.score))
    if not readable:
        raise DatasetError(f"none of the {len(sources)} images can be read")
    return readable, anomalous


def _absorb(
    workshop: Rebuilt, learnt: FittedDetector, before: Sequence[LayerSubspace], features: Features
) -> tuple[FittedDetector, list[LayerSubspace]]:
    """What is learnt with some more images, and its subspaces."""
    splitter = FoldStatistics(
        workshop.parts,
        workshop.extractor.layouts,
        folds=1,
        capacity=workshop.options.capacity,
    )
    added = _nothing_of(learnt, features)
    folds = learnt.beside(added, ()).folds_of_rows
    blocks = [np.ascontiguousarray(block) for block in splitter.split(features.X)]
    # First those whose residuals are computed anew: what they show is of use to the others.
    again = {
        index: _fitted_again(workshop, old.part, [known, X], folds)
        for index, (old, X) in enumerate(zip(learnt.parts, blocks, strict=True))
        if (known := old.features(len(X))) is not None
    }
    akin = image_shrinkage(
        [_before_and_after(learnt, index, part) for index, (part, _) in again.items()]
    )
    made = [
        again.get(index) or _extended(workshop, old, X, subspace, akin)
        for index, (old, X, subspace) in enumerate(zip(learnt.parts, blocks, before, strict=True))
    ]
    joined = learnt.beside(added, [part for part, _ in made])
    return joined.limited(), [subspace for _, subspace in made]


def _before_and_after(
    learnt: FittedDetector, index: int, again: FittedPart, start: int = 0
) -> tuple[FloatArray, FloatArray]:
    """The residuals of a part's rows, and the same among those that were computed anew."""
    energies = learnt.parts[index].energies
    return energies, again.energies[start : start + len(energies)]


def _nothing_of(learnt: FittedDetector, features: Features) -> FittedDetector:
    """New images, dealt into the folds of the old ones; without residuals."""
    folds = max(2, len(learnt.folds))
    nothing = [replace(part, energies=part.energies[:0], coordinates=None) for part in learnt.parts]
    return FittedDetector.of(
        nothing, features, [np.arange(first, features.n, folds) for first in range(folds)]
    )


def _fitted_again(
    workshop: Rebuilt,
    part: Part,
    features: Sequence[FloatArray],
    folds: list[NDArray[np.intp]],
) -> tuple[FittedPart, LayerSubspace]:
    """An image-wide subspace of features that are all there, as in training."""
    options = workshop.options
    wide = fit_image_wide(
        np.concatenate(features),
        part.layout.channels,
        folds,
        variance=options.variance,
        rank=options.rank,
        at_most=options.at_most,
        capacity=options.capacity,
    )
    learnt = FittedPart.trained(part, wide.statistics, wide.energies, wide.coordinates)
    return learnt, workshop.fit(wide.statistics)


def _extended(
    workshop: Rebuilt,
    old: FittedPart,
    X: FloatArray,
    before: LayerSubspace,
    akin: NDArray[np.float64] | None,
) -> tuple[FittedPart, LayerSubspace]:
    """A subspace that takes in new features, where those of old images are gone."""
    statistics: PartStatistics = old.statistics.update(X)
    after = workshop.fit(statistics)
    new = _residuals(workshop, old, X, before, after)
    shares = old.shares(after, after.n)
    if old.part.scope == "image":
        held = squared_residuals_under(before, X, old.part.layout.channels)
        shown = float(new.sum()) / max(float(held.sum()), 1e-12)
        shares = np.maximum(shares, min(shown, 1.0))
    energies = np.concatenate([old.scaled(shares, akin), new])
    return FittedPart(old.part, statistics, energies), after


def _residuals(
    workshop: Rebuilt,
    old: FittedPart,
    X: FloatArray,
    before: LayerSubspace,
    after: LayerSubspace,
) -> FloatArray:
    """Those of new images as if each were left out of the fit that has them."""
    channels = old.part.layout.channels
    if old.part.scope != "image" or len(X) < 2 or len(X) * HALVED < before.n:
        return residuals(X, channels, before, after)
    # So many that a subspace without any of them says little of one that has nearly all.
    energies = np.empty((len(X), len(old.energies[0])), np.float32)
    for half in range(2):
        others: PartStatistics = old.statistics.update(X[1 - half :: 2])
        energies[half::2] = residuals(X[half::2], channels, workshop.fit(others), after)
    return energies
