"""The report's words and numbers: verdict, figures, facts about model and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fre.drawing.charts import number
from fre.evaluation.figures import Evaluation
from fre.report.counts import Counts, Share
from fre.report.decision import Decision
from fre.report.wording import DASH, plain, unit


@dataclass(frozen=True)
class Figure:
    """One number of the overview; ``note`` explains it, or says why there is none."""

    label: str
    value: str
    note: str
    interval: str = ""


def verdict(counts: Counts) -> str:
    alarms = f"{counts.false_alarms} false alarm{'' if counts.false_alarms == 1 else 's'}"
    good = f"{counts.good} good part{'' if counts.good == 1 else 's'}"
    if not counts.defects:
        return f"Raises {alarms} in {good}"
    defects = f"Finds {counts.found} of {counts.defects} defect{'' if counts.defects == 1 else 's'}"
    return f"{defects} at {alarms} in {good}" if counts.good else defects


def figures(evaluation: Evaluation, counts: Counts) -> list[Figure]:
    both = "needs good and defective images"
    if not counts.defects:
        no_pixels = "no defective images were tested"
    elif any(row.sample.masks for row in evaluation.images):
        no_pixels = "was not computed"
    else:
        no_pixels = "the dataset has no masks"
    no_aupimo = no_pixels if counts.good else "no good images were tested"

    def figure(name: str, label: str, note: str, reason: str) -> Figure:
        value = getattr(evaluation, name)
        if value is None:
            return Figure(label, DASH, evaluation.reasons.get(name, reason))
        if name not in evaluation.intervals:
            return Figure(label, unit(value), note)
        low, high = evaluation.intervals[name]
        return Figure(label, unit(value), note, f"{unit(low)} to {unit(high)}")

    return [
        _share_figure("Defects found", counts.recall, "no defective images were tested"),
        _share_figure("False alarms", counts.false_alarm_rate, "no good images were tested"),
        figure(
            "region_touch_rate",
            "Regions touch the defect",
            "of the defects found, with a mask",
            no_pixels,
        ),
        figure("region_f1", "Pixel F1 of regions", "overlap of regions and masks", no_pixels),
        figure("region_iou", "Pixel IoU of regions", "the same, over their union", no_pixels),
        figure("image_auroc", "Image AUROC", "chance that a defect outscores a good part", both),
        figure("image_aupr", "Average precision", "area under the precision-recall curve", both),
        figure("image_f1", "Best image F1", "at the threshold that suits this test best", both),
        figure(
            "pixel_auroc",
            "Pixel AUROC",
            "chance that a defect pixel outscores a good one",
            no_pixels,
        ),
        figure(
            "pixel_f1",
            "Best pixel F1",
            "overlap of map and mask, at best",
            no_pixels,
        ),
        figure("aupro", "AUPRO", "share of each defect that is covered", no_pixels),
        figure(
            "aupimo",
            "AUPIMO",
            "share of each image's defect that is covered, at nearly no false alarm",
            no_aupimo,
        ),
    ]


def _share_figure(label: str, share: Share | None, reason: str) -> Figure:
    if share is None:
        return Figure(label, DASH, reason)
    return Figure(label, share.text, f"{share.part} of {share.total}", share.interval_text)


MODEL_LABELS = {
    "name": "Model",
    "preset": "Preset",
    "backbone": "Backbone",
    "layers": "Layers",
    "input_size": "Input size",
    "n_training_images": "Training images",
    "digest": "Digest of the training files",
    "created": "Trained",
    "version": "fre version",
}


def model_rows(info: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return labels and values of the model: known facts first, then others."""
    known = [(label, plain(info.get(key))) for key, label in MODEL_LABELS.items()]
    others = [
        (key.replace("_", " ").capitalize(), plain(value))
        for key, value in info.items()
        if key not in MODEL_LABELS
    ]
    return known + others


def run_rows(evaluation: Evaluation, decision: Decision) -> list[tuple[str, str]]:
    """Return labels and values of the test."""
    speed = evaluation.images_per_second
    return [
        ("Good images tested", f"{evaluation.n_good:,}"),
        ("Defective images tested", f"{evaluation.n_defect:,}"),
        ("Unreadable images left out", f"{len(evaluation.unreadable):,}"),
        ("Threshold", number(decision.threshold)),
        ("Threshold from", decision.source),
        ("Calibrated on", f"{decision.calibration.size:,} good images"),
        (
            "Speed",
            f"{number(speed)} images per second, in this one run"
            if speed > 0
            else f"{DASH} (not measured)",
        ),
        (
            "Time for an image",
            f"{number(1000 / speed)} ms, from file to map" if speed > 0 else DASH,
        ),
    ]
