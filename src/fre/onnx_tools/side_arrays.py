"""Arrays beside the graph of an ONNX file, for training only.

The ONNX standard reserves the field ``ModelProto.training_info`` for training. It follows the graph
and is cut off before a runtime reads the file, so loading is as fast as without it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.errors import ModelFileError
from fre.onnx_tools.protobuf import fields

TRAINING_INFO, ALGORITHM, TENSOR, NAME = 20, 2, 5, 8
"""Numbers of fields in onnx.proto: of ModelProto, TrainingInfoProto, GraphProto and TensorProto."""

GRAPH = "fre.learning"


def with_arrays(model: bytes, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return a serialised ONNX model with arrays beside its graph.

    Args:
        model: serialised model without such arrays.
        arrays: name to array.
    """
    import onnx
    from onnx import helper, numpy_helper

    tensors = [
        numpy_helper.from_array(np.asarray(values, order="C"), name)
        for name, values in arrays.items()
    ]
    # Readers join the appended message with the model: see `fre.onnx_tools.protobuf`.
    beside = onnx.ModelProto()
    beside.training_info.add().algorithm.CopyFrom(
        helper.make_graph([], GRAPH, [], [], initializer=tensors)
    )
    added: bytes = beside.SerializeToString()
    return model + added


def without_arrays(model: bytes, added: bytes = b"") -> bytes:
    """Return a serialised ONNX model without the arrays beside its graph.

    Args:
        model: serialised model. Other bytes are returned unchanged; a later step refuses them.
        added: bytes to append, such as further outputs; this saves a copy of the weights.
    """
    kept: list[memoryview] = []
    start = 0
    view = memoryview(model)
    try:
        for field in fields(model):
            if field.number == TRAINING_INFO:
                kept.append(view[start : field.start])
                start = field.stop
    except (ValueError, IndexError):
        return model + added
    return b"".join([*kept, view[start:], added]) if kept else model + added


def read_arrays(model: bytes, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Return the arrays beside the graph of a serialised ONNX model, name to array.

    Args:
        model: serialised model.
        prefix: only arrays whose names begin with it are read.

    Raises:
        ModelFileError: the arrays are damaged.
    """
    from google.protobuf.message import DecodeError
    from onnx import TensorProto, numpy_helper

    found: dict[str, NDArray[Any]] = {}
    try:
        for tensor in _tensors(model):
            names = (bytes(part.content) for part in fields(tensor) if part.number == NAME)
            if next(names, b"").decode().startswith(prefix):
                parsed = TensorProto.FromString(bytes(tensor))
                found[parsed.name] = numpy_helper.to_array(parsed)
    except (DecodeError, ValueError, TypeError, IndexError) as error:
        raise ModelFileError("the arrays beside its graph are damaged") from error
    return found


def _tensors(model: bytes) -> Iterator[memoryview]:
    """Yield each stored array: a serialised TensorProto."""
    for info in fields(model):
        if info.number != TRAINING_INFO:
            continue
        for graph in fields(info.content):
            if graph.number == ALGORITHM:
                yield from (part.content for part in fields(graph.content) if part.number == TENSOR)
