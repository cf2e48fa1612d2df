"""P-values and thresholds: the formulas, and the promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fre.errors import OptionError
from fre.scoring.calibration import Calibration, conformal_threshold


def calibration(scores: list[float], rate: float) -> Calibration:
    return Calibration.fit(np.array(scores), np.array(scores), rate)


def test_p_value_is_the_formula() -> None:
    fitted = calibration([1, 2, 2, 4], 0.3)
    assert [fitted.p_value(s) for s in (0, 1, 1.5, 2, 3, 4, 5)] == [
        1.0,
        1.0,
        0.8,
        0.8,
        0.4,
        0.4,
        0.2,
    ]


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=60),
    st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.5, 0.9]),
)
def test_above_the_threshold_means_a_p_value_of_at_most_the_rate(
    scores: list[int], rate: float
) -> None:
    fitted = calibration([float(score) for score in scores], rate)
    effective = max(rate, fitted.attainable_rate)
    for score in np.arange(-1, 32, 0.5):
        below = fitted.p_value(score) <= effective + 1e-9
        assert (score > fitted.threshold) == below


def test_the_promise_holds_on_exchangeable_scores() -> None:
    """Over many draws, the share of false alarms is the promised one, not more."""
    rng = np.random.default_rng(0)
    rate, m, alarms, trials = 0.1, 59, 0, 4000
    for _ in range(trials):
        draws = rng.exponential(size=m + 1)
        alarms += draws[-1] > conformal_threshold(np.sort(draws[:-1]), rate)
    # 60 * 0.1 = 6 ranks of 60: exactly the rate, up to the noise of 4000 trials
    assert alarms / trials == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / trials))


def test_too_few_images_fall_back_to_the_largest_score_and_say_so() -> None:
    fitted = calibration([3, 1, 2], 0.01)
    assert fitted.threshold == 3
    assert fitted.attainable_rate == 0.25
    assert "3 good images can't promise a false-alarm rate of 0.01, only 0.25" in (
        fitted.caveat() or ""
    )
    assert "99 images or more" in (fitted.caveat() or "")
    assert calibration([float(x) for x in range(99)], 0.01).caveat() is None
    assert calibration([float(x) for x in range(98)], 0.01).caveat() is not None


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, float("nan")])
def test_rates_outside_are_refused(rate: float) -> None:
    with pytest.raises(OptionError, match="false-alarm rate"):
        calibration([1, 2], rate)


def test_heat_scale_is_never_empty() -> None:
    low, high = calibration([2, 2, 2], 0.1).map_range
    assert low < high
