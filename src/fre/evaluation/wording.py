"""Figures of an evaluation in words, for the command line and for notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fre.evaluation.figures import Evaluation

DECISION_TITLES = {
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "false_alarm_rate_observed": "false-alarm rate observed",
    "region_touch_rate": "regions touch the defect",
    "region_f1": "pixel F1 of the regions",
    "region_iou": "pixel IoU of the regions",
}
"""Names of the figures at the model's thresholds, in printed order."""

RANKING_TITLES = {
    "image_auroc": "image AUROC",
    "image_aupr": "image AUPR",
    "image_f1": "image F1, best",
    "pixel_auroc": "pixel AUROC",
    "pixel_f1": "pixel F1, best",
    "aupro": "AUPRO",
    "aupimo": "AUPIMO",
}
"""Names of the figures over all thresholds, in printed order."""

FIGURE_TITLES = {**DECISION_TITLES, **RANKING_TITLES}
"""Names of the figures of an evaluation, in printed order."""


def whole_percent(part: int, total: int) -> str:
    """Return a share in whole per cent; only all is 100 % and only none is 0 %."""
    if part in (0, total):
        return "100 %" if part else "0 %"
    return f"{min(max(round(100 * part / total), 1), 99)} %"


def decision_sentence(result: Evaluation) -> str:
    """Return found defects and false alarms at the model's threshold."""
    counts = result.confusion
    found = counts.tp + counts.fn
    parts = [f"found {counts.tp} of {found} defects ({whole_percent(counts.tp, found)})"]
    if not found:
        parts = ["no defective test images"]
    parts.append(
        f"{counts.fp} of {result.n_good} false alarms" if result.n_good else "no good test images"
    )
    if result.threshold is not None:
        rate = result.false_alarm_rate
        asked = "set without a rate" if rate is None else f"{100 * rate:g} % asked"
        parts.append(f"at threshold {result.threshold:.3g} ({asked})")
    return ", ".join(parts)
