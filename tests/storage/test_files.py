"""Files are read if they are regular, and appear whole or not at all."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fre.errors import OutputError
from fre.storage.files import (
    atomic_file,
    check_writable,
    encode_text,
    open_regular,
    read_regular,
    remove_leftovers,
    write_atomic,
)


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


def test_a_link_is_followed_and_the_mode_is_kept(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    file, link = tmp_path / "real" / "m", tmp_path / "link"
    file.write_bytes(b"old")
    file.chmod(0o600)
    link.symlink_to(file)
    write_atomic(link, b"new")
    assert link.is_symlink()
    assert file.read_bytes() == b"new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "real" / "later")
    write_atomic(dangling, b"x")
    assert (tmp_path / "real" / "later").read_bytes() == b"x"
    circle = tmp_path / "circle"
    circle.symlink_to(circle)
    for write in (check_writable, lambda place: write_atomic(place, b"")):
        with pytest.raises(OutputError, match="circle: is a link to itself"):
            write(circle)
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link", "dangling", "circle"}


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_writable(pipe)
    write_atomic(pipe, b"through")
    assert os.read(reader, 99) == b"through"
    os.close(reader)
    assert list(tmp_path.iterdir()) == [pipe]
    write_atomic("/dev/null", b"gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("n" * 255), b"x")
    write_atomic(tmp_path / os.fsdecode(b"caf\xe9"), b"x")
    assert len(list(tmp_path.iterdir())) == 2


def test_leftovers_of_a_kill_are_removed_and_what_is_being_written_stays(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from fre.storage.files import atomic_file
with atomic_file(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "x"], check=False)
    (leftover,) = tmp_path.iterdir()
    own = tmp_path / ".fre-notes"
    own.write_text("not a leftover")
    with atomic_file(tmp_path / "y") as file:
        file.write(b"whole")
        assert not leftover.exists()
        remove_leftovers(tmp_path)
    assert (tmp_path / "y").read_bytes() == b"whole"
    assert sorted(tmp_path.iterdir()) == [own, tmp_path / "y"]


def test_text_with_names_that_are_not_unicode_can_be_read_again() -> None:
    name = os.fsdecode(b"caf\xe9 \xe9\x83\xa8.png")
    line = encode_text(json.dumps({"path": name}, ensure_ascii=False))
    assert line == b'{"path": "caf\\udce9 \xe9\x83\xa8.png"}'
    assert os.fsencode(json.loads(line)["path"]) == b"caf\xe9 \xe9\x83\xa8.png"


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
