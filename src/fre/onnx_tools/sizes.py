"""Operators that a model may use, and bounds on the sizes of their outputs.

Every operator here is of ONNX's standard domain and has no subgraph. The shapes of its outputs
follow from the shapes of its inputs and from small constants. So the memory of a model is known
before a runtime opens it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

PER_PIXEL = 512
"""Largest size of a tensor, in numbers for each pixel of one input image."""
SPARE = 1 << 22
"""Numbers that a tensor may have in addition."""
TOTAL_PER_PIXEL = 100_000
"""Largest size of all tensors of a graph together, in numbers for each pixel of the input."""
WORK_PER_PIXEL = 100_000_000
"""Largest number of products in convolutions and matrix products, for each pixel of the input."""
WORK_SPARE = 10**11
MAX_VALUES = 256
"""Tensors of at most this many integers are computed here: they may be shapes."""
MAX_RANK = 8

Shape: TypeAlias = tuple[int, ...]
Values: TypeAlias = NDArray[Any]


class SizeError(Exception):
    """A model uses an operator that is not allowed, or computes too much."""


class Attribute(NamedTuple):
    """An attribute of a node.

    Attributes:
        number: its integer.
        numbers: its list of integers.
        text: its bytes.
        shape: shape of its tensor.
        values: values of its tensor, if they are few.
    """

    number: int | None = None
    numbers: tuple[int, ...] = ()
    text: bytes = b""
    shape: Shape | None = None
    values: Values | None = None


class Node(NamedTuple):
    """A node of a graph."""

    op: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Attribute]


class _Call:
    """A node with the known shapes and values of its inputs."""

    def __init__(
        self,
        node: Node,
        shapes: Sequence[Shape | None],
        values: Sequence[Values | None],
    ) -> None:
        self.node = node
        self.shapes = shapes
        self._values = values
        self.work = 0

    def shape(self, index: int) -> Shape:
        """Return the shape of an input.

        Raises:
            _UnknownError: the shape is not known, or there is no such input.
        """
        found = self.shapes[index] if index < len(self.shapes) else None
        if found is None:
            raise _UnknownError
        return found

    def has(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] != ""

    def values(self, index: int) -> Values:
        """Return the values of an input; raise `_UnknownError` as `shape` does."""
        found = self._values[index] if index < len(self._values) else None
        if found is None:
            raise _UnknownError
        return found

    def integers(self, index: int) -> list[int]:
        return [int(value) for value in self.values(index).ravel()]

    def number(self, name: str, default: int) -> int:
        found = self.node.attributes.get(name, Attribute()).number
        return default if found is None else found

    def numbers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        return list(self.node.attributes.get(name, Attribute()).numbers or default)

    def text(self, name: str) -> bytes:
        return self.node.attributes.get(name, Attribute()).text

    def listed(self, name: str, index: int) -> list[int] | None:
        """Return integers: an attribute in older operator sets, an input in newer ones."""
        if name in self.node.attributes:
            return self.numbers(name)
        return self.integers(index) if self.has(index) else None


class _UnknownError(Exception):
    """A shape does not follow from what is known."""


UNSOUND = (_UnknownError, ArithmeticError, LookupError, TypeError, ValueError, MemoryError)
"""Errors of the rules below for a node that is no sound one; any other is a fault of fre."""

_Rule: TypeAlias = Callable[[_Call], "list[Shape]"]


def _same(call: _Call) -> list[Shape]:
    return [call.shape(0)] * len(call.node.outputs)


def _broadcast(call: _Call) -> list[Shape]:
    shapes = [call.shape(index) for index in range(len(call.node.inputs))]
    return [_joined(*shapes)]


def _joined(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    # Sizes that do not fit each other are the runtime's to refuse.
    return tuple(0 if 0 in sizes else max(sizes) for sizes in zip(*padded, strict=True))


def _axes(axes: Sequence[int], rank: int) -> set[int]:
    return {axis % rank for axis in axes} if rank else set()


def _reduce(call: _Call) -> list[Shape]:
    shape = call.shape(0)
    if call.node.op in ("ArgMax", "ArgMin"):
        axes = [call.number("axis", 0)]
    else:
        axes = call.listed("axes", 1) or []
        if not axes and call.number("noop_with_empty_axes", 0):
            return [shape]
    gone = _axes(axes or range(len(shape)), len(shape))
    if call.number("keepdims", 1):
        return [tuple(1 if axis in gone else size for axis, size in enumerate(shape))]
    return [tuple(size for axis, size in enumerate(shape) if axis not in gone)]


def _window(call: _Call, sizes: Shape, kernel: Sequence[int]) -> Shape:
    """Height and width, say, after a convolution or pooling."""
    n = len(sizes)
    strides, dilations = call.numbers("strides", [1] * n), call.numbers("dilations", [1] * n)
    pads, auto = call.numbers("pads", [0] * 2 * n), call.text("auto_pad")
    if not len(kernel) == len(strides) == len(dilations) == len(pads) // 2 == n:
        raise _UnknownError
    result = []
    for axis, size in enumerate(sizes):
        stride = max(1, strides[axis])
        if auto.startswith(b"SAME"):
            result.append(-(-size // stride))
            continue
        padding = 0 if auto == b"VALID" else pads[axis] + pads[axis + n]
        room = size + padding - dilations[axis] * (kernel[axis] - 1) - 1
        up = stride - 1 if call.number("ceil_mode", 0) else 0
        result.append(max(0, (room + up) // stride + 1))
    return tuple(result)


def _conv(call: _Call, weight: int = 1) -> list[Shape]:
    batch, _, *sizes = call.shape(0)
    channels, inner, *kernel = call.shape(weight)
    shape = (batch, channels, *_window(call, tuple(sizes), kernel))
    call.work = math.prod(shape) * inner * math.prod(kernel)
    return [shape]


def _conv_transpose(call: _Call) -> list[Shape]:
    batch, _, *sizes = call.shape(0)
    inner, channels, *kernel = call.shape(1)
    n = len(sizes)
    strides, dilations = call.numbers("strides", [1] * n), call.numbers("dilations", [1] * n)
    pads, extra = call.numbers("pads", [0] * 2 * n), call.numbers("output_padding", [0] * n)
    found = call.numbers("output_shape")[-n:] or [
        strides[axis] * (size - 1)
        + extra[axis]
        + (kernel[axis] - 1) * dilations[axis]
        + 1
        - (0 if call.text("auto_pad") else pads[axis] + pads[axis + n])
        for axis, size in enumerate(sizes)
    ]
    shape = (batch, channels * max(1, call.number("group", 1)), *found)
    call.work = math.prod(shape) * inner * math.prod(kernel)
    return [shape]


def _pool(call: _Call) -> list[Shape]:
    batch, channels, *sizes = call.shape(0)
    kernel = call.numbers("kernel_shape")
    shape = (batch, channels, *_window(call, tuple(sizes), kernel))
    call.work = math.prod(shape) * math.prod(kernel)
    return [shape] * len(call.node.outputs)


def _product(call: _Call, first: int = 0, second: int = 1) -> list[Shape]:
    a, b = call.shape(first), call.shape(second)
    if not a or not b:
        raise _UnknownError
    left, right = a if len(a) > 1 else (1, *a), b if len(b) > 1 else (*b, 1)
    batch = _joined(left[:-2], right[:-2])
    rows, columns = left[-2:-1] * (len(a) > 1), right[-1:] * (len(b) > 1)
    call.work = math.prod((*batch, *rows, *columns)) * left[-1]
    return [(*batch, *rows, *columns)]


def _gemm(call: _Call) -> list[Shape]:
    a, b = call.shape(0), call.shape(1)
    rows, inner = a[::-1] if call.number("transA", 0) else a
    columns = b[0] if call.number("transB", 0) else b[1]
    call.work = rows * inner * columns
    return [(rows, columns)]


def _reshape(call: _Call) -> list[Shape]:
    shape = call.shape(0)
    wanted = call.listed("shape", 1) or []
    if not call.number("allowzero", 0):
        wanted = [shape[axis] if size == 0 else size for axis, size in enumerate(wanted)]
    if -1 in wanted:
        rest = math.prod(size for size in wanted if size != -1)
        wanted[wanted.index(-1)] = math.prod(shape) // rest if rest else 0
    # A shape of other size is the runtime's to refuse.
    return [tuple(wanted)]


def _flatten(call: _Call) -> list[Shape]:
    shape = call.shape(0)
    axis = call.number("axis", 1)
    axis += len(shape) if axis < 0 else 0
    return [(math.prod(shape[:axis]), math.prod(shape[axis:]))]


def _squeeze(call: _Call) -> list[Shape]:
    shape = call.shape(0)
    axes = call.listed("axes", 1)
    if axes is None:
        return [tuple(size for size in shape if size != 1)]
    gone = _axes(axes, len(shape))
    return [tuple(size for axis, size in enumerate(shape) if axis not in gone)]


def _unsqueeze(call: _Call) -> list[Shape]:
    shape = call.shape(0)
    axes = call.listed("axes", 1) or []
    rank = len(shape) + len(axes)
    new = _axes(axes, rank)
    rest = iter(shape)
    return [tuple(1 if axis in new else next(rest) for axis in range(rank))]


def _concat(call: _Call) -> list[Shape]:
    shapes = [call.shape(index) for index in range(len(call.node.inputs))]
    axis = call.number("axis", 0) % len(shapes[0])
    total = sum(shape[axis] for shape in shapes)
    return [(*shapes[0][:axis], total, *shapes[0][axis + 1 :])]


def _split(call: _Call) -> list[Shape]:
    shape = call.shape(0)
    axis, count = call.number("axis", 0) % len(shape), len(call.node.outputs)
    each = -(-shape[axis] // count)
    sizes = call.listed("split", 1) or [
        max(0, min(each, shape[axis] - index * each)) for index in range(count)
    ]
    return [(*shape[:axis], size, *shape[axis + 1 :]) for size in sizes]


def _slice(call: _Call) -> list[Shape]:
    shape = list(call.shape(0))
    starts, ends = call.listed("starts", 1) or [], call.listed("ends", 2) or []
    axes = call.listed("axes", 3) or range(len(starts))
    steps = call.integers(4) if call.has(4) else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = shape[axis]
        # With a negative step, an end before the first number means ``None`` in Python.
        stop = None if step < 0 and end < -size else end
        shape[axis] = len(range(*slice(start, stop, step).indices(size)))
    return [tuple(shape)]


def _gather(call: _Call) -> list[Shape]:
    shape, indices = call.shape(0), call.shape(1)
    axis = call.number("axis", 0) % len(shape)
    return [(*shape[:axis], *indices, *shape[axis + 1 :])]


def _gather_nd(call: _Call) -> list[Shape]:
    shape, indices = call.shape(0), call.shape(1)
    return [(*indices[:-1], *shape[indices[-1] + call.number("batch_dims", 0) :])]


def _pad(call: _Call) -> list[Shape]:
    shape = list(call.shape(0))
    pads = call.listed("pads", 1) or []
    axes = call.integers(3) if call.has(3) else range(len(shape))
    for index, axis in enumerate(axes):
        shape[axis] += pads[index] + pads[index + len(pads) // 2]
    return [tuple(shape)]


def _resize(call: _Call) -> list[Shape]:
    shape = list(call.shape(0))
    if call.text("keep_aspect_ratio_policy") not in (b"", b"stretch"):
        raise _UnknownError
    axes = call.numbers("axes", range(len(shape)))
    if call.has(3):
        for axis, size in zip(axes, call.integers(3), strict=True):
            shape[axis] = size
        return [tuple(shape)]
    # Operator sets before 11 have the scales at another place.
    scales = call.values(2 if len(call.node.inputs) > 2 else 1)
    for axis, scale in zip(axes, scales, strict=True):
        shape[axis] = math.floor(shape[axis] * float(scale) + 1e-6)
    return [tuple(shape)]


def _blocks(call: _Call) -> list[Shape]:
    batch, channels, height, width = call.shape(0)
    block = max(1, call.number("blocksize", 1))
    if call.node.op == "DepthToSpace":
        return [(batch, channels // block**2, height * block, width * block)]
    return [(batch, channels * block**2, height // block, width // block)]


def _shape_part(call: _Call) -> Shape:
    """Return the result of a node ``Shape``."""
    last = call.node.attributes.get("end", Attribute()).number
    return call.shape(0)[call.number("start", 0) : last]


def _constant(call: _Call) -> list[Shape]:
    for name, value in call.node.attributes.items():
        if name == "value" and value.shape is not None:
            return [value.shape]
        if name in ("value_int", "value_float"):
            return [()]
        if name == "value_ints":
            return [(len(value.numbers),)]
    raise _UnknownError


def _range(call: _Call) -> list[Shape]:
    start, limit, step = (float(call.values(index).ravel()[0]) for index in range(3))
    return [(max(0, math.ceil((limit - start) / step)),)] if step else [(0,)]


def _top_k(call: _Call) -> list[Shape]:
    shape = list(call.shape(0))
    shape[call.number("axis", -1) % len(shape)] = call.integers(1)[0]
    return [tuple(shape)] * 2


_RULES: tuple[tuple[_Rule, str], ...] = (
    (
        _same,
        "Abs Acos Acosh Asin Asinh Atan Atanh Cast Ceil Celu Clip Cos Cosh CumSum DequantizeLinear "
        "Dropout Elu Erf Exp Floor Gelu HardSigmoid HardSwish Identity IsInf IsNaN LRN LeakyRelu "
        "Log LogSoftmax LpNormalization MeanVarianceNormalization Mish Neg Not QuantizeLinear "
        "Reciprocal Relu Round ScatterElements ScatterND Selu Shrink Sigmoid Sign Sin Sinh Softmax "
        "Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu "
        # The further outputs are statistics, no larger than the input.
        "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization "
        "RMSNormalization",
    ),
    (
        _broadcast,
        "Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Mean Min Mod Mul Or PRelu "
        "Pow Sub Sum Where Xor",
    ),
    (
        _reduce,
        "ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean "
        "ReduceMin ReduceProd ReduceSum ReduceSumSquare",
    ),
    (_conv, "Conv ConvInteger"),
    (lambda call: _conv(call, 3), "QLinearConv"),
    (_conv_transpose, "ConvTranspose"),
    (_pool, "AveragePool LpPool MaxPool"),
    (
        lambda call: [(*call.shape(0)[:2], *[1] * (len(call.shape(0)) - 2))],
        "GlobalAveragePool GlobalLpPool GlobalMaxPool",
    ),
    (_product, "MatMul MatMulInteger"),
    (lambda call: _product(call, 0, 3), "QLinearMatMul"),
    (_gemm, "Gemm"),
    (_reshape, "Reshape"),
    (_flatten, "Flatten"),
    (
        lambda call: [
            tuple(
                call.shape(0)[axis]
                for axis in call.numbers("perm", range(len(call.shape(0)))[::-1])
            )
        ],
        "Transpose",
    ),
    (_squeeze, "Squeeze"),
    (_unsqueeze, "Unsqueeze"),
    (_concat, "Concat"),
    (_split, "Split"),
    (_slice, "Slice"),
    (_gather, "Gather"),
    (lambda call: [call.shape(1)], "GatherElements"),
    (_gather_nd, "GatherND"),
    (lambda call: [_joined(call.shape(0), tuple(call.integers(1)))], "Expand"),
    (
        lambda call: [
            tuple(n * size for n, size in zip(call.integers(1), call.shape(0), strict=True))
        ],
        "Tile",
    ),
    (_pad, "Pad"),
    (_resize, "Resize Upsample"),
    (_blocks, "DepthToSpace SpaceToDepth"),
    (lambda call: [(len(_shape_part(call)),)], "Shape"),
    (lambda _: [()], "Size"),
    (lambda call: [tuple(call.integers(0))], "ConstantOfShape"),
    (_constant, "Constant"),
    (_range, "Range"),
    (_top_k, "TopK"),
)
OPERATORS: Mapping[str, _Rule] = {op: rule for rule, ops in _RULES for op in ops.split()}
"""Allowed operators, and how the shapes of their outputs follow."""


def _value_of(call: _Call, shape: Shape) -> Values | None:
    """Return the result of a node whose output may be a shape: few numbers from few numbers."""
    op = call.node.op
    if op == "Shape":
        return np.array(_shape_part(call), np.int64)
    if op == "Size":
        return np.array(math.prod(call.shape(0)))
    if op == "Constant":
        return _constant_value(call)
    if op == "ConstantOfShape":
        fill = call.node.attributes.get("value", Attribute()).values
        return np.full(shape, 0 if fill is None else fill.ravel()[0])
    if op == "Concat":
        return np.concatenate([call.values(i) for i in range(len(call.node.inputs))])
    if op in ("Cast", "Identity", "Squeeze", "Unsqueeze", "Reshape", "Floor", "Ceil", "Expand"):
        values = call.values(0)
        values = np.floor(values) if op == "Floor" else np.ceil(values) if op == "Ceil" else values
        if op == "Cast" and call.number("to", 0) in (6, 7):
            values = values.astype(np.int64)
        return np.broadcast_to(values, shape) if op == "Expand" else values.reshape(shape)
    if op == "Gather" and len(call.shape(0)) == 1:
        return np.asarray(call.values(0)[call.values(1)])
    if op == "Slice" and len(call.shape(0)) == 1:
        step = call.integers(4)[0] if call.has(4) else 1
        starts, ends = call.listed("starts", 1) or [0], call.listed("ends", 2) or [0]
        return call.values(0)[starts[0] : ends[0] : step] if step > 0 else None
    if op in ARITHMETIC:
        return np.asarray(ARITHMETIC[op](call.values(0), call.values(1)))
    if op == "Where":
        return np.where(call.values(0), call.values(1), call.values(2))
    return None


def _constant_value(call: _Call) -> Values | None:
    for name, value in call.node.attributes.items():
        if name == "value":
            return value.values
        if name in ("value_int", "value_ints"):
            return np.array(value.number if name == "value_int" else value.numbers, np.int64)
    return None


def _quotient(a: Values, b: Values) -> Values:
    whole = a.dtype.kind in "iu" and b.dtype.kind in "iu"
    return np.asarray(np.trunc(a / b).astype(np.int64) if whole else a / b)


ARITHMETIC: Mapping[str, Callable[[Values, Values], Values]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": _quotient,
    "Min": np.minimum,
    "Max": np.maximum,
    "Equal": np.equal,
}
"""Operators on shapes with two inputs."""


class _Limits:
    """Counts the numbers and products that a graph computes, and refuses too many."""

    def __init__(self, pixels: int, n_bytes: int) -> None:
        self._each = PER_PIXEL * pixels + SPARE + 2 * n_bytes
        self._total = TOTAL_PER_PIXEL * pixels + (1 << 28) + 8 * n_bytes
        # Runtimes compute constants when they open a model: half precision becomes float32.
        self._constant = SPARE + 2 * n_bytes
        self._work = WORK_PER_PIXEL * pixels + WORK_SPARE

    def count(self, node: Node, sizes: Sequence[int], work: int, *, constant: bool) -> None:
        size = sum(sizes)
        self._total -= size
        self._work -= work
        self._constant -= size if constant else 0
        if max(sizes, default=0) > self._each or self._constant < 0 or self._total < 0:
            raise SizeError(
                f"its {node.op[:80]} gives {size:,} numbers, too many for a network of this size"
            )
        if self._work < 0:
            raise SizeError("it computes more than a network of this size would")


def bound_sizes(
    nodes: Sequence[Node],
    tensors: Mapping[str, Shape],
    values: Mapping[str, Values],
    inputs: Mapping[str, Shape],
    n_bytes: int,
) -> None:
    """Refuse unknown operators, and graphs that compute too much.

    Args:
        nodes: nodes in topological order.
        tensors: shapes of the initialisers, by name.
        values: values of initialisers that may be shapes, by name.
        inputs: shapes of the inputs, by name.
        n_bytes: size of the model, which bounds its constants.

    Raises:
        SizeError: an operator is not allowed, a size is out of bounds or does not follow.
    """
    for node in nodes:
        if node.op not in OPERATORS:
            raise SizeError(f"it holds the operator {node.op[:80]}, which fre does not run")
    shapes: dict[str, Shape] = {**tensors, **inputs}
    pixels = max(map(math.prod, inputs.values()), default=1) // 3
    known: dict[str, Values] = {**values}
    constants = set(tensors)
    limits = _Limits(pixels, n_bytes)
    for node in nodes:
        call = _Call(
            node, [shapes.get(n) for n in node.inputs], [known.get(n) for n in node.inputs]
        )
        found = _shapes_of(call)
        constant = all(name in constants for name in node.inputs if name) or node.op == "Shape"
        limits.count(node, [math.prod(s) for s in found], call.work, constant=constant)
        for name, shape in zip(node.outputs, found, strict=False):
            shapes[name] = shape
            if constant:
                constants.add(name)
        if constant and math.prod(found[0]) <= MAX_VALUES and node.outputs:
            try:
                value = _value_of(call, found[0])
            except UNSOUND:
                value = None
            if value is not None:
                known[node.outputs[0]] = value


def _shapes_of(call: _Call) -> list[Shape]:
    try:
        found = OPERATORS[call.node.op](call)
    except UNSOUND as error:
        known = [shape for shape in call.shapes if shape is not None]
        raise SizeError(
            f"the size of what its {call.node.op} gives does not follow from the file (inputs of "
            f"{known}); export the network with fixed sizes, and simplify it"
        ) from error
    for shape in found:
        if len(shape) > MAX_RANK or any(size < 0 for size in shape):
            raise SizeError(f"its {call.node.op} gives the impossible shape {list(shape)}")
    return found
