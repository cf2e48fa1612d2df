"""Mean squared residuals that follow from statistics."""

from __future__ import annotations

import numpy as np
import pytest

from fre.subspaces.gram import Gram
from fre.subspaces.image_statistics import SubspaceStatistics
from fre.subspaces.mean_residuals import mean_energies
from fre.subspaces.patch import PatchStatistics
from fre.subspaces.position import PositionStatistics


@pytest.mark.parametrize("n", [3, 30])
def test_mean_residuals_follow_from_statistics(n: int) -> None:
    rng = np.random.default_rng(n)
    X = rng.normal(3, 1, (n, 4 * 6)).astype(np.float32) * np.linspace(1, 5, 24, dtype=np.float32)
    Y = rng.normal(2, 1, (9, 4 * 6)).astype(np.float32)
    image_wide = SubspaceStatistics.of(X)
    subspace = Gram(Y).fit(variance=0.8)
    np.testing.assert_allclose(
        mean_energies(image_wide, subspace, 4), subspace.energies(X, 4).mean(axis=0), rtol=1e-4
    )
    by_position = PositionStatistics.of(Y, (2, 3)).fit(variance=0.8)
    np.testing.assert_allclose(
        mean_energies(PositionStatistics.of(X, (2, 3)), by_position, 4),
        by_position.energies(X).mean(axis=0),
        rtol=1e-4,
    )
    patch = PatchStatistics.of(Y, (2, 3)).fit(variance=0.6)
    np.testing.assert_allclose(
        mean_energies(PatchStatistics.of(X, (2, 3)), patch, 4),
        [patch.energies(X).mean()],
        rtol=1e-4,
    )


def test_what_lies_beyond_the_capacity_counts() -> None:
    X = np.random.default_rng(0).normal(0, 1, (40, 24)).astype(np.float32)
    cut, full = SubspaceStatistics.of(X, capacity=5), SubspaceStatistics.of(X)
    subspace = full.cut(rank=3)
    means = [float(mean_energies(each, subspace, 4).sum()) for each in (cut, full)]
    assert means[0] == pytest.approx(means[1], rel=1e-6)
