"""How far a JPEG decoder may shrink an image itself, and what that needs to equal a resize.

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
"""A marker; not a stuffed 0xFF of coded data, nor a restart marker within them."""

SEQUENTIAL = (0xC0, 0xC1, 0xC9)
"""Frames whose scans can't refine each other: baseline, extended, and arithmetic-coded."""
FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))

FEW_SCANS = 20
"""Below so many scans, nobody needs to know their exact number."""

REDUCTIONS = (8, 4, 2)
"""The decoder's own scales, strongest first; Pillow offers no others."""

MARGIN = 1.1
"""A side is decoded at its final length, or at this many times that and resized from there.

In between, the pixels of the decoder and of the result are almost in step, drift apart slowly
across the image, and the resize blurs some parts of it and leaves others sharp."""

CENTRE = 8
"""Of the weights 1, `CENTRE`, 1 that turn what the decoder made into what a bilinear resize makes.

A bilinear reduction to a half weighs pixels by 1, 3, 3, 1, which dampens fine structure that the
decoder keeps. 8 leaves the least difference and shifts scores least, at a half and at a quarter."""


def count_scans(file: BinaryIO) -> int:
    """Count the scans of a JPEG, from its markers.

    A decoder passes over the whole image for each scan, however little it holds. Of a file that
    is not progressive and has all components in its first scan, no more than that is decoded.

    Args:
        file: the JPEG; its position is kept.

    Returns:
        Number of scans; 1 for a file whose first scan is all.
    """
    position = file.tell()
    try:
        file.seek(0)
        # The headers of nearly all files; one read more than they need costs nothing.
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
    """Whether the first scan is known to be the only one that is decoded."""
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
    """Yield each marker that has a length, and where its length stands, up to the image's end."""
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
    """The strongest reduction at which a decoder's output can stand for a resized image.

    Args:
        size: the image's two sides, in pixels.
        target: what they become.

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
    """What a decoder has shrunk to its final size, as soft as if it had been resized to it.

    Each pixel becomes the mean of itself and its neighbours, weighted 1, 8, 1; the edges are held.

    Args:
        pixels: uint8 (H, W) or (H, W, C).
        rows: whether to weigh neighbours above and below.
        columns: whether to weigh those left and right.

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
    # All rows as one, a third faster than row by row; then their ends, which ran into each other.
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
