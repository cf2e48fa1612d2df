"""Pixel statistics of images, and their ranges in good images, to recognise a dead camera.

Features of a black, white or flat picture, or of pure noise, may look good, but the pixels don't.
The limits are wide, so that no picture of a part exceeds them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.types import ImageArray, MaskArray

Float64: TypeAlias = NDArray[np.float64]

ROWS = 16
"""Number of measured rows of an image, spread evenly: enough for limits this wide."""

COLOURS = ("red", "green", "blue")

LEVEL_MARGIN = 48.0
"""Grey levels by which the mean level may exceed the range of the training images."""
LEVEL_MARGIN_OF_FEW = 64.0
"""Further grey levels, divided by the root of the number of training images."""
SPAN_MARGIN = 2.0
"""Further share of the range itself, divided by the root of the number of training images."""
RATIO = 2.0
"""Factor by which contrast and fineness may exceed the range of the training images."""
RATIO_OF_FEW = 4.0
"""Further factor, divided by the root of the number of training images."""
LEAST_FINENESS = 0.5
"""A smaller fineness is never noise."""
MOST_FINENESS = 0.97
"""Limit above which the odds of a fineness mean nothing: white noise has 1."""


def appearance(pixels: ImageArray, inspected: MaskArray | None = None) -> Float64:
    """Measure some rows of an image.

    Args:
        pixels: uint8 (H, W, 3), RGB.
        inspected: bool (H, W), the measured pixels; ``None`` measures all.

    Returns:
        float64 (5,): mean red, green and blue level (0..255); contrast, the largest standard
        deviation of the three (0..127.5); and fineness, the share of that channel's variance
        which is between horizontal neighbours: 0 for smooth images, 1 for white noise.
    """
    step = max(1, pixels.shape[0] // ROWS)
    planes = pixels[step // 2 :: step].transpose(2, 0, 1).astype(np.float32, order="C")
    shown = None if inspected is None else inspected[step // 2 :: step]
    values = planes.reshape(3, -1) if shown is None else planes[:, shown]
    if not values.size:
        return np.zeros(5)
    mean = values.mean(axis=1)
    values = values - mean[:, None]
    variance = np.einsum("ij,ij->i", values, values) / values.shape[1]
    channel = int(variance.argmax())
    plane = planes[channel]
    steps = plane[:, 1:] - plane[:, :-1]
    if shown is not None:
        steps = steps[shown[:, 1:] & shown[:, :-1]]
    fineness = 0.0
    if variance[channel] > 0 and steps.size:
        flat = steps.ravel()
        fineness = float(flat @ flat) / flat.size / (2 * float(variance[channel]))
    return np.array([*mean, np.sqrt(variance[channel]), fineness])


@dataclass(frozen=True)
class AppearanceLimits:
    """Ranges of the pixel statistics of training images.

    Attributes:
        n: number of images.
        low: float64 (5,), smallest value of each statistic of `appearance`.
        high: float64 (5,), largest value of each statistic.
    """

    n: int
    low: Float64
    high: Float64

    @classmethod
    def of(cls, measured: Sequence[Float64] | Float64) -> AppearanceLimits:
        """Return the ranges of some images.

        Args:
            measured: (n, 5), from `appearance`; n >= 1.
        """
        values = np.asarray(measured, np.float64)
        return cls(len(values), values.min(axis=0), values.max(axis=0))

    def merge(self, *others: AppearanceLimits) -> AppearanceLimits:
        """Return the ranges of all images."""
        every = (self, *others)
        return AppearanceLimits(
            sum(limits.n for limits in every),
            np.min([limits.low for limits in every], axis=0),
            np.max([limits.high for limits in every], axis=0),
        )

    def reason(self, measured: Float64) -> str | None:
        """Return why an image can't show what training images show; ``None`` if it may.

        Args:
            measured: float64 (5,), from `appearance`.
        """
        few = 1 / np.sqrt(self.n)
        ratio = RATIO + RATIO_OF_FEW * few
        contrast, fineness = float(measured[3]), float(measured[4])
        if contrast < self.low[3] / ratio:
            return (
                f"no contrast: the grey levels deviate by {contrast:.1f} from their mean, those "
                f"of the training images by {self.low[3]:.1f} to {self.high[3]:.1f}"
            )
        if fineness > LEAST_FINENESS and _odds(fineness) > ratio * _odds(float(self.high[4])):
            return (
                f"noise: {min(fineness, 1):.0%} of the contrast is between neighbouring pixels, "
                f"{self.low[4]:.1%} to {self.high[4]:.1%} in the training images"
            )
        slack = (
            LEVEL_MARGIN
            + (LEVEL_MARGIN_OF_FEW + SPAN_MARGIN * (self.high[:3] - self.low[:3])) * few
        )
        for channel, name in enumerate(COLOURS):
            level, low, high = (float(x[channel]) for x in (measured, self.low, self.high))
            if low - slack[channel] <= level <= high + slack[channel]:
                continue
            return (
                f"too {'dark' if level < low else 'bright'}: the mean level of {name} is "
                f"{level:.0f}, that of the training images {low:.0f} to {high:.0f}"
            )
        return None


def _odds(share: float) -> float:
    share = min(share, MOST_FINENESS)
    return share / (1 - share)
