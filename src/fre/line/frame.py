"""Frames, and the protocol of the sources that they come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fre.errors import OptionError
from fre.types import ImageArray


class SourceError(Exception):
    """A source gives no more frames at present; the text says why."""


@dataclass(frozen=True)
class Frame:
    """One image of a source.

    Attributes:
        name: name of the image: the path of a file, or the source and the number of a frame.
        number: number of the frame within its source, from 1; frames that were left out count.
        taken: time of the image, in seconds since 1970: arrival of a frame, or last change of a
            file.
        image: the file, or uint8 (H, W, 3), RGB; ``None`` with a ``fault``.
        key: identity of a file that must not be scored twice; ``None`` for a frame.
        position: time within a video or stream, in seconds; ``None`` if unknown.
        part: text of the trigger, such as the number of the part.
        fault: reason why there is no image to score, or ``None``.
    """

    name: str
    number: int
    taken: float
    image: Path | ImageArray | None = field(repr=False, compare=False)
    key: str | None = None
    position: float | None = None
    part: str | None = None
    fault: str | None = None


@dataclass
class Counts:
    """Number of frames of a source.

    Attributes:
        taken: frames that arrived.
        skipped: frames left out as asked: every n-th frame, frame rate, or no trigger.
        dropped: frames left out because newer frames arrived before they were scored.
        damaged: frames left out because parts of them were lost on the way.
        reconnects: number of times that the source came back.
    """

    taken: int = 0
    skipped: int = 0
    dropped: int = 0
    damaged: int = 0
    reconnects: int = 0

    def text(self) -> str:
        """Return the counts as one sentence without its end; zero counts are left out."""
        causes = {
            "left out as asked": self.skipped,
            "dropped, because newer frames arrived before they were scored": self.dropped,
            "damaged on the way": self.damaged,
        }
        parts = [f"{n:,} {cause}" for cause, n in causes.items() if n]
        back = f"; the source came back {self.reconnects} times" if self.reconnects else ""
        return f"{self.taken:,} frames taken" + "".join(f", {part}" for part in parts) + back


@dataclass(frozen=True)
class SourceOptions:
    """Selection of the frames of a camera, a stream or a video.

    Attributes:
        every: take every n-th frame.
        rate: number of frames per second, at most; ``None`` sets no bound.
        buffer: number of frames that wait for scoring. If a live source gives more, the oldest is
            dropped. A video file waits instead.
        trigger: signal that starts an inspection, as for `fre.line.trigger.open_trigger`; ``None``
            inspects without one.

    Raises:
        OptionError: a number is out of range.
    """

    every: int = 1
    rate: float | None = None
    buffer: int = 4
    trigger: str | None = None

    def __post_init__(self) -> None:
        if self.every < 1 or self.buffer < 1:
            raise OptionError("every and buffer must be at least 1")
        if self.trigger and self.buffer != 4:
            raise OptionError("--buffer has no effect with --trigger: no triggered part is dropped")
        if self.rate is not None and not 0 < self.rate < float("inf"):
            raise OptionError(f"rate must be a positive number of frames per second: {self.rate}")


class Source(Protocol):
    """A folder, a camera, a stream or a video.

    Attributes:
        name: name for people and messages, without passwords.
        counts: number of frames so far.
    """

    name: str
    counts: Counts

    @property
    def away(self) -> str | None:
        """Reason why the source gives no frames at present, or ``None``."""

    @property
    def ended(self) -> bool:
        """Whether no frame will come any more."""

    def start(self, done: Iterable[str]) -> None:
        """Begin.

        Args:
            done: keys of files that were scored before.
        """

    def take(self, n: int, timeout: float) -> list[Frame]:
        """Return up to n frames, oldest first; none if none arrives in time.

        Args:
            n: largest number of frames.
            timeout: seconds to wait for the first one.

        Raises:
            DatasetError: the source can't be read, and will not come back.
        """

    def accept(self, frame: Frame, *, failed: bool) -> bool:
        """Return whether the result of a frame stands; else the source gives the frame again.

        Args:
            frame: frame from `take`.
            failed: whether the image could not be read.
        """

    def postpone(self, frame: Frame) -> None:
        """Give the frame again later, because it could not be scored now."""

    def finish(self, frames: Iterable[Frame]) -> None:
        """Do not give these frames again; their results are recorded."""

    def close(self) -> None:
        """Stop."""
