"""The encoding of Protocol Buffers, as far as ONNX files are cut and joined without parsing them.

A message is a run of fields, each a tag (its number and how it is encoded) and its content.
Messages that are written one after the other are read as one, their repeated fields joined ("Last
One Wins" in the encoding guide of Protocol Buffers). So a model gains outputs or arrays by what is
appended to it, and neither the package onnx nor a second copy of the weights is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Field", "encode_field", "fields"]

VARINT, FIXED_64, DELIMITED, FIXED_32 = 0, 1, 2, 5
"""How a field is encoded, the low bits of its tag."""


class Field(NamedTuple):
    """A field of bytes.

    Attributes:
        number: of the field.
        start: where it begins in the message.
        stop: where it ends.
        content: its bytes.
    """

    number: int
    start: int
    stop: int
    content: memoryview


def encode_field(number: int, content: bytes) -> bytes:
    """A field of bytes: a string, or a message in the message."""
    return _varint(number << 3 | DELIMITED) + _varint(len(content)) + content


def fields(message: bytes | memoryview) -> Iterator[Field]:
    """The fields of bytes in a message, as views of it; numbers are passed over.

    A field known as bytes that is encoded as a number is another field, so that no reader takes it
    for bytes of length 0.

    Raises:
        ValueError: that is no message.
        IndexError: it ends within a field.
    """
    view = memoryview(message)
    at = 0
    while at < len(view):
        start = at
        tag, at = _read_varint(view, at)
        kind, length = tag & 7, 0
        if kind == DELIMITED:
            length, at = _read_varint(view, at)
        elif kind == VARINT:
            _, at = _read_varint(view, at)
        elif kind in (FIXED_64, FIXED_32):
            at += 8 if kind == FIXED_64 else 4
        else:
            raise ValueError(f"no encoding has the number {kind}")
        if at + length > len(view):
            raise IndexError("the message ends within a field")
        if kind == DELIMITED:
            yield Field(tag >> 3, start, at + length, view[at : at + length])
        at += length


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def _read_varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number, and where it ends."""
    value = 0
    for place in range(10):
        byte = message[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a number of more than 64 bits")
