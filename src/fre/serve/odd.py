"""Odd training images of the models that the service trained: names, pictures and files.

The files of a training are kept after it has ended if some of its images are odd, so that a person
may leave them out and train again. They count as uploads: if the disk space of these is exhausted,
the oldest go first. Their small pictures stay in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fre.drawing.heatmaps import encode, thumbnail
from fre.model import Model
from fre.scoring.calibration import count_odd
from fre.serve.pictures import decode_small
from fre.serve.responses import conflict, invalid, not_found
from fre.serve.staging import Staging
from fre.storage.files import read_regular
from fre.types import Progress

SIDE = 320
"""Longest side of the picture of an odd image, in pixels."""
MOST_PICTURES = 50
"""Number of images that get a picture."""

Images = list[tuple[Path, str]]
"""Path and client's name of each image."""


@dataclass
class KeptTraining:
    """A training whose images are kept, since some of them are odd.

    Attributes:
        calibration_sha256: digest of the model's calibration scores: of other ones, it is another
            model.
        parameters: keyword arguments of `fre.FRE`.
        images: images of the training.
        odd: file of each odd image, by its digest.
        pictures: small JPEG file of each odd image, by its digest.
        staging: folder of the files; ``None`` once they are deleted.
        busy: whether a job trains on the files.
    """

    calibration_sha256: str
    parameters: dict[str, Any]
    images: Images
    odd: dict[str, Path]
    pictures: dict[str, bytes]
    staging: Staging | None
    busy: bool = False

    def without(self, names: Sequence[str]) -> tuple[Images, list[str]]:
        """Return the images to train on, and the names of those that are left out.

        Args:
            names: names or digests of odd images, or names of others; empty for all odd images.

        Raises:
            Problem: no image, or several, have such a name.
        """
        odd = [name for name in names if name in self.odd]
        out = {self.odd[digest] for digest in (odd if names else self.odd)}
        kept, left_out = leave_out(self.images, [name for name in names if name not in odd])
        left_out += [name for path, name in kept if path in out]
        return [(path, name) for path, name in kept if path not in out], left_out


class KeptTrainings:
    """The last training of each model, if some of its images are odd."""

    def __init__(self) -> None:
        self._kept: dict[str, KeptTraining] = {}
        self._lock = threading.RLock()

    def keep(self, name: str, kept: KeptTraining | None) -> None:
        """Take the last training of a model, or none; the files of the one before are deleted."""
        with self._lock:
            before = self._kept.pop(name, None)
            if kept is not None:
                self._kept[name] = kept
            if before is not None:
                self._delete(before)

    def get(self, name: str, calibration_sha256: str) -> KeptTraining | None:
        """Return the training of a model as it is now, if it is kept."""
        kept = self._kept.get(name)
        return kept if kept and kept.calibration_sha256 == calibration_sha256 else None

    def take(self, name: str, calibration_sha256: str) -> KeptTraining:
        """Return the training of a model, for a job that trains on its files again.

        Raises:
            Problem: the files are no longer there, or another job trains on them.
        """
        with self._lock:
            kept = self.get(name, calibration_sha256)
            if kept is None or kept.staging is None:
                raise conflict(GONE)
            if kept.busy:
                raise conflict(f"{name} is being trained again already")
            kept.busy = True
            return kept

    def remove(self, staging: Staging) -> None:
        """Delete the files of a job that has ended, unless its training is kept."""
        with self._lock:
            if all(kept.staging is not staging for kept in self._kept.values()):
                staging.remove()

    def prune(self, calibrations: Mapping[str, str]) -> None:
        """Forget trainings of models that were deleted, updated, or trained elsewhere.

        Args:
            calibrations: digest of the calibration scores of each model.
        """
        with self._lock:
            for name, kept in list(self._kept.items()):
                if calibrations.get(name) != kept.calibration_sha256:
                    self._delete(self._kept.pop(name))

    def make_room(self) -> bool:
        """Delete the files of the oldest training; return whether there was one."""
        with self._lock:
            for kept in self._kept.values():
                if kept.staging is not None and not kept.busy:
                    self._delete(kept)
                    return True
        return False

    def _delete(self, kept: KeptTraining) -> None:
        # Files in use are deleted by the end of their job.
        if kept.staging is not None and not kept.busy:
            staging, kept.staging = kept.staging, None
            self.remove(staging)


GONE = (
    "the images of this training are no longer kept: train again on your files without the odd "
    "ones, or keep the odd images as good ones"
)


def leave_out(images: Images, names: Collection[str]) -> tuple[Images, list[str]]:
    """Return images without the named ones, and the names of those.

    Args:
        images: path and name of each image.
        names: names of images, with or without their folders.

    Raises:
        Problem: no image, or several, have such a name.
    """
    out: list[str] = []
    for asked in names:
        known = [name for _, name in images]
        same = [name for name in known if name == asked]
        same = same or [name for name in known if name.rsplit("/", 1)[-1] == asked]
        if len(same) != 1:
            count = "no image is" if not same else f"{len(same)} images are"
            raise invalid(f"without: {count} called {asked}")
        out += same
    return [(path, name) for path, name in images if name not in out], out


def draw_small(
    files: Mapping[str, Path], bits: int | None, progress: Progress, task: str
) -> dict[str, bytes]:
    """Draw training images small.

    They have no heat maps: a model that was fitted to an image explains what is odd about it.

    Args:
        files: file of each image, by its digest.
        bits: range of 16-bit values of the model.
        progress: called after each image.
        task: name of the work, for ``progress``.

    Returns:
        A JPEG file by digest, of the first 50 images.
    """
    found: dict[str, bytes] = {}
    wanted = list(files.items())[:MOST_PICTURES]
    for digest, path in wanted:
        image = thumbnail(decode_small(read_regular(path), SIDE, bits), SIDE)
        found[digest] = encode(image, "JPEG", quality=88)
        progress(task, len(found), len(wanted))
    return found


def odd_body(name: str, model: Model, kept: KeptTraining | None) -> dict[str, Any]:
    """Return the odd training images of a model, as the API shows them."""
    calibration = model.calibration
    n_odd = count_odd(calibration.scores)
    images = model.training_images.highest(n_odd) if n_odd else []
    pictures = {} if kept is None else kept.pictures
    files = kept is not None and kept.staging is not None
    rest = calibration.scores[: len(calibration.scores) - n_odd]
    return {
        "model": name,
        "sha256": model.sha256,
        "images": [
            image._asdict()
            | {
                "picture": f"/v1/models/{quote(name, safe='')}/odd/{image.digest}/image"
                if image.digest in pictures
                else None
            }
            for image in images
        ],
        "keep_odd": calibration.keep_odd,
        "next_score": float(rest[-1]) if images else None,
        "can_train_again": files,
        "note": GONE if images and not files else None,
    }


def picture_of(kept: KeptTraining | None, digest: str) -> bytes:
    """Return the picture of an odd image: a JPEG file.

    Raises:
        Problem: no odd image has this digest, or there is no picture of it.
    """
    if kept is None or digest not in kept.pictures:
        raise not_found("there is no picture of this training image")
    return kept.pictures[digest]
