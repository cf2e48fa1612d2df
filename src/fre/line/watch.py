"""Follow a folder: every file that arrives is judged once, however it arrives.

The folder is listed again and again, instead of asking the system for notifications: those do not
exist on network shares, are dropped when many files arrive at once, and tell that a file was
created, not that it is complete. A file is complete once its size and time of modification have
stayed the same for a while; one that can't be read then gets more time, for writers that pause.
A file is known by path, size and time of modification: one that is overwritten arrives anew.

Whatever lies in the folder, following goes on. What is no regular file is never opened and has an
error as its line. A folder that can't be listed is reported once, and listed again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fre.errors import DatasetError, FREError, ImageError, OptionError, OutputError
from fre.inference.prediction import Prediction, json_row
from fre.model import Model
from fre.storage.listing import SUFFIXES, suffix

log = logging.getLogger("fre.line.watch")

_SURROGATE = "ud[89a-f][0-9a-f]{2}"
_AMBIGUOUS = re.compile(rf"\\(?={_SURROGATE}|x5c)")
_ESCAPE = re.compile(rf"\\({_SURROGATE}|x5c)")


def printable(name: str) -> str:
    r"""Return the name of a file as text that can be written anywhere; different for each name.

    A byte that is not UTF-8 becomes ``\udcXX``. A backslash in the name that would look like
    such an escape becomes ``\x5c``.
    """
    return _AMBIGUOUS.sub(r"\\x5c", name).encode("utf-8", "backslashreplace").decode()


def original_name(text: str) -> str:
    """Return the name that `printable` was given."""
    return _ESCAPE.sub(lambda found: chr(int(found[1][1:], 16)), text)


def _look(path: Path) -> tuple[int, int, str | None] | None:
    """Return size, time of modification and fault of a file; ``None`` if it is not there.

    Raises:
        OSError: nothing can be said of it.
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
    # Without its times, which change whenever somebody uses it.
    return 0, 0, "not a regular file, but a pipe, a socket, a device or a folder"


@dataclass(frozen=True)
class Arrival:
    """A file that seems complete.

    Attributes:
        path: the file.
        size: in bytes.
        mtime_ns: time of modification, in nanoseconds since 1970.
        age: seconds for which it has not changed while it was watched.
        fault: why it must not be opened, or ``None`` for a regular file.
    """

    path: Path
    size: int
    mtime_ns: int
    age: float
    fault: str | None = None

    @property
    def key(self) -> str:
        """What makes it this file, and not another one of its name."""
        return f"{self.name}|{self.size}|{self.mtime_ns}"

    @property
    def name(self) -> str:
        """The path as text that can be written anywhere."""
        return printable(str(self.path))

    def unchanged(self) -> bool:
        """Whether it is still as it was when it was listed."""
        try:
            return _look(self.path) == (self.size, self.mtime_ns, self.fault)
        except OSError:
            return False

    def read(self) -> bytes:
        """Return the content, at most one byte more than was listed.

        Raises:
            OSError: it can't be read.
        """
        # Without waiting, as a pipe may have taken the place of the file since.
        with open(self.path, "rb", opener=_open_at_once) as file:
            return file.read(self.size + 1)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@dataclass
class _Sighting:
    state: tuple[int, int, str | None]
    since: float
    not_before: float

    def arrival(self, path: Path, now: float) -> Arrival:
        size, mtime_ns, fault = self.state
        return Arrival(path, size, mtime_ns, now - self.since, fault)


