"""Sentences about the threshold: its origin, its guarantee, and the test result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fre.drawing.charts import number
from fre.evaluation.figures import ScoredImage
from fre.inference.training_images import OddImage
from fre.report.counts import Counts
from fre.report.wording import percent


@dataclass(frozen=True)
class TradeOff:
    """Defects found and false alarms on the test images at the threshold of one rate.

    Attributes:
        rate: false-alarm rate, in (0, 1).
        threshold: threshold that follows from the scores of good images.
        found: defective images above the threshold.
        false_alarms: good images above the threshold.
        chosen: whether the model's threshold is of this rate.
        too_few: whether the good images are too few to promise the rate.
    """

    rate: float
    threshold: float
    found: int
    false_alarms: int
    chosen: bool
    too_few: bool


@dataclass(frozen=True)
class Decision:
    """The threshold and its origin.

    Attributes:
        threshold: score above which an image is anomalous.
        false_alarm_rate: rate that the threshold was set for, in (0, 1); ``None`` for another
            origin.
        chosen: other origin in words; ``None`` or ``"by hand"`` if a person set the threshold.
        calibration: float64 (m,), scores of the good images that set the threshold; may be empty.
        odd: training images that were set aside for the threshold, highest score first.
        rates: false-alarm rates and their thresholds, to show beside one another.
        expected_rate: false-alarm rate to expect, images as odd as ``odd`` included.
    """

    threshold: float
    false_alarm_rate: float | None
    chosen: str | None
    calibration: NDArray[np.float64]
    odd: tuple[OddImage, ...] = ()
    rates: tuple[tuple[float, float], ...] = ()
    expected_rate: float | None = None

    def trade_offs(self, rows: Sequence[ScoredImage]) -> list[TradeOff]:
        """Return what the thresholds of some rates give on the test images."""
        found = []
        for rate, threshold in self.rates:
            above = [row.sample.good for row in rows if row.score > threshold]
            chosen = rate == self.false_alarm_rate
            too_few = rate < 1 / (self.calibration.size + 1)
            counts = above.count(False), above.count(True)
            found.append(TradeOff(rate, threshold, *counts, chosen, too_few))
        return found

    @property
    def promised_rate(self) -> float | None:
        """False-alarm rate that set the threshold from good images; ``None`` for another origin."""
        return self.false_alarm_rate if self.calibration.size else None

    @property
    def by_hand(self) -> bool:
        """Whether a person set the threshold."""
        return self.false_alarm_rate is None and self.chosen in (None, "by hand")

    @property
    def caution(self) -> str | None:
        """Warning if the threshold is not from good images alone."""
        if self.promised_rate is not None:
            return None
        if self.by_hand:
            return "The threshold was set by hand, not from the scores of good images."
        if self.chosen is not None:
            return (
                f"The threshold was chosen with known defects ({self.chosen}), not from good "
                "images alone. On those same images the decisions look better than they will on "
                "others, and defects of another kind may be missed."
            )
        return (
            "The threshold came with the model. No good images were calibrated on, so it promises "
            "no rate of false alarms."
        )

    @property
    def source(self) -> str:
        """Origin of the threshold, for a table."""
        if self.promised_rate is not None:
            return f"good images, for {percent(self.promised_rate)} false alarms"
        if self.by_hand:
            return "set by hand"
        return "came with the model" if self.chosen is None else self.chosen

    @property
    def _aside(self) -> str:
        if not self.odd:
            return ""
        n = len(self.odd)
        return f"; {n} more {'is' if n == 1 else 'are'} odd and set aside"

    def sentences(self, counts: Counts) -> list[str]:
        """Return sentences on the threshold, its guarantee and the test result."""
        m = self.calibration.size
        called = f"An image is called anomalous above a score of {number(self.threshold)}."
        sentences = [called]
        rate = self.promised_rate
        if rate is not None:
            sentences.append(
                f"This is set for {percent(rate)} false alarms, from the scores of {m:,} good "
                f"images{self._aside}."
            )
            finest = 1 / (m + 1)
            if rate < finest:
                sentences.append(
                    f"So few images cannot promise fewer than {percent(finest)} false alarms."
                )
        elif m:
            above = int(np.count_nonzero(self.calibration > self.threshold))
            sentences.append(
                f"By the scores of {m:,} good images, about {percent((1 + above) / (m + 1))} "
                "false alarms are to be expected."
            )
        if self.odd and self.expected_rate is not None:
            rate = self.expected_rate
            sentences.append(
                f"Odd images included, {percent(rate)} false alarms are to be expected."
            )
        observed = counts.false_alarm_rate
        if observed is None:
            sentences.append("No good images were tested, so the false alarms are unknown.")
        else:
            shown = f"The test shows {observed.text} (95% interval {observed.interval_text})"
            sentences.append(f"{shown}{_agreement(observed.interval, rate)}.")
        if not counts.defects:
            sentences.append("No defective images were tested, so what it misses is unknown.")
        return sentences


def _agreement(interval: tuple[float, float], rate: float | None) -> str:
    if rate is None:
        return ""
    low, high = interval
    if low > rate:
        return ", more than expected"
    return ", fewer than expected" if high < rate else ", as expected"
