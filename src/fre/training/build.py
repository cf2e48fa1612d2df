"""From fitted parts to a model: graph, calibration and metadata in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from fre.errors import DatasetError
from fre.features.extractor import FeatureExtractor
from fre.features.layout import FeatureLayout
from fre.images.appearance import AppearanceLimits
from fre.scoring.calibration import Calibration
from fre.scoring.graph import LayerSubspace, detector_model, fused_model
from fre.subspaces.autoencoder import AnySubspace
from fre.training.config import Configuration
from fre.training.describe import FusedNotes, attach, describe
from fre.training.fitted import FittedDetector
from fre.training.plan import FusedPlan
from fre.training.readout import FusedDetector

Parts: TypeAlias = Sequence[tuple[FeatureLayout, AnySubspace | LayerSubspace]]


@dataclass(frozen=True)
class Assembled:
    """A model but for its provenance.

    Attributes:
        graph: from images to scores and maps.
        parts: layout and subspace of each layer that it reads.
        calibration: on good images.
        fused: how several layers are read; ``None`` for the reference preset.
        plan: what is read of them; ``None`` for the reference preset.
        learnt: what the model can learn more from; ``None`` makes one that can't.
        appearance: ranges of the training images' pixels; ``None``: they were not measured.
    """

    graph: onnx.ModelProto
    parts: Parts
    calibration: Calibration
    fused: FusedNotes | None = None
    plan: FusedPlan | None = None
    learnt: FittedDetector | None = None
    appearance: AppearanceLimits | None = None


def assemble_reference(
    extractor: FeatureExtractor, subspace: AnySubspace, calibration: Calibration
) -> Assembled:
    """The reference preset: one layer, one subspace."""
    layout = extractor.layout
    graph = detector_model(
        extractor.network,
        extractor.backbone.normalisation,
        layout,
        extractor.geometry.size,
        subspace,
        extractor.inspected,
    )
    return Assembled(graph, [(layout, subspace)], calibration)


def assemble_fused(
    extractor: FeatureExtractor,
    fitted: FusedDetector,
    plan: FusedPlan,
    settings: Configuration,
    false_alarm_rate: float,
) -> Assembled:
    """The default preset: several layers, fused."""
    graph = fused_model(
        extractor.network,
        extractor.backbone.normalisation,
        fitted.heads,
        extractor.geometry.size,
    )
    calibration = Calibration.fit(
        fitted.scores, fitted.map_maxima, false_alarm_rate, map_range=fitted.map_range
    )
    _check_judged_good(fitted.seen_scores, calibration)
    # Of several heads the first stands for all: they differ in nothing but numbers.
    head = fitted.heads[0]
    parts: list[tuple[FeatureLayout, AnySubspace | LayerSubspace]] = [
        *zip(head.layouts, head.subspaces, strict=True)
    ]
    if not any(subspace is head.overall[1] for subspace in head.subspaces):
        parts.append(head.overall)
    notes = FusedNotes(settings.reading, plan.layers)
    return Assembled(graph, parts, calibration, notes, plan)


def _check_judged_good(scores: NDArray[np.float64], calibration: Calibration) -> None:
    """Refuse a detector that calls more of its own training images anomalous than it may.

    Args:
        scores: of training images, by the scales of all of them.
        calibration: with the threshold of a false-alarm rate.

    Raises:
        DatasetError: more than the false-alarm rate, and more than one.
    """
    rate = calibration.false_alarm_rate or 0.0
    anomalous = int(np.count_nonzero(scores > calibration.threshold))
    if anomalous > max(1, np.ceil(rate * len(scores))):
        raise DatasetError(
            f"{anomalous} of {len(scores)} training images would be anomalous to the model: their "
            "differences are too unlike one another to tell good from anomalous; remove copies and "
            "images of other parts, or give more images"
        )


def _check_finite(calibration: Calibration) -> None:
    """Refuse a calibration that would make decisions by numbers that are none.

    Raises:
        DatasetError: a score, a map value or a threshold is not finite.
    """
    maxima = () if calibration.map_maxima is None else calibration.map_maxima
    values = [calibration.threshold, calibration.pixel_threshold, *calibration.map_range]
    if not np.isfinite([*values, *calibration.scores, *maxima]).all():
        raise DatasetError(
            "scores of the training images are not finite: the network or its weights give no "
            "usable features for them"
        )


def finish(
    extractor: FeatureExtractor,
    assembled: Assembled,
    settings: Configuration,
    origin: dict[str, Any],
    parameters: dict[str, Any] | None,
) -> bytes:
    """Return the model file of fitted parts.

    Args:
        extractor: of the features that the parts were fitted to.
        assembled: the parts.
        settings: of the training.
        origin: from `fre.training.describe.provenance`.
        parameters: of `fre.FRE`, to fit the same again; ``None`` if not known.

    Raises:
        DatasetError: scores of the training images are not finite.
    """
    _check_finite(assembled.calibration)
    document = describe(
        preset=settings.preset,
        backbone=extractor.backbone,
        parts=assembled.parts,
        geometry=extractor.geometry,
        roi=extractor.roi,
        fused=assembled.fused,
        calibration=assembled.calibration,
        origin=origin,
        parameters=parameters,
    )
    if assembled.appearance is not None:
        document["appearance"] = assembled.appearance.to_dict()
    learnt = assembled.learnt
    if learnt is None:
        return attach(assembled.graph, document)
    plan = assembled.plan
    document["learning"] = {
        "variance": settings.variance,
        "rank": settings.rank,
        "pool": None if plan else extractor.layout.pool,
        "layers": [asdict(part) for part in plan.layers] if plan else None,
        "overall": plan.overall if plan else None,
    }
    return attach(assembled.graph, document, learnt.limited().to_arrays())
