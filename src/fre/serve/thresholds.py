"""The decision of a model: how a request changes it, and how the API shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fre.model import Model
from fre.scoring.calibration import Calibration, check_false_alarm_rate, conformal_threshold
from fre.serve.responses import invalid

Change = Callable[[Model], tuple[Calibration, str | None]]
"""Returns another calibration of a model, and how its threshold was chosen, in words."""


@dataclass(frozen=True)
class ThresholdChoice:
    """A choice of threshold and review band.

    At most one of ``threshold`` and ``false_alarm_rate`` is given, and at most one of the others.

    Attributes:
        threshold: new threshold.
        false_alarm_rate: false-alarm rate that gives the new threshold.
        review_threshold: score above which the review band begins.
        review_rate: false-alarm rate that gives ``review_threshold``.
        no_review: whether to remove the band.
    """

    threshold: float | None
    false_alarm_rate: float | None
    review_threshold: float | None
    review_rate: float | None
    no_review: bool

    def check(self) -> None:
        """Refuse contradictory choices.

        Raises:
            Problem: nothing is given, or several choices of one thing.
        """
        decide = [self.threshold, self.false_alarm_rate]
        review = [self.review_threshold, self.review_rate, self.no_review or None]
        if all(value is None for value in (*decide, *review)):
            raise invalid(
                "give threshold or false_alarm_rate, or review_threshold, review_rate or no_review"
            )
        if None not in decide:
            raise invalid("give one of threshold and false_alarm_rate")
        if sum(value is not None for value in review) > 1:
            raise invalid("give one of review_threshold, review_rate and no_review")

    def apply(self, model: Model) -> tuple[Calibration, str | None]:
        """Return the chosen calibration, and how the threshold was chosen, in words.

        A review band that the choice does not mention stays where it begins.

        Raises:
            Problem: the band can't stay, because it would not begin below the threshold.
            OptionError: a value is out of range.
        """
        before, chosen = model.calibration, model.document.provenance.threshold
        after = before
        if self.false_alarm_rate is not None:
            after, chosen = before.at_rate(self.false_alarm_rate), None
        elif self.threshold is not None:
            after, chosen = before.at_threshold(self.threshold), "by hand"
        if self.no_review:
            return after.with_review(None), chosen
        if self.review_rate is not None:
            check_false_alarm_rate(self.review_rate)
            begin = conformal_threshold(after.others, self.review_rate)
            return after.with_review(begin), chosen
        if self.review_threshold is not None:
            return after.with_review(self.review_threshold), chosen
        return with_band_of(after, before), chosen


@dataclass(frozen=True)
class OddChoice:
    """Whether odd training images count for the threshold like all others."""

    keep: bool

    def apply(self, model: Model) -> tuple[Calibration, str | None]:
        """Return the chosen calibration, and how its threshold was chosen, in words.

        Raises:
            Problem: the review band would not begin below the new threshold.
        """
        before = model.calibration
        after = with_band_of(before.with_odd(keep=self.keep), before)
        return after, model.document.provenance.threshold


def with_band_of(after: Calibration, before: Calibration) -> Calibration:
    """Return a calibration with the review band of an earlier one.

    Raises:
        Problem: the band would not begin below the new threshold.
    """
    if before.review_threshold is None or after.review_threshold is not None:
        return after
    if before.review_threshold < after.threshold:
        return after.with_review(before.review_threshold)
    raise invalid(
        f"the review band begins at {before.review_threshold:.6g}, which is not below the new "
        f"threshold of {after.threshold:.6g}; give a lower review_threshold with it, or no_review"
    )


def calibration_body(name: str, model: Model) -> dict[str, Any]:
    """Return the complete calibration of a model, as the API shows it."""
    calibration = model.calibration
    return {
        "model": name,
        "sha256": model.sha256,
        "scores": [float(score) for score in calibration.scores],
        "n_odd": calibration.n_odd,
        "keep_odd": calibration.keep_odd,
        "threshold": calibration.threshold,
        "chosen": model.document.provenance.threshold,
        "review_threshold": calibration.review_threshold,
        "pixel_threshold": calibration.pixel_threshold,
        "false_alarm_rate": calibration.false_alarm_rate,
        **rates(calibration),
        "attainable_false_alarm_rate": calibration.attainable_rate,
        "thresholds": [
            {"false_alarm_rate": rate, "threshold": threshold}
            | rates(calibration.at_rate(rate))
            | {"attainable": rate >= calibration.attainable_rate}
            for rate, threshold in calibration.thresholds()
        ],
        "map_range": list(calibration.map_range),
        "caveat": calibration.caveat(),
    }


def rates(calibration: Calibration) -> dict[str, float]:
    """Return the expected false-alarm rate, and the two parts that it is the sum of."""
    return {
        "expected_false_alarm_rate": calibration.expected_rate,
        "rate_of_others": calibration.rate_of_others,
        "odd_share": calibration.odd_share,
    }
