"""Images in memory: arrays of the usual types become uint8 RGB, and others are refused.

Image files follow the same rules: 16-bit values are read by the model's range. Floats have one
range, 0 to 1, and nothing is guessed from the values of one image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fre.errors import ImageError, OptionError
from fre.images.bits import check_range, known_bits
from fre.images.geometry import FULL_RANGE
from fre.types import ImageArray

ColorOrder: TypeAlias = Literal["rgb", "bgr"]
"""Order of an array's channels: Pillow's, or OpenCV's."""

FORMS = (
    "an image array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), of uint8, of uint16, or of "
    "floats from 0 to 1"
)


def check_array(image: NDArray[Any], bits: int | None = FULL_RANGE) -> ImageArray:
    """Return an array as uint8 RGB (H, W, 3), without a copy where it has that form.

    Args:
        image: (H, W) or (H, W, 1), grey; (H, W, 3), RGB; or (H, W, 4), whose alpha is dropped.
            uint8; uint16, whose ``bits`` lower bits are used; or floats in [0, 1], multiplied by
            255 and rounded.
        bits: range of 16-bit values, as in `fre.images.geometry.Decoding`.

    Raises:
        ImageError: the array has another form or type, is empty, or a value is out of range.
        UnfitError: a 16-bit value is outside the range, or the model knows no range.
    """
    if not isinstance(image, np.ndarray):
        raise ImageError(
            None,
            f"an image must be a path, a PIL image or an array, not {type(image).__name__}"
            + ("; PIL.Image.open(io.BytesIO(...)) opens the content of a file" * _is_bytes(image)),
        )
    shape = image.shape
    channels = shape[2] if image.ndim == 3 else 1
    floating = np.issubdtype(image.dtype, np.floating)
    typed = floating or image.dtype in (np.uint8, np.uint16)
    if not typed or image.ndim not in (2, 3) or channels not in (1, 3, 4):
        first = image.ndim == 3 and shape[0] in (1, 3, 4) and channels not in (1, 3, 4)
        hint = "; the channels come last: numpy.moveaxis(image, 0, -1)" if first else ""
        raise ImageError(None, f"{FORMS}, not {image.dtype} {shape}{hint}")
    if 0 in shape:
        raise ImageError(None, f"an image array must not be empty, as this one of {shape} is")
    if channels == 4:
        image = image[:, :, :3]
    pixels = _from_unit(image) if floating else _from_integers(image, bits)
    return pixels if channels > 1 else np.stack([pixels.reshape(shape[:2])] * 3, axis=2)


def _from_integers(image: NDArray[Any], bits: int | None) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return image
    known = known_bits(bits)
    check_range(int(image.max()), known)
    return (image >> (known - 8)).astype(np.uint8)


def _from_unit(image: NDArray[Any]) -> NDArray[np.uint8]:
    # NaN is the smallest and the largest value of an array that holds one.
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):
        found = "hold NaN" if np.isnan(low) else f"span {low:g} to {high:g}"
        raise ImageError(
            None,
            f"floats of an image must be from 0 to 1; these {found}: scale them, or give uint8",
        )
    return np.rint(image.astype(np.float32) * 255).astype(np.uint8)


def to_rgb(image: Any, color: ColorOrder) -> Any:
    """Return an image whose channels stand in the order red, green, blue.

    Args:
        image: array, file or PIL image.
        color: order of an array's channels; only ``"rgb"`` for files and PIL images, which state
            their own. Grey arrays stay as they are.

    Raises:
        OptionError: ``color`` is unknown, or the image is not an array.
    """
    if color not in ("rgb", "bgr"):
        raise OptionError(f"color must be 'rgb' or 'bgr', not {color!r}")
    if color == "rgb":
        return image
    if not isinstance(image, np.ndarray):
        raise OptionError(
            f"color='bgr' is for arrays, such as OpenCV's; a {type(image).__name__} states its own"
        )
    colour = image.ndim == 3 and image.shape[2] in (3, 4)
    return image[:, :, 2::-1] if colour else image


def largest_in_memory(image: object) -> int | None:
    """Return the largest value of a 16-bit array or PIL image; ``None`` for other images."""
    if isinstance(image, Image.Image) and image.mode.startswith("I;16"):
        image = np.asarray(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint16 and image.size:
        return int(image.max())
    return None


def check_several(images: object) -> None:
    """Refuse one image where several are expected: fre would take its rows for images.

    Raises:
        ImageError: ``images`` is a PIL image, bytes, or an array of fewer than four dimensions
            that holds no paths; or it can't be gone through.
    """
    of_pixels = isinstance(images, np.ndarray) and images.dtype.kind not in "OUT"
    flat = isinstance(images, np.ndarray) and images.ndim < 4
    expected = "several images are expected, as a folder, a list or an array (N, H, W, 3)"
    if isinstance(images, Image.Image) or _is_bytes(images) or (of_pixels and flat):
        raise ImageError(None, f"{expected}: put one {type(images).__name__} into a list")
    if not isinstance(images, (str, os.PathLike, Iterable)):
        raise ImageError(None, f"{expected}, not {type(images).__name__}")


def _is_bytes(value: object) -> bool:
    return isinstance(value, (bytes, bytearray, memoryview))
