"""Make graphs that other tools wrote fit to be built into ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fre.onnx_builder import prune

__all__ = ["INPUT", "adopt", "bodies", "first_line", "run"]

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
    """
    graph = prune(model.graph, list(layers))
    constants = {tensor.name for tensor in graph.initializer}
    constants.update(tensor.values.name for tensor in graph.sparse_initializer)
    names = {name: name for name in layers}
    # Before IR 4 the constants were listed as inputs, too.
    for source in graph.input:
        if source.name not in constants:
            names[source.name] = INPUT
    _rename(graph, names, prefix)
    pruned = helper.make_graph(
        graph.node,
        prefix.rstrip("/"),
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["N", 3, *size])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])
            for name, shape in layers.items()
        ],
        graph.initializer,
        sparse_initializer=graph.sparse_initializer,
    )
    used = _domains(graph)
    opsets = [opset for opset in model.opset_import if opset.domain in used]
    adopted = helper.make_model(
        pruned,
        producer_name="fre",
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets, ignore_unknown=True),
    )
    onnx.checker.check_model(adopted)
    return adopted


def _rename(graph: onnx.GraphProto, names: dict[str, str], prefix: str) -> None:
    """Rename everything in a graph and in the bodies of its control flow, in place.

    Names are unique across a graph and its bodies, so that one rule serves for all of them.
    """

    def new(name: str) -> str:
        # An empty name is an optional input that is left out.
        return names.get(name, prefix + name) if name else name

    for node in graph.node:
        node.name = new(node.name)
        node.input[:] = [new(name) for name in node.input]
        node.output[:] = [new(name) for name in node.output]
        _forget_origin(node)
        for body in bodies(node):
            _rename(body, names, prefix)
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
        _forget_origin(tensor)
    for sparse in graph.sparse_initializer:
        sparse.values.name = new(sparse.values.name)
    for value in (*graph.input, *graph.output):
        value.name = new(value.name)
    del graph.value_info[:]


def _forget_origin(part: Any) -> None:
    part.ClearField("doc_string")
    # Came with IR 10, and thus with onnx 1.16.
    part.ClearField("metadata_props")


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    found = []
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found.append(attribute.g)
        found.extend(attribute.graphs)
    return found


def _domains(graph: onnx.GraphProto) -> set[str]:
    """The operator sets in use; the standard one always, which goes by two names."""
    found = {"", "ai.onnx"}
    for node in graph.node:
        found.add(node.domain)
        for body in bodies(node):
            found |= _domains(body)
    return found
