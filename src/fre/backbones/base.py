"""The interface of all backbones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from fre.errors import BackboneError


@dataclass(frozen=True)
class Layer:
    """A feature map of a backbone.

    Attributes:
        name: name for ``--layers``.
        stride: number of input pixels per location, along each axis.
        channels: number of values per location.
    """

    name: str
    stride: int
    channels: int


@dataclass(frozen=True)
class Normalisation:
    """Normalisation of the input, ``(pixel - mean) / std`` per channel, pixels in 0..255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Backbone(ABC):
    """A frozen network with named layers.

    Attributes:
        name: name for ``--backbone``.
        layers: its layers, shallow to deep.
        reference_layer: name of the layer that the reference preset reads.
        default_size: default height and width of the input, in pixels.
        any_size: whether the network takes any input whose sides are multiples of 32.
        normalisation: normalisation of the input.
        weights_sha256: digest of the weights, hexadecimal.
        precision: ``"float32"`` or ``"int8"``.
    """

    name: str
    layers: tuple[Layer, ...]
    reference_layer: str
    default_size: tuple[int, int] = (256, 256)
    any_size: bool = True
    normalisation: Normalisation
    weights_sha256: str
    precision: str = "float32"

    @abstractmethod
    def graph(self, layers: Sequence[str], size: tuple[int, int]) -> onnx.ModelProto:
        """Return the network up to the deepest of some layers.

        Args:
            layers: names of the layers.
            size: height and width of the input, in pixels.

        Returns:
            A model with one input, float32 (N, 3, height, width), normalised RGB, and an output
            for each layer under the layer's name, float32 (N, channels, h, w).

        Raises:
            BackboneError: a layer is unknown, or the network does not accept the size.
        """

    def layer(self, name: str) -> Layer:
        """Return a layer by its name.

        Raises:
            BackboneError: the name is unknown; the message lists the valid names.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        valid = ", ".join(layer.name for layer in self.layers)
        raise BackboneError(f"{self.name} has no layer {name!r}; choose from: {valid}")
