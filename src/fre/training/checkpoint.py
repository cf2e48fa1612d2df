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
from numpy.typing import NDArray

from fre.errors import FREWarning, ImageError
from fre.features.stream import ImageRecord
from fre.images.augmentation import Augmentation
from fre.images.decode import ImageSource
from fre.storage.files import atomic_file
from fre.training.fold_statistics import FoldStatistics
from fre.version import __version__

CHECKPOINT_SECONDS = 60.0
"""Least time between two checkpoints."""


class FirstPass:
    """How far the first pass has come, and its checkpoint.

    Args:
        statistics: that accumulate.
        file: path of the checkpoint; ``None`` writes none.
        seconds: least time between two checkpoints.
        identity: digest of the training, from `identity_of`; ``None`` writes no checkpoint.

    Attributes:
        consumed: number of images that were read or skipped.
        images: records of those that were read.
        skipped: errors of those that were skipped.
    """

    def __init__(
        self,
        statistics: FoldStatistics,
        file: Path | None,
        seconds: float,
        identity: str | None,
    ) -> None:
        self.statistics = statistics
        self.consumed = 0
        self.images: list[ImageRecord] = []
        self.skipped: list[ImageError] = []
        self._file = file if identity else None
        self._pause = seconds
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
            self.statistics.restore(arrays)
        except Exception as error:  # each part of a damaged archive raises errors of its own
            aside = self._file.with_name(f"{self._file.name}.damaged")
            self._file.replace(aside)
            warnings.warn(
                f"{self._file}: damaged; set aside as {aside}, and the training starts anew "
                f"({type(error).__name__}: {error})",
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
            arrays: dict[str, Any] = self.statistics.to_arrays()
            np.savez(file, notes=np.array(json.dumps(notes)), **arrays)
        self._written = time.monotonic()


def identity_of(
    settings: Mapping[str, Any],
    sources: Sequence[ImageSource],
    fold_of: NDArray[np.intp],
    augmentation: Augmentation | None,
    skip_unreadable: bool,
) -> str | None:
    """Return a digest of everything that a training depends on; ``None`` if that is not known.

    Args:
        settings: settings of the training.
        sources: images. The names, sizes and times of files count; arrays have none.
        fold_of: the fold of each image.
        augmentation: augmentation of the images, if any.
        skip_unreadable: whether unreadable images are left out.
    """
    digest = hashlib.sha256(repr((__version__, dict(settings))).encode())
    digest.update(repr((augmentation, skip_unreadable)).encode())
    digest.update(fold_of.astype(np.int64).tobytes())
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
