"""Images and anomaly maps of results, beside the database, within a bound."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from fre.errors import ImageError
from fre.geometry import FULL_RANGE, Preparation
from fre.images import decode_resized
from fre.maps import resize_map
from fre.output import encode_map
from fre.serve.problems import Problem
from fre.types import FloatArray, ImageArray
from fre.visualize import Scale, heat_layer, overlay, thumbnail

__all__ = ["BROWSER_TYPES", "MEDIA_TYPES", "Pictures", "render"]

BROWSER_TYPES = {
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
}
"""Formats that browsers show; others are converted."""

MEDIA_TYPES = {"png": "image/png", "npy": "application/octet-stream", "tiff": "image/tiff"}


class Pictures:
    """A folder of images and maps, by the id of their result.

    Args:
        folder: is made if it is missing.
        bound: bytes that may be kept; 0 keeps nothing.
    """

    def __init__(self, folder: Path, bound: int) -> None:
        self.folder = folder
        self.bound = bound

    def _paths(self, identity: int) -> tuple[Path, Path]:
        folder = self.folder / f"{identity // 1000:06d}"
        return folder / f"{identity}.image", folder / f"{identity}.npy"

    def save(self, identity: int, data: bytes, anomaly_map: FloatArray) -> int:
        """Keep the pictures of a result.

        They are not flushed to the disk: after a power failure they may be missing, which is
        noticed when they are asked for.

        Returns:
            The bytes that they take; 0 if they could not be kept.
        """
        if self.bound == 0:
            return 0
        image_path, map_path = self._paths(identity)
        buffer = io.BytesIO()
        np.save(buffer, anomaly_map, allow_pickle=False)
        try:
            image_path.parent.mkdir(parents=True, exist_ok=True)
            image_path.write_bytes(data)
            map_path.write_bytes(buffer.getbuffer())
        except OSError:
            self.drop(identity)
            return 0
        return len(data) + buffer.tell()

    def drop(self, identity: int) -> None:
        """Delete the pictures of a result."""
        for path in self._paths(identity):
            path.unlink(missing_ok=True)

    def load(self, identity: int) -> tuple[bytes, FloatArray]:
        """The image's file, and the map at the model's size.

        Raises:
            Problem: they are not there any more.
        """
        image_path, map_path = self._paths(identity)
        try:
            data = image_path.read_bytes()
            anomaly_map: FloatArray = np.load(map_path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise Problem(
                404,
                "not_kept",
                f"the pictures of result {identity} were dropped to keep the disk bounded",
            ) from error
        return data, anomaly_map


def render(
    kind: str,
    data: bytes,
    form: str,
    anomaly_map: FloatArray,
    scale: Scale,
    *,
    size: int | None = None,
    map_format: str = "png",
) -> tuple[bytes, str]:
    """A picture of a result as a file, and its media type.

    Args:
        kind: ``"image"``, ``"overlay"``, ``"heat"`` or ``"map"``.
        data: the image's file.
        form: its format, as `fre.images.probe` says.
        anomaly_map: float32 (H, W) at the model's size.
        scale: the model's range of the map.
        size: the longest side of an image or overlay at most.
        map_format: of the map.

    Raises:
        Problem: the image can't be decoded.
    """
    if kind == "heat":
        return _encode(heat_layer(anomaly_map, scale), "PNG"), "image/png"
    if kind == "image" and size is None and form in BROWSER_TYPES:
        return data, BROWSER_TYPES[form]
    try:
        # Of 16-bit values, the range that they were scored by.
        bits = int(form.partition(":")[2] or FULL_RANGE)
        image, original = decode_resized(data, Preparation(None, bits), name="image")
    except ImageError as error:
        raise Problem(422, "unreadable", str(error)) from error
    if kind == "map":
        full = resize_map(anomaly_map, original)
        return encode_map(full, map_format, scale), MEDIA_TYPES[map_format]
    if size is not None:
        image = thumbnail(image, size)
    if kind == "overlay":
        image = overlay(image, resize_map(anomaly_map, image.shape[:2]), scale)
    if kind == "image" and size is None:
        return _encode(image, "PNG"), "image/png"
    return _encode(image, "JPEG"), "image/jpeg"


def _encode(image: ImageArray, form: str) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": 88} if form == "JPEG" else {"compress_level": 1}
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, form, **options)
    return buffer.getvalue()
