"""Values that cross module borders: frozen, without behaviour beyond their own fields."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import ImageError
from fre.maps import resize_map

__all__ = [
    "Dataset",
    "Evaluation",
    "FloatArray",
    "ImageArray",
    "MaskArray",
    "Prediction",
    "Progress",
    "Region",
    "Sample",
    "ScoredImage",
]

ImageArray: TypeAlias = NDArray[np.uint8]
"""uint8, (H, W, 3), RGB."""
FloatArray: TypeAlias = NDArray[np.float32]
MaskArray: TypeAlias = NDArray[np.bool_]
"""bool, (H, W), True where there is a defect."""
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (what is being done, how many are done, how many there are)."""


@dataclass(frozen=True)
class Region:
    """One connected part of the anomaly map above the pixel threshold.

    All coordinates are pixels of the original image, x to the right and y down.

    Attributes:
        bbox: x, y, width and height.
        area: number of pixels.
        peak: the largest value of the anomaly map in the region.
        peak_xy: where the peak is.
        centroid: mean x and mean y.
        layers: what each layer of a model of several adds to the map, on average over the
            region and before it is smoothed, in normal deviations. Fine layers see texture,
            coarse ones arrangement.
    """

    bbox: tuple[int, int, int, int]
    area: int
    peak: float
    peak_xy: tuple[int, int]
    centroid: tuple[float, float]
    layers: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The region as plain JSON values."""
        return {
            "bbox": list(self.bbox),
            "area": self.area,
            "peak": self.peak,
            "peak_xy": list(self.peak_xy),
            "centroid": list(self.centroid),
            "layers": dict(self.layers),
        }


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
            `fre.geometry.Preparation`; pictures of it are drawn by the same.
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


@dataclass(frozen=True)
class Sample:
    """One image of a dataset.

    Attributes:
        path: the image file.
        kind: ``"good"``, or the name of the defect.
        masks: mask files, non-zero where there is a defect; their union counts. Empty for a
            good image, and for a defect without a mask.
    """

    path: Path
    kind: str
    masks: tuple[Path, ...] = ()

    @property
    def good(self) -> bool:
        """Whether the image shows no defect."""
        return self.kind == "good"


@dataclass(frozen=True)
class Dataset:
    """Images to train on and images to judge by.

    Attributes:
        name: the folder's name.
        root: the folder.
        layout: the layout that was recognised, such as ``"mvtec"``.
        train: good images to train on.
        test: good and defective images to evaluate on.
        notes: what is odd about the folder, one line each.
        source: the folder or the list that was opened.
    """

    name: str
    root: Path
    layout: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    source: Path | None = None


@dataclass(frozen=True)
class ScoredImage:
    """One row of an evaluation: a sample and what the model said of it."""

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
        images: a row an image, in the order of the dataset.
        intervals: by the name of a figure, its 95 % interval, low and high: by the choice of test
            images, not of training images. Wilson's for ``false_alarm_rate_observed``, bootstrap
            percentiles of whole images for the others. Speed is of one run and has none.
        resamples: by the name of a figure, float64 (n,): its values in the bootstrap resamples.
            Evaluations of the same test images have the same draws, in order.
        reasons: by the name of a figure that is ``None``, why there is none.
        notes: what is odd about the masks, one line each.
        unreadable: errors of the test images that were left out because they can't be read.

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
        """The figures as the JSON of ``fre evaluate``: without the rows."""
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
