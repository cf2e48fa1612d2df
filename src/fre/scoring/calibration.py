"""P-values and thresholds from the scores of good images alone.

Split-conformal prediction (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World",
2005, section 4.2): among m calibration scores and one more of the same kind, every rank is
equally likely, so a good image has a p-value of at most a with a probability of at most a.
Cross-fitted scores are not quite exchangeable with new ones: each comes from a subspace fitted to
fewer images than the final one, and so is too large. `fre.subspaces.cross_fit.extrapolate` corrects
this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError


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


HEAT_SPAN = 3
"""Heat maps reach their brightest colour at this multiple of the pixel threshold."""


@dataclass(frozen=True)
class Calibration:
    """Cross-fitted scores of good images, and the thresholds that follow from them.

    Attributes:
        scores: float64 (m,), ascending.
        false_alarm_rate: requested share of good images that are anomalous; ``None`` if the
            threshold was given instead.
        threshold: an image whose score is above it is anomalous.
        pixel_threshold: a pixel of the anomaly map above it belongs to a region. Where it was
            set by a false-alarm rate, at most that share of the good images have such a pixel.
        map_range: values of the anomaly map that are typical of good images and clearly above
            them: the fixed scale of heat maps.
        map_maxima: float64 (m,), ascending, the largest value of each image's map; ``None`` if
            they were not kept.
    """

    scores: NDArray[np.float64]
    false_alarm_rate: float | None
    threshold: float
    pixel_threshold: float
    map_range: tuple[float, float]
    map_maxima: NDArray[np.float64] | None = None

    @classmethod
    def fit(
        cls,
        scores: NDArray[np.floating],
        map_maxima: NDArray[np.floating],
        false_alarm_rate: float,
        *,
        map_range: tuple[float, float] | None = None,
    ) -> Calibration:
        """Calibrate on cross-fitted good images.

        Args:
            scores: (m,), one for each image.
            map_maxima: (m,), the largest value of each image's map.
            false_alarm_rate: in (0, 1).
            map_range: scale of heat maps; ``None`` for the median of the maxima to three times the
                pixel threshold, which suits maps of squared residuals.

        Raises:
            OptionError: the rate is out of range.
        """
        check_false_alarm_rate(false_alarm_rate)
        ordered = np.sort(np.asarray(scores, np.float64))
        maxima = np.sort(np.asarray(map_maxima, np.float64))
        pixel = conformal_threshold(maxima, false_alarm_rate)
        typical = float(np.median(maxima))
        return cls(
            ordered,
            false_alarm_rate,
            conformal_threshold(ordered, false_alarm_rate),
            pixel,
            map_range or (typical, max(HEAT_SPAN * pixel, float(np.nextafter(typical, np.inf)))),
            maxima,
        )

    def at_rate(self, false_alarm_rate: float) -> Calibration:
        """Return a calibration with the thresholds of another false-alarm rate.

        The scale of heat maps stays, so that overlays can still be compared. Without
        ``map_maxima`` the pixel threshold stays, too.

        Raises:
            OptionError: the rate is out of range, or there are no scores.
        """
        check_false_alarm_rate(false_alarm_rate)
        if len(self.scores) == 0:
            raise OptionError(
                "the model holds no scores of good images, from which the threshold of a "
                "false-alarm rate would follow; give the threshold itself"
            )
        pixel = self.pixel_threshold
        if self.map_maxima is not None:
            pixel = conformal_threshold(self.map_maxima, false_alarm_rate)
        return replace(
            self,
            false_alarm_rate=false_alarm_rate,
            threshold=conformal_threshold(self.scores, false_alarm_rate),
            pixel_threshold=pixel,
        )

    def at_threshold(self, threshold: float) -> Calibration:
        """Return a calibration with a given threshold; the pixel threshold stays.

        Raises:
            OptionError: the threshold is not finite.
        """
        if not np.isfinite(threshold):
            raise OptionError(f"the threshold must be a finite number, not {threshold}")
        return replace(self, false_alarm_rate=None, threshold=float(threshold))

    @property
    def n_above(self) -> int:
        """Number of calibration scores above the threshold."""
        return int(np.count_nonzero(self.scores > self.threshold))

    @property
    def expected_rate(self) -> float | None:
        """Expected false-alarm rate of the threshold, (1 + #{scores > threshold}) / (m + 1).

        ``None`` without scores. It is the p-value of a score just above the threshold.
        """
        m = len(self.scores)
        return (1 + self.n_above) / (m + 1) if m else None

    def rate_in_words(self) -> str:
        """Return the requested false-alarm rate, or else the expected one, in words."""
        if self.false_alarm_rate is not None:
            return f"false-alarm rate {self.false_alarm_rate:g}"
        if self.expected_rate is None:
            return "false-alarm rate unknown"
        return f"expected false-alarm rate {self.expected_rate:.3g}"

    @property
    def attainable_rate(self) -> float:
        """Smallest false-alarm rate that m images can guarantee, 1 / (m + 1)."""
        return 1 / (len(self.scores) + 1)

    def p_value(self, score: float) -> float:
        """Return the conformal p-value, (1 + #{scores >= score}) / (m + 1), in (0, 1]."""
        m = len(self.scores)
        at_least = m - int(np.searchsorted(self.scores, score, side="left"))
        return (1 + at_least) / (m + 1)

    def caveat(self) -> str | None:
        """Return a warning if the images are too few for the rate; ``None`` if they are enough."""
        if len(self.scores) == 0:
            return "no good images to calibrate on: every p-value is 1, the threshold was given"
        if self.false_alarm_rate is None or self.false_alarm_rate >= self.attainable_rate:
            return None
        needed = np.ceil(1 / self.false_alarm_rate - 1e-9) - 1
        return (
            f"{len(self.scores)} good images can't promise a false-alarm rate of "
            f"{self.false_alarm_rate:g}, only {self.attainable_rate:.3g}: the threshold is the "
            f"largest of their scores; {needed:.0f} images or more could"
        )
