"""The network of a model file, and its quantisation to 8-bit integers."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from fre.backbones.base import Backbone, Layer, Normalisation
from fre.errors import BackboneError, FREError, ModelFileError
from fre.onnx_tools.surgery import INPUT, adopt, cut_out, first_line, run
from fre.types import FloatArray

PREFIX = "backbone/"
"""Prefix of the names of a backbone's tensors in a model file."""

FLOAT_FIRST = 6
"""Number of first convolutions that stay in floating point, up to a third of all. Their rounding
errors reach every layer: with all in integers, the errors of EfficientNet-Lite0's features double
or triple, and the network is hardly faster."""


class EmbeddedBackbone(Backbone):
    """A network that exists as a graph for one size of the input.

    Args:
        name: name of the network.
        network: a model of one input, float32 (N, 3, H, W), whose outputs are its layers.
        normalisation: normalisation of the input.
        size: height and width of the input, in pixels.
    """

    def __init__(
        self,
        name: str,
        network: onnx.ModelProto,
        normalisation: Normalisation,
        size: tuple[int, int],
    ) -> None:
        self.name = name
        self.normalisation = normalisation
        self.default_size = size
        self.any_size = False
        self.precision = "int8" if is_quantized(network) else "float32"
        names = [value.name for value in network.graph.output]
        found = run(network, names, np.zeros((1, 3, *size), np.float32))
        shapes = {
            name: (values.shape[1], values.shape[2], values.shape[3])
            for name, values in zip(names, found, strict=True)
        }
        self._network = network
        self._shapes = shapes
        self.layers = tuple(
            Layer(name, max(1, round(size[0] / height)), channels)
            for name, (channels, height, _) in shapes.items()
        )
        self.reference_layer = names[0]
        self.weights_sha256 = hashlib.sha256(network.SerializeToString()).hexdigest()

    def graph(self, layers: Sequence[str], size: tuple[int, int]) -> onnx.ModelProto:
        """See `Backbone.graph`."""
        if size != self.default_size:
            raise BackboneError(
                f"the model's network is made for images of {self.default_size[0]} x "
                f"{self.default_size[1]} pixels, not {size[0]} x {size[1]}"
            )
        shapes = {self.layer(name).name: self._shapes[name] for name in layers}
        model = onnx.ModelProto()
        model.CopyFrom(self._network)
        return adopt(model, shapes, prefix="", size=size)


def embedded_backbone(
    data: bytes,
    name: str,
    layers: Sequence[str],
    normalisation: Normalisation,
    size: tuple[int, int],
) -> EmbeddedBackbone:
    """Take the network out of a model file.

    Args:
        data: the serialised ONNX model.
        name: name of the network.
        layers: names of its layers.
        normalisation: mean and standard deviation of its input.
        size: height and width of its input, in pixels.

    Raises:
        ModelFileError: the model's graph holds no such network.
    """
    model = onnx.load_model_from_string(data)
    made = {name for node in model.graph.node for name in node.output}
    for layer in layers:
        if PREFIX + layer not in made:
            raise ModelFileError(f"the model's graph lacks the layer {layer}")
    return EmbeddedBackbone(name, cut_out(model, layers, prefix=PREFIX), normalisation, size)


def is_quantized(network: onnx.ModelProto) -> bool:
    """Return whether a network computes anything in integers."""
    return any(node.op_type == "QuantizeLinear" for node in network.graph.node)


def quantized(backbone: EmbeddedBackbone, batches: Iterable[FloatArray]) -> EmbeddedBackbone:
    """Quantise a network to 8-bit integers: weights per channel, activations per tensor.

    The first convolutions stay in floating point. Weights use seven of the eight bits: processors
    without VNNI add 16-bit products with saturation, and eight bits would give other results there.

    Args:
        backbone: the network in floating point.
        batches: normalised images that set the ranges of the activations, float32 (n, 3, H, W).

    Raises:
        BackboneError: ONNX Runtime can't quantise the network.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    names = [layer.name for layer in backbone.layers]
    network = backbone.graph(names, backbone.default_size)
    for node in network.graph.node:
        node.name = node.name or node.output[0]
    convolutions = [node.name for node in network.graph.node if node.op_type == "Conv"]

    # ONNX Runtime recommends its own preprocessing, for graphs with batch normalisation.
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory(prefix="fre-quantize-") as folder:
            file = Path(folder) / "network.onnx"
            quantize_static(
                network,
                file,
                _reader(batches),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=convolutions[: min(FLOAT_FIRST, len(convolutions) // 3)],
            )
            result = onnx.load(file)
    except FREError:  # of an image among the batches
        raise
    except Exception as error:  # it raises errors of many types
        raise BackboneError(
            f"{backbone.name}: ONNX Runtime can't quantise it: {first_line(error)}"
        ) from error
    finally:
        logging.disable(silenced)
    return EmbeddedBackbone(
        f"{backbone.name} int8", result, backbone.normalisation, backbone.default_size
    )


def _reader(batches: Iterable[FloatArray]) -> Any:
    """Return batches in the form that ONNX Runtime's quantisation reads."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # of a package without types
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, FloatArray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {INPUT: batch}

    return Reader()
