"""Read regular files only; write files and folders atomically."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

from fre.errors import OutputError

if sys.platform != "win32":
    import fcntl


PREFIX, SUFFIX = ".fre-", ".tmp"
"""Prefix and suffix of unfinished files; short, because a name has at most 255 bytes."""

STAGE = ".fre-results"
"""Hidden folder, in a folder of results, that holds results until all are complete."""

SWAP = "swap.json"
"""File in the hidden folder that lists the names being exchanged."""

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


def _explain(path: Path, error: OSError) -> OutputError:
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
        raise _explain(path, error) from error


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
        raise _explain(path, error) from error
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
            raise _explain(path, error) from error
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
            raise _explain(path, error) from error


def _temporary(target: Path) -> tuple[int, Path]:
    """Open a new file beside another one, locked against `remove_leftovers`."""
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:8]
    while True:
        handle, name = tempfile.mkstemp(SUFFIX, f"{PREFIX}{digest}-", target.parent)
        _lock(handle)
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


def _lock(handle: int) -> bool | None:
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
                    if _lock(handle):
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


@contextmanager
def staged_folder(
    path: Path | str, *, replace: Sequence[str] = (), overwrite: bool = False
) -> Iterator[Path]:
    """Fill a folder with results that appear together, or not at all.

    The results are built in a hidden folder inside it, and then each file and folder at its top
    gets its place by one rename; so the folder may be a link or a mount point. A process that is
    killed leaves the old results, or the new ones, or, in the moment between two renames, a note
    by which the next run finishes the exchange. Old results are removed last.

    Args:
        path: the folder; it is made if it is missing.
        replace: names of earlier results. The first of them is in every folder of results.
        overwrite: whether the folder need not be empty. Earlier results are replaced, and
            everything else in it stays.

    Yields:
        A folder to be filled.

    Raises:
        OutputError: the folder is not empty, another process is writing to it, or it can't be
            written.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path}: is a file, where a folder to write was expected")
    try:
        made = _make_folders(target)
        stage, handle = _enter(path, target)
    except OSError as error:
        raise _explain(path, error) from error
    done = False
    try:
        try:
            _finish(target, stage)
            _check_replaceable(path, target, replace, overwrite)
            (stage / "new").mkdir()
        except OSError as error:
            raise _explain(path, error) from error
        yield stage / "new"
        try:
            _swap(target, stage, replace)
            done = True
        except OSError as error:
            raise _explain(path, error) from error
    finally:
        _leave(target, stage, handle)
        for folder in () if done else made:
            with suppress(OSError):  # something else is in it by now
                folder.rmdir()


def _make_folders(folder: Path) -> list[Path]:
    """Make a folder and its missing parents; return the new folders, deepest first."""
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return missing


def _enter(path: Path, target: Path) -> tuple[Path, int]:
    """Make the hidden folder, or adopt the one that a killed process left; lock it."""
    stage = target / STAGE
    busy = OutputError(
        f"{path}: another run of fre is writing there; wait for it, or give another folder"
    )
    while True:
        target.mkdir(parents=True, exist_ok=True)
        stage.mkdir(exist_ok=True)
        try:
            handle = _open_lock(stage / "lock")
        except FileNotFoundError:
            continue  # the other run has just ended
        if handle is None:
            raise busy
        if sys.platform == "win32" or os.fstat(handle).st_nlink:
            return stage, handle
        os.close(handle)


def _open_lock(file: Path) -> int | None:
    """Open and lock a file; ``None`` if another process holds it."""
    created = True
    try:
        if sys.platform == "win32":
            file.unlink(missing_ok=True)  # refused while another process has it open
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        created = False
        handle = os.open(file, os.O_RDWR)
    except PermissionError:
        if sys.platform == "win32":
            return None
        raise
    locked = _lock(handle)
    # Without locks only whoever made the file may go on.
    if locked or (locked is None and created):
        return handle
    os.close(handle)
    return None


def _check_replaceable(path: Path, target: Path, replace: Sequence[str], overwrite: bool) -> None:
    remove_leftovers(target)
    present = {entry.name for entry in target.iterdir() if entry.name != STAGE}
    if present and not overwrite:
        raise OutputError(f"{path}: is not empty; give a new folder, or --overwrite")
    earlier = [name for name in replace if name in present]
    if earlier and replace[0] not in present:
        raise OutputError(
            f"{path}: {', '.join(earlier)} in it would be replaced, but no {replace[0]} says that "
            "these are results of fre; give a new folder"
        )
    for name in earlier:
        if os.path.ismount(target / name):
            raise OutputError(f"{target / name}: is a mount point and can't be replaced")


def _swap(target: Path, stage: Path, replace: Sequence[str]) -> None:
    """Replace earlier results by new ones."""
    new = [place.name for place in (stage / "new").iterdir()]
    old = [name for name in {*replace, *new} if os.path.lexists(target / name)]
    (stage / "old").mkdir()
    write_atomic(stage / SWAP, json.dumps({"old": old, "new": new}).encode())
    try:
        _finish(target, stage)
    except OSError as error:
        _restore(target, stage, old, new)
        kept = target / f"new-results-{os.getpid()}-{time.time_ns()}"
        (stage / "new").rename(kept)
        raise OutputError(
            f"{error.filename}: can't be replaced: {error.strerror}; the earlier results are as "
            f"they were, and the new ones are in {kept}"
        ) from error


def _finish(target: Path, stage: Path) -> None:
    """Resume an exchange, wherever it was interrupted; then empty the hidden folder."""
    if (stage / SWAP).exists():
        names = json.loads((stage / SWAP).read_bytes())
        for name in [*names["old"], *names["new"]]:
            place, aside = target / name, stage / "old" / name
            waiting = name in names["old"] and not os.path.lexists(aside)
            if waiting and os.path.lexists(place):
                place.rename(aside)
            if os.path.lexists(stage / "new" / name):
                (stage / "new" / name).rename(place)
        _sync(target)
        # From here on what was put aside is not needed, and may be removed in any order.
        (stage / SWAP).unlink()
        _sync(stage)
    for name in ("new", "old"):
        if (stage / name).exists():
            shutil.rmtree(stage / name, ignore_errors=True)
    for leftover in ("new", "old"):
        if (stage / leftover).exists():
            raise OutputError(f"{stage / leftover}: holds old results that can't be removed")


def _restore(target: Path, stage: Path, old: Sequence[str], new: Sequence[str]) -> None:
    """Undo an exchange."""
    for name in new:
        if not os.path.lexists(stage / "new" / name):
            (target / name).rename(stage / "new" / name)
    for name in old:
        if os.path.lexists(stage / "old" / name):
            (stage / "old" / name).rename(target / name)
    (stage / SWAP).unlink()


def _leave(target: Path, stage: Path, handle: int) -> None:
    """Remove the hidden folder, and release its lock."""
    try:
        # An exception that came between two renames, such as Ctrl-C, must not leave half.
        with suppress(OSError, OutputError):
            _finish(target, stage)
        if sys.platform == "win32":
            os.close(handle)
            handle = -1
        if not any((stage / name).exists() for name in (SWAP, "old", "new")):
            with suppress(OSError):
                remove_leftovers(stage)
                (stage / "lock").unlink()
                stage.rmdir()
    finally:
        if handle >= 0:
            os.close(handle)


def _sync(folder: Path) -> None:
    """Flush the names in a folder to the disk."""
    with suppress(OSError):  # not on Windows
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
