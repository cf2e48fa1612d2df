"""Lock of a watched folder: two watchers would score each image twice."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from fre.errors import OutputError

NAME = ".fre-watch.lock"


class FolderLock:
    """A locked file in a folder, with the number of the process that holds it.

    The system releases the lock when the process ends in any way, so that a file left behind by a
    crash locks nothing.

    Args:
        folder: folder to lock.
        warn: called with one line of text if the folder can't be locked, as on a read-only disk.

    Raises:
        OutputError: another process holds the lock.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.path = folder / NAME
        self._file: IO[str] | None = None
        try:
            file = self.path.open("a+", encoding="utf-8")
        except OSError as error:
            warn(f"{self.path}: can't be written: {error.strerror}; watch the folder only once")
            return
        try:
            taken = _try_lock(file)
        except OSError as error:
            file.close()
            warn(f"{self.path}: can't be locked: {error.strerror}; watch the folder only once")
            return
        if not taken:
            file.seek(0)
            holder = " ".join(file.read(200).split()) or "another process"
            file.close()
            raise OutputError(
                f"{folder}: {holder} watches it already, and two would score each image twice; "
                "stop that one, or watch another folder"
            )
        file.truncate(0)
        file.write(f"another fre watch or fre serve (process {os.getpid()})\n")
        file.flush()
        self._file = file

    def close(self) -> None:
        """Release the lock."""
        if self._file is not None:
            # Removed while it is still held, so that nobody else's lock is removed.
            with contextlib.suppress(OSError):
                self.path.unlink()
            self._file.close()
            self._file = None


def _try_lock(file: IO[str]) -> bool:
    """Lock a file; return false if another process has locked it.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            file.seek(1000)  # beyond the text, which others must be able to read
            # Type checkers know these names on Windows only.
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
