"""Lines of JSON and CSV files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fre.errors import OutputError
from fre.line.sinks.files import CSV_COLUMNS, CsvFile, LinesFile, Stdout
from line_peers import wait_for


def test_lines_are_appended_and_a_torn_one_is_removed(
    line: Callable[[], Any], tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    for start in (0, 3):
        one = line()
        one.open(LinesFile(path))
        one.send(*range(start, start + 3))
        assert one.close() == 0
        with path.open("a") as file:
            file.write('{"id": "torn')
    LinesFile(path).close()
    rows = [json.loads(text) for text in path.read_text().splitlines()]
    assert [row["number"] for row in rows] == list(range(6))


def test_a_reader_that_goes_loses_no_line(line: Callable[[], Any]) -> None:
    printed: list[str] = []
    gone: list[bool] = []

    def write(text: str) -> bool:
        if len(printed) == 2:
            return False
        printed.append(text)
        return True

    one = line()
    one.open(Stdout(write, lambda: gone.append(True)))
    one.send(*range(5))
    wait_for(lambda: gone)
    assert one.close(0.1) == 3
    assert one.told == []
    two = line()
    two.open(Stdout(lambda text: not printed.append(text), lambda: None))  # type: ignore[func-returns-value]
    assert two.close() == 0
    rows = [json.loads(text) for text in printed]
    assert [row["number"] for row in rows] == [0, 1, 2, 3, 4]
    assert len(printed) == 5


def test_csv(line: Callable[[], Any], tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    for start in (0, 2):
        one = line()
        one.open(CsvFile(path))
        one.send(start, start + 1, part='=1+1,"\n')
        assert one.close() == 0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(CSV_COLUMNS)
    assert [row["score"] for row in rows] == ["0.0", "0.5", "1.0", "1.5"]
    assert [row["anomalous"] for row in rows] == ["false", "true"] * 2
    assert rows[0]["part"] == "'=1+1,\"\n"
    assert len({row["id"] for row in rows}) == 4


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("date,weather\n")
    with pytest.raises(OutputError, match="other columns"):
        CsvFile(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "date,weather\n"
    (tmp_path / "a.jsonl").write_text("a diary\n")
    with pytest.raises(OutputError, match="JSON lines"):
        LinesFile(tmp_path / "a.jsonl")
    with pytest.raises(OutputError, match="can't be written"):
        LinesFile(tmp_path / "none" / "a.jsonl")
