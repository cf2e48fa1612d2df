"""P-values and thresholds from the scores of good images alone.

Split-conformal prediction (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World",
2005, section 4.2): among m calibration scores and one more of the same kind, every rank is
equally likely, so a good image has a p-value of at most a with a probability of at most a.
Cross-fitted scores are not quite exchangeable with new ones: each comes from a subspace fitted to
fewer images than the final one, and so is too large. `fre.subspaces.cross_fit.extrapolate` corrects
this.

One odd photo among the good ones would set the threshold of a small false-alarm rate by itself, and
defects below its score would be missed. So images whose held-out score stands out are set aside,
named, and their share is added to the false-alarm rate to expect.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import FREWarning, OptionError

Decision: TypeAlias = Literal["pass", "review", "fail"]

ODD_DEVIATIONS = 6.0
"""Held-out scores this many robust standard deviations above the median are odd."""
MAD_TO_DEVIATION = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""
ODD_SHARE = 0.05
"""Largest share of the images that may be odd: more of them are a kind of good images."""
ODD_FROM = 10
"""One image may be odd from this number of images on, whatever the share."""

GRAPH_SCORES = "fre/calibration_scores"
GRAPH_COUNT = "fre/calibration_count"
GRAPH_THRESHOLD = "fre/threshold"
"""Initialisers of the graph that `fre threshold` rewrites."""

LOST_BAND = (
    "the review band is gone: with the new scores it would not begin below the threshold; set it "
    "again"
)

RATES = (0.01, 0.02, 0.05, 0.1)
"""False-alarm rates that are shown side by side."""


def count_odd(scores: NDArray[np.floating]) -> int:
    """Return how many of the highest scores are odd.

    Odd is a score above median + 6 x 1.4826 x (median absolute deviation), the usual robust
    estimate of mean and standard deviation (Hampel, "The influence curve and its role in robust
    estimation", JASA 1974); at most 5 % of the scores, and one of 10 to 39.

    Args:
        scores: (m,), held-out scores of good images, in any order.
    """
    m = len(scores)
    if m < ODD_FROM:
        return 0
    median = np.median(scores)
    deviation = MAD_TO_DEVIATION * float(np.median(np.abs(scores - median)))
    # Copies score the same up to rounding, which must not make the others odd.
    deviation = max(deviation, 1e-6 * abs(float(median)))
    beyond = int(np.count_nonzero(scores > median + ODD_DEVIATIONS * deviation))
    return min(beyond, max(1, int(ODD_SHARE * m))) if deviation > 0 else 0


def check_false_alarm_rate(rate: float) -> None:
    """Refuse a rate that is not between 0 and 1.

    Raises:
        OptionError: the rate is out of range.
    """
    if not 0 < rate < 1:
        raise OptionError(f"the false-alarm rate must be above 0 and below 1, not {rate}")


def conformal_threshold(scores: NDArray[np.floating], rate: float) -> float:
    """Return the threshold of a false-alarm rate: higher scores are anomalous.

    A higher score has a p-value of at most ``rate``. Fewer scores than 1 / rate - 1 can't guarantee
    the rate: the threshold is then their largest.

    Args:
        scores: (m,), scores of good images, ascending; m >= 1.
        rate: false-alarm rate, in (0, 1).
    """
    m = len(scores)
    # p <= rate  <=>  1 + #{scores >= s} <= rate (m + 1); the tolerance is for 0.1 * 10 and such.
    allowed = int(np.floor(rate * (m + 1) + 1e-9)) - 1
    return float(scores[m - 1 - max(allowed, 0)])


def check_threshold(threshold: float) -> float:
    """Return a threshold as the graph compares it, rounded to float32.

    Raises:
        OptionError: the threshold is not finite.
    """
    if not np.isfinite(rounded := np.float32(threshold)):
        raise OptionError(f"the threshold must be a finite number, not {threshold}")
    return float(rounded)


@dataclass(frozen=True)
class Calibration:
    """Held-out scores of good images, and the thresholds that follow from them.

    Scores and thresholds are float32 values, as the graph has them: Python and the graph decide
    alike.

    Attributes:
        scores: float64 (m,), ascending, the odd ones last.
        n_odd: number of odd images: their scores, the highest, are set aside for the threshold.
        keep_odd: whether odd images count for the threshold like all others; then ``n_odd`` is 0.
        false_alarm_rate: requested share of good images, like the others, that are anomalous;
            ``None`` if the threshold was given instead.
        threshold: an image whose score is above it is anomalous.
        review_threshold: an image whose score is above it, but not above ``threshold``, is for a
            person to review; ``None`` for no such band.
        pixel_threshold: a pixel of an anomalous image's map at or above it belongs to a region.
        map_range: ends of the colour scale of heat maps.
    """

    scores: NDArray[np.float64]
    false_alarm_rate: float | None
    threshold: float
    pixel_threshold: float
    map_range: tuple[float, float]
    n_odd: int = 0
    keep_odd: bool = False
    review_threshold: float | None = None

    @classmethod
    def fit(
        cls,
        scores: NDArray[np.floating],
        false_alarm_rate: float,
        *,
        pixel_threshold: float,
        map_range: tuple[float, float],
        keep_odd: bool = False,
    ) -> Calibration:
        """Calibrate on held-out scores of good images.

        Args:
            scores: (m,), one for each image, in any order; m >= 1.
            false_alarm_rate: in (0, 1).
            pixel_threshold: from pixels of good images.
            map_range: ends of the colour scale of heat maps.
            keep_odd: whether odd images count for the threshold.

        Raises:
            OptionError: the rate is out of range.
        """
        ordered = np.sort(np.asarray(scores, np.float32)).astype(np.float64)
        unset = cls(ordered, None, 0.0, pixel_threshold, map_range)
        return unset.with_odd(keep=keep_odd).at_rate(false_alarm_rate)

    @property
    def others(self) -> NDArray[np.float64]:
        """The scores that decide, without the odd ones: ascending."""
        return self.scores[: len(self.scores) - self.n_odd]

    def with_odd(self, *, keep: bool) -> Calibration:
        """Return a calibration that sets odd images aside, or keeps them as good ones.

        A threshold of a false-alarm rate follows; a given one stays.
        """
        n_odd = 0 if keep else count_odd(self.scores)
        changed = replace(self, n_odd=n_odd, keep_odd=keep)
        return changed if self.false_alarm_rate is None else changed.at_rate(self.false_alarm_rate)

    def at_rate(self, false_alarm_rate: float) -> Calibration:
        """Return a calibration with the threshold of another false-alarm rate, without a band.

        Raises:
            OptionError: the rate is out of range.
        """
        check_false_alarm_rate(false_alarm_rate)
        return replace(
            self,
            false_alarm_rate=false_alarm_rate,
            threshold=conformal_threshold(self.others, false_alarm_rate),
            review_threshold=None,
        )

    def at_threshold(self, threshold: float) -> Calibration:
        """Return a calibration with a given threshold, without a band.

        Raises:
            OptionError: the threshold is not finite.
        """
        return replace(
            self,
            false_alarm_rate=None,
            threshold=check_threshold(threshold),
            review_threshold=None,
        )

    def with_review(self, threshold: float | None) -> Calibration:
        """Return a calibration with another threshold of the review band; ``None`` for no band.

        Raises:
            OptionError: the threshold is not finite, or not below the one that fails a part.
        """
        if threshold is None:
            return replace(self, review_threshold=None)
        rounded = check_threshold(threshold)
        if not rounded < self.threshold:
            raise OptionError(
                f"the review band must begin below the threshold, {self.threshold:.6g}; "
                f"{threshold:.6g} is not"
            )
        return replace(self, review_threshold=rounded)

    def like(self, before: Calibration) -> Calibration:
        """Return a calibration of new scores that decides as an earlier one did.

        A false-alarm rate is kept. So is the rate of a threshold given by hand: the scores moved,
        and the threshold moves with them. One above all scores of good images keeps its distance.
        A review band that would not begin below the threshold is left out, with a `FREWarning`.
        """
        found = self.with_odd(keep=before.keep_odd)
        if before.false_alarm_rate is not None:
            found = found.at_rate(before.false_alarm_rate)
        else:
            found = found.at_threshold(found._moved(before.threshold, before))
        if before.review_threshold is None:
            return found
        review = found._moved(before.review_threshold, before)
        if review < found.threshold:
            return found.with_review(review)
        warnings.warn(
            LOST_BAND,
            FREWarning,
            stacklevel=2,
        )
        return found

    def _moved(self, threshold: float, before: Calibration) -> float:
        above = int(np.count_nonzero(before.others > threshold))
        if above == 0:
            return float(self.others[-1]) + threshold - float(before.others[-1])
        return conformal_threshold(self.others, (1 + above) / (len(before.others) + 1))

    def thresholds(self) -> list[tuple[float, float]]:
        """Return some false-alarm rates, the requested one included, and their thresholds."""
        asked = () if self.false_alarm_rate is None else (self.false_alarm_rate,)
        rates = sorted({*RATES, *asked})
        return [(rate, conformal_threshold(self.others, rate)) for rate in rates]

    def initialisers(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays by which the graph decides, by the names of its initialisers."""
        others = self.others.astype(np.float32)
        return {
            GRAPH_SCORES: others,
            GRAPH_COUNT: np.array([len(others) + 1], np.float32),
            GRAPH_THRESHOLD: np.array([self.threshold], np.float32),
        }

    @property
    def n_above(self) -> int:
        """Number of calibration scores above the threshold, without the odd ones."""
        return int(np.count_nonzero(self.others > self.threshold))

    @property
    def rate_of_others(self) -> float:
        """False-alarm rate to expect among good images that are not odd: a p-value.

        (1 + #{scores > threshold}) / (m + 1): of a score just above the threshold.
        """
        return (1 + self.n_above) / (len(self.others) + 1)

    @property
    def odd_share(self) -> float:
        """Share of the good images that are odd, and score above the threshold."""
        odd = self.scores[len(self.scores) - self.n_odd :]
        return int(np.count_nonzero(odd > self.threshold)) / len(self.scores)

    @property
    def expected_rate(self) -> float:
        """Expected false-alarm rate: `rate_of_others` and `odd_share` together."""
        return min(self.rate_of_others + self.odd_share, 1.0)

    def rate_in_words(self) -> str:
        """Return the false-alarm rates, requested and expected, in words."""
        asked = "" if self.false_alarm_rate is None else f"{percent(self.false_alarm_rate)} asked, "
        words = f"{asked}false alarms to expect: {percent(self.expected_rate)}"
        if not self.odd_share:
            return words
        return (
            f"{words}, {percent(self.rate_of_others)} of ordinary good images and "
            f"{percent(self.odd_share)} as odd as those set aside"
        )

    @property
    def attainable_rate(self) -> float:
        """Smallest false-alarm rate that the images can promise, 1 / (m + 1)."""
        return 1 / (len(self.others) + 1)

    def p_value(self, score: float) -> float:
        """Return the conformal p-value, (1 + #{scores >= score}) / (m + 1), in (0, 1].

        Odd images do not count. A score of NaN has the smallest p-value.
        """
        others = self.others
        at_least = 0 if np.isnan(score) else len(others) - int(np.searchsorted(others, score))
        return (1 + at_least) / (len(others) + 1)

    def anomalous(self, score: float) -> bool:
        """Whether a score is above the threshold; NaN is."""
        return not score <= self.threshold

    def decision(self, score: float) -> Decision | None:
        """Return the decision where there is a review band; ``None`` where there is none."""
        if self.review_threshold is None:
            return None
        if self.anomalous(score):
            return "fail"
        return "review" if score > self.review_threshold else "pass"

    def caveat(self) -> str | None:
        """Return a warning if the images are too few for the rate; ``None`` if they are enough."""
        if self.false_alarm_rate is None or self.false_alarm_rate >= self.attainable_rate:
            return None
        needed = np.ceil(1 / self.false_alarm_rate - 1e-9) - 1
        return (
            f"{len(self.others)} good images can't promise a false-alarm rate of "
            f"{self.false_alarm_rate:g}, only {self.attainable_rate:.3g}: the threshold is the "
            f"largest of their scores; {needed:.0f} images or more could"
        )


def percent(share: float) -> str:
    """Return a share as a percentage of two digits, such as ``1.9 %``."""
    # The format of two digits writes 100 as 1e+02.
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
