"""Remember which files ``fre watch`` scored and printed, in an SQLite file."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fre.errors import OutputError


@dataclass(frozen=True)
class Line:
    """The output line of one file.

    Attributes:
        key: identity of the file, as `fre.line.follower.Arrival.key`.
        values: the prediction as ``fre predict`` prints it, with the time; or the error.
        repeated: whether the line may have been printed before a crash.
    """

    key: str
    values: dict[str, Any]
    repeated: bool

    def text(self) -> str:
        """Return the line as JSON; ``redelivered`` marks a repeated line."""
        values = {**self.values, "redelivered": True} if self.repeated else self.values
        return json.dumps(values, ensure_ascii=False)


class Journal:
    """Record of scored files and their lines that survives a crash at any moment.

    A line is on the disk before it is printed. If a crash comes before the line is marked as
    printed, the next start prints it once more, marked. The file is not scored again.

    Args:
        path: SQLite file; created if missing.

    Raises:
        OutputError: the file can't be written, is no journal, or is in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        try:
            self._database = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=0.5
            )
            # Exclusive: two watchers with one journal would score every file twice.
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
        """Return the keys of all scored files."""
        return {key for (key,) in self._run("SELECT key FROM files")}

    def record(self, lines: Sequence[tuple[str, dict[str, Any]]], *, command: bool) -> None:
        """Record lines in one transaction.

        Args:
            lines: key and values of each file.
            command: whether a command must run for the anomalous files.
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
        """Record files as scored, without a line."""
        for key in keys:
            self._run("INSERT OR IGNORE INTO files VALUES (?, NULL, 1, 0)", key)

    def printed(self, key: str) -> None:
        """Record that a line was printed."""
        self._run("UPDATE files SET printed = 1 WHERE key = ?", key)

    def commanded(self, key: str) -> None:
        """Record that the command of a file has ended."""
        self._run("UPDATE files SET command = 0 WHERE key = ?", key)

    def unprinted(self) -> list[Line]:
        """Return lines that may not have been printed."""
        return self._lines("printed = 0")

    def uncommanded(self) -> list[Line]:
        """Return lines of files whose command may not have ended."""
        return self._lines("command = 1")

    def _lines(self, condition: str) -> list[Line]:
        rows = self._run(f"SELECT key, line FROM files WHERE {condition} ORDER BY rowid")
        return [Line(key, json.loads(line), True) for key, line in rows]

    def _run(self, statement: str, *values: Any) -> list[Any]:
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise OutputError(f"{self.path}: can't be written: {error}") from error

    def close(self) -> None:
        """Close the file, and release its lock."""
        self._database.close()


def default_state(folder: Path, model: Path) -> Path:
    """Return the default path of a journal: a hidden file in the watched folder."""
    return folder.absolute() / f".fre-watch-{model.stem}.sqlite3"
