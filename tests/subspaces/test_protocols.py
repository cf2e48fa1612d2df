"""Mean squared residuals follow from statistics alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fre.errors import OptionError
from fre.subspaces.gram import Gram
from fre.subspaces.image_statistics import ImageStatistics
from fre.subspaces.patch import PatchStatistics
from fre.subspaces.position import PositionStatistics
from fre.subspaces.protocols import FitOptions


@pytest.mark.parametrize("n", [3, 30])
def test_mean_residuals_follow_from_statistics(n: int) -> None:
    rng = np.random.default_rng(n)
    X = rng.normal(3, 1, (n, 4 * 6)).astype(np.float32) * np.linspace(1, 5, 24, dtype=np.float32)
    Y = rng.normal(2, 1, (9, 4 * 6)).astype(np.float32)
    image_wide = ImageStatistics.of(X)
    subspace = Gram(Y).fit(FitOptions(variance=0.8))
    np.testing.assert_allclose(
        image_wide.mean_squared_residuals(subspace, 4),
        subspace.squared_residuals(X, 4).mean(axis=0),
        rtol=1e-4,
    )
    by_position = PositionStatistics.of(Y, (2, 3)).fit(FitOptions(variance=0.8))
    np.testing.assert_allclose(
        PositionStatistics.of(X, (2, 3)).mean_squared_residuals(by_position, 4),
        by_position.squared_residuals(X).mean(axis=0),
        rtol=1e-4,
    )
    patch = PatchStatistics.of(Y, (2, 3)).fit(FitOptions(variance=0.6))
    np.testing.assert_allclose(
        PatchStatistics.of(X, (2, 3)).mean_squared_residuals(patch, 4),
        [patch.squared_residuals(X).mean()],
        rtol=1e-4,
    )


def test_what_lies_beyond_the_capacity_counts() -> None:
    X = np.random.default_rng(0).normal(0, 1, (40, 24)).astype(np.float32)
    cut, full = ImageStatistics.of(X, capacity=5), ImageStatistics.of(X)
    subspace = full.fit(FitOptions(rank=3))
    means = [float(each.mean_squared_residuals(subspace, 4).sum()) for each in (cut, full)]
    assert means[0] == pytest.approx(means[1], rel=1e-6)


@pytest.mark.parametrize(
    "of",
    [
        Gram,
        ImageStatistics.of,
        lambda X: PositionStatistics.of(X, (2, 3)),
        lambda X: PatchStatistics.of(X, (2, 3)),
    ],
    ids=["gram", "image", "position", "patch"],
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(of: Callable[[Any], Any], value: float) -> None:
    X = np.random.default_rng(0).normal(size=(9, 24)).astype(np.float32)
    of(X)
    X[4, 7] = value
    with pytest.raises(OptionError, match="must be finite, and some are NaN or infinite"):
        of(X)
