"""Found defects and false alarms among the results that a reviewer marked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fre.evaluation.metrics import wilson_interval
from fre.model import Model
from fre.scoring.calibration import percent

FEW = 20
"""Fewer reviewed defects or good parts than this are said to be few."""


def reviewed_body(
    name: str, model: Model, calibration_sha256: str, rows: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Count reviewed results of a model by the decision at its present threshold.

    Scores of an earlier version of the model, before an update, do not compare: such results are
    counted apart.

    Args:
        name: name of the model.
        model: the model.
        calibration_sha256: digest of its calibration scores.
        rows: ``score``, ``reason``, ``verdict``, ``calibration_sha256`` and ``image_sha256`` of
            each reviewed image.
    """
    counts = dict.fromkeys(("tp", "fn", "fp", "tn"), 0)
    band = {"defect": 0, "good": 0}
    earlier, counted = set(), set()
    for row in rows:
        if row["calibration_sha256"] != calibration_sha256:
            earlier.add(row["image_sha256"])
            continue
        counted.add(row["image_sha256"])
        defect = row["verdict"] == "defect"
        # Earlier versions of fre stored scores that are not finite.
        sound = row["reason"] is None and row["score"] is not None
        score = row["score"] if sound else float("inf")
        anomalous = model.calibration.anomalous(score)
        counts[("tp" if anomalous else "fn") if defect else ("fp" if anomalous else "tn")] += 1
        if model.calibration.decision(score) == "review":
            band[row["verdict"]] += 1
    n_defect, n_good = counts["tp"] + counts["fn"], counts["fp"] + counts["tn"]
    n_earlier = len(earlier - counted)
    has_band = model.calibration.review_threshold is not None
    return {
        "model": name,
        "sha256": model.sha256,
        "threshold": model.threshold,
        "review_threshold": model.calibration.review_threshold,
        "n_defect": n_defect,
        "n_good": n_good,
        "confusion": counts,
        "in_review": band if has_band else None,
        "recall": _share(counts["tp"], n_defect),
        "recall_interval": _interval(counts["tp"], n_defect),
        "false_alarm_rate": _share(counts["fp"], n_good),
        "false_alarm_rate_interval": _interval(counts["fp"], n_good),
        "n_earlier": n_earlier,
        "lines": _lines(counts, band if has_band else None, n_earlier, model.threshold),
    }


def _share(part: int, total: int) -> float | None:
    return part / total if total else None


def _interval(part: int, total: int) -> list[float] | None:
    return list(wilson_interval(part, total)) if total else None


def _lines(
    counts: dict[str, int], band: dict[str, int] | None, n_earlier: int, threshold: float
) -> list[str]:
    """Return the counts in words."""
    n_defect, n_good = counts["tp"] + counts["fn"], counts["fp"] + counts["tn"]
    earlier = (
        f"{_many(n_earlier, 'reviewed image')} of an earlier version of the model "
        f"{'does' if n_earlier == 1 else 'do'} not count: inspect and review again"
    )
    if n_defect + n_good == 0:
        return ["nothing is reviewed for this version of the model", *[earlier] * bool(n_earlier)]
    lines = [
        f"found {counts['tp']} of {_many(n_defect, 'reviewed defect')}, missed {counts['fn']}; "
        f"{_many(counts['fp'], 'false alarm')} among {_many(n_good, 'reviewed good part')}, "
        f"at the threshold {threshold:.4g}"
    ]
    if band is not None:
        lines.append(
            f"in the review band: {_many(band['defect'], 'other defect')} and "
            f"{_many(band['good'], 'good part')}"
        )
    lines += _few("defect", n_defect, counts["tp"], "the share found")
    lines += _few("good part", n_good, counts["fp"], "the share of false alarms")
    lines.append(
        "only reviewed parts count: a missed defect among parts that nobody looked at does not "
        "show here, so review parts that pass, too"
    )
    return [*lines, *[earlier] * bool(n_earlier)]


def _few(what: str, n: int, part: int, share: str) -> list[str]:
    """Return one line if reviews of one kind are few, else none."""
    if n >= FEW:
        return []
    if n == 0:
        return [f"no {what} is reviewed: {share} is unknown"]
    low, high = wilson_interval(part, n)
    are = "is" if n == 1 else "are"
    return [
        f"{_many(n, what)} {are} too few: {share} may be anything from {percent(low)} to "
        f"{percent(high)} (95 % interval)"
    ]


def _many(n: int, one: str) -> str:
    return f"{n} {one}" if n == 1 else f"{n} {one}s"
