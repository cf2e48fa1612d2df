"""Two watchers of one folder refuse each other; a crash locks nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fre.errors import OutputError
from fre.line.lock import NAME, FolderLock

HOLD = """
import sys, time
from pathlib import Path
from fre.line.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), print)
print("held", flush=True)
time.sleep(60)
"""


def test_two_watchers_refuse_each_other(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(OutputError, match=rf"\(process {process.pid}\) watches it already"):
        FolderLock(tmp_path, print)
    process.kill()
    process.wait()
    process.stdout.close()
    assert (tmp_path / NAME).exists()  # left behind, and no lock any more
    lock = FolderLock(tmp_path, print)
    assert f"process {os.getpid()}" in (tmp_path / NAME).read_text()
    with pytest.raises(OutputError, match="watches it already"):
        FolderLock(tmp_path, print)
    lock.close()
    assert not (tmp_path / NAME).exists()
    FolderLock(tmp_path, print).close()


def test_a_folder_that_can_not_be_locked_is_said(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / NAME).mkdir()
    FolderLock(tmp_path, told.append).close()
    assert told == [
        f"{tmp_path / NAME}: can't be written: Is a directory; watch the folder only once"
    ]
