"""Subspaces add up: in any split and any order, what one fit of everything gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial, reduce

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from conftest import LowRank, low_rank_features
from fre.errors import ModelFileError, OptionError
from fre.subspaces.accumulator import Accumulator
from fre.subspaces.gram import Gram
from fre.subspaces.image_statistics import ImageStatistics, orthonormalised
from fre.subspaces.position import PositionStatistics
from fre.subspaces.protocols import FitOptions
from fre.subspaces.subspace import ImageSubspace


def features(n: int, dimension: int, rank: int, seed: int = 0, offset: float = 5) -> np.ndarray:
    """Directions of well separated strengths, and a little noise: float32 (n, D)."""
    rng = np.random.default_rng(seed)
    strengths = np.geomspace(10, 0.5, rank)
    signal = rng.normal(size=(n, rank)) * strengths @ rng.normal(size=(rank, dimension))
    return (signal + rng.normal(size=(n, dimension)) * 0.1 + offset).astype(np.float32)


def scatter(X: np.ndarray) -> np.ndarray:
    centred = X.astype(np.float64) - X.astype(np.float64).mean(axis=0)
    return centred.T @ centred


def held(statistics: ImageStatistics) -> np.ndarray:
    """The scatter matrix that the statistics stand for."""
    weighted = statistics.basis * statistics.singular_values
    return weighted @ weighted.T


def norm(symmetric: np.ndarray) -> float:
    return float(np.linalg.norm(symmetric, 2))


def angle(A: np.ndarray, B: np.ndarray) -> float:
    """The largest principal angle between two subspaces, by its sine."""
    return float(np.linalg.norm(A - B @ (B.T @ A), 2))


def orthogonality(V: np.ndarray) -> float:
    return float(np.abs(V.T @ V - np.eye(V.shape[1])).max(initial=0))


def split(X: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    return np.split(X, np.cumsum(sizes)[:-1])


def check_equal(statistics: ImageStatistics, X: np.ndarray) -> None:
    """Mean, scatter and energy are those of the features, and nothing is lost."""
    S = scatter(X)
    size = norm(S) + len(X) * 1e-20 * float(np.square(X.astype(np.float64)).sum())
    assert statistics.n == len(X)
    assert statistics.lost == 0
    np.testing.assert_allclose(
        statistics.mean, X.astype(np.float64).mean(axis=0), rtol=1e-13, atol=1e-13 * np.abs(X).max()
    )
    assert norm(held(statistics) - S) <= 1e-9 * size
    assert statistics.energy == pytest.approx(np.trace(S), rel=1e-10, abs=1e-9 * size)
    assert orthogonality(statistics.basis) < 1e-12
    assert (np.diff(statistics.singular_values) <= 0).all()


@st.composite
def mergers(draw: st.DrawFn) -> tuple[np.ndarray, list[int], int]:
    """Features of any rank, repeated or constant, with any offset; a split; a seed."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    dimension, rank = draw(st.integers(1, 30)), draw(st.integers(0, 12))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    X = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, dimension))
    X += draw(st.sampled_from([0.0, 1.0, 1e4]))
    if draw(st.booleans()):
        X = X[rng.integers(0, max(1, n // 3), n)]
    return X.astype(draw(st.sampled_from([np.float32, np.float64]))), sizes, seed


@given(mergers())
@settings(max_examples=18)
def test_any_split_and_order_is_one_fit_of_all(case: tuple[np.ndarray, list[int], int]) -> None:
    X, sizes, seed = case
    parts = split(X, sizes)
    order = np.random.default_rng(seed).permutation(len(parts))
    grown = ImageStatistics.of(parts[order[0]])
    for index in order[1:]:
        grown = grown.update(parts[index])
    apart = [ImageStatistics.of(parts[index]) for index in order]
    half = len(apart) // 2
    nested = apart[0].merge(*apart[1:half]).merge(reduce(ImageStatistics.merge, apart[half:]))
    if half == 0:
        nested = apart[0]
    for statistics in (grown, nested, apart[0].merge(*apart[1:]), ImageStatistics.of(X)):
        check_equal(statistics, X)


@given(mergers(), st.integers(1, 8))
@settings(max_examples=18)
def test_beyond_capacity_the_error_is_within_the_bound(
    case: tuple[np.ndarray, list[int], int], capacity: int
) -> None:
    X, sizes, seed = case
    S = scatter(X)
    total = float(np.trace(S))
    rounding = 1e-9 * total + len(X) * 1e-20 * float(np.square(X.astype(np.float64)).sum())
    eigenvalues = np.linalg.eigvalsh(S)[::-1]
    parts = [ImageStatistics.of(part, capacity=capacity) for part in split(X, sizes)]
    order = np.random.default_rng(seed).permutation(len(parts))
    results = [
        ImageStatistics.of(X, capacity=capacity),
        reduce(ImageStatistics.merge, parts),
        reduce(ImageStatistics.merge, [parts[index] for index in order]),
        reduce(lambda old, part: old.update(part), split(X, sizes)[1:], parts[0]),
    ]
    for result in results:
        r, K = result.rank, held(result)
        assert r <= capacity
        assert orthogonality(result.basis) < 1e-12
        assert result.energy == pytest.approx(total, rel=1e-10, abs=rounding)
        missing = np.linalg.eigvalsh(S - K)
        assert missing[0] >= -rounding
        assert missing[-1] <= result.lost + rounding
        assert result.lost <= result.discarded + rounding
        ours = result.singular_values**2
        assert (ours <= eigenvalues[:r] + rounding).all()
        assert (ours >= eigenvalues[:r] - result.lost - rounding).all()
        for k in range(1, r + 1):
            V, kept = result.basis[:, :k], float(ours[:k].sum())
            assert np.trace(V.T @ S @ V) >= kept - rounding
            best = float(eigenvalues[:k].sum())
            assert best <= kept + min(k * result.lost, result.discarded) + rounding
        for other in results:
            assert norm(K - held(other)) <= max(result.lost, other.lost) + rounding


@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=8),
    tail=st.floats(0.001, 0.3),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=12)
def test_beyond_capacity_the_angles_are_within_the_bound(
    sizes: list[int], tail: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    dimension, k, capacity = 24, 4, 8
    X = rng.normal(size=(sum(sizes), dimension)) * np.r_[np.full(k, 5.0), np.full(20, tail)]
    X = X @ np.linalg.qr(rng.normal(size=(dimension, dimension)))[0]
    first, *rest = split(X, sizes)
    statistics = ImageStatistics.of(first, capacity=capacity)
    for part in rest:
        statistics = statistics.update(part)
    energies = np.r_[statistics.singular_values**2, 0]
    assume(statistics.rank >= k)
    gap = energies[k - 1] - energies[k] - statistics.lost
    assume(gap > 0)
    reference = np.linalg.eigh(scatter(X))[1][:, ::-1][:, :k]
    assert angle(reference, statistics.basis[:, :k]) <= statistics.lost / gap + 1e-9


def test_one_truncation_is_the_best_approximation() -> None:
    X = features(60, 40, 20)
    statistics = ImageStatistics.of(X, capacity=10)
    values, vectors = np.linalg.eigh(scatter(X))
    np.testing.assert_allclose(statistics.singular_values**2, values[::-1][:10], rtol=1e-10)
    assert angle(vectors[:, ::-1][:, :10], statistics.basis) < 1e-9
    assert statistics.lost == pytest.approx(values[::-1][10], rel=1e-9)
    assert statistics.discarded == pytest.approx(values[::-1][10:].sum(), rel=1e-9)


@pytest.mark.parametrize("off", [0.0, 1e-9, 1e-3, 1.0])
def test_columns_however_far_from_orthonormal_are_made_so(off: float) -> None:
    rng = np.random.default_rng(3)
    columns = np.linalg.qr(rng.normal(size=(400, 30)))[0] + off * rng.normal(size=(400, 30))
    Q, triangle = orthonormalised(columns)
    assert orthogonality(Q) < 1e-14
    np.testing.assert_allclose(Q @ triangle, columns, atol=1e-13)
    np.testing.assert_array_equal(np.tril(triangle, -1), 0)


@pytest.mark.parametrize("weakest", [1e-3, 1e-11])
def test_columns_are_decomposed_by_their_products_only_where_that_is_exact(weakest: float) -> None:
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.normal(size=(80, 80)))[0]
    strengths = np.geomspace(1, np.sqrt(weakest), 24)
    parts = [rng.normal(size=(40, 24)) * strengths @ frame[:24] for _ in range(3)]
    X = np.concatenate(parts)
    capacity = 20
    statistics = ImageStatistics.of(parts[0], capacity=capacity)
    for part in parts[1:]:
        statistics = statistics.update(part)
    assert orthogonality(statistics.basis) < 1e-12
    centred = X - X.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)
    assert statistics.energy == pytest.approx(float(np.sum(values**2)), rel=1e-12)
    assert norm(held(statistics) - centred.T @ centred) <= statistics.lost * (1 + 1e-6) + 1e-12


