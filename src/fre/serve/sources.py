"""The source of a running service: which sources are allowed, and how one starts and stops."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fre.errors import OptionError
from fre.line.video import without_password
from fre.serve.batching import Batcher
from fre.serve.loaded import LoadedModel
from fre.serve.registry import ModelRegistry
from fre.serve.responses import conflict, not_found, shutting_down
from fre.serve.settings import LineSettings, Settings
from fre.serve.watch import SourceWatch

SCHEMES = ("rtsp", "rtsps", "http", "https")
"""Streams that a client may name; FFmpeg knows others, some of which read any file."""
PRODUCERS = "GENICAM_GENTL64_PATH"
"""Environment variable that lists the folders of GenTL producers, by the GenTL standard."""


def producer_folders() -> list[Path]:
    """Return the folders of GenTL producers, which vendors' installers name."""
    return [Path(part) for part in os.environ.get(PRODUCERS, "").split(os.pathsep) if part]


def allowed_source(text: str, roots: Sequence[Path]) -> str:
    """Return the source that a client names, with an absolute path if it is a file or folder.

    A GenTL producer is a program: only those in the folders of producers are loaded.

    Args:
        text: source, as for `fre.line.sources.open_source`. A path may be relative to a root.
        roots: folders below which folders and videos may be read.

    Raises:
        OptionError: the source is not allowed.
    """
    if not text.isprintable() or not text.strip():
        raise OptionError("the source must be one line of printable characters")
    if text.startswith("camera:"):
        return text
    if text.startswith("genicam:"):
        path, mark, search = text.removeprefix("genicam:").partition("?")
        found = _below(path, producer_folders(), f"a folder that {PRODUCERS} names")
        return f"genicam:{found}{mark}{search}"
    if "://" in text:
        scheme = text.partition("://")[0].lower()
        if scheme not in SCHEMES or not _host(text):
            raise OptionError(f"expected a stream such as rtsp://HOST/PATH: {', '.join(SCHEMES)}")
        return text
    return str(_below(text, roots, "a folder of --source-root"))


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _below(text: str, roots: Sequence[Path], what: str) -> Path:
    """Return the path of a text if it lies below a root, links followed."""
    for root in roots:
        found = (root / text).resolve()
        if found.is_relative_to(root.resolve()):
            return found
    known = ", ".join(map(str, roots)) or "there is none"
    raise OptionError(f"{text}: is not below {what}: {known}")


class SourceControl:
    """Starts and stops the source of the service: one at a time.

    Args:
        settings: settings of the service.
        registry: models.
        batcher: scores the frames.
    """

    def __init__(self, settings: Settings, registry: ModelRegistry, batcher: Batcher) -> None:
        self._settings = settings
        self._registry = registry
        self._batcher = batcher
        self._lock = threading.Lock()
        self._watch: SourceWatch | None = None
        self._closed = False

    def open(self, line: LineSettings) -> None:
        """Open a source; nothing is scored before `start`.

        Raises:
            Problem: a source is open already, or the service is ending.
            InputError: the source or a receiver can't be used.
            OptionError: the model is not clear.
        """
        with self._lock:
            self._open(line)

    def start(self) -> None:
        """Start the source that is open, if there is one."""
        with self._lock:
            if self._watch is not None:
                self._watch.start()

    def follow(self, line: LineSettings) -> dict[str, Any]:
        """Open a source and start it at once.

        Returns:
            State of the source.

        Raises:
            Problem: a source is open already, or the service is ending.
            InputError: the source or a receiver can't be used.
            OptionError: the model is not clear.
            OutputError: the journal can't be written.
        """
        # One lock for both steps: another client's source must not be started twice.
        with self._lock:
            watch = self._open(line)
            try:
                watch.start()
            except BaseException:
                self._take().close()
                raise
            return watch.state()

    def stop(self) -> dict[str, Any]:
        """Stop the source; accepted frames are finished.

        Returns:
            State of the source at its end.

        Raises:
            Problem: no source is open.
        """
        with self._lock:
            if self._watch is None:
                raise not_found("no source is followed")
            watch = self._take()
            watch.close()
            return {**watch.state(), "state": "stopped", "error": None}

    def close(self) -> None:
        """Stop the source, and open no other."""
        with self._lock:
            self._closed = True
            if self._watch is not None:
                self._take().close()

    def state(self) -> dict[str, Any] | None:
        """Return the state of the source, or ``None`` if none is open."""
        watch = self._watch
        return None if watch is None else watch.state()

    def _open(self, line: LineSettings) -> SourceWatch:
        if self._closed:
            raise shutting_down()
        if self._watch is not None and self._watch.is_over:
            self._take().close()
        if self._watch is not None:
            raise conflict(f"{self._watch.name} is followed already; stop it first")
        self._check(line)
        self._watch = SourceWatch(
            line, self._settings, self._batcher, partial(self._entry, line.model)
        )
        return self._watch

    def _take(self) -> SourceWatch:
        watch, self._watch = self._watch, None
        assert watch is not None
        return watch

    def _entry(self, name: str | None) -> LoadedModel | None:
        """Return the model that scores the frames, or ``None`` if it is not loaded."""
        entries = self._registry.entries()
        return next((entry for entry in entries if name in (None, entry.name)), None)

    def _check(self, line: LineSettings) -> None:
        names = self._registry.names()
        if line.model is None and len(names) > 1:
            raise OptionError(
                f"{without_password(line.source)}: {len(names)} models could judge it; name one "
                f"of them: {', '.join(names)}"
            )
