"""Training again from a model file: its network, and the extractor of its features."""

from __future__ import annotations

from collections.abc import Sequence

from fre.backbones import Backbone
from fre.backbones.base import Normalisation
from fre.backbones.model_file import EmbeddedBackbone, embedded_backbone
from fre.features.extractor import FeatureExtractor
from fre.inference.predictor import Predictor


def network_of(model: Predictor) -> EmbeddedBackbone:
    """Return the frozen network of a model, taken out of its graph.

    Raises:
        ModelFileError: the graph holds no such network.
    """
    described, pixels = model.document.backbone, model.document.preprocessing
    (mr, mg, mb), (sr, sg, sb) = pixels.mean, pixels.std
    backbone = embedded_backbone(
        model.data,
        described.name,
        described.layers,
        Normalisation((mr, mg, mb), (sr, sg, sb)),
        model.size,
    )
    backbone.weights_sha256 = described.weights_sha256
    return backbone


def extractor_like(
    model: Predictor, backbone: Backbone, layers: Sequence[str], *, pool: int, threads: int
) -> FeatureExtractor:
    """Return an extractor that prepares images as a model does.

    Args:
        model: source of the geometry and of the inspected region.
        backbone: the network, such as that of `network_of`.
        layers: names of the layers to extract.
        pool: edge of the pooling windows, in locations.
        threads: number of threads of the network, 0 for all cores.
    """
    geometry = model.geometry
    return FeatureExtractor(
        backbone,
        layers,
        pool=pool,
        size=geometry.size,
        fit=geometry.fit,
        tiling=geometry.tiling,
        bits=geometry.bits,
        roi=model.roi,
        threads=threads,
    )