def test_many_single_rows() -> None:
    X = features(200, 60, 30, offset=300)
    statistics = ImageStatistics.of(X[:1])
    for row in range(1, 200):
        statistics = statistics.update(X[row : row + 1])
    check_equal(statistics, X)
    reference = np.linalg.svd(X - X.astype(np.float64).mean(axis=0))
    np.testing.assert_allclose(statistics.singular_values, reference.S, rtol=1e-9)
    assert angle(reference.Vh[:30].T, statistics.basis[:, :30]) < 1e-9


def test_many_single_rows_beyond_capacity() -> None:
    X = features(200, 60, 30)
    statistics = ImageStatistics.of(X[:1], capacity=35)
    for row in range(1, 200):
        statistics = statistics.update(X[row : row + 1])
    assert statistics.rank == 35
    assert orthogonality(statistics.basis) < 1e-12
    assert statistics.energy == pytest.approx(np.trace(scatter(X)), rel=1e-11)
    missing = np.linalg.eigvalsh(scatter(X) - held(statistics))
    assert missing[0] > -1e-11 * norm(scatter(X))
    assert missing[-1] <= statistics.lost


def test_a_basis_that_has_drifted_is_made_orthonormal_again() -> None:
    X = features(40, 60, 12)
    statistics = ImageStatistics.of(X[:30])
    rng = np.random.default_rng(0)
    leaning = statistics.basis + rng.normal(0, 1e-11, statistics.basis.shape)
    assert orthogonality(leaning) > 1e-11
    updated = replace(statistics, basis=leaning).update(X[30:])
    assert orthogonality(updated.basis) < 1e-14
    assert norm(held(updated) - scatter(X)) < 1e-9 * norm(scatter(X))


