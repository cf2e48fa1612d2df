"""Write files whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import IO

from fre.errors import OutputError

__all__ = ["atomic_file", "check_writable", "discard", "staged_folder", "write_atomic"]


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
