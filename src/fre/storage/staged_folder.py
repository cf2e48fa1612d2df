"""Fill a folder with results that appear together, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fre.errors import OutputError
from fre.storage.files import lock_file, remove_leftovers, unwritable, write_atomic

STAGE = ".fre-results"
"""Hidden folder, in a folder of results, that holds results until all are complete."""

SWAP = "swap.json"
"""File in the hidden folder that lists the names being exchanged."""


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
        raise unwritable(path, error) from error
    done = False
    try:
        try:
            _finish(target, stage)
            _check_replaceable(path, target, replace, overwrite)
            (stage / "new").mkdir()
        except OSError as error:
            raise unwritable(path, error) from error
        yield stage / "new"
        try:
            _swap(target, stage, replace)
            done = True
        except OSError as error:
            raise unwritable(path, error) from error
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
    locked = lock_file(handle)
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