class Follower:
    """Finds files that arrive in a folder or below it.

    Args:
        folder: to follow.
        settle: seconds without a change after which a file is complete.
        done: keys of the files that were dealt with before.
        warn: called once with each fault of a folder, as a line of text.

    Attributes:
        away: why the folder can't be listed at present, or ``None``.

    Raises:
        DatasetError: it is not a folder.
        OptionError: ``settle`` is negative.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settle: float = 0.5,
        done: Iterable[str] = (),
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
        self._faults: set[str] = set()
        self._done = set(done)
        self._seen: dict[Path, _Sighting] = {}

    def poll(self) -> list[Arrival]:
        """List the folder.

        Returns:
            Files that are complete and not done, oldest first; none while the folder is away.
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
        """Yield what has the name of an image; faults of subfolders are added to ``faults``.

        Raises:
            OSError: the folder itself can't be listed.
        """
        visited: set[str] = set()
        waiting = [self.folder]
        while waiting:
            current = waiting.pop()
            # A link to a folder above would otherwise be followed for ever.
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
                continue  # gone since its parent was listed
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

    def _state(self, path: Path, faults: set[str]) -> tuple[int, int, str | None] | None:
        try:
            return _look(path)
        except OSError as error:  # the disk or the network: the next listing may fare better
            faults.add(f"{printable(str(path))}: can't be looked at: {error.strerror}")
            return None

    def idle(self) -> bool:
        """Whether every file that was there at the last listing is done."""
        return all(
            sighting.arrival(path, sighting.since).key in self._done
            for path, sighting in self._seen.items()
        )

    def finish(self, arrival: Arrival) -> None:
        """Never report a file again, as it is now."""
        self._done.add(arrival.key)

    def postpone(self, arrival: Arrival) -> None:
        """Report a file again a little later."""
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


@dataclass(frozen=True)
class Line:
    """What is said of a file.

    Attributes:
        key: of the file.
        values: as ``fre predict`` gives them, with the time; or the error.
        repeated: whether it may have been given before a crash.
    """

    key: str
    values: dict[str, Any]
    repeated: bool

    def text(self) -> str:
        """As a line of JSON; ``redelivered`` marks a repeated one."""
        values = {**self.values, "redelivered": True} if self.repeated else self.values
        return json.dumps(values, ensure_ascii=False)