@pytest.mark.parametrize(("n", "dimension"), [(40, 300), (300, 40), (60, 60), (200, 240)])
def test_a_cut_equals_one_fit_and_scikit_learn(n: int, dimension: int) -> None:
    X = features(n, dimension, 12)
    first, *rest = np.array_split(X, 7)
    statistics = ImageStatistics.of(first)
    for part in rest:
        statistics = statistics.update(part)
    for variance in (0.5, 0.97, 0.999):
        options = FitOptions(variance=variance)
        ours, gram = statistics.fit(options), Gram(X).fit(options)
        theirs = PCA(variance, svd_solver="full").fit(X.astype(np.float64))
        assert ours.rank == gram.rank == theirs.n_components_
        assert ours.n == n
        np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-12)
        np.testing.assert_allclose(ours.singular_values, theirs.singular_values_, rtol=1e-9)
        assert angle(ours.basis, theirs.components_.T) < 1e-9
        assert angle(ours.basis, gram.basis) < 1e-8
        assert ours.discarded == pytest.approx(gram.discarded, rel=1e-8)
        np.testing.assert_allclose(ours.residual(X), gram.residual(X), atol=1e-7)


def test_a_cut_is_the_same_in_any_order_signs_included() -> None:
    X = features(90, 200, 10)
    order = np.random.default_rng(1).permutation(len(X))
    a = ImageStatistics.of(X).fit(FitOptions(rank=10))
    b = ImageStatistics.of(X[order]).fit(FitOptions(rank=10))
    np.testing.assert_allclose(a.basis, b.basis, atol=1e-10)


