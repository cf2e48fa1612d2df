"""An image-wide subspace of few features, and of more than are decomposed at once."""

from __future__ import annotations

import numpy as np
import pytest

import fre.subspaces.image as image_wide
from fre.errors import OptionError
from fre.subspaces.cross_fit import CrossFit, make_folds
from fre.subspaces.image import fit_image_wide
from fre.subspaces.protocols import FitOptions

CHANNELS = 3


def features(n: int, dimension: int = 60, rank: int = 30, seed: int = 0) -> np.ndarray:
    """Directions of falling strengths, and noise: float32 (n, D)."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(rank, dimension)) * np.geomspace(5, 0.3, rank)[:, None]
    signal = rng.normal(size=(n, rank)) @ directions
    return (signal + rng.normal(size=(n, dimension)) * 0.2 + 3).astype(np.float32)


def exactly(X: np.ndarray, *, capacity: int, **options: float) -> CrossFit:
    """The fit as it is to few features."""
    folds = make_folds(len(X))
    return fit_image_wide(X, CHANNELS, folds, FitOptions(**options), capacity)  # type: ignore[arg-type]


def accumulated(
    monkeypatch: pytest.MonkeyPatch, X: np.ndarray, *, capacity: int, **options: float
) -> CrossFit:
    """The fit as it is to many features."""
    with monkeypatch.context() as patch:
        patch.setattr(image_wide, "EXACT_ROWS", 0)
        return exactly(X, capacity=capacity, **options)


@pytest.mark.parametrize(
    "chosen",
    [*(pytest.param(each, marks=pytest.mark.slow) for each in ({}, {"rank": 7})), {"at_most": 5}],
)
def test_many_features_are_fitted_as_few_are(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, int]
) -> None:
    X = features(400)
    exact = exactly(X, variance=0.9, capacity=60, **chosen)
    many = accumulated(monkeypatch, X, variance=0.9, capacity=60, **chosen)
    assert many.subspace.rank == exact.subspace.rank
    assert many.statistics.lost == 0
    np.testing.assert_allclose(many.subspace.basis, exact.subspace.basis, atol=1e-9)
    np.testing.assert_allclose(many.residuals, exact.residuals, rtol=1e-4)


def test_beyond_the_capacity_residuals_are_those_of_images_that_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, new = features(600, dimension=300, rank=80), features(4000, dimension=300, rank=80)[600:]
    many = accumulated(monkeypatch, X, variance=0.97, capacity=48, at_most=24)
    assert many.statistics.lost > 0
    assert many.statistics.rank == 48
    assert many.coordinates is None
    exact = exactly(X, variance=0.97, capacity=48, at_most=24)
    ratio = many.residuals.sum(axis=1) / exact.residuals.sum(axis=1)
    assert abs(ratio.mean() - 1) < 0.02
    fresh = many.subspace.squared_residuals(new, CHANNELS).mean()
    own = many.subspace.squared_residuals(X, CHANNELS).mean()
    # What is left out scores as what is new does; what was fitted on does not.
    assert abs(many.residuals.mean() / fresh - 1) < 0.02
    assert own / fresh < 0.95


def test_a_rank_that_many_features_do_not_allow_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X = features(50, dimension=30, rank=4)
    X[:] = X[:3][np.arange(50) % 3]
    with pytest.raises(OptionError, match="span 2 dimensions"):
        accumulated(monkeypatch, X, variance=0.97, capacity=10, rank=3)
