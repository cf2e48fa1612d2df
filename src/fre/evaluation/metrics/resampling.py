"""Intervals: how far a figure may be off by the choice of test images."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fre.evaluation.metrics.arrays import DoubleArray, Metric
from fre.evaluation.metrics.checks import check_level, check_pair, check_resampling
from fre.types import MaskArray

LEVEL = 0.95
"""Share of the resamples that an interval holds, unless asked for otherwise."""


def bootstrap_interval(
    metric: Metric,
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    n: int = 1000,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a figure, stratified by label.

    The good and the defective items are resampled apart, each with replacement to their own
    number, so that every resample has both (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13). It is the uncertainty from the choice of test images, not from
    that of training images.

    Args:
        metric: takes scores and labels, and returns a float, such as `auroc`.
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.
        n: number of resamples.
        level: share of the resamples that the interval holds, in (0, 1).
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        The interval's ends, low and high.

    Raises:
        OptionError: the shapes differ, a score is NaN, there is only one kind of label, or an
            option is out of range.
    """
    check_level(level)
    return percentile_interval(bootstrap_resamples(metric, scores, labels, n=n, seed=seed), level)


def bootstrap_resamples(
    metric: Metric, scores: ArrayLike, labels: ArrayLike, *, n: int = 1000, seed: int = 0
) -> DoubleArray:
    """The figures of the resamples that `bootstrap_interval` takes the percentiles of.

    Those of two scores of the same items, with the same seed, are of the same draws: their
    differences are paired.

    Args:
        metric: takes scores and labels, and returns a float, such as `auroc`.
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.
        n: number of resamples.
        seed: of the resampling.

    Returns:
        float64 (n,).

    Raises:
        OptionError: the shapes differ, a score is NaN, there is only one kind of label, or n is
            below 1.
    """
    check_resampling(n)
    values, truth = check_pair(scores, labels)
    return np.array(
        [metric(values[drawn], truth[drawn]) for drawn in resamples(truth, n, seed)], np.float64
    )


def bootstrap_difference(
    metric: Metric,
    scores: ArrayLike,
    others: ArrayLike,
    labels: ArrayLike,
    *,
    n: int = 1000,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of how much a figure differs between two scores of the items.

    As `bootstrap_interval`, and paired: each resample draws the same items for both, so that
    what makes an item hard for both cancels. The interval is that of the difference, which may
    exclude 0 although the intervals of the two figures overlap.

    Args:
        metric: takes scores and labels, and returns a float, such as `auroc`.
        scores: real numbers of any shape; higher is more anomalous.
        others: of the same items in the same order.
        labels: bool or 0 and 1, of the same shape; true is defective.
        n: number of resamples.
        level: share of the resamples that the interval holds, in (0, 1).
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        The ends, low and high, of the interval of metric(others) - metric(scores).

    Raises:
        OptionError: the shapes differ, a score is NaN, there is only one kind of label, or an
            option is out of range.
    """
    check_level(level)
    first, second = (
        bootstrap_resamples(metric, values, labels, n=n, seed=seed) for values in (scores, others)
    )
    return percentile_interval(second - first, level)


def percentile_interval(figures: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """The interval that holds the middle share of figures.

    Args:
        figures: (n,), of resamples.
        level: the share, in (0, 1).

    Raises:
        OptionError: the level is out of range.
    """
    check_level(level)
    low, high = np.quantile(np.asarray(figures, np.float64), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(part: float, total: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson, JASA 22, 1927.

    Unlike the bootstrap's it has a width for none of 41, and for all of them.

    Args:
        part: how many; the mean of several counts need not be whole.
        total: of how many, at least 1.

    Returns:
        The interval's ends, low and high, in [0, 1].
    """
    z = 1.959964  # of the normal distribution, two-sided at LEVEL
    p = part / total
    centre = (p + z * z / (2 * total)) / (1 + z * z / total)
    spread = math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    half = z / (1 + z * z / total) * spread
    # In exact arithmetic these ends are 0 and 1; in floating point nearly.
    return 0.0 if part == 0 else centre - half, 1.0 if part == total else centre + half


def resamples(truth: MaskArray, n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Indices of n resamples: the good items, then the defective, each drawn from their own."""
    good, defective = np.flatnonzero(~truth), np.flatnonzero(truth)
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield np.concatenate([rng.choice(good, good.size), rng.choice(defective, defective.size)])
