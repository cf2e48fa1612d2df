"""The closed form, against scikit-learn and by its algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from conftest import LowRank, low_rank_features
from fre.errors import OptionError
from fre.subspaces.cross_fit import make_folds
from fre.subspaces.gram import Gram
from fre.subspaces.protocols import FitOptions
from fre.subspaces.subspace import ImageSubspace


def features(n: int, dimension: int, rank: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    strengths = np.geomspace(10, 0.5, rank)
    signal = rng.normal(size=(n, rank)) * strengths @ rng.normal(size=(rank, dimension))
    return (signal + rng.normal(size=(n, dimension)) * 0.1 + 5).astype(np.float32)


def angle(A: np.ndarray, B: np.ndarray) -> float:
    """The largest principal angle between two subspaces, by its sine."""
    return float(np.linalg.norm(A - B @ (B.T @ A), 2))


@pytest.mark.parametrize(("n", "dimension"), [(40, 300), (300, 40), (60, 60)])
@pytest.mark.parametrize("variance", [0.5, 0.97, 0.999])
def test_equals_scikit_learn(n: int, dimension: int, variance: float) -> None:
    X = features(n, dimension, 12)
    ours = Gram(X).fit(FitOptions(variance=variance))
    theirs = PCA(variance, svd_solver="full").fit(X.astype(np.float64))
    assert ours.rank == theirs.n_components_
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-6)
    np.testing.assert_allclose(ours.singular_values, theirs.singular_values_, rtol=1e-6)
    assert angle(ours.basis, theirs.components_.T) < 1e-6
    reference = X - theirs.inverse_transform(theirs.transform(X))
    np.testing.assert_allclose(ours.residual(X), reference, atol=1e-5)
    assert ours.kept_variance == pytest.approx(theirs.explained_variance_ratio_.sum(), abs=1e-9)


@given(low_rank=low_rank_features(), variance=st.sampled_from([0.5, 0.97, 1.0]))
@settings(max_examples=18)
def test_algebra(low_rank: LowRank, variance: float) -> None:
    """Orthonormal, no larger than the data's rank, and complementary to the residual."""
    X, n, rank, offset = low_rank
    subspace = Gram(X).fit(FitOptions(variance=variance))
    k = subspace.rank
    centred = X - X.mean(axis=0)
    assert k <= min(rank, X.shape[1], n - 1) or n == 1
    assert k <= np.linalg.matrix_rank(centred, tol=1e-7 * max(1, offset))
    np.testing.assert_allclose(subspace.basis.T @ subspace.basis, np.eye(k), atol=1e-6)
    residual = subspace.residual(X)
    np.testing.assert_allclose(residual @ subspace.basis, 0, atol=1e-6 * max(1, offset))
    kept, total = np.sum(subspace.singular_values**2), np.sum(centred**2)
    assert kept + np.sum(residual**2) == pytest.approx(total, rel=1e-6, abs=1e-6 * offset)
    assert kept >= (variance - 1e-6) * total - 1e-6 * max(offset, 1e-9)


def test_constant_features_have_rank_zero() -> None:
    X = np.full((5, 8), 3.25, np.float32)
    subspace = Gram(X).fit()
    assert subspace.rank == 0
    assert subspace.kept_variance == 1.0
    np.testing.assert_array_equal(subspace.residual(X), 0)
    for _, maps in Gram(X).cross_fit(make_folds(5), 2):
        np.testing.assert_array_equal(maps, 0)


def test_a_rank_beyond_the_data_is_refused_with_what_is_possible() -> None:
    X = features(10, 50, 4)
    assert Gram(X).fit(FitOptions(rank=9)).rank == 9
    with pytest.raises(OptionError, match=r"rank 10 .* span 9 dimensions"):
        Gram(X).fit(FitOptions(rank=10))
    with pytest.raises(OptionError, match="rank must be at least 1"):
        Gram(X).fit(FitOptions(rank=0))
    for variance in (0.0, 1.5, float("nan")):
        with pytest.raises(OptionError, match="variance"):
            Gram(X).fit(FitOptions(variance=variance))


def test_float32_with_a_large_offset_loses_nothing() -> None:
    X = features(30, 200, 5)
    shifted = (X.astype(np.float64) + 1000).astype(np.float32)
    a, b = Gram(shifted).fit(), Gram(shifted.astype(np.float64)).fit()
    assert a.rank == b.rank
    assert angle(a.basis, b.basis) < 1e-9


def test_twice_is_the_same_to_the_last_bit() -> None:
    X = features(80, 500, 20)
    a, b = Gram(X).fit(), Gram(X.copy()).fit()
    assert a.basis.tobytes() == b.basis.tobytes()
    assert a.mean.tobytes() == b.mean.tobytes()


def test_the_order_of_the_images_does_not_matter() -> None:
    X = features(60, 400, 10)
    order = np.random.default_rng(1).permutation(len(X))
    a, b = Gram(X).fit(), Gram(X[order]).fit()
    np.testing.assert_allclose(a.residual(X), b.residual(X), atol=1e-8)


def test_folds_are_a_seeded_partition() -> None:
    folds = make_folds(23, folds=5, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate(folds)), np.arange(23))
    assert sorted(map(len, folds)) == [4, 4, 5, 5, 5]
    again, other = make_folds(23, folds=5, seed=3), make_folds(23, folds=5, seed=4)
    assert all((a == b).all() for a, b in zip(folds, again, strict=True))
    assert any(a.tolist() != b.tolist() for a, b in zip(folds, other, strict=True))
    assert [len(fold) for fold in make_folds(3)] == [1, 1, 1]


@pytest.mark.parametrize(("n", "dimension"), [(25, 120), (130, 24)])
@pytest.mark.parametrize("options", [{"variance": 0.9}, {"rank": 7}])
def test_cross_fitting_equals_fitting_without_the_fold(
    n: int, dimension: int, options: dict[str, float]
) -> None:
    X, channels = features(n, dimension, 9), 6
    seen = []
    for held, maps in Gram(X).cross_fit(make_folds(n), channels, FitOptions(**options)):
        others = np.setdiff1d(np.arange(n), held)
        residual = Gram(X[others]).fit(FitOptions(**options)).residual(X[held])
        expected = np.square(residual).reshape(len(held), channels, -1).sum(axis=1)
        np.testing.assert_allclose(maps, expected, rtol=2e-4, atol=1e-5)
        seen.append(held)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), np.arange(n))


def test_cross_fitting_two_images_scores_each_by_the_other() -> None:
    X = features(2, 12, 3)
    for held, maps in Gram(X).cross_fit(make_folds(2), 3):
        other = X[1 - held[0]]
        expected = np.square(X[held[0]] - other).reshape(3, 4).sum(axis=0)
        np.testing.assert_allclose(maps[0], expected, rtol=1e-4)


def test_cross_fitting_cuts_the_rank_to_what_is_left() -> None:
    X = features(10, 40, 20)
    maps = [maps for _, maps in Gram(X).cross_fit(make_folds(10), 4, FitOptions(rank=9))]
    assert all(np.isfinite(part).all() for part in maps)


def test_residual_is_the_formula() -> None:
    V = np.eye(4)[:, :1]
    subspace = ImageSubspace(3, np.array([1.0, 2, 3, 4]), V, np.array([2.0]), 0.5)
    np.testing.assert_array_equal(subspace.residual(np.array([[9.0, 2, 4, 4]])), [[0, 0, 1, 0]])
    assert subspace.kept_variance == pytest.approx(4 / 4.5)
    assert (subspace.dimension, subspace.rank) == (4, 1)
