"""A name becomes a frozen ONNX network with named layers.

- ``base``: the interface of all backbones.
- ``efficientnet_lite``: the built-in networks. ``torch_weights``: their weights, without PyTorch.
- ``timm``: models of timm (needs PyTorch). ``onnx_file``: a network in an ONNX file.
- ``model_file``: the network of a model file, and its quantisation to 8-bit integers.
- ``cache``: the cache of graphs.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from fre.backbones.base import Backbone, Layer, Normalisation
from fre.errors import BackboneError, MissingDependencyError, OptionError

__all__ = ["DEFAULT_BACKBONE", "Backbone", "Layer", "Normalisation", "get_backbone"]

DEFAULT_BACKBONE = "efficientnet_lite0"
TIMM_EXAMPLES = ("resnet18", "resnet50", "wide_resnet50_2", "efficientnet_b5", "vgg16_bn")
"""Examples in the documentation, for a helpful error if timm is not installed."""


def get_backbone(
    name: Path | str = DEFAULT_BACKBONE, *, weights: Path | str | None = None
) -> Backbone:
    """Return a backbone by its name.

    Args:
        name: ``efficientnet_lite0``, ``efficientnet_lite1`` or ``efficientnet_lite2``; a file
            ending in ``.onnx``; or the name of a model of timm (needs ``fre-vision[torch]``).
        weights: file of weights that replace the pretrained ones; not with an ONNX file, which
            holds its own.

    Raises:
        BackboneError: the name is unknown, the file is no such network, or the weights are
            unusable.
        MissingDependencyError: the backbone needs an extra that is not installed.
        OptionError: ``weights`` were given with an ONNX file.
    """
    from fre.backbones.efficientnet_lite import EFFICIENTNET_LITE, EfficientNetLite

    name = os.fspath(name)
    file = None if weights is None else Path(weights)
    if name in EFFICIENTNET_LITE:
        return EfficientNetLite(name, file)
    if name.lower().endswith(".onnx"):
        from fre.backbones.onnx_file import OnnxFileBackbone

        if file:
            raise OptionError(f"{name} holds its own weights: leave out the weights {file}")
        return OnnxFileBackbone(Path(name))
    if importlib.util.find_spec("timm"):
        from fre.backbones.timm import TimmBackbone

        return TimmBackbone(name, file)
    if name in TIMM_EXAMPLES:
        raise MissingDependencyError(f"the backbone {name}", "torch")
    raise BackboneError(
        f"no backbone is called {name!r}; the built-in ones are {', '.join(EFFICIENTNET_LITE)}; "
        "for timm's models: pip install 'fre-vision[torch]'"
    )
