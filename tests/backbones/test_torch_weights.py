"""The restricted unpickler: state dicts are read, and nothing else is."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from fre.backbones.torch_weights import MAGIC, PROTOCOL, read_state_dict
from fre.errors import BackboneError


class FloatStorage:
    """Stands for torch.FloatStorage: pickled under its name."""


class _Named:
    """Pickles as a call of a function of another module."""

    def __init__(self, function: object, arguments: tuple[object, ...]) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.arguments


def _rebuild_tensor_v2(*_: object) -> None: ...


_rebuild_tensor_v2.__module__ = "torch._utils"
FloatStorage.__module__ = "torch"


class _Pickler(pickle._Pickler):  # the Python pickler lets save_global be overridden
    def persistent_id(self, thing: object) -> object:
        return thing[1] if isinstance(thing, tuple) and thing[:1] == ("persistent",) else None

    def save_global(self, thing: object, name: str | None = None) -> None:
        if thing in (FloatStorage, _rebuild_tensor_v2):
            # Written by name, without importing the module that it names.
            self.write(f"c{thing.__module__}\n{thing.__qualname__}\n".encode())
            self.memoize(thing)
        else:
            super().save_global(thing, name)

    dispatch: ClassVar = {
        **pickle._Pickler.dispatch,
        type: save_global,
        type(_rebuild_tensor_v2): save_global,
    }


def write(path: Path, state: object, values: dict[str, np.ndarray]) -> Path:
    """A file in the format of torch.save before 1.6."""
    with path.open("wb") as file:
        for header in (MAGIC, PROTOCOL, {"little_endian": True}):
            pickle.dump(header, file, protocol=2)
        _Pickler(file, protocol=2).dump(state)
        pickle.dump(list(values), file, protocol=2)
        for array in values.values():
            file.write(len(array).to_bytes(8, "little") + array.astype("<f4").tobytes())
    return path


def tensor(
    key: str, count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> _Named:
    storage = ("persistent", ("storage", FloatStorage, key, "cpu", count, None))
    arguments = (storage, offset, shape, strides, False, OrderedDict())
    return _Named(_rebuild_tensor_v2, arguments)


def test_tensors_with_offsets_and_strides(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float32)
    state = OrderedDict(
        whole=tensor("a", 12, 0, (3, 4), (4, 1)),
        turned=tensor("a", 12, 0, (4, 3), (1, 4)),
        tail=tensor("a", 12, 10, (2,), (1,)),
        scalar=tensor("b", 1, 0, (), ()),
    )
    path = write(tmp_path / "x.pth", state, {"a": values, "b": np.float32([7])})
    tensors = read_state_dict(path)
    np.testing.assert_array_equal(tensors["whole"], values.reshape(3, 4))
    np.testing.assert_array_equal(tensors["turned"], values.reshape(3, 4).T)
    np.testing.assert_array_equal(tensors["tail"], [10, 11])
    assert tensors["scalar"] == 7
    assert tensors["turned"].flags.c_contiguous


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (13,), (1,)),
        (8, (5,), (1,)),
        (-1, (2,), (1,)),
        (0, (2, 2), (1,)),
        (0, (10**9,), (0,)),
        (0, (2,), (100,)),
    ],
)
def test_tensors_that_reach_outside_are_refused(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    state = {"x": tensor("a", 12, offset, shape, strides)}
    path = write(tmp_path / "x.pth", state, {"a": np.zeros(12)})
    with pytest.raises(BackboneError, match="not a state dict of plain tensors"):
        read_state_dict(path)


def test_a_malicious_pickle_runs_nothing(tmp_path: Path) -> None:
    victim = tmp_path / "touched"
    for function, arguments in [
        (os.system, (f"touch {victim}",)),
        (eval, (f"open({str(victim)!r}, 'w')",)),
        (getattr, (OrderedDict, "fromkeys")),
    ]:
        state = {"x": _Named(function, arguments)}
        path = write(tmp_path / "x.pth", state, {})
        with pytest.raises(BackboneError, match=r"it asks for .*, which no state dict needs"):
            read_state_dict(path)
        # also where a harmless header is expected
        path.write_bytes(pickle.dumps(_Named(function, arguments)))
        with pytest.raises(BackboneError, match="it asks for"):
            read_state_dict(path)
    assert not victim.exists()


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    state = {"x": tensor("a", 4, 0, (4,), (1,))}
    path = write(tmp_path / "x.pth", state, {"a": np.zeros(4)})
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BackboneError, match=r"x\.pth: not a state dict"):
            read_state_dict(path)
    with pytest.raises(BackboneError, match="can't read"):
        read_state_dict(tmp_path / "gone.pth")
    write(path, {"x": 3}, {})
    with pytest.raises(BackboneError, match="'x' is not a plain tensor"):
        read_state_dict(path)
    write(path, [1, 2], {})
    with pytest.raises(BackboneError, match="a list where a state dict"):
        read_state_dict(path)


class _Changed:
    """Pickles as an object whose state is set after it was made: the opcode BUILD."""

    def __init__(self, made: _Named, state: object) -> None:
        self.made, self.state = made, state

    def __reduce__(self) -> tuple[object, ...]:
        return *self.made.__reduce__(), self.state


@pytest.mark.parametrize(
    "state", [{"shape": (10**6,), "strides": (1,)}, (None, {"shape": (10**6,)}), {}, 1]
)
def test_tensors_are_not_changed_after_they_were_checked(tmp_path: Path, state: object) -> None:
    changed = _Changed(tensor("a", 4, 0, (4,), (1,)), state or {"offset": 10**6})
    path = write(tmp_path / "x.pth", {"x": changed}, {"a": np.zeros(4)})
    with pytest.raises(BackboneError, match="it changes a tensor"):
        read_state_dict(path)


@pytest.mark.parametrize("put", [b"r\xff\xff\xff\x0c", b"p200000000\n", b"p-5\n"])
def test_an_index_of_memory_is_bounded(tmp_path: Path, put: bytes) -> None:
    """A pickle of a few bytes would take gigabytes."""
    path = tmp_path / "x.pth"
    path.write_bytes(b"\x80\x02}" + put + b".")
    with pytest.raises(BackboneError, match="more memory than it has a use for"):
        read_state_dict(path)


def test_tensors_that_share_a_storage_are_bounded(tmp_path: Path) -> None:
    values = np.zeros(1000)
    few = {str(i): tensor("a", 1000, 0, (1000,), (1,)) for i in range(3)}
    assert len(read_state_dict(write(tmp_path / "x.pth", few, {"a": values}))) == 3
    many = {str(i): tensor("a", 1000, 0, (1000,), (1,)) for i in range(500)}
    path = write(tmp_path / "x.pth", many, {"a": values})
    with pytest.raises(BackboneError, match="more than the file"):
        read_state_dict(path)


def test_copies_of_a_large_object_are_refused(tmp_path: Path) -> None:
    """A list is in the file once, and an OrderedDict of it is a copy."""
    pairs = [(i, i) for i in range(100)]
    state = {"x": _Named(OrderedDict, (pairs,))}
    path = write(tmp_path / "x.pth", state, {})
    with pytest.raises(BackboneError, match="not a state dict of plain tensors"):
        read_state_dict(path)
