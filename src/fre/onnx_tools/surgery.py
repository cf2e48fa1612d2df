"""Make graphs that other tools wrote fit to be built into ours."""

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
    """The gist of an error of another library, whose messages may run to pages."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= limit else f"{lines[0][:limit].rstrip()}..."


def run(
    model: onnx.ModelProto, outputs: Iterable[str], images: NDArray[np.float32]
) -> list[NDArray[Any]]:
    """Some outputs of a model of one input, on ONNX Runtime.

    Whatever is wrong with the model comes as an exception of ONNX Runtime's own, and only as
    that: nothing is printed.
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
    """The part of a foreign model that leads to some of its tensors, under names of ours.

    Args:
        model: a model without local functions, of one input, float32 (N, 3, height, width).
        layers: name of each wanted tensor to its channels, height and width.
        prefix: goes before every inner name, so that none can clash with those of the graph that
            this one is built into.
        size: height and width of the input.

    Returns:
        A model from ``input``, float32 (N, 3, height, width), to the layers under their own
        names. Nothing is in it that the layers do not need: no later weights, no notes of the
        tool that wrote it, no paths of the machine that it ran on.

    Raises:
        BackboneError: the network holds what no model of fre may hold, such as control flow.
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
    # Came with IR 10, and thus with onnx 1.16.
    part.ClearField("metadata_props")


def cut_out(model: onnx.ModelProto, layers: Sequence[str], *, prefix: str) -> onnx.ModelProto:
    """A network that was built into a larger graph, as it was before.

    Args:
        model: the larger graph; every name in the network begins with the prefix, and no other.
        layers: names of the wanted layers, without the prefix.
        prefix: goes from every name.

    Returns:
        The network, whose outputs are the layers, untyped.
    """

    def inside(name: str) -> bool:
        return name.startswith(prefix)

    # What writes the network's input takes something from outside, which no node within does.
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
