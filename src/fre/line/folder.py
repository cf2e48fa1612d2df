"""A folder as a source of images."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from fre.errors import DatasetError
from fre.line.follower import Arrival, Follower
from fre.line.frame import Counts, Frame
from fre.line.lock import FolderLock


@dataclass(frozen=True)
class FolderOptions:
    """How a folder is followed.

    Attributes:
        settle: seconds without a change after which a file is complete.
        patience: seconds without a change after which an unreadable file is given up.
        interval: seconds between two listings, at least. Folders that are slow to list get more.
        skip_existing: whether to skip files that are present at the start, if none was scored
            before.
        once: whether to end when all present files are scored.
        batch_bytes: total size of the files given at once; one file may exceed it.
    """

    settle: float = 0.5
    patience: float = 5.0
    interval: float = 0.2
    skip_existing: bool = False
    once: bool = False
    batch_bytes: float = float("inf")


class FolderSource:
    """Images that arrive in a folder or below it, each given once.

    Args:
        folder: folder to follow.
        options: times and mode.
        warn: called with one line of text, once for each fault of the folder.

    Raises:
        DatasetError: ``folder`` is not a folder.
        OutputError: another process watches the folder.
    """

    def __init__(
        self, folder: Path, options: FolderOptions, *, warn: Callable[[str], None]
    ) -> None:
        self.follower = Follower(folder, settle=options.settle, warn=warn)
        self.name = str(folder)
        self.counts = Counts()
        self.options = options
        self.ended = False
        self._lock = FolderLock(folder, warn)
        self._next_listing = 0.0
        self._ready: deque[Arrival] = deque()
        self._given: dict[str, Arrival] = {}

    @property
    def away(self) -> str | None:
        """Reason why the folder can't be listed at present, or ``None``."""
        return self.follower.away

    def start(self, done: Iterable[str]) -> None:
        """Leave out files that are done."""
        self.follower.leave_out(done)

    def present(self) -> list[str]:
        """Return the keys of all files that are in the folder now."""
        return [arrival.key for arrival in Follower(self.follower.folder, settle=0).poll()]

    def take(self, n: int, timeout: float) -> list[Frame]:
        """Return up to n complete files; see `fre.line.frame.Source`."""
        if not self._ready:
            self._list(timeout)
        taken: list[Arrival] = []
        size = 0
        while self._ready and len(taken) < n:
            size += self._ready[0].size
            if taken and size > self.options.batch_bytes:
                break
            taken.append(self._ready.popleft())
        return [self._frame(arrival) for arrival in taken]

    def _list(self, timeout: float) -> None:
        """List the folder when it is time; end with ``once`` if all of its files are done."""
        wait = self._next_listing - time.monotonic()
        if wait > 0:
            time.sleep(min(wait, timeout))
            if wait > timeout:
                return
        self._ready.extend(self.follower.poll())
        pause = max(self.options.interval, 4 * self.follower.listing_seconds)
        self._next_listing = 0.0 if self._ready else time.monotonic() + pause
        if self.options.once and self.away is not None:
            raise DatasetError(self.away)
        if self.options.once and not self._ready and self.follower.idle():
            self.ended = True

    def _frame(self, arrival: Arrival) -> Frame:
        self.counts.taken += arrival.key not in self._given
        self._given[arrival.key] = arrival
        return Frame(
            arrival.name,
            self.counts.taken,
            arrival.mtime_ns / 1e9,
            arrival.path,
            key=arrival.key,
            fault=arrival.fault,
        )

    def arrival(self, frame: Frame) -> Arrival:
        """Return the file of a frame that is not finished."""
        assert frame.key is not None
        return self._given[frame.key]

    def accept(self, frame: Frame, *, failed: bool) -> bool:
        """Return whether the file is unchanged, and old enough if it is unreadable."""
        arrival = self.arrival(frame)
        return arrival.unchanged() and not (failed and arrival.age < self.options.patience)

    def postpone(self, frame: Frame) -> None:
        """Give the file again later."""
        self.follower.postpone(self.arrival(frame))

    def finish(self, frames: Iterable[Frame]) -> None:
        """Do not give these files again."""
        keys = [frame.key for frame in frames if frame.key is not None]
        for key in keys:
            self._given.pop(key)
        self.follower.leave_out(keys)

    def close(self) -> None:
        """Release the folder."""
        self._lock.close()
