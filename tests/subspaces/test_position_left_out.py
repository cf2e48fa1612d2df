"""Leaving each image out by itself: residuals as if subspaces had been fitted again."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from fre.subspaces.position import PositionStatistics
from fre.subspaces.position_left_out import ROWS_A_CHANNEL, leaves_one_out
from fre.subspaces.protocols import FitOptions

GRID, CHANNELS, IMAGES = (3, 4), 12, 40


def features(n: int = IMAGES, seed: int = 0) -> NDArray[np.float32]:
    """Float32 (n, C * P): variances fall by half from direction to direction, means are large."""
    rng = np.random.default_rng(seed)
    places = GRID[0] * GRID[1]
    turned = np.linalg.qr(rng.normal(size=(places, CHANNELS, CHANNELS)))[0]
    spread = 3 * 0.5 ** (np.arange(CHANNELS) / 2)
    vectors = (rng.normal(size=(places, n, CHANNELS)) * spread) @ turned + rng.normal(5, 2)
    return vectors.transpose(1, 2, 0).reshape(n, -1).astype(np.float32)


def fitted_again(
    X: NDArray[np.float32], options: FitOptions
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return the residual of each image under subspaces fitted to all others, and their ranks."""
    subspaces = [
        PositionStatistics.of(np.delete(X, row, axis=0), GRID).fit(options) for row in range(len(X))
    ]
    rows = [one.squared_residuals(X[row : row + 1]) for row, one in enumerate(subspaces)]
    return np.concatenate(rows), np.array([one.ranks for one in subspaces])


def test_residuals_are_those_of_subspaces_fitted_to_all_other_images() -> None:
    X, options = features(), FitOptions(variance=0.9, prior=0)
    subspace, left_out = PositionStatistics.of(X, GRID).fit_left_out(options)
    residuals, (again, ranks) = left_out.squared_residuals(X), fitted_again(X, options)
    # Where one image more or less changes the number of directions, so does the residual.
    same = ranks == subspace.ranks
    assert same.mean() > 0.8
    np.testing.assert_allclose(residuals[same], again[same], rtol=0.01)
    assert np.all(residuals > subspace.squared_residuals(X) * 0.999)


def test_with_a_prior_they_are_closer_than_those_of_images_that_were_seen() -> None:
    X, options = features(), FitOptions(variance=0.9)
    subspace, left_out = PositionStatistics.of(X, GRID).fit_left_out(options)
    again = fitted_again(X, options)[0].mean()
    assert left_out.squared_residuals(X).mean() == pytest.approx(again, rel=0.03)
    assert subspace.squared_residuals(X).mean() < 0.9 * again


def test_the_subspace_is_that_of_the_fit() -> None:
    statistics = PositionStatistics.of(features(), GRID)
    fitted, (subspace, left_out) = statistics.fit(), statistics.fit_left_out()
    np.testing.assert_array_equal(subspace.complement, fitted.complement)
    assert left_out.rank == fitted.rank
    assert left_out.stored() is left_out
    assert left_out.describe() == {"rank": fitted.rank, "n": IMAGES}


def test_some_images_at_a_time_are_as_all_at_once() -> None:
    X = features(n=300)
    _, left_out = PositionStatistics.of(X, GRID).fit_left_out()
    whole = left_out.squared_residuals(X)
    np.testing.assert_allclose(left_out.squared_residuals(X[290:]), whole[290:], rtol=1e-3)


def test_full_subspaces_and_constant_images_leave_nothing() -> None:
    X = features()
    _, full = PositionStatistics.of(X, GRID).fit_left_out(FitOptions(variance=1.0))
    assert not full.squared_residuals(X).any()
    constant = np.repeat(X[:1], IMAGES, axis=0)
    _, left_out = PositionStatistics.of(constant, GRID).fit_left_out()
    assert not left_out.squared_residuals(constant).any()


def test_channels_that_never_vary_change_nothing() -> None:
    X, options = features(), FitOptions(variance=0.9, prior=0)
    vectors = X.reshape(IMAGES, CHANNELS, -1)
    dead = np.concatenate([vectors, np.full_like(vectors[:, :3], 7)], axis=1).reshape(IMAGES, -1)
    residuals = [
        PositionStatistics.of(some, GRID).fit_left_out(options)[1].squared_residuals(some)
        for some in (X, dead)
    ]
    np.testing.assert_allclose(*residuals, rtol=1e-3, atol=1e-5)


def test_the_only_image_that_varies_is_all_residual() -> None:
    X = np.full((IMAGES, CHANNELS * GRID[0] * GRID[1]), 5, np.float32)
    X[3] += 1
    _, left_out = PositionStatistics.of(X, GRID).fit_left_out(FitOptions(prior=0))
    expected = np.zeros((IMAGES, GRID[0] * GRID[1]))
    expected[3] = CHANNELS
    np.testing.assert_allclose(left_out.squared_residuals(X), expected, atol=0.02 * CHANNELS)


def test_few_images_and_heavy_priors_take_folds() -> None:
    enough = int(np.ceil(ROWS_A_CHANNEL * CHANNELS))
    assert leaves_one_out(enough, CHANNELS, FitOptions())
    assert not leaves_one_out(enough - 1, CHANNELS, FitOptions())
    assert not leaves_one_out(enough, CHANNELS, FitOptions(prior=33))
