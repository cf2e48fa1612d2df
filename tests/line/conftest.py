"""Messages that the tests of receivers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fre.line import delivery as module
from fre.line.delivery import Delivery, Sink
from fre.line.journal import Journal


def message(number: int, **more: Any) -> tuple[str | None, dict[str, Any]]:
    values = {
        "path": f"cam#{number}",
        "score": number / 2,
        "p_value": 0.5,
        "anomalous": number % 2 == 1,
        "regions": [],
        "decision": "fail" if number % 2 else "pass",
        "threshold": 1.5,
        "pixel_threshold": 2.5,
        "model": "weave",
        "model_sha256": "ab" * 32,
        "source": "cam",
        "number": number,
        "dropped": 0,
        "taken": "2026-01-01T00:00:00.000+00:00",
        "time": "2026-01-01T00:00:00.100+00:00",
    }
    return None, {**values, **more}


class Line:
    """A journal with one receiver, whose waits are short."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path)
        self.told: list[str] = []
        self.delivery: Delivery | None = None

    def open(self, sink: Sink) -> Delivery:
        self.journal.open_receivers([sink.name])
        self.delivery = Delivery(sink, self.journal, self.told.append)
        self.delivery.start()
        return self.delivery

    def send(self, *numbers: int, **more: Any) -> None:
        self.journal.record([message(number, **more) for number in numbers])
        assert self.delivery is not None
        self.delivery.wake()

    def close(self, seconds: float = 30) -> int:
        assert self.delivery is not None
        left = self.delivery.close(seconds)
        self.journal.close()
        return left


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Line]]:
    """Opens the journal, each time as after a restart."""
    monkeypatch.setattr(module, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(module, "LONGEST_WAIT", 0.1)
    opened: list[Line] = []

    def start() -> Line:
        opened.append(Line(tmp_path / "journal"))
        return opened[-1]

    yield start
    for one in opened:
        one.journal.close()
