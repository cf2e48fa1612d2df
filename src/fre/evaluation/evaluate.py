"""Evaluate a predictor on the test images of a dataset."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fre.datasets import check_masks, load_mask, open_dataset, require_test
from fre.datasets.samples import Dataset, Sample
from fre.errors import DatasetError, ImageError
from fre.evaluation.figures import Confusion, Evaluation, ScoredImage
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
from fre.evaluation.regions import RegionCounts
from fre.images.loading import source_digest
from fre.images.resize import resize_map
from fre.inference.prediction import Prediction
from fre.inference.training_images import TrainingImages
from fre.model import Model
from fre.parallel import available_cores, in_order
from fre.storage.listing import relative
from fre.types import MaskArray, Progress

BLOCK = 128
"""Number of images scored before their pixels are counted: 32 MB of maps at 256 x 256."""

_PROBLEMS_SHOWN = 3
_MOST = 0.5
"""Share of an image above which a mask may be inverted, and is noted."""

_DECISION_METRICS: dict[str, Metric] = {
    "recall": lambda called, labels: float(called[labels].mean()),
    # Without alarms precision is 1 by convention: a resample must have a value.
    "precision": lambda called, labels: float(labels[called > 0].mean()) if called.any() else 1.0,
    "f1": lambda called, labels: float(
        2 * called[labels].sum() / (called.sum() + np.count_nonzero(labels))
    ),
    "false_alarm_rate_observed": lambda called, labels: float(called[~labels].mean()),
}
_IMAGE_METRICS: dict[str, Metric] = {
    "image_auroc": auroc,
    "image_aupr": average_precision,
    "image_f1": lambda scores, labels: max_f1(scores, labels)[0],
}
# Attributes of an evaluation, and their names in `PixelMetrics.resample`.
_PIXEL_FIGURES = {"pixel_auroc": "auroc", "pixel_f1": "f1", "aupro": "aupro", "aupimo": "aupimo"}
_REGION_FIGURES = ("region_f1", "region_iou", "region_touch_rate")


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
    with an empty one, counts for the image figures only. Test images that the model was trained on
    are found by the digests of their files, and named in ``trained_on``.

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
    known = model.training_images if isinstance(model, Model) else None
    trained_on: list[Path] = []
    for scored, duration in _blocks(model, samples, skip_unreadable, progress):
        seconds += duration
        for sample, prediction in scored:
            if isinstance(prediction, ImageError):
                unreadable.append(prediction)
                continue
            rows.append(ScoredImage.of(sample, prediction))
            masks.count(sample, prediction)
        # After the scoring: files that were just read here would make it look faster.
        if known is not None:
            trained_on += _known_among(known, [sample.path for sample, _ in scored])
    if not rows:
        raise DatasetError(
            f"{dataset.source or dataset.root}: none of the {len(samples)} test images can be "
            f"read; the first: {unreadable[0]}"
        )
    result = _figures(rows, masks, len(rows) / seconds, unreadable)
    result = replace(result, trained_on=tuple(relative(path, dataset.root) for path in trained_on))
    if isinstance(model, Model):
        rate = model.calibration.false_alarm_rate
        result = replace(result, threshold=model.calibration.threshold, false_alarm_rate=rate)
    return result


def _blocks(
    model: Predictor,
    samples: Sequence[Sample],
    skip_unreadable: bool,
    progress: Progress | None,
) -> Iterator[tuple[list[tuple[Sample, Prediction | ImageError]], float]]:
    """Yield the predictions of some samples at a time, and the seconds that they took.

    Only scoring is timed; it must not overlap with the counting of pixels.
    """
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
        seconds = time.perf_counter() - began
        yield list(zip(block, predictions, strict=True)), seconds


def _known_among(known: TrainingImages, paths: Sequence[Path]) -> list[Path]:
    """Return the files that a model was trained on."""
    cores = available_cores()
    # A file that can't be read has no digest; the prediction says so.
    found = {
        path: digest
        for path, digest in in_order(source_digest, paths, workers=cores, ahead=2 * cores)
        if digest
    }
    digests = TrainingImages.of([str(path) for path in found], list(found.values()))
    return [Path(name) for name in known.shared(digests)]


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
        regions: counted pixels of the predicted regions.
        n_given: number of defective images with masks.
        n_marking: number of defective images whose masks mark something.
        nothing: empty masks.
        most: masks of more than half of their image.
        leaves_pixels: whether any pixel is free of defects.
    """

    root: Path
    pixels: PixelMetrics = field(default_factory=PixelMetrics)
    regions: RegionCounts = field(default_factory=RegionCounts)
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
        anomaly_map = resize_map(prediction.input_map, prediction.image_size)
        self.pixels.add(anomaly_map, mask)
        regions = prediction.mask_of(anomaly_map)
        self.regions.add(regions, mask, anomalous=prediction.anomalous)

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


