"""Figures of predicted regions: how well they explain a decision."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fre.evaluation.metrics import percentile_interval, wilson_interval
from fre.evaluation.metrics.resampling import resamples
from fre.types import MaskArray

RESAMPLES = 1000


@dataclass
class RegionCounts:
    """Pixels of predicted regions and of masks, counted image by image.

    Attributes:
        pixels: for each image (true positive, false positive, false negative) pixels.
        defective: for each image, whether it has a mask.
        touching: for each image with a mask that is called anomalous, whether a region touches the
            mask.
    """

    pixels: list[tuple[int, int, int]] = field(default_factory=list)
    defective: list[bool] = field(default_factory=list)
    touching: list[bool] = field(default_factory=list)

    def add(self, regions: MaskArray, mask: MaskArray | None, *, anomalous: bool) -> None:
        """Count an image.

        Args:
            regions: bool (H, W), pixels of the predicted regions.
            mask: bool (H, W), true on defects; ``None`` for a good image.
            anomalous: whether the model calls the image anomalous.
        """
        n_regions = int(np.count_nonzero(regions))
        n_mask = 0 if mask is None else int(np.count_nonzero(mask))
        both = 0 if mask is None else int(np.count_nonzero(regions & mask))
        self.pixels.append((both, n_regions - both, n_mask - both))
        self.defective.append(mask is not None)
        if mask is not None and anomalous:
            self.touching.append(both > 0)

    def figures(self) -> dict[str, float | None]:
        """Return ``region_f1``, ``region_iou`` and ``region_touch_rate`` (``None`` without any)."""
        f1, iou = _f1_and_iou(np.sum(self.pixels, axis=0, keepdims=True))
        touch = sum(self.touching) / len(self.touching) if self.touching else None
        return {"region_f1": float(f1[0]), "region_iou": float(iou[0]), "region_touch_rate": touch}

    def resample(self) -> dict[str, NDArray[np.float64]]:
        """Return F1 and IoU of resamples, float64 (n,), drawn as by `bootstrap_resamples`."""
        counts = np.array(self.pixels)
        truth = np.array(self.defective)
        drawn = np.stack([counts[rows].sum(axis=0) for rows in resamples(truth, RESAMPLES, 0)])
        f1, iou = _f1_and_iou(drawn)
        return {"region_f1": f1, "region_iou": iou}

    def intervals(self, drawn: dict[str, NDArray[np.float64]]) -> dict[str, tuple[float, float]]:
        """Return the 95 % intervals of the figures.

        Args:
            drawn: from `resample`.
        """
        found = {name: percentile_interval(figures) for name, figures in drawn.items()}
        if self.touching:
            found["region_touch_rate"] = wilson_interval(sum(self.touching), len(self.touching))
        return found


def _f1_and_iou(pixels: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return F1 and IoU of each row (true positive, false positive, false negative)."""
    tp, fp, fn = pixels.T.astype(np.float64)
    return 2 * tp / (2 * tp + fp + fn), tp / (tp + fp + fn)
