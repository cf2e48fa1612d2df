"""Evaluate a predictor on the test images of a dataset."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fre.datasets import check_masks, load_mask, open_dataset, require_test
from fre.datasets.samples import Dataset, Sample
from fre.errors import DatasetError, ImageError
from fre.evaluation.figures import Evaluation, ScoredImage
from fre.evaluation.metrics import (
    Metric,
    PixelMetrics,
    auroc,
    average_precision,
    bootstrap_resamples,
    max_f1,
    percentile_interval,
    wilson_interval,
)
from fre.images.resize import resize_map
from fre.inference.prediction import Prediction
from fre.storage.listing import relative
from fre.types import MaskArray, Progress

BLOCK = 128
"""Number of images scored before their pixels are counted: 32 MB of maps at 256 x 256."""

_PROBLEMS_SHOWN = 3
_MOST = 0.5
"""Share of an image above which a mask may be inverted, and is noted."""

_IMAGE_METRICS: dict[str, Metric] = {
    "image_auroc": auroc,
    "image_aupr": average_precision,
    "image_f1": lambda scores, labels: max_f1(scores, labels)[0],
}
# Attributes of an evaluation, and their names in `PixelMetrics.resample`.
_PIXEL_FIGURES = {"pixel_auroc": "auroc", "pixel_f1": "f1", "aupro": "aupro", "aupimo": "aupimo"}


class Predictor(Protocol):
    """Protocol of models that can be evaluated, such as `fre.Model`."""

    def predict_many(
        self, images: Sequence[Path], *, errors: Literal["return"]
    ) -> Iterator[Prediction | ImageError]:
        """Return a prediction for each image, in order, or the error of one that can't be read."""


