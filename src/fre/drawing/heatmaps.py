"""Pictures of anomaly maps: heat colours, overlays, outlines and labelled sheets.

Every function but `encode` takes and returns arrays. A scale is a pair (low, high) of map values
from the calibration of a model: ``low`` is a typical good pixel, ``high`` a clearly anomalous one.
It never depends on the drawn image, so that a colour means the same in every picture of a model.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from fre.errors import OptionError
from fre.images.resize import row_bands
from fre.types import FloatArray, ImageArray, MaskArray

Scale: TypeAlias = "tuple[float, float]"
"""The map values of a typical good pixel and of a clearly anomalous one."""
Colour: TypeAlias = "tuple[int, int, int]"
"""Red, green and blue, each from 0 to 255."""
Tile: TypeAlias = "tuple[ImageArray, str]"
"""An image, uint8 (H, W, 3), and its caption."""

OUTLINE_COLOUR: Colour = (0, 229, 192)
"""Colour that neither the heat map nor most industrial parts have."""

# Lightness (CIE L*) rises in near equal steps from 10 to 95: the order of the values survives
# black-and-white printing and colour-blind eyes.
CONTROL_POINTS: tuple[Colour, ...] = (
    (33, 17, 68),
    (96, 18, 110),
    (167, 32, 96),
    (222, 66, 52),
    (246, 132, 20),
    (253, 196, 56),
    (255, 243, 176),
)
# Less than 1, so that the surface of the part stays visible under its defect.
MAX_OPACITY = 0.8

MARGIN = 8
CAPTION_SIZE = 14
CAPTION_HEIGHT = 24
PAPER: Colour = (255, 255, 255)
INK: Colour = (38, 40, 43)


def encode(pixels: NDArray[np.uint8], form: str, **options: Any) -> bytes:
    """Return pixels as an image file.

    Args:
        pixels: uint8 (H, W), (H, W, 3) or (H, W, 4).
        form: format of Pillow, such as ``"PNG"``.
        options: options of Pillow for this format.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def colorize(anomaly_map: FloatArray, scale: Scale) -> ImageArray:
    """Colour an anomaly map, dark at ``low`` and bright at ``high``.

    Args:
        anomaly_map: float32 (H, W).
        scale: (low, high); values outside take the colour of the nearer end.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        OptionError: the map is not two-dimensional or holds NaN, or the scale does not rise.
    """
    return _heat_colours(_heat(anomaly_map, scale))


def heat_layer(anomaly_map: FloatArray, scale: Scale) -> NDArray[np.uint8]:
    """Colour an anomaly map with opacity, to lay it over the image.

    Opacity rises smoothly from 0 at ``low`` to 80 % at ``high``. It rises slowly at both ends, so
    that noise just above ``low`` does not change a good image.

    Args:
        anomaly_map: float32 (H, W).
        scale: (low, high).

    Returns:
        uint8 (H, W, 4), RGBA, not premultiplied.

    Raises:
        OptionError: as for `colorize`.
    """
    return _heat_layer(_heat(anomaly_map, scale))


def overlay(image: ImageArray, anomaly_map: FloatArray, scale: Scale) -> ImageArray:
    """Lay an anomaly map over its image: normal parts look as they are, defects glow.

    Args:
        image: uint8 (H, W, 3), RGB.
        anomaly_map: float32 (H, W), at the size of the image.
        scale: (low, high); the image is unchanged where the map is at most ``low``.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        OptionError: as for `colorize`, or the image and the map differ in size.
    """
    _require_same_size(image, anomaly_map, "anomaly map")
    result = image.copy()
    for band in row_bands(anomaly_map.shape):
        heat = _heat(anomaly_map[band], scale)
        # Most pixels don't glow: only rows and columns that do are blended.
        rows, columns = (np.flatnonzero(heat.any(axis=axis)) for axis in (1, 0))
        if len(rows) == 0:
            continue
        warm = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        layer = _heat_layer(heat[warm])
        alpha = layer[..., 3:].astype(np.float32) / 255
        below = result[band][warm]
        below[:] = np.rint(below + alpha * (layer[..., :3].astype(np.float32) - below))
    return result


def outline(
    image: ImageArray, mask: MaskArray, colour: Colour = OUTLINE_COLOUR, width: int = 2
) -> ImageArray:
    """Draw the contour of a mask just outside of it.

    Args:
        image: uint8 (H, W, 3), RGB.
        mask: bool (H, W).
        colour: colour of the contour.
        width: width of the contour in pixels, at least 1.

    Returns:
        uint8 (H, W, 3), RGB, unchanged inside the mask.

    Raises:
        OptionError: the image and the mask differ in size, or the width is below 1.
    """
    _require_same_size(image, mask, "mask")
    if width < 1:
        raise OptionError(f"width of an outline: expected at least 1 pixel, got {width}")
    inside = Image.fromarray(mask.astype(np.uint8))
    grown = np.asarray(inside.filter(ImageFilter.MaxFilter(2 * width + 1))) > 0
    outlined = image.copy()
    outlined[grown & ~mask] = colour
    return outlined


