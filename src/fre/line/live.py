"""Cameras, streams and videos: selection of frames, newest first served, and reconnection."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace

from fre.errors import DatasetError, FREError
from fre.line.frame import Counts, Frame, SourceError, SourceOptions
from fre.line.trigger import Trigger, open_trigger
from fre.types import ImageArray

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
"""Seconds between two attempts to reconnect: doubled at each attempt."""
TRIGGER_SECONDS = 5.0
"""Seconds that a trigger waits for a frame of a live source."""
TRIGGERED = 64
"""Number of triggered frames that wait for scoring, at most."""
REMIND_SECONDS = 60.0
"""Seconds between two lines about dropped frames."""


@dataclass(frozen=True)
class Shot:
    """One frame as the camera's library gives it.

    Attributes:
        pixels: returns the image, uint8 (H, W, 3), RGB; called only if the frame is scored.
        position: time within the stream in seconds, or ``None``.
        damaged: whether parts of the frame were lost.
    """

    pixels: Callable[[], ImageArray]
    position: float | None = None
    damaged: bool = False


class LiveSource:
    """Reads frames on a thread of its own.

    Args:
        name: name of the source, without passwords.
        connect: opens the source and yields its frames; raises `SourceError` if the source is or
            goes away.
        options: selection of frames.
        live: whether the source runs on while frames are scored, and is opened again after an
            end. A video file does not and is not.
        warn: called with one line of text for each thing to know.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Generator[Shot, None, None]],
        options: SourceOptions,
        *,
        live: bool,
        warn: Callable[[str], None],
    ) -> None:
        self.name = name
        self.counts = Counts()
        self.away: str | None = None
        self._connect = connect
        self._options = options
        self._live = live
        self._warn = warn
        self._due = float("-inf")
        self._reminded = float("-inf")
        self._fault: FREError | None = None
        self._stopping = self._finished = False
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Frame, Shot | None]] = deque()
        self._triggers: deque[Trigger] = deque()
        self._trigger = options.trigger and open_trigger(options.trigger, self._pull, self._last)
        self._no_more_triggers = False
        self._thread = threading.Thread(target=self._run, name="fre-source", daemon=True)

    @property
    def ended(self) -> bool:
        """Whether no frame will come any more."""
        with self._changed:
            # An error is raised by `take` first.
            finished = self._finished and self._fault is None
            over = finished or (self._no_more_triggers and not self._triggers)
            return over and not self._waiting

    def start(self, done: Iterable[str]) -> None:
        """Begin to read."""
        self._thread.start()
        if self._trigger:
            self._trigger.start()

    def take(self, n: int, timeout: float) -> list[Frame]:
        """Return up to n frames, oldest first; see `fre.line.frame.Source`."""
        with self._changed:
            self._expire_triggers()
            if not self._waiting and not self._finished:
                self._changed.wait(timeout)
            if not self._waiting and self._fault is not None:
                raise self._fault
            taken = [self._waiting.popleft() for _ in range(min(n, len(self._waiting)))]
            self._changed.notify_all()
        return [_with_pixels(frame, shot) for frame, shot in taken]

    def accept(self, frame: Frame, *, failed: bool) -> bool:
        """Return true: a frame does not come again."""
        return True

    def postpone(self, frame: Frame) -> None:
        """Count the frame as dropped: there is no place to read it from again."""
        self.counts.dropped += 1

    def finish(self, frames: Iterable[Frame]) -> None:
        """Do nothing: a frame does not come again."""

    def close(self) -> None:
        """Stop reading."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._trigger:
            self._trigger.close()
        if self._thread.ident is not None:
            self._thread.join(2.0)
        with self._changed:
            # So that every frame is counted once.
            self.counts.dropped += sum(shot is not None for _, shot in self._waiting)
            self._waiting.clear()

    def _run(self) -> None:
        wait = FIRST_WAIT
        while not self._stopping:
            before = self.counts.taken
            reason = self._read()
            if reason is None or self._stopping:
                break
            if self.counts.taken > before:
                wait = FIRST_WAIT
            if self.away is None:
                self._warn(f"{self.name}: {reason}; trying again until it is back")
            self.away = reason
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, wait)
            wait = min(2 * wait, LONGEST_WAIT)
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def _read(self) -> str | None:
        """Read to the end; return why to open the source again, or ``None`` not to."""
        try:
            with closing(self._connect()) as shots:
                for shot in shots:
                    if self.away is not None:
                        self._warn(f"{self.name}: is back")
                        self.away = None
                        self.counts.reconnects += 1
                    self._offer(shot)
                    if self._stopping:
                        return None
            return "the stream ended" if self._live else None
        except SourceError as error:
            if self._live:
                return str(error)
            self._fault = DatasetError(f"{self.name}: {error}")
        except FREError as error:
            self._fault = error
        except Exception as error:  # the thread must live, and people must know
            if self._live:
                return f"{type(error).__name__}: {error}"
            self._fault = DatasetError(f"{self.name}: {type(error).__name__}: {error}")
        return None

    def _offer(self, shot: Shot) -> None:
        now = time.time()
        with self._changed:
            self.counts.taken += 1
            number = self.counts.taken
            if shot.damaged:
                self.counts.damaged += 1
                return
            if self._trigger and not self._live:
                # A video waits for its triggers: each takes the next frame.
                self._changed.wait_for(
                    lambda: self._triggers or self._stopping or self._no_more_triggers
                )
            if not self._wanted(shot, number):
                self.counts.skipped += 1
                return
            part = self._triggers.popleft().text if self._trigger else None
            name = f"{self.name}#{number}"
            frame = Frame(name, number, now, None, position=shot.position, part=part)
            self._make_room()
            self._waiting.append((frame, shot))
            self._changed.notify_all()

    def _wanted(self, shot: Shot, number: int) -> bool:
        if self._trigger and not self._triggers:
            return False
        if (number - 1) % self._options.every:
            return False
        if self._options.rate is None:
            return True
        moment = shot.position
        if self._live or moment is None:
            moment = time.monotonic()
        period = 1 / self._options.rate
        if moment < self._due - 0.1 * period:
            return False
        # In step with the rate, except at the start and after a pause.
        self._due = period + (self._due if moment < self._due + period else moment)
        return True

    def _make_room(self) -> None:
        limit = TRIGGERED if self._trigger else self._options.buffer
        if not self._live:
            self._changed.wait_for(lambda: len(self._waiting) < limit or self._stopping)
            return
        if len(self._waiting) < limit:
            return
        self.counts.dropped += 1
        if self._trigger:
            # A part must not pass in silence: it gets a message without a score.
            index = next(i for i, (_, shot) in enumerate(self._waiting) if shot is not None)
            frame, _ = self._waiting[index]
            fault = "not scored: triggers came faster than frames can be scored"
            self._waiting[index] = (replace(frame, fault=fault), None)
        else:
            self._waiting.popleft()
        if time.monotonic() - self._reminded > REMIND_SECONDS:
            self._reminded = time.monotonic()
            self._warn(f"{self.name}: scoring is slower than the source; {self.counts.text()}")

    def _pull(self, text: str) -> None:
        """Take the next frame, for the part that the text names."""
        with self._changed:
            self._triggers.append(Trigger(text, time.time()))
            self._changed.notify_all()

    def _last(self) -> None:
        with self._changed:
            self._no_more_triggers = True
            self._changed.notify_all()

    def _expire_triggers(self) -> None:
        now = time.time()
        if not self._live:
            return
        while self._triggers and now - self._triggers[0].time > TRIGGER_SECONDS:
            trigger = self._triggers.popleft()
            reason = f"no frame arrived within {TRIGGER_SECONDS:g} s of the trigger"
            if self.away is not None:
                reason += f": {self.away}"
            number = self.counts.taken
            frame = Frame(
                f"{self.name}#{number}", number, trigger.time, None, part=trigger.text, fault=reason
            )
            self._waiting.append((frame, None))


def _with_pixels(frame: Frame, shot: Shot | None) -> Frame:
    if shot is None:
        return frame
    try:
        return replace(frame, image=shot.pixels())
    except Exception as error:  # one frame must not end the stream
        return replace(frame, fault=f"can't be decoded: {type(error).__name__}: {error}")
