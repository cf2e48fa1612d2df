"""A predictor and a dataset become figures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from fre.datasets import load_mask, open_dataset, require_test
from fre.maps import resize_map
from fre.metrics import PixelMetrics, auroc, average_precision, max_f1
from fre.types import Dataset, Evaluation, Prediction, Progress, Sample, ScoredImage

__all__ = ["Predictor", "evaluate"]

BLOCK = 128
"""Images that are scored before their pixels are counted: 32 MB of maps at 256 x 256."""


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
    scores = np.array([row.score for row in rows])
    labels = np.array([not row.sample.good for row in rows])
    n_defect = int(labels.sum())
    n_good = len(rows) - n_defect
    both = n_good > 0 and n_defect > 0
    of_pixels = pixels.compute() if pixels else None
    false_alarms = sum(row.anomalous for row in rows if row.sample.good)
    return Evaluation(
        image_auroc=auroc(scores, labels) if both else None,
        image_aupr=average_precision(scores, labels) if both else None,
        image_f1=max_f1(scores, labels)[0] if both else None,
        pixel_auroc=of_pixels.auroc if of_pixels else None,
        pixel_f1=of_pixels.f1 if of_pixels else None,
        aupro=of_pixels.aupro if of_pixels else None,
        n_good=n_good,
        n_defect=n_defect,
        false_alarm_rate_observed=false_alarms / n_good if n_good else None,
        images_per_second=images_per_second,
        aupimo=of_pixels.aupimo if of_pixels else None,
        images=tuple(rows),
    )
