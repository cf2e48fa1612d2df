"""The same images have the same folds, however they are read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fre.errors import OptionError
from fre.features.layout import FeatureLayout
from fre.subspaces.cross_fit import make_folds
from fre.subspaces.protocols import FitOptions
from fre.training.folds import Folds, deal_folds, deal_streamed
from fre.training.parts import Part

PART = Part(FeatureLayout("a", 3, (2, 2), 1), "position")


def coarse(folds: list[NDArray[np.intp]], at_most: int) -> list[NDArray[np.intp]]:
    """The folds of a part whose fits cost more."""
    dealt = Folds.of(folds, at_most)
    return dealt.rows(np.arange(len(dealt.of_image)), PART)


@given(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=60), st.integers(2, 6))
def test_merged_folds_keep_together_what_was_together(labels: list[str], few: int) -> None:
    if len(set(labels)) < 2:
        return
    folds = make_folds(len(labels), folds=20, groups=labels)
    merged = coarse(folds, few)
    assert len(merged) == min(few, len(folds))
    np.testing.assert_array_equal(np.sort(np.concatenate(merged)), np.arange(len(labels)))
    for label in set(labels):
        rows = [row for row, other in enumerate(labels) if other == label]
        assert sum(bool(np.isin(rows, fold).any()) for fold in merged) == 1


def test_merged_folds_are_of_nearly_equal_size() -> None:
    sizes = [len(fold) for fold in coarse(make_folds(203, folds=20), 5)]
    assert max(sizes) - min(sizes) <= 1


def test_the_order_of_the_images_is_no_matter() -> None:
    keys = [hashlib.sha256(bytes([i])).hexdigest() for i in range(30)]
    order = np.random.default_rng(0).permutation(30)
    one = deal_folds(keys, count=20, coarse=5, seed=3)
    other = deal_folds([keys[i] for i in order], count=20, coarse=5, seed=3)
    np.testing.assert_array_equal(one.of_image[order], other.of_image)


def test_files_have_the_folds_of_their_digests(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(30)]
    for i, path in enumerate(paths):
        path.write_bytes(bytes([i]))
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    streamed = deal_streamed(
        [*paths[:7], tmp_path / "none", *paths[7:]], few=True, coarse=5, seed=3
    )
    held = deal_folds(keys, count=20, coarse=5, seed=3)
    np.testing.assert_array_equal(np.delete(streamed.of_image, 7), held.of_image)
    assert streamed.coarse == held.coarse == 5
    many = deal_streamed(paths, few=False, coarse=5, seed=3)
    assert many.count == many.coarse == 5


def test_images_are_left_out_one_by_one_unless_others_show_their_part() -> None:
    keys = [hashlib.sha256(bytes([i])).hexdigest() for i in range(30)]
    few = Part(FeatureLayout("a", 20, (2, 2), 1), "position")
    many = Part(FeatureLayout("a", 21, (2, 2), 1), "position")
    patch = Part(few.layout, "patch")

    def one_by_one(names: list[str], groups: list[str] | None = None, **given: bool) -> list[bool]:
        folds = deal_folds(names, count=20, coarse=5, seed=3, groups=groups, **given)
        return [folds.leaves_one_out(part, FitOptions()) for part in (few, many, patch)]

    assert one_by_one(keys, single=True) == [True, False, False]
    assert one_by_one(keys) == [False] * 3
    assert one_by_one(keys, [str(i // 2) for i in range(30)], single=True) == [False] * 3
    assert one_by_one([*keys[:20], *keys[:10]], single=True) == [False] * 3
    assert one_by_one([*keys[:28], *keys[:2]], single=True) == [True, False, False]
    images = [np.full((2, 2, 3), i, np.uint8) for i in range(30)]
    for enough in (True, False):
        streamed = deal_streamed(images, few=enough, coarse=5, seed=3, single=True)
        assert streamed.leaves_one_out(few, FitOptions())


def test_one_group_can_not_be_dealt() -> None:
    with pytest.raises(OptionError, match="one group"):
        deal_folds(["a", "b"], count=2, coarse=2, seed=0, groups=["g", "g"])
