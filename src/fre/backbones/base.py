"""What every backbone offers, wherever its weights come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from fre.errors import BackboneError


@dataclass(frozen=True)
class Layer:
    """A feature map that a backbone can give.

    Attributes:
        name: the name by which ``--layers`` chooses it.
        stride: image pixels per location of the feature map.
        channels: numbers per location.
    """

    name: str
    stride: int
    channels: int


@dataclass(frozen=True)
class Normalisation:
    """How a backbone wants its pixels: ``(pixel - mean) / std``, per channel, pixels in 0..255."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class Backbone(ABC):
    """A frozen network with named layers.

    Attributes:
        name: the name by which ``--backbone`` chooses it.
        layers: its layers, shallow to deep.
        reference_layer: the layer that the reference preset reads.
        default_size: height and width of the input unless the user says otherwise.
        normalisation: of its input.
        weights_sha256: digest of the weights, in hexadecimal.
        precision: what it computes in, ``"float32"`` or ``"int8"``.
    """

    name: str
    layers: tuple[Layer, ...]
    reference_layer: str
    default_size: tuple[int, int] = (256, 256)
    normalisation: Normalisation
    weights_sha256: str
    precision: str = "float32"

    @abstractmethod
    def graph(self, layers: Sequence[str], size: tuple[int, int]) -> onnx.ModelProto:
        """The network up to the deepest of some layers.

        Args:
            layers: names of layers.
            size: height and width of the input.

        Returns:
            A model with one input, float32 (N, 3, height, width), normalised RGB, and an output
            for each layer under the layer's name, float32 (N, channels, h, w).

        Raises:
            BackboneError: an unknown layer, or a size that the network can't take.
        """

    def layer(self, name: str) -> Layer:
        """The layer of that name.

        Raises:
            BackboneError: there is none; the message lists the valid names.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        valid = ", ".join(layer.name for layer in self.layers)
        raise BackboneError(f"{self.name} has no layer {name!r}; choose from: {valid}")
