"""The part of the Protocol Buffers encoding that cutting, joining and checking ONNX files needs.

A message is a list of fields. Each field is a tag (field number and encoding) and its content.
Messages written one after the other are read as one message whose repeated fields are joined
("Last One Wins" in the encoding guide of Protocol Buffers). So fre adds outputs or arrays to a
model by appending bytes; it needs neither the package onnx nor a second copy of the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

VARINT, FIXED_64, DELIMITED, FIXED_32 = 0, 1, 2, 5
"""Encodings of a field: the low three bits of its tag."""

MAX_FIELDS = 500_000
"""Largest number of fields that a message may have: reading it takes about half a second.
Models of fre have about 4,000 in all."""


class Field(NamedTuple):
    """A field of bytes.

    Attributes:
        number: number of the field.
        start: offset of its first byte in the message.
        stop: offset after its last byte.
        content: its bytes, without tag and length.
    """

    number: int
    start: int
    stop: int
    content: memoryview


def encode_field(number: int, content: bytes) -> bytes:
    """Encode a field of bytes: a string, or an inner message."""
    return _varint(number << 3 | DELIMITED) + _varint(len(content)) + content


def with_outputs(model: bytes, names: Sequence[str]) -> bytes:
    """Return a serialised ONNX model with some of its tensors as additional outputs."""
    # A model whose graph has only outputs: readers join it with the model before it.
    outputs = b"".join(
        encode_field(GRAPH_OUTPUT, encode_field(VALUE_NAME, name.encode())) for name in names
    )
    return model + encode_field(MODEL_GRAPH, outputs)


MODEL_GRAPH, GRAPH_OUTPUT, VALUE_NAME = 7, 12, 1
"""Numbers of the fields in onnx.proto: ModelProto, GraphProto, ValueInfoProto."""


def fields(message: bytes | memoryview) -> Iterator[Field]:
    """Yield the fields of bytes in a message, as views of it; numbers are skipped.

    Raises:
        ValueError: the bytes are no message, or it has more than `MAX_FIELDS` fields.
        IndexError: the message ends within a field.
    """
    view = memoryview(message)
    begin = 0
    for number, kind, start, stop in walk(message, 0, len(view)):
        if kind == DELIMITED:
            yield Field(number, begin, stop, view[start:stop])
        begin = stop


def walk(
    message: bytes | memoryview, at: int, stop: int, at_most: int = MAX_FIELDS
) -> Iterator[tuple[int, int, int, int]]:
    """Yield every field of a message.

    Args:
        message: bytes that hold the message.
        at: offset of the message's first byte.
        stop: offset after its last byte.
        at_most: largest number of fields.

    Yields:
        Field number, encoding, and start and stop of its content. For a `VARINT` the third item is
        the value (unsigned, 64 bits), and the fourth is the offset after it.

    Raises:
        ValueError: the bytes are no message, or it has more than ``at_most`` fields.
        IndexError: the message ends within a field.
    """
    for _ in range(at_most):
        if at >= stop:
            return
        tag = message[at]
        if tag < 128:
            at += 1
        else:
            tag, at = read_varint(message, at)
            # Readers keep 32 bits of a tag: a longer one means different things to them.
            if tag >= 1 << 32:
                raise ValueError("a tag of more than 32 bits")
        kind, number = tag & 7, tag >> 3
        if kind in (DELIMITED, VARINT):
            value = message[at]
            if value < 128:
                at += 1
            else:
                value, at = read_varint(message, at)
            first, end = (at, at + value) if kind == DELIMITED else (value, at)
        elif kind in (FIXED_64, FIXED_32):
            first, end = at, at + (8 if kind == FIXED_64 else 4)
        else:
            raise ValueError(f"no encoding has the number {kind}")
        if end > stop:
            raise IndexError("the message ends within a field")
        yield number, kind, first, end
        at = end
    if at < stop:
        raise ValueError(f"more than {at_most} fields in one message")


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def read_varint(message: bytes | memoryview, at: int) -> tuple[int, int]:
    """Read an unsigned number of 64 bits; return it and the offset after it.

    Raises:
        ValueError: the number is longer.
        IndexError: the message ends within it.
    """
    value = 0
    for place in range(10):
        byte = message[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value & (1 << 64) - 1, at + place + 1
    raise ValueError("a number of more than 64 bits")
