"""Work on one thread while the caller is busy with what was worked out before."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["one_ahead"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def one_ahead(
    function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[tuple[Item, Result]]:
    """Call a function for each item, in order, one item ahead of the caller.

    All calls are on one other thread, so that no two run at the same time; the items are taken on
    the caller's.

    Yields:
        Each item, and what the function returned for it; or raises what the function raised.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="fre-ahead")
    pending: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) > 1:
                first, result = pending.popleft()
                yield first, result.result()
        while pending:
            first, result = pending.popleft()
            yield first, result.result()
    finally:
        # Without waiting: a stream that is abandoned may be collected on any thread.
        pool.shutdown(wait=False, cancel_futures=True)
