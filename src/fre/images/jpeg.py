"""Reduced-scale decoding of JPEG files, made to look like a resize.

A decoder can leave out the higher frequencies of each block of 8 x 8 pixels, which costs a fraction
of decoding the whole and resizing it. Images from memory, of other formats and in other runtimes
are resized, so that what is decoded smaller must look as if it had been resized, too. Where the
margins below come from: ``benchmarks/jpeg_scaling.py`` prints what each does to the scores.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")
"""A marker, other than a stuffed 0xFF or a restart marker within coded data."""

SEQUENTIAL = (0xC0, 0xC1, 0xC9)
"""Frames whose scans can't refine each other: baseline, extended, and arithmetic-coded."""
FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))

FEW_SCANS = 20
"""Up to this number of scans, an upper bound is good enough."""

REDUCTIONS = (8, 4, 2)
"""The decoder's own scales, strongest first; Pillow offers no others."""

MARGIN = 1.1
"""A side is decoded at its final length, or at this multiple of it and more, and then resized.

In between, the pixel grids of decoder and result drift apart slowly across the image, so that the
resize blurs some parts and leaves others sharp."""

CENTRE = 8
"""Centre of the weights 1, `CENTRE`, 1 that soften decoded pixels to those of a bilinear resize.

A bilinear reduction to a half weighs pixels by 1, 3, 3, 1 and dampens fine structure that the
decoder keeps. 8 leaves the least difference in pixels and scores, at a half and at a quarter."""


def count_scans(file: BinaryIO) -> int:
    """Count the scans of a JPEG, from its markers.

    A decoder passes over the whole image for each scan, even an empty one. It decodes only the
    first scan of a file that is not progressive and has all components in that scan.

    Args:
        file: JPEG file, whose position is kept.

    Returns:
        Number of scans that are decoded.
    """
    position = file.tell()
    try:
        file.seek(0)
        # Holds the headers of nearly all files.
        data = file.read(1 << 16)
        if _single_scan(data):
            return 1
        data += file.read()
        # An upper bound, as metadata may have these bytes, too.
        found = data.count(b"\xff\xda")
        return found if found <= FEW_SCANS else sum(1 for _ in _scans(data))
    finally:
        file.seek(position)


def _single_scan(data: bytes) -> bool:
    """Tell whether only the first scan is decoded."""
    components = 0
    for marker, start in _segments(data):
        if marker in FRAMES:
            if marker not in SEQUENTIAL:
                return False
            components = data[start + 7] if start + 7 < len(data) else 0
        if marker == 0xDA:
            return 0 < components == (data[start + 2] if start + 2 < len(data) else 0)
    return False


def _scans(data: bytes) -> Iterator[int]:
    return (start for marker, start in _segments(data) if marker == 0xDA)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each marker with a length, and the position of the length, up to the image's end."""
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = found[1][0], found.end()
        if marker == 0xD9:
            return
        if marker in (0x01, 0xD8):
            continue
        yield marker, at
        at += int.from_bytes(data[at : at + 2], "big")


def reduction(size: tuple[int, int], target: tuple[int, int]) -> int:
    """Return the strongest reduction at which decoded pixels can replace a resize.

    Args:
        size: both sides of the image, in pixels.
        target: both sides of the result.

    Returns:
        8, 4, 2, or 1 to decode the image as it is.
    """
    for scale in REDUCTIONS:
        sides = [(side, scale * wanted) for side, wanted in zip(size, target, strict=True)]
        if all(side == least or side >= MARGIN * least for side, least in sides):
            return scale
    return 1


def softened(
    pixels: NDArray[np.uint8], *, rows: bool = True, columns: bool = True
) -> NDArray[np.uint8]:
    """Soften an image that was decoded at its final size, to look as if it had been resized.

    Each pixel becomes the mean of itself and its neighbours, weighted 1, 8, 1. Border pixels
    repeat.

    Args:
        pixels: uint8 (H, W) or (H, W, C).
        rows: whether to weigh neighbours above and below.
        columns: whether to weigh neighbours left and right.

    Returns:
        uint8, of the same shape.
    """
    if not (rows or columns):
        return pixels
    total = 1
    sums = pixels.astype(np.uint16)
    if rows:
        sums, total = _weighted(sums), total * (CENTRE + 2)
    if columns:
        sums, total = _weighted_along_rows(sums), total * (CENTRE + 2)
    # At most 255 x 100 + 50: 16 bits hold it.
    sums += np.uint16(total // 2)
    sums //= np.uint16(total)
    return sums.astype(np.uint8)


def _weighted(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    sums = values * np.uint16(CENTRE)
    sums[1:] += values[:-1]
    sums[:-1] += values[1:]
    sums[0] += values[0]
    sums[-1] += values[-1]
    return sums


def _weighted_along_rows(values: NDArray[np.uint16]) -> NDArray[np.uint16]:
    # One array of all rows is a third faster than row by row. The ends, which ran into each
    # other, are corrected.
    step = values[0, 0].size
    flat = values.reshape(-1)
    sums = flat * np.uint16(CENTRE)
    sums[step:] += flat[:-step]
    sums[:-step] += flat[step:]
    sums = sums.reshape(values.shape)
    last = values.shape[1] - 1
    for end, beside in ((0, min(1, last)), (last, max(0, last - 1))):
        sums[:, end] = values[:, end] * np.uint16(CENTRE + 1) + values[:, beside]
    return sums
