"""The frozen network of a model file, to train on again."""

from __future__ import annotations

from fre.backbones.base import Normalisation
from fre.backbones.model_file import EmbeddedBackbone, embedded_backbone
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
