"""Check an ONNX model before a runtime sees it: structure, operators and sizes.

A runtime opens files that a model names, runs its loops, and allocates what it asks for. So a model
may only hold what fre's own graphs and plain networks need: one graph of known operators, with all
numbers inside the file. `fre.onnx_tools.sizes` lists the operators and bounds their sizes. The
model is read from its encoding (`fre.onnx_tools.protobuf`), without the package onnx.
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
from fre.onnx_tools.sizes import MAX_RANK, Attribute, Node, SizeError, bound_sizes

MAX_PARTS = 20_000
"""Largest number of nodes, and of tensors, in a graph."""
MAX_ENTRIES = 64
"""Largest number of metadata entries."""
MAX_TEXT = 1 << 24
"""Largest size of one metadata entry, in bytes."""
MAX_LIST = 1 << 12
"""Longest packed list that is read."""
MAX_VALUES = 64
"""Integer tensors of at most this many values are read: they may be shapes."""
MAX_CHECKED = 1 << 16
"""Float tensors outside a backbone with at most this many values must be finite."""
BACKBONE = "backbone/"

_ENCODINGS = {
    "n": 1 << VARINT,
    "b": 1 << DELIMITED,
    "r": 1 << FIXED_32,
    "N": 1 << VARINT | 1 << DELIMITED,
    "R": 1 << FIXED_32 | 1 << DELIMITED,
    "D": 1 << FIXED_64 | 1 << DELIMITED,
}
"""Encodings that a field may have, one bit each: number, bytes, real; and lists of numbers, reals
or doubles, which are one field a number, or packed bytes."""

_Schema: TypeAlias = dict[int, tuple[str, int, bool]]
"""Field number to name, encodings, and whether the field may be there more than once."""


def _schema(text: str) -> _Schema:
    """Parse fields such as ``node=1b*``: name, number, encoding, and ``*`` for a repeated field."""
    schema: _Schema = {}
    for word in text.split():
        name, rule = word.split("=")
        number = int(rule.rstrip("*nbrNRD"))
        kind = rule.rstrip("*")[-1]
        schema[number] = name, _ENCODINGS[kind], rule.endswith("*") or kind.isupper()
    return schema


SCHEMAS = {
    "model": _schema(
        "ir_version=1n producer_name=2b producer_version=3b domain=4b model_version=5n "
        "doc_string=6b graph=7b opset_import=8b* metadata_props=14b* training_info=20b*"
    ),
    "graph": _schema(
        "node=1b* name=2b initializer=5b* doc_string=10b input=11b* output=12b* value_info=13b* "
        "quantization_annotation=14b* metadata_props=16b*"
    ),
    "node": _schema(
        "input=1b* output=2b* name=3b op_type=4b attribute=5b* doc_string=6b domain=7b "
        "metadata_props=9b*"
    ),
    "attribute": _schema("name=1b f=2r i=3n s=4b t=5b floats=7R ints=8N doc_string=13b type=20n"),
    "tensor": _schema(
        "dims=1N data_type=2n float_data=4R int32_data=5N int64_data=7N name=8b raw_data=9b "
        "double_data=10D uint64_data=11N doc_string=12b data_location=14n metadata_props=16b*"
    ),
    "training info": _schema("algorithm=2b"),
    "value": _schema("name=1b type=2b doc_string=3b metadata_props=4b*"),
    "type": _schema("tensor_type=1b denotation=6b"),
    "tensor type": _schema("elem_type=1n shape=2b"),
    "shape": _schema("dim=1b*"),
    "dimension": _schema("dim_value=1n dim_param=2b denotation=3b"),
    "metadata entry": _schema("key=1b value=2b"),
}
"""Messages of onnx.proto with the fields that a model of fre may hold."""

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
"""Fields that ONNX allows and fre refuses: message and field number to words."""

EXTERNAL = (
    "the numbers of the tensor {} are in another file, and fre reads one file alone; merge them "
    "by onnx.save(onnx.load(FILE), NEW_FILE)"
)

FLOAT_TYPES: dict[int, str] = {1: "<f4", 10: "<f2", 11: "<f8"}
INTEGER_TYPES: dict[int, str] = {2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?"}
BITS = {
    **dict.fromkeys((1, 6, 12), 32),  # float32, int32, uint32
    **dict.fromkeys((7, 11, 13), 64),  # int64, float64, uint64
    **dict.fromkeys((4, 5, 10, 16), 16),  # uint16, int16, float16, bfloat16
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20), 8),  # uint8, int8, bool, float8
    **dict.fromkeys((21, 22, 23), 4),  # uint4, int4, float4
}
"""Allowed element types of ONNX, and the bits of one number: no strings, no complex numbers."""


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
    """Metadata, inputs and outputs of a checked model.

    Attributes:
        metadata: ``metadata_props``: key to value.
        entries: key to the offsets of the value's first byte and end.
        inputs: name to type and shape; initialisers are left out.
        outputs: name to type and shape.
        computed: names of the outputs of all nodes.
    """

    metadata: dict[str, str] = field(default_factory=dict)
    entries: dict[str, tuple[int, int]] = field(default_factory=dict)
    inputs: dict[str, ValueInfo] = field(default_factory=dict)
    outputs: dict[str, ValueInfo] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)


class _RefusedError(Exception):
    """A model is not allowed; the message is the reason."""


def check_model(data: bytes, *, free: int = 1) -> CheckedModel:
    """Check a serialised ONNX model, and read its metadata, inputs and outputs.

    It takes a few milliseconds, and about a second at most, whatever the bytes are.

    Args:
        data: serialised model.
        free: size to assume for free dimensions of the inputs. The first dimension is the batch,
            which is assumed to be one image.

    Raises:
        ModelFileError: the bytes are no ONNX model, or the model holds something that fre refuses.
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

    def _parts(self, what: str, start: int, stop: int) -> Iterator[tuple[str, int, int]]:
        """Yield the fields of a message: name, then start and stop, or a number and its stop.

        Packed numbers come one by one, as the others do.

        Args:
            what: kind of the message, a key of `SCHEMAS`.
            start: offset of its first byte.
            stop: offset after its last byte.
        """
        schema, seen = SCHEMAS[what], 0
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
            name, encodings, many = rule
            if not encodings >> kind & 1:
                raise ValueError(f"field {number} of a {what} in the wrong encoding")
            if not many:
                if seen >> number & 1:
                    raise ValueError(f"field {number} of a {what} twice")
                seen |= 1 << number
            if encodings == _ENCODINGS["N"] and kind == DELIMITED:
                for value in self._packed(first, second):
                    yield name, value, second
            else:
                yield name, first, second

    def _packed(self, at: int, stop: int) -> Iterator[int]:
        """Yield the numbers of a packed list if it is short enough to be a shape, else nothing."""
        # A number takes ten bytes at most.
        while at < stop <= at + 10 * MAX_LIST:
            value, at = read_varint(self._data, at)
            yield value

    def check(self, free: int) -> CheckedModel:
        graph, entries = None, 0
        present: set[str] = set()
        for name, start, stop in self._parts("model", 0, len(self._data)):
            present.add(name)
            if name == "graph":
                graph = start, stop
            elif name == "metadata_props":
                entries += 1
                self._entry(start, stop, entries)
            elif name == "training_info":
                self._training_info(start, stop)
        if graph is None:
            raise ValueError("no graph")
        if not {"ir_version", "opset_import"} <= present:
            raise _RefusedError("it does not say which version of ONNX and of its operators it is")
        self._graph(*graph, free)
        return self._found

    def _entry(self, start: int, stop: int, count: int) -> None:
        if count > MAX_ENTRIES:
            raise _RefusedError(f"it has more than {MAX_ENTRIES} metadata entries")
        key, value, place = "", "", (start, start)
        for name, first, last in self._parts("metadata entry", start, stop):
            if last - first > MAX_TEXT:
                raise _RefusedError(f"a metadata entry of {last - first} bytes; at most {MAX_TEXT}")
            if name == "key":
                key = self._text(first, last)
            else:
                value, place = self._text(first, last), (first, last)
        if key in self._found.metadata:
            raise _RefusedError(f"it has the metadata entry {key[:80]!r} twice")
        self._found.metadata[key] = value
        self._found.entries[key] = place

    def _training_info(self, start: int, stop: int) -> None:
        """Check the arrays beside the graph: initialisers and nothing else."""
        for _, first, last in self._parts("training info", start, stop):
            for name, at, end in self._parts("graph", first, last):
                if name == "initializer":
                    self._tensor(at, end)
                elif name not in ("name", "doc_string"):
                    raise _RefusedError("its training info holds more than arrays")

    def _graph(self, start: int, stop: int, free: int) -> None:
        nodes: list[Node] = []
        tensors: dict[str, tuple[int, ...]] = {}
        values: dict[str, NDArray[np.number]] = {}
        inputs: dict[str, ValueInfo] = {}
        for part, first, last in self._parts("graph", start, stop):
            if part == "node":
                nodes.append(self._node(first, last))
            elif part == "initializer":
                tensor = self._tensor(first, last)
                tensors[tensor.name] = tensor.dims
                if tensor.values is not None:
                    values[tensor.name] = tensor.values
            elif part in ("input", "output"):
                name, info = self._value_info(first, last)
                (inputs if part == "input" else self._found.outputs)[name] = info
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
        for part, first, last in self._parts("node", start, stop):
            if part == "input":
                inputs.append(self._text(first, last))
            elif part == "output":
                outputs.append(self._text(first, last))
            elif part == "op_type":
                op = self._text(first, last)
            elif part == "attribute":
                name, value = self._attribute(first, last)
                attributes[name] = value
            elif part == "domain":
                domain = self._text(first, last)
        if domain not in ("", "ai.onnx"):
            raise _RefusedError(
                f"it holds the operator {op[:80]} of {domain[:80]}, which is not of ONNX"
            )
        return Node(op, inputs, outputs, attributes)

    def _attribute(self, start: int, stop: int) -> tuple[str, Attribute]:
        name, value, numbers = "", Attribute(), list[int]()
        for part, first, last in self._parts("attribute", start, stop):
            if part == "name":
                name = self._text(first, last)
            elif part == "i":
                value = value._replace(number=_signed(first))
            elif part == "s":
                value = value._replace(text=self._data[first:last])
            elif part == "t":
                tensor = self._tensor(first, last)
                value = value._replace(shape=tensor.dims, values=tensor.values)
            elif part == "ints":
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
        for part, first, last in self._parts("tensor", start, stop):
            if part == "dims":
                dims.append(_signed(first))
            elif part == "data_type":
                element = first
            elif part in ("int32_data", "int64_data"):
                integers.append(_signed(first))
            elif part == "name":
                name = self._text(first, last)
            elif part == "raw_data":
                raw = first, last
            elif part == "data_location" and first:
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
        """Return the values of a tensor that may be a shape, else ``None``.

        Float tensors of at most `MAX_CHECKED` values must be finite.
        """
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
        for part, first, last in self._parts("value", start, stop):
            if part == "name":
                name = self._text(first, last)
            elif part == "type":
                for inner, at, end in self._parts("type", first, last):
                    if inner == "tensor_type":
                        element, shape = self._tensor_type(at, end)
        return name, ValueInfo(element, tuple(shape))

    def _tensor_type(self, start: int, stop: int) -> tuple[int, list[int | None]]:
        element, shape = 0, list[int | None]()
        for part, first, last in self._parts("tensor type", start, stop):
            if part == "elem_type":
                element = first
                continue
            for _, at, end in self._parts("shape", first, last):
                size = None
                for inner, value, _ in self._parts("dimension", at, end):
                    size = value if inner == "dim_value" else size
                shape.append(size)
        return element, shape


def _signed(value: int) -> int:
    """Interpret a 64-bit number as two's complement."""
    return value - (1 << 64) if value >> 63 else value