@given(low_rank=low_rank_features(), variance=st.sampled_from([0.5, 0.97, 1.0]))
@settings(max_examples=18)
def test_a_cut_has_the_rank_of_one_fit(low_rank: LowRank, variance: float) -> None:
    X = low_rank.X
    first, *rest = np.array_split(X, min(3, len(X)))
    statistics = ImageStatistics.of(first)
    for part in rest:
        statistics = statistics.update(part)
    assert (
        statistics.fit(FitOptions(variance=variance)).rank
        == Gram(X).fit(FitOptions(variance=variance)).rank
    )


def test_a_cut_refuses_what_one_fit_refuses() -> None:
    statistics = ImageStatistics.of(features(10, 50, 4))
    assert statistics.fit(FitOptions(rank=9)).rank == 9
    assert statistics.fit(FitOptions(rank=9, at_most=3)).rank == 3
    with pytest.raises(OptionError, match=r"rank 10 .* span 9 dimensions"):
        statistics.fit(FitOptions(rank=10))
    with pytest.raises(OptionError, match="rank must be at least 1"):
        statistics.fit(FitOptions(rank=0))
    with pytest.raises(OptionError, match="variance"):
        statistics.fit(FitOptions(variance=1.5))
    with pytest.raises(OptionError, match="rank 6 is more than the 5 directions that are kept"):
        ImageStatistics.of(features(10, 50, 4), capacity=5).fit(FitOptions(rank=6))


def test_the_share_of_a_cut_counts_the_discarded_energy() -> None:
    X = features(80, 60, 40)
    full, limited = ImageStatistics.of(X), ImageStatistics.of(X, capacity=20)
    assert (
        limited.fit(FitOptions(variance=0.8)).rank == full.fit(FitOptions(variance=0.8)).rank < 20
    )
    assert full.fit(FitOptions(variance=0.999)).rank > 20
    assert limited.fit(FitOptions(variance=0.999)).rank == 20
    expected = full.fit(FitOptions(rank=20)).kept_variance
    assert limited.fit(FitOptions(variance=0.999)).kept_variance == pytest.approx(
        expected, rel=1e-9
    )


def test_constant_features_and_single_ones() -> None:
    X = np.full((5, 8), 3.3, np.float32)
    constant = ImageStatistics.of(X)
    for _ in range(100):
        constant = constant.update(X[:1])
    assert (constant.n, constant.rank, constant.energy) == (105, 0, 0)
    np.testing.assert_array_equal(constant.mean, X[0])
    assert constant.fit().rank == 0
    assert constant.fit().kept_variance == 1.0
    single = ImageStatistics.of(features(1, 8, 3))
    assert (single.n, single.rank) == (1, 0)
    both = single.merge(constant)
    assert (both.n, both.rank) == (106, 1)
    Y = features(20, 8, 3)
    for merged in (constant.merge(ImageStatistics.of(Y)), ImageStatistics.of(Y).merge(both)):
        rows = [Y, np.repeat(X[:1], 105, axis=0)]
        if merged.n == 126:
            rows.append(features(1, 8, 3))
        check_equal(merged, np.concatenate(rows))


