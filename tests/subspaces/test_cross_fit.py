"""From cross-fitted residuals to those of new images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fre.errors import OptionError
from fre.subspaces.cross_fit import cheap_folds, extrapolate, make_folds, sums_without
from fre.subspaces.gram import Gram
from fre.subspaces.position import PositionStatistics
from fre.subspaces.protocols import FitOptions


@given(
    st.integers(2, 500),
    st.data(),
    st.floats(0.1, 100),
    st.floats(0, 1),
)
def test_the_law_is_met_exactly(n: int, data: st.DataObject, scale: float, slope: float) -> None:
    m = data.draw(st.integers(1, n - 1))
    held_out = np.full((1, 3), scale * (1 + slope / m), np.float32)
    own = np.full((1, 3), scale * (1 - slope / n), np.float32)
    wanted = extrapolate(held_out, own, fitted_on=m, of=n)
    assert wanted.dtype == np.float32
    np.testing.assert_allclose(wanted, scale * (1 + slope / n), rtol=1e-5)


def test_five_folds_take_a_ninth_of_an_images_own_residual() -> None:
    held_out, own = np.float32([[9]]), np.float32([[0]])
    np.testing.assert_allclose(extrapolate(held_out, own, fitted_on=80, of=100), [[8]])
    np.testing.assert_allclose(extrapolate(held_out, own, fitted_on=95, of=100), [[9 * 38 / 39]])


def correlated(n: int, rng: np.random.Generator) -> np.ndarray:
    """Three by three locations of twelve channels, of variances 1, 1/2, 1/3, ..."""
    values = rng.normal(size=(n, 12, 9)) / np.sqrt(np.arange(1, 13))[:, None]
    return values.reshape(n, -1).astype(np.float32)


@pytest.mark.parametrize("kind", ["position", "image"])
def test_new_images_have_the_residuals_that_were_foreseen(kind: str) -> None:
    """Far closer than cross-fitted residuals alone, and not below."""
    rng = np.random.default_rng(0)
    n, plain, foreseen, new = 40, [], [], []
    for seed in range(8):
        X, fresh = correlated(n, rng), correlated(400, rng)
        folds = make_folds(n, seed=seed)
        if kind == "image":
            gram = Gram(X)
            subspace = gram.fit(FitOptions(variance=0.8))
            own = subspace.squared_residuals(X, 12)
            new.append(subspace.squared_residuals(fresh, 12).mean())
            held = dict(enumerate(gram.cross_fit(folds, 12, FitOptions(variance=0.8))))
            pairs = [(rows, maps) for rows, maps in held.values()]
        else:
            places = PositionStatistics.of(X, (3, 3)).fit(FitOptions(variance=0.8, prior=0))
            own = places.squared_residuals(X)
            new.append(places.squared_residuals(fresh).mean())
            pairs = []
            for rows in folds:
                others = PositionStatistics.of(np.delete(X, rows, axis=0), (3, 3))
                pairs.append(
                    (rows, others.fit(FitOptions(variance=0.8, prior=0)).squared_residuals(X[rows]))
                )
        for rows, maps in pairs:
            wanted = extrapolate(maps, own[rows], fitted_on=n - len(rows), of=n)
            assert (np.minimum(maps, own[rows]) <= wanted * (1 + 1e-5)).all()
            plain.append(maps.mean())
            foreseen.append(wanted.mean())
    excess = np.mean(plain) / np.mean(new) - 1
    left = np.mean(foreseen) / np.mean(new) - 1
    assert excess > 0.02
    assert abs(left) < excess / 2


def test_cheap_folds_are_many_for_few_images_and_never_fewer_than_asked_for() -> None:
    assert [cheap_folds(n, 5) for n in (2, 200, 400, 1000, 1600, 10000)] == [20, 20, 20, 8, 5, 5]
    assert cheap_folds(5000, 7) == 7
    assert cheap_folds(100, 30) == 30


class Names:
    """Statistics that say of what they are, and how often they were summed."""

    merges = 0

    def __init__(self, of: str) -> None:
        self.of = of

    def merge(self, *others: Names) -> Names:
        Names.merges += len(others)
        return Names("".join(sorted(self.of + "".join(other.of for other in others))))


@given(st.integers(2, 40))
def test_sums_without_a_fold_have_all_the_others_once(k: int) -> None:
    names = [chr(ord("A") + fold) for fold in range(k)]
    Names.merges = 0
    sums = [found.of for found in sums_without([Names(name) for name in names])]
    assert sums == ["".join(names[:fold] + names[fold + 1 :]) for fold in range(k)]
    assert Names.merges <= k * np.log2(k) + k


def test_sums_without_the_only_fold_are_refused() -> None:
    with pytest.raises(OptionError, match="images in two folds or more"):
        next(sums_without([Names("A")]))
