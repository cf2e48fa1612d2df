"""The journal and the deliveries: no message is lost, and one that may be repeated says so."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fre.errors import OutputError
from fre.line.delivery import DeliveryError
from fre.line.journal import Journal, Message
from line_peers import wait_for


class Sink:
    """A receiver that keeps what it gets, and fails when told to."""

    def __init__(self, batch: int = 4) -> None:
        self.name, self.batch, self.refused = "there", batch, 0
        self.got: list[Message] = []
        self.failures: list[Exception | None] = []

    def deliver(self, messages: Sequence[Message]) -> Iterator[int]:
        for message in messages:
            failure = self.failures.pop(0) if self.failures else None
            if failure is not None:
                raise failure
            self.got.append(message)
            yield message.n

    def close(self) -> None:
        pass


def numbers(sink: Sink) -> list[int]:
    return [message.values["number"] for message in sink.got]


def test_every_message_arrives_once_and_in_order(line: Callable[[], Any]) -> None:
    one, sink = line(), Sink()
    one.open(sink)
    for number in range(600):
        one.send(number)
    assert one.close() == 0
    assert numbers(sink) == list(range(600))
    assert len({message.values["id"] for message in sink.got}) == 600
    assert not any(message.repeated for message in sink.got)


def test_a_receiver_that_is_away_loses_nothing(line: Callable[[], Any]) -> None:
    one, sink = line(), Sink()
    sink.failures = [None, DeliveryError("gone"), DeliveryError("gone"), ValueError("odd")]
    one.open(sink)
    one.send(*range(10))
    assert one.close() == 0
    assert numbers(sink) == list(range(10))
    assert not any(message.repeated for message in sink.got[:1])
    first, second = one.told[0], one.told[-1]
    assert first == "there: gone; messages are kept, trying again"
    assert "there: is back after" in second


def test_a_message_that_may_have_arrived_is_marked(line: Callable[[], Any]) -> None:
    one, sink = line(), Sink()
    sink.failures = [None, DeliveryError("no answer", maybe=2)]
    one.open(sink)
    one.send(*range(5))
    assert one.close() == 0
    assert [message.repeated for message in sink.got] == [False, True, False, False, False]
    assert json.loads(sink.got[1].text())["redelivered"] is True


def test_messages_wait_over_a_restart(line: Callable[[], Any]) -> None:
    one, sink = line(), Sink()
    sink.failures = [None, None] + [DeliveryError("gone")] * 1000
    one.open(sink)
    one.send(*range(6))
    wait_for(lambda: len(sink.failures) < 990)
    assert one.close(0.1) == 4
    ids = [message.values["id"] for message in sink.got]
    two, sink = line(), Sink()
    two.open(sink)
    two.send(6)
    assert two.close() == 0
    assert numbers(sink) == [2, 3, 4, 5, 6]
    assert not {message.values["id"] for message in sink.got} & set(ids)


def test_a_crash_repeats_a_batch_at_most_and_says_so(
    line: Callable[[], Any], tmp_path: Path
) -> None:
    one = line()
    one.journal.open_receivers(["there"])
    one.journal.record([(None, {"number": n}) for n in range(10)])
    first = one.journal.pending("there", 4)
    one.journal.mark("there", attempted=first[-1].n)
    one.journal.close()  # nobody knows whether the four arrived
    two, sink = line(), Sink()
    two.open(sink)
    assert two.close() == 0
    assert numbers(sink) == list(range(10))
    assert [message.repeated for message in sink.got] == [True] * 4 + [False] * 6


def test_delivered_messages_are_removed(line: Callable[[], Any], tmp_path: Path) -> None:
    one, sink = line(), Sink(batch=64)
    one.open(sink)
    for start in range(0, 2000, 50):
        one.send(*range(start, start + 50))
    assert one.close() == 0
    with sqlite3.connect(tmp_path / "journal") as database:
        ((left,),) = database.execute("SELECT COUNT(*) FROM messages").fetchall()
    assert left < 600


def test_a_new_receiver_gets_what_is_new_and_a_former_one_is_named(
    line: Callable[[], Any],
) -> None:
    one = line()
    assert one.journal.open_receivers(["a"]) == []
    one.journal.record([(None, {"number": n}) for n in range(3)])
    one.journal.close()
    two = line()
    assert two.journal.open_receivers(["b"]) == [("a", 3)]
    two.journal.record([(None, {"number": 3})])
    assert [message.values["number"] for message in two.journal.pending("b", 9)] == [3]


def test_a_journal_of_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE files (key TEXT, line TEXT, printed INT, command INT)")
        rows = [("a", '{"path": "a"}', 1, 0), ("b", '{"path": "b"}', 0, 0), ("c", None, 1, 0)]
        database.executemany("INSERT INTO files VALUES (?, ?, ?, ?)", rows)
    database.close()
    journal = Journal(path)
    assert journal.keys() == {"a", "b", "c"}
    journal.open_receivers(["stdout"])
    (message,) = journal.pending("stdout", 9)
    assert (message.values["path"], message.repeated) == ("b", True)
    with pytest.raises(OutputError, match="another fre watch"):
        Journal(path)
    journal.close()
    journal = Journal(path)
    assert journal.keys() == {"a", "b", "c"}
    journal.close()
