"""Take networks out of foreign graphs, and out of model files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fre.errors import BackboneError, ModelFileError
from fre.onnx_tools.builder import prune
from fre.onnx_tools.check import check_model

INPUT = "input"


def first_line(error: Exception, limit: int = 160) -> str:
    """Return the first line of another library's error message, ``limit`` characters at most."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= limit else f"{lines[0][:limit].rstrip()}..."


def run(
    model: onnx.ModelProto, outputs: Iterable[str], images: NDArray[np.float32]
) -> list[NDArray[Any]]:
    """Run a model of one input on ONNX Runtime and return some of its outputs.

    A faulty model raises an exception of ONNX Runtime; nothing is printed.
    """
    import onnxruntime as ort

    options, run_options = ort.SessionOptions(), ort.RunOptions()
    options.log_severity_level = run_options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: images}
    result: list[NDArray[Any]] = session.run(list(outputs), feed, run_options)
    return result


def adopt(
    model: onnx.ModelProto,
    layers: Mapping[str, tuple[int, int, int]],
    *,
    prefix: str,
    size: tuple[int, int],
) -> onnx.ModelProto:
    """Return the part of a foreign model that some of its tensors depend on, renamed.

    Args:
        model: a model without local functions, of one input, float32 (N, 3, height, width).
        layers: name of each tensor -> channels, height and width.
        prefix: prefix of every inner name, so that no name clashes with the surrounding graph's.
        size: height and width of the input, in pixels.

    Returns:
        A model from ``input``, float32 (N, 3, height, width), to the layers under their own
        names. It holds nothing else: no later weights, no notes of the tool that wrote it, no paths
        of the machine that it ran on.

    Raises:
        BackboneError: the network holds something that `check_model` refuses, such as control flow.
    """
    graph = prune(model.graph, list(layers))
    constants = {tensor.name for tensor in graph.initializer}
    names = {name: name for name in layers}
    # Before IR 4 the constants were listed as inputs, too.
    for source in graph.input:
        if source.name not in constants:
            names[source.name] = INPUT
    _rename(graph, names, prefix)
    pruned = helper.make_graph(
        graph.node,
        prefix.rstrip("/") or "network",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", 3, *size])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
            for name, shape in layers.items()
        ],
        graph.initializer,
    )
    opsets = [opset for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    adopted = helper.make_model(
        pruned,
        producer_name="fre",
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets, ignore_unknown=True),
    )
    onnx.checker.check_model(adopted)
    try:
        check_model(adopted.SerializeToString())
    except ModelFileError as error:
        raise BackboneError(f"the network can't be part of a model: {error}") from error
    return adopted


def _rename(graph: onnx.GraphProto, names: dict[str, str], prefix: str) -> None:
    """Rename everything in a graph, in place."""

    def new(name: str) -> str:
        # An empty name is an optional input that is left out.
        return names.get(name, prefix + name) if name else name

    for node in graph.node:
        node.name = new(node.name)
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        _forget_origin(node)
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
        _forget_origin(tensor)
    for value in (*graph.input, *graph.output):
        value.name = new(value.name)
    del graph.value_info[:]


def _forget_origin(part: Any) -> None:
    part.ClearField("doc_string")
    # New in IR 10, and thus in onnx 1.16.
    part.ClearField("metadata_props")


def cut_out(model: onnx.ModelProto, layers: Sequence[str], *, prefix: str) -> onnx.ModelProto:
    """Return a network that is part of a larger graph.

    Args:
        model: the larger graph; exactly the names of the network begin with the prefix.
        layers: names of the layers, without the prefix.
        prefix: prefix to remove from every name.

    Returns:
        The network; its outputs are the layers, untyped.
    """

    def inside(name: str) -> bool:
        return name.startswith(prefix)

    # Only the node that writes the network's input reads a tensor from outside.
    nodes = [node for node in model.graph.node if any(map(inside, node.output))]
    (feeder,) = (node for node in nodes if not all(inside(name) for name in node.input if name))
    (source,) = feeder.output
    network = helper.make_graph(
        [node for node in nodes if node is not feeder],
        "network",
        [helper.make_tensor_value_info(source, TensorProto.FLOAT, None)],
        [],
        [tensor for tensor in model.graph.initializer if inside(tensor.name)],
    )
    network = prune(network, [prefix + name for name in layers])
    names = (
        [name for node in network.node for name in (node.name, *node.input, *node.output)]
        + [tensor.name for tensor in network.initializer]
        + [source]
    )
    _rename(network, {name: name.removeprefix(prefix) for name in names}, "")
    return helper.make_model(network, opset_imports=model.opset_import, ir_version=model.ir_version)
