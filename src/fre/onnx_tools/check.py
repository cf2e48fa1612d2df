"""Check an ONNX model before a runtime sees it: structure, operators and sizes.

A runtime reads files that a model names, loops as long as a model says, and allocates what a model
asks for. So a model may only hold what fre's own graphs and plain networks need: one graph of known
operators, with all numbers inside the file. `fre.onnx_tools.sizes` has the operators and bounds
what they compute. The model is read from its encoding (`fre.onnx_tools.protobuf`),
without the package onnx.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import ModelFileError
from fre.onnx_tools.protobuf import (
    DELIMITED,
    FIXED_32,
    FIXED_64,
    MAX_FIELDS,
    VARINT,
    read_varint,
    walk,
)
from fre.onnx_tools.sizes import Attribute, Node, SizeError, bound_sizes

MAX_PARTS = 20_000
"""Largest number of nodes, and of tensors, in a graph."""
MAX_ENTRIES = 64
"""Largest number of metadata entries."""
MAX_TEXT = 1 << 24
"""Largest size of one metadata entry, in bytes."""
MAX_RANK = 8
MAX_LIST = 1 << 12
"""Longest packed list that is read."""
MAX_VALUES = 64
"""Integer tensors of at most this many values are read: they may be shapes."""
MAX_CHECKED = 1 << 16
"""Float tensors outside a backbone with at most this many values must be finite."""
BACKBONE = "backbone/"

_ONE, _MANY = False, True
_NUMBER, _BYTES, _REAL = 1 << VARINT, 1 << DELIMITED, 1 << FIXED_32
_NUMBERS, _REALS, _DOUBLES = _NUMBER | _BYTES, _REAL | _BYTES, 1 << FIXED_64 | _BYTES
"""Encodings that a field may have, one bit each. Lists are one field a number, or packed bytes."""

_Schema: TypeAlias = dict[int, tuple[int, bool]]
"""Field number to its encodings, and whether the field may be there more than once."""

MODEL: _Schema = {
    1: (_NUMBER, _ONE),  # ir_version
    2: (_BYTES, _ONE),  # producer_name
    3: (_BYTES, _ONE),  # producer_version
    4: (_BYTES, _ONE),  # domain
    5: (_NUMBER, _ONE),  # model_version
    6: (_BYTES, _ONE),  # doc_string
    7: (_BYTES, _ONE),  # graph
    8: (_BYTES, _MANY),  # opset_import
    14: (_BYTES, _MANY),  # metadata_props
    20: (_BYTES, _MANY),  # training_info
}
GRAPH: _Schema = {
    1: (_BYTES, _MANY),  # node
    2: (_BYTES, _ONE),  # name
    5: (_BYTES, _MANY),  # initializer
    10: (_BYTES, _ONE),  # doc_string
    11: (_BYTES, _MANY),  # input
    12: (_BYTES, _MANY),  # output
    13: (_BYTES, _MANY),  # value_info
    14: (_BYTES, _MANY),  # quantization_annotation
    16: (_BYTES, _MANY),  # metadata_props
}
NODE: _Schema = {
    1: (_BYTES, _MANY),  # input
    2: (_BYTES, _MANY),  # output
    3: (_BYTES, _ONE),  # name
    4: (_BYTES, _ONE),  # op_type
    5: (_BYTES, _MANY),  # attribute
    6: (_BYTES, _ONE),  # doc_string
    7: (_BYTES, _ONE),  # domain
    9: (_BYTES, _MANY),  # metadata_props
}
ATTRIBUTE: _Schema = {
    1: (_BYTES, _ONE),  # name
    2: (_REAL, _ONE),  # f
    3: (_NUMBER, _ONE),  # i
    4: (_BYTES, _ONE),  # s
    5: (_BYTES, _ONE),  # t
    7: (_REALS, _MANY),  # floats
    8: (_NUMBERS, _MANY),  # ints
    13: (_BYTES, _ONE),  # doc_string
    20: (_NUMBER, _ONE),  # type
}
TENSOR: _Schema = {
    1: (_NUMBERS, _MANY),  # dims
    2: (_NUMBER, _ONE),  # data_type
    4: (_REALS, _MANY),  # float_data
    5: (_NUMBERS, _MANY),  # int32_data
    7: (_NUMBERS, _MANY),  # int64_data
    8: (_BYTES, _ONE),  # name
    9: (_BYTES, _ONE),  # raw_data
    10: (_DOUBLES, _MANY),  # double_data
    11: (_NUMBERS, _MANY),  # uint64_data
    12: (_BYTES, _ONE),  # doc_string
    14: (_NUMBER, _ONE),  # data_location
    16: (_BYTES, _MANY),  # metadata_props
}
TRAINING_INFO: _Schema = {2: (_BYTES, _ONE)}  # algorithm
VALUE_INFO: _Schema = {
    1: (_BYTES, _ONE),  # name
    2: (_BYTES, _ONE),  # type
    3: (_BYTES, _ONE),  # doc_string
    4: (_BYTES, _MANY),  # metadata_props
}
TYPE: _Schema = {1: (_BYTES, _ONE), 6: (_BYTES, _ONE)}  # tensor_type, denotation
TENSOR_TYPE: _Schema = {1: (_NUMBER, _ONE), 2: (_BYTES, _ONE)}  # elem_type, shape
SHAPE: _Schema = {1: (_BYTES, _MANY)}  # dim
DIMENSION: _Schema = {
    1: (_NUMBER, _ONE),  # dim_value
    2: (_BYTES, _ONE),  # dim_param
    3: (_BYTES, _ONE),  # denotation
}
ENTRY: _Schema = {1: (_BYTES, _ONE), 2: (_BYTES, _ONE)}  # key, value

REASONS = {
    ("model", 25): "functions",
    ("node", 8): "functions",
    ("model", 26): "device configurations",
    ("node", 10): "device configurations",
    ("graph", 15): "sparse tensors",
    ("attribute", 6): "subgraphs (loops, conditions or scans)",
    ("attribute", 11): "subgraphs (loops, conditions or scans)",
    ("attribute", 9): "attributes of strings",
    ("attribute", 10): "attributes of tensors",
    ("attribute", 21): "functions",
    ("attribute", 22): "sparse tensors",
    ("attribute", 23): "sparse tensors",
    ("tensor", 3): "tensors in segments",
    ("tensor", 6): "tensors of strings",
}
"""What ONNX allows and fre refuses: message and field number to words."""

EXTERNAL = (
    "the numbers of the tensor {} are in another file, and fre reads one file alone; merge them "
    "by onnx.save(onnx.load(FILE), NEW_FILE)"
)

FLOAT_TYPES: dict[int, str] = {1: "<f4", 10: "<f2", 11: "<f8"}
INTEGER_TYPES: dict[int, str] = {2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?"}
BITS = {
    1: 32,
    2: 8,
    3: 8,
    4: 16,
    5: 16,
    6: 32,
    7: 64,
    9: 8,
    10: 16,
    11: 64,
    12: 32,
    13: 64,
    16: 16,
    17: 8,
    18: 8,
    19: 8,
    20: 8,
    21: 4,
    22: 4,
    23: 4,
}
"""Element types of ONNX that are allowed, and the bits of one number: no strings, no complex."""


@dataclass(frozen=True)
class ValueInfo:
    """An input or output of a graph.

    Attributes:
        element: element type, a number of ``TensorProto.DataType``.
        shape: one entry for each dimension; ``None`` where it is free.
    """

    element: int
    shape: tuple[int | None, ...]


@dataclass
class CheckedModel:
    """What `check_model` read of a model.

    Attributes:
        metadata: ``metadata_props``, by key.
        entries: where the values of ``metadata_props`` are, by key: offsets of first byte and end.
        inputs: inputs of the graph that are no initialisers, by name.
        outputs: outputs of the graph, by name.
        computed: names of all results of nodes.
    """

    metadata: dict[str, str] = field(default_factory=dict)
    entries: dict[str, tuple[int, int]] = field(default_factory=dict)
    inputs: dict[str, ValueInfo] = field(default_factory=dict)
    outputs: dict[str, ValueInfo] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)


class _RefusedError(Exception):
    """A model is not allowed, for a reason that is its message."""


def check_model(data: bytes, *, free: int = 1) -> CheckedModel:
    """Check a serialised ONNX model, and read what surrounds its nodes.

    It takes a few milliseconds, and about a second at most, whatever the bytes are.

    Args:
        data: serialised model.
        free: size of free dimensions of its inputs. The first is the batch, of one image.

    Raises:
        ModelFileError: the bytes are no ONNX model, or the model holds what fre refuses.
    """
    try:
        return _Checker(data).check(free)
    except (_RefusedError, SizeError) as error:
        raise ModelFileError(str(error)) from None
    except (ValueError, IndexError, OverflowError) as error:
        raise ModelFileError("not an ONNX model, or a damaged one") from error


@dataclass(frozen=True)
class _Tensor:
    name: str
    dims: tuple[int, ...]
    values: NDArray[np.number] | None


class _Checker:
    """Reads one model; see `check_model`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._found = CheckedModel()
        self._left = MAX_FIELDS

    def _text(self, start: int, stop: int) -> str:
        return self._data[start:stop].decode()

    def _parts(
        self, what: str, schema: _Schema, start: int, stop: int
    ) -> Iterator[tuple[int, int, int]]:
        """Fields of a message: number, and its content as offsets or as a value and an offset.

        Packed numbers come one by one, as the others do.
        """
        seen = 0
        for number, kind, first, second in walk(self._data, start, stop, self._left):
            self._left -= 1
            rule = schema.get(number)
            if rule is None:
                if what == "tensor" and number == 13:
                    raise _RefusedError(EXTERNAL.format(self._tensor_name(start, stop)))
                reason = REASONS.get((what, number))
                if reason is None:
                    raise ValueError(f"a {what} has no field {number}")
                raise _RefusedError(f"it holds {reason}, which fre does not run")
            encodings, many = rule
            if not encodings >> kind & 1:
                raise ValueError(f"field {number} of a {what} in the wrong encoding")
            if not many:
                if seen >> number & 1:
                    raise ValueError(f"field {number} of a {what} twice")
                seen |= 1 << number
            if encodings == _NUMBERS and kind == DELIMITED:
                for value in self._packed(first, second):
                    yield number, value, second
            else:
                yield number, first, second

    def _packed(self, at: int, stop: int) -> Iterator[int]:
        """Numbers of a packed list, if it is short enough to be a shape; else none of them."""
        # A number takes ten bytes at most.
        while at < stop <= at + 10 * MAX_LIST:
            value, at = read_varint(self._data, at)
            yield value

    def check(self, free: int) -> CheckedModel:
        graph, entries = None, 0
        present: set[int] = set()
        for number, start, stop in self._parts("model", MODEL, 0, len(self._data)):
            present.add(number)
            if number == 7:
                graph = start, stop
            elif number == 14:
                entries += 1
                self._entry(start, stop, entries)
            elif number == 20:
                self._training_info(start, stop)
        if graph is None:
            raise ValueError("no graph")
        if not {1, 8} <= present:
            raise _RefusedError("it does not say which version of ONNX and of its operators it is")
        self._graph(*graph, free)
        return self._found

    def _entry(self, start: int, stop: int, count: int) -> None:
        if count > MAX_ENTRIES:
            raise _RefusedError(f"it has more than {MAX_ENTRIES} metadata entries")
        key, value, place = "", "", (start, start)
        for number, first, last in self._parts("metadata entry", ENTRY, start, stop):
            if last - first > MAX_TEXT:
                raise _RefusedError(f"a metadata entry of {last - first} bytes; at most {MAX_TEXT}")
            if number == 1:
                key = self._text(first, last)
            else:
                value, place = self._text(first, last), (first, last)
        if key in self._found.metadata:
            raise _RefusedError(f"it has the metadata entry {key[:80]!r} twice")
        self._found.metadata[key] = value
        self._found.entries[key] = place

    def _training_info(self, start: int, stop: int) -> None:
        """Arrays beside the graph: initialisers and nothing else."""
        for _, first, last in self._parts("training info", TRAINING_INFO, start, stop):
            for number, at, end in self._parts("graph", GRAPH, first, last):
                if number == 5:
                    self._tensor(at, end)
                elif number not in (2, 10):
                    raise _RefusedError("its training info holds more than arrays")

    def _graph(self, start: int, stop: int, free: int) -> None:
        nodes: list[Node] = []
        tensors: dict[str, tuple[int, ...]] = {}
        values: dict[str, NDArray[np.number]] = {}
        inputs: dict[str, ValueInfo] = {}
        for number, first, last in self._parts("graph", GRAPH, start, stop):
            if number == 1:
                nodes.append(self._node(first, last))
            elif number == 5:
                tensor = self._tensor(first, last)
                tensors[tensor.name] = tensor.dims
                if tensor.values is not None:
                    values[tensor.name] = tensor.values
            elif number in (11, 12):
                name, info = self._value_info(first, last)
                (inputs if number == 11 else self._found.outputs)[name] = info
            if len(nodes) > MAX_PARTS or len(tensors) > MAX_PARTS:
                raise _RefusedError(f"its graph has more than {MAX_PARTS} nodes or tensors")
        # Before IR 4 initialisers were listed as inputs, too.
        self._found.inputs = {name: i for name, i in inputs.items() if name not in tensors}
        self._found.computed = {name for node in nodes for name in node.outputs}
        shapes = {
            name: tuple(
                (free if axis else 1) if size is None else size
                for axis, size in enumerate(info.shape)
            )
            for name, info in self._found.inputs.items()
        }
        bound_sizes(nodes, tensors, values, shapes, len(self._data))

    def _node(self, start: int, stop: int) -> Node:
        inputs: list[str] = []
        outputs: list[str] = []
        attributes: dict[str, Attribute] = {}
        op = domain = ""
        for number, first, last in self._parts("node", NODE, start, stop):
            if number == 1:
                inputs.append(self._text(first, last))
            elif number == 2:
                outputs.append(self._text(first, last))
            elif number == 4:
                op = self._text(first, last)
            elif number == 5:
                name, value = self._attribute(first, last)
                attributes[name] = value
            elif number == 7:
                domain = self._text(first, last)
        if domain not in ("", "ai.onnx"):
            raise _RefusedError(
                f"it holds the operator {op[:80]} of {domain[:80]}, which is not of ONNX"
            )
        return Node(op, inputs, outputs, attributes)

    def _attribute(self, start: int, stop: int) -> tuple[str, Attribute]:
        name, value, numbers = "", Attribute(), list[int]()
        for number, first, last in self._parts("attribute", ATTRIBUTE, start, stop):
            if number == 1:
                name = self._text(first, last)
            elif number == 3:
                value = value._replace(number=_signed(first))
            elif number == 4:
                value = value._replace(text=self._data[first:last])
            elif number == 5:
                tensor = self._tensor(first, last)
                value = value._replace(shape=tensor.dims, values=tensor.values)
            elif number == 8:
                numbers.append(_signed(first))
        return name, value._replace(numbers=tuple(numbers))

    def _tensor_name(self, start: int, stop: int) -> str:
        for number, kind, first, last in walk(self._data, start, stop):
            if (number, kind) == (8, DELIMITED):
                return repr(self._text(first, min(last, first + 80)))
        return "(unnamed)"

    def _tensor(self, start: int, stop: int) -> _Tensor:
        name, element, dims = "", 0, []
        raw: tuple[int, int] | None = None
        integers: list[int] = []
        for number, first, last in self._parts("tensor", TENSOR, start, stop):
            if number == 1:
                dims.append(_signed(first))
            elif number == 2:
                element = first
            elif number in (5, 7):
                integers.append(_signed(first))
            elif number == 8:
                name = self._text(first, last)
            elif number == 9:
                raw = first, last
            elif number == 14 and first:
                raise _RefusedError(EXTERNAL.format(self._tensor_name(start, stop)))
        if element not in BITS:
            raise _RefusedError(f"the tensor {name[:80]!r} has the element type {element}")
        if len(dims) > MAX_RANK or any(not 0 <= dim < 1 << 40 for dim in dims):
            raise _RefusedError(f"the tensor {name[:80]!r} has the impossible shape {dims[:9]}")
        count = math.prod(dims)
        # Without raw bytes each number takes one byte or more, or half of one.
        fits = count <= 2 * (stop - start)
        if raw is not None:
            fits = raw[1] - raw[0] == -(-count * BITS[element] // 8)
        if not fits:
            raise _RefusedError(
                f"the tensor {name[:80]!r} of shape {dims} has other than {count} values"
            )
        return _Tensor(name, tuple(dims), self._values(name, element, count, raw, integers))

    def _values(
        self,
        name: str,
        element: int,
        count: int,
        raw: tuple[int, int] | None,
        integers: list[int],
    ) -> NDArray[np.number] | None:
        """Values of a tensor that may be a shape; checks that small float tensors are finite."""
        kind = FLOAT_TYPES.get(element) or INTEGER_TYPES.get(element)
        if (
            kind is None
            or count > MAX_CHECKED
            or (name.startswith(BACKBONE) and count > MAX_VALUES)
        ):
            return None
        if raw is None:
            few = len(integers) == count <= MAX_VALUES and element in INTEGER_TYPES
            return np.array(integers, np.int64) if few else None
        if element in FLOAT_TYPES or count <= MAX_VALUES:
            values = np.frombuffer(self._data, kind, count, raw[0])
            if element in FLOAT_TYPES and not np.isfinite(values).all():
                raise _RefusedError(f"the tensor {name[:80]!r} holds numbers that are not finite")
            return values if count <= MAX_VALUES else None
        return None

    def _value_info(self, start: int, stop: int) -> tuple[str, ValueInfo]:
        name, element, shape = "", 0, list[int | None]()
        for number, first, last in self._parts("value", VALUE_INFO, start, stop):
            if number == 1:
                name = self._text(first, last)
            elif number == 2:
                for part, at, end in self._parts("type", TYPE, first, last):
                    if part == 1:
                        element, shape = self._tensor_type(at, end)
        return name, ValueInfo(element, tuple(shape))

    def _tensor_type(self, start: int, stop: int) -> tuple[int, list[int | None]]:
        element, shape = 0, list[int | None]()
        for number, first, last in self._parts("tensor type", TENSOR_TYPE, start, stop):
            if number == 1:
                element = first
                continue
            for _, at, end in self._parts("shape", SHAPE, first, last):
                size = None
                for part, value, _ in self._parts("dimension", DIMENSION, at, end):
                    size = value if part == 1 else size
                shape.append(size)
        return element, shape


def _signed(value: int) -> int:
    """A 64-bit number in two's complement."""
    return value - (1 << 64) if value >> 63 else value
