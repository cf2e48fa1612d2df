"""The document of a model that has just been fitted."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from fre.drawing.heatmaps import encode, thumbnail
from fre.features.extractor import FeatureExtractor
from fre.features.layout import FeatureLayout, combined_digest
from fre.images.appearance import AppearanceLimits
from fre.inference.document import (
    BackboneSection,
    Document,
    Preprocessing,
    Provenance,
    SubspaceSection,
    now,
)
from fre.inference.model_file import with_document
from fre.onnx_tools.side_arrays import with_arrays
from fre.scoring.calibration import Calibration
from fre.scoring.graph import layer_map
from fre.subspaces.protocols import Subspace
from fre.training.plan import DetectorPlan
from fre.types import ImageArray
from fre.version import __version__

THUMBNAIL_SIDE = 96
"""Longest side of the training image in a model file, in pixels: about 2 kB."""


@dataclass(frozen=True)
class Origin:
    """Facts about a training that its model file states beside the fitted detector.

    Attributes:
        preset: name of the preset.
        provenance: images, time and history, from `provenance`.
        parameters: `fre.FRE` parameters that fit the same model; ``None`` if not known.
        appearance: ranges of the training images' pixels; ``None``: they were not measured.
    """

    preset: str
    provenance: Provenance
    parameters: dict[str, Any] | None
    appearance: AppearanceLimits | None


def describe(
    extractor: FeatureExtractor,
    plan: DetectorPlan,
    parts: Sequence[tuple[FeatureLayout, Subspace]],
    calibration: Calibration,
    origin: Origin,
) -> Document:
    """Return the document of a fitted detector.

    Args:
        extractor: feature extractor of the plan's layers.
        plan: plan of the detector.
        parts: layout and subspace of each layer that the detector reads.
        calibration: scores of good images, and the thresholds.
        origin: further facts.
    """
    backbone = extractor.backbone
    mean, std = backbone.normalisation.mean, backbone.normalisation.std
    return Document(
        fre_version=__version__,
        preset=origin.preset,
        backbone=BackboneSection(
            backbone.name,
            list(dict.fromkeys(layout.layer for layout, _ in parts)),
            backbone.weights_sha256,
            backbone.precision,
        ),
        preprocessing=Preprocessing(extractor.geometry, list(mean), list(std)),
        roi=extractor.roi,
        **({} if plan.overall is None else _reading(plan)),
        parameters=origin.parameters,
        subspaces=[_describe_subspace(subspace, layout) for layout, subspace in parts],
        calibration=calibration,
        provenance=origin.provenance,
        appearance=origin.appearance,
    )


def _reading(plan: DetectorPlan) -> dict[str, Any]:
    """Return the sections of `Document` that only the default preset has."""
    names = [layer.layer for layer in plan.layers]
    tensors: dict[str, str] = {}
    for index, layer in enumerate(plan.layers):
        label = layer.layer if names.count(layer.layer) == 1 else f"{layer.layer}/{layer.scope}"
        if layer.in_map:
            tensors[f"{label}/{index}" if label in tensors else label] = layer_map(index)
    return {
        "reading": plan.reading,
        "score_layers": [layer.layer for layer in plan.layers if layer.in_score],
        "map_layers": [layer.layer for layer in plan.layers if layer.in_map],
        "layer_maps": tensors,
    }


def _describe_subspace(subspace: Subspace, layout: FeatureLayout) -> SubspaceSection:
    return SubspaceSection(
        layer=layout.layer,
        scope=subspace.scope,
        kind=subspace.kind,
        channels=layout.channels,
        grid=layout.pooled,
        pool=layout.pool,
        dimension=layout.dimension,
        **subspace.describe(),
    )


def provenance(sha256: Sequence[str], *, seed: int) -> Provenance:
    """Return the provenance of a model that is trained now.

    Args:
        sha256: digest of each training image, hexadecimal.
        seed: seed of the random numbers in training.
    """
    return Provenance(len(sha256), combined_digest(sha256), now(), seed)


def shown(image: ImageArray) -> str:
    """Return a training image as `Provenance` shows it to people: a small JPEG, in base64.

    Args:
        image: uint8 (H, W, 3), RGB.
    """
    jpeg = encode(thumbnail(image, THUMBNAIL_SIDE), "JPEG", quality=80)
    return base64.b64encode(jpeg).decode("ascii")


def attach(
    model: onnx.ModelProto, document: Document, arrays: Mapping[str, NDArray[Any]] | None = None
) -> bytes:
    """Serialise a model with its document, a digest, and arrays beside its graph.

    Args:
        model: the graph.
        document: from `describe`.
        arrays: arrays that an update needs, by name; ``None`` for a model that can't be updated.
    """
    data: bytes = model.SerializeToString()
    return with_document(with_arrays(data, arrays) if arrays else data, document.to_json())
