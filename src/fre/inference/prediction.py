"""The answer of a model for one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fre.errors import ImageError
from fre.images.resize import resize_map
from fre.scoring.regions import Region
from fre.types import FloatArray, MaskArray


@dataclass(frozen=True)
class Prediction:
    """What a model says of one image.

    Attributes:
        path: the file, or ``None`` for an image given as an array.
        score: higher is more anomalous; unbounded.
        p_value: conformal p-value in (0, 1]: the share of good images that would score at
            least this high. The smallest that the model can give if there is a ``reason``.
        anomalous: whether the score is above the model's threshold, that is, whether
            ``p_value`` is at most its false-alarm rate; or whether there is a ``reason``.
        regions: connected parts of the map above the pixel threshold, largest peak first.
        image_size: height and width of the original image, in pixels.
        input_map: float32 (h, w): the anomaly map as the model gives it, without padding; at the
            size of its input, or, of an image that was cut into tiles, at the image's.
        pixel_threshold: a pixel of the anomaly map at or above it belongs to a region.
        bits: range that 16-bit values of the image were read by, as in
            `fre.images.geometry.Preparation`; pictures of it are drawn by the same.
        reason: why the image can't show what the training images show, whatever its score, such
            as a black image of a dead camera; it is anomalous then. ``None``: nothing is wrong
            with its pixels.
    """

    path: Path | None
    score: float
    p_value: float
    anomalous: bool
    regions: tuple[Region, ...]
    image_size: tuple[int, int]
    input_map: FloatArray = field(repr=False, compare=False)
    pixel_threshold: float = float("inf")
    bits: int | None = 16
    reason: str | None = None

    @cached_property
    def anomaly_map(self) -> FloatArray:
        """float32, (height, width) of the original image; higher is more anomalous.

        One absolute scale for every image of a model, never rescaled per image.
        """
        return resize_map(self.input_map, self.image_size)

    @property
    def mask(self) -> MaskArray:
        """Bool, (height, width) of the original image: the pixels at or above the threshold."""
        return np.asarray(self.anomaly_map >= self.pixel_threshold)

    def to_dict(self) -> dict[str, Any]:
        """The prediction as one JSON line of ``fre predict``: without the map."""
        return {
            "path": None if self.path is None else str(self.path),
            "score": self.score,
            "p_value": self.p_value,
            "anomalous": self.anomalous,
            **({} if self.reason is None else {"reason": self.reason}),
            "regions": [region.to_dict() for region in self.regions],
        }


def json_row(result: Prediction | ImageError, path: str | None = None) -> dict[str, Any]:
    """Return the JSON row of an image: its prediction, or the reason why there is none.

    Args:
        result: the prediction or the error.
        path: name of the image in the row; ``None`` for the path of the result.
    """
    if isinstance(result, ImageError):
        return {"path": str(result.path) if path is None else path, "error": result.reason}
    row = result.to_dict()
    return row if path is None else {**row, "path": path}
