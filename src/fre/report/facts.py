"""Tables of the model and of the test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fre.evaluation.figures import Evaluation
from fre.report.charts import number
from fre.report.decision import Decision
from fre.report.wording import DASH, plain

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
    known = [(label, plain(info.get(key))) for key, label in MODEL_LABELS.items()]
    others = [
        (key.replace("_", " ").capitalize(), plain(value))
        for key, value in info.items()
        if key not in MODEL_LABELS
    ]
    return known + others


def run_rows(evaluation: Evaluation, decision: Decision) -> list[tuple[str, str]]:
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
