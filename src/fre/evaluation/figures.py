"""Figures of a model on a dataset."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.datasets.samples import Sample
from fre.errors import ImageError


@dataclass(frozen=True)
class ScoredImage:
    """A test image with the model's result."""

    sample: Sample
    score: float
    p_value: float
    anomalous: bool


@dataclass(frozen=True)
class Evaluation:
    """Figures of a model on a dataset. Every figure but counts and speed is in [0, 1].

    Attributes:
        image_auroc: area under the ROC curve of the image scores.
        image_aupr: average precision of the image scores.
        image_f1: the largest F1 over all thresholds on the image scores.
        pixel_auroc: area under the ROC curve of the anomaly maps' pixels.
        pixel_f1: the largest F1 over all thresholds on the pixels.
        aupro: area under the per-region-overlap curve up to a false-positive rate of 0.3.
        n_good: good images that were scored.
        n_defect: defective images that were scored.
        false_alarm_rate_observed: share of the good images that the model calls anomalous.
        images_per_second: from file to score and map.
        aupimo: mean over the defective images of the area under the per-image overlap curve,
            between false-positive rates of 1e-5 and 1e-4 on good images.
        images: results of the images, in the order of the dataset.
        intervals: 95 % interval (low, high) of each figure, by name, for the choice of test
            images, not of training images. Wilson's for ``false_alarm_rate_observed``, bootstrap
            percentiles of whole images for the others. Speed, of one run, has none.
        resamples: values of each figure in the bootstrap resamples, float64 (n,), by name.
            Evaluations of the same test images have the same draws, in order.
        reasons: why a figure is ``None``, by its name.
        notes: oddities of the masks, one line each.
        unreadable: errors of the test images that can't be read, which were left out.

    The pixel figures are ``None`` where there are no masks; a figure that needs both good and
    defective images is ``None`` where there is only one kind.
    """

    image_auroc: float | None
    image_aupr: float | None
    image_f1: float | None
    pixel_auroc: float | None
    pixel_f1: float | None
    aupro: float | None
    n_good: int
    n_defect: int
    false_alarm_rate_observed: float | None
    images_per_second: float
    aupimo: float | None = None
    images: tuple[ScoredImage, ...] = field(repr=False, default=())
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    resamples: dict[str, NDArray[np.float64]] = field(
        repr=False, compare=False, default_factory=dict
    )
    reasons: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unreadable: tuple[ImageError, ...] = field(compare=False, default=())

    @property
    def kinds(self) -> dict[str, int]:
        """Number of scored images of each kind of defect."""
        return dict(Counter(row.sample.kind for row in self.images if not row.sample.good))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of ``fre evaluate``: the figures, without the images."""
        return {
            "image_auroc": self.image_auroc,
            "image_aupr": self.image_aupr,
            "image_f1": self.image_f1,
            "pixel_auroc": self.pixel_auroc,
            "pixel_f1": self.pixel_f1,
            "aupro": self.aupro,
            "n_good": self.n_good,
            "n_defect": self.n_defect,
            "false_alarm_rate_observed": self.false_alarm_rate_observed,
            "images_per_second": self.images_per_second,
            "aupimo": self.aupimo,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "kinds": self.kinds,
            "n_masks": sum(len(row.sample.masks) for row in self.images),
            "n_unreadable": len(self.unreadable),
            "unreadable": [str(error) for error in self.unreadable],
            "reasons": self.reasons,
            "notes": list(self.notes),
        }