def evaluate(
    model: Predictor,
    dataset: Dataset | Path | str,
    *,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Score the test images of a dataset, and compare with their labels and masks.

    Pixels are compared at the original size of each image. A defective image without a mask, or
    with an empty one, counts for the image figures only.

    Args:
        model: loaded model.
        dataset: dataset, or its folder.
        skip_unreadable: skip test images that can't be read, instead of stopping.
        progress: called as the work advances.

    Raises:
        DatasetError: there are no test images that can be read, or a mask has another size than
            its image or can't be read.
        ImageError: an image can't be read, and ``skip_unreadable`` is false.
    """
    if not isinstance(dataset, Dataset):
        dataset = open_dataset(dataset)
    samples = require_test(dataset)
    # Before any image is scored, as hours of scoring must not end in such an error.
    _require_usable_masks(dataset)
    masks = _Masks(dataset.root)
    rows: list[ScoredImage] = []
    unreadable: list[ImageError] = []
    seconds = 0.0
    for start in range(0, len(samples), BLOCK):
        block = samples[start : start + BLOCK]
        predictions: list[Prediction | ImageError] = []
        began = time.perf_counter()
        for prediction in model.predict_many([sample.path for sample in block], errors="return"):
            if isinstance(prediction, ImageError) and not skip_unreadable:
                raise prediction
            predictions.append(prediction)
            if progress:
                progress("Scoring", start + len(predictions), len(samples))
        # Only scoring is timed; it must not overlap with the counting of pixels.
        seconds += time.perf_counter() - began
        for sample, prediction in zip(block, predictions, strict=True):
            if isinstance(prediction, ImageError):
                unreadable.append(prediction)
                continue
            rows.append(
                ScoredImage(sample, prediction.score, prediction.p_value, prediction.anomalous)
            )
            masks.count(sample, prediction)
    if not rows:
        raise DatasetError(
            f"{dataset.source or dataset.root}: none of the {len(samples)} test images can be "
            f"read; the first: {unreadable[0]}"
        )
    return _figures(rows, masks, len(rows) / seconds, unreadable)


def _require_usable_masks(dataset: Dataset) -> None:
    problems = check_masks(dataset)
    if problems:
        more = len(problems) - _PROBLEMS_SHOWN
        raise DatasetError(
            "; ".join(problems[:_PROBLEMS_SHOWN])
            + (f"; and {more} more masks with such a problem" if more > 0 else "")
        )


@dataclass
class _Masks:
    """Counted pixels of all images, and oddities of their masks.

    Attributes:
        root: folder below which notes name files.
        pixels: counted pixels.
        n_given: number of defective images with masks.
        n_marking: number of defective images whose masks mark something.
        nothing: empty masks.
        most: masks of more than half of their image.
        leaves_pixels: whether any pixel is free of defects.
    """

    root: Path
    pixels: PixelMetrics = field(default_factory=PixelMetrics)
    n_given: int = 0
    n_marking: int = 0
    nothing: list[Path] = field(default_factory=list)
    most: list[Path] = field(default_factory=list)
    leaves_pixels: bool = False

    def count(self, sample: Sample, prediction: Prediction) -> None:
        """Add one image to the pixel figures, if the places of its defects are known."""
        mask: MaskArray | None = None
        if not sample.good:
            mask = load_mask(sample, prediction.image_size)
            if mask is None:
                return
            self.n_given += 1
            if not mask.any():
                # It has a defect somewhere, so its pixels are not good ones.
                self.nothing.append(sample.masks[0])
                return
            self.n_marking += 1
            if mask.mean() > _MOST:
                self.most.append(sample.masks[0])
        self.leaves_pixels |= mask is None or not mask.all()
        # Not `anomaly_map`, which the prediction would keep: maps of large images fill gigabytes.
        self.pixels.add(resize_map(prediction.input_map, prediction.image_size), mask)

    def compute(self) -> PixelMetrics | None:
        """Return the pixel figures, or ``None`` where ``reason`` says why there are none."""
        return self.pixels if self.n_marking and self.leaves_pixels else None

    def reason(self, n_defect: int) -> str:
        """Return why there are no pixel figures."""
        if not n_defect:
            return "no defective test images"
        if not self.n_given:
            return "no masks"
        return "the masks mark nothing" if not self.n_marking else "the masks mark every pixel"

    def notes(self) -> tuple[str, ...]:
        """Return a line for each oddity of the masks."""
        found = []
        if self.nothing:
            found.append(
                f"{self._of_masks(self.nothing)} nothing, left out of the pixel figures: "
                f"{self._some(self.nothing)}"
            )
        if self.most:
            found.append(
                f"{self._of_masks(self.most)} more than half of the image: "
                f"{self._some(self.most)}; inverted, or with a coloured background? A mask is "
                "black where there is no defect"
            )
        return tuple(found)

    def _of_masks(self, masks: Sequence[Path]) -> str:
        return f"masks of {len(masks)} of {self.n_given} defective images mark"

    def _some(self, masks: Sequence[Path]) -> str:
        first = relative(masks[0], self.root)
        return first if len(masks) == 1 else f"{first} and {len(masks) - 1} more"


def _reasons(names: Iterable[str], n_good: int, n_defect: int, pixels: str) -> dict[str, str]:
    """Return why each of the figures that are ``None`` could not be computed."""
    lacking = "no good test images" if not n_good else "no defective test images"
    return {
        name: pixels
        if name in _PIXEL_FIGURES and (name != "aupimo" or n_good or not n_defect)
        else lacking
        for name in names
    }


def _figures(
    rows: Sequence[ScoredImage],
    masks: _Masks,
    images_per_second: float,
    unreadable: Sequence[ImageError],
) -> Evaluation:
    pixels = masks.compute()
    scores = np.array([row.score for row in rows], np.float64)
    labels = np.array([not row.sample.good for row in rows])
    n_defect = int(labels.sum())
    n_good = len(rows) - n_defect
    of_pixels = pixels.compute() if pixels else None
    false_alarms = sum(row.anomalous for row in rows if row.sample.good)
    of_images: dict[str, float] = {}
    resamples: dict[str, NDArray[np.float64]] = {}
    if n_good and n_defect:
        for name, metric in _IMAGE_METRICS.items():
            of_images[name] = metric(scores, labels)
            resamples[name] = bootstrap_resamples(metric, scores, labels)
    if pixels:
        drawn = pixels.resample()
        resamples |= {name: drawn[key] for name, key in _PIXEL_FIGURES.items() if key in drawn}
    intervals = {name: percentile_interval(figures) for name, figures in resamples.items()}
    if n_good:
        intervals["false_alarm_rate_observed"] = wilson_interval(false_alarms, n_good)
    evaluation = Evaluation(
        image_auroc=of_images.get("image_auroc"),
        image_aupr=of_images.get("image_aupr"),
        image_f1=of_images.get("image_f1"),
        pixel_auroc=of_pixels.auroc if of_pixels else None,
        pixel_f1=of_pixels.f1 if of_pixels else None,
        aupro=of_pixels.aupro if of_pixels else None,
        n_good=n_good,
        n_defect=n_defect,
        false_alarm_rate_observed=false_alarms / n_good if n_good else None,
        images_per_second=images_per_second,
        aupimo=of_pixels.aupimo if of_pixels else None,
        images=tuple(rows),
        intervals=intervals,
        resamples=resamples,
        notes=masks.notes(),
        unreadable=tuple(unreadable),
    )
    names = (*_IMAGE_METRICS, *_PIXEL_FIGURES, "false_alarm_rate_observed")
    absent = [name for name in names if getattr(evaluation, name) is None]
    reasons = _reasons(absent, n_good, n_defect, masks.reason(n_defect))
    return replace(evaluation, reasons=reasons)
