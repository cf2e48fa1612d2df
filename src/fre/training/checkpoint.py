"""Checkpoints of a streamed training, to resume it."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fre.errors import FREWarning, ImageError
from fre.features.stream import ImageRecord
from fre.images.decode import ImageSource
from fre.storage.files import atomic_file
from fre.training.fold_statistics import FoldStatistics
from fre.training.plan import StreamOptions
from fre.version import __version__


class _State:
    """How far the first pass has come."""

    def __init__(
        self, learner: FoldStatistics, options: StreamOptions, identity: str | None
    ) -> None:
        self.learner = learner
        self.consumed = 0
        self.images: list[ImageRecord] = []
        self.skipped: list[ImageError] = []
        self._file = options.checkpoint if identity else None
        self._pause = options.checkpoint_seconds
        self._identity = identity
        self._written = time.monotonic()

    def resume(self) -> None:
        """Resume from a checkpoint of this training; set a damaged one aside, and say so."""
        if self._file is None or not self._file.is_file():
            return
        try:
            with np.load(self._file, allow_pickle=False) as stored:
                arrays = dict(stored)
            notes = json.loads(str(arrays.pop("notes")))
            if notes["identity"] != self._identity:
                warnings.warn(
                    f"{self._file}: is of another training, or of other images; the training "
                    "starts anew",
                    FREWarning,
                    stacklevel=2,
                )
                return
            images = [ImageRecord.of_note(note) for note in notes["images"]]
            skipped = [ImageError(path, reason) for path, reason in notes["skipped"]]
            consumed = int(notes["consumed"])
            self.learner.restore(arrays)
        except Exception:  # each part of a damaged archive raises errors of its own
            aside = self._file.with_name(f"{self._file.name}.damaged")
            self._file.replace(aside)
            warnings.warn(
                f"{self._file}: damaged; set aside as {aside}, and the training starts anew",
                FREWarning,
                stacklevel=2,
            )
            return
        self.consumed, self.images, self.skipped = consumed, images, skipped

    def checkpoint(self) -> None:
        """Write the checkpoint, unless that was done a moment ago."""
        if self._file is None or time.monotonic() - self._written < self._pause:
            return
        notes = {
            "identity": self._identity,
            "consumed": self.consumed,
            "images": [image.to_note() for image in self.images],
            "skipped": [
                (None if error.path is None else str(error.path), error.reason)
                for error in self.skipped
            ],
        }
        with atomic_file(self._file) as file:
            arrays: dict[str, Any] = self.learner.to_arrays()
            np.savez(file, notes=np.array(json.dumps(notes)), **arrays)
        self._written = time.monotonic()


def _identity(
    settings: Mapping[str, Any], sources: Sequence[ImageSource], options: StreamOptions
) -> str | None:
    """Digest of everything that a training depends on; ``None`` where that is not known."""
    digest = hashlib.sha256(repr((__version__, dict(settings))).encode())
    digest.update(repr((options.capacity, options.augmentation, options.skip_unreadable)).encode())
    for source in sources:
        if not isinstance(source, (str, Path)):
            return None
        try:
            found = Path(source).stat()
        except OSError:
            digest.update(f"{source}\tmissing\n".encode())
        else:
            digest.update(f"{source}\t{found.st_size}\t{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
