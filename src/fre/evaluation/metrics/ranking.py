"""Figures and curves of scored items, such as images: exact, with ties as scikit-learn has them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fre.evaluation.metrics import curves
from fre.evaluation.metrics.arrays import DoubleArray
from fre.evaluation.metrics.checks import check_pair


def tied_ranks(values: ArrayLike) -> DoubleArray:
    """Return ranks from the smallest value up, from 1; equal values share the mean of their ranks.

    Args:
        values: (n,).

    Returns:
        float64 (n,).
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: DoubleArray = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve.

    It is the probability that a defective item scores above a good one, ties counting half
    (Hanley and McNeil, Radiology 143, 1982).

    Args:
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.

    Returns:
        The area, in [0, 1]; 0.5 is chance.

    Raises:
        OptionError: the shapes differ, a score is NaN, or there is only one kind of label.
    """
    _, tp, fp = ranked_counts(scores, labels)
    return float(curves.area_under_roc(tp, fp))


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision: the sum of precision times the step of recall over all thresholds.

    It is the area under the precision-recall curve without interpolation, as scikit-learn's
    ``average_precision_score`` defines it.

    Args:
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.

    Returns:
        The average precision, in (0, 1]; chance is the share of defective items.

    Raises:
        OptionError: the shapes differ, a score is NaN, or there is only one kind of label.
    """
    _, tp, fp = ranked_counts(scores, labels)
    return float(curves.average_precision(tp, fp))


def max_f1(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """The largest F1 = 2 TP / (2 TP + FP + FN) over all thresholds.

    Args:
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.

    Returns:
        The F1, in (0, 1], and a threshold that reaches it by calling scores at or above it
        defective: one of the scores, the highest if there are several.

    Raises:
        OptionError: the shapes differ, a score is NaN, or there is only one kind of label.
    """
    thresholds, tp, fp = ranked_counts(scores, labels)
    f1 = curves.f1(tp, fp)
    best = int(np.argmax(f1))
    return float(f1[best]), float(thresholds[best])


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """The ROC curve, for plots.

    Args:
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.

    Returns:
        False-positive rate, true-positive rate and threshold, float64, (k + 1,) each, for k
        distinct scores. Item i is for calling scores at or above threshold i defective; the
        first is (0, 0, inf), where nothing is.

    Raises:
        OptionError: the shapes differ, a score is NaN, or there is only one kind of label.
    """
    thresholds, tp, fp = ranked_counts(scores, labels)
    return (
        np.concatenate([[0.0], fp / fp[-1]]),
        np.concatenate([[0.0], tp / tp[-1]]),
        np.concatenate([[np.inf], thresholds]),
    )


def precision_recall_curve(
    scores: ArrayLike, labels: ArrayLike
) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """The precision-recall curve, for plots.

    Args:
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.

    Returns:
        Precision, recall and threshold, float64, (k + 1,) each, for k distinct scores, by rising
        recall. Item i is for calling scores at or above threshold i defective; the first is
        (1, 0, inf), where nothing is.

    Raises:
        OptionError: the shapes differ, a score is NaN, or there is only one kind of label.
    """
    thresholds, tp, fp = ranked_counts(scores, labels)
    return (
        np.concatenate([[1.0], tp / (tp + fp)]),
        np.concatenate([[0.0], tp / tp[-1]]),
        np.concatenate([[np.inf], thresholds]),
    )


def ranked_counts(
    scores: ArrayLike, labels: ArrayLike
) -> tuple[DoubleArray, NDArray[np.int64], NDArray[np.int64]]:
    """Distinct scores, highest first, and how many defective and good ones are at or above."""
    values, truth = check_pair(scores, labels)
    order, last = rank(values)
    tp = np.cumsum(truth[order], dtype=np.int64)[last]
    return values[order[last]], tp, last + 1 - tp


def rank(values: DoubleArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order from high to low, and in it the last position of every run of equal values."""
    order = np.argsort(values)[::-1]
    ranked = values[order]
    # Compared, not subtracted: inf - inf is NaN.
    return order, np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), values.size - 1)
