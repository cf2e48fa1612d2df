"""Messages of Protocol Buffers, against those that the package onnx writes and reads."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fre.onnx_tools.protobuf import encode_field, fields

DOC_STRING = 6
PRODUCER_NAME = 2
"""Numbers of two fields of onnx.proto's ModelProto."""


@given(st.text(min_size=1, max_size=400), st.text(min_size=1, max_size=400))
def test_what_is_encoded_is_what_onnx_reads(first: str, second: str) -> None:
    encoded = encode_field(PRODUCER_NAME, first.encode()) + encode_field(
        DOC_STRING, second.encode()
    )
    read = onnx.ModelProto.FromString(encoded)
    assert (read.producer_name, read.doc_string) == (first, second)


@given(st.integers(0, 2**63 - 1), st.floats(width=32, allow_nan=False), st.binary(max_size=300))
def test_fields_of_bytes_are_where_onnx_wrote_them(
    number: int, real: float, content: bytes
) -> None:
    """An attribute has fields of every encoding but that of 64 bits: a number, 32 bits, bytes."""
    attribute = onnx.AttributeProto(name="a", i=number, f=real, s=content)
    data = attribute.SerializeToString()
    name, last = fields(data)
    assert (name.number, bytes(name.content)) == (1, b"a")
    assert (last.number, bytes(last.content)) == (4, content)
    assert onnx.AttributeProto.FromString(data[last.start : last.stop]).s == content
    assert onnx.AttributeProto.FromString(data[name.stop : last.start]).i == number


def test_fields_of_64_bits_are_passed_over() -> None:
    double = bytes([9 << 3 | 1]) + bytes(8)
    after = encode_field(1, b"x")
    assert [(field.number, bytes(field.content)) for field in fields(double + after)] == [(1, b"x")]


@pytest.mark.parametrize("size", range(1, 8))
def test_a_message_that_ends_within_a_field_is_refused(size: int) -> None:
    whole = encode_field(20, b"12345")
    assert len(whole) == 8
    with pytest.raises(IndexError):
        list(fields(whole[:size]))


@pytest.mark.parametrize("noise", [b"\x0b\x00", b"\xff" * 11], ids=["encoding", "number"])
def test_what_is_no_message_is_refused(noise: bytes) -> None:
    with pytest.raises(ValueError, match=r"encoding|64 bits"):
        list(fields(noise))