def test_repeated_features_add_no_directions() -> None:
    X = features(6, 50, 6)
    statistics = ImageStatistics.of(X)
    for _ in range(200):
        statistics = statistics.update(X[::-1])
    assert statistics.rank == 5
    check_equal(statistics, np.tile(X, (201, 1)))


def test_float32_with_a_large_offset_loses_nothing() -> None:
    X = features(3000, 40, 5, offset=10_000)
    statistics = ImageStatistics.of(X[:7])
    for part in np.array_split(X[7:], 30):
        statistics = statistics.update(part)
    exact = X.astype(np.longdouble).mean(axis=0)
    assert np.abs(statistics.mean - exact).max() < 1e-10
    check_equal(statistics, X)


def test_a_direction_far_weaker_than_the_others_is_found() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(30, 3)))[0].T
    X = rng.normal(size=(50, 3)) * [1e3, 1.0, 1e-5] @ axes
    first, *rest = np.array_split(X, 12)
    statistics = ImageStatistics.of(first)
    for part in rest:
        statistics = statistics.update(part)
    reference = np.linalg.svd(X - X.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(statistics.singular_values[:3], reference.S[:3], rtol=1e-6)
    assert angle(reference.Vh[:3].T, statistics.basis[:, :3]) < 1e-6


def test_what_does_not_add_up_is_refused() -> None:
    statistics = ImageStatistics.of(features(5, 12, 2))
    for call in (
        lambda: statistics.update(features(5, 13, 2)),
        lambda: statistics.merge(ImageStatistics.of(features(5, 13, 2))),
    ):
        with pytest.raises(OptionError, match="13 entries, and those before have 12"):
            call()
    for empty in (np.empty((0, 12), np.float32), np.empty(12, np.float32)):
        with pytest.raises(OptionError, match="one row or more"):
            statistics.update(empty)
        with pytest.raises(OptionError, match="one row or more"):
            ImageStatistics.of(empty)
    with pytest.raises(OptionError, match="capacity must be at least 1"):
        ImageStatistics.of(features(5, 12, 2), capacity=0)
    for value in (np.nan, np.inf):
        bad = features(5, 12, 2)
        bad[2, 3] = value
        with pytest.raises(OptionError, match="finite"):
            statistics.update(bad)


def test_nothing_given_is_changed() -> None:
    X = features(30, 20, 5)
    a, b = ImageStatistics.of(X[:10]), ImageStatistics.of(X[10:])
    before = [array.tobytes() for array in (X, *a.to_arrays().values(), *b.to_arrays().values())]
    a.update(X)
    a.merge(b, a)
    a.fit()
    after = [array.tobytes() for array in (X, *a.to_arrays().values(), *b.to_arrays().values())]
    assert before == after


def test_capacities_merge_to_the_larger() -> None:
    X = features(60, 30, 10)
    a = ImageStatistics.of(X[:30], capacity=8)
    b = ImageStatistics.of(X[30:], capacity=16)
    for merged in (a.merge(b), b.merge(a)):
        assert (merged.capacity, merged.rank) == (16, 16)


def accumulators() -> list[Accumulator[ImageStatistics] | Accumulator[PositionStatistics]]:
    return [
        Accumulator(partial(ImageStatistics.of, capacity=20), block=16),
        Accumulator(partial(PositionStatistics.of, grid=(2, 5)), block=16),
    ]


def stored(statistics: ImageStatistics | PositionStatistics) -> list[bytes]:
    return [array.tobytes() for array in statistics.to_arrays().values()]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.integers(0, 7))
@settings(max_examples=5)
def test_an_accumulator_does_not_care_about_batches_or_stops(sizes: list[int], stop: int) -> None:
    sizes.append(1)
    X = features(sum(sizes), 60, 12)
    for batches, whole in zip(accumulators(), accumulators(), strict=True):
        whole.add(X)
        for index, part in enumerate(split(X, sizes)):
            batches.add(part)
            if index == stop:
                batches = Accumulator(
                    batches._of, block=16, absorbed=batches.absorbed, pending=batches.pending
                )
            elif index % 2:
                batches.add(part[:0])
        assert batches.result().n == len(X)
        assert stored(batches.result()) == stored(whole.result())
        assert stored(batches.result()) == stored(whole.result()), "a result changes nothing"


