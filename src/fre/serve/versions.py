"""Versions of the models: the file of each change is kept, and can be put in place again.

The versions of a model lie beside the models, in ``.versions/NAME``. ``DIGEST.onnx`` is the file
and ``DIGEST.json`` the record of it: when it was saved, by whom and why. The SHA-256 of the file is
the version's identity, so that equal files are stored once. A file is written before its record,
and deleted after it: a version without a record does not count.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from fre.errors import ModelFileError
from fre.model import Model, load
from fre.serve.database import now
from fre.serve.loaded import LoadedModel
from fre.serve.responses import conflict, not_found
from fre.storage.files import encode_text, unwritable, write_atomic

log = logging.getLogger("fre.serve")

FOLDER = ".versions"
FILE, RECORD = ".onnx", ".json"
MOST_SAVES = 20
"""Saves that the record of a version lists."""

Why = Literal["trained", "taught", "threshold", "restored", "uploaded"]


@dataclass(frozen=True)
class Save:
    """One time that a file was put in place.

    Attributes:
        why: ``"uploaded"`` if somebody else than the service wrote the file.
        by: name or address of the client; ``None`` if it is unknown.
        at: time, UTC.
    """

    why: Why
    by: str | None
    at: str = field(default_factory=now)


class Versions:
    """The versions of all models in a folder.

    Args:
        folder: folder of the model files.
        keep: number of versions of each model to keep beside the present one; 0 keeps none.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder / FOLDER
        self.keep = keep
        self._lock = threading.RLock()

    def add(self, name: str, model: Model, save: Save) -> None:
        """Keep a file that is put in place, and delete the oldest versions beyond the bound.

        Raises:
            OutputError: the folder can't be written.
        """
        if self.keep == 0:
            return
        with self._lock:
            folder = self.folder / name
            try:
                # Not its parents: a folder of models that is gone must not be made again.
                self.folder.mkdir(exist_ok=True)
                folder.mkdir(exist_ok=True)
            except OSError as error:
                raise unwritable(folder, error) from error
            file = folder / f"{model.sha256}{FILE}"
            if not file.exists():
                write_atomic(file, model.data)
            records = self.records(name)
            saves = [
                one for record in records if record["id"] == model.sha256 for one in record["saves"]
            ]
            record = {
                # Clocks may be set back.
                "number": 1 + max((record["number"] for record in records), default=0),
                "saves": [asdict(save), *saves][:MOST_SAVES],
                **_facts(model),
            }
            text = json.dumps(record, ensure_ascii=False, indent=1)
            write_atomic(folder / f"{model.sha256}{RECORD}", encode_text(text))
            self._prune(name)

    def add_found(self, name: str, model: Model) -> None:
        """Keep a file that lies in the folder of the models, unless it is the last that was kept.

        Raises:
            OutputError: the folder can't be written.
        """
        with self._lock:
            known = self.records(name)
            if not known or known[0]["id"] != model.sha256:
                self.add(name, model, Save("uploaded", None))

    def records(self, name: str) -> list[dict[str, Any]]:
        """Return the records of the versions of a model, the last saved first."""
        found = []
        for path in self._files(name, RECORD):
            record = self._record(path)
            if record is not None and path.with_suffix(FILE).is_file():
                found.append({"id": path.stem, **record})
        return sorted(found, key=lambda record: -record["number"])

    def file(self, name: str, version: str) -> Path:
        """Return the file of a version.

        Raises:
            Problem: the model has no such version.
        """
        if all(record["id"] != version for record in self.records(name)):
            raise not_found(f"{name} has no version {version}")
        return self.folder / name / f"{version}{FILE}"

    def load(self, name: str, version: str) -> Model:
        """Return the model of a version.

        Raises:
            Problem: the model has no such version, or its file is damaged.
        """
        path = self.file(name, version)
        try:
            model = load(path)
        except ModelFileError as error:
            raise conflict(f"this version can't be used: {error}") from error
        if model.sha256 != version:
            raise conflict(f"{path}: the file has changed since it was kept; delete the version")
        return model

    def delete(self, name: str, version: str) -> None:
        """Delete a version.

        Raises:
            Problem: the model has no such version.
            OutputError: the file can't be deleted.
        """
        with self._lock:
            self._delete(self.file(name, version))

    def delete_all(self, name: str) -> None:
        """Delete all versions of a model.

        Raises:
            OutputError: a file can't be deleted.
        """
        with self._lock:
            # Records first: a version without one does not count.
            for suffix in (RECORD, FILE):
                for file in self._files(name, suffix):
                    self._delete(file)

    def _delete(self, file: Path) -> None:
        try:
            file.with_suffix(RECORD).unlink(missing_ok=True)
            file.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(file, error) from error

    def _prune(self, name: str) -> None:
        """Delete the oldest versions, and files that a crash left without a record."""
        for record in self.records(name)[self.keep + 1 :]:
            self._delete(self.folder / name / f"{record['id']}{FILE}")
        for path in self._files(name, FILE):
            if not path.with_suffix(RECORD).exists():
                self._delete(path)

    def _files(self, name: str, suffix: str) -> list[Path]:
        """Return the files of a model with a suffix; none if there is no such folder."""
        try:
            # Names come from requests: one such as ".." is in no listing.
            folders = [path for path in self.folder.iterdir() if path.name == name]
            files = [path for folder in folders for path in folder.iterdir()]
        except OSError:
            return []
        return [path for path in files if path.suffix == suffix and path.name[0] != "."]

    def _record(self, path: Path) -> dict[str, Any] | None:
        """Return a record, or ``None`` if there is none or it is damaged."""
        try:
            record: dict[str, Any] = json.loads(path.read_bytes())
            if not isinstance(record["number"], int) or not record["saves"][0]["at"]:
                raise ValueError("not a record of a version")
            return record
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            log.warning("versions: %s: can't be read: %s", path, error)
            return None


def _facts(model: Model) -> dict[str, Any]:
    """Return the part of a record that follows from the file."""
    calibration = model.calibration
    return {
        "bytes": len(model.data),
        "n_images": model.document.provenance.n_images,
        "threshold": calibration.threshold,
        "review_threshold": calibration.review_threshold,
        "expected_false_alarm_rate": calibration.expected_rate,
    }


def versions_body(name: str, versions: Versions, current: LoadedModel | None) -> dict[str, Any]:
    """Return the versions of a model, as the API shows them.

    Args:
        name: name of the model.
        versions: versions of all models.
        current: model in use; ``None`` if none is loaded.
    """
    sha256 = None if current is None else current.model.sha256
    return {
        "model": name,
        "keep": versions.keep,
        "versions": [
            {**record["saves"][0], **record, "current": record["id"] == sha256}
            for record in versions.records(name)
        ],
    }
