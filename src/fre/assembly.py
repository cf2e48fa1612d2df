"""From fitted parts to a model: graph, calibration and metadata in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import onnx

from fre.calibration import Calibration
from fre.features import FeatureExtractor
from fre.fused import FusedDetector, FusedPlan
from fre.graph import FeatureLayout, LayerSubspace, detector_model, fused_model
from fre.learnt import Learnt
from fre.metadata import FusedNotes, attach, describe
from fre.model import Model
from fre.presets import Configuration
from fre.subspace.fitting import AnySubspace

__all__ = ["Assembled", "assemble_fused", "assemble_reference", "finish"]

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
    """

    graph: onnx.ModelProto
    parts: Parts
    calibration: Calibration
    fused: FusedNotes | None = None
    plan: FusedPlan | None = None
    learnt: Learnt | None = None


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
    # Of several heads the first stands for all: they differ in nothing but numbers.
    head = fitted.heads[0]
    parts: list[tuple[FeatureLayout, AnySubspace | LayerSubspace]] = [
        *zip(head.layouts, head.subspaces, strict=True)
    ]
    if not any(subspace is head.overall[1] for subspace in head.subspaces):
        parts.append(head.overall)
    notes = FusedNotes(settings.reading, plan.layers)
    return Assembled(graph, parts, calibration, notes, plan)


def finish(
    extractor: FeatureExtractor,
    assembled: Assembled,
    settings: Configuration,
    origin: dict[str, Any],
    parameters: dict[str, Any] | None,
    *,
    threads: int,
) -> Model:
    """The model, ready to be saved.

    Args:
        extractor: of the features that the parts were fitted to.
        assembled: the parts.
        settings: of the training.
        origin: from `fre.metadata.provenance`.
        parameters: of `fre.FRE`, to fit the same again; ``None`` if not known.
        threads: of the model; 0 takes all cores.
    """
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
    learnt = assembled.learnt
    if learnt is None:
        return Model(attach(assembled.graph, document), threads=threads)
    plan = assembled.plan
    document["learning"] = {
        "variance": settings.variance,
        "rank": settings.rank,
        "pool": None if plan else extractor.layout.pool,
        "layers": [asdict(part) for part in plan.layers] if plan else None,
        "overall": plan.overall if plan else None,
    }
    data = attach(assembled.graph, document, learnt.limited().to_arrays())
    return Model(data, threads=threads)
