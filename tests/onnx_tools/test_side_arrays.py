"""Arrays beside the graph of a file."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st

from fre.onnx_tools.side_arrays import read_arrays, with_arrays, without_arrays


def test_arrays_come_back_as_they_were() -> None:
    arrays = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(7, np.int64)}
    bare = onnx.ModelProto(ir_version=8).SerializeToString()
    found = read_arrays(with_arrays(bare, arrays))
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype
    assert without_arrays(with_arrays(bare, arrays)) == bare
    assert read_arrays(bare) == {}


@given(st.binary(max_size=64))
def test_what_is_no_model_is_left_to_others(data: bytes) -> None:
    assert len(without_arrays(data)) <= len(data)
