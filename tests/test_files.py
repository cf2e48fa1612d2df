"""Files are read if they are regular, and appear whole or not at all."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fre.errors import OutputError
from fre.files import check_writable, open_regular, read_regular, staged_folder, write_atomic


def test_write_atomic_replaces(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_gives_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    write_atomic(tmp_path / "x", b"")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="x: can't be written: No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    for place in (tmp_path / "no" / "x", Path("/proc/x"), tmp_path):
        with pytest.raises(OutputError, match=str(place)):
            check_writable(place)
    with pytest.raises(OutputError, match="No such file"):
        write_atomic(tmp_path / "no" / "x", b"")
    check_writable(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "a" / "out"
    with staged_folder(target) as staging:
        (staging / "x").touch()
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["x"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path) -> None:
    def work() -> None:
        with staged_folder(tmp_path / "out") as staging:
            (staging / "x").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_only_replaced_when_asked(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with staged_folder(target) as staging:
        (staging / "old").touch()
    with pytest.raises(OutputError, match="not empty"), staged_folder(target):
        pass
    with staged_folder(target, overwrite=True) as staging:
        (staging / "new").touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"), staged_folder(tmp_path / "file"):
        pass


def test_read_regular_reads_a_file_and_follows_links(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"content")
    (tmp_path / "link").symlink_to("x")
    assert read_regular(tmp_path / "x") == read_regular(tmp_path / "link") == b"content"
    assert read_regular(tmp_path / "x", limit=7) == b"content"
    with open_regular(tmp_path / "x") as file:
        assert file.read(3) == b"con"


def test_only_regular_files_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        Path("zero").symlink_to("/dev/zero")
        Path("to_pipe").symlink_to("pipe")
        Path("self").symlink_to("self")
        Path("dangling").symlink_to("nowhere")
        Path("folder").mkdir()
        reasons = {
            "pipe": "a named pipe, where a regular file",
            "to_pipe": "a named pipe",
            "socket": "a socket, where",
            "zero": "a device, where",
            "/dev/null": "a device",
            "self": "Too many levels of symbolic links",
            "dangling": "No such file",
            "folder": "Is a directory",
        }
        for name, reason in reasons.items():
            with pytest.raises(OSError, match=reason):
                read_regular(name)


def test_larger_files_than_the_limit_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.truncate(5000)
    with pytest.raises(OSError, match="5,000 bytes are more than the limit of 4,999"):
        read_regular(tmp_path / "x", limit=4999)
    # The size of files in /proc is given as 0.
    with pytest.raises(OSError, match="more than the limit of 10"):
        read_regular("/proc/self/status", limit=10)
    assert read_regular("/proc/self/status").startswith(b"Name:")
