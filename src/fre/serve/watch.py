"""The source of a service: its frames are scored like uploads."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

import numpy as np

from fre.drawing.heatmaps import encode
from fre.errors import DatasetError, FREError, ImageError
from fre.line.folder import FolderOptions, FolderSource
from fre.line.follower import printable
from fre.line.frame import Frame
from fre.line.journal import Journal
from fre.line.payload import Judgement, ModelFacts
from fre.line.sinks import open_sinks
from fre.line.sources import open_source
from fre.line.video import without_password
from fre.line.watch import Inspection
from fre.serve.batching import Batcher
from fre.serve.database import now
from fre.serve.loaded import LoadedModel
from fre.serve.outcomes import Outcome, UnjudgedError
from fre.serve.responses import Problem
from fre.serve.settings import LineSettings, Settings

SOURCE = "watch"
SETTLE = 0.5
PATIENCE = 5.0
INTERVAL = 0.25
LAST_SECONDS = 3.0
"""Time to deliver the last messages when the service ends."""
JOURNAL = "line.sqlite3"

log = logging.getLogger("fre.serve")


class SourceWatch:
    """Inspects a source on a thread of its own.

    A result is stored before its message is recorded. If the service ends between the two, a file
    is scored again, and its stored result is found by the file's key: each file has one result.

    Args:
        line: the source.
        settings: settings of the service.
        batcher: scores the frames.
        entry: returns the model, or ``None`` while there is none.

    Raises:
        InputError: the source or a receiver can't be used.
    """

    def __init__(
        self,
        line: LineSettings,
        settings: Settings,
        batcher: Batcher,
        entry: Callable[[], LoadedModel | None],
    ) -> None:
        self.name = without_password(line.source)
        self.line = line
        self.max_bytes = settings.limits.max_upload_bytes
        self.since = now()
        self.message: str | None = None
        self.error: str | None = None
        self.is_over = False
        folder = FolderOptions(SETTLE, PATIENCE, INTERVAL, batch_bytes=self.max_bytes)
        with contextlib.ExitStack() as opened:
            self.source = open_source(line.source, line.frames, folder, warn=self._warn)
            opened.callback(self.source.close)
            self.journal = Journal(settings.data / JOURNAL)
            opened.callback(self.journal.close)
            receivers = open_sinks(settings.targets, warn=self._warn)
            opened.pop_all()
        self.inspection = Inspection(
            self.source,
            self._score,
            self.journal,
            receivers,
            # Frames that are admitted at once: all fit into the queue.
            batch_size=min(4 * settings.batch_size, settings.limits.max_queue),
            warn=self._warn,
        )
        self.batcher = batcher
        self.entry = entry
        self._told = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fre-watch", daemon=True)

    def start(self) -> None:
        """Start inspecting."""
        # Data folders of before have no journal, but results.
        self.journal.skip(self.batcher.results.watched() - self.journal.keys())
        self.inspection.start()
        self._thread.start()

    def close(self) -> None:
        """Finish the admitted frames, deliver the remaining messages, and stop."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        for name, n in self.inspection.close(LAST_SECONDS):
            self._warn(f"{n} messages for {name} are kept; the next start sends them")
        self.journal.close()
        if not isinstance(self.source, FolderSource):
            self._warn(self.source.counts.text())

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._has_model():
                self._stop.wait(INTERVAL)
                continue
            try:
                self.inspection.run(lambda: self._stop.is_set() or not self._has_model())
                self.error = None
            except DatasetError as error:  # it will not come back
                self.error, self.is_over = str(error), True
                self._warn(str(error))
                return
            except FREError as error:
                self.error = str(error)
                self._warn(str(error))
                self._stop.wait(1.0)
            except Exception as error:  # it may pass: log it, try again
                self.error = f"{type(error).__name__}: {error}"
                log.exception("source")
                self._stop.wait(1.0)
            if self.source.ended:
                self.is_over = True
                self._warn(f"{self.name}: ended; {self.source.counts.text()}")
                return

    def _has_model(self) -> bool:
        there = self.entry() is not None
        if not there and not self._told:
            self._warn("no model is loaded to judge it; its images wait")
        self._told = not there
        return there

    def _score(self, frames: list[Frame]) -> list[Judgement | None]:
        """Return a judgement for each frame, or ``None`` to try again."""
        entry = self.entry()
        if entry is None:
            return [None] * len(frames)
        facts = ModelFacts.of(entry.name, entry.model)
        contents = [self._content(frame) for frame in frames]
        places = [place for place, found in enumerate(contents) if isinstance(found, bytes)]
        futures = self._admit(entry, [(frames[place], contents[place]) for place in places])
        found: list[Any] = [
            content if isinstance(content, ImageError) else None for content in contents
        ]
        for place, future in zip(places, futures, strict=False):
            try:
                found[place] = future.result()
            except (ImageError, UnjudgedError) as error:
                found[place] = ImageError(None, error.reason)
        return [
            None if result is None else self._judgement(frame, result, facts)
            for frame, result in zip(frames, found, strict=True)
        ]

    def _judgement(
        self, frame: Frame, result: Outcome | ImageError, facts: ModelFacts
    ) -> Judgement:
        if isinstance(result, ImageError):
            return Judgement(result, facts)
        return Judgement(result.prediction, facts, result.result["id"])

    def _content(self, frame: Frame) -> bytes | ImageError:
        """Return the image as the content of a file."""
        if frame.fault is not None:
            return ImageError(None, frame.fault)
        if isinstance(frame.image, np.ndarray):
            # Without loss, so that the stored picture equals the scored one.
            return encode(frame.image, "PNG", compress_level=1)
        assert isinstance(self.source, FolderSource)
        size = self.source.arrival(frame).size
        if size > self.max_bytes:
            return ImageError(None, f"{size:,} bytes is more than {self.max_bytes:,}")
        try:
            return self.source.arrival(frame).read()
        except OSError as error:
            return ImageError(None, error.strerror or "can't be read")

    def _admit(self, entry: LoadedModel, images: list[tuple[Frame, Any]]) -> list[Future[Outcome]]:
        """Wait for room in the queue, and admit images; return no futures if the service ends."""
        named = [(self._name(frame), data) for frame, data in images]
        keys = [frame.key for frame, _ in images]
        while named:
            try:
                return self.batcher.admit(entry, named, source=SOURCE, watch_keys=keys)
            except Problem as problem:  # waits for room
                if problem.code != "queue_full" or self._stop.wait(0.1):
                    break
        return []

    def _name(self, frame: Frame) -> str:
        if isinstance(self.source, FolderSource):
            path = self.source.arrival(frame).path
            return printable(path.relative_to(self.source.follower.folder).as_posix())
        return frame.part or frame.name

    def _warn(self, text: str) -> None:
        self.message = text
        log.warning("source: %s", text)

    def state(self) -> dict[str, Any]:
        """Return the state of the source and its counts, as `fre.serve.schemas.SourceState`."""
        entry, frames = self.entry(), self.line.frames
        error = self.source.away or self.error
        return {
            "source": self.name,
            "model": self.line.model if entry is None else entry.name,
            "state": self._state(error, has_model=entry is not None),
            "error": error,
            "message": self.message,
            "since": self.since,
            "every": frames.every,
            "rate": frames.rate,
            "buffer": frames.buffer,
            **asdict(self.source.counts),
            "scored": self.inspection.scored,
            "anomalous": self.inspection.anomalous,
            "unreadable": self.inspection.errors,
        }

    def _state(self, error: str | None, *, has_model: bool) -> str:
        if self.is_over:
            return "ended" if error is None else "failed"
        if self.source.away is not None:
            return "reconnecting"
        if not has_model:
            return "waiting"
        is_live = not isinstance(self.source, FolderSource)
        return "connecting" if is_live and not self.source.counts.taken else "running"
