"""The JSON document of a new model file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import onnx
from numpy.typing import NDArray

from fre.backbones import Backbone
from fre.features.layout import FeatureLayout, combined_digest
from fre.images.geometry import Geometry
from fre.images.roi import Roi
from fre.inference.document import FORMAT, now, with_document
from fre.onnx_tools.side_arrays import with_arrays
from fre.scoring.calibration import Calibration
from fre.scoring.graph import layer_map
from fre.subspaces.protocols import Subspace
from fre.training.plan import DetectorPlan
from fre.version import __version__


def describe(
    *,
    preset: str,
    backbone: Backbone,
    parts: Sequence[tuple[FeatureLayout, Subspace]],
    geometry: Geometry,
    calibration: Calibration,
    origin: dict[str, Any],
    roi: Roi | None = None,
    plan: DetectorPlan | None = None,
    parameters: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The document; docs/model-file.md says what each key means.

    Args:
        preset: name of the preset.
        backbone: the frozen network.
        parts: each layer that is read, how it is pooled, and the subspace of its features.
        geometry: how an image meets the input.
        calibration: on good images.
        origin: from `provenance`.
        roi: inspected part of the images; ``None`` is all.
        plan: plan of the default preset; ``None`` for the reference.
        parameters: `fre.FRE` parameters that fit the same model; ``None`` where that can't be done.
    """
    return {
        "format": FORMAT,
        "fre_version": __version__,
        "preset": preset,
        "backbone": {
            "name": backbone.name,
            "layers": list(dict.fromkeys(layout.layer for layout, _ in parts)),
            "weights_sha256": backbone.weights_sha256,
            "precision": backbone.precision,
        },
        "preprocessing": {
            **geometry.to_dict(),
            "resize": "bilinear, antialiased",
            "mean": list(backbone.normalisation.mean),
            "std": list(backbone.normalisation.std),
        },
        **({} if roi is None else {"roi": roi.to_dict()}),
        **({} if plan is None else _reading(plan)),
        **({} if parameters is None else {"parameters": parameters}),
        "subspaces": [_describe_subspace(subspace, layout) for layout, subspace in parts],
        "calibration": calibration.to_dict(),
        "provenance": origin,
    }


def _reading(plan: DetectorPlan) -> dict[str, Any]:
    """How the layers are read, and the tensors of the layers' parts of the map."""
    names = [layer.layer for layer in plan.layers]
    tensors: dict[str, str] = {}
    for index, layer in enumerate(plan.layers):
        label = layer.layer if names.count(layer.layer) == 1 else f"{layer.layer}/{layer.scope}"
        if layer.in_map:
            tensors[f"{label}/{index}" if label in tensors else label] = layer_map(index)
    return {
        "reading": asdict(plan.reading),
        "score_layers": [layer.layer for layer in plan.layers if layer.in_score],
        "map_layers": [layer.layer for layer in plan.layers if layer.in_map],
        "layer_maps": tensors,
    }


def _describe_subspace(subspace: Subspace, layout: FeatureLayout) -> dict[str, Any]:
    return {
        "layer": layout.layer,
        "scope": subspace.scope,
        "kind": subspace.kind,
        "channels": layout.channels,
        "grid": list(layout.pooled),
        "pool": layout.pool,
        "dimension": layout.dimension,
        **subspace.describe(),
    }


def provenance(sha256: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Where a model comes from.

    The time is UTC; the environment variable ``SOURCE_DATE_EPOCH`` sets it, which makes the whole
    file reproducible.

    Args:
        sha256: digest of each training image.
        seed: random seed of the training.
    """
    return {
        "n_images": len(sha256),
        "images_sha256": combined_digest(sha256),
        "created": now(),
        "seed": seed,
    }


def attach(
    model: onnx.ModelProto,
    document: dict[str, Any],
    arrays: Mapping[str, NDArray[Any]] | None = None,
) -> bytes:
    """Serialise a model with its document, a digest, and arrays beside its graph.

    Args:
        model: the graph.
        document: from `describe`.
        arrays: arrays for updates and merges, by name; ``None`` writes none.

    Raises:
        ModelFileError: a value of the document is out of range.
    """
    data: bytes = model.SerializeToString()
    return with_document(with_arrays(data, arrays) if arrays else data, document)