def test_an_accumulator_refuses_what_does_not_fit() -> None:
    accumulator = Accumulator(ImageStatistics.of)
    with pytest.raises(OptionError, match="no features"):
        accumulator.result()
    accumulator.add(features(3, 12, 2))
    with pytest.raises(OptionError, match="13 entries, and those before have 12"):
        accumulator.add(features(3, 13, 2))
    with pytest.raises(OptionError, match="float32"):
        accumulator.add(np.zeros((3, 12)))
    with pytest.raises(OptionError, match="block"):
        Accumulator(ImageStatistics.of, block=0)
    assert accumulator.absorbed is None
    assert accumulator.pending is not None
    np.testing.assert_array_equal(accumulator.pending, features(3, 12, 2))


@pytest.mark.parametrize("n", [1, 40])
def test_arrays_and_back(n: int) -> None:
    X = features(n, 50, 8)
    statistics = ImageStatistics.of(X, capacity=30)
    again = ImageStatistics.from_arrays({**statistics.to_arrays(), "other": X})
    assert stored(again) == stored(statistics)
    rounded = ImageStatistics.from_arrays(statistics.to_arrays(compact=True))
    assert orthogonality(rounded.basis) < 1e-14
    assert rounded.energy == statistics.energy
    assert angle(statistics.basis[:, :8], rounded.basis[:, :8]) < 2e-4
    more = features(9, 50, 8, seed=1)
    a, b = statistics.update(more), rounded.update(more)
    np.testing.assert_allclose(a.singular_values, b.singular_values, rtol=1e-3)


def test_damaged_arrays_are_refused() -> None:
    arrays = ImageStatistics.of(features(9, 50, 8)).to_arrays()
    with pytest.raises(ModelFileError, match="lack the array 'mean'"):
        ImageStatistics.from_arrays({k: v for k, v in arrays.items() if k != "mean"})
    with pytest.raises(ModelFileError, match=r"'basis' in the shape \(49, 8\), not 50 x 8"):
        ImageStatistics.from_arrays({**arrays, "basis": arrays["basis"][1:]})


@pytest.mark.parametrize("offset", [0, 10_000])
@pytest.mark.parametrize("block", [2**8, 2**26])
def test_energies_are_the_residuals_squares(
    monkeypatch: pytest.MonkeyPatch, offset: float, block: int
) -> None:
    monkeypatch.setattr("fre.subspaces.subspace.BLOCK_BYTES", block)
    X = features(30, 60, 8, offset=offset)
    subspace = ImageStatistics.of(X[:20]).fit()
    expected = np.square(subspace.residual(X[20:])).reshape(10, 12, 5).sum(axis=1)
    energies = subspace.squared_residuals(X[20:], 12)
    assert (energies.dtype, energies.shape) == (np.float32, (10, 5))
    np.testing.assert_allclose(energies, expected, rtol=2e-4)
    assert subspace.squared_residuals(X[:0], 12).shape == (0, 5)
    for wrong, channels in ((X[:, 1:], 12), (X, 7), (X, 0)):
        with pytest.raises(OptionError, match="60"):
            subspace.squared_residuals(wrong, channels)


def test_energies_of_a_subspace_of_rank_zero() -> None:
    subspace = ImageSubspace(1, np.array([1.0, 2, 3, 4]), np.zeros((4, 0)), np.zeros(0), 0.0)
    energies = subspace.squared_residuals(np.array([[2, 4, 3, 5]], np.float32), 2)
    np.testing.assert_array_equal(energies, [[1, 5]])
