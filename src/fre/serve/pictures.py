"""Images and anomaly maps of results: stored within a bound, and drawn as pictures.

`Pictures` stores files by the id of their result. `draw` makes small images, overlays, heat layers
and full maps of them. `drawing_process` draws pictures of huge images outside the service.
"""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image

from fre.drawing.heatmaps import heat_layer, overlay, thumbnail
from fre.errors import ImageError
from fre.images.decode import decode_resized
from fre.images.geometry import FULL_RANGE, Decoding
from fre.images.resize import resize_map
from fre.report.prediction_files import write_map
from fre.serve.responses import Problem
from fre.types import FloatArray, ImageArray

IMAGE, MAP = ".image", ".npy"
"""Suffixes of an image file as the client sent it, and of a map at the model's size."""
PREVIEW, MAP_PREVIEW = ".preview.jpg", ".preview.npy"
UNFINISHED = ".unfinished"
KEPT = (IMAGE, MAP, PREVIEW, MAP_PREVIEW)


def _npy(anomaly_map: FloatArray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, anomaly_map, allow_pickle=False)
    return buffer.getvalue()


class Pictures:
    """A folder of images and maps, by the id of their result.

    The first request for a small picture of a large image writes a preview, a small JPEG beside
    it; the same holds for a large map. Previews count towards the bound and are deleted with their
    image.

    Args:
        folder: folder; created if missing.
        bound: largest size of all pictures, in bytes; 0 stores nothing.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder = folder
        self.bound = bound
        self._writing = threading.Lock()

    def path(self, identity: int, suffix: str) -> Path:
        """Return the path of a file of a result.

        Args:
            identity: id of the result.
            suffix: `IMAGE`, `MAP`, `PREVIEW` or `MAP_PREVIEW`.
        """
        return self.folder / f"{identity // 1000:06d}" / f"{identity}{suffix}"

    def save(self, identity: int, data: bytes, anomaly_map: FloatArray) -> int:
        """Store the pictures of a result.

        They are not flushed to the disk. After a power failure they may be missing; a request for
        them then gets an error.

        Args:
            identity: id of the result.
            data: content of the image file.
            anomaly_map: float32 (H, W) at the model's size.

        Returns:
            Stored size in bytes; 0 if the pictures could not be stored.
        """
        if self.bound == 0:
            return 0
        saved = _npy(anomaly_map)
        try:
            self.path(identity, IMAGE).parent.mkdir(parents=True, exist_ok=True)
            self.path(identity, IMAGE).write_bytes(data)
            self.path(identity, MAP).write_bytes(saved)
        except OSError:
            self.drop(identity)
            return 0
        return len(data) + len(saved)

    def save_preview(self, identity: int, image: bytes) -> None:
        """Store the preview of an image, a JPEG file."""
        self._save(identity, self.path(identity, PREVIEW), image)

    def save_map_preview(self, identity: int, anomaly_map: FloatArray) -> None:
        """Store the preview of a map, float32 (h, w)."""
        self._save(identity, self.path(identity, MAP_PREVIEW), _npy(anomaly_map))

    def _save(self, identity: int, path: Path, data: bytes) -> None:
        # If the disk has no room, the next request draws the preview again.
        beside = self.path(identity, UNFINISHED)
        with self._writing:
            try:
                beside.write_bytes(data)
                beside.replace(path)
            except OSError:
                beside.unlink(missing_ok=True)

    def size(self, identity: int) -> int:
        """Return the size of all pictures of a result, in bytes."""
        total = 0
        for suffix in KEPT:
            try:
                total += self.path(identity, suffix).stat().st_size
            except OSError:  # the picture does not exist
                continue
        return total

    def drop(self, identity: int) -> None:
        """Delete the pictures of a result."""
        for suffix in (*KEPT, UNFINISHED):
            self.path(identity, suffix).unlink(missing_ok=True)

    def image(self, identity: int) -> bytes:
        """Return the content of the image file.

        Raises:
            Problem: the file does not exist any more.
        """
        try:
            return self.path(identity, IMAGE).read_bytes()
        except OSError as error:
            raise not_kept(identity) from error

    def anomaly_map(self, identity: int) -> FloatArray:
        """Return the map at the model's size, float32 (H, W).

        Raises:
            Problem: the file does not exist any more.
        """
        try:
            anomaly_map: FloatArray = np.load(self.path(identity, MAP), allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise not_kept(identity) from error
        return anomaly_map

    def preview(self, identity: int) -> bytes | None:
        """Return the image preview, or ``None`` if there is none yet."""
        try:
            return self.path(identity, PREVIEW).read_bytes()
        except OSError:
            return None

    def map_preview(self, identity: int) -> FloatArray | None:
        """Return the map preview, or ``None`` if there is none yet."""
        try:
            preview: FloatArray = np.load(self.path(identity, MAP_PREVIEW), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return preview


def not_kept(identity: int) -> Problem:
    """Return the error for pictures that were deleted."""
    return Problem(
        404,
        "not_kept",
        f"the pictures of result {identity} were deleted to limit the disk space",
    )


BROWSER_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
}
"""Formats that browsers show; others are converted."""

MAP_TYPES = {"png": "image/png", "npy": "application/octet-stream", "tiff": "image/tiff"}

PREVIEW_SIDE = 640
"""Longest side of a preview, in pixels: twice that of a card, for high-density screens."""
PREVIEW_PIXELS = 1_000_000
"""Number of pixels up to which an image needs no preview."""
HEAT_SIDE = 2048
"""Longest side of a heat layer, in pixels: a map of tiles is as large as its image."""


@dataclass(frozen=True)
class StoredImage:
    """A result with stored pictures.

    Attributes:
        identity: id of the result.
        form: Pillow's name of the image format; ``"PNG:12"`` if 16-bit values were read as 12 bits.
        size: height and width of the upright image, in pixels.
        scale: map range of the model at the time of the prediction.
    """

    identity: int
    form: str
    size: tuple[int, int]
    scale: tuple[float, float]

    @property
    def bits(self) -> int:
        """Range of 16-bit values in bits, as used for the prediction."""
        return int(self.form.partition(":")[2] or FULL_RANGE)

    @property
    def pixels(self) -> int:
        """Number of pixels of the image."""
        return self.size[0] * self.size[1]


@dataclass(frozen=True)
class PictureRequest:
    """A requested picture.

    Attributes:
        kind: ``"image"``, ``"overlay"``, ``"heat"`` or ``"map"``.
        size: longest side of an image or overlay, in pixels; ``None`` keeps the full size.
        map_format: format of a map: ``"png"``, ``"npy"`` or ``"tiff"``.
    """

    kind: str
    size: int | None = None
    map_format: str = "png"


def media_type(stored: StoredImage, wanted: PictureRequest) -> str:
    """Return the media type of a picture."""
    if wanted.kind == "map":
        return MAP_TYPES[wanted.map_format]
    if wanted.kind == "heat":
        return "image/png"
    if wanted.size is None and wanted.kind == "image":
        return BROWSER_TYPES.get(stored.form, "image/png")
    return "image/jpeg"


def wants_preview(stored: StoredImage, wanted: PictureRequest) -> bool:
    """Return whether a picture is drawn from the preview of its image."""
    small = wanted.size is not None and wanted.size <= PREVIEW_SIDE
    return small and wanted.kind in ("image", "overlay") and stored.pixels > PREVIEW_PIXELS


def draw(pictures: Pictures, stored: StoredImage, wanted: PictureRequest, file: IO[bytes]) -> None:
    """Draw a picture of a result into an open file.

    An image is decoded at the requested size, never larger.

    Args:
        pictures: stored images and maps.
        stored: the result.
        wanted: the requested picture.
        file: file open for writing.

    Raises:
        Problem: the pictures were deleted, or the image can't be decoded.
        OptionError: the map or its range has numbers that are not finite.
    """
    identity = stored.identity
    if wanted.kind == "heat":
        anomaly_map = pictures.anomaly_map(identity)
        anomaly_map = resize_map(anomaly_map, fitted(anomaly_map.shape, HEAT_SIDE))
        _encode(heat_layer(anomaly_map, stored.scale), "PNG", file)
        return
    if wanted.kind == "map":
        anomaly_map = pictures.anomaly_map(identity)
        write_map(file, anomaly_map, wanted.map_format, stored.scale, stored.size)
        return
    image = _reduced(pictures, stored, wanted)
    if wanted.kind == "overlay":
        anomaly_map = _reduced_map(pictures, stored, wanted)
        image = overlay(image, resize_map(anomaly_map, image.shape[:2]), stored.scale)
    _encode(image, "PNG" if wanted.size is None else "JPEG", file)


def _reduced(pictures: Pictures, stored: StoredImage, wanted: PictureRequest) -> ImageArray:
    """Return the image at the requested longest side: uint8 (h, w, 3)."""
    if not wants_preview(stored, wanted):
        return _decode(pictures.image(stored.identity), wanted.size, stored.bits)
    assert wanted.size is not None
    known = pictures.preview(stored.identity)
    if known is not None:
        try:
            return _decode(known, wanted.size)
        except Problem:  # truncated by a power failure: draw it again
            pass
    image = _decode(pictures.image(stored.identity), PREVIEW_SIDE, stored.bits)
    buffer = io.BytesIO()
    _encode(image, "JPEG", buffer)
    pictures.save_preview(stored.identity, buffer.getvalue())
    return thumbnail(image, wanted.size)


def _reduced_map(pictures: Pictures, stored: StoredImage, wanted: PictureRequest) -> FloatArray:
    """Return the map, or its preview if that suffices: float32 (h, w)."""
    if not wants_preview(stored, wanted):
        return pictures.anomaly_map(stored.identity)
    preview = pictures.map_preview(stored.identity)
    if preview is not None:
        return preview
    anomaly_map = pictures.anomaly_map(stored.identity)
    if anomaly_map.size > PREVIEW_PIXELS:  # the model has tiles
        anomaly_map = resize_map(anomaly_map, fitted(anomaly_map.shape, PREVIEW_SIDE))
        pictures.save_map_preview(stored.identity, anomaly_map)
    return anomaly_map


def fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return height and width scaled down to a longest side, in pixels."""
    factor = min(1.0, longest / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _decode(data: bytes, longest: int | None, bits: int = FULL_RANGE) -> ImageArray:
    def target(size: tuple[int, int]) -> tuple[int, int] | None:
        return None if longest is None or max(size) <= longest else fitted(size, longest)

    try:
        return decode_resized(data, Decoding(target, bits), name="image")[0]
    except ImageError as error:
        raise Problem(422, "unreadable", str(error)) from error


def decode_small(data: bytes, longest: int, bits: int | None) -> ImageArray:
    """Return an image with a longest side of ``longest`` pixels at most: uint8 (h, w, 3).

    Raises:
        Problem: the image can't be decoded.
    """
    return _decode(data, longest, FULL_RANGE if bits is None else bits)


def _encode(image: ImageArray, form: str, file: IO[bytes]) -> None:
    options = {"quality": 88} if form == "JPEG" else {"compress_level": 1}
    Image.fromarray(np.ascontiguousarray(image)).save(file, form, **options)
