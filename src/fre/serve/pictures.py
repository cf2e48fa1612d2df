"""Images and anomaly maps of results, beside the database, within a bound."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np

from fre.serve.problems import Problem
from fre.types import FloatArray


class Pictures:
    """A folder of images and maps, by the id of their result.

    A large image gets a preview, a small JPEG beside it, when a small picture of it is first
    asked for, and so does a large map. Previews count towards the bound and go with their image.

    Args:
        folder: is made if it is missing.
        bound: bytes that may be kept; 0 keeps nothing.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder = folder
        self.bound = bound
        self._writing = threading.Lock()

    def image_path(self, identity: int) -> Path:
        """Path of the image's file, as it was sent."""
        return self.folder / f"{identity // 1000:06d}" / f"{identity}.image"

    def map_path(self, identity: int) -> Path:
        """Path of the map at the model's size."""
        return self.image_path(identity).with_suffix(".npy")

    def preview_path(self, identity: int) -> Path:
        """Path of the image's preview."""
        return self.image_path(identity).with_suffix(".preview.jpg")

    def map_preview_path(self, identity: int) -> Path:
        """Path of the map's preview."""
        return self.image_path(identity).with_suffix(".preview.npy")

    def _kept_paths(self, identity: int) -> list[Path]:
        paths = (self.image_path, self.map_path, self.preview_path, self.map_preview_path)
        return [path(identity) for path in paths]

    def _unfinished_path(self, identity: int) -> Path:
        return self.image_path(identity).with_suffix(".unfinished")

    def save(self, identity: int, data: bytes, anomaly_map: FloatArray) -> int:
        """Keep the pictures of a result.

        They are not flushed to the disk: after a power failure they may be missing, which is
        noticed when they are asked for.

        Args:
            identity: id of the result.
            data: the image's file.
            anomaly_map: float32 (H, W) at the model's size.

        Returns:
            The bytes that they take; 0 if they could not be kept.
        """
        if self.bound == 0:
            return 0
        buffer = io.BytesIO()
        np.save(buffer, anomaly_map, allow_pickle=False)
        try:
            self.image_path(identity).parent.mkdir(parents=True, exist_ok=True)
            self.image_path(identity).write_bytes(data)
            self.map_path(identity).write_bytes(buffer.getbuffer())
        except OSError:
            self.drop(identity)
            return 0
        return len(data) + buffer.tell()

    def save_preview(self, identity: int, image: bytes) -> None:
        """Keep the preview of an image, a JPEG file."""
        self._save(identity, self.preview_path(identity), image)

    def save_map_preview(self, identity: int, anomaly_map: FloatArray) -> None:
        """Keep the preview of a map, float32 (h, w)."""
        buffer = io.BytesIO()
        np.save(buffer, anomaly_map, allow_pickle=False)
        self._save(identity, self.map_preview_path(identity), buffer.getvalue())

    def _save(self, identity: int, path: Path, data: bytes) -> None:
        # Without room for a preview the next one who asks waits again.
        beside = self._unfinished_path(identity)
        with self._writing:
            try:
                beside.write_bytes(data)
                beside.replace(path)
            except OSError:
                beside.unlink(missing_ok=True)

    def size(self, identity: int) -> int:
        """Return the bytes that the pictures of a result take on the disk."""
        total = 0
        for path in self._kept_paths(identity):
            try:
                total += path.stat().st_size
            except OSError:  # noqa: PERF203  (a picture that is not there takes nothing)
                continue
        return total

    def drop(self, identity: int) -> None:
        """Delete the pictures of a result."""
        for path in (*self._kept_paths(identity), self._unfinished_path(identity)):
            path.unlink(missing_ok=True)

    def image(self, identity: int) -> bytes:
        """Return the image's file.

        Raises:
            Problem: it is not there any more.
        """
        try:
            return self.image_path(identity).read_bytes()
        except OSError as error:
            raise not_kept(identity) from error

    def anomaly_map(self, identity: int) -> FloatArray:
        """Return the map at the model's size, float32 (H, W).

        Raises:
            Problem: it is not there any more.
        """
        try:
            anomaly_map: FloatArray = np.load(self.map_path(identity), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise not_kept(identity) from error
        return anomaly_map

    def preview(self, identity: int) -> bytes | None:
        """Return the preview of the image, or ``None`` if there is none yet."""
        try:
            return self.preview_path(identity).read_bytes()
        except OSError:
            return None

    def map_preview(self, identity: int) -> FloatArray | None:
        """Return the preview of the map, or ``None`` if there is none yet."""
        try:
            preview: FloatArray = np.load(self.map_preview_path(identity), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return preview


def not_kept(identity: int) -> Problem:
    """Return the answer to a request for pictures that were dropped."""
    return Problem(
        404,
        "not_kept",
        f"the pictures of result {identity} were dropped to keep the disk bounded",
    )
