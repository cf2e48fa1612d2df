"""What becomes of objects that own threads in a forked child, which has the objects alone.

`multiprocessing` forks by default on Linux below Python 3.14; so do the workers of PyTorch's
``DataLoader`` and of gunicorn. Work that the child hands to a thread of its parent is never done.
"""

from __future__ import annotations

import ctypes
import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["Forgetful", "forget_in_children", "leave_alone"]


class Forgetful(Protocol):
    """An object that can be told that its threads are gone."""

    def forget(self) -> None:
        """Let go of whatever owned threads. Called in the child, where one thread runs."""


_live: WeakSet[Forgetful] = WeakSet()


def forget_in_children(owner: Forgetful) -> None:
    """Call ``owner.forget`` in every child that is forked while the owner exists."""
    _live.add(owner)


def leave_alone(value: object) -> None:
    """Never destroy an object of the parent: its destructor would wait for threads, or crash."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def _forget_all() -> None:
    for owner in list(_live):
        owner.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
