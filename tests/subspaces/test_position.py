"""Per-position subspaces: exact statistics, the prior, and residuals by definition."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fre.errors import ModelFileError, OptionError
from fre.parallel import on_all_cores
from fre.subspaces.gram import Gram
from fre.subspaces.position import PositionStatistics
from fre.subspaces.protocols import FitOptions


def features(n: int, channels: int, grid: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Each location has a mean and a strong direction of its own: float32 (n, C * P)."""
    rng = np.random.default_rng(seed)
    places = grid[0] * grid[1]
    vectors = rng.normal(0, 0.2, (n, channels, places)) + rng.normal(3, 1, (channels, places))
    vectors += rng.normal(0, 3, (n, 1, places)) * rng.normal(0, 1, (channels, places))
    return vectors.reshape(n, -1).astype(np.float32)


def at(X: np.ndarray, place: int, channels: int) -> np.ndarray:
    return X.reshape(len(X), channels, -1)[:, :, place].astype(np.float64)


@pytest.mark.parametrize("n", [5, 60])
def test_without_a_prior_each_location_is_its_own_pca(n: int) -> None:
    X = features(n, 8, (3, 4))
    subspace = PositionStatistics.of(X, (3, 4)).fit(FitOptions(variance=0.9, prior=0))
    energies = subspace.squared_residuals(X)
    for place in range(12):
        vectors = at(X, place, 8)
        pca = Gram(vectors).fit(FitOptions(variance=0.9))
        assert subspace.ranks[place] == pca.rank
        expected = np.square(pca.residual(vectors)).sum(axis=1)
        np.testing.assert_allclose(energies[:, place], expected, rtol=2e-2)


def test_the_prior_is_the_mean_of_the_neighbours_covariances() -> None:
    X, grid, n = features(10, 4, (3, 3)), (3, 3), 10
    covariances = [np.cov(at(X, place, 4).T, bias=True) for place in range(9)]
    corner = np.mean([covariances[i] for i in (0, 1, 3, 4)], axis=0)
    centre = np.mean(covariances, axis=0)
    subspace = PositionStatistics.of(X, grid).fit(FitOptions(variance=0.9, prior=32))
    for place, around in ((0, corner), (4, centre)):
        blended = (n * covariances[place] + 32 * around) / (n + 32)
        values, vectors = np.linalg.eigh(blended)
        k = int(subspace.ranks[place])
        kept = values[::-1].cumsum() / values.sum()
        assert kept[k - 1] >= 0.9 > (kept[k - 2] if k > 1 else 0)
        ours = subspace.complement[place][:, : 4 - k].astype(np.float64)
        theirs = vectors[:, : 4 - k]
        np.testing.assert_allclose(ours @ ours.T, theirs @ theirs.T, atol=2e-3)
        np.testing.assert_allclose(subspace.mean[place], at(X, place, 4).mean(axis=0))


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(0, 50))
@settings(max_examples=5)
def test_statistics_add_up_in_any_split(sizes: list[int], seed: int) -> None:
    X = features(sum(sizes), 3, (2, 3), seed) + np.float32(100)
    borders = np.cumsum(sizes)[:-1]
    parts = [PositionStatistics.of(part, (2, 3)) for part in np.split(X, borders)]
    whole = PositionStatistics.of(X, (2, 3))
    for order in (parts, parts[::-1]):
        merged = reduce(PositionStatistics.merge, order)
        assert merged.n == whole.n
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-9)
        np.testing.assert_allclose(
            merged.scatter,
            whole.scatter,
            rtol=1e-7,
            atol=1e-9 * np.abs(whole.scatter).max() + 1e-12,
        )


def test_one_image_and_constant_images_have_rank_zero() -> None:
    X = features(1, 5, (2, 2))
    for stack in (X, np.repeat(X, 6, axis=0)):
        subspace = PositionStatistics.of(stack, (2, 2)).fit()
        assert subspace.rank == 0
        assert subspace.kept_variance == 1.0
        np.testing.assert_allclose(subspace.squared_residuals(stack), 0, atol=1e-9)
        np.testing.assert_allclose(subspace.squared_residuals(stack + np.float32(1)), 5, rtol=1e-5)


