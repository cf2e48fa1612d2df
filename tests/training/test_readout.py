"""From held-out scores to thresholds: which detectors are refused, and the pixel threshold."""

from __future__ import annotations

import numpy as np
import pytest

from fre.errors import DatasetError
from fre.training.readout import Readout


def readout(n: int, n_own: int, above: int) -> Readout:
    """Scores 0 to 1, of which 1 % is above 0.99; and own scores, ``above`` of them at 2."""
    own = np.zeros(n_own)
    own[:above] = 2
    pixels = np.tile(np.linspace(0, 10, 1001, dtype=np.float32), (n, 1))
    return Readout(np.linspace(0, 1, n), np.arange(n), pixels, own, np.arange(n_own) * 0)


def test_a_sample_of_the_rows_may_hold_more_high_scores_by_chance() -> None:
    # 1 % of 128 is 1.3; three standard deviations of such a sample are 3.2 more.
    assert readout(1000, 128, 5).calibrate(0.01).threshold == pytest.approx(0.99, abs=0.002)
    with pytest.raises(DatasetError, match="6 of 128 training images would be anomalous"):
        readout(1000, 128, 6).calibrate(0.01)


def test_all_rows_leave_nothing_to_chance() -> None:
    readout(120, 120, 1).calibrate(0.01)
    with pytest.raises(DatasetError, match="2 of 120 training images would be anomalous"):
        readout(120, 120, 2).calibrate(0.01)


def test_the_pixel_threshold_is_a_quantile_of_the_images_that_are_not_odd() -> None:
    scores = np.linspace(0, 1, 100)
    scores[7] = 50
    pixels = np.tile(np.linspace(0, 10, 1001, dtype=np.float32), (100, 1))
    pixels[7] = 1000
    found = Readout(scores, np.arange(100), pixels, np.zeros(0), np.zeros(0, int))
    assert found.pixel_threshold(0.1) == pytest.approx(9, abs=0.01)
    assert found.pixel_threshold(0.002) == pytest.approx(9.98, abs=0.01)
    calibration = found.calibrate(0.01)
    assert calibration.pixel_threshold == found.pixel_threshold(0.002)
    assert calibration.n_odd == 1
