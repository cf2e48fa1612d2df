"""How far a JPEG decoder may shrink an image itself, and what that needs to equal a resize.

A decoder can leave out the higher frequencies of each block of 8 x 8 pixels, which costs a fraction
of decoding the whole and resizing it. Images from memory, of other formats and in other runtimes
are resized, so that what is decoded smaller must look as if it had been resized, too. Where the
margins below come from: ``benchmarks/jpeg_scaling.py`` prints what each does to the scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["reduction", "softened"]

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
