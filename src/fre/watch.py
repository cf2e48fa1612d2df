"""Follow a folder: every file that arrives is judged once, however it arrives.

The folder is listed again and again, instead of asking the system for notifications: those do not
exist on network shares, are dropped when many files arrive at once, and tell that a file was
created, not that it is complete. A file is complete once its size and time of modification have
stayed the same for a while; one that can't be read then gets more time, for writers that pause.
A file is known by path, size and time of modification: one that is overwritten arrives anew.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fre.errors import DatasetError, ImageError, OptionError, OutputError
from fre.folders import find_images
from fre.model import Model

__all__ = ["Arrival", "Follower", "Journal", "Line", "default_state", "watch_folder"]


@dataclass(frozen=True)
class Arrival:
    """A file that seems complete.

    Attributes:
        path: the file.
        size: in bytes.
        mtime_ns: time of modification, in nanoseconds since 1970.
        age: seconds for which it has not changed while it was watched.
    """

    path: Path
    size: int
    mtime_ns: int
    age: float

    @property
    def key(self) -> str:
        """What makes it this file, and not another one of its name."""
        return f"{self.name}|{self.size}|{self.mtime_ns}"

    @property
    def name(self) -> str:
        """The path as text that can be written anywhere: names need not be UTF-8."""
        return str(self.path).encode("utf-8", "backslashreplace").decode()

    def unchanged(self) -> bool:
        """Whether it is still as it was when it was listed."""
        try:
            status = self.path.stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


@dataclass
class _Sighting:
    size: int
    mtime_ns: int
    since: float
    not_before: float


class Follower:
    """Finds files that arrive in a folder or below it.

    Args:
        folder: to follow.
        settle: seconds without a change after which a file is complete.
        done: keys of the files that were dealt with before.

    Raises:
        DatasetError: it is not a folder.
        OptionError: ``settle`` is negative.
    """

    def __init__(self, folder: Path, *, settle: float = 0.5, done: Iterable[str] = ()) -> None:
        if not folder.is_dir():
            raise DatasetError(f"{folder}: expected a folder to follow")
        if settle < 0:
            raise OptionError(f"settle must not be negative, got {settle}")
        self.folder = folder.absolute()
        self.settle = settle
        self._done = set(done)
        self._seen: dict[Path, _Sighting] = {}

    def poll(self) -> list[Arrival]:
        """List the folder.

        Returns:
            Files that are complete and not done, oldest first.

        Raises:
            DatasetError: the folder can't be listed.
        """
        now = time.monotonic()
        ready: list[Arrival] = []
        before, self._seen = self._seen, {}
        for path in find_images(self.folder):
            try:
                status = path.stat()
            except OSError:
                continue  # gone since it was listed
            size, mtime_ns = status.st_size, status.st_mtime_ns
            sighting = before.get(path)
            if sighting is None or (sighting.size, sighting.mtime_ns) != (size, mtime_ns):
                sighting = _Sighting(size, mtime_ns, now, now + self.settle)
            self._seen[path] = sighting
            if now < sighting.not_before:
                continue
            arrival = Arrival(path, size, mtime_ns, now - sighting.since)
            if arrival.key not in self._done:
                ready.append(arrival)
        return sorted(ready, key=lambda arrival: (arrival.mtime_ns, arrival.path))

    def idle(self) -> bool:
        """Whether every file that was there at the last listing is done."""
        return all(
            Arrival(path, sighting.size, sighting.mtime_ns, 0).key in self._done
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

    Yields:
        First what a crash kept from being printed, then a line for each file.

    Raises:
        DatasetError: the folder can't be listed.
        OutputError: the journal can't be written.
    """
    done = journal.keys()
    yield from journal.unprinted()
    follower = Follower(folder, settle=settle, done=done)
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
    results = model.predict_many(
        [arrival.path for arrival in batch], batch_size=len(batch), errors="return"
    )
    lines: list[tuple[str, dict[str, Any]]] = []
    for arrival, result in zip(batch, results, strict=True):
        failed = isinstance(result, ImageError)
        if not arrival.unchanged() or (failed and arrival.age < patience):
            follower.postpone(arrival)
            continue
        moment = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        if isinstance(result, ImageError):
            values: dict[str, Any] = {"path": arrival.name, "error": result.reason}
        else:
            values = {**result.to_dict(), "path": arrival.name}
        lines.append((arrival.key, {**values, "time": moment}))
        follower.finish(arrival)
    if lines:
        journal.record(lines, command=command)
    for key, values in lines:
        yield Line(key, values, False)


def default_state(folder: Path, model: Path) -> Path:
    """Where the journal of a folder and a model is kept: in the folder, hidden."""
    return folder.absolute() / f".fre-watch-{model.stem}.sqlite3"
