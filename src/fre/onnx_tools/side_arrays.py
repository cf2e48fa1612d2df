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
from fre.onnx_tools.protobuf import fields

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
    # It is read as one with what it is appended to: see `fre.onnx_tools.protobuf`.
    beside = onnx.ModelProto()
    beside.training_info.add().algorithm.CopyFrom(
        helper.make_graph([], GRAPH, [], [], initializer=tensors)
    )
    added: bytes = beside.SerializeToString()
    return model + added


def without_arrays(model: bytes, added: bytes = b"") -> bytes:
    """Return a serialised ONNX model without what is beside its graph.

    Args:
        model: serialised model. Anything else is returned as it is: others say what is wrong.
        added: what to append to it, such as further outputs; this saves a copy of the weights.
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
