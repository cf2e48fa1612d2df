"""Read anything that ``torch.save`` wrote, without PyTorch and without running any of it.

Since PyTorch 1.6 that is an uncompressed zip: ``data.pkl``, a pickle in which a tensor names its
storage, and ``data/KEY``, the raw values of each storage (PyTorch, ``torch/serialization.py``,
``_save``). `fre.backbones.pickled` reads the format before it.

A pickle can call whatever its reader lets it import. This reader imports nothing: tensors become
descriptions of themselves, and an object of any other class becomes an `Inert`, which holds what
the file says of it and does nothing.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fre.backbones.pickled import (
    MAX_ARGUMENTS,
    MAX_COPIES,
    STORAGE_TYPES,
    Function,
    PlainDict,
    Sealed,
    check_pickle,
    check_view,
    view_of,
)

__all__ = ["Inert", "Tensor", "TorchArchive"]


class Inert:
    """Stands for an object of a class that is not imported.

    Attributes:
        origin: the class's module and name, as the file has them.
        args: what the file would have called it with.
        state: what the file would have set it to.
    """

    origin = "the result of a call"
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> Inert:
        if len(args) > MAX_ARGUMENTS:
            raise pickle.UnpicklingError("a call with too many arguments")
        inert = super().__new__(cls)
        inert.args, inert.state = args, {}
        return inert

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __call__(self, *args: Any) -> Inert:
        return Inert(*args)

    def __setitem__(self, key: Any, value: Any) -> None:
        """What a subclass of dict, list or set would hold is not kept."""

    def append(self, item: Any) -> None:
        """See `__setitem__`."""

    add = extend = append


@dataclass(frozen=True)
class Storage(Sealed):
    """Values of the file that have not been read."""

    type_name: str
    key: str
    count: int


@dataclass(frozen=True)
class Tensor(Sealed):
    """A view of a storage, as the file describes it. Shape and strides are within its bounds."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: object) -> Tensor:
    """In the place of ``torch._utils._rebuild_tensor_v2``."""
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    check_view(storage.count, offset, shape, strides)
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(tensor: Any, *_: object) -> Any:
    """In the place of ``torch._utils._rebuild_parameter``."""
    return tensor


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        match module, name:
            case "collections", "OrderedDict":
                return Function(PlainDict)
            case "torch._utils", "_rebuild_tensor_v2":
                return Function(_tensor)
            case "torch._utils", "_rebuild_parameter":
                return Function(_parameter)
        # A class of its own: the pickle may ask for an instance without calling it.
        return type("Inert", (Inert,), {"origin": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Storage:
        match pid:
            case ("storage", type() as kind, str(key), str(_), int(count)) if (
                issubclass(kind, Inert) and count >= 0
            ):
                return Storage(kind.origin.removeprefix("torch."), key, count)
        raise pickle.UnpicklingError("a storage of an unknown form")


class TorchArchive:
    """An open file of ``torch.save``.

    Args:
        file: the zip, which stays open as long as `values` is called.

    Attributes:
        content: the saved object, of dicts, lists, numbers, strings, `Tensor` and `Inert`.

    Raises:
        Exception: of any kind, since a damaged pickle raises almost anything.
    """

    content: Any

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file
        names = file.namelist()
        pickles = [name for name in names if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise pickle.UnpicklingError("a zip, but not one of torch.save")
        self._root = pickles[0].removesuffix("data.pkl")
        order = f"{self._root}byteorder"
        if order in names and file.read(order) != b"little":
            raise pickle.UnpicklingError("big-endian values")
        with self._member("data.pkl") as data:
            content = io.BytesIO(data.read())
        check_pickle(content)
        self.content = _Unpickler(content).load()
        self._left = MAX_COPIES * file.start_dir

    @contextmanager
    def _member(self, name: str) -> Iterator[IO[bytes]]:
        # What is not compressed is no larger than the file itself.
        if self._file.getinfo(self._root + name).compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError("compressed values")
        with self._file.open(self._root + name) as member:
            yield member

    def values(self, tensor: Tensor) -> NDArray[Any]:
        """A tensor as an array, of the type that it was saved in.

        Raises:
            Exception: of any kind, if the values are missing, damaged or of an unknown type.
        """
        storage = tensor.storage
        if storage.type_name not in STORAGE_TYPES:
            raise pickle.UnpicklingError(f"values of an unknown type, {storage.type_name}")
        with self._member(f"data/{storage.key}") as member:
            flat = np.frombuffer(member.read(), STORAGE_TYPES[storage.type_name])
        if len(flat) != storage.count:
            raise pickle.UnpicklingError("a storage of another size than it says")
        values = view_of(flat, tensor.offset, tensor.shape, tensor.strides)
        self._left -= values.nbytes
        if self._left < 0:
            raise pickle.UnpicklingError("its tensors hold more than the file")
        return values
