"""Divide many small matrix computations among the cores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fre.cores import available_cores

__all__ = ["on_all_cores"]

T = TypeVar("T")


def on_all_cores(tasks: Iterable[Callable[[], T]]) -> list[T]:
    """Call every task, several at a time; their results, in order.

    A BLAS divides even a 40 x 40 product among its threads, and these wait for one another for
    longer than they compute: ten times longer, where other programs keep the cores busy. So whole
    tasks are divided instead, each with one thread of BLAS; NumPy lets go of the interpreter's
    lock while it computes.

    Args:
        tasks: functions that may run at the same time. They must not call this function.
    """
    from threadpoolctl import threadpool_limits

    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(available_cores(), thread_name_prefix="fre-fit") as pool,
    ):
        return list(pool.map(lambda task: task(), tasks))
