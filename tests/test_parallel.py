"""Work ahead of the caller: order, errors, and what happens when nobody wants the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fre.parallel import in_order


def one_ahead(function: Callable[[int], Any], items: Iterable[int]) -> Iterator[tuple[int, Any]]:
    return in_order(function, items, workers=1, ahead=1)


def test_results_come_in_order_and_from_one_other_thread() -> None:
    threads = set()

    def square(number: int) -> int:
        threads.add(threading.get_ident())
        return number**2

    assert list(one_ahead(square, range(50))) == [(number, number**2) for number in range(50)]
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert list(one_ahead(square, [])) == []


def test_several_threads_give_the_same_order() -> None:
    meeting = threading.Barrier(3, timeout=10)

    def late_at_first(number: int) -> int:
        meeting.wait()  # which three threads at a time must reach
        time.sleep(0.002 * (2 - number % 3))
        return number

    stream = in_order(late_at_first, range(9), workers=3, ahead=3)
    assert list(stream) == [(number, number) for number in range(9)]


def test_the_next_item_is_worked_on_meanwhile() -> None:
    begun = [threading.Event() for _ in range(3)]
    stream = one_ahead(lambda number: begun[number].set(), range(3))
    next(stream)
    assert begun[1].wait(timeout=10)
    assert not begun[2].wait(timeout=0.05)


def test_errors_come_in_place_of_their_result() -> None:
    stream = one_ahead(lambda number: 1 // (2 - number), range(5))
    assert [next(stream)[1] for _ in range(2)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_an_abandoned_stream_takes_no_more_items_and_ends_its_thread() -> None:
    taken = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(1)
            yield 1

    # Another test's error may hold a stream until it is collected.
    others = set(threading.enumerate())

    def threads() -> list[str]:
        new = set(threading.enumerate()) - others
        return [thread.name for thread in new if "fre-ahead" in thread.name]

    stream = one_ahead(str, endless())
    next(stream)
    assert threads()
    stream.close()
    assert len(taken) == 2
    patience = time.monotonic() + 10
    while threads() and time.monotonic() < patience:
        time.sleep(0.01)
    assert threads() == []


def test_an_abandoned_stream_may_be_collected_on_a_thread_of_its_own() -> None:
    """Joining the thread that one runs on is an error, which the collector would print."""
    stream = in_order(str, range(50), workers=2, ahead=20)
    next(stream)
    failures: list[BaseException] = []

    def close() -> None:
        try:
            stream.close()
        except RuntimeError as error:
            failures.append(error)

    pool = stream.gi_frame.f_locals["pool"]
    pool.submit(close).result()
    assert not failures


def test_streams_share_the_threads_of_someone_else_and_leave_them_running() -> None:
    used = set()

    def square(number: int) -> int:
        used.add(threading.get_ident())
        return number**2

    with ThreadPoolExecutor(1) as pool:
        squares = (result for _, result in in_order(square, range(20), workers=pool, ahead=3))
        fourth = in_order(square, squares, workers=pool, ahead=2)
        assert [result for _, result in fourth] == [number**4 for number in range(20)]
        assert len(used) == 1
        abandoned = in_order(square, range(20), workers=pool, ahead=8)
        next(abandoned)
        abandoned.close()
        assert pool.submit(square, 3).result() == 9


def test_work_that_nobody_waits_for_any_more_is_not_begun() -> None:
    begun: list[int] = []
    hold = threading.Event()

    def work(number: int) -> None:
        begun.append(number)
        if number == 1:
            hold.wait(timeout=10)

    with ThreadPoolExecutor(1) as pool:
        stream = in_order(work, range(9), workers=pool, ahead=5)
        next(stream)
        stream.close()
        hold.set()
    assert max(begun) <= 1
