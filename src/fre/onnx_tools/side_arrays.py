"""Arrays beside the graph of an ONNX file, for training only.

The ONNX standard reserves the field ``ModelProto.training_info`` for training. It follows the graph
and is cut off before a runtime reads the file, so loading is as fast as without it.
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


def read_arrays(model: bytes) -> dict[str, NDArray[Any]]:
    """Return the arrays beside the graph of a serialised ONNX model, name to array.

    Raises:
        ModelFileError: the arrays are damaged.
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
