"""Zip files from strangers: unpacked into a folder of ours, by names of ours, within limits."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from fre.serve.problems import Problem
from fre.serve.uploads import clean_name
from fre.storage.listing import SUFFIXES, suffix

CHUNK = 1 << 20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip file does."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def unpack(
    path: Path,
    folder: Path,
    *,
    max_bytes: int,
    max_files: int,
    first: int,
    count: Callable[[int], None],
) -> list[tuple[Path, str]]:
    """Unpack the images of a zip file.

    Names in the archive are for people to read only. Hidden files and files without the name of
    an image are left out.

    Args:
        path: the archive.
        folder: where the images go, as ``<number>``.
        max_bytes: of all images together, as they are, whatever the archive claims.
        max_files: images.
        first: number of the first.
        count: called with the number of bytes before they are written.

    Returns:
        The images and their names in the archive.

    Raises:
        Problem: the archive is damaged, encrypted, larger than allowed, or plays tricks; or what
            ``count`` raises.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _unpack(archive, folder, max_bytes, max_files, first, count)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError) as error:
        raise _refused(f"damaged: {error}") from error


def _refused(reason: str) -> Problem:
    return Problem(422, "invalid", f"the zip file can't be used: {reason}")


def _unpack(
    archive: zipfile.ZipFile,
    folder: Path,
    max_bytes: int,
    max_files: int,
    first: int,
    count: Callable[[int], None],
) -> list[tuple[Path, str]]:
    wanted = []
    for entry in archive.infolist():
        _check(entry)
        name = entry.filename.rsplit("/", 1)[-1]
        hidden = name.startswith(".") or entry.filename.startswith("__MACOSX/")
        if not entry.is_dir() and not hidden and suffix(name) in SUFFIXES:
            wanted.append(entry)
    if len(wanted) > max_files:
        raise Problem(413, "too_many", f"the zip file holds more than {max_files:,} images")
    too_large = Problem(
        413, "too_large", f"the zip file holds more than {max_bytes:,} bytes of images"
    )
    if sum(entry.file_size for entry in wanted) > max_bytes:
        raise too_large
    found, total = [], 0
    for number, entry in enumerate(wanted, start=first):
        target = folder / f"{number:06d}"
        with archive.open(entry) as source, target.open("wb") as file:
            while chunk := source.read(CHUNK):
                total += len(chunk)
                if total > max_bytes:
                    raise too_large
                count(len(chunk))
                file.write(chunk)
        found.append((target, clean_name(entry.filename)))
    return found


def _check(entry: zipfile.ZipInfo) -> None:
    shown = clean_name(entry.filename)
    # zipfile itself cuts a name at a NUL, and turns the system's separator into a slash.
    original = entry.orig_filename
    parts = original.replace("\\", "/").split("/")
    if (
        ".." in parts
        or original.startswith(("/", "\\"))
        or "\\" in original
        or "\0" in original
        or (len(parts[0]) > 1 and parts[0][1] == ":")
    ):
        raise _refused(f"an entry has a path that leads out of it: {shown}")
    if entry.flag_bits & 0x1:
        raise _refused(f"an entry is encrypted: {shown}")
    mode = entry.external_attr >> 16
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and stat.S_IFMT(mode):
        raise _refused(f"an entry is neither a file nor a folder: {shown}")
    if entry.compress_type not in METHODS:
        raise _refused(f"an entry is compressed in a way other than deflate: {shown}")
