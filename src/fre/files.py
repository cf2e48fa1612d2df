"""Read regular files only; write files whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import IO, BinaryIO

from fre.errors import OutputError

__all__ = [
    "atomic_file",
    "check_writable",
    "discard",
    "open_regular",
    "read_regular",
    "staged_folder",
    "write_atomic",
]

READ_LIMIT = 4 * 1024**3
"""Largest file in bytes that `read_regular` reads unless the caller says otherwise."""

_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path | str, limit: int = READ_LIMIT) -> BinaryIO:
    """Open a file for reading, if it is a regular file.

    A pipe blocks its reader for ever, and a device such as ``/dev/zero`` never ends. Links are
    followed. Errors are of the kind `OSError`; their ``strerror`` is a sentence for the user.

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


def _explain(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: can't be written: {error.strerror or error}")


def check_writable(path: Path | str) -> None:
    """Find out before the work, not after it, whether a file can be written.

    Raises:
        OutputError: its folder does not exist or does not let us write, or it is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, where a file to write was expected")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _explain(path, error) from error


def write_atomic(path: Path | str, data: bytes, *, parents: bool = False) -> None:
    """Write beside the file, flush to the disk, then rename over it.

    Args:
        path: the file.
        data: what will be in it.
        parents: whether to make the folders that it lies in.

    Raises:
        OutputError: the place can't be written; nothing is left behind, and a file that was
            there before is unharmed.
    """
    with atomic_file(path, parents=parents) as file:
        file.write(data)


@contextmanager
def atomic_file(path: Path | str, *, parents: bool = False) -> Iterator[IO[bytes]]:
    """The same for what is written piece by piece: a file that is there once the block ends.

    Raises:
        OutputError: as for `write_atomic`.
    """
    path = Path(path)
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise _explain(path, error) from error
    beside = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.chmod(0o666 & ~_umask())
        beside.replace(path)
    except BaseException as error:
        beside.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise _explain(path, error) from error
        raise


def discard(path: Path | str) -> None:
    """Remove a file that `atomic_file` wrote, and what it left beside it when it was killed."""
    path = Path(path)
    for file in [path, *path.parent.glob(f".{escape(path.name)}.*")]:
        file.unlink(missing_ok=True)


def _umask() -> int:
    # The umask can only be read by setting it, which other threads would notice.
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    return 0o022


@contextmanager
def staged_folder(path: Path | str, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder that appears when everything is in it, or not at all.

    Args:
        path: the folder to make; it may exist if it is empty.
        overwrite: whether to replace a folder that is not empty.

    Yields:
        A folder beside it, to be filled.

    Raises:
        OutputError: the folder is not empty, or the place can't be written.
    """
    path = Path(path).absolute()
    try:
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path}: is a file, where a folder to write was expected")
        if path.exists() and any(path.iterdir()) and not overwrite:
            raise OutputError(f"{path}: is not empty; give a new folder, or --overwrite")
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        beside.chmod(0o777 & ~_umask())
    except OSError as error:
        raise _explain(path, error) from error
    try:
        yield beside
        try:
            if path.exists():
                shutil.rmtree(path)
            beside.rename(path)
        except OSError as error:
            raise _explain(path, error) from error
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
