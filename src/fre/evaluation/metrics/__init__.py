"""Figures of merit of anomaly detection, on raw unbounded scores.

A higher score is more anomalous. Scores may be infinite, but not NaN; nothing is ever squashed
or rescaled, so only the order of the scores matters. Images or pixels with equal scores can't be
told apart by any threshold and enter every curve together, as in scikit-learn.

The functions are exact and hold all their input. `PixelMetrics` takes one image after another in
bounded memory, and says how far each of its figures can be from the exact one.

Every figure compares good with defective; where only one of them exists it is undefined, and
the functions raise OptionError.
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
    bootstrap_difference,
    bootstrap_interval,
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
    "bootstrap_difference",
    "bootstrap_interval",
    "bootstrap_resamples",
    "max_f1",
    "percentile_interval",
    "precision_recall_curve",
    "roc_curve",
    "wilson_interval",
]
