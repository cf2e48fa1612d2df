"""The answer of a model for one image."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fre.errors import ImageError
from fre.images.resize import resize_map
from fre.scoring.calibration import Decision
from fre.scoring.regions import Region
from fre.types import FloatArray, MaskArray


@dataclass(frozen=True)
class Prediction:
    """Result of a model for one image.

    Attributes:
        path: the file, or ``None`` for an image given as an array.
        score: higher is more anomalous; unbounded.
        p_value: conformal p-value in (0, 1]: share of good images that score at least this high.
            With a ``reason`` it is the smallest p-value of the model.
        anomalous: whether the score is above the model's threshold, or there is a ``reason``.
        regions: connected parts of the map above the pixel threshold, largest peak first. An
            anomalous image has one at least; a good one has none, unless they were asked for.
        image_size: height and width of the original image, in pixels.
        input_map: float32 (h, w): the model's anomaly map without padding, at the size of the
            input; at the size of the image if it was cut into tiles.
        pixel_threshold: a pixel of the anomaly map at or above it belongs to a region: the
            model's; lower for an anomalous image that has no such pixel.
        bits: range of the image's 16-bit values, as in `fre.images.geometry.Decoding`; pictures
            of the image use the same range.
        reason: why the image can't show what the training images show, such as a black image of a
            dead camera. The image is then anomalous, whatever its score.
        decision: ``"pass"``, ``"review"`` or ``"fail"`` (anomalous), if the model has a review
            band; else ``None``.
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
    decision: Decision | None = None

    @cached_property
    def anomaly_map(self) -> FloatArray:
        """float32, (height, width) of the original image; higher is more anomalous.

        One absolute scale for every image of a model, never rescaled per image.
        """
        return resize_map(self.input_map, self.image_size)

    @property
    def mask(self) -> MaskArray:
        """Bool, (height, width) of the original image: the pixels of the regions."""
        return self.mask_of(self.anomaly_map) if self.regions else np.zeros(self.image_size, bool)

    def mask_of(self, anomaly_map: FloatArray) -> MaskArray:
        """Return `mask` of an `anomaly_map` that the caller resized and the prediction won't keep.

        Args:
            anomaly_map: float32, (height, width) of the original image.
        """
        if not self.regions:
            return np.zeros(self.image_size, bool)
        mask = np.asarray(anomaly_map >= self.pixel_threshold)
        # Resizing may lower a narrow peak below the threshold.
        for region in self.regions:
            x, y = region.peak_xy
            mask[y, x] = True
        return mask

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as a JSON row of ``fre predict``, without the map."""
        return {
            "path": None if self.path is None else str(self.path),
            "score": self.score,
            "p_value": self.p_value,
            "anomalous": self.anomalous,
            **({} if self.decision is None else {"decision": self.decision}),
            **({} if self.reason is None else {"reason": self.reason}),
            "regions": [region.to_dict() for region in self.regions],
        }


def prediction_row(result: Prediction | ImageError, path: str | None = None) -> dict[str, Any]:
    """Return a prediction, or the error in its place, as one JSON line of ``fre predict``.

    Args:
        result: prediction or error.
        path: path of the image in the line; ``None`` for the result's own path.
    """
    named = {} if path is None else {"path": path}
    if isinstance(result, ImageError):
        return {"path": str(result.path), **named, "error": result.reason}
    return {**result.to_dict(), **named}
