"""The test whether recent parts still look like the good images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fre.scoring.calibration import Calibration
from fre.serve.drift import drift, kolmogorov_survival, uniform_distance


@pytest.mark.parametrize(
    ("x", "expected"),
    # Smirnov's table (Annals of Mathematical Statistics 19, 1948), one minus its L(z)
    [(0.5, 1 - 0.036055), (1.0, 1 - 0.730000), (1.36, 1 - 0.950514), (2.0, 1 - 0.999329)],
)
def test_the_limit_distribution_has_its_tabled_values(x: float, expected: float) -> None:
    assert kolmogorov_survival(x) == pytest.approx(expected, abs=2e-6)


def test_the_limit_distribution_agrees_with_scipy() -> None:
    special = pytest.importorskip("scipy.special", reason="needs scipy, of fre-vision[test]")
    for x in np.linspace(0.05, 3, 60):
        assert kolmogorov_survival(x) == pytest.approx(special.kolmogorov(x), abs=1e-9)


@settings(deadline=None)  # the first example imports SciPy
@given(
    st.lists(st.integers(0, 10_000), min_size=5, max_size=60, unique=True),
    st.lists(st.integers(0, 10_000), min_size=1, max_size=60, unique=True),
)
def test_the_distance_is_that_of_two_samples(normal: list[int], recent: list[int]) -> None:
    """Of p-values from m scores and the uniform grid, up to the step of 1/(m+1)."""
    stats = pytest.importorskip("scipy.stats", reason="needs scipy, of fre-vision[test]")
    scores = np.sort(np.array(normal, float))
    calibration = Calibration(scores, 0.1, 0.0, 0.0, (0.0, 1.0))
    values = [calibration.p_value(score) for score in recent]
    ours = max(uniform_distance(values, len(scores)))
    theirs = stats.ks_2samp(scores, recent, method="asymp").statistic
    assert abs(ours - theirs) <= 1 / (len(scores) + 1) + 1e-12


def test_drift_warns_rarely_without_and_surely_with_drift() -> None:
    rng = np.random.default_rng(0)
    warnings = 0
    for _ in range(400):
        calibration = Calibration(np.sort(rng.normal(size=100)), 0.1, 0.0, 0.0, (0.0, 1.0))
        values = [calibration.p_value(score) for score in rng.normal(size=200)]
        warnings += drift(values, 100).warning
    assert warnings <= 4  # 0.4 expected at a significance of 0.001
    higher = [calibration.p_value(score) for score in rng.normal(1, size=200)]
    lower = [calibration.p_value(score) for score in rng.normal(-1, size=200)]
    assert drift(higher, 100).direction == "higher"
    assert drift(lower, 100).direction == "lower"
    assert not drift(higher[:29], 100).enough
    assert not drift(higher, 19).enough
