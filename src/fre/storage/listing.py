"""List image files fast and in natural order, without opening any of them."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

from fre.errors import DatasetError, FREWarning

SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".bmp",
    ".tif",
    ".tiff",
    ".webp",
    ".ppm",
    ".pgm",
    ".pnm",
)
"""Suffixes of image files, in upper or lower case."""

_OTHER = (
    ".3fr .ai .apng .arw .avi .avif .bif .btf .cr2 .cr3 .cur .czi .dcm .dcr .dds .dib .dicom .dng"
    " .emf .eps .exr .fit .fits .fts .gif .hdr .heic .heics .heif .heifs .hif .icns .ico .iiq .j2c"
    " .j2k .jls .jng .jp2 .jpc .jpf .jpm .jps .jpx .jxl .jxr .kdc .lif .lsm .m4v .mkv .mng .mov"
    " .mp4 .mpeg .mpg .mpo .mrw .mrxs .nd2 .ndpi .nef .npy .npz .nrrd .nrw .orf .pam .pbm .pcx"
    " .pdf .pef .pfm .pic .pict .pjp .pjpeg .png8 .ps .psb .psd .ptx .qoi .raf .ras .raw .rgb"
    " .rgba .rw2 .rwl .scn .sgi .sr2 .srf .srw .sun .svg .svs .targa .tga .vms .vsi .wbmp .wdp"
    " .webm .wmf .wmv .x3f .xbm .xcf .xpm"
)
OTHER_SUFFIXES = frozenset(_OTHER.split())
"""Suffixes of images and films that fre does not read."""

RESULTS = ("predictions.jsonl", "overlays", "maps", "masks", "index.html")
"""Names of the files and the folders that ``fre predict -o`` writes."""

_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts ``img2`` before ``img10``, and ignores case."""
    parts: list[str | int] = list(_DIGITS.split(name.casefold()))
    # Every second part is a run of digits, so strings are never compared with integers.
    parts[1::2] = [int(part) for part in parts[1::2]]
    return parts, name


def list_folder(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the image files and the subfolders directly in ``folder``, each in natural order.

    Hidden files are left out: macOS leaves a ``._name.png`` beside each image it copies.

    Raises:
        DatasetError: the folder can't be listed.
    """
    files, folders = _scan(folder)
    return _sorted(folder, [name for name in files if suffix(name) in SUFFIXES]), folders


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in ``folder``; none if it does not exist."""
    return _scan(folder)[1] if folder.is_dir() else []


def images_in(folder: Path) -> list[Path]:
    """Return the images directly in ``folder``; none if it does not exist."""
    return list_folder(folder)[0] if folder.is_dir() else []


def find_images(folder: Path) -> list[Path]:
    """Return every image in ``folder`` and below it: its own files first, then its subfolders'."""
    return [*iter_images(folder)]


def iter_images(folder: Path) -> Iterator[Path]:
    """Yield what `find_images` returns, listing no more than one folder ahead."""
    for current, files in _walk(folder):
        yield from _sorted(current, [name for name in files if suffix(name) in SUFFIXES])


def left_out(root: Path | str) -> dict[str, int]:
    """Count the files of a folder, at any depth, that look like images and are not read.

    Args:
        root: a folder; a file or nothing has an empty count.

    Returns:
        Number of files by suffix, such as ``{".gif": 5, ".heic": 5}``, sorted by suffix.

    Raises:
        DatasetError: a folder can't be listed.
    """
    counts: dict[str, int] = {}
    for _, files in _walk(Path(root)) if Path(root).is_dir() else ():
        for name in files:
            if (end := suffix(name)) in OTHER_SUFFIXES:
                counts[end] = counts.get(end, 0) + 1
    return dict(sorted(counts.items()))


def left_out_note(counts: Mapping[str, int]) -> str | None:
    """Return the counts of `left_out` in one line; ``None`` if there are none."""
    if not counts:
        return None
    total = sum(counts.values())
    kinds = ", ".join(f"{number} {end}" for end, number in counts.items())
    files = "1 file" if total == 1 else f"{total} files"
    return f"{files} left out: {kinds}; fre reads {', '.join(SUFFIXES)}"


def suffix(name: str) -> str:
    """Return the lower-case suffix of a file name, with its dot."""
    stem, dot, end = name.rpartition(".")
    return f".{end.lower()}" if dot and stem else ""


def relative(path: Path, root: Path) -> str:
    """Return ``path`` relative to ``root``, with forward slashes; unchanged if it is elsewhere."""
    # pathlib.relative_to costs seconds over 100,000 paths.
    text, prefix = str(path), str(root) + os.sep
    text = text[len(prefix) :] if text.startswith(prefix) else text
    return text.replace(os.sep, "/")


def image_key(path: Path, root: Path) -> str:
    """Return the key that an image shares with its mask: the path below ``root``, no suffix."""
    text = relative(path, root)
    stem, _, end = text.rpartition(".")
    # A list may name files that have no suffix.
    return stem if stem and "/" not in end else text


def folder_name(folder: Path) -> str:
    """Return the name of a folder, also for ``.`` and ``..``."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield each folder, ``root`` first, and the names of its files."""
    visited: set[str] = set()
    waiting = [root]
    while waiting:
        current = waiting.pop()
        # A link to a folder above would otherwise be followed for ever.
        real = os.path.realpath(current)
        if real in visited:
            continue
        visited.add(real)
        try:
            files, folders = _scan(current)
        except DatasetError as error:
            if current != root and isinstance(error.__cause__, FileNotFoundError):
                continue  # somebody removed it since its parent was listed
            raise
        yield current, files
        waiting.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link to itself: reading it will say what is wrong
        return False


def _scan(folder: Path) -> tuple[list[str], list[Path]]:
    files: list[str] = []
    folders: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(".") or name == "__MACOSX":
                    continue
                (folders if _is_folder(entry) else files).append(name)
    except OSError as error:
        raise DatasetError(f"{folder}: expected a folder, but {error.strerror}") from error
    if RESULTS[0] in files and RESULTS[1] in folders:
        # Overlays of earlier results are pictures of fre's own, not of parts.
        left_out = [name for name in folders if name in RESULTS]
        folders = [name for name in folders if name not in RESULTS]
        warnings.warn(
            f"{folder}: holds results of fre predict; {', '.join(sorted(left_out))} in it are not "
            "taken for images",
            FREWarning,
            stacklevel=2,
        )
    return files, _sorted(folder, folders)


def _sorted(folder: Path, names: list[str]) -> list[Path]:
    return [folder / name for name in sorted(names, key=natural_key)]
