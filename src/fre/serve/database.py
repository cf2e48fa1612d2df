"""SQLite with one writer thread, and recovery of a damaged history.

The writer commits all waiting operations together and then acknowledges them. The write-ahead log
is flushed to the disk at each commit (``synchronous = FULL``). So acknowledged data survive a crash
of the process or of the machine.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from fre.errors import InternalError, OutputError


def stamp(seconds: float) -> str:
    """Return seconds since 1970 as ISO 8601 text, UTC, with milliseconds; it sorts as text."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def now() -> str:
    """Return the present time as `stamp` writes it."""
    return stamp(datetime.now(timezone.utc).timestamp())


T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]

SCHEMA_VERSION = 5

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
    reason TEXT,
    decision TEXT
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

# Layout 4 knew no review band, layout 3 no reasons. Layout 2 knew no pixel threshold either, and
# accepted infinite numbers, which compare as good.
FROM_LAYOUT_4 = """
ALTER TABLE results ADD COLUMN decision TEXT;
"""
FROM_LAYOUT_3 = f"""
{FROM_LAYOUT_4}
ALTER TABLE results ADD COLUMN reason TEXT;
"""
FROM_LAYOUT_2 = f"""
{FROM_LAYOUT_3}
ALTER TABLE results ADD COLUMN pixel_threshold REAL;
UPDATE results SET anomalous = 1 WHERE anomalous = 0
    AND (abs(score) > 1.7976931348623157e308 OR abs(threshold) > 1.7976931348623157e308);
"""


OLDER_LAYOUTS = {
    2: (FROM_LAYOUT_2, {"results.pixel_threshold", "results.reason", "results.decision"}),
    3: (FROM_LAYOUT_3, {"results.reason", "results.decision"}),
    4: (FROM_LAYOUT_4, {"results.decision"}),
}
"""Layouts that are brought up to date: the script, and the columns that it adds."""


