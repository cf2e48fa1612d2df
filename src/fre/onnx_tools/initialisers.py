"""Replace small arrays within the graph of a serialised ONNX model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.errors import ModelFileError
from fre.onnx_tools.protobuf import encode_field, fields

GRAPH, INITIALIZER, NAME = 7, 5, 8
"""Field numbers in onnx.proto: of ModelProto, GraphProto and TensorProto."""


def with_initialisers(model: bytes, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a serialised ONNX model with other values in some of its initialisers.

    Only what the graph allows may change: a shape that its nodes accept.

    Args:
        model: serialised model.
        arrays: name of each initialiser, to its new values.

    Raises:
        ModelFileError: the graph has no initialiser of such a name.
    """
    from onnx import numpy_helper

    missing = set(arrays)

    def changed(graph: memoryview) -> bytes:
        pieces: list[bytes | memoryview] = []
        at = 0
        for field in fields(graph):
            if field.number != INITIALIZER:
                continue
            names = (bytes(part.content) for part in fields(field.content) if part.number == NAME)
            name = next(names, b"").decode()
            if name in arrays:
                missing.discard(name)
                tensor = numpy_helper.from_array(np.asarray(arrays[name], order="C"), name)
                pieces += [graph[at : field.start]]
                pieces += [encode_field(INITIALIZER, tensor.SerializeToString())]
                at = field.stop
        return b"".join([*pieces, graph[at:]])

    view, at = memoryview(model), 0
    parts: list[bytes | memoryview] = []
    for field in fields(model):
        if field.number == GRAPH:
            parts += [view[at : field.start], encode_field(GRAPH, changed(field.content))]
            at = field.stop
    if missing:
        raise ModelFileError(f"the graph lacks the initialiser {min(missing)!r}")
    return b"".join([*parts, view[at:]])
