"""SQLite with one writer: whatever waits is committed together, and acknowledged afterwards.

The journal is a write-ahead log that is flushed to the disk at every commit (``synchronous =
FULL``), so that what was acknowledged is there after a crash of the process or of the machine.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from fre.errors import InternalError, OutputError

__all__ = ["Database"]

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

SCHEMA_VERSION = 2

SCHEMA = """
CREATE TABLE results (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    model TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    calibration_sha256 TEXT NOT NULL,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    image_sha256 TEXT NOT NULL,
    height INTEGER NOT NULL,
    width INTEGER NOT NULL,
    score REAL NOT NULL,
    p_value REAL NOT NULL,
    anomalous INTEGER NOT NULL,
    threshold REAL NOT NULL,
    regions TEXT NOT NULL,
    created TEXT NOT NULL,
    verdict TEXT,
    verdict_at TEXT,
    learnt_at TEXT,
    form TEXT NOT NULL,
    map_low REAL NOT NULL,
    map_high REAL NOT NULL,
    kept_bytes INTEGER NOT NULL,
    watch_key TEXT UNIQUE
);
CREATE INDEX results_model ON results (model, id);
CREATE INDEX results_score ON results (model, score);
CREATE INDEX results_created ON results (model, created);
CREATE INDEX results_kept ON results (id) WHERE kept_bytes > 0;
CREATE INDEX results_verdict ON results (verdict) WHERE verdict IS NOT NULL;
CREATE TABLE unreadable (watch_key TEXT PRIMARY KEY, error TEXT NOT NULL);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    model TEXT NOT NULL,
    state TEXT NOT NULL,
    created TEXT NOT NULL,
    started TEXT,
    finished TEXT,
    error TEXT,
    result TEXT
);
"""


class Database:
    """One SQLite file: writes in groups on a thread of its own, reads on the caller's.

    Args:
        path: the file; it is made if it is missing.

    Raises:
        OutputError: the file can't be opened, is damaged, or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._pending: queue.SimpleQueue[tuple[Operation, Future[Any]] | None] = queue.SimpleQueue()
        try:
            self._writer = self._open()
            self._prepare()
        except sqlite3.Error as error:
            raise OutputError(f"{path}: can't be used as the database: {error}") from error
        self._thread = threading.Thread(target=self._write, name="fre-database", daemon=True)
        self._thread.start()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=30
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _prepare(self) -> None:
        connection = self._writer
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.executescript(
                f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        elif version != SCHEMA_VERSION:
            raise OutputError(
                f"{self.path}: written by another version of fre (layout {version}, expected "
                f"{SCHEMA_VERSION}); give another folder with --data"
            )

    def submit(self, operation: Callable[[sqlite3.Connection], T]) -> Future[T]:
        """Do something in the next transaction.

        Args:
            operation: gets the connection, on the thread of the writer; if it raises, only what
                it did itself is undone.

        Returns:
            Its result, once it is committed and on the disk.
        """
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self._pending.put((operation, future))
        return future

    def write(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """`submit`, and wait."""
        return self.submit(operation).result()

    def read(self) -> sqlite3.Connection:
        """A connection of the calling thread, for reading."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._open()
            connection.execute("PRAGMA query_only = 1")
            self._local.connection = connection
            with self._lock:
                self._readers.append(connection)
        return connection

    def close(self) -> None:
        """Commit what waits, and close the file."""
        self._pending.put(None)
        self._thread.join()
        with self._lock:
            for connection in self._readers:
                connection.close()
        self._writer.close()

    def _write(self) -> None:
        while True:
            group, last = self._next_group()
            if group:
                self._commit(group)
            if last:
                return

    def _next_group(self) -> tuple[list[tuple[Operation, Future[Any]]], bool]:
        group: list[tuple[Operation, Future[Any]]] = []
        item = self._pending.get()
        while item is not None:
            group.append(item)
            try:
                item = self._pending.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit(self, group: list[tuple[Operation, Future[Any]]]) -> None:
        connection = self._writer
        outcomes: list[tuple[Future[Any], Any, Exception | None]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for operation, future in group:
                connection.execute("SAVEPOINT operation")
                try:
                    outcomes.append((future, operation(connection), None))
                except Exception as error:  # goes to whoever waits for the result
                    connection.execute("ROLLBACK TO operation")
                    outcomes.append((future, None, error))
                connection.execute("RELEASE operation")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            failure = InternalError(f"{self.path}: can't be written: {error}")
            outcomes = [(future, None, failure) for _, future in group]
        for future, result, problem in outcomes:
            if problem is None:
                future.set_result(result)
            else:
                future.set_exception(problem)
