"""The weights of pixels in figures that count each connected defect alike."""

from __future__ import annotations

import numpy as np

from fre.evaluation.metrics.arrays import DoubleArray
from fre.scoring.regions import label
from fre.types import MaskArray


def region_shares(truth: MaskArray) -> DoubleArray:
    """For each defective pixel, 1 / the size of its region. Summed, the number of regions."""
    labels, n = label(truth)
    region = labels[truth] - 1
    return 1.0 / np.bincount(region, minlength=n)[region]
