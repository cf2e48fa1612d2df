"""The database by itself: transactions, and files that are no database of fre."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from fre.errors import OutputError
from fre.serve.database import Database


def test_a_failed_operation_undoes_itself_and_not_its_neighbours(tmp_path: Path) -> None:
    database = Database(tmp_path / "results.sqlite3")

    def bad(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO unreadable VALUES ('bad', 'x')")
        raise ZeroDivisionError

    def row(key: str) -> None:
        database.write(
            lambda connection: connection.execute("INSERT INTO unreadable VALUES (?, 'x')", (key,))
        )

    failing = [database.submit(bad) for _ in range(5)]
    fine = [database.submit(lambda _: 7) for _ in range(5)]
    row("kept")
    assert [future.result() for future in fine] == [7] * 5
    for future in failing:
        with pytest.raises(ZeroDivisionError):
            future.result()
    found = database.read().execute("SELECT watch_key FROM unreadable").fetchall()
    assert [key for (key,) in found] == ["kept"]
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.read().execute("DELETE FROM unreadable")
    database.close()
    again = Database(tmp_path / "results.sqlite3")
    assert again.read().execute("SELECT COUNT(*) FROM unreadable").fetchone()[0] == 1
    again.close()


def test_a_database_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a database, by far" * 100)
    with pytest.raises(OutputError, match="not a database"):
        Database(tmp_path / "text")
    connection = sqlite3.connect(tmp_path / "newer")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OutputError, match="another version"):
        Database(tmp_path / "newer")
