"""Work on other threads while the caller is busy with what was worked out before."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from fre.errors import OptionError

__all__ = ["Workers", "in_order"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Workers: TypeAlias = "int | ThreadPoolExecutor"
"""A number of threads; or threads that do other work, too, in the order in which it comes."""


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: Workers, ahead: int
) -> Iterator[tuple[Item, Result]]:
    """Call a function for each item on other threads, a bounded number ahead of the caller.

    Args:
        function: called by several threads at a time.
        items: consumed lazily, on the caller's thread.
        workers: the threads. Work that waits for other work must not share its threads.
        ahead: items that are taken before the caller asks for them.

    Yields:
        Each item, in order, and what the function returned for it; or raises what it raised.

    Raises:
        OptionError: the stream was begun before this process was forked; its threads are gone.
    """
    process = os.getpid()
    pool = ThreadPoolExecutor(workers, "fre-ahead") if isinstance(workers, int) else workers
    pending: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) > ahead:
                yield _first(pending, process)
        while pending:
            yield _first(pending, process)
    finally:
        # Without waiting: a stream that is abandoned may be collected on any thread.
        for _, future in pending:
            future.cancel()
        if pool is not workers:
            pool.shutdown(wait=False)


def _first(pending: deque[tuple[Item, Future[Result]]], process: int) -> tuple[Item, Result]:
    item, result = pending.popleft()
    if os.getpid() != process and not result.done():
        raise OptionError(
            "results are asked for in another process than the one that began the work; begin it "
            "in the child, or start the process with multiprocessing.get_context('spawn')"
        )
    return item, result.result()
