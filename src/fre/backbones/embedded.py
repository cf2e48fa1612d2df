"""The backbone in a model file: to compute features with nothing but that file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from fre.backbones.base import Backbone, Layer, Normalisation
from fre.backbones.foreign import bodies, run
from fre.errors import BackboneError, ModelFileError
from fre.onnx_builder import prune

__all__ = ["PREFIX", "EmbeddedBackbone", "embedded_backbone"]

PREFIX = "backbone/"
"""Comes before the names of a backbone's tensors in a model file."""


def embedded_backbone(data: bytes, metadata: Mapping[str, Any]) -> EmbeddedBackbone:
    """The frozen network of a model.

    Args:
        data: the serialised ONNX model.
        metadata: the document in it.

    Raises:
        ModelFileError: the model holds no such network.
    """
    return EmbeddedBackbone(data, metadata)


class EmbeddedBackbone(Backbone):
    """The network of a model file, as it was built into it: its layers, at its size.

    See `embedded_backbone`.
    """

    def __init__(self, data: bytes, metadata: Mapping[str, Any]) -> None:
        described, preprocessing = metadata["backbone"], metadata["preprocessing"]
        self.name = described["name"]
        self.weights_sha256 = described["weights_sha256"]
        self.normalisation = Normalisation(
            _triple(preprocessing["mean"]), _triple(preprocessing["std"])
        )
        height, width = preprocessing["size"]
        self.default_size = (int(height), int(width))
        names = list(described["layers"])
        self._model = _extract(onnx.load_model_from_string(data), names, self.default_size)
        zeros = np.zeros((1, 3, *self.default_size), np.float32)
        shapes = [values.shape for values in run(self._model, names, zeros)]
        self.layers = tuple(
            Layer(name, max(1, round(self.default_size[0] / shape[2])), shape[1])
            for name, shape in zip(names, shapes, strict=True)
        )
        self.reference_layer = names[-1]

    def graph(self, layers: Sequence[str], size: tuple[int, int]) -> onnx.ModelProto:
        """See `Backbone.graph`."""
        names = list(dict.fromkeys(layers))
        for name in names:
            self.layer(name)
        if size != self.default_size:
            raise BackboneError(
                f"the model's network is made for images of {self.default_size[0]} x "
                f"{self.default_size[1]} pixels, not {size[0]} x {size[1]}"
            )
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        model.graph.CopyFrom(prune(self._model.graph, names))
        return model


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _extract(
    model: onnx.ModelProto, layers: Sequence[str], size: tuple[int, int]
) -> onnx.ModelProto:
    """The part of a model file that leads to the layers, under the names it had before."""
    outputs = [PREFIX + layer for layer in layers]
    made = {name for node in model.graph.node for name in node.output}
    if missing := [name for name in outputs if name not in made]:
        raise ModelFileError(f"the model's graph lacks the layer {missing[0].removeprefix(PREFIX)}")
    inner = onnx.GraphProto()
    inner.node.extend(
        node for node in model.graph.node if any(name.startswith(PREFIX) for name in node.output)
    )
    # The last operation of the preprocessing has the name of the network's input.
    source = next(
        node
        for node in inner.node
        if node.input and not any(name.startswith(PREFIX) for name in node.input)
    )
    entry = source.output[0]
    inner.node.remove(source)
    inner.initializer.extend(
        tensor for tensor in model.graph.initializer if tensor.name.startswith(PREFIX)
    )
    inner.sparse_initializer.extend(
        tensor for tensor in model.graph.sparse_initializer if tensor.values.name.startswith(PREFIX)
    )
    inner.name = model.graph.name
    inner.input.append(helper.make_tensor_value_info(entry, TensorProto.FLOAT, ["N", 3, *size]))
    inner.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    pruned = prune(inner, outputs)
    for output in pruned.output:
        output.CopyFrom(
            helper.make_tensor_value_info(output.name, TensorProto.FLOAT, ["N", None, None, None])
        )
    _strip(pruned)
    extracted = helper.make_model(
        pruned,
        producer_name="fre",
        opset_imports=list(model.opset_import),
        ir_version=model.ir_version,
    )
    onnx.checker.check_model(extracted)
    return extracted


def _strip(graph: onnx.GraphProto) -> None:
    """Take the prefix off all names in a graph and in the bodies of its control flow, in place."""
    for node in graph.node:
        node.name = node.name.removeprefix(PREFIX)
        node.input[:] = [name.removeprefix(PREFIX) for name in node.input]
        node.output[:] = [name.removeprefix(PREFIX) for name in node.output]
        for body in bodies(node):
            _strip(body)
    for tensor in graph.initializer:
        tensor.name = tensor.name.removeprefix(PREFIX)
    for sparse in graph.sparse_initializer:
        sparse.values.name = sparse.values.name.removeprefix(PREFIX)
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = value.name.removeprefix(PREFIX)
