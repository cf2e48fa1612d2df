"""Read regular files only; write files atomically."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from fre.errors import OutputError

if sys.platform != "win32":
    import fcntl


PREFIX, SUFFIX = ".fre-", ".tmp"
"""Prefix and suffix of unfinished files; short, because a name has at most 255 bytes."""

READ_LIMIT = 4 * 1024**3
"""Default for the largest file that `read_regular` reads, in bytes."""

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path | str, limit: int = READ_LIMIT) -> BinaryIO:
    """Open a file for reading, if it is a regular file.

    A pipe blocks its reader for ever, and a device such as ``/dev/zero`` never ends. Links are
    followed. The ``strerror`` of an error is a sentence for the user.

    Args:
        path: the file.
        limit: largest size of the file, in bytes.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder.
        OSError: it is a pipe, a socket or a device, a link to itself, or larger than ``limit``.
    """
    # Before it is opened, as opening a device may have effects; and after, as it may have changed.
    _check_regular(Path(path).stat(), path, limit)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags | getattr(os, "O_NOCTTY", 0))
    try:
        _check_regular(os.fstat(handle), path, limit)
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path | str, limit: int = READ_LIMIT) -> bytes:
    """Return the content of a regular file.

    Args:
        path: the file.
        limit: largest size of the file, in bytes.

    Raises:
        OSError: as for `open_regular`; or the file grows beyond ``limit`` while it is read.
    """
    with open_regular(path, limit) as file:
        # No more than there is to read: a buffer of the size of the limit would be made at once.
        size = os.fstat(file.fileno()).st_size
        data = file.read(size)
        while len(data) <= limit and (more := file.read(1 << 20)):
            data += more
    if len(data) > limit:
        raise _too_large(len(data), limit, path)
    return data


def _check_regular(status: os.stat_result, path: Path | str, limit: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        reason = f"{kind}, where a regular file was expected"
        raise OSError(errno.EINVAL, reason, str(path))
    if status.st_size > limit:
        raise _too_large(status.st_size, limit, path)


def _too_large(size: int, limit: int, path: Path | str) -> OSError:
    reason = f"{size:,} bytes are more than the limit of {limit:,}"
    return OSError(errno.EFBIG, reason, str(path))


def unwritable(path: Path, error: OSError) -> OutputError:
    """Return the error for a place that can't be written."""
    return OutputError(f"{path}: can't be written: {error.strerror or error}")


def encode_text(text: str) -> bytes:
    r"""Encode text as UTF-8; bytes of a file name that are not Unicode become ``\udcXX``.

    In JSON that is an escape, from which ``os.fsencode`` makes the byte ``XX`` of the name again.
    """
    return text.encode("utf-8", "backslashreplace")


def check_writable(path: Path | str) -> None:
    """Check before the work whether a file can be written.

    Raises:
        OutputError: its folder does not exist or does not let us write, or it is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, where a file to write was expected")
    if _special(path):
        return
    try:
        with tempfile.TemporaryFile(dir=_target(path).parent):
            pass
    except OSError as error:
        raise unwritable(path, error) from error


def write_atomic(path: Path | str, data: bytes, *, parents: bool = False) -> None:
    """Write a file atomically: to a temporary file beside it, flushed, then renamed over it.

    Args:
        path: the file. A link is followed. An existing file keeps its mode.
        data: its new content.
        parents: whether to make missing folders above it.

    Raises:
        OutputError: the place can't be written; nothing is left behind, and a file that was
            there before is unharmed.
    """
    with atomic_file(path, parents=parents) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path | str, *, parents: bool = False) -> Iterator[IO[bytes]]:
    """Write a file piece by piece; it appears, or is replaced, when the block ends.

    Args:
        path: the file, as for `write_atomic`.
        parents: whether to make missing folders above it.

    Raises:
        OutputError: as for `write_atomic`.
    """
    path = Path(path)
    if _special(path):
        with _written_at_the_end(path) as file:
            yield file
        return
    try:
        target = _target(path)
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        _tidy_once(target.parent)
        handle, beside = _temporary(target)
    except OSError as error:
        raise unwritable(path, error) from error
    lock = os.dup(handle)  # holds the lock on the file until it has its name
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _take_mode(beside, target)
        if sys.platform == "win32":
            os.close(lock)
            lock = -1
        _replace(beside, target)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise unwritable(path, error) from error
        raise
    finally:
        if lock >= 0:
            os.close(lock)


def _target(path: Path) -> Path:
    """Return the target of a link; any other path unchanged."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OutputError(f"{path}: is a link to itself")
    return target


def _special(path: Path) -> bool:
    """Return whether a path is a device, a pipe or a socket, which must not be replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextmanager
def _written_at_the_end(path: Path) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        try:
            with path.open("wb", buffering=0) as device:
                shutil.copyfileobj(file, device)
        except OSError as error:
            raise unwritable(path, error) from error


def _temporary(target: Path) -> tuple[int, Path]:
    """Open a new file beside another one, locked against `remove_leftovers`."""
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]
    while True:
        handle, name = tempfile.mkstemp(SUFFIX, f"{PREFIX}{digest}-", target.parent)
        lock_file(handle)
        if sys.platform == "win32" or os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # another process took it for a leftover before it was locked


def _take_mode(beside: Path, target: Path) -> None:
    """Give a new file the mode and, where allowed, the owner of the one it replaces."""
    # Some file systems have no modes; the file is then as private as they make it.
    with suppress(OSError):
        try:
            before = target.stat()
        except FileNotFoundError:
            beside.chmod(0o666 & ~_umask())
            return
        if sys.platform != "win32":
            new = beside.stat()
            if (new.st_uid, new.st_gid) != (before.st_uid, before.st_gid):
                with suppress(OSError):
                    os.chown(beside, before.st_uid, before.st_gid)
        beside.chmod(stat.S_IMODE(before.st_mode))


def _replace(beside: Path, target: Path) -> None:
    try:
        beside.replace(target)
    except OSError:
        # A file that is mounted by itself, as into a container, can only be written in place.
        if not target.exists() or not os.path.ismount(target):
            raise
        shutil.copyfile(beside, target)
        beside.unlink()


def lock_file(handle: int) -> bool | None:
    """Lock an open file; return false if another process has locked it, ``None`` without locks."""
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not on this file system
        return None
    return True


_tidied: set[Path] = set()


def _tidy_once(folder: Path) -> None:
    """Remove leftovers when this process first writes into a folder."""
    if folder not in _tidied:
        if len(_tidied) > 10_000:
            _tidied.clear()
        _tidied.add(folder)
        remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove unfinished files that processes left in a folder when they were killed.

    A file that is still being written is locked, and stays.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if not name.startswith(PREFIX) or not name.endswith(SUFFIX):
                continue
            with suppress(OSError):
                if not entry.is_file(follow_symlinks=False):
                    continue
                handle = os.open(entry.path, os.O_RDWR)
                try:
                    # Without locks Windows refuses to remove a file that is open elsewhere.
                    if lock_file(handle):
                        Path(entry.path).unlink()
                finally:
                    os.close(handle)
                if sys.platform == "win32":
                    Path(entry.path).unlink()


def discard(path: Path | str) -> None:
    """Remove a file of `atomic_file`, and unfinished files of killed processes beside it."""
    Path(path).unlink(missing_ok=True)
    remove_leftovers(Path(path).parent)


def _umask() -> int:
    # The umask can only be read by setting it, which other threads would notice.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022
