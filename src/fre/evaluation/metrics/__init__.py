"""Figures of merit of anomaly detection: pure functions of scores and labels.

A higher score is more anomalous. Scores may be infinite, but not NaN. Only their order matters.
Equal scores enter every curve together, as in scikit-learn. A figure that compares good with
defective raises OptionError where only one of them exists. `PixelMetrics` takes images one by one
in bounded memory; the functions hold all their input.
"""

from fre.evaluation.metrics.arrays import AUPIMO_FPR_BOUNDS, Metric
from fre.evaluation.metrics.maps import aupimo, aupro
from fre.evaluation.metrics.ranking import (
    auroc,
    average_precision,
    max_f1,
    precision_recall_curve,
    roc_curve,
)
from fre.evaluation.metrics.resampling import (
    bootstrap_resamples,
    percentile_interval,
    wilson_interval,
)
from fre.evaluation.metrics.streaming import PixelFigures, PixelMetrics

__all__ = [
    "AUPIMO_FPR_BOUNDS",
    "Metric",
    "PixelFigures",
    "PixelMetrics",
    "aupimo",
    "aupro",
    "auroc",
    "average_precision",
    "bootstrap_resamples",
    "max_f1",
    "percentile_interval",
    "precision_recall_curve",
    "roc_curve",
    "wilson_interval",
]
