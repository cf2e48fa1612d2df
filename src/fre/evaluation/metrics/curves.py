"""Areas and figures of curves, from the points of each curve.

The arguments are cumulative, of shape (..., k), float64 or int64: entry i counts what is at or
above the i-th highest threshold, and the last entry counts everything. The results have the shape
of the leading axes, so one call does many curves.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.evaluation.metrics.arrays import DoubleArray

Counts: TypeAlias = NDArray[np.int64] | DoubleArray


def area_under_roc(tp: Counts, fp: Counts) -> DoubleArray:
    # In counts, where a perfect ranking gives exactly 1.
    twice = np.sum(np.diff(fp, prepend=0) * (2.0 * tp - np.diff(tp, prepend=0)), axis=-1)
    area: DoubleArray = twice / (2.0 * tp[..., -1] * fp[..., -1])
    return area


def average_precision(tp: Counts, fp: Counts) -> DoubleArray:
    steps = np.diff(tp, prepend=0) * (tp / (tp + fp))
    precision: DoubleArray = np.sum(steps, axis=-1) / tp[..., -1]
    return precision


def f1(tp: Counts, fp: Counts) -> DoubleArray:
    """F1 at each threshold, (..., k)."""
    figures: DoubleArray = 2 * tp / (tp + fp + tp[..., -1:])
    return figures


def area_to_limit(x: DoubleArray, y: DoubleArray, limit: float) -> DoubleArray:
    """Area of the trapezoids under (0, 0), (x, y) up to x = limit, divided by the limit."""
    width, rise = np.diff(x, prepend=0.0), np.diff(y, prepend=0.0)
    inside = np.clip(limit - (x - width), 0.0, width)
    share = np.divide(inside, width, out=np.zeros_like(width), where=width > 0)
    area: DoubleArray = np.sum(inside * (y - rise + share * rise / 2), axis=-1) / limit
    return area


def low_fpr_share(fpr: DoubleArray, bounds: tuple[float, float]) -> DoubleArray:
    """Return the share of the interval between the bounds at or above a rate, in logarithms."""
    low, high = bounds
    share: DoubleArray = np.log(high / np.clip(fpr, low, high)) / np.log(high / low)
    return share
