"""Test whether recent parts still look like the good images of the calibration.

If they do, their conformal p-values are uniform. The Kolmogorov-Smirnov statistic D is the largest
distance between the distribution of the p-values and the uniform distribution. The p-values come
from m calibration scores, so D compares two samples: recent scores and calibration scores. Its
effective sample size is n m / (n + m); treating the calibration as exact would warn far too often.
The significance is asymptotic, with Stephens' correction for small samples (M. A. Stephens, "Use of
the Kolmogorov-Smirnov, Cramer-von Mises and related statistics without extensive tables", JRSS B
32, 1970; Press et al., "Numerical Recipes", 3rd edition, section 14.3.3). Ties make the test
conservative.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

MIN_RESULTS = 30
MIN_CALIBRATION = 20
SIGNIFICANCE = 0.001
"""Small, because people look at the test again and again."""

TEST = (
    "Kolmogorov-Smirnov test of the last p-values against the uniform distribution, with the "
    "finite number of calibration scores taken into account (two-sample form)"
)


@dataclass(frozen=True)
class Drift:
    """Result of the drift test.

    Attributes:
        n: number of recent p-values.
        n_calibration: number of calibration scores.
        enough: whether both numbers suffice for a test.
        statistic: largest distance between the distributions, in [0, 1].
        p_value: probability of such a distance without drift.
        warning: whether ``p_value`` is below `SIGNIFICANCE`.
        direction: ``"higher"`` or ``"lower"`` recent scores; ``None`` without a warning.
        message: the result as a sentence for people.
    """

    n: int
    n_calibration: int
    enough: bool
    statistic: float | None
    p_value: float | None
    warning: bool
    direction: Literal["higher", "lower"] | None
    message: str


def kolmogorov_survival(x: float) -> float:
    """Return P(K > x) of Kolmogorov's limit distribution: 2 sum_j (-1)^(j-1) exp(-2 j^2 x^2)."""
    if x < 0.2:
        return 1.0  # correct to more than twelve digits; the series converges slowly here
    terms = ((-1.0) ** (j - 1) * math.exp(-2.0 * j * j * x * x) for j in range(1, 101))
    return min(1.0, max(0.0, 2.0 * math.fsum(terms)))


def uniform_distance(p_values: ArrayLike, m: int) -> tuple[float, float]:
    """Return the distances of p-values from the uniform distribution on 1/(m+1), ..., 1.

    Args:
        p_values: (n,) p-values, multiples of 1/(m+1).
        m: number of calibration scores.

    Returns:
        Largest excess and largest shortfall of their distribution function, both in [0, 1]. A large
        excess means small p-values, that is, high scores.
    """
    ranks = np.rint(np.asarray(p_values, np.float64) * (m + 1)).astype(np.int64)
    counts = np.bincount(np.clip(ranks, 1, m + 1), minlength=m + 2)[1:]
    observed = np.cumsum(counts) / max(1, len(ranks))
    expected = np.arange(1, m + 2) / (m + 1)
    difference = observed - expected
    return float(max(0.0, difference.max())), float(max(0.0, -difference.min()))


def drift(p_values: ArrayLike, m: int) -> Drift:
    """Test whether p-values of recent parts are uniform.

    Args:
        p_values: (n,) p-values of recent parts.
        m: number of calibration scores.
    """
    values = np.asarray(p_values, np.float64)
    n = len(values)
    if n < MIN_RESULTS or m < MIN_CALIBRATION:
        lacking = (
            f"{n} of at least {MIN_RESULTS} recent parts"
            if n < MIN_RESULTS
            else f"{m} of at least {MIN_CALIBRATION} calibration scores"
        )
        return Drift(n, m, False, None, None, False, None, f"Too few to tell yet: {lacking}.")
    above, below = uniform_distance(values, m)
    statistic = max(above, below)
    root = math.sqrt(n * m / (n + m))
    chance = kolmogorov_survival((root + 0.12 + 0.11 / root) * statistic)
    warning = chance < SIGNIFICANCE
    direction: Literal["higher", "lower"] | None = None
    if warning:
        direction = "higher" if above >= below else "lower"
        message = (
            f"The last {n} parts score {direction} than the good images that the model was "
            f"calibrated on (p = {chance:.2g}): look at light, camera and parts, and train again "
            "or update the model if this is the new normal."
        )
    else:
        message = f"The last {n} parts are like the good images of the calibration."
    return Drift(n, m, True, statistic, chance, warning, direction, message)
