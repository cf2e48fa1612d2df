"""The models of a folder, kept up to date with their files.

A file that changes is loaded beside the model that serves, made ready, and takes its place in
one step: an image that was admitted before is scored by the model it was admitted for.

A file that can't be loaded is one failure of its own, whatever it raises. If the folder itself is
away, as a network share may be for a while, the models that were loaded go on serving.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fre.errors import FREError, ModelFileError
from fre.evaluation.thresholds import with_calibration
from fre.model import Model, load
from fre.scoring.calibration import Calibration
from fre.serve.database import now
from fre.serve.responses import Problem, to_json

log = logging.getLogger("fre.serve")

SUFFIX = ".onnx"
EMPTY_SECONDS = 3.0
"""Time that models go on serving once all files are gone: a share may come back."""
LONGEST_REASON = 500
"""Characters of a reason that a file can't be loaded: some errors quote the file."""
Identity = tuple[int, int, int]


@dataclass(frozen=True)
class Entry:
    """A model that serves.

    Attributes:
        name: stem of its file.
        path: the file.
        model: ready to run.
        calibration_sha256: digest of the calibration scores.
        loaded_at: when it was loaded.
        error: why the file as it is now can't be loaded; the model is that of before.
    """

    name: str
    path: Path
    model: Model
    calibration_sha256: str
    loaded_at: str
    error: str | None = None

    @property
    def can_update(self) -> bool:
        """Whether its file holds what an update needs."""
        return "learning" in self.model.metadata

    def summary(self) -> dict[str, Any]:
        """What a list of models says of it."""
        metadata, calibration = self.model.metadata, self.model.calibration
        provenance = metadata.get("provenance", {})
        return {
            "name": self.name,
            "sha256": self.model.sha256,
            "bytes": len(self.model.data),
            "preset": metadata.get("preset"),
            "backbone": metadata.get("backbone", {}).get("name"),
            "size": list(self.model.size),
            "n_images": provenance.get("n_images"),
            "created": provenance.get("created"),
            "threshold": calibration.threshold,
            "false_alarm_rate": calibration.false_alarm_rate,
            "expected_false_alarm_rate": calibration.expected_rate,
            "can_update": self.can_update,
            "loaded_at": self.loaded_at,
            "error": self.error,
        }

    def calibration(self) -> dict[str, Any]:
        """The calibration in full."""
        calibration = self.model.calibration
        return {
            "model": self.name,
            "sha256": self.model.sha256,
            "scores": [float(score) for score in calibration.scores],
            "threshold": calibration.threshold,
            "pixel_threshold": calibration.pixel_threshold,
            "false_alarm_rate": calibration.false_alarm_rate,
            "expected_false_alarm_rate": calibration.expected_rate,
            "attainable_false_alarm_rate": calibration.attainable_rate,
            "map_range": list(calibration.map_range),
            "caveat": calibration.caveat(),
        }


