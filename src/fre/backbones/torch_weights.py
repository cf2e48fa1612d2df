"""Read the tensors of a PyTorch state dict without PyTorch, and without running its code.

Before version 1.6, ``torch.save`` wrote: the pickles of a magic number, of a protocol version and
of the byte order; the pickle of the object, in which a tensor names its storage; the pickle of the
storages' keys; then each storage as a count and its raw little-endian values
(PyTorch, ``torch/serialization.py``, ``_legacy_save``).

A pickle can call anything that its reader lets it import. This reader allows the two functions and
the storage types that a plain state dict needs, and replaces each by a harmless one.
"""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from fre.errors import BackboneError
from fre.storage.files import read_regular

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
STORAGE_TYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


MAX_STEPS = 5_000_000
"""Largest number of steps of a pickle; a network of a thousand tensors takes 50,000."""
MAX_RANK = 64
MAX_ARGUMENTS = 64
MAX_COPIES = 4
"""Tensors may share a storage; all together they hold this many times the file's size at most."""


def check_view(count: int, offset: Any, shape: Any, strides: Any) -> None:
    """Refuse a strided view that reaches beyond its storage, or asks for more memory than it has.

    Args:
        count: number of values in the storage.
        offset: index of the view's first value.
        shape: shape of the view.
        strides: steps along each axis, in values.

    Raises:
        pickle.UnpicklingError: the view is not within the storage.
    """
    if not isinstance(shape, tuple) or not isinstance(strides, tuple):
        raise pickle.UnpicklingError("a tensor whose size or stride is no tuple")
    if len(shape) != len(strides) or len(shape) > MAX_RANK:
        raise pickle.UnpicklingError("a tensor with an impossible size, stride or offset")
    if not all(isinstance(n, int) and 0 <= n < 1 << 62 for n in (offset, *shape, *strides)):
        raise pickle.UnpicklingError("a tensor with an impossible size, stride or offset")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    # Strides of zero could ask for more memory than the file has bytes.
    if math.prod(shape) > count or (0 not in shape and last >= count):
        raise pickle.UnpicklingError("a tensor that reaches beyond its storage")


def view_of(values: NDArray[Any], offset: Any, shape: Any, strides: Any) -> NDArray[Any]:
    """Copy a strided view of a flat array.

    The view is checked here, where memory is read, whatever was checked before.

    Args:
        values: the storage, one-dimensional.
        offset: index of the view's first value.
        shape: shape of the view.
        strides: steps along each axis, in values.

    Raises:
        pickle.UnpicklingError: the view is not within the storage.
    """
    check_view(len(values), offset, shape, strides)
    steps = [step * values.itemsize for step in strides]
    view = np.lib.stride_tricks.as_strided(values[offset:], shape, steps)
    return np.array(view, order="C")


def check_pickle(file: IO[bytes]) -> None:
    """Refuse a pickle that takes far more memory than it has bytes; the file stays where it is.

    The reader makes its list of remembered objects as long as the largest index in the pickle.
    An honest pickle counts them, so that no index exceeds the number of steps before it.

    Args:
        file: a file in memory, at the start of a pickle.

    Raises:
        pickle.UnpicklingError: the pickle is hostile.
        ValueError: it is damaged.
    """
    start = file.tell()
    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        # Opcodes that remember an object have its index; the others are in bounds.
        index = argument if opcode.name.endswith("PUT") and argument is not None else 0
        if step > MAX_STEPS or not 0 <= index <= step:
            raise pickle.UnpicklingError("a pickle that takes more memory than it has a use for")
    file.seek(start)


class Sealed:
    """An object that a pickle can't change once it is made: the opcode BUILD is refused."""

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it changes a {type(self).__name__.strip('_').lower()}")


class Function(Sealed):
    """A function that a pickle can call but not change."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        if len(args) > MAX_ARGUMENTS:
            raise pickle.UnpicklingError("a call with too many arguments")
        return self._function(*args)


class PlainDict(dict[Any, Any]):
    """A dict without the attributes that PyTorch gives its state dicts.

    It is made empty: copies of one large object would take more memory than the file has bytes.
    """

    def __init__(self) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        pass


class _Storage(Sealed):
    """A flat array whose values follow later in the file."""

    def __init__(self, dtype: np.dtype[Any], count: int) -> None:
        self.dtype = dtype
        self.count = count
        self.values: NDArray[Any] | None = None


class _Tensor(Sealed):
    """A view of a storage: made as the pickle is read, resolved once the values are there."""

    def __init__(
        self,
        storage: _Storage,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        *_: object,
    ) -> None:
        if not isinstance(storage, _Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        check_view(storage.count, offset, shape, strides)
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def resolve(self) -> NDArray[Any]:
        values = self.storage.values
        assert values is not None
        return view_of(values, self.offset, self.shape, self.strides)


@dataclass(frozen=True)
class _Kind(Sealed):
    """Type of a storage's values."""

    dtype: np.dtype[Any]


