"""What starts an inspection."""

from __future__ import annotations

import io
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fre.errors import OptionError
from fre.line.trigger import open_trigger
from line_peers import free_port, wait_for


def opened(text: str) -> tuple[Any, list[str], list[bool]]:
    got: list[str] = []
    ended: list[bool] = []
    trigger = open_trigger(text, got.append, lambda: ended.append(True))
    trigger.start()
    return trigger, got, ended


def test_lines_on_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = io.BytesIO(b"A-1\n\n\xff\t2\n" + b"x" * 1000)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=lines))
    trigger, got, ended = opened("stdin")
    wait_for(lambda: ended)
    assert got == ["A-1", "", "\ufffd 2", "x" * 200]
    trigger.close()


def test_a_file_that_appears(tmp_path: Path) -> None:
    trigger, got, _ = opened(f"file:{tmp_path}/go")
    for part in ("A-1", "A-2"):
        (tmp_path / "part").write_text(part)
        (tmp_path / "part").rename(tmp_path / "go")
        wait_for(lambda: not (tmp_path / "go").exists())
    wait_for(lambda: len(got) == 2)
    trigger.close()
    assert got == ["A-1", "A-2"]
    assert list(tmp_path.iterdir()) == []


def test_a_request() -> None:
    port = free_port()
    trigger, got, _ = opened(f"http://127.0.0.1:{port}")

    def post(path: str) -> int:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", b"", method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)

    assert post("/trigger?part=A%201") == 202
    assert post("/trigger") == 202
    with pytest.raises(urllib.error.HTTPError, match="404"):
        post("/other")
    with pytest.raises(OptionError, match="can't listen"):
        open_trigger(f"http://127.0.0.1:{port}", got.append, lambda: None)
    trigger.close()
    assert got == ["A 1", ""]


def test_mistakes(tmp_path: Path) -> None:
    for text in ("button", "http://", "https://127.0.0.1:1", "file:", "http://127.0.0.1:1/path"):
        with pytest.raises(OptionError, match="--trigger: expected stdin, file:PATH or http"):
            open_trigger(text, print, lambda: None)
    with pytest.raises(OptionError, match="expected a folder"):
        open_trigger(f"file:{tmp_path}/none/go", print, lambda: None)