def test_complements_are_orthonormal_and_padded_with_zeros() -> None:
    subspace = PositionStatistics.of(features(30, 6, (4, 4)), (4, 4)).fit()
    for place, rank in enumerate(subspace.ranks):
        complement = subspace.complement[place].astype(np.float64)
        used = complement[:, : 6 - rank]
        np.testing.assert_allclose(used.T @ used, np.eye(6 - rank), atol=2e-3)
        assert not complement[:, 6 - rank :].any()
    assert 0.97 <= subspace.kept_variance <= 1


def test_many_sets_merge_at_once_as_one_by_one() -> None:
    parts = [PositionStatistics.of(features(n, 3, (2, 3), n), (2, 3)) for n in (4, 1, 7)]
    at_once, one_by_one = parts[0].merge(*parts[1:]), reduce(PositionStatistics.merge, parts)
    assert at_once.n == one_by_one.n == 12
    np.testing.assert_allclose(at_once.mean, one_by_one.mean)
    np.testing.assert_allclose(at_once.scatter, one_by_one.scatter)


def test_a_full_subspace_leaves_nothing() -> None:
    X = features(30, 4, (2, 2))
    subspace = PositionStatistics.of(X, (2, 2)).fit(FitOptions(variance=1.0))
    assert subspace.complement.shape == (4, 4, 1)
    assert not subspace.squared_residuals(X).any()


def test_an_error_in_a_part_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        on_all_cores([lambda: 1, lambda: 1 // 0])
    assert on_all_cores([lambda: 1, lambda: 2]) == [1, 2]


@given(st.lists(st.integers(1, 7), min_size=2, max_size=6), st.integers(0, 50))
@settings(max_examples=5)
def test_updates_add_up_as_merges_do(sizes: list[int], seed: int) -> None:
    X = features(sum(sizes), 3, (2, 3), seed) + np.float32(100)
    first, *rest = np.split(X, np.cumsum(sizes)[:-1])
    statistics = PositionStatistics.of(first, (2, 3))
    before = statistics.scatter.copy()
    grown = reduce(PositionStatistics.update, rest, statistics)
    whole = PositionStatistics.of(X, (2, 3))
    assert grown.n == whole.n
    np.testing.assert_array_equal(statistics.scatter, before)
    np.testing.assert_allclose(grown.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(grown.scatter, whole.scatter, rtol=1e-9, atol=1e-9)


def test_other_feature_maps_are_refused() -> None:
    statistics = PositionStatistics.of(features(4, 3, (2, 3)), (2, 3))
    with pytest.raises(OptionError, match="24 entries, and those before have 18"):
        statistics.update(features(4, 4, (2, 3)))
    with pytest.raises(OptionError, match="one row or more"):
        statistics.update(features(4, 3, (2, 3))[:0])
    for channels, grid in ((3, (3, 2)), (4, (2, 3))):
        with pytest.raises(OptionError, match="do not add up"):
            statistics.merge(PositionStatistics.of(features(4, channels, grid), grid))


def test_arrays_and_back() -> None:
    X = features(20, 5, (3, 2))
    statistics = PositionStatistics.of(X, (3, 2))
    arrays = statistics.to_arrays()
    assert arrays["scatter"].shape == (6, 15)
    again = PositionStatistics.from_arrays(arrays)
    assert (again.n, again.grid) == (20, (3, 2))
    np.testing.assert_array_equal(again.mean, statistics.mean)
    np.testing.assert_allclose(again.scatter, statistics.scatter, rtol=1e-13)
    assert again.to_arrays()["scatter"].tobytes() == arrays["scatter"].tobytes()
    rounded = PositionStatistics.from_arrays(statistics.to_arrays(compact=True))
    np.testing.assert_allclose(
        rounded.fit().squared_residuals(X),
        statistics.fit().squared_residuals(X),
        rtol=1e-3,
        atol=1e-3,
    )
    with pytest.raises(ModelFileError, match=r"'scatter' in the shape \(6, 14\), not 6 x 15"):
        PositionStatistics.from_arrays({**arrays, "scatter": arrays["scatter"][:, 1:]})
