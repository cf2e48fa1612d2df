"""Record of scored files and of messages that receivers have not got yet, in an SQLite file."""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fre.errors import OutputError

SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS done (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (n INTEGER PRIMARY KEY AUTOINCREMENT, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS receivers (
    name TEXT PRIMARY KEY, delivered INTEGER NOT NULL, attempted INTEGER NOT NULL
);
"""

# The journals of fre 0.2 and before: a line and two marks for each file.
FROM_FILES = """
INSERT OR IGNORE INTO done SELECT key FROM files;
INSERT INTO messages (body) SELECT line FROM files
    WHERE line IS NOT NULL AND (printed = 0 OR command = 1) ORDER BY rowid;
DROP TABLE files;
"""

PRUNE_EVERY = 256
"""Number of deliveries between two removals of delivered messages."""


@dataclass(frozen=True)
class Message:
    """A message for the receivers.

    Attributes:
        n: number of the message in its journal, from 1.
        values: its keys and values, `fre.line.payload.payload` with the ``id``.
        repeated: whether the receiver may have got it before.
    """

    n: int
    values: dict[str, Any]
    repeated: bool = False

    def text(self) -> str:
        """Return the message as JSON; ``redelivered`` marks a repeated one."""
        values = {**self.values, "redelivered": True} if self.repeated else self.values
        return json.dumps(values, ensure_ascii=False)


class Journal:
    """Scored files and undelivered messages, which survive a crash at any moment.

    A message is on the disk before any receiver gets it, and stays there until all have it. Its
    id consists of the id of the journal and a number, so that no two messages share one.

    Args:
        path: SQLite file; created if missing.

    Raises:
        OutputError: the file can't be written, is no journal, or is in use.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._deliveries = 0
        self._receivers: dict[str, tuple[int, int]] = {}
        try:
            self._database = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=0.5
            )
            # Exclusive: two watchers with one journal would score every file twice.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._prepare()
        except sqlite3.Error as error:
            reason = "in use by another fre watch" if "locked" in str(error) else str(error)
            raise OutputError(
                f"{path}: can't keep the state: {reason}; name another file with --state"
            ) from error

    def _prepare(self) -> None:
        execute = self._database.execute
        older = execute("SELECT 1 FROM sqlite_master WHERE name = 'files'").fetchone()
        self._database.executescript(
            f"BEGIN; {SCHEMA} {FROM_FILES if older else ''} "
            "INSERT INTO journal SELECT '" + secrets.token_hex(4) + "' "
            "WHERE NOT EXISTS (SELECT 1 FROM journal); COMMIT;"
        )
        (self._id,) = execute("SELECT id FROM journal").fetchone()
        (self._last,) = execute("SELECT COALESCE(MAX(n), 0) FROM messages").fetchone()
        row = execute("SELECT seq FROM sqlite_sequence WHERE name = 'messages'").fetchone()
        self._last = max(self._last, row[0] if row else 0)
        # Whatever is left of a journal of before may have been printed.
        self._first = 0 if older else self._last

    def keys(self) -> set[str]:
        """Return the keys of all scored files."""
        return {key for (key,) in self._run("SELECT key FROM done")}

    def skip(self, keys: Iterable[str]) -> None:
        """Record files as scored, without a message."""
        self._transact(
            [("INSERT OR IGNORE INTO done VALUES (?)", [(key,) for key in keys])],
        )

    def record(self, messages: Sequence[tuple[str | None, dict[str, Any]]]) -> None:
        """Record messages, and their files as scored, in one transaction.

        Args:
            messages: key of the file, or ``None`` for a frame of a stream, and the message.
        """
        rows = [(json.dumps(values, ensure_ascii=False),) for _, values in messages]
        keys = [(key,) for key, _ in messages if key is not None]
        self._transact(
            [
                ("INSERT OR IGNORE INTO done VALUES (?)", keys),
                # Without a receiver nobody would ever remove them.
                ("INSERT INTO messages (body) VALUES (?)", rows if self._receivers else []),
            ]
        )

    def open_receivers(self, names: Sequence[str]) -> list[tuple[str, int]]:
        """Name the receivers of messages.

        A receiver that is new gets messages from now on.

        Args:
            names: all receivers. Messages for others are dropped.

        Returns:
            Other receivers of before, and the number of messages that they did not get.
        """
        known = {
            name: (delivered, attempted)
            for name, delivered, attempted in self._run("SELECT * FROM receivers")
        }
        start = (self._first, self._last)
        self._receivers = {name: known.get(name, start) for name in names}
        left = [
            (name, count)
            for name, (delivered, _) in known.items()
            if name not in names and (count := self._count(delivered))
        ]
        rows = [(name, *marks) for name, marks in self._receivers.items()]
        self._transact(
            [
                ("DELETE FROM receivers", [()]),
                ("INSERT INTO receivers VALUES (?, ?, ?)", rows),
            ]
        )
        self._prune()
        return left

    def pending(self, name: str, most: int) -> list[Message]:
        """Return the next messages for a receiver, oldest first.

        Args:
            name: name of the receiver.
            most: largest number of messages.
        """
        delivered, attempted = self._receivers[name]
        rows = self._run(
            "SELECT n, body FROM messages WHERE n > ? ORDER BY n LIMIT ?", delivered, most
        )
        return [
            Message(n, {"id": f"{self._id}-{n}", **json.loads(body)}, n <= attempted)
            for n, body in rows
        ]

    def count_pending(self, name: str) -> int:
        """Return the number of messages that a receiver has not got."""
        return self._count(self._receivers[name][0])

    def _count(self, delivered: int) -> int:
        ((n,),) = self._run("SELECT COUNT(*) FROM messages WHERE n > ?", delivered)
        return int(n)

    def mark(self, name: str, *, delivered: int | None = None, attempted: int) -> None:
        """Record how far a receiver is.

        Args:
            name: name of the receiver.
            delivered: number of the last message that it has; ``None`` leaves it as it is.
            attempted: number of the last message that it may have.
        """
        with self._lock:
            before = self._receivers[name][0]
            marks = (before if delivered is None else delivered, attempted)
            self._receivers[name] = marks
            self._run(
                "UPDATE receivers SET delivered = ?, attempted = ? WHERE name = ?", *marks, name
            )
            self._deliveries += marks[0] - before
            if self._deliveries >= PRUNE_EVERY:
                self._prune()

    def _prune(self) -> None:
        """Remove messages that all receivers have."""
        self._deliveries = 0
        least = min((marks[0] for marks in self._receivers.values()), default=self._last)
        self._run("DELETE FROM messages WHERE n <= ?", least)

    def _transact(self, statements: Sequence[tuple[str, Sequence[tuple[Any, ...]]]]) -> None:
        with self._lock:
            self._run("BEGIN")
            try:
                for statement, rows in statements:
                    self._database.executemany(statement, rows)
                self._run("COMMIT")
            except BaseException as error:  # an interruption, too, must leave no open transaction
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise OutputError(f"{self.path}: can't be written: {error}") from error
                raise

    def _run(self, statement: str, *values: Any) -> list[Any]:
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise OutputError(f"{self.path}: can't be written: {error}") from error

    def close(self) -> None:
        """Close the file, and release its lock."""
        with self._lock:
            self._database.close()


def default_state(folder: Path, model: Path) -> Path:
    """Return the default path of a journal: a hidden file in a folder."""
    return folder.absolute() / f".fre-watch-{model.stem}.sqlite3"
