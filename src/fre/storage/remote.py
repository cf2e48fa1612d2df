"""Local files, and files of object stores and web servers by URL, through fsspec."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fre.errors import DatasetError, ImageError, MissingDependencyError, OptionError, OutputError
from fre.storage.files import remove_leftovers, write_atomic
from fre.storage.listing import SUFFIXES, iter_images, suffix

Location = Path | str
"""A local file or folder as a path, or a remote one as a URL."""

TRIES = 3
"""Number of tries before a URL counts as unreachable."""

PAUSE = 0.5
"""Seconds before the second try; each further pause is twice as long."""

LISTS = (".txt", ".list")
"""Suffixes of lists of images."""

STREAMS = ("rtsp", "rtsps", "rtmp", "rtp", "udp", "tcp", "mms", "srt", "onvif")

_COLLAPSED = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.IGNORECASE | re.DOTALL)
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class FetchError(ImageError):
    """An image that can't be fetched from its store, though it may exist."""


def is_url(source: object) -> bool:
    """Return whether a location is a string such as ``s3://bucket/a.png``."""
    return isinstance(source, str) and _URL.match(source) is not None


def locate(source: str) -> Location:
    """Return a path for a local file, ``file://`` included; a URL unchanged."""
    if not is_url(source):
        return Path(source)
    if source.lower().startswith("file://"):
        # Takes a tenth of the imports of a prediction.
        from urllib.parse import urlsplit
        from urllib.request import url2pathname

        return Path(url2pathname(urlsplit(source).path))
    return source


def check_local(source: str) -> None:
    """Refuse a URL where a local file or folder is expected.

    Args:
        source: as it was given, or as `pathlib` has made it, which leaves one slash of two.

    Raises:
        DatasetError: it is a URL.
    """
    if (found := _COLLAPSED.match(source)) is None or Path(source).exists():
        return
    kind = found[1].lower()
    if kind in STREAMS:
        what = "fre reads no streams: save its images as files, and give their folder"
    else:
        what = (
            "a URL, where a file or folder of this machine is expected: download it first, or "
            "predict with --engine ray, which reads URLs of stores and web servers"
        )
    raise DatasetError(f"{found[1]}://{found[2]}: {what}")


