"""Anomaly maps at another size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BAND_PIXELS = 2**20


def row_bands(size: tuple[int, int]) -> Iterator[slice]:
    """Yield the rows of an image in bands of about a million pixels.

    Images may have a hundred million pixels, of which several copies would fill the memory.

    Args:
        size: height and width.
    """
    step = max(1, BAND_PIXELS // max(1, size[1]))
    for start in range(0, size[0], step):
        yield slice(start, min(start + step, size[0]))


def resize_map(anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize a map: bilinear, with antialiasing when it shrinks.

    Args:
        anomaly_map: float32 (h, w).
        size: height and width of the result.

    Returns:
        float32 (size[0], size[1]).
    """
    from PIL import Image

    if anomaly_map.shape == size:
        return anomaly_map
    image = Image.fromarray(np.ascontiguousarray(anomaly_map, dtype=np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resized_bands(
    anomaly_map: NDArray[np.float32], size: tuple[int, int]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield `resize_map` in bands of rows, so that a huge map is never held as a whole.

    Args:
        anomaly_map: float32 (h, w).
        size: height and width of the result.

    Yields:
        Rows of the result, and their values, float32 (rows, size[1]).
    """
    from PIL import Image

    if anomaly_map.shape == size:
        yield from ((rows, anomaly_map[rows]) for rows in row_bands(size))
        return
    height, width = anomaly_map.shape
    image = Image.fromarray(np.ascontiguousarray(anomaly_map, dtype=np.float32))
    for rows in row_bands(size):
        box = (0, rows.start * height / size[0], width, rows.stop * height / size[0])
        band = image.resize((size[1], rows.stop - rows.start), Image.Resampling.BILINEAR, box)
        yield rows, np.asarray(band)
