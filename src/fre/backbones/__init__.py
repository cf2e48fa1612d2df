"""Backbones: a name becomes a frozen ONNX graph with named layers."""

from __future__ import annotations

from pathlib import Path

from fre.backbones.base import Backbone, Layer, Normalisation
from fre.errors import BackboneError

__all__ = ["DEFAULT_BACKBONE", "Backbone", "Layer", "Normalisation", "get_backbone"]

DEFAULT_BACKBONE = "efficientnet_lite0"


def get_backbone(name: str = DEFAULT_BACKBONE, *, weights: Path | str | None = None) -> Backbone:
    """The backbone of that name.

    Args:
        name: ``efficientnet_lite0``, ``efficientnet_lite1`` or ``efficientnet_lite2``.
        weights: a file of weights to use instead of the pretrained ones.

    Raises:
        BackboneError: an unknown name, or weights that can't be used.
    """
    from fre.backbones.efficientnet_lite import EFFICIENTNET_LITE, EfficientNetLite

    if name in EFFICIENTNET_LITE:
        return EfficientNetLite(name, None if weights is None else Path(weights))
    valid = ", ".join(EFFICIENTNET_LITE)
    raise BackboneError(f"no backbone is called {name!r}; choose from: {valid}")
