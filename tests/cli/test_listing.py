"""Results of `fre predict` for a person: the table at a terminal, CSV, and the page."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from commands import FRE, fre, refused
from fre.cli.listing import ResultRow, table_lines

pty = pytest.importorskip("pty", reason="needs a pseudo-terminal, which this system lacks")


def at_terminal(*arguments: object) -> tuple[int, list[str], str]:
    """Run with stdout at a pseudo-terminal: exit code, lines of stdout, and stderr."""
    main, end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [*FRE, *map(str, arguments)],
        stdout=end,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    os.close(end)
    data = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        data += part
    assert process.stderr
    said = process.stderr.read()
    process.stderr.close()
    os.close(main)
    return process.wait(), data.decode().splitlines(), said


@pytest.fixture
def parts(dataset: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "parts"
    shutil.copytree(dataset / "test", folder)
    (folder / "good" / f"{'long' * 20}.png").write_bytes((folder / "good" / "100.png").read_bytes())
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_a_person_gets_a_table_of_80_columns(model: Path, parts: Path) -> None:
    code, lines, said = at_terminal("predict", model, parts)
    assert code == 2
    assert lines[0].split() == ["image", "score", "decision", "largest", "region,", "px"]
    assert len(lines) == 1 + 18
    assert max(map(len, lines)) <= 80
    by_name = {line.split()[0]: line for line in lines[1:]}
    piped = {
        Path(row["path"]).relative_to(parts).as_posix(): row
        for row in map(json.loads, fre("predict", model, parts).stdout.splitlines())
    }
    for name in ("scratch/103.png", "good/104.png"):
        row, words = piped[name], by_name[name].split()
        assert words[1] == f"{row['score']:.4g}"
        assert words[2] == ("anomalous" if row["anomalous"] else "good")
    x, y, width, height = max(piped["scratch/103.png"]["regions"], key=lambda r: r["area"])["bbox"]
    assert by_name["scratch/103.png"].endswith(f"  {width} x {height} at {x}, {y}")
    assert by_name["good/104.png"].endswith("  -")
    assert " unreadable " in by_name["broken.png"]
    (long,) = [line for line in lines if line.startswith("...")]
    assert "longlong.png " in long
    assert "8 of 17 images anomalous; 1 could not be read" in said


def test_the_worst_comes_first_on_demand(model: Path, parts: Path, tmp_path: Path) -> None:
    _, lines, _ = at_terminal("predict", model, parts, "--sort", "score")
    assert lines[1].startswith("broken.png")
    scores = [float(line.split()[1]) for line in lines[2:]]
    assert scores == sorted(scores, reverse=True)
    done = fre("predict", model, parts, "--sort", "score", "-o", tmp_path / "out")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert "error" in rows[0]
    assert [row["score"] for row in rows[1:]] == sorted(
        (row["score"] for row in rows[1:]), reverse=True
    )
    assert (tmp_path / "out" / "predictions.jsonl").read_text() == done.stdout


def test_lines_of_json_at_a_terminal_by_request(model: Path, dataset: Path) -> None:
    good = dataset / "test" / "good"
    code, lines, _ = at_terminal("predict", model, good, "--json", "-")
    assert code == 0
    assert lines == fre("predict", model, good).stdout.splitlines()


def test_csv_has_a_row_for_each_image(model: Path, parts: Path, tmp_path: Path) -> None:
    done = fre("predict", model, parts, "--csv", tmp_path / "s.csv")
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == [line["path"] for line in lines]
    for row, line in zip(rows, lines, strict=True):
        assert row["error"] == line.get("error", "")
        if "error" in line:
            assert row["score"] == row["anomalous"] == row["regions"] == ""
            continue
        assert float(row["score"]) == line["score"]
        assert row["anomalous"] == str(line["anomalous"])
        assert int(row["regions"]) == len(line["regions"])
        if line["regions"]:
            largest = max(line["regions"], key=lambda region: region["area"])
            box = [int(row[name]) for name in ("x", "y", "width", "height")]
            assert box == largest["bbox"]
            assert int(row["area"]) == largest["area"]
    printed = fre("predict", model, parts, "--csv", "-")
    assert printed.stdout == (tmp_path / "s.csv").read_text()
    assert "can't both go to stdout" in refused(
        "predict", model, parts, "--csv", "-", "--json", "-"
    )


def test_ray_refuses_what_it_does_not_write(model: Path, parts: Path, tmp_path: Path) -> None:
    command = ("predict", model, parts, "--engine", "ray", "-o", tmp_path / "out")
    assert "--csv is not for --engine ray" in refused(*command, "--csv", "x.csv")
    assert "--sort score is not for --engine ray" in refused(*command, "--sort", "score")


def test_the_page_shows_the_results(model: Path, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = fre("predict", model, parts, "-o", out)
    assert f"open {out / 'index.html'}" in done.stderr
    page = (out / "index.html").read_text()
    assert "<h1>8 of 17 images are anomalous</h1>" in page
    assert "Anomalous (8)" in page
    assert "Good (9)" in page
    assert page.count('class="card"') == 17
    assert "broken.png: " in page
    for link in ("overlays/scratch/100.png", "overlays/good/107.png"):
        assert f'href="{link}"' in page
        assert (out / link).exists()
    assert page.index("scratch/100") < page.index("good/107")
    assert "outline of the known defect" not in page
    again = fre("predict", model, parts / "good", "-o", out, "--overwrite")
    assert again.returncode == 0
    assert "0 of 9 images are anomalous" in (out / "index.html").read_text()
    with Image.open(out / "overlays" / "100.png") as image:
        assert image.size == (96, 96)


def test_letters_of_two_columns_and_of_none_keep_the_table_straight() -> None:
    names = ["部品" * 30 + ".png", "e\u0301" * 60, "a\x1b[31m\nb.png", "x.png"]
    values = {"score": 1.5, "x": 9000, "y": 9000, "width": 12345, "height": 12345}
    rows = [ResultRow(name, "", values, "anomalous") for name in names]
    head, *lines = table_lines(rows, 80)
    assert all("\x1b" not in line and "\n" not in line for line in lines)
    assert "a?[31m?b.png" in lines[2]
    place = head.index("score") + len("score")
    assert lines[3][place - 3 : place] == "1.5"
    assert lines[0].startswith("...")
    assert lines[0].split("  ")[0].count("部") < 16
    assert all(line.endswith("...") or len(line) <= 80 for line in lines)