class _StateDictUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._file = file
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return Function(PlainDict)
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return Function(_Tensor)
        if module == "torch" and name in STORAGE_TYPES:
            return _Kind(STORAGE_TYPES[name])
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no state dict needs")

    def load(self) -> Any:
        check_pickle(self._file)
        return super().load()

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", _Kind() as kind, str(key), str(_), int(count), None) if count >= 0:
                return self.storages.setdefault(key, _Storage(kind.dtype, count))
        raise pickle.UnpicklingError("a storage of an unknown form")


def _plain_pickle(file: IO[bytes]) -> Any:
    """Read a pickle of numbers, strings, lists and dicts."""
    return _StateDictUnpickler(file).load()


def _read(file: IO[bytes]) -> dict[str, NDArray[Any]]:
    if _plain_pickle(file) != MAGIC or _plain_pickle(file) != PROTOCOL:
        raise pickle.UnpicklingError("not the file format of torch.save before version 1.6")
    if not _plain_pickle(file).get("little_endian"):
        raise pickle.UnpicklingError("big-endian values")
    reader = _StateDictUnpickler(file)
    state = reader.load()
    if not isinstance(state, dict):
        raise pickle.UnpicklingError(f"a {type(state).__name__} where a state dict was expected")
    for key in _plain_pickle(file):
        storage = reader.storages[key]
        count = int.from_bytes(file.read(8), "little")
        raw = file.read(storage.count * storage.dtype.itemsize)
        if count != storage.count or len(raw) != storage.count * storage.dtype.itemsize:
            raise pickle.UnpicklingError("it ends before its last value")
        storage.values = np.frombuffer(raw, storage.dtype)
    tensors: dict[str, NDArray[Any]] = {}
    left = MAX_COPIES * file.tell()
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise pickle.UnpicklingError(f"{name!r} is not a plain tensor")
        if tensor.storage.values is None:
            raise pickle.UnpicklingError(f"the values of {name} are missing")
        left -= tensor.n_bytes
        if left < 0:
            raise pickle.UnpicklingError("its tensors hold more than the file")
        tensors[name] = tensor.resolve()
    return tensors


def read_state_dict(path: Path) -> dict[str, NDArray[Any]]:
    """Read the tensors of a state dict that ``torch.save`` wrote before version 1.6.

    Args:
        path: the file. No code in it runs, and only tensors are accepted.

    Returns:
        Name to array, in the file's order.

    Raises:
        BackboneError: the file is missing, damaged, of another format, or holds anything but
            plain tensors.
    """
    try:
        return _read(io.BytesIO(read_regular(path)))
    except OSError as error:
        raise BackboneError(f"{path}: can't read the weights: {error.strerror}") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise BackboneError(
            f"{path}: not a state dict of plain tensors in PyTorch's old pickle format: {error}"
        ) from error


NESTED = ("state_dict", "model")
"""Keys under which training scripts store the state dict in a checkpoint."""


def read_weights(path: Path) -> tuple[dict[str, Any], str]:
    """Read the tensors of a file, and the file's digest.

    The state dict may lie under ``state_dict`` or ``model``. The prefix ``module.`` of
    data-parallel training is removed.

    Args:
        path: a file of safetensors or of ``torch.save``; its content tells which.

    Returns:
        Name to ``torch.Tensor``, and the SHA-256 of the file in hexadecimal.

    Raises:
        BackboneError: the file is missing, damaged, or holds anything but plain data and tensors.
    """
    import torch

    try:
        data = read_regular(path)
    except OSError as error:
        raise BackboneError(f"{path}: can't read the weights: {error.strerror}") from error
    try:
        content = _load(data)
    except Exception as error:  # a damaged file raises almost anything
        raise BackboneError(
            f"{path}: neither safetensors nor a PyTorch state dict of plain tensors; write one "
            "with torch.save(model.state_dict(), FILE)"
        ) from error
    while isinstance(content, dict):
        inner = next((content[key] for key in NESTED if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    tensors = {
        name.removeprefix("module."): value
        for name, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise BackboneError(f"{path}: there are no tensors in it")
    return tensors, hashlib.sha256(data).hexdigest()


def _load(data: bytes) -> Any:
    # Safetensors: the length of a JSON object in eight bytes, then the object.
    if data[8:9] == b"{":
        import safetensors.torch

        return safetensors.torch.load(data)
    import torch

    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
