"""Images of anomalous parts, with overlays, in a folder of bounded size."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from fre.drawing.heatmaps import encode, outline, overlay
from fre.errors import ImageError, OutputError
from fre.images.decode import read_image
from fre.inference.prediction import Prediction
from fre.line.frame import Frame
from fre.line.payload import Judgement, decision
from fre.storage.files import read_regular, write_atomic

NAME = re.compile(r"\d{8}T\d{9}Z-[0-9a-f]{6}-\w+(\.overlay)?\.\w+")
"""Names that this module gives; other files in the folder are never deleted."""


class PictureFolder:
    """Keeps images with their overlays; deletes the oldest beyond a limit.

    Args:
        folder: folder; created if missing.
        limit: total size in bytes.
        good: whether to keep images of good parts, too.
        warn: called with one line of text if a picture can't be written.

    Attributes:
        failed: number of pictures that could not be written.

    Raises:
        OutputError: the folder can't be used.
    """

    def __init__(
        self, folder: Path, limit: int, *, good: bool, warn: Callable[[str], None]
    ) -> None:
        self.folder = folder
        self.limit = limit
        self.good = good
        self.failed = 0
        self._warn = warn
        try:
            folder.mkdir(parents=True, exist_ok=True)
            found = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
            self._kept = deque((path, path.stat().st_size) for path in sorted(found))
        except OSError as error:
            raise OutputError(f"{folder}: can't be used: {error.strerror}") from error
        self._size = sum(size for _, size in self._kept)

    def save(self, frame: Frame, judgement: Judgement) -> Path | None:
        """Write image and overlay.

        Returns:
            The file of the image; ``None`` if it is not to be kept or can't be written.
        """
        result = judgement.result
        if isinstance(result, ImageError) or frame.image is None:
            return None
        if not (result.anomalous or self.good):
            return None
        moment = datetime.fromtimestamp(frame.taken, timezone.utc)
        stamp = f"{moment:%Y%m%dT%H%M%S}{moment.microsecond // 1000:03d}Z"
        digest = hashlib.sha256(frame.name.encode("utf-8", "backslashreplace")).hexdigest()[:6]
        stem = f"{stamp}-{digest}-{decision(result)}"
        try:
            suffix, content = _original(frame.image)
            picture = self.folder / f"{stem}{suffix}"
            self._write(picture, content)
            pixels = read_image(frame.image, result.bits)
            self._write(self.folder / f"{stem}.overlay.jpg", _overlay(pixels, result, judgement))
        except (OSError, OutputError, ImageError) as error:
            self.failed += 1
            if self.failed == 1:
                self._warn(f"{self.folder}: {error}; its line has no picture")
            return None
        return picture

    def _write(self, path: Path, content: bytes) -> None:
        while self._kept and self._size + len(content) > self.limit:
            oldest, size = self._kept.popleft()
            oldest.unlink(missing_ok=True)
            self._size -= size
        write_atomic(path, content)
        self._kept.append((path, len(content)))
        self._size += len(content)


def _original(image: Path | np.ndarray) -> tuple[str, bytes]:
    """Return the suffix and content of an image file: the file as it is, or a PNG of a frame."""
    if isinstance(image, Path):
        return image.suffix.lower(), read_regular(image)
    return ".png", encode(image, "PNG", compress_level=1)


def _overlay(pixels: np.ndarray, result: Prediction, judgement: Judgement) -> bytes:
    drawn = overlay(pixels, result.anomaly_map, judgement.model.map_range)
    if result.anomalous:
        drawn = outline(drawn, result.mask)
    return encode(drawn, "JPEG", quality=90)
