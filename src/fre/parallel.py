"""Work on several threads, in order, and across forks."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar
from weakref import WeakSet

from fre.errors import OptionError

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

T = TypeVar("T")

CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Processor time that Linux allows a container in each period, as `docker run --cpus` sets it."""


def on_all_cores(tasks: Iterable[Callable[[], T]]) -> list[T]:
    """Call every task, several at a time, and return their results in order.

    BLAS divides even a 40 x 40 product among its threads, which then wait for one another longer
    than they compute: ten times longer on busy cores. So each task runs on one thread of BLAS, and
    several tasks run at a time. NumPy releases the interpreter's lock while it computes.

    Args:
        tasks: functions that may run at the same time. They must not call this function.
    """
    with (
        _linear_algebra().limit(limits=1, user_api="blas"),
        ThreadPoolExecutor(available_cores(), thread_name_prefix="fre-fit") as pool,
    ):
        return list(pool.map(lambda task: task(), tasks))


@cache
def _linear_algebra() -> ThreadpoolController:
    """Return what sets the threads of BLAS, which NumPy loads before any task can use it.

    Kept, since a search through all libraries of the process takes as long as a small task.
    """
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def on_slices(work: Callable[[slice], None], length: int, step: int) -> None:
    """Call ``work`` with slices of ``step`` of so many items, several at a time: `on_all_cores`."""
    on_all_cores(partial(work, slice(start, start + step)) for start in range(0, length, step))


class Forgetful(Protocol):
    """An object that owns threads, which do not exist in a forked child."""

    def forget(self) -> None:
        """Drop every member that owned threads. Called in the child, where one thread runs."""


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


Item = TypeVar("Item")


Result = TypeVar("Result")


Workers: TypeAlias = "int | ThreadPoolExecutor"
"""A number of threads; or a pool that also does other work, first come, first served."""


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: Workers, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Call a function for each item on other threads, a bounded number ahead of the caller.

    Args:
        function: called by several threads at a time.
        items: consumed lazily, on the caller's thread.
        workers: the threads. Work that waits for other work must not share its threads.
        ahead: number of items in work before the caller asks for them.

    Yields:
        Each item, in order, with the function's result. An error of the function is raised here.

    Raises:
        OptionError: the stream was begun before this process was forked, and has no threads here.
    """
    process = os.getpid()
    pool = ThreadPoolExecutor(workers, "fre-ahead") if isinstance(workers, int) else workers
    pending: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            _refuse_in_child(process)
            pending.append((item, pool.submit(function, item)))
            if len(pending) > ahead:
                first, result = pending.popleft()
                yield first, result.result()
        while pending:
            _refuse_in_child(process)
            first, result = pending.popleft()
            yield first, result.result()
    finally:
        if os.getpid() == process:
            # Without waiting: an abandoned stream may be collected on any thread.
            for _, future in pending:
                future.cancel()
            if pool is not workers:
                pool.shutdown(wait=False)


def _refuse_in_child(process: int) -> None:
    """Refuse to go on in another process: a thread that it lacks may hold any lock of the pool."""
    if os.getpid() != process:
        raise OptionError(
            "results are asked for in another process than the one that began the work; begin it "
            "in the child, or start the process with multiprocessing.get_context('spawn')"
        )


def available_cores() -> int:
    """Return the number of cores that this process may use, by affinity and container quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, _quota(CPU_QUOTA)))


def _quota(file: Path) -> int:
    """Return the cores that a control group allows, rounded up; no limit without such a file."""
    try:
        allowed, period = file.read_text().split()
    except OSError:  # another system, or a container that does not see it
        return sys.maxsize
    return sys.maxsize if allowed == "max" else -(-int(allowed) // int(period))