class DamagedDatabaseError(OutputError):
    """The database file can be opened, but its content can't be used.

    Attributes:
        reason: description of the damage, without the file's name.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.reason = reason


class Database:
    """One SQLite file: a writer thread groups all writes; each thread reads by its own connection.

    Opening checks the file, so that damage is found before the first result is added.

    Args:
        path: database file; created if missing.

    Raises:
        DamagedDatabaseError: the file is no database of fre, or is damaged.
        OutputError: the file can't be opened, or has another version.
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
            # SQLite reports damage by this class; access and lock errors are subclasses.
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
        # One damaged name must not break every list that contains it.
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        return connection

    def _prepare(self) -> None:
        connection = self._writer
        # Check first: a file that can't be used must not be changed.
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
        """Run an operation in the next transaction.

        Args:
            operation: called with the connection, on the writer thread. If it raises, only its own
                changes are undone.

        Returns:
            A future with the result of the operation, set once the transaction is on the disk.
        """
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self._pending.put((operation, future))
        return future

    def write(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Run an operation in the next transaction, and wait for it."""
        return self.submit(operation).result()

    def read(self) -> sqlite3.Connection:
        """Return the read connection of the calling thread."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self.open_reader()
            self._local.connection = connection
            with self._lock:
                self._readers.append(connection)
        return connection

    def row(self, table: str, identity: int) -> sqlite3.Row | None:
        """Return the row of an id; ``None`` if there is none."""
        if identity >= 2**63:
            return None
        row: sqlite3.Row | None = (
            self.read().execute(f"SELECT * FROM {table} WHERE id = ?", (identity,)).fetchone()
        )
        return row

    def open_reader(self) -> sqlite3.Connection:
        """Open a read connection for any thread; the caller closes it."""
        connection = self._open()
        connection.execute("PRAGMA query_only = 1")
        return connection

    def close(self) -> None:
        """Commit waiting operations, and close the file."""
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
                except Exception as error:  # raised by the future
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
    """Return the columns of all tables, as ``table.column``."""
    rows = connection.execute(
        "SELECT tables.name || '.' || columns.name "
        "FROM sqlite_master AS tables, pragma_table_info(tables.name) AS columns "
        "WHERE tables.type = 'table' AND tables.name NOT LIKE 'sqlite%'"
    )
    return {name for (name,) in rows}


FILE = "results.sqlite3"
PICTURES = "pictures"
COMPANIONS = ("", "-wal", "-shm")
"""Suffixes of the files of one SQLite database."""


def open_history(data: Path) -> tuple[Database, str | None]:
    """Open the history of results in a data folder.

    A damaged, emptied or missing history is not repaired. Its files are renamed to
    ``history.damaged-TIME.sqlite``, its pictures to ``pictures.damaged-TIME``, and a new history
    begins. New ids follow the ids of old pictures, so that no id ever means two results.

    Args:
        data: data folder of the service; must exist.

    Returns:
        The database, and one sentence for people if earlier results were lost.

    Raises:
        OutputError: the history can't be opened or renamed, or has another version.
    """
    path, pictures = data / FILE, data / PICTURES
    last = max(_picture_ids(pictures), default=0)
    reason = _gone(path, last)
    if reason is None:
        try:
            database = Database(path)
        except DamagedDatabaseError as error:
            reason = error.reason
        else:
            return database, _emptied(database, data, last)
    moved = _set_aside(data, path, pictures)
    database = Database(path)
    _continue_after(database, last)
    return database, _note(path, reason, moved)


def _gone(path: Path, last: int) -> str | None:
    """Return why an undamaged history is lost; ``None`` if the history is present or new."""
    try:
        size = path.stat().st_size
    except OSError:
        left = last > 0 or path.with_name(path.name + "-wal").exists()
        return (
            "the file is missing, but pictures or a log of its results are there" if left else None
        )
    return "the file is empty (0 bytes)" if size == 0 else None


def _emptied(database: Database, data: Path, last: int) -> str | None:
    """Return a note if all stored results were deleted; rename the folder of their pictures."""
    connection = database.read()
    if connection.execute("SELECT 1 FROM results LIMIT 1").fetchone() is not None:
        return None
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'results'").fetchone()
    stored = max(last, 0 if row is None else int(row[0]))
    if stored == 0:
        return None
    moved = _set_aside(data, None, data / PICTURES) if last else []
    _continue_after(database, stored)
    reason = f"no result is left in it, although ids up to {stored} were given"
    return _note(database.path, reason, moved)


def _picture_ids(pictures: Path) -> Iterator[int]:
    """Yield the ids of results that have pictures on disk."""
    for path in pictures.glob("*/*"):
        name = path.name.partition(".")[0]
        if name.isdecimal() and name.isascii():
            yield int(name)


def _set_aside(data: Path, path: Path | None, pictures: Path) -> list[str]:
    """Rename the files of a history; return their new names."""
    stamp = "".join(letter for letter in now()[:19] if letter.isalnum())
    files = [] if path is None else [path.with_name(path.name + end) for end in COMPANIONS]
    targets = [f"history.damaged-{stamp}.sqlite{end}" for end in COMPANIONS]
    moves = [*zip(files, targets, strict=False), (pictures, f"pictures.damaged-{stamp}")]
    moved = []
    for source, name in moves:
        if not source.exists():
            continue
        try:
            # A rename would replace what an attempt in the same second has set aside.
            if (data / name).exists():
                raise OutputError(f"{data / name}: exists already; move it away")
            source.rename(data / name)
        except OSError as error:
            raise OutputError(f"{source}: can't be set aside: {error.strerror}") from error
        moved.append(name)
    return moved


def _continue_after(database: Database, last: int) -> None:
    """Let new ids follow the ids of old pictures, which browsers cache for ever."""

    def move(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM sqlite_sequence WHERE name = 'results'")
        connection.execute("INSERT INTO sqlite_sequence VALUES ('results', ?)", (last,))

    if last:
        database.write(move)


def _note(path: Path, reason: str, moved: list[str]) -> str:
    kept = f"; set aside as {', '.join(moved)}" if moved else ""
    return (
        f"the history {path.name} lost earlier results: {reason}{kept}. "
        "A new history begins; restore the file from a backup to get the results back"
    )
