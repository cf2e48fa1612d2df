"""Uploads for trainings: written to a folder of their own, and unpacked within limits."""

from __future__ import annotations

import shutil
import stat
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from fre.errors import ImageError
from fre.images.decode import probe
from fre.serve.bodies import clean_name
from fre.serve.responses import Problem, invalid
from fre.serve.settings import Limits
from fre.storage.files import read_regular
from fre.storage.listing import SUFFIXES, suffix

CHUNK = 1 << 20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError)
"""Errors of `zipfile` for damaged archives."""


class DiskBudget:
    """Disk space of all uploads for trainings that arrive, wait or run.

    Args:
        limit: number of bytes.
        make_room: deletes files that are no longer needed; returns whether there were any.
    """

    def __init__(self, limit: int, make_room: Callable[[], bool] = lambda: False) -> None:
        self.limit = limit
        self.make_room = make_room
        self.used = 0
        self._lock = threading.Lock()

    def take(self, n: int) -> None:
        """Count bytes before they are written.

        Raises:
            Problem: the limit would be exceeded.
        """
        while not self._taken(n):
            if not self.make_room():
                raise Problem(
                    507,
                    "disk_full",
                    f"uploads for trainings may take {self.limit:,} bytes of disk together, packed "
                    f"and unpacked, and {self.used:,} are taken; wait until a training has ended, "
                    "or restart the service with a larger --max-train-disk",
                    retry_after=30,
                )

    def _taken(self, n: int) -> bool:
        with self._lock:
            if self.used + n > self.limit:
                return False
            self.used += n
            return True

    def give_back(self, n: int) -> None:
        """Count deleted bytes."""
        with self._lock:
            self.used -= n


class FileSink:
    """A file of an upload on disk.

    Args:
        path: file to write.
        count: called with a number of bytes before they are written.
    """

    def __init__(self, path: Path, count: Callable[[int], None]) -> None:
        self.path = path
        self.count = count
        self._file: BinaryIO | None = path.open("wb")

    def write(self, data: bytes) -> None:
        """Write a piece.

        Raises:
            Problem: the disk budget is exhausted.
        """
        assert self._file is not None
        self.count(len(data))
        self._file.write(data)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass
class Staging:
    """A folder for the files of one upload.

    Attributes:
        folder: folder that belongs to this upload alone.
        budget: disk space that all uploads share.
        files: path and client's name of each uploaded file.
        taken: number of bytes of the budget that this upload uses.
    """

    folder: Path
    budget: DiskBudget
    files: list[tuple[Path, str]] = field(default_factory=list)
    taken: int = 0

    @classmethod
    def make(cls, parent: Path, budget: DiskBudget) -> Staging:
        """Make a new folder in ``parent``."""
        parent.mkdir(parents=True, exist_ok=True)
        return cls(Path(tempfile.mkdtemp(dir=parent, prefix="upload-")), budget)

    def count(self, n: int) -> None:
        """Count bytes before they are written to the folder.

        Raises:
            Problem: the disk budget is exhausted.
        """
        self.budget.take(n)
        self.taken += n

    def _discount(self, n: int) -> None:
        self.budget.give_back(n)
        self.taken -= n

    def sink(self, name: str) -> FileSink:
        """Open the next file."""
        path = self.folder / f"upload-{len(self.files):06d}"
        self.files.append((path, name))
        return FileSink(path, self.count)

    def remove(self) -> None:
        """Delete the folder, and give its bytes back."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._discount(self.taken)

    def unpack(self, limits: Limits) -> list[tuple[Path, str]]:
        """Return path and name of each image; zip files are unpacked.

        Raises:
            Problem: a zip file is not acceptable, there are too many images, or the disk budget is
                exhausted.
        """
        images: list[tuple[Path, str]] = []
        room = limits.max_train_bytes
        for path, name in self.files:
            if not is_zip(path):
                images.append((path, name))
                continue
            try:
                with zipfile.ZipFile(path) as archive:
                    found = self._unpack(archive, room, limits.max_train_images, len(images))
            except DAMAGE as error:
                raise _refused(f"damaged: {error}") from error
            room -= sum(image.stat().st_size for image, _ in found)
            packed = path.stat().st_size
            path.unlink()
            self._discount(packed)
            images += found
        if len(images) > limits.max_train_images:
            raise Problem(
                413, "too_many", f"more than {limits.max_train_images:,} images in one request"
            )
        return images

    def _unpack(
        self, archive: zipfile.ZipFile, max_bytes: int, max_images: int, first: int
    ) -> list[tuple[Path, str]]:
        """Unpack the images of a zip file as ``<number>``, from ``first`` on.

        Names in the archive are for people to read only. Hidden files and files without an image
        suffix are left out. ``max_bytes`` holds whatever sizes the archive declares.
        """
        wanted = [entry for entry in archive.infolist() if _is_image(entry)]
        if len(wanted) > max_images - first:
            raise Problem(
                413, "too_many", f"the zip file holds more than {max_images - first:,} images"
            )
        too_large = Problem(
            413, "too_large", f"the zip file holds more than {max_bytes:,} bytes of images"
        )
        if sum(entry.file_size for entry in wanted) > max_bytes:
            raise too_large
        found, total = [], 0
        for number, entry in enumerate(wanted, start=first):
            target = self.folder / f"{number:06d}"
            with archive.open(entry) as source, target.open("wb") as file:
                while chunk := source.read(CHUNK):
                    total += len(chunk)
                    if total > max_bytes:
                        raise too_large
                    self.count(len(chunk))
                    file.write(chunk)
            found.append((target, clean_name(entry.filename)))
        return found


def usable_images(
    images: Sequence[tuple[Path, str]],
) -> tuple[list[tuple[Path, str]], list[dict[str, str]]]:
    """Return the images with an acceptable header, and name and error of each other file.

    Args:
        images: path and name of each file.
    """
    usable, refused = [], []
    for path, name in images:
        try:
            probe(read_regular(path), name=name)
            usable.append((path, name))
        except ImageError as error:
            refused.append({"name": name, "error": error.reason})
    return usable, refused


def is_zip(path: Path) -> bool:
    """Return whether a file begins like a zip file."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


def _refused(reason: str) -> Problem:
    return invalid(f"the zip file can't be used: {reason}")


def _is_image(entry: zipfile.ZipInfo) -> bool:
    """Return whether an entry is an image to unpack.

    Raises:
        Problem: the entry is malicious, encrypted or compressed in an unknown way.
    """
    _check(entry)
    name = entry.filename.rsplit("/", 1)[-1]
    hidden = name.startswith(".") or entry.filename.startswith("__MACOSX/")
    return not entry.is_dir() and not hidden and suffix(name) in SUFFIXES


def _check(entry: zipfile.ZipInfo) -> None:
    shown = clean_name(entry.filename)
    # zipfile cuts a name at a NUL, and replaces the system's separator by a slash.
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
