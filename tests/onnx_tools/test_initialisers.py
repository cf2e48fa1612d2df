"""Numbers that are replaced in a serialised graph."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fre.errors import ModelFileError
from fre.onnx_tools.initialisers import with_initialisers


def model() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "a"], ["y"]), helper.make_node("Add", ["y", "b"], ["z"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N"])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N"])],
        [
            numpy_helper.from_array(np.array([1], np.float32), "a"),
            numpy_helper.from_array(np.array([2], np.float32), "b"),
        ],
    )
    proto = helper.make_model(graph)
    proto.metadata_props.add(key="k", value="v")
    data: bytes = proto.SerializeToString()
    return data


def test_only_the_named_numbers_change() -> None:
    before = onnx.load_model_from_string(model())
    data = with_initialisers(model(), {"b": np.array([5], np.float32)})
    after = onnx.load_model_from_string(data)
    assert [numpy_helper.to_array(tensor).tolist() for tensor in after.graph.initializer] == [
        [1],
        [5],
    ]
    after.graph.initializer[1].CopyFrom(before.graph.initializer[1])
    assert after == before
    assert with_initialisers(data, {"b": np.array([2], np.float32)}) == model()
    assert with_initialisers(model(), {}) == model()
    longer = with_initialisers(model(), {"a": np.arange(300, dtype=np.float32)})
    assert list(onnx.load_model_from_string(longer).graph.initializer[0].dims) == [300]


def test_a_name_that_is_not_there_is_refused() -> None:
    with pytest.raises(ModelFileError, match="lacks the initialiser 'c'"):
        with_initialisers(model(), {"a": np.zeros(1, np.float32), "c": np.zeros(1, np.float32)})
