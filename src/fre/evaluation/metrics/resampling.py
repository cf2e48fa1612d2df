"""Intervals of figures by the choice of test images: bootstrap and Wilson."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fre.evaluation.metrics.arrays import DoubleArray, Metric
from fre.evaluation.metrics.checks import check_level, check_pair, check_resampling
from fre.types import MaskArray

LEVEL = 0.95
"""Share of the resamples that an interval holds by default."""


def bootstrap_resamples(
    metric: Metric, scores: ArrayLike, labels: ArrayLike, *, n: int = 1000, seed: int = 0
) -> DoubleArray:
    """Return a figure of bootstrap resamples, stratified by label.

    Good and defective items are drawn apart, each with replacement and to their own number, so
    that every resample has both (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
    chapter 13). The spread tells the uncertainty from the choice of test images, not from that of
    training images. The same seed draws the same items, so that figures of two models are paired.

    Args:
        metric: takes scores and labels, and returns a float, such as `auroc`.
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.
        n: number of resamples.
        seed: seed of the draws.

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


def percentile_interval(figures: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval that holds the middle share of the figures of resamples.

    Args:
        figures: (n,), figures of resamples.
        level: share that the interval holds, in (0, 1).

    Raises:
        OptionError: the level is out of range.
    """
    check_level(level)
    low, high = np.quantile(np.asarray(figures, np.float64), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def wilson_interval(part: float, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, by Wilson, JASA 22, 1927.

    Unlike a bootstrap interval it has a width for 0 of 41 and for 41 of 41.

    Args:
        part: number of successes; a mean of several counts need not be whole.
        total: number of trials, at least 1.

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
    """Yield indices of n resamples: good items first, then defective ones, each drawn apart."""
    good, defective = np.flatnonzero(~truth), np.flatnonzero(truth)
    rng = np.random.default_rng(seed)
    for _ in range(n):
        # The draws of rng.choice, in half of its time.
        yield np.concatenate(
            [kind[rng.integers(0, kind.size, kind.size)] for kind in (good, defective)]
        )
