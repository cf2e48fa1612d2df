"""What a model file says of itself: the one JSON document in its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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
from fre.scoring.fusion import Reading
from fre.scoring.graph import LayerSubspace, layer_map
from fre.subspaces.autoencoder import AnySubspace, LinearAutoencoder
from fre.subspaces.patch import PatchSubspace
from fre.subspaces.position import PositionSubspace
from fre.training.plan import LayerPlan
from fre.version import __version__


def describe(
    *,
    preset: str,
    backbone: Backbone,
    parts: Sequence[tuple[FeatureLayout, AnySubspace | LayerSubspace]],
    geometry: Geometry,
    calibration: Calibration,
    origin: dict[str, Any],
    roi: Roi | None = None,
    fused: FusedNotes | None = None,
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
        roi: the part of the images that is looked at; ``None`` is all.
        fused: of the default preset.
        parameters: of `fre.FRE`, to fit the same again; ``None`` where that can't be done.
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
        **({} if fused is None else fused.to_dict()),
        **({} if parameters is None else {"parameters": parameters}),
        "subspaces": [_describe_subspace(subspace, layout) for layout, subspace in parts],
        "calibration": calibration.to_dict(),
        "provenance": origin,
    }


@dataclass(frozen=True)
class FusedNotes:
    """What a model of several layers says of how it reads them.

    Attributes:
        reading: how their residuals become a score and a map.
        layers: what each is read for.
    """

    reading: Reading
    layers: Sequence[LayerPlan]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; with the tensors of the layers' parts of the map."""
        names = [part.layer for part in self.layers]
        tensors: dict[str, str] = {}
        for index, part in enumerate(self.layers):
            label = part.layer if names.count(part.layer) == 1 else f"{part.layer}/{part.scope}"
            if part.in_map:
                tensors[f"{label}/{index}" if label in tensors else label] = layer_map(index)
        return {
            "reading": asdict(self.reading),
            "score_layers": [part.layer for part in self.layers if part.in_score],
            "map_layers": [part.layer for part in self.layers if part.in_map],
            "layer_maps": tensors,
        }


def _scope(subspace: AnySubspace | LayerSubspace) -> str:
    if isinstance(subspace, PositionSubspace):
        return "position"
    return "patch" if isinstance(subspace, PatchSubspace) else "image"


def _describe_subspace(
    subspace: AnySubspace | LayerSubspace, layout: FeatureLayout
) -> dict[str, Any]:
    common = {
        "layer": layout.layer,
        "scope": _scope(subspace),
        "kind": subspace.kind if isinstance(subspace, LinearAutoencoder) else "pca",
        "channels": layout.channels,
        "grid": list(layout.pooled),
        "pool": layout.pool,
        "dimension": layout.dimension,
        "rank": subspace.rank,
        "kept_variance": subspace.kept_variance,
        "n": subspace.n,
    }
    if isinstance(subspace, LinearAutoencoder):
        loss = subspace.losses[-1] if subspace.losses else None
        return {**common, "epochs": subspace.epochs, "loss": loss}
    if isinstance(subspace, PositionSubspace):
        return {**common, "mean_rank": float(subspace.ranks.mean())}
    if isinstance(subspace, PatchSubspace):
        return common
    return {
        **common,
        "singular_values": [float(value) for value in subspace.singular_values],
        "discarded": subspace.discarded,
    }


def provenance(sha256: Sequence[str], *, seed: int) -> dict[str, Any]:
    """Where a model comes from.

    The time is UTC; the environment variable ``SOURCE_DATE_EPOCH`` sets it, which makes the whole
    file reproducible.

    Args:
        sha256: digest of each training image.
        seed: of the training.
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
        arrays: what further training needs, by name; ``None`` without.

    Raises:
        ModelFileError: a value of the document is out of range.
    """
    data: bytes = model.SerializeToString()
    return with_document(with_arrays(data, arrays) if arrays else data, document)
