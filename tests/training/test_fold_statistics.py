"""What was learnt apart adds up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fre.errors import OptionError
from fre.features.layout import FeatureLayout
from fre.subspaces.image_statistics import ImageStatistics
from fre.subspaces.position import PositionStatistics
from fre.subspaces.protocols import FitOptions
from fre.training.fold_statistics import FoldStatistics
from fre.training.parts import Part

LAYOUTS = [FeatureLayout("a", 3, (2, 2), 1), FeatureLayout("b", 2, (2, 2), 1)]
PARTS = [
    Part(LAYOUTS[0], "position"),
    Part(LAYOUTS[0], "patch"),
    Part(LAYOUTS[1], "image"),
]
D = sum(layout.dimension for layout in LAYOUTS)


def empty(parts: list[Part] = PARTS, folds: int = 3, capacity: int = 64) -> FoldStatistics:
    return FoldStatistics(parts, LAYOUTS, folds=folds, capacity=capacity)


def filled(X: np.ndarray, fold: np.ndarray) -> FoldStatistics:
    found = empty()
    found.add(X, fold)
    return found


def test_parts_that_leave_images_out_one_by_one_need_no_folds() -> None:
    X = np.random.default_rng(0).normal(size=(30, D)).astype(np.float32)
    part = PARTS[0]
    found = FoldStatistics(PARTS, LAYOUTS, folds=3, capacity=64, leave_one_out=[part.name])
    found.add(X, np.arange(30) % 3)
    assert [found.folds_of(one) for one in PARTS] == [1, 3, 3]
    assert [found.empty().folds_of(one) for one in PARTS] == [1, 3, 3]
    whole = PositionStatistics.of(part.features(X, LAYOUTS), part.layout.pooled)
    own, left_out = whole.fit_left_out()
    _, fitted, without = found.fit(FitOptions())
    np.testing.assert_array_equal(
        fitted[0].squared_residuals(X[:, :12], 3), own.squared_residuals(X[:, :12])
    )
    assert fitted[1:] == without[1:]
    for fold, subspaces in found.held_out(without, FitOptions()):
        rows = X[fold::3]
        residuals = subspaces.residuals(rows)
        expected = left_out.squared_residuals(part.features(rows, LAYOUTS))
        np.testing.assert_allclose(residuals[0], expected, rtol=1e-4)
        assert [others is None for others in subspaces.others] == [True, False, False]


def scatter(kept: ImageStatistics) -> np.ndarray:
    return (kept.basis * kept.singular_values**2) @ kept.basis.T


def same(one: FoldStatistics, other: FoldStatistics) -> None:
    assert (one.rows == other.rows).all()
    first, second = one.statistics(), other.statistics()
    assert [found.keys() for found in first] == [found.keys() for found in second]
    for fold in first[0]:
        for mine, theirs in zip(first[:2], second[:2], strict=True):
            for name, values in mine[fold].to_arrays().items():
                np.testing.assert_allclose(values, theirs[fold].to_arrays()[name], atol=1e-9)
        mine, theirs = first[2][fold], second[2][fold]
        assert mine.n == theirs.n
        np.testing.assert_allclose(mine.mean, theirs.mean, atol=1e-9)
        assert mine.rank == theirs.rank
        scatters = [
            (kept.basis * kept.singular_values**2) @ kept.basis.T for kept in (mine, theirs)
        ]
        np.testing.assert_allclose(*scatters, atol=1e-8)


@settings(max_examples=5)
@given(st.data())
def test_any_split_in_any_order_adds_up_to_the_same(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 9)))
    X = rng.normal(3, 1, (n, D)).astype(np.float32)
    fold = np.array(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)), np.intp)
    piece = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    pieces = [filled(X[piece == number], fold[piece == number]) for number in range(4)]
    order = data.draw(st.permutations(range(4)))
    chain = empty()
    for number in order:
        chain = chain.merge(pieces[number])
    tree = pieces[0].merge(pieces[1]).merge(pieces[2].merge(pieces[3]))
    whole = filled(X, fold)
    same(chain, whole)
    same(tree, whole)
    same(pieces[0].merge(*pieces[1:]), whole)


def test_what_is_merged_is_stored_and_goes_on() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(0, 1, (300, D)).astype(np.float32)
    fold = np.arange(300) % 3
    merged = filled(X[:100], fold[:100]).merge(filled(X[100:200], fold[100:200]))
    assert not any(name.endswith("pending") for name in merged.to_arrays())
    restored = empty()
    restored.restore(merged.to_arrays())
    same(restored, merged)
    restored.add(X[200:], fold[200:])
    same(restored, filled(X, fold))


def test_the_parts_that_were_merged_stay_as_they_are() -> None:
    X = np.random.default_rng(1).normal(0, 1, (20, D)).astype(np.float32)
    one, other = filled(X[:10], np.zeros(10, np.intp)), filled(X[10:], np.ones(10, np.intp))
    one.merge(other)
    same(one, filled(X[:10], np.zeros(10, np.intp)))


def test_only_statistics_of_the_same_parts_and_folds_add_up() -> None:
    with pytest.raises(OptionError, match="same parts and folds"):
        empty().merge(empty(PARTS[:2]))
    with pytest.raises(OptionError, match="same parts and folds"):
        empty().merge(empty(folds=2))
