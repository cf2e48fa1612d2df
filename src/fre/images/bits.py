"""Scaling of 16-bit images to 8 bits, by the range that their camera uses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from fre.images.formats import UnfitError, open_image
from fre.images.geometry import BITS, FULL_RANGE
from fre.images.resize import row_bands

_NATIVE, _OTHER = (";16L", ";16B") if sys.byteorder == "little" else (";16B", ";16L")
_SWAPPED = {";16B": ";16L", ";16L": ";16B", ";16N": _OTHER}
"""Raw modes of the other byte order, with which Pillow unpacks low instead of high bytes."""


def _is_deep_grey(image: Image.Image) -> bool:
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))


def is_deep_colour(image: Image.Image) -> bool:
    """Tell whether an opened file, not yet loaded, has several channels of 16 bits."""
    return any(";16" in raw and raw[0] not in "IF" for raw in _raw_modes(image))


def is_deep(image: Image.Image) -> bool:
    """Tell whether an opened file, not yet loaded, has 16 bits a value."""
    return _is_deep_grey(image) or is_deep_colour(image)


def _raw_modes(image: Image.Image) -> list[str]:
    """Return Pillow's name for the storage of the values of each strip or tile."""
    arguments = [tile[3] for tile in getattr(image, "tile", ())]
    return [value if isinstance(value, str) else str(value[0]) for value in arguments if value]


def eight_bits(image: Image.Image, bits: int | None = FULL_RANGE) -> Image.Image:
    """Return an image in mode L or RGB, its values on 0..255.

    Alpha is dropped. Floating-point and 32-bit integer values, whose range no file states, are
    refused.

    Args:
        image: image that Pillow opened.
        bits: range of 16-bit values, as in `fre.images.geometry.Decoding`.

    Raises:
        UnfitError: the range is not known, or a value is outside it.
    """
    if image.mode in ("L", "RGB"):
        return image
    if _is_deep_grey(image):
        return _shallow(image, bits)
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit integer"
        raise UnfitError(f"{kind} pixels have no stated range; convert the file to 8 or 16 bits")
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _shallow(image: Image.Image, bits: int | None) -> Image.Image:
    """Scale a grey image of 16 bits to 8, some rows at a time."""
    known = known_bits(bits)
    image.load()
    width, height = image.size
    grey = np.empty((height, width), np.uint8)
    for rows in row_bands((height, width)):
        values = _values(image, rows)
        check_range(int(values.max()), known)
        np.right_shift(values, known - 8, out=grey[rows], casting="unsafe")
    return Image.fromarray(grey)


def _values(image: Image.Image, rows: slice) -> NDArray[Any]:
    return np.asarray(image.crop((0, rows.start, image.width, rows.stop)))


def known_bits(bits: int | None) -> int:
    """Return the range of 16-bit values.

    Raises:
        UnfitError: the model knows no range.
    """
    if bits is None:
        raise UnfitError(
            "16-bit values, where the training images have 8 bits; convert the file to 8 bits, or "
            "train with --bits 10, 12, 14 or 16, the range of the values"
        )
    return bits


def check_range(largest: int, bits: int) -> None:
    """Refuse 16-bit values beyond a range.

    Raises:
        UnfitError: the largest value is beyond it.
    """
    if largest >> bits:
        raise UnfitError(
            f"a value of {largest:,}, where the training images are read as {bits}-bit values, 0 "
            f"to {2**bits - 1:,}; give images of that range, or train with a larger --bits"
        )


@contextmanager
def open_low_bytes(
    source: Path | str | bytes, name: Path | str | None
) -> Iterator[ImageFile.ImageFile]:
    """Open an image of 16-bit colour for the low byte of each value.

    Raises:
        ImageError: as for `fre.images.formats.open_image`.
        UnfitError: Pillow can't give the low bytes of such a file.
    """
    with open_image(source, name) as image:
        stored: list[Any] = image.tile
        tiles: list[Any] = []
        for codec, extents, offset, args in stored:
            raw = args if isinstance(args, str) else args[0]
            swapped = raw[:-4] + _SWAPPED.get(raw[-4:], "")
            if swapped[:-4] not in ("RGB", "RGBA", "RGBX") or not swapped.endswith(
                (";16L", ";16B")
            ):
                raise UnfitError(
                    f"16-bit colour of the kind {raw} can't be read in full; save it as RGB or grey"
                )
            low = swapped if isinstance(args, str) else (swapped, *args[1:])
            tiles.append((codec, extents, offset, low))
        image.tile = tiles
        yield image


def deep_colour(high: Image.Image, low: Image.Image, bits: int | None) -> Image.Image:
    """Join the two bytes of each value, and return the 8-bit image in mode RGB.

    Args:
        high: image of the high bytes.
        low: image of the low bytes.
        bits: range of 16-bit values, as in `fre.images.geometry.Decoding`.

    Raises:
        UnfitError: the range is not known, or a value is outside it.
    """
    known = known_bits(bits)
    high.load()
    low.load()
    width, height = high.size
    colour = np.empty((height, width, 3), np.uint8)
    for rows in row_bands((height, width)):
        upper, lower = (_values(image, rows)[:, :, :3] for image in (high, low))
        values = upper.astype(np.uint16) << 8 | lower
        check_range(int(values.max()), known)
        np.right_shift(values, known - 8, out=colour[rows], casting="unsafe")
    return Image.fromarray(colour)


def largest_value(source: Path | str | bytes, name: Path | str) -> int | None:
    """Return the largest value of a 16-bit image file; ``None`` for a file of 8 bits.

    The low byte of colour counts as 255.

    Raises:
        ImageError: the file can't be read.
    """
    with open_image(source, name) as image:
        colour = is_deep_colour(image)
        if not colour and not _is_deep_grey(image):
            return None
        image.load()
        bands = row_bands((image.height, image.width))
        if colour:
            return max(int(_values(image, rows)[:, :, :3].max()) for rows in bands) << 8 | 255
        return max(int(_values(image, rows).max()) for rows in bands)


def bits_of(largest: int) -> int:
    """Return the smallest range in `BITS` that holds a value."""
    return next(bits for bits in BITS if largest < 2**bits)
