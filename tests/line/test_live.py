"""Frames of cameras and streams: which are taken, and what becomes of the others."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from fre.errors import DatasetError, OptionError
from fre.line import live as module
from fre.line.frame import Frame, SourceError, SourceOptions
from fre.line.live import LiveSource, Shot
from line_peers import wait_for


def shot(number: int, **options: Any) -> Shot:
    return Shot(lambda: np.full((2, 2, 3), number, np.uint8), number / 25, **options)


def source(shots: Any, live: bool, options: SourceOptions | None = None) -> LiveSource:
    told: list[str] = []
    found = LiveSource("cam", shots, options or SourceOptions(), live=live, warn=told.append)
    found.told = told  # type: ignore[attr-defined]
    return found


def drain(found: LiveSource) -> list[Frame]:
    frames: list[Frame] = []
    while not found.ended:
        frames += found.take(3, 1.0)
    return frames


def ten() -> Generator[Shot, None, None]:
    yield from (shot(number) for number in range(1, 11))


def test_a_video_gives_every_frame_however_slow_scoring_is() -> None:
    found = source(ten, False, SourceOptions(buffer=2))
    found.start(())
    time.sleep(0.2)
    frames = drain(found)
    assert [frame.number for frame in frames] == list(range(1, 11))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == list(range(1, 11))  # type: ignore[index]
    assert frames[4].name == "cam#5"
    assert frames[4].position == 5 / 25
    found.close()
    assert (found.counts.taken, found.counts.dropped) == (10, 0)


def test_every_and_rate() -> None:
    found = source(ten, False, SourceOptions(every=3))
    found.start(())
    assert [frame.number for frame in drain(found)] == [1, 4, 7, 10]
    assert found.counts.skipped == 6
    found = source(ten, False, SourceOptions(rate=12.5))  # of 25 a second
    found.start(())
    assert [frame.number for frame in drain(found)] == [1, 3, 5, 7, 9]
    for options in ({"every": 0}, {"buffer": 0}, {"rate": 0.0}, {"rate": float("nan")}):
        with pytest.raises(OptionError):
            SourceOptions(**options)


def test_the_newest_frames_win_and_the_dropped_are_counted_and_said() -> None:
    def endless() -> Generator[Shot, None, None]:
        yield from ten()
        while True:
            time.sleep(0.01)
            yield shot(0, damaged=True)

    found = source(endless, True, SourceOptions(buffer=2))
    found.start(())
    wait_for(lambda: found.counts.damaged)
    assert [frame.number for frame in found.take(8, 1)] == [9, 10]
    assert found.counts.dropped == 8
    (told,) = found.told  # type: ignore[attr-defined]
    assert "scoring is slower than the source" in told
    found.close()
    counts = found.counts
    assert counts.taken == 10 + counts.damaged
    assert "8 dropped, because newer frames arrived" in counts.text()


def test_a_live_source_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT", 0.01)
    attempts: list[int] = []

    def connect() -> Generator[Shot, None, None]:
        attempts.append(1)
        if len(attempts) in (2, 3, 4):
            raise SourceError("Connection refused")
        yield shot(len(attempts))
        time.sleep(0.2)

    found = source(connect, True)
    found.start(())
    frames: list[Frame] = []
    while len(frames) < 2:
        frames += found.take(1, 1)
    assert [frame.number for frame in frames] == [1, 2]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 5]  # type: ignore[index]
    found.close()
    first, second = found.told[:2]  # type: ignore[attr-defined]
    assert "the stream ended; trying again" in first
    assert second == "cam: is back"
    assert found.counts.reconnects >= 1


def test_a_video_that_breaks_off_is_an_error() -> None:
    def connect() -> Generator[Shot, None, None]:
        yield shot(1)
        raise SourceError("Invalid data")

    found = source(connect, False)
    found.start(())
    assert len(found.take(1, 1)) == 1
    with pytest.raises(DatasetError, match="cam: Invalid data"):
        found.take(1, 5)
    found.close()


def test_a_trigger_without_a_frame_is_an_error_of_its_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(module, "TRIGGER_SECONDS", 0.1)

    def connect() -> Generator[Shot, None, None]:
        raise SourceError("No route to host")
        yield

    found = source(connect, True, SourceOptions(trigger=f"file:{tmp_path}/go"))
    found.start(())
    (tmp_path / "go").write_text("A-17\n")
    frames: list[Frame] = []
    while not frames:
        frames = found.take(4, 0.1)
    found.close()
    (frame,) = frames
    assert frame.part == "A-17"
    assert frame.image is None
    assert frame.fault == "no frame arrived within 0.1 s of the trigger: No route to host"


def test_triggers_that_come_too_fast_leave_no_part_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(module, "TRIGGERED", 2)

    def endless() -> Generator[Shot, None, None]:
        while True:
            time.sleep(0.005)
            yield shot(1)

    found = source(endless, True, SourceOptions(trigger=f"file:{tmp_path}/go"))
    for part in "abcd":
        found._pull(part)
    found.start(())
    wait_for(lambda: found.counts.dropped == 2)
    frames = found.take(9, 1)
    found.close()
    assert [frame.part for frame in frames] == list("abcd")
    assert [frame.fault is None for frame in frames] == [False, False, True, True]
