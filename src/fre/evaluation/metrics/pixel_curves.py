"""Pixel figures from sums over pixels at falling thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fre.evaluation.metrics import curves
from fre.evaluation.metrics.arrays import DoubleArray
from fre.evaluation.metrics.curves import Counts


@dataclass(frozen=True)
class PixelCurves:
    """Sums over what is at or above falling thresholds, the last of which everything reaches.

    All of shape (..., k); the figures have the shape of the leading axes.

    Attributes:
        fp: defect-free pixels.
        tp: defective pixels.
        overlap: defects, each by the share of its pixels.
        good_rate: mean over the good images of the share of their pixels; ``None`` without any.
        found: mean over the defective images of the share of their defective pixels.
    """

    fp: Counts
    tp: Counts
    overlap: DoubleArray
    good_rate: DoubleArray | None
    found: DoubleArray

    @property
    def fpr(self) -> DoubleArray:
        """False-positive rate of all defect-free pixels, (..., k)."""
        rate: DoubleArray = self.fp / self.fp[..., -1:]
        return rate

    @property
    def pro(self) -> DoubleArray:
        """Per-region overlap, (..., k)."""
        overlap: DoubleArray = self.overlap / self.overlap[..., -1:]
        return overlap

    @property
    def f1(self) -> DoubleArray:
        """At each threshold, (..., k)."""
        return curves.f1(self.tp, self.fp)

    def auroc(self) -> DoubleArray:
        """See `fre.evaluation.metrics.auroc`."""
        return curves.area_under_roc(self.tp, self.fp)

    def aupro(self, limit: float) -> DoubleArray:
        """See `fre.evaluation.metrics.aupro`."""
        return curves.area_to_limit(self.fpr, self.pro, limit)

    def aupimo(self, bounds: tuple[float, float]) -> tuple[DoubleArray, DoubleArray] | None:
        """Mean, least and largest value of `fre.evaluation.metrics.aupimo`; ``None`` without any.

        Between two thresholds any order of the pixels is possible: the good ones all above the
        defective ones, or all below.
        """
        if self.good_rate is None:
            return None
        steps = np.diff(self.found, prepend=0.0)
        above = np.roll(self.good_rate, 1, axis=-1)
        above[..., 0] = 0.0
        low, high = (
            np.sum(curves.low_fpr_share(rate, bounds) * steps, axis=-1) / self.found[..., -1]
            for rate in (self.good_rate, above)
        )
        return low, high