def _reasons(evaluation: Evaluation, pixels: str) -> dict[str, str]:
    """Return why each of the figures that are ``None`` could not be computed.

    Args:
        evaluation: the figures.
        pixels: why there are no pixel figures, if so.
    """
    n_good, n_defect = evaluation.n_good, evaluation.n_defect
    lacking = "no good test images" if not n_good else "no defective test images"
    of_pixels = (*_PIXEL_FIGURES, *_REGION_FIGURES)
    names = (*_DECISION_METRICS, *_IMAGE_METRICS, *of_pixels)
    reasons = {}
    for name in names:
        if getattr(evaluation, name) is not None:
            continue
        if name == "aupimo" and n_defect and not n_good:
            reasons[name] = lacking
        elif name == "region_touch_rate" and evaluation.region_f1 is not None:
            reasons[name] = "no image with a mask is called anomalous"
        elif name in of_pixels:
            reasons[name] = pixels
        elif name == "precision" and n_good and n_defect:
            reasons[name] = "no test image is called anomalous"
        else:
            reasons[name] = lacking
    return reasons


def _figures(
    rows: Sequence[ScoredImage],
    masks: _Masks,
    images_per_second: float,
    unreadable: Sequence[ImageError],
) -> Evaluation:
    counts = Confusion.of(rows)
    n_defect, n_good = counts.tp + counts.fn, counts.fp + counts.tn
    of_images, resamples = _image_figures(rows)
    of_pixels: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float]] = {}
    if pixels := masks.compute():
        drawn = pixels.resample()
        resamples |= {name: drawn[key] for name, key in _PIXEL_FIGURES.items() if key in drawn}
        computed = pixels.compute()
        of_pixels = {name: getattr(computed, key) for name, key in _PIXEL_FIGURES.items()}
        resamples |= (of_regions := masks.regions.resample())
        of_pixels |= masks.regions.figures()
        intervals |= masks.regions.intervals(of_regions)
    intervals = {name: percentile_interval(drawn) for name, drawn in resamples.items()} | intervals
    for name, part, total in (
        ("recall", counts.tp, n_defect),
        ("precision", counts.tp, counts.tp + counts.fp if n_good and n_defect else 0),
        ("false_alarm_rate_observed", counts.fp, n_good),
    ):
        # Unlike a bootstrap interval, Wilson's has a width for 0 of 41.
        if total:
            intervals[name] = wilson_interval(part, total)
        else:
            resamples.pop(name, None)
            intervals.pop(name, None)
    evaluation = Evaluation(
        image_auroc=of_images.get("image_auroc"),
        image_aupr=of_images.get("image_aupr"),
        image_f1=of_images.get("image_f1"),
        pixel_auroc=of_pixels.get("pixel_auroc"),
        pixel_f1=of_pixels.get("pixel_f1"),
        aupro=of_pixels.get("aupro"),
        n_good=n_good,
        n_defect=n_defect,
        false_alarm_rate_observed=counts.fp / n_good if n_good else None,
        images_per_second=images_per_second,
        aupimo=of_pixels.get("aupimo"),
        region_f1=of_pixels.get("region_f1"),
        region_iou=of_pixels.get("region_iou"),
        region_touch_rate=of_pixels.get("region_touch_rate"),
        images=tuple(rows),
        intervals=intervals,
        resamples=resamples,
        notes=masks.notes(),
        unreadable=tuple(unreadable),
    )
    return replace(evaluation, reasons=_reasons(evaluation, masks.reason(n_defect)))


def _image_figures(
    rows: Sequence[ScoredImage],
) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    """Return ranking figures, and resamples of them and of the decisions, where both kinds are."""
    scores = np.array([row.score for row in rows], np.float64)
    called = np.array([row.anomalous for row in rows], np.float64)
    labels = np.array([not row.sample.good for row in rows])
    if labels.all() or not labels.any():
        return {}, {}
    drawn = {
        name: bootstrap_resamples(metric, values, labels)
        for metrics, values in ((_DECISION_METRICS, called), (_IMAGE_METRICS, scores))
        for name, metric in metrics.items()
    }
    return {name: metric(scores, labels) for name, metric in _IMAGE_METRICS.items()}, drawn
