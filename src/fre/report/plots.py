"""The charts of an evaluation."""

from __future__ import annotations

from fre.drawing.charts import Caption, curve_chart, number
from fre.evaluation.figures import Evaluation
from fre.evaluation.histogram import scores_and_labels
from fre.evaluation.metrics import precision_recall_curve, roc_curve
from fre.report.counts import Counts
from fre.report.wording import percent


def curves(evaluation: Evaluation, counts: Counts, threshold: float) -> tuple[str, str] | None:
    """ROC and precision-recall curve, or None where there is only one kind of image."""
    recall, false_alarms = counts.recall, counts.false_alarm_rate
    if recall is None or false_alarms is None:
        return None
    scores, labels = scores_and_labels(evaluation.images)
    mark = f"threshold {number(threshold)}"
    fpr, tpr, _ = roc_curve(scores, labels)
    roc = curve_chart(
        Caption(
            "roc",
            "ROC curve",
            f"At the threshold, {recall.text} of the defects are found "
            f"and {false_alarms.text} of the good parts raise an alarm.",
        ),
        x=fpr,
        y=tpr,
        axes=("good parts called anomalous", "defects found"),
        mark=(false_alarms.value, recall.value, mark),
        guess=((0, 0), (1, 1)),
    )
    alarms = counts.found + counts.false_alarms
    # Without alarms precision is 1 by convention: the curve begins there.
    precision = counts.found / alarms if alarms else 1.0
    trust = f"{percent(precision)} of the alarms are defects" if alarms else "no alarm is raised"
    precisions, recalls, _ = precision_recall_curve(scores, labels)
    share = counts.defects / len(evaluation.images)
    pr = curve_chart(
        Caption(
            "pr",
            "Precision-recall curve",
            f"At the threshold, {recall.text} of the defects are found and {trust}.",
        ),
        x=recalls,
        y=precisions,
        axes=("defects found", "alarms that are defects"),
        mark=(recall.value, precision, mark),
        guess=((0, share), (1, share)),
    )
    return roc, pr
