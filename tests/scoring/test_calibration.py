"""P-values and thresholds: the formulas, and the promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fitted_models import calibrated
from fre.errors import FREWarning, OptionError
from fre.scoring.calibration import (
    GRAPH_COUNT,
    GRAPH_SCORES,
    GRAPH_THRESHOLD,
    conformal_threshold,
    count_odd,
    percent,
)

NORMAL = [*range(1, 21)]
"""Twenty scores, none odd: median 10.5, median absolute deviation 5."""


def test_p_value_is_the_formula() -> None:
    fitted = calibrated([1, 2, 2, 4], 0.3)
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
    fitted = calibrated(scores, rate)
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
    fitted = calibrated([3, 1, 2], 0.01)
    assert fitted.threshold == 3
    assert fitted.attainable_rate == 0.25
    assert "3 good images can't promise a false-alarm rate of 0.01, only 0.25" in (
        fitted.caveat() or ""
    )
    assert "99 images or more" in (fitted.caveat() or "")
    assert calibrated(range(99), 0.01).caveat() is None
    assert calibrated(range(98), 0.01).caveat() is not None


@pytest.mark.parametrize("rate", [0.0, 1.0, -1.0, float("nan")])
def test_rates_outside_are_refused(rate: float) -> None:
    with pytest.raises(OptionError, match="false-alarm rate"):
        calibrated([1, 2], rate)


def test_odd_scores_stand_out_by_six_robust_deviations() -> None:
    # The median is 10.5 and then 11, the deviation 5 and then 5: 1.4826 * 5 * 6 = 44.478.
    assert count_odd(np.array(NORMAL, float)) == 0
    assert count_odd(np.array([*NORMAL, 55.4])) == 0
    assert count_odd(np.array([*NORMAL, 55.5])) == 1
    assert count_odd(np.array([55.5, *NORMAL])) == 1
    # Far below is not odd.
    assert count_odd(np.array([*NORMAL, -1e9])) == 0


@pytest.mark.parametrize(
    ("images", "most"), [(1, 0), (9, 0), (10, 1), (39, 1), (40, 2), (59, 2), (60, 3), (200, 10)]
)
def test_only_some_of_the_images_may_be_odd(images: int, most: int) -> None:
    far = min(images // 2 - 1, 20) if images > 3 else 1
    scores = np.r_[np.linspace(0, 1, images - far), np.linspace(100, 101, far)]
    assert count_odd(scores) == min(far, most)


def test_the_largest_share_is_exact() -> None:
    """0.05 * m is not below m / 20 by a rounding error."""
    for m in range(20, 4001, 20):
        scores = np.r_[np.arange(m - m // 20 - 1.0), np.full(m // 20 + 1, 1e9)]
        assert count_odd(scores) == m // 20


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-30, 1e30])
def test_equal_scores_are_not_odd(value: float) -> None:
    assert count_odd(np.full(50, value)) == 0


def test_one_score_among_equal_ones_is_odd_and_rounding_is_not() -> None:
    same = np.full(49, 5.0)
    assert count_odd(np.r_[same, 6.0]) == 1
    assert count_odd(np.r_[same, 5.0 * (1 + 1e-7)]) == 0
    # Half of one value, half of another: the deviation is the half distance, nothing is odd.
    assert count_odd(np.repeat([1.0, 2.0], 25)) == 0
    # Most of one value: the others stand out, but no more than 5 % may.
    assert count_odd(np.repeat([1.0, 2.0], [40, 10])) == 2
    # Around 0 there is no scale to tell by.
    assert count_odd(np.r_[np.zeros(49), 6.0]) == 0


@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=120),
    st.lists(st.floats(1e3, 1e6, width=32), max_size=8),
)
def test_odd_scores_are_the_highest_and_few(scores: list[float], high: list[float]) -> None:
    values = np.array([*scores, *high])
    n = count_odd(values)
    m = len(values)
    assert 0 <= n <= (max(1, m // 20) if m >= 10 else 0)
    assert count_odd(values[::-1]) == n
    fitted = calibrated(values)
    assert fitted.n_odd == n
    assert len(fitted.others) + fitted.n_odd == m
    np.testing.assert_array_equal(fitted.others, np.sort(values)[: m - fitted.n_odd])
    ordered = np.sort(values)
    if n:
        assert ordered[m - n] > np.median(values)


def test_odd_images_do_not_set_the_threshold() -> None:
    fitted = calibrated([*NORMAL, 100], 0.1)
    assert (fitted.n_odd, fitted.others[-1]) == (1, 20)
    # 0.1 * 21 = 2.1: one of the twenty may be above.
    assert fitted.threshold == 19
    assert fitted.p_value(100) == fitted.p_value(20.5) == 1 / 21
    assert fitted.p_value(20) == 2 / 21
    assert fitted.p_value(0) == 1
    kept = fitted.with_odd(keep=True)
    # 0.1 * 22 = 2.2: one of the twenty-one.
    assert (kept.n_odd, kept.keep_odd, kept.threshold) == (0, True, 20)
    assert kept.p_value(100) == 2 / 22
    again = kept.with_odd(keep=False)
    assert (again.n_odd, again.keep_odd, again.threshold) == (1, False, 19)
    # A threshold that was given stays where it is.
    assert fitted.at_threshold(7).with_odd(keep=True).threshold == 7


def test_the_expected_rate_is_that_of_the_others_and_the_share_set_aside() -> None:
    fitted = calibrated([*NORMAL, 100], 0.1)
    assert fitted.rate_of_others == 2 / 21
    assert fitted.odd_share == 1 / 21
    assert fitted.expected_rate == pytest.approx(3 / 21)
    assert fitted.rate_in_words() == (
        "10 % asked, false alarms to expect: 14 %, 9.5 % of ordinary good images and 4.8 % as "
        "odd as those set aside"
    )
    # Above the odd image nothing of it is left.
    high = fitted.at_threshold(200)
    assert (high.rate_of_others, high.odd_share, high.expected_rate) == (1 / 21, 0, 1 / 21)
    assert high.rate_in_words() == "false alarms to expect: 4.8 %"
    low = fitted.at_threshold(-1)
    assert (low.rate_of_others, low.expected_rate) == (1, 1)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.lists(st.just(1000), max_size=3))
def test_the_rate_of_the_others_is_the_p_value_just_above(
    scores: list[int], odd: list[int]
) -> None:
    fitted = calibrated([*scores, *odd])
    for threshold in (-1.0, 0.0, 3.5, 30.0, 2000.0):
        moved = fitted.at_threshold(threshold)
        assert moved.rate_of_others == fitted.p_value(np.nextafter(threshold, np.inf))
        assert moved.n_above == sum(score > threshold for score in fitted.others)
        aside = fitted.scores[len(fitted.others) :]
        assert moved.odd_share == sum(score > threshold for score in aside) / len(fitted.scores)
        assert moved.expected_rate == min(1, moved.rate_of_others + moved.odd_share)


def test_nan_is_anomalous_with_the_smallest_p_value() -> None:
    fitted = calibrated([*NORMAL, 100]).with_review(3)
    assert fitted.anomalous(float("nan"))
    assert fitted.p_value(float("nan")) == fitted.attainable_rate == 1 / 21
    assert fitted.decision(float("nan")) == "fail"


def test_the_table_has_the_rate_that_was_asked_for() -> None:
    fitted = calibrated(range(199), 0.03)
    assert fitted.thresholds() == [
        (rate, fitted.at_rate(rate).threshold) for rate in (0.01, 0.02, 0.03, 0.05, 0.1)
    ]
    assert [rate for rate, _ in fitted.at_threshold(3).thresholds()] == [0.01, 0.02, 0.05, 0.1]


def test_new_scores_keep_a_rate() -> None:
    before = calibrated(NORMAL, 0.2)
    after = calibrated(np.linspace(100, 200, 60), 0.01).like(before)
    assert after.false_alarm_rate == 0.2
    assert after.threshold == conformal_threshold(after.others, 0.2)
    kept = calibrated([*NORMAL, 100], 0.2).with_odd(keep=True)
    found = calibrated([*range(100, 200), 10_000]).like(kept)
    assert (found.keep_odd, found.n_odd) == (True, 0)
    assert found.threshold == conformal_threshold(found.scores, 0.2)


def test_new_scores_keep_the_rate_of_a_threshold_by_hand() -> None:
    by_hand = calibrated(NORMAL).at_threshold(16.5)
    assert by_hand.rate_of_others == 5 / 21
    after = calibrated(np.arange(1000, 1041)).like(by_hand)
    assert after.false_alarm_rate is None
    # 10 of 42 is the largest rate of at most 5 / 21.
    assert after.rate_of_others == 10 / 42
    assert calibrated(NORMAL).like(by_hand).rate_of_others == by_hand.rate_of_others
    # Above all good images, odd ones apart, there is no rate to keep: the distance is kept.
    above = calibrated([*NORMAL, 100]).at_threshold(22.5)
    assert calibrated(np.arange(50, 81)).like(above).threshold == 82.5
    assert calibrated([*range(50, 81), 5000]).like(above).threshold == 82.5


def test_new_scores_keep_the_band() -> None:
    before = calibrated(NORMAL, 0.1).with_review(15.5)
    after = calibrated(np.arange(100, 141), 0.1).like(before)
    # 6 of 21 are as high as the band, or higher.
    assert after.review_threshold == conformal_threshold(after.others, 6 / 21)
    assert after.review_threshold < after.threshold
    by_hand = calibrated(NORMAL).at_threshold(30).with_review(25)
    moved = calibrated(np.arange(100, 141)).like(by_hand)
    assert (moved.threshold, moved.review_threshold) == (150, 145)
    same = before.like(before)
    assert (same.threshold, same.review_threshold) == (19, 15)


def test_a_band_that_no_longer_fits_is_said() -> None:
    before = calibrated(NORMAL, 0.1).with_review(15.5)
    with pytest.warns(FREWarning, match="the review band is gone"):
        after = calibrated(np.ones(5), 0.1).like(before)
    assert after.review_threshold is None


def test_the_band_lies_below_the_threshold() -> None:
    fitted = calibrated(NORMAL, 0.1)
    assert fitted.threshold == 19
    assert fitted.decision(100) is None
    banded = fitted.with_review(10)
    assert [banded.decision(score) for score in (9, 10, 10.5, 19, 19.5)] == [
        "pass",
        "pass",
        "review",
        "review",
        "fail",
    ]
    for refused in (19, 20):
        with pytest.raises(OptionError, match=f"below the threshold, 19; {refused} is not"):
            fitted.with_review(refused)
    for infinite in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(OptionError, match="finite"):
            fitted.with_review(infinite)
    for other in (banded.with_review(None), banded.at_rate(0.2), banded.at_threshold(12)):
        assert other.review_threshold is None


def test_initialisers_are_the_numbers_of_the_decision() -> None:
    fitted = calibrated([*NORMAL, 100.25], 0.1)
    arrays = fitted.initialisers()
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(arrays[GRAPH_SCORES], NORMAL)
    assert arrays[GRAPH_COUNT] == 21
    assert arrays[GRAPH_THRESHOLD] == 19
    assert arrays[GRAPH_COUNT].shape == arrays[GRAPH_THRESHOLD].shape == (1,)
    assert calibrated([0.1], 0.1).at_threshold(0.1).threshold == float(np.float32(0.1))
    kept = fitted.with_odd(keep=True).initialisers()
    assert (len(kept[GRAPH_SCORES]), kept[GRAPH_COUNT]) == (21, 22)


@pytest.mark.parametrize(
    ("share", "words"), [(0.0095, "0.95 %"), (0.025, "2.5 %"), (0.12, "12 %"), (1.0, "100 %")]
)
def test_a_share_in_words(share: float, words: str) -> None:
    assert percent(share) == words
