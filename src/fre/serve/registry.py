"""The models of a folder, reloaded when their files change.

A changed file is loaded beside the model in use, opened, and swapped in with one assignment. Images
that were admitted before are scored by the model of their admission.

A file that can't be loaded affects no other model, whatever it raises. If the folder itself is
unavailable, as a network share may be for a while, the loaded models stay in use.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fre.errors import FREError, ModelFileError, OutputError
from fre.model import Model, load
from fre.serve.database import now
from fre.serve.loaded import LoadedModel, calibration_digest
from fre.serve.responses import Problem, conflict, not_found, to_json
from fre.serve.thresholds import Change
from fre.serve.versions import Save, Versions

log = logging.getLogger("fre.serve")

SUFFIX = ".onnx"
EMPTY_SECONDS = 3.0
"""Time that models stay in use after all files disappeared: a network share may come back."""
LONGEST_REASON = 500
"""Longest reason of a loading failure, in characters: some errors quote the file."""
Identity = tuple[int, int, int]


class ModelRegistry:
    """All loaded models.

    Args:
        source: a model file, or a folder of model files.
        runtime: name of the runtime.
        threads: number of threads per run, 0 for all cores.
        keep_versions: number of earlier files of each model to keep.

    Attributes:
        versions: files that are kept.
        is_folder: whether models can be added.
        away: reason why the files are unavailable at present, or ``None``.
        changed: called without arguments when a model appeared, changed or disappeared, on the
            thread that noticed it.

    Raises:
        ModelFileError: ``source`` does not exist, or the one file is not a model.
    """

    def __init__(
        self,
        source: Path,
        *,
        runtime: str = "onnxruntime",
        threads: int = 0,
        keep_versions: int = 0,
    ) -> None:
        self.source = source
        self.runtime = runtime
        self.threads = threads
        self.changed: Callable[[], None] = lambda: None
        self._entries: dict[str, LoadedModel] = {}
        self._seen: dict[str, Identity] = {}
        self._broken: dict[str, str] = {}
        self._empty_since: float | None = None
        self.away: str | None = None
        # Decided once, because the folder may be unavailable later.
        self.is_folder = source.is_dir()
        self.versions = Versions(self.folder, keep_versions)
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
        """Folder of the model files."""
        return self.source if self.is_folder else self.source.parent

    def names(self) -> list[str]:
        """Return the names of the models, sorted."""
        return sorted(self._entries)

    def entries(self) -> list[LoadedModel]:
        """Return the models, sorted by name."""
        entries = self._entries
        return [entries[name] for name in sorted(entries)]

    def broken(self) -> dict[str, str]:
        """Return the reasons why files can't be loaded, by model name."""
        return {name: self._broken[name] for name in sorted(self._broken)}

    def find(self, name: str) -> LoadedModel | None:
        """Return one model, or ``None`` if none of this name is loaded."""
        return self._entries.get(name)

    def get(self, name: str) -> LoadedModel:
        """Return one model.

        Raises:
            Problem: no model has this name.
        """
        entry = self.find(name)
        if entry is None:
            reason = self._broken.get(name)
            known = ", ".join(self.names()) or "none yet"
            raise not_found(reason or f"no model is called {name!r}; there are: {known}")
        return entry

    def path(self, name: str) -> Path:
        """Return the path of a model file to write."""
        return self.folder / f"{name}{SUFFIX}"

    def _files(self) -> dict[str, tuple[Path, Identity]]:
        """Return path and identity of each model file, by model name.

        Raises:
            OSError: the folder can't be listed, or the one file does not exist.
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
                    continue  # removed since the listing, or a dangling link
                if stat.S_ISREG(status.st_mode):
                    found[path.stem] = (path, _identity(status))
        return dict(sorted(found.items()))

    def _look(self) -> dict[str, tuple[Path, Identity]] | None:
        """Return the files, or ``None`` while they are unavailable."""
        try:
            files = self._files()
        except OSError as error:
            self._set_away(f"{self.source}: {error.strerror or error}")
            return None
        if files or not self._entries:
            self._empty_since = None
        else:
            # All files disappeared at once: the share may be unmounted for a moment.
            moment = time.monotonic()
            self._empty_since = self._empty_since or moment
            if moment - self._empty_since < EMPTY_SECONDS:
                self._set_away(f"{self.source}: no model files are left")
                return None
        self._set_away(None)
        return files

    def _set_away(self, reason: str | None) -> None:
        if reason is not None and self.away is None:
            log.warning("models: %s; the loaded models stay in use", reason)
        self.away = reason

    def refresh(self) -> bool:
        """Look at the files, and load changed ones.

        Returns:
            Whether anything changed.
        """
        with self._lock:
            files = self._look()
            if files is None:
                return False
            changed = False
            for name in {*self._entries, *self._broken} - set(files):
                self._forget(name)
                changed = True
            for name, (path, identity) in files.items():
                if self._seen.get(name) != identity:
                    self._seen[name] = identity
                    changed |= self._load(name, path)
        if changed:
            self.changed()
        return changed

    def _load(self, name: str, path: Path) -> bool:
        """Load a file, or note the reason of a failure; return whether anything changed."""
        before = self._entries.get(name)
        try:
            self._put(self._loaded(name, path))
            return True
        except Exception as error:  # a damaged file can raise almost anything
            reason, failure = _reason(path, error), error
            if isinstance(error.__cause__, OSError):
                del self._seen[name]  # disk or network error, not the file: try again
        known = self._broken.get(name) if before is None else before.error
        if reason == known:
            return False
        # The file may be in writing: its next change is loaded again.
        if before is None:
            self._broken[name] = reason
        else:
            self._put(replace(before, error=reason))
        if self._thread is not None:  # the command line reports failures at the start
            trace = None if isinstance(failure, FREError) else failure
            log.warning("model left out: %s", reason, exc_info=trace)
        return True

    def _loaded(self, name: str, path: Path) -> LoadedModel:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ModelFileError(
                f"{path}: the name is not UTF-8, so that no request can name the model; rename it"
            ) from error
        before = self._entries.get(name)
        model = load(path, runtime=self.runtime, threads=self.threads, many=True)
        if before is not None and before.model.sha256 == model.sha256:
            return replace(before, error=None)
        model.open()
        entry = LoadedModel(name, path, model, calibration_digest(model.calibration), now())
        # Fail here, not in a list of all models.
        to_json([entry.summary(), entry.calibration(), model.metadata])
        try:
            self.versions.add_found(name, model)
        except OutputError as error:
            log.warning("versions: %s; %s serves, but is not kept", error, name)
        return entry

    def _put(self, entry: LoadedModel) -> None:
        self._broken.pop(entry.name, None)
        # A new dictionary, so that readers need no lock.
        self._entries = {**self._entries, entry.name: entry}

    def recalibrate(
        self, name: str, change: Change, *, by: str | None = None, sha256: str | None = None
    ) -> LoadedModel:
        """Write another calibration into a model file, and use it.

        Args:
            name: name of the model.
            change: returns the new calibration.
            by: name or address of the client.
            sha256: digest of the file that the choice was made for; ``None`` accepts any.

        Raises:
            Problem: no model has this name, or the file has changed since ``sha256``.
            OptionError: a value is out of range.
            OutputError: the file can't be written.
        """
        with self._lock:
            entry = self._expected(name, sha256)
            entry.check_file()
            after, chosen = change(entry.model)
            model = entry.model.with_calibration(after, chosen=chosen)
            self.save(name, model, Save("threshold", by))
            return self.get(name)

    def _expected(self, name: str, sha256: str | None) -> LoadedModel:
        """Look at the files, and return one model; refuse another digest than the client saw."""
        self.refresh()
        entry = self.get(name)
        if sha256 not in (None, entry.model.sha256):
            raise conflict(f"the model {name} has changed since; look at it again")
        return entry

    def replace(self, name: str, model: Model, save: Save, *, before: str) -> None:
        """Write an updated model into its file, and use it.

        Args:
            name: name of the model.
            model: updated model.
            save: by whom and why.
            before: digest of the model that was updated.

        Raises:
            Problem: no model has this name any more, or the file has changed since ``before``.
            OutputError: the file can't be written.
        """
        with self._lock:
            self.refresh()
            entry = self.get(name)
            if entry.error is not None or entry.model.sha256 != before:
                raise changed_meanwhile(name)
            self.save(name, model, save)

    def save(self, name: str, model: Model, save: Save) -> None:
        """Write a model file, keep the versions before and after, and use it.

        Args:
            name: name of the model.
            model: the new or changed model.
            save: by whom and why.

        Raises:
            OutputError: the file, or the version before, can't be written; nothing is changed.
        """
        with self._lock:
            self.refresh()
            before = self._entries.get(name)
            if before is not None:
                self.versions.add_found(name, before.model)
            model.save(self.path(name) if before is None else before.path)
            try:
                self.versions.add(name, model, save)
            except OutputError as error:
                # It is in place; the next change keeps it, or is refused.
                log.warning("versions: %s; the new file of %s is not kept yet", error, name)
            self.refresh()

    def delete(self, name: str, *, sha256: str | None = None) -> None:
        """Delete a model file and its versions; its results stay in the history.

        Args:
            name: name of the model.
            sha256: digest of the file that is meant; ``None`` accepts any.

        Raises:
            Problem: no model has this name, the file has changed since ``sha256``, or the service
                serves one file only.
            OutputError: a file can't be deleted.
        """
        if not self.is_folder:
            raise conflict(f"the service serves {self.source} only, and does not delete it")
        with self._lock:
            entry = self._expected(name, sha256)
            self.versions.delete_all(name)
            try:
                entry.path.unlink()
            except OSError as error:
                raise OutputError(f"{entry.path}: can't be deleted: {error.strerror}") from error
            # At once, even if it is the last one: this folder is not away.
            self._forget(name)
        self.changed()

    def _forget(self, name: str) -> None:
        self._entries = {k: v for k, v in self._entries.items() if k != name}
        self._broken.pop(name, None)
        self._seen.pop(name, None)

    def follow(self, seconds: float) -> None:
        """Look at the files at regular intervals, on a thread of its own.

        Args:
            seconds: interval in seconds.
        """

        def run() -> None:
            while not self._stop.wait(seconds):
                try:
                    self.refresh()
                except Exception:  # logged, and tried again
                    log.exception("the folder of models")

        self._thread = threading.Thread(target=run, name="fre-reload", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking at the files."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()


def changed_meanwhile(name: str) -> Problem:
    """Return the error for an update of a model file that has changed since."""
    return conflict(f"the model {name} has changed meanwhile; update it again")


def _identity(status: os.stat_result) -> Identity:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _reason(path: Path, error: Exception) -> str:
    """Return one line that says why a file can't be loaded."""
    text = str(error)
    if not isinstance(error, FREError):
        text = f"{path}: not a usable model file: {type(error).__name__}: {error}"
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= LONGEST_REASON else line[:LONGEST_REASON] + " ..."