class Registry:
    """The models that serve.

    Args:
        source: a model file, or a folder of them.
        runtime: of the models.
        threads: of a run; 0 takes all cores.

    Attributes:
        is_folder: whether models can be added.
        away: why the files can't be seen at present, or ``None``; the models loaded before serve.
        changed: called, on the thread that noticed, when a model appeared, changed or went.

    Raises:
        ModelFileError: nothing is there, or the one file is not a model.
    """

    def __init__(self, source: Path, *, runtime: str = "onnxruntime", threads: int = 0) -> None:
        self.source = source
        self.runtime = runtime
        self.threads = threads
        self.changed: Callable[[], None] = lambda: None
        self._entries: dict[str, Entry] = {}
        self._seen: dict[str, Identity] = {}
        self._broken: dict[str, str] = {}
        self._empty_since: float | None = None
        self.away: str | None = None
        # Once and for all: a folder that is away is still one.
        self.is_folder = source.is_dir()
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if not source.exists():
            raise ModelFileError(f"{source}: no such file or folder; give a model or a folder")
        self.refresh()
        if not self.is_folder and self._broken:
            raise ModelFileError(next(iter(self._broken.values())))

    @property
    def folder(self) -> Path:
        """Where the model files are."""
        return self.source if self.is_folder else self.source.parent

    def names(self) -> list[str]:
        """The models, by name."""
        return sorted(self._entries)

    def entries(self) -> list[Entry]:
        """The models, by name."""
        entries = self._entries
        return [entries[name] for name in sorted(entries)]

    def broken(self) -> dict[str, str]:
        """Return why files can't be loaded, by the names that their models would have."""
        return {name: self._broken[name] for name in sorted(self._broken)}

    def get(self, name: str) -> Entry:
        """One model.

        Raises:
            Problem: there is none of that name.
        """
        entry = self._entries.get(name)
        if entry is None:
            reason = self._broken.get(name)
            known = ", ".join(self.names()) or "none yet"
            raise Problem(
                404,
                "not_found",
                f"{reason}" if reason else f"no model is called {name!r}; there are: {known}",
            )
        return entry

    def path(self, name: str) -> Path:
        """The file of a model that is to be written."""
        return self.folder / f"{name}{SUFFIX}"

    def _files(self) -> dict[str, tuple[Path, Identity]]:
        """Return path and identity of each model file, by the name of its model.

        Raises:
            OSError: the folder can't be listed, or the one file is not there.
        """
        if not self.is_folder:
            return {self.source.stem: (self.source, _identity(self.source.stat()))}
        found = {}
        with os.scandir(self.source) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.name.endswith(SUFFIX):
                    continue
                path = self.source / entry.name
                try:
                    status = path.stat()
                except OSError:
                    continue  # gone since, or a link to nothing
                if stat.S_ISREG(status.st_mode):
                    found[path.stem] = (path, _identity(status))
        return dict(sorted(found.items()))

    def _look(self) -> dict[str, tuple[Path, Identity]] | None:
        """Return the files, or ``None`` while they are away and the models stay as they are."""
        try:
            files = self._files()
        except OSError as error:
            self._set_away(f"{self.source}: {error.strerror or error}")
            return None
        if files or not self._entries:
            self._empty_since = None
        else:
            # All at once: perhaps the folder is a place at which nothing is mounted just now.
            moment = time.monotonic()
            self._empty_since = self._empty_since or moment
            if moment - self._empty_since < EMPTY_SECONDS:
                self._set_away(f"{self.source}: no model files are left")
                return None
        self._set_away(None)
        return files

    def _set_away(self, reason: str | None) -> None:
        if reason is not None and self.away is None:
            log.warning("models: %s; those that were loaded before go on serving", reason)
        self.away = reason

    def refresh(self) -> bool:
        """Look at the files, and load what is new.

        Returns:
            Whether anything changed.
        """
        with self._lock:
            files = self._look()
            if files is None:
                return False
            changed = False
            for name in {*self._entries, *self._broken} - set(files):
                self._entries = {k: v for k, v in self._entries.items() if k != name}
                self._broken.pop(name, None)
                self._seen.pop(name, None)
                changed = True
            for name, (path, identity) in files.items():
                if self._seen.get(name) != identity:
                    self._seen[name] = identity
                    changed |= self._load(name, path)
        if changed:
            self.changed()
        return changed

    def _load(self, name: str, path: Path) -> bool:
        """Load a file, or note why that is impossible; whether anything changed."""
        before = self._entries.get(name)
        try:
            self._put(self._loaded(name, path))
            return True
        except Exception as error:  # a file of a stranger can raise almost anything
            reason = _reason(path, error)
            if isinstance(error.__cause__, OSError):
                del self._seen[name]  # the disk or the network, not the file: tried again
        known = self._broken.get(name) if before is None else before.error
        if reason == known:
            return False
        # Perhaps it is being written: its next change is looked at again.
        if before is None:
            self._broken[name] = reason
        else:
            self._put(replace(before, error=reason))
        if self._thread is not None:  # at the start the command line says it
            log.warning("model left out: %s", reason)
        return True

    def _loaded(self, name: str, path: Path) -> Entry:
        if not _is_utf8(name):
            raise ModelFileError(
                f"{path}: the name is not UTF-8, so that no request can name the model; rename it"
            )
        before = self._entries.get(name)
        model = load(path, runtime=self.runtime, threads=self.threads, many=True)
        if before is not None and before.model.sha256 == model.sha256:
            return replace(before, error=None)
        model.open()
        entry = Entry(name, path, model, _digest(model.calibration), now())
        # What is said of it in lists must not fail there, where it would fail for all.
        to_json([entry.summary(), entry.calibration(), model.metadata])
        return entry

    def _put(self, entry: Entry) -> None:
        self._broken.pop(entry.name, None)
        # A new dictionary, so that readers need no lock.
        self._entries = {**self._entries, entry.name: entry}

    def set_threshold(
        self,
        name: str,
        *,
        threshold: float | None,
        false_alarm_rate: float | None,
        sha256: str | None,
    ) -> Entry:
        """Decide by another threshold from now on, and write it into the file.

        Raises:
            Problem: no such model, or the file has changed since ``sha256``.
            OptionError: the value is out of range.
            OutputError: the file can't be written.
        """
        with self._lock:
            self.refresh()
            entry = self.get(name)
            if sha256 is not None and sha256 != entry.model.sha256:
                raise Problem(
                    409,
                    "conflict",
                    f"the model {name} has changed since; look at its calibration again",
                )
            if entry.error is not None:
                raise Problem(409, "conflict", f"the file of {name} can't be read: {entry.error}")
            before = entry.model.calibration
            if false_alarm_rate is not None:
                after, chosen = before.at_rate(false_alarm_rate), None
            else:
                assert threshold is not None
                after, chosen = before.at_threshold(threshold), "by hand"
            with_calibration(entry.model, after, chosen=chosen).save(entry.path)
            self.refresh()
            return self.get(name)

    def replace(self, name: str, model: Model, *, before: str) -> None:
        """Serve a model that was made of another one, and write it into its file.

        Args:
            name: of the model.
            model: that takes over.
            before: digest of the one that it was made of.

        Raises:
            Problem: there is none of that name any more, or the file has changed since.
            OutputError: the file can't be written.
        """
        with self._lock:
            self.refresh()
            entry = self.get(name)
            if entry.error is not None or entry.model.sha256 != before:
                raise Problem(
                    409, "conflict", f"the model {name} has changed meanwhile; update it again"
                )
            model.save(entry.path)
            self.refresh()

    def follow(self, seconds: float) -> None:
        """Look at the files again and again, on a thread of its own."""

        def run() -> None:
            while not self._stop.wait(seconds):
                try:
                    self.refresh()
                except Exception:  # noqa: PERF203  (logged, and looked at again)
                    log.exception("the folder of models")

        self._thread = threading.Thread(target=run, name="fre-reload", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()


def _digest(calibration: Calibration) -> str:
    scores = np.ascontiguousarray(calibration.scores, np.float64)
    return hashlib.sha256(scores.tobytes()).hexdigest()


def _identity(status: os.stat_result) -> Identity:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reason(path: Path, error: Exception) -> str:
    """Return one line that says why a file can't be loaded."""
    text = str(error)
    if not isinstance(error, FREError):
        text = f"{path}: not a usable model file: {type(error).__name__}: {error}"
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= LONGEST_REASON else line[:LONGEST_REASON] + " ..."
