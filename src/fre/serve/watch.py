"""The watched folder of a service: what arrives there is judged like any upload."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from fre.errors import FREError, ImageError
from fre.line.watch import Arrival, Follower, printable
from fre.serve.batching import Batcher, Outcome, UnjudgedError
from fre.serve.registry import Entry
from fre.serve.responses import Problem
from fre.serve.results import Results

SOURCE = "watch"
SETTLE = 0.5
PATIENCE = 5.0
INTERVAL = 0.25

log = logging.getLogger("fre.serve")


class FolderWatch:
    """Follows a folder on a thread of its own.

    The database knows which files are done: a file's result and the mark that it is done are one
    row, so that each is judged once whenever the service ends.

    Args:
        folder: to follow.
        batcher: that judges.
        results: the history.
        entry: gives the model, or `None` while there is none.
        chunk: files that are taken at once.
        max_bytes: of one file.
    """

    def __init__(
        self,
        folder: Path,
        batcher: Batcher,
        results: Results,
        entry: Callable[[], Entry | None],
        *,
        chunk: int,
        max_bytes: int,
    ) -> None:
        self.follower = Follower(
            folder,
            settle=SETTLE,
            done=results.watched(),
            warn=lambda text: log.warning("watched folder: %s", text),
        )
        self.batcher = batcher
        self.results = results
        self.entry = entry
        self.chunk = chunk
        self.max_bytes = max_bytes
        self._told = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fre-watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Finish what was taken, and stop."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self._step()
            except FREError as error:  # noqa: PERF203  (the thread must live)
                log.warning("watched folder: %s", error)
                self._stop.wait(1.0)
            except Exception:  # whatever is wrong with the folder may pass: logged, tried again
                log.exception("watched folder")
                self._stop.wait(1.0)

    def _step(self) -> None:
        entry = self.entry()
        if entry is None:
            if not self._told:
                log.warning("watched folder: no model is loaded to judge it; its files wait")
            self._told = True
            return
        self._told = False
        chunk: list[Arrival] = []
        for arrival in self.follower.poll():
            chunk.append(arrival)
            if len(chunk) == self.chunk or sum(each.size for each in chunk) > self.max_bytes:
                self._judge(entry, chunk)
                chunk = []
            if self._stop.is_set():
                return
        self._judge(entry, chunk)

    def _judge(self, entry: Entry, arrivals: list[Arrival]) -> None:
        taken: list[tuple[Arrival, bytes]] = []
        for arrival in arrivals:
            data = self._read(arrival)
            if data is not None:
                taken.append((arrival, data))
        futures: list[Future[Outcome]] = []
        while taken and not futures:
            try:
                futures = self.batcher.admit(
                    entry,
                    [(self._name(arrival), data) for arrival, data in taken],
                    source=SOURCE,
                    watch_keys=[arrival.key for arrival, _ in taken],
                )
            except Problem as problem:  # noqa: PERF203  (that there is room is what it waits for)
                if problem.code != "queue_full" or self._stop.wait(0.1):
                    return
        for (arrival, _), future in zip(taken, futures, strict=True):
            try:
                future.result()
            except (ImageError, UnjudgedError) as error:
                self._unreadable(arrival, error.reason)
                continue
            self.follower.finish(arrival)

    def _name(self, arrival: Arrival) -> str:
        return printable(arrival.path.relative_to(self.follower.folder).as_posix())

    def _read(self, arrival: Arrival) -> bytes | None:
        if arrival.fault is not None:
            self._unreadable(arrival, arrival.fault)
            return None
        if arrival.size > self.max_bytes:
            self._give_up(arrival, f"{arrival.size:,} bytes is more than {self.max_bytes:,}")
            return None
        try:
            data = arrival.read()
        except OSError as error:
            self._unreadable(arrival, error.strerror or "can't be read")
            return None
        if not arrival.unchanged():
            self.follower.postpone(arrival)
            return None
        return data

    def _unreadable(self, arrival: Arrival, reason: str) -> None:
        if arrival.age < PATIENCE:
            self.follower.postpone(arrival)
        else:
            self._give_up(arrival, reason)

    def _give_up(self, arrival: Arrival, reason: str) -> None:
        log.warning("watched folder: %s: %s", arrival.name, reason)
        self.results.add_unreadable(arrival.key, reason)
        self.follower.finish(arrival)
