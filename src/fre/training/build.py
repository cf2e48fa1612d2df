"""From a fitted detector to a model file: graph, calibration and metadata in one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray

from fre.features.extractor import FeatureExtractor
from fre.features.layout import FeatureLayout
from fre.inference.document import Learning, LearningLayer
from fre.scoring.calibration import Calibration
from fre.scoring.graph import detector_model, fused_model
from fre.subspaces.protocols import Subspace
from fre.training.describe import Origin, attach, describe
from fre.training.fitted import FittedDetector
from fre.training.plan import DetectorPlan
from fre.training.readout import Readout, read_out, read_sum


@dataclass(frozen=True)
class Decide:
    """How the threshold follows from held-out scores: by a rate, or as an earlier model's does.

    Attributes:
        false_alarm_rate: share of good images that may be called anomalous, in (0, 1).
        before: calibration of the model that was updated or merged; ``None`` for a new one.
    """

    false_alarm_rate: float = 0.01
    before: Calibration | None = None

    def apply(self, calibration: Calibration) -> Calibration:
        """Return a new calibration of that rate as it is, or one like the earlier model's."""
        return calibration if self.before is None else calibration.like(self.before)


def build_model(
    extractor: FeatureExtractor,
    plan: DetectorPlan,
    fitted: Sequence[FittedDetector],
    decide: Decide,
    origin: Origin,
) -> bytes:
    """Return the model file of a fitted detector.

    Args:
        extractor: feature extractor of the plan's layers.
        plan: plan of the detector.
        fitted: the detector; or one for each tile, in the order of the tiles.
        decide: how the threshold follows from the scores of the images.
        origin: further facts that the file states.

    Raises:
        DatasetError: scores of the training images are not finite, or too many of them would be
            anomalous to the model.
        OptionError: too small a region of interest.
    """
    graph, parts, calibration, scores = _assemble(extractor, plan, fitted, decide)
    document = describe(extractor, plan, parts, calibration, origin)
    detector = fitted[0]
    images = detector.images.with_scores(detector.chosen, scores).to_arrays()
    if any(one.statistics is None for one in detector.parts):
        return attach(graph, document, images)
    fused = plan.overall is not None
    learning = Learning(
        plan.variance,
        plan.rank,
        None if fused else plan.pool,
        [LearningLayer(**vars(layer)) for layer in plan.layers] if fused else None,
        plan.overall,
    )
    document = replace(document, learning=learning)
    return attach(graph, document, detector.limited().to_arrays() | images)


def _assemble(
    extractor: FeatureExtractor,
    plan: DetectorPlan,
    fitted: Sequence[FittedDetector],
    decide: Decide,
) -> tuple[onnx.ModelProto, list[tuple[FeatureLayout, Subspace]], Calibration, NDArray[np.float64]]:
    """Return graph, layouts and subspaces of the layers, calibration, and held-out scores."""
    network, normalisation = extractor.network, extractor.backbone.normalisation
    size = extractor.geometry.size
    if plan.overall is None:
        (detector,) = fitted
        (one,) = detector.parts
        part = one.part.layout, one.subspace
        readout: Readout = read_sum(detector)
        calibration = decide.apply(readout.calibrate(decide.false_alarm_rate))
        graph = detector_model(network, normalisation, part, size, calibration, extractor.inspected)
        return graph, [part], calibration, readout.scores
    heads, readout = read_out(fitted, plan, extractor)
    calibration = decide.apply(readout.calibrate(decide.false_alarm_rate))
    graph = fused_model(network, normalisation, heads, size, calibration)
    # Of several heads the first stands for all: they differ in nothing but numbers.
    head = heads[0]
    parts = [*zip(head.layouts, head.subspaces, strict=True)]
    if not any(subspace is head.overall[1] for subspace in head.subspaces):
        parts.append(head.overall)
    return graph, parts, calibration, readout.scores
