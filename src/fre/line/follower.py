"""Follow a folder: report each file that arrives in it once it is complete.

The follower lists the folder again and again instead of asking the system for notifications.
Notifications do not exist on network shares, are dropped in bursts, and report that a file was
created, not that it is complete. A file counts as complete once its size and modification time
have stayed the same for a while. An unreadable file gets more time, for writers that pause.
A file has the identity of its path, size and modification time. So an overwritten file is reported
again.

Nothing in the folder stops the follower. It never opens what is no regular file, and reports a
fault for it. It reports a folder that can't be listed once, and tries to list it again.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fre.errors import DatasetError, OptionError
from fre.storage.files import read_regular
from fre.storage.listing import SUFFIXES, suffix

log = logging.getLogger("fre.line")

_SURROGATE = "ud[89a-f][0-9a-f]{2}"
_AMBIGUOUS = re.compile(rf"\\(?={_SURROGATE}|x5c)")
_ESCAPE = re.compile(rf"\\({_SURROGATE}|x5c)")

State = tuple[int, int, "str | None"]
"""Size in bytes, modification time in nanoseconds, and fault of a file."""


def printable(name: str) -> str:
    r"""Return a file name as valid Unicode; different names give different texts.

    A byte that is not UTF-8 becomes ``\udcXX``. A backslash that would look like such an escape
    becomes ``\x5c``.
    """
    return _AMBIGUOUS.sub(r"\\x5c", name).encode("utf-8", "backslashreplace").decode()


def original_name(text: str) -> str:
    """Return the file name that `printable` turned into ``text``."""
    return _ESCAPE.sub(lambda found: chr(int(found[1][1:], 16)), text)


def _look(path: Path) -> State | None:
    """Return the state of a file, or ``None`` if the file does not exist.

    Raises:
        OSError: the system can't tell.
    """
    try:
        status = path.stat()
    except OSError as error:
        try:
            link = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISLNK(link.st_mode):
            raise
        reason = "a link to a file that is not there"
        if not isinstance(error, FileNotFoundError):
            reason = f"a link that leads nowhere: {error.strerror}"
        return link.st_size, link.st_mtime_ns, reason
    if stat.S_ISREG(status.st_mode):
        return status.st_size, status.st_mtime_ns, None
    # Without times: the times of a pipe or device change with each use.
    return 0, 0, "not a regular file, but a pipe, a socket, a device or a folder"


@dataclass(frozen=True)
class Arrival:
    """A file that seems complete.

    Attributes:
        path: the file.
        size: size in bytes.
        mtime_ns: modification time, in nanoseconds since 1970.
        age: seconds since the last change that the follower saw.
        fault: reason why the file must not be opened, or ``None`` for a regular file.
    """

    path: Path
    size: int
    mtime_ns: int
    age: float
    fault: str | None = None

    @property
    def key(self) -> str:
        """Identity of this version of the file: name, size and modification time."""
        return f"{self.name}|{self.size}|{self.mtime_ns}"

    @property
    def name(self) -> str:
        """The path as valid Unicode."""
        return printable(str(self.path))

    def unchanged(self) -> bool:
        """Return whether the file is still in the state that was listed."""
        try:
            return _look(self.path) == (self.size, self.mtime_ns, self.fault)
        except OSError:
            return False

    def read(self) -> bytes:
        """Return the content of the file.

        Raises:
            OSError: the file can't be read, is no regular file any more, or has grown.
        """
        return read_regular(self.path, self.size)


@dataclass
class _Sighting:
    state: State
    since: float
    not_before: float

    def arrival(self, path: Path, now: float) -> Arrival:
        size, mtime_ns, fault = self.state
        return Arrival(path, size, mtime_ns, now - self.since, fault)


class Follower:
    """Finds files that arrive in a folder or below it.

    Args:
        folder: folder to follow.
        settle: seconds without a change after which a file is complete.
        warn: called with one line of text, once for each fault of a folder.

    Attributes:
        away: reason why the folder can't be listed at present, or ``None``.
        listing_seconds: duration of the last listing.

    Raises:
        DatasetError: ``folder`` is not a folder.
        OptionError: ``settle`` is negative.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settle: float = 0.5,
        warn: Callable[[str], None] = log.warning,
    ) -> None:
        if not folder.is_dir():
            raise DatasetError(f"{folder}: expected a folder to follow")
        if settle < 0:
            raise OptionError(f"settle must not be negative, got {settle}")
        self.folder = folder.absolute()
        self.settle = settle
        self.warn = warn
        self.away: str | None = None
        self.listing_seconds = 0.0
        self._faults: set[str] = set()
        self._done: set[str] = set()
        self._seen: dict[Path, _Sighting] = {}

    def poll(self) -> list[Arrival]:
        """List the folder.

        Returns:
            Complete files that are not done, oldest first; none while the folder is away.
        """
        now = time.monotonic()
        seen: dict[Path, _Sighting] = {}
        faults: set[str] = set()
        try:
            for path in self._images(faults):
                if (state := self._state(path, faults)) is None:
                    continue
                sighting = self._seen.get(path)
                if sighting is None or sighting.state != state:
                    sighting = _Sighting(state, now, now + self.settle)
                seen[path] = sighting
        except OSError as error:
            self._set_away(f"{printable(str(self.folder))}: can't be listed: {error.strerror}")
            return []
        finally:
            self.listing_seconds = time.monotonic() - now
        self._set_away(None)
        for fault in sorted(faults - self._faults):
            self.warn(fault)
        self._seen, self._faults = seen, faults
        settled = [
            sighting.arrival(path, now)
            for path, sighting in seen.items()
            if now >= sighting.not_before
        ]
        ready = [arrival for arrival in settled if arrival.key not in self._done]
        return sorted(ready, key=lambda arrival: (arrival.mtime_ns, arrival.path))

    def _set_away(self, reason: str | None) -> None:
        if reason is not None and self.away is None:
            self.warn(f"{reason}; waiting until it is back")
        if reason is None and self.away is not None:
            self.warn(f"{printable(str(self.folder))}: is back")
        self.away = reason

    def _images(self, faults: set[str]) -> Iterator[Path]:
        """Yield paths with the name of an image; add faults of subfolders to ``faults``.

        Raises:
            OSError: the followed folder itself can't be listed.
        """
        visited: set[str] = set()
        waiting = [self.folder]
        while waiting:
            current = waiting.pop()
            # Without this, a link to a parent folder would be followed for ever.
            real = os.path.realpath(current)
            if real in visited:
                continue
            visited.add(real)
            try:
                with os.scandir(current) as listed:
                    entries = [entry for entry in listed if not _is_hidden(entry.name)]
            except (FileNotFoundError, NotADirectoryError):
                if current == self.folder:
                    raise
                continue  # removed since its parent was listed
            except OSError as error:
                if current == self.folder:
                    raise
                faults.add(f"{printable(str(current))}: can't be listed: {error.strerror}")
                continue
            for entry in entries:
                if _is_folder(entry):
                    waiting.append(current / entry.name)
                elif suffix(entry.name) in SUFFIXES:
                    yield current / entry.name

    def _state(self, path: Path, faults: set[str]) -> State | None:
        try:
            return _look(path)
        except OSError as error:  # disk or network: the next listing may succeed
            faults.add(f"{printable(str(path))}: can't be looked at: {error.strerror}")
            return None

    def idle(self) -> bool:
        """Return whether every file of the last listing is done."""
        return all(
            sighting.arrival(path, sighting.since).key in self._done
            for path, sighting in self._seen.items()
        )

    def leave_out(self, keys: Iterable[str]) -> None:
        """Do not report these versions of files, by their keys."""
        self._done.update(keys)

    def postpone(self, arrival: Arrival) -> None:
        """Report the file again a little later."""
        sighting = self._seen.get(arrival.path)
        if sighting is not None:
            wait = max(self.settle, arrival.age, 0.05)
            sighting.not_before = time.monotonic() + min(wait, 5.0)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, for instance
        return False
