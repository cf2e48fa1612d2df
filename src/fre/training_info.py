"""Arrays beside the graph of an ONNX file: in a field that inference leaves alone.

``ModelProto.training_info`` is the standard's place for what only training needs. It comes after
the graph, and is cut off before a runtime reads the file: loading takes no longer with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.errors import ModelFileError

__all__ = ["read_arrays", "with_arrays", "without_arrays"]

TRAINING_INFO = 20
"""Number of the field in onnx.proto."""

GRAPH = "fre.learning"


def with_arrays(model: bytes, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """A serialised ONNX model with arrays beside its graph.

    Args:
        model: without any.
        arrays: by name.
    """
    import onnx
    from onnx import helper, numpy_helper

    tensors = [
        numpy_helper.from_array(np.asarray(values, order="C"), name)
        for name, values in arrays.items()
    ]
    # Messages of Protocol Buffers that are written one after the other are read as one.
    beside = onnx.ModelProto()
    beside.training_info.add().algorithm.CopyFrom(
        helper.make_graph([], GRAPH, [], [], initializer=tensors)
    )
    added: bytes = beside.SerializeToString()
    return model + added


def without_arrays(model: bytes) -> bytes:
    """A serialised ONNX model without what is beside its graph.

    Anything that is not such a model is returned as it is: others say what is wrong with it.
    """
    parts, kept, position = [], 0, 0
    view = memoryview(model)
    while position < len(model):
        start = position
        try:
            key, position = _varint(view, position)
            if key & 7 == 0:
                _, position = _varint(view, position)
            elif key & 7 == 2:
                length, position = _varint(view, position)
                position += length
            else:
                return model
        except IndexError:
            return model
        if key >> 3 == TRAINING_INFO:
            parts.append(view[kept:start])
            kept = position
    if not parts or position > len(model):
        return model
    return b"".join([*parts, view[kept:]])


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, position


def read_arrays(model: bytes) -> dict[str, NDArray[Any]]:
    """The arrays beside the graph of a serialised ONNX model; none, if there are none.

    Raises:
        ModelFileError: they are damaged.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import numpy_helper

    try:
        proto = onnx.load_model_from_string(model)
        return {
            tensor.name: numpy_helper.to_array(tensor)
            for info in proto.training_info
            if info.algorithm.name == GRAPH
            for tensor in info.algorithm.initializer
        }
    except (DecodeError, ValueError, TypeError) as error:
        raise ModelFileError("the arrays beside its graph are damaged") from error
