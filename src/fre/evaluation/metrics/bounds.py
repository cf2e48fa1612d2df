"""How far figures of binned scores can be from those of the scores themselves.

The curve of the finer scores passes exactly through the points of the binned ones, which are at
the edges of the bins; between two of them it may rise in any way.
"""

from __future__ import annotations

import numpy as np

from fre.evaluation.metrics.arrays import DoubleArray
from fre.evaluation.metrics.curves import Counts, f1, parts_to_limit


def area_error(x: DoubleArray, y: DoubleArray, limit: float) -> float:
    """How far `area_to_limit` can be from the area under the finer curve.

    Between two points that curve stays in the rectangle that they span. A trapezoid is off by at
    most half the rectangle. Where the limit cuts a rectangle after a share t of its width, the
    line rises to t of its height only, so the area may be short by 1 - t / 2 of what is left.
    """
    inside, t, rise = parts_to_limit(x, y, limit)
    return float(np.sum(inside * rise * (1 - t / 2)) / limit)


def average_precision_error(tp: Counts, fp: Counts) -> float:
    """How far `average_precision` can be from that of the unbinned scores.

    The precision at a defective pixel is highest when all defective pixels of its bin, and none
    of the good, are above it; and lowest when it is the other way round.
    """
    defective, good = np.diff(tp, prepend=0), np.diff(fp, prepend=0)
    precision = tp / (tp + fp)
    some = defective > 0
    first = tp - defective + 1
    lowest = first / (first + fp)
    highest = tp / np.maximum(tp + fp - good, 1)
    below = np.sum((defective * (precision - lowest))[some])
    above = np.sum((defective * (highest - precision))[some])
    return float(max(below, above) / tp[-1])


def f1_error(tp: Counts, fp: Counts) -> float:
    """How far the largest of `f1` can be below that of the unbinned scores.

    In a bin F1 is at most what all of its defective pixels before any of its good ones give.
    """
    highest = f1(tp, fp - np.diff(fp, prepend=0))
    return float(np.max(highest) - np.max(f1(tp, fp)))
