"""Previews: updated models that are not in place yet, and the changes that they would bring."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fre.images.loading import source_digest
from fre.inference.training_images import DIGEST_BYTES
from fre.model import Model
from fre.serve.lessons import Reviewed, compare
from fre.serve.odd import Images, draw_small
from fre.serve.responses import conflict, not_found
from fre.serve.thresholds import rates
from fre.types import Progress

MOST_PREVIEWS = 4
"""Previews in memory, of different models; each takes the size of its model file."""


@dataclass(frozen=True)
class Preview:
    """An updated model that is not in place.

    Attributes:
        name: name of the model.
        before: digest of the model that was updated.
        model: the updated model.
        results: ids of results whose images it learns.
        body: facts of both models and their differences, as the API shows them.
        pictures: small JPEG file of each new image, by its digest.
    """

    name: str
    before: str
    model: Model
    results: tuple[int, ...]
    body: dict[str, Any]
    pictures: dict[str, bytes]


class Previews:
    """The last preview of each model."""

    def __init__(self) -> None:
        self._previews: dict[str, Preview] = {}
        self._lock = threading.Lock()

    def put(self, preview: Preview) -> None:
        """Keep a preview instead of the last one of its model; the oldest go first."""
        with self._lock:
            self._previews.pop(preview.name, None)
            self._previews[preview.name] = preview
            while len(self._previews) > MOST_PREVIEWS:
                del self._previews[next(iter(self._previews))]

    def get(self, name: str, sha256: str | None = None) -> Preview:
        """Return the preview of a model.

        Args:
            name: name of the model.
            sha256: digest of the previewed model that the client saw; ``None`` accepts any.

        Raises:
            Problem: there is none, or it is another one.
        """
        preview = self._previews.get(name)
        if preview is None:
            raise not_found(f"no update of {name} is prepared: it was applied or discarded")
        if sha256 not in (None, preview.model.sha256):
            raise conflict(f"another update of {name} is prepared by now; look at it first")
        return preview

    def drop(self, preview: Preview) -> None:
        """Drop a preview, unless another one has taken its place."""
        with self._lock:
            if self._previews.get(preview.name) is preview:
                del self._previews[preview.name]

    def picture(self, name: str, digest: str) -> bytes:
        """Return the picture of an image to learn: a JPEG file.

        Raises:
            Problem: there is no preview, or no picture of this image.
        """
        picture = self.get(name).pictures.get(digest)
        if picture is None:
            raise not_found("there is no picture of this image")
        return picture


@dataclass(frozen=True)
class Update:
    """A model before and after an update.

    Attributes:
        name: name of the model.
        before: model that was updated.
        after: the updated model.
        images: path and name of each image that it learns.
        results: ids of results among these images.
    """

    name: str
    before: Model
    after: Model
    images: Images
    results: tuple[int, ...]

    def preview(self, reviewed: Sequence[Reviewed], progress: Progress) -> Preview:
        """Return the preview of this update.

        Args:
            reviewed: reviewed images of the model.
            progress: called as the work advances.
        """
        files = {source_digest(path)[: 2 * DIGEST_BYTES]: path for path, _ in self.images}
        pictures = draw_small(files, self.after.geometry.bits, progress, "Drawing the new images")
        body = {
            "model": self.name,
            "sha256": self.after.sha256,
            "before_sha256": self.before.sha256,
            "n_images": len(self.images),
            "images": self._images(files, pictures),
            "before": _decision(self.before),
            "after": _decision(self.after),
            "reviewed": compare(self.before, self.after, reviewed, progress),
        }
        return Preview(self.name, self.before.sha256, self.after, self.results, body, pictures)

    def _images(self, files: dict[str, Path], pictures: dict[str, bytes]) -> list[dict[str, Any]]:
        names = dict(self.images)
        address = f"/v1/models/{quote(self.name, safe='')}/preview"
        return [
            {"name": names[files[digest]], "picture": f"{address}/{digest}/image"}
            for digest in pictures
        ]


def _decision(model: Model) -> dict[str, Any]:
    calibration = model.calibration
    return {
        "n_images": model.document.provenance.n_images,
        "threshold": calibration.threshold,
        "review_threshold": calibration.review_threshold,
        **rates(calibration),
    }