class Journal:
    """What was judged, and what was said of it: survives a crash at any moment.

    A result is on the disk before it is printed. One that a crash kept from being marked as
    printed is given once more at the next start, marked; it is not judged again.

    Args:
        path: an SQLite file; it is made if it is missing.

    Raises:
        OutputError: it can't be written, is no such file, or is in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            self._database = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=0.5
            )
            # Exclusive: two that watch with one journal would judge everything twice.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS files (key TEXT PRIMARY KEY, line TEXT, "
                "printed INTEGER NOT NULL, command INTEGER NOT NULL)"
            )
            self._database.execute(
                "CREATE INDEX IF NOT EXISTS unprinted ON files (key) WHERE printed = 0"
            )
        except sqlite3.Error as error:
            reason = "in use by another fre watch" if "locked" in str(error) else str(error)
            raise OutputError(
                f"{path}: can't keep the state: {reason}; name another file with --state"
            ) from error

    def keys(self) -> set[str]:
        """Files that were judged."""
        return {key for (key,) in self._run("SELECT key FROM files")}

    def record(self, lines: Sequence[tuple[str, dict[str, Any]]], *, command: bool) -> None:
        """Remember results, all or none.

        Args:
            lines: key and values of each.
            command: whether a command is to be run for the anomalous ones.
        """
        rows = [
            (key, json.dumps(values, ensure_ascii=False), command and bool(values.get("anomalous")))
            for key, values in lines
        ]
        with self._lock:
            self._run("BEGIN")
            try:
                self._database.executemany("INSERT INTO files VALUES (?, ?, 0, ?)", rows)
            except sqlite3.Error as error:
                self._run("ROLLBACK")
                raise OutputError(f"{self.path}: can't be written: {error}") from error
            self._run("COMMIT")

    def skip(self, keys: Iterable[str]) -> None:
        """Treat files as judged, without a word on them."""
        for key in keys:
            self._run("INSERT OR IGNORE INTO files VALUES (?, NULL, 1, 0)", key)

    def printed(self, key: str) -> None:
        """Remember that a line was printed."""
        self._run("UPDATE files SET printed = 1 WHERE key = ?", key)

    def commanded(self, key: str) -> None:
        """Remember that the command was run."""
        self._run("UPDATE files SET command = 0 WHERE key = ?", key)

    def unprinted(self) -> list[Line]:
        """Lines that may not have been printed."""
        rows = self._run("SELECT key, line FROM files WHERE printed = 0 ORDER BY rowid")
        return [Line(key, json.loads(line), True) for key, line in rows]

    def uncommanded(self) -> list[Line]:
        """Lines whose command may not have been run to its end."""
        rows = self._run("SELECT key, line FROM files WHERE command = 1 ORDER BY rowid")
        return [Line(key, json.loads(line), True) for key, line in rows]

    def _run(self, statement: str, *values: Any) -> list[Any]:
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise OutputError(f"{self.path}: can't be written: {error}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def watch_folder(
    model: Model,
    folder: Path,
    journal: Journal,
    *,
    settle: float = 0.5,
    patience: float = 5.0,
    interval: float = 0.2,
    batch_size: int = 8,
    command: bool = False,
    skip_existing: bool = False,
    once: bool = False,
    warn: Callable[[str], None] = log.warning,
) -> Iterator[Line]:
    """Judge what arrives in a folder, each file once, for ever.

    Args:
        model: that judges.
        folder: to follow, with what is below it.
        journal: of what was judged. It has a line before the line is yielded.
        settle: seconds without a change after which a file is complete.
        patience: seconds without a change after which one that can't be read is given up.
        interval: seconds between two listings, at least; more in folders that take long to list.
        batch_size: images to a run of the network.
        command: whether a command is to be run for the anomalous ones.
        skip_existing: leave out what is there at the start, if the journal is empty.
        once: end when everything that is there has been judged.
        warn: called once with each fault of a folder, as a line of text.

    Yields:
        First what a crash kept from being printed, then a line for each file.

    Raises:
        DatasetError: the folder can't be listed at the start, or with ``once``.
        OutputError: the journal can't be written.
    """
    done = journal.keys()
    yield from journal.unprinted()
    follower = Follower(folder, settle=settle, done=done, warn=warn)
    if skip_existing and not done:
        present = Follower(folder, settle=0).poll()
        journal.skip(arrival.key for arrival in present)
        for arrival in present:
            follower.finish(arrival)
    while True:
        began = time.monotonic()
        arrivals = follower.poll()
        took = time.monotonic() - began
        for start in range(0, len(arrivals), batch_size):
            batch = arrivals[start : start + batch_size]
            yield from _judge(model, batch, follower, journal, patience, command)
        if once and follower.away is not None:
            raise DatasetError(follower.away)
        if once and not arrivals and follower.idle():
            return
        time.sleep(max(interval, 4 * took))


def _judge(
    model: Model,
    batch: list[Arrival],
    follower: Follower,
    journal: Journal,
    patience: float,
    command: bool,
) -> Iterator[Line]:
    results = iter(_predictions(model, [a for a in batch if a.fault is None]))
    lines: list[tuple[str, dict[str, Any]]] = []
    taken: list[Arrival] = []
    for arrival in batch:
        result = ImageError(None, arrival.fault) if arrival.fault else next(results)
        failed = isinstance(result, ImageError)
        if not arrival.unchanged() or (failed and arrival.age < patience):
            follower.postpone(arrival)
            continue
        moment = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        lines.append((arrival.key, {**json_row(result, arrival.name), "time": moment}))
        taken.append(arrival)
    if lines:
        journal.record(lines, command=command)
    for arrival in taken:
        follower.finish(arrival)
    for key, values in lines:
        yield Line(key, values, False)


def _predictions(model: Model, batch: list[Arrival]) -> list[Prediction | ImageError]:
    """Judge files together, or one by one if that fails: one file's failure is its own."""
    if not batch:
        return []
    paths = [arrival.path for arrival in batch]
    try:
        return list(model.predict_many(paths, batch_size=len(batch), errors="return"))
    except Exception as error:  # whatever it is, the next file may fare better
        if len(batch) == 1:
            kind = "" if isinstance(error, FREError) else f"{type(error).__name__}: "
            return [ImageError(paths[0], f"not judged: {kind}{error}")]
    return [result for arrival in batch for result in _predictions(model, [arrival])]


def default_state(folder: Path, model: Path) -> Path:
    """Where the journal of a folder and a model is kept: in the folder, hidden."""
    return folder.absolute() / f".fre-watch-{model.stem}.sqlite3"
