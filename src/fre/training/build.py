"""From a fitted detector to a model file: graph, calibration and metadata in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from fre.errors import DatasetError
from fre.features.extractor import FeatureExtractor
from fre.features.layout import FeatureLayout
from fre.images.appearance import AppearanceLimits
from fre.inference.document import Learning, LearningLayer, Provenance
from fre.scoring.calibration import Calibration
from fre.scoring.graph import detector_model, fused_model
from fre.subspaces.protocols import Subspace
from fre.training.describe import attach, describe
from fre.training.fitted import FittedDetector
from fre.training.plan import DetectorPlan
from fre.training.readout import calibrate_sum, read_out


@dataclass(frozen=True)
class Origin:
    """Facts about a training that its model file states beside the fitted detector.

    Attributes:
        preset: name of the preset.
        provenance: images, time and history, from `fre.training.describe.provenance`.
        parameters: `fre.FRE` parameters that fit the same model; ``None`` if not known.
        appearance: ranges of the training images' pixels; ``None``: they were not measured.
        threshold: decides in place of the one of the false-alarm rate; ``None``: that one does.
    """

    preset: str
    provenance: Provenance
    parameters: dict[str, Any] | None
    appearance: AppearanceLimits | None
    threshold: float | None = None


def build_model(
    extractor: FeatureExtractor,
    plan: DetectorPlan,
    fitted: Sequence[FittedDetector],
    false_alarm_rate: float,
    origin: Origin,
) -> bytes:
    """Return the model file of a fitted detector.

    Args:
        extractor: feature extractor of the plan's layers.
        plan: plan of the detector.
        fitted: the detector; or one for each tile, in the order of the tiles.
        false_alarm_rate: share of good images that may be called anomalous, in (0, 1).
        origin: further facts that the file states.

    Raises:
        DatasetError: scores of the training images are not finite, or too many of them would be
            anomalous to the model.
        OptionError: too small a region of interest.
    """
    graph, parts, calibration = _assemble(extractor, plan, fitted, false_alarm_rate)
    if origin.threshold is not None:
        calibration = calibration.at_threshold(origin.threshold)
    _check_finite(calibration)
    document = describe(
        preset=origin.preset,
        backbone=extractor.backbone,
        parts=parts,
        geometry=extractor.geometry,
        roi=extractor.roi,
        plan=None if plan.overall is None else plan,
        calibration=calibration,
        origin=origin.provenance,
        parameters=origin.parameters,
        appearance=origin.appearance,
    )
    detector = fitted[0]
    if any(one.statistics is None for one in detector.parts):
        return attach(graph, document)
    fused = plan.overall is not None
    learning = Learning(
        plan.variance,
        plan.rank,
        None if fused else plan.pool,
        [LearningLayer(**vars(layer)) for layer in plan.layers] if fused else None,
        plan.overall,
    )
    document = replace(document, learning=learning)
    return attach(graph, document, detector.limited().to_arrays())


def _assemble(
    extractor: FeatureExtractor,
    plan: DetectorPlan,
    fitted: Sequence[FittedDetector],
    false_alarm_rate: float,
) -> tuple[onnx.ModelProto, list[tuple[FeatureLayout, Subspace]], Calibration]:
    """Return graph, layouts and subspaces of the layers, and calibration."""
    network, normalisation = extractor.network, extractor.backbone.normalisation
    size = extractor.geometry.size
    if plan.overall is None:
        (detector,) = fitted
        (one,) = detector.parts
        layout = one.part.layout
        graph = detector_model(
            network, normalisation, layout, size, one.subspace, extractor.inspected
        )
        return graph, [(layout, one.subspace)], calibrate_sum(detector, false_alarm_rate)
    readout = read_out(fitted, plan, extractor)
    graph = fused_model(network, normalisation, readout.heads, size)
    # Of several heads the first stands for all: they differ in nothing but numbers.
    head = readout.heads[0]
    parts = [*zip(head.layouts, head.subspaces, strict=True)]
    if not any(subspace is head.overall[1] for subspace in head.subspaces):
        parts.append(head.overall)
    return graph, parts, readout.calibrate(false_alarm_rate)


def _check_finite(calibration: Calibration) -> None:
    """Refuse a calibration with scores, map values or thresholds that are not finite.

    Raises:
        DatasetError: one is not.
    """
    maxima = () if calibration.map_maxima is None else calibration.map_maxima
    values = [calibration.threshold, calibration.pixel_threshold, *calibration.map_range]
    if not np.isfinite([*values, *calibration.scores, *maxima]).all():
        raise DatasetError(
            "scores of the training images are not finite: the network or its weights give no "
            "usable features for them"
        )
