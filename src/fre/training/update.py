"""Update a model with new good images; the old ones are not needed.

The backbone is taken out of the model's graph, new images are added to the statistics that training
left beside the graph, and the new graph is made as in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fre.datasets import training_images
from fre.errors import (
    AnomalousError,
    DatasetError,
    FrozenModelError,
    ImageError,
)
from fre.features.extractor import FeatureExtractor, source_name
from fre.features.layout import combined_digest
from fre.images.appearance import AppearanceLimits
from fre.images.arrays import check_several
from fre.images.decode import ImageSource
from fre.images.loading import source_digest
from fre.images.near_duplicates import equal_images
from fre.inference.document import Document, Learning, Provenance, Step, now
from fre.inference.predictor import P, Predictor
from fre.inference.rebuild import network_of
from fre.inference.training_images import TrainingImages
from fre.onnx_tools.side_arrays import read_arrays
from fre.scoring.fusion import Reading
from fre.training.build import Decide, build_model
from fre.training.describe import Origin
from fre.training.fitted import FittedDetector
from fre.training.growth import with_features
from fre.training.plan import DetectorPlan, LayerPlan, reference_plan
from fre.training.streamed import offset_progress
from fre.types import Progress

BLOCK_ROWS = 512
"""Rows of features that are added at once: about 170 MB with the default preset."""

NAMED = 5
"""Names that an error lists."""


@dataclass(frozen=True)
class Rebuilt:
    """Everything needed to rebuild a model from its file.

    Attributes:
        extractor: feature extractor of the backbone in the file.
        plan: plan of the detector.
        fitted: the detector.
    """

    extractor: FeatureExtractor
    plan: DetectorPlan
    fitted: FittedDetector

    @classmethod
    def of(cls, model: Predictor, threads: int) -> Rebuilt:
        """Return what a model file holds.

        Raises:
            FrozenModelError: the file does not hold statistics.
            ModelFileError: the file is damaged.
        """
        plan = _plan_of(model.document, check_not_frozen(model))
        extractor = FeatureExtractor(
            network_of(model),
            plan.names,
            model.preparation,
            pool=plan.pool,
            threads=threads,
        )
        parts = plan.parts(extractor.layouts, extractor.inspected)
        arrays = read_arrays(model.data)
        fitted = FittedDetector.from_arrays(parts, plan.fit, arrays, half=plan.half)
        return cls(extractor, plan, fitted)

    def model(
        self,
        fitted: FittedDetector,
        model: P,
        provenance: Provenance,
        limits: AppearanceLimits | None,
    ) -> P:
        """Return the model of a grown detector, which decides as an earlier model does.

        Args:
            fitted: the grown detector.
            model: the earlier model.
            provenance: provenance of the new model.
            limits: ranges of the training images' pixels; ``None``: not known.
        """
        # What was said of the first images alone.
        n_scored = fitted.n if fitted.n < provenance.n_images else None
        provenance = replace(provenance, near_duplicates=None, calibration_images=n_scored)
        origin = Origin(
            model.document.preset,
            provenance,
            model.document.parameters,
            limits,
        )
        decide = Decide(before=model.calibration)
        data = build_model(self.extractor, self.plan, [fitted], decide, origin)
        return model.with_data(data)


def _plan_of(document: Document, learning: Learning) -> DetectorPlan:
    """Return the plan that a model was fitted by."""
    if learning.layers is None:
        (layer,) = document.backbone.layers
        plan = reference_plan(layer, learning.pool or 1)
    else:
        layers = tuple(LayerPlan(**vars(layer)) for layer in learning.layers)
        plan = DetectorPlan(layers, learning.overall)
    return replace(
        plan,
        variance=learning.variance,
        rank=learning.rank,
        reading=document.reading or Reading(),
    )


def check_not_frozen(model: Predictor) -> Learning:
    """Return what a model needs to learn more.

    Raises:
        FrozenModelError: the file does not hold it.
    """
    if model.document.learning is None:
        raise FrozenModelError(
            "the model can't learn more: it was trained with --frozen, as an autoencoder or with "
            "a model for each tile, or comes from elsewhere; train again on all good images"
        )
    return model.document.learning


def update_model(
    model: P,
    images: Path | str | Iterable[ImageSource],
    *,
    accept_anomalous: bool = False,
    skipped: list[ImageError] | None = None,
    threads: int = 0,
    progress: Progress | None = None,
) -> P:
    """See `fre.Model.update`.

    Args:
        model: which stays as it is.
        images: good ones.
        accept_anomalous: learn from images that the model calls anomalous, too.
        skipped: gets the error of each image that can't be read, and is left out; ``None`` stops
            at such an image.
        threads: number of threads of the network; 0 takes all cores.
        progress: called as the work advances.
    """
    check_not_frozen(model)
    check_several(images)
    sources: list[ImageSource] = (
        [*training_images(Path(images))] if isinstance(images, (str, Path)) else list(images)
    )
    if not sources:
        raise DatasetError("an update needs 1 good image or more, found none")
    rebuilt = Rebuilt.of(model, threads)
    names = [source_name(source) or f"image {place}" for place, source in enumerate(sources)]
    # A file that can't be read has no digest, and the first step that reads it says so.
    check_new(rebuilt.fitted.images, names, [*map(source_digest, sources)])
    readable, anomalous = _scored(model, sources, skipped, progress)
    if anomalous and not accept_anomalous:
        raise AnomalousError(anomalous, len(readable), model.threshold)
    fitted, sha256, measured = _extended(rebuilt, readable, progress)
    limits = model.appearance
    if limits is not None:
        limits = limits.merge(AppearanceLimits.of(measured))
    origin = _grown(model.document.provenance, sha256, len(anomalous))
    return rebuilt.model(fitted, model, origin, limits)


def _extended(
    rebuilt: Rebuilt, readable: Sequence[ImageSource], progress: Progress | None
) -> tuple[FittedDetector, list[str], list[NDArray[np.float64]]]:
    """Add images to a detector, a block at a time.

    Returns:
        The grown detector, and digest and pixel statistics of each image.
    """
    fitted, extractor = rebuilt.fitted, rebuilt.extractor
    sha256: list[str] = []
    measured: list[NDArray[np.float64]] = []
    each = extractor.rows(readable[:1])
    start = 0
    while start < len(readable):
        # No more than there were before: from there on the learning curve is close to a line.
        known = fitted.parts[0].known.n
        stop = start + max(1, min(BLOCK_ROWS, known) // each)
        features = extractor.extract(
            readable[start:stop],
            progress=offset_progress(progress, "Learning", start, len(readable)),
        )
        fitted = with_features(fitted, features, extractor.layouts, rebuilt.plan)
        extractor.geometry = extractor.geometry.with_training_sizes(features.sizes or ())
        sha256 += features.sha256
        measured += () if features.appearance is None else [*features.appearance]
        start = stop
    return fitted, sha256, measured


def _grown(provenance: Provenance, sha256: Sequence[str], accepted: int) -> Provenance:
    """Provenance of a model after an update.

    Args:
        provenance: provenance of the model before the update.
        sha256: digest of each new image.
        accepted: number of new images that the model called anomalous.
    """
    digest = combined_digest(sha256)
    step = Step(now(), n_added=len(sha256), images_sha256=digest, n_accepted_anomalous=accepted)
    return replace(
        provenance,
        n_images=provenance.n_images + len(sha256),
        images_sha256=combined_digest([provenance.images_sha256, digest]),
        history=[*(provenance.history or []), step],
    )


def check_new(known: TrainingImages, names: Sequence[str], digests: Sequence[str]) -> None:
    """Refuse images that a model has learnt before, and images that are there twice.

    Args:
        known: training images of the model.
        names: (n,), name of each image.
        digests: (n,), digest of each image; empty for a file that can't be read.

    Raises:
        DatasetError: there are some; the message names them.
    """
    found = [(name, digest) for name, digest in zip(names, digests, strict=True) if digest]
    if not found:
        return
    kept, present = zip(*found, strict=True)
    if again := known.shared(TrainingImages.of(kept, present)):
        some = "" if len(again) == len(names) else f"{len(again)} of "
        problem = f"the model has learnt {some}these {len(names)} images already"
        named, advice = some_names(again), "leave them out"
    elif equal := equal_images(kept, present):
        problem, named, advice = "some of these images are equal", equal, "keep one of each"
    else:
        return
    raise DatasetError(
        f"{problem}: {named}; to count them twice would make the threshold too low: {advice}"
    )


def some_names(names: Sequence[str]) -> str:
    """The first few of some names."""
    shown = ", ".join(name or "an array" for name in sorted(names)[:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _scored(
    model: Predictor,
    sources: list[ImageSource],
    skipped: list[ImageError] | None,
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
            if skipped is None:
                raise prediction
            skipped.append(prediction)
            continue
        readable.append(source)
        if prediction.anomalous:
            anomalous.append((prediction.path or place, prediction.score))
    if not readable:
        raise DatasetError(f"none of the {len(sources)} images can be read")
    return readable, anomalous
