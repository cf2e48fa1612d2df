"""Build ONNX graphs node by node, and prune them to chosen outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPSET = 18
IR_VERSION = 8
"""The oldest IR version with opset 18, which most runtimes read."""


class GraphBuilder:
    """A graph under construction: constants and nodes, each named by its output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._names: set[str] = set()

    def _unique(self, wish: str) -> str:
        name, count = wish, 1
        while name in self._names:
            count += 1
            name = f"{wish}_{count}"
        self._names.add(name)
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Store an array and return the name of its tensor: ``name``, with a number if taken."""
        unique = self._unique(name)
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), unique)
        self.initializers.append(tensor)
        return unique

    def node(
        self,
        op: str,
        *inputs: str,
        output: str | None = None,
        unused: int = 0,
        **attributes: Any,
    ) -> str:
        """Add a node and return the name of its first output; ``unused`` counts further outputs."""
        name = self._unique(output or op.lower())
        outputs = [name, *(self._unique(f"{name}_unused") for _ in range(unused))]
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        return name

    def embed(self, graph: onnx.GraphProto) -> None:
        """Add all nodes and constants of another graph, with their names."""
        for node in graph.node:
            self._names.update(node.output)
            self.nodes.append(node)
        for tensor in graph.initializer:
            self._names.add(tensor.name)
            self.initializers.append(tensor)

    def model(
        self,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        *,
        name: str,
        opsets: Sequence[onnx.OperatorSetIdProto] = (),
        ir_version: int = IR_VERSION,
    ) -> onnx.ModelProto:
        """Return the model."""
        graph = helper.make_graph(self.nodes, name, inputs, outputs, self.initializers)
        return helper.make_model(
            graph,
            producer_name="fre",
            opset_imports=list(opsets) or [helper.make_opsetid("", OPSET)],
            ir_version=ir_version,
        )


def prune(graph: onnx.GraphProto, outputs: Sequence[str]) -> onnx.GraphProto:
    """Return the part of a graph that some of its tensors depend on.

    Args:
        graph: a graph whose nodes are in topological order, as ONNX requires.
        outputs: names of tensors in the graph.

    Returns:
        A graph of the nodes and constants that lead to ``outputs``, with the inputs they use;
        its outputs are the named tensors, untyped unless the graph states their type.
    """
    needed = set(outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(name for name in node.input if name)
    kept.reverse()
    typed = {value.name: value for value in (*graph.value_info, *graph.output)}
    return helper.make_graph(
        kept,
        graph.name,
        [value for value in graph.input if value.name in needed],
        [typed.get(name) or onnx.ValueInfoProto(name=name) for name in outputs],
        [tensor for tensor in graph.initializer if tensor.name in needed],
    )
