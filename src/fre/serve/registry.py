"""The models of a folder, kept up to date with their files.

A file that changes is loaded beside the model that serves, made ready, and takes its place in
one step: an image that was admitted before is scored by the model it was admitted for.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fre.calibration import Calibration
from fre.errors import FREError, ModelFileError
from fre.model import Model, load
from fre.serve.clock import now
from fre.serve.problems import Problem
from fre.threshold import with_calibration

__all__ = ["Entry", "Registry"]

log = logging.getLogger("fre.serve")

SUFFIX = ".onnx"
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
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        if not source.exists():
            raise ModelFileError(f"{source}: no such file or folder; give a model or a folder")
        self.refresh()
        if not self.is_folder and self._broken:
            raise ModelFileError(next(iter(self._broken.values())))

    @property
    def is_folder(self) -> bool:
        """Whether models can be added."""
        return self.source.is_dir()

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
        """Files that can't be loaded, and why."""
        return dict(self._broken)

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
        paths = [self.source]
        if self.is_folder:
            paths = sorted(
                path
                for path in self.source.glob(f"*{SUFFIX}")
                if not path.name.startswith(".") and path.is_file()
            )
        found = {}
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                continue
            found[path.stem] = (path, (status.st_ino, status.st_size, status.st_mtime_ns))
        return found

    def refresh(self) -> bool:
        """Look at the files, and load what is new.

        Returns:
            Whether anything changed.
        """
        with self._lock:
            files = self._files()
            changed = False
            for name in [*self._entries, *self._broken]:
                if name not in files:
                    self._entries = {k: v for k, v in self._entries.items() if k != name}
                    self._broken.pop(name, None)
                    self._seen.pop(name, None)
                    changed = True
            for name, (path, identity) in files.items():
                if self._seen.get(name) != identity:
                    self._load(name, path)
                    self._seen[name] = identity
                    changed = True
        if changed:
            self.changed()
        return changed

    def _load(self, name: str, path: Path) -> None:
        before = self._entries.get(name)
        try:
            model = load(path, runtime=self.runtime, threads=self.threads, many=True)
            if before is not None and before.model.sha256 == model.sha256:
                self._put(replace(before, error=None))
                return
            model.open()
        except FREError as error:
            # Perhaps it is being written: its next change is looked at again.
            if before is None:
                self._broken[name] = str(error)
            else:
                self._put(replace(before, error=str(error)))
            return
        self._put(Entry(name, path, model, _digest(model.calibration), now()))

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
