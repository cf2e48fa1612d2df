"""Anomaly maps at another size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["resize_map"]


def resize_map(anomaly_map: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """A map at another size: bilinear, antialiased when it shrinks.

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