def thumbnail(image: ImageArray, longest: int) -> ImageArray:
    """Reduce an image until its longer side is at most ``longest``.

    Args:
        image: uint8 (H, W, 3), RGB.
        longest: largest side in pixels, at least 1.

    Returns:
        uint8 (h, w, 3), RGB, of the same aspect.
    """
    height, width = image.shape[:2]
    if max(height, width) <= longest:
        return image
    return _resized(image, longest / max(height, width))


def contact_sheet(tiles: Sequence[Tile], columns: int = 4, cell: int = 256) -> ImageArray:
    """Arrange images in rows, each under its caption.

    Args:
        tiles: images, uint8 (H, W, 3) of any size, with their captions, row by row.
        columns: number of images in a row, at least 1.
        cell: longest side of an image in the sheet, in pixels, at least 1.

    Returns:
        uint8 (H, W, 3), RGB, on white.

    Raises:
        OptionError: there is no tile, or ``columns`` or ``cell`` is below 1.
    """
    if columns < 1 or cell < 1:
        raise OptionError(
            f"contact sheet: expected at least 1 column and cells of at least 1 pixel, "
            f"got {columns} and {cell}"
        )
    scaled = [(_resized(image, cell / max(image.shape[:2])), caption) for image, caption in tiles]
    return _grid(scaled, columns)


def _heat(anomaly_map: FloatArray, scale: Scale) -> FloatArray:
    """Return the place of each value between low (0) and high (1): float32 (H, W).

    Logarithmic where ``low`` is above 0: a stain that is far outside still shows where it is worst,
    and a scratch that is just outside still shows.
    """
    low, high = scale
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise OptionError(f"scale of a heat map: expected low < high, got ({low}, {high})")
    if anomaly_map.ndim != 2:
        raise OptionError(f"anomaly map: expected shape (H, W), got {anomaly_map.shape}")
    if np.isnan(anomaly_map).any():
        raise OptionError("anomaly map: expected numbers, found NaN")
    # In float64: the scale of a model of equal images is too small for float32.
    values = anomaly_map.astype(np.float64)
    if low > 0:
        values = np.log(values.clip(low, high))
        low, high = math.log(low), math.log(high)
    heat: FloatArray = ((values - low) / (high - low)).clip(0, 1).astype(np.float32)
    return heat


def _heat_layer(heat: FloatArray) -> NDArray[np.uint8]:
    opacity = MAX_OPACITY * heat * heat * (3 - 2 * heat)
    return np.dstack([_heat_colours(heat), np.rint(255 * opacity).astype(np.uint8)])


def _heat_colours(heat: FloatArray) -> ImageArray:
    points = np.array(CONTROL_POINTS, np.float32)
    stops = np.linspace(0, 1, len(points))
    levels = np.linspace(0, 1, 256)
    channels = [np.interp(levels, stops, channel) for channel in points.T]
    table: ImageArray = np.rint(np.stack(channels, axis=1)).astype(np.uint8)
    return table[np.rint(heat * 255).astype(np.intp)]


def _require_same_size(
    image: ImageArray, other: NDArray[np.float32] | NDArray[np.bool_], name: str
) -> None:
    if image.ndim != 3 or image.shape[2] != 3:
        raise OptionError(f"image: expected shape (H, W, 3), got {image.shape}")
    if image.shape[:2] != other.shape:
        raise OptionError(f"{name}: expected the image's {image.shape[:2]}, got {other.shape}")


def _resized(image: ImageArray, factor: float) -> ImageArray:
    height, width = image.shape[:2]
    size = max(1, round(width * factor)), max(1, round(height * factor))
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))


def _grid(tiles: Sequence[Tile], columns: int) -> ImageArray:
    """Return tiles in rows, with columns as wide and rows as high as their largest image."""
    if not tiles:
        raise OptionError("a sheet of images: expected at least one, got none")
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(image.shape[0] for image, _ in row) for row in rows]
    widths = [
        max(image.shape[1] for image, _ in tiles[column::columns])
        for column in range(min(columns, len(tiles)))
    ]
    size = (
        MARGIN + sum(width + MARGIN for width in widths),
        MARGIN + sum(CAPTION_HEIGHT + height + MARGIN for height in heights),
    )
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(CAPTION_SIZE)
    top = MARGIN
    for row, height in zip(rows, heights, strict=True):
        left = MARGIN
        for (image, caption), width in zip(row, widths, strict=False):
            text = _fitted(caption, width, font)
            middle = top + CAPTION_HEIGHT / 2
            draw.text((left, middle), text, fill=INK, font=font, anchor="lm")
            sheet.paste(Image.fromarray(image), (left, top + CAPTION_HEIGHT))
            left += width + MARGIN
        top += CAPTION_HEIGHT + height + MARGIN
    return np.asarray(sheet)


def _fitted(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return the text, cut with an ellipsis to fit a width."""
    line = " ".join(text.split())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."
