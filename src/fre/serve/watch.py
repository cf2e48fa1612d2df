"""The watched folder of a service: arriving files are scored like uploads."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fre.errors import FREError, ImageError
from fre.line.follower import Arrival, BatchLimits, Follower, printable, score_arrivals
from fre.serve.batching import Batcher, UnjudgedError
from fre.serve.registry import LoadedModel
from fre.serve.responses import Problem
from fre.serve.results import Results

SOURCE = "watch"
SETTLE = 0.5
PATIENCE = 5.0
INTERVAL = 0.25

log = logging.getLogger("fre.serve")


class FolderWatch:
    """Follows a folder on a thread of its own.

    The results are the journal: the row of a result also marks its file as done. So each file
    has one result, whenever the service ends.

    Args:
        folder: folder to follow.
        batcher: scores the files.
        results: history of results.
        entry: returns the model, or ``None`` while there is none.
        chunk: number of files that are admitted at once.
        max_bytes: largest size of a file, in bytes.
    """

    def __init__(
        self,
        folder: Path,
        batcher: Batcher,
        results: Results,
        entry: Callable[[], LoadedModel | None],
        *,
        chunk: int,
        max_bytes: int,
    ) -> None:
        self.follower = Follower(folder, settle=SETTLE, done=results.watched(), warn=_warn)
        self.limits = BatchLimits(chunk, max_bytes, PATIENCE)
        self.batcher = batcher
        self.results = results
        self.entry = entry
        self.max_bytes = max_bytes
        self._told = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fre-watch", daemon=True)

    def start(self) -> None:
        """Start following."""
        self._thread.start()

    def close(self) -> None:
        """Finish the admitted files, and stop."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(max(INTERVAL, 4 * self.follower.listing_seconds)):
            try:
                self._step()
            except FREError as error:  # noqa: PERF203  (the thread must live)
                _warn(str(error))
                self._stop.wait(1.0)
            except Exception:  # whatever is wrong with the folder may pass: log it, try again
                log.exception("watched folder")
                self._stop.wait(1.0)

    def _step(self) -> None:
        entry = self.entry()
        if entry is None:
            if not self._told:
                _warn("no model is loaded to judge it; its files wait")
            self._told = True
            return
        self._told = False
        for batch in score_arrivals(self.follower, lambda a: self._score(entry, a), self.limits):
            for arrival, result in batch:
                if isinstance(result, ImageError):
                    _warn(f"{arrival.name}: {result.reason}")
                    self.results.add_unreadable(arrival.key, result.reason)
            if self._stop.is_set():
                return

    def _score(self, entry: LoadedModel, arrivals: list[Arrival]) -> list[Any]:
        """Return a stored result, an `ImageError` or ``None`` (try again) for each file."""
        results = [self._read(arrival) for arrival in arrivals]
        taken = [place for place, data in enumerate(results) if isinstance(data, bytes)]
        futures = self._admit(entry, [(arrivals[place], results[place]) for place in taken])
        if not futures:
            return [result if isinstance(result, ImageError) else None for result in results]
        for place, future in zip(taken, futures, strict=True):
            try:
                results[place] = future.result()
            except (ImageError, UnjudgedError) as error:  # noqa: PERF203
                results[place] = ImageError(None, error.reason)
        return results

    def _read(self, arrival: Arrival) -> Any:
        if arrival.size > self.max_bytes:
            return ImageError(None, f"{arrival.size:,} bytes is more than {self.max_bytes:,}")
        try:
            data = arrival.read()
        except OSError as error:
            return ImageError(None, error.strerror or "can't be read")
        return data if arrival.unchanged() else None

    def _admit(self, entry: LoadedModel, files: list[tuple[Arrival, Any]]) -> list[Any]:
        """Wait for room in the queue, and admit files; return no futures if the service ends."""
        images = [(self._name(arrival), data) for arrival, data in files]
        keys = [arrival.key for arrival, _ in files]
        while images:
            try:
                return self.batcher.admit(entry, images, source=SOURCE, watch_keys=keys)
            except Problem as problem:  # noqa: PERF203  (waits for room)
                if problem.code != "queue_full" or self._stop.wait(0.1):
                    break
        return []

    def _name(self, arrival: Arrival) -> str:
        return printable(arrival.path.relative_to(self.follower.folder).as_posix())


def _warn(text: str) -> None:
    log.warning("watched folder: %s", text)