def _open(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it."""
    if importlib.util.find_spec("fsspec") is None:
        raise MissingDependencyError(f"reading {url}", "ray")
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        if url.partition(":")[0].lower() in STREAMS:
            check_local(url)
        raise OptionError(f"{url}: {error}") from error
    return system, path


def fetch(url: str) -> bytes:
    """Return the content of a URL.

    Raises:
        FileNotFoundError: the URL has no content.
        FetchError: the content can't be fetched, after three tries.
    """
    system, path = _open(url)
    try:
        data: bytes = _patiently(lambda: system.cat_file(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # each kind of store has errors of its own
        reason = str(error) or type(error).__name__
        raise FetchError(url, f"can't be fetched: {reason}") from error
    return data


def _patiently(action: Callable[[], Any], number: int = 1) -> Any:
    try:
        return action()
    except FileNotFoundError:
        raise
    except Exception:  # each kind of store has errors of its own; the last is raised
        if number == TRIES:
            raise
    time.sleep(PAUSE * 2 ** (number - 1))
    return _patiently(action, number + 1)


class Folder:
    """A folder to write to, local or in an object store. Files in it are written atomically.

    Args:
        root: a path, or a URL.
    """

    def __init__(self, root: Location) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; ``None`` if there is no such file.

        Raises:
            OutputError: the file can't be read.
        """
        try:
            if isinstance(self.root, Path):
                return (self.root / name).read_bytes()
            return fetch(self._url(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, FetchError) as error:
            raise OutputError(f"{self.root}/{name}: can't be read: {error}") from error

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically: in an object store by one request.

        Raises:
            OutputError: the place can't be written.
        """
        if isinstance(self.root, Path):
            write_atomic(self.root / name, data, parents=True)
            return
        system, path = _open(self._url(name))
        try:
            _patiently(lambda: system.pipe_file(path, data))
        except Exception as error:  # each kind of store has errors of its own
            raise OutputError(f"{self._url(name)}: can't be written: {error}") from error

    def empty(self) -> bool:
        """Return whether the folder is missing or empty.

        Raises:
            OutputError: a file is there instead, or it can't be listed.
        """
        try:
            if isinstance(self.root, Path):
                if self.root.exists() and not self.root.is_dir():
                    raise OutputError(
                        f"{self.root}: is a file, where a folder to write was expected"
                    )
                self.tidy()
                return not self.root.exists() or not any(self.root.iterdir())
            system, path = _open(self.root)
            return not system.exists(path) or not system.ls(path)
        except OSError as error:
            raise OutputError(f"{self.root}: can't be listed: {error}") from error

    def clear(self) -> None:
        """Remove the folder and everything in it.

        Raises:
            OutputError: it can't be removed.
        """
        import shutil

        try:
            if isinstance(self.root, Path):
                if self.root.exists():
                    shutil.rmtree(self.root)
                return
            system, path = _open(self.root)
            if system.exists(path):
                system.rm(path, recursive=True)
        except OSError as error:
            raise OutputError(f"{self.root}: can't be removed: {error}") from error

    def tidy(self) -> None:
        """Remove unfinished files that processes left when they were killed."""
        if isinstance(self.root, Path):
            remove_leftovers(self.root)

    def _url(self, name: str) -> str:
        return f"{str(self.root).rstrip('/')}/{name}"


def iter_sources(sources: list[str]) -> Iterator[str]:
    """Yield the images that some arguments name, one at a time, without holding their list.

    Args:
        sources: files and folders, as absolute paths or URLs; lists of them as ``@FILE``, or as a
            file ending in ``.txt`` or ``.list``: one a line, relative to the list's own folder.

    Yields:
        Paths and URLs; of a folder in natural order, of an object store by name.

    Raises:
        DatasetError: nothing is there, or a folder or list holds no image.
    """
    for source in sources:
        name = source.removeprefix("@")
        place = locate(name)
        listed = source.startswith("@") or suffix(name.rpartition("/")[2]) in LISTS
        found = _listed(place) if listed else _found(place)
        empty = True
        for image in found:
            empty = False
            yield image
        if empty:
            what = "no line names an image" if listed else "no images here or below"
            raise DatasetError(f"{name}: {what}: expected files ending in {', '.join(SUFFIXES)}")


def check_sources(sources: list[str]) -> None:
    """Refuse arguments that `iter_sources` would refuse, if a quick look at local files shows it.

    Raises:
        DatasetError: a file or folder is not there.
    """
    for source in sources:
        place = locate(source.removeprefix("@"))
        if isinstance(place, Path) and not place.exists():
            raise DatasetError(f"{place}: no such file or folder")


def _listed(place: Location) -> Iterator[str]:
    base = str(place).rpartition("/")[0]
    try:
        with _lines(place) as lines:
            for line in lines:
                if entry := line.strip():
                    absolute = is_url(entry) or Path(entry).is_absolute()
                    yield str(locate(entry)) if absolute else f"{base}/{entry}"
    except FileNotFoundError:
        raise DatasetError(f"{place}: no such list of images") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{place}: can't be read as a list of images: {error}") from error


def _lines(place: Location) -> Any:
    if isinstance(place, Path):
        return place.open(encoding="utf-8")
    system, path = _open(place)
    return system.open(path, "r", encoding="utf-8")


def _found(place: Location) -> Iterator[str]:
    if isinstance(place, Path):
        if place.is_file():
            yield str(place)
        elif place.is_dir():
            yield from map(str, iter_images(place))
        else:
            raise DatasetError(f"{place}: no such file or folder")
        return
    system, path = _open(place)
    if suffix(path.rpartition("/")[2]) in SUFFIXES:
        yield place
        return
    try:
        for folder, _, files in system.walk(path, on_error="raise"):
            for name in sorted(files):
                if suffix(name) in SUFFIXES and not name.startswith("."):
                    yield str(system.unstrip_protocol(f"{folder.rstrip('/')}/{name}"))
    except FileNotFoundError:
        raise DatasetError(f"{place}: no such file or folder") from None
    except Exception as error:  # each kind of store has errors of its own
        raise DatasetError(f"{place}: can't be listed: {error}") from error
