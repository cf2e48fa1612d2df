"""A predictor and a dataset become figures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fre.datasets import load_mask, open_dataset, require_test
from fre.maps import resize_map
from fre.metrics import (
    Metric,
    PixelMetrics,
    auroc,
    average_precision,
    bootstrap_resamples,
    max_f1,
    percentile_interval,
    wilson_interval,
)
from fre.types import Dataset, Evaluation, Prediction, Progress, Sample, ScoredImage

__all__ = ["Predictor", "evaluate"]

BLOCK = 128
"""Images that are scored before their pixels are counted: 32 MB of maps at 256 x 256."""

_IMAGE_METRICS: dict[str, Metric] = {
    "image_auroc": auroc,
    "image_aupr": average_precision,
    "image_f1": lambda scores, labels: max_f1(scores, labels)[0],
}
# Attributes of an evaluation, and what `PixelMetrics.resample` calls them.
_PIXEL_FIGURES = {"pixel_auroc": "auroc", "pixel_f1": "f1", "aupro": "aupro", "aupimo": "aupimo"}


class Predictor(Protocol):
    """What can be evaluated: `fre.Model`, or anything that predicts as it does."""

    def predict_many(
        self, images: Sequence[Path], *, errors: Literal["raise"] = ...
    ) -> Iterator[Prediction]:
        """A prediction for each image, in order."""


def evaluate(
    model: Predictor,
    dataset: Dataset | Path | str,
    *,
    progress: Progress | None = None,
) -> Evaluation:
    """Score the test images of a dataset and compare with what is known of them.

    Pixels are compared at the original size of each image. A defective image without a mask
    counts for the image figures only.

    Args:
        model: a loaded model.
        dataset: a dataset, or the folder of one.
        progress: called as the work advances.

    Raises:
        DatasetError: there are no test images.
        ImageError: an image or a mask can't be read.
    """
    if not isinstance(dataset, Dataset):
        dataset = open_dataset(dataset)
    samples = require_test(dataset)
    pixels = PixelMetrics()
    counted_masks = 0
    rows: list[ScoredImage] = []
    seconds = 0.0
    for start in range(0, len(samples), BLOCK):
        block = samples[start : start + BLOCK]
        predictions: list[Prediction] = []
        began = time.perf_counter()
        for prediction in model.predict_many([sample.path for sample in block]):
            predictions.append(prediction)
            if progress:
                progress("Scoring", start + len(predictions), len(samples))
        # Only the scoring is timed, and none of it may run while the pixels are counted.
        seconds += time.perf_counter() - began
        for sample, prediction in zip(block, predictions, strict=True):
            rows.append(
                ScoredImage(sample, prediction.score, prediction.p_value, prediction.anomalous)
            )
            counted_masks += _count_pixels(pixels, sample, prediction)
    return _figures(rows, pixels if counted_masks else None, len(samples) / seconds)


def _count_pixels(pixels: PixelMetrics, sample: Sample, prediction: Prediction) -> bool:
    """Add one image to the pixel figures; whether it has a mask with a defect in it."""
    mask = None if sample.good else load_mask(sample, prediction.image_size)
    if mask is None and not sample.good:
        return False
    # The prediction would keep its own map of this size, and a block of large images is gigabytes.
    pixels.add(resize_map(prediction.input_map, prediction.image_size), mask)
    return mask is not None and bool(mask.any())


def _figures(
    rows: Sequence[ScoredImage], pixels: PixelMetrics | None, images_per_second: float
) -> Evaluation:
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
    return Evaluation(
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
    )
