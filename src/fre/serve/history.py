"""Open the history of results; set a damaged one aside instead of losing it without a word."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from fre.errors import OutputError
from fre.serve.clock import now
from fre.serve.database import DamagedDatabaseError, Database

FILE = "results.sqlite3"
PICTURES = "pictures"
COMPANIONS = ("", "-wal", "-shm")
"""Suffixes of the files that make up one SQLite database."""


def open_history(data: Path) -> tuple[Database, str | None]:
    """Open the history in a data folder, and say what is wrong with it.

    A damaged, emptied or missing history is not repaired: its files are set aside as
    ``history.damaged-TIME.sqlite``, its pictures as ``pictures.damaged-TIME``, and a new history
    begins. Its ids follow those of the old pictures, so that no id ever means two results.

    Args:
        data: data folder of the service; exists.

    Returns:
        The database, and one sentence for people if earlier results are not in it.

    Raises:
        OutputError: the history can't be opened, is of another version, or can't be set aside.
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
    """Why the history is lost although nothing is damaged; ``None`` if it is there or is new."""
    try:
        size = path.stat().st_size
    except OSError:
        left = last > 0 or path.with_name(path.name + "-wal").exists()
        return (
            "the file is missing, but pictures or a log of its results are there" if left else None
        )
    return "the file is empty (0 bytes)" if size == 0 else None


def _emptied(database: Database, data: Path, last: int) -> str | None:
    """A note if results were stored once and none is left; their pictures are set aside."""
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
    """Ids of the results whose pictures are on the disk."""
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
    """Let the ids of new results follow those of old pictures, which browsers keep for ever."""

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
