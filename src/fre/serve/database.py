"""SQLite with one writer: whatever waits is committed together, and acknowledged afterwards.

The journal is a write-ahead log that is flushed to the disk at every commit (``synchronous =
FULL``), so that what was acknowledged is there after a crash of the process or of the machine.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from fre.errors import InternalError, OutputError

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

SCHEMA_VERSION = 4

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
    watch_key TEXT UNIQUE,
    pixel_threshold REAL,
    reason TEXT
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

# Layout 3 kept no reasons. Layout 2 knew no pixel threshold either, and accepted infinite numbers,
# which compare as good.
FROM_LAYOUT_3 = """
ALTER TABLE results ADD COLUMN reason TEXT;
"""
FROM_LAYOUT_2 = f"""
{FROM_LAYOUT_3}
ALTER TABLE results ADD COLUMN pixel_threshold REAL;
UPDATE results SET anomalous = 1 WHERE anomalous = 0
    AND (abs(score) > 1.7976931348623157e308 OR abs(threshold) > 1.7976931348623157e308);
"""


OLDER_LAYOUTS = {
    2: (FROM_LAYOUT_2, {"results.pixel_threshold", "results.reason"}),
    3: (FROM_LAYOUT_3, {"results.reason"}),
}
"""Layouts that are brought up to date: the script, and the columns that it adds."""


class DamagedDatabaseError(OutputError):
    """A database file whose content can't be used, as opposed to one that can't be opened.

    Attributes:
        reason: what is wrong with the file, without its name.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


class Database:
    """One SQLite file: writes in groups on a thread of its own, reads on the caller's.

    The file is checked as it is opened, so that damage is found before the first result is added.

    Args:
        path: the file; it is made if it is missing.

    Raises:
        DamagedDatabaseError: the file is no database of fre, or is damaged.
        OutputError: the file can't be opened, or is of another version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._readers: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._pending: queue.SimpleQueue[tuple[Operation, Future[Any]] | None] = queue.SimpleQueue()
        try:
            self._writer = self._open()
        except sqlite3.Error as error:
            raise _unusable(path, error) from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._writer.close()
            # SQLite's word for damage; what the system refuses (access, locks) is a subclass.
            if type(error) is sqlite3.DatabaseError:
                raise DamagedDatabaseError(path, str(error)) from error
            raise _unusable(path, error) from error
        except OutputError:
            self._writer.close()
            raise
        self._thread = threading.Thread(target=self._write, name="fre-database", daemon=True)
        self._thread.start()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=30
        )
        connection.row_factory = sqlite3.Row
        # One damaged name must not break every list that holds it.
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        return connection

    def _prepare(self) -> None:
        connection = self._writer
        # First of all: a file that can't be used is left exactly as it is.
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise DamagedDatabaseError(self.path, " ".join(str(found).split()))
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        present = _columns(connection)
        with contextlib.closing(sqlite3.connect(":memory:")) as empty:
            empty.executescript(SCHEMA)
            wanted = _columns(empty)
        if version not in (0, SCHEMA_VERSION, *OLDER_LAYOUTS):
            raise OutputError(
                f"{self.path}: written by another version of fre (layout {version}, expected "
                f"{SCHEMA_VERSION}); give another folder with --data"
            )
        script, added = OLDER_LAYOUTS.get(version, ("", set()))
        missing = sorted(wanted - added - present)
        if missing and present:
            raise DamagedDatabaseError(self.path, f"it lacks {', '.join(missing[:3])}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if script:
            self._change(script)
        elif version == 0:
            self._change("" if present else SCHEMA)

    def _change(self, script: str) -> None:
        self._writer.executescript(
            f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
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
            connection = self.open_reader()
            self._local.connection = connection
            with self._lock:
                self._readers.append(connection)
        return connection

    def open_reader(self) -> sqlite3.Connection:
        """Open a connection for reading on any thread; the caller closes it."""
        connection = self._open()
        connection.execute("PRAGMA query_only = 1")
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


def _unusable(path: Path, error: sqlite3.Error) -> OutputError:
    return OutputError(f"{path}: can't be used as the database: {error}")


def _columns(connection: sqlite3.Connection) -> set[str]:
    """The columns of all tables, as ``table.column``."""
    rows = connection.execute(
        "SELECT tables.name || '.' || columns.name "
        "FROM sqlite_master AS tables, pragma_table_info(tables.name) AS columns "
        "WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite%'"
    )
    return {name for (name,) in rows}
