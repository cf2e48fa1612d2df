"""One item ahead: order, errors, and what happens when nobody wants the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fre.ahead import one_ahead


def test_results_come_in_order_and_from_one_other_thread() -> None:
    threads = set()

    def square(number: int) -> int:
        threads.add(threading.get_ident())
        return number**2

    assert list(one_ahead(square, range(50))) == [(number, number**2) for number in range(50)]
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert list(one_ahead(square, [])) == []


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

    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if "fre-ahead" in thread.name]

    stream = one_ahead(str, endless())
    next(stream)
    assert threads()
    stream.close()
    assert len(taken) == 2
    patience = time.monotonic() + 10
    while threads() and time.monotonic() < patience:
        time.sleep(0.01)
    assert threads() == []
