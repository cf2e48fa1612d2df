"""Shots of one part: found, named, and kept together."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import texture
from fre.detector import FRE
from fre.errors import OptionError
from fre.images.near_duplicates import duplicate_thumbnail, near_duplicates
from fre.subspaces.cross_fit import make_folds
from fre.training.grouping import group_labels
from fre.types import ImageArray


def test_labels_come_from_folders_and_names() -> None:
    paths = [Path("/d/part1/left/a_1.png"), Path("/d/part2/left/b_22.png")]
    assert group_labels(paths, "folder") == ["left", "left"]
    assert group_labels(paths, 1) == ["left", "left"]
    assert group_labels(paths, "2") == ["part1", "part2"]
    assert group_labels(paths, r"^(\w)_") == ["a", "b"]
    assert group_labels(paths, r"_(\d+)\.png$") == ["1", "22"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("(", "no regular expression"),
        ("a_", "0 capture groups"),
        ("(a)(_)", "2 capture groups"),
        ("^(b)_", r"a_1\.png: its name does not match"),
        ("^a(x)?_", "does not match"),
        (0, "levels from 1"),
        ("9", "no folder 9 levels up"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rule: str | int, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        group_labels(["/d/a_1.png"], rule)


@given(
    st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=80).filter(
        lambda labels: len(set(labels)) > 1
    ),
    st.integers(2, 6),
    st.integers(0, 3),
)
def test_a_group_is_in_one_fold(labels: list[str], folds: int, seed: int) -> None:
    made = make_folds(len(labels), folds=folds, seed=seed, groups=labels)
    assert sorted(np.concatenate(made)) == list(range(len(labels)))
    assert len(made) == min(folds, len(set(labels)))
    members = [{labels[row] for row in fold} for fold in made]
    assert sum(map(len, members)) == len(set(labels))
    # no fold exceeds the smallest by more than a group: dealing largest first ensures it
    sizes = [len(fold) for fold in made]
    assert max(sizes) - min(sizes) <= max(labels.count(label) for label in labels)


def test_groups_are_dealt_by_the_seed() -> None:
    labels = [str(i // 2) for i in range(40)]
    first, again, other = (make_folds(40, seed=seed, groups=labels) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert [len(fold) for fold in first] == [8] * 5


def test_one_group_is_refused() -> None:
    with pytest.raises(OptionError, match="all 3 images are of one group, 'a'"):
        make_folds(3, groups=["a"] * 3)


def pattern(seed: int) -> ImageArray:
    """Smooth blobs, unlike from seed to seed: uint8 (256, 256, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12), np.uint8)
    grey = Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC)
    return np.asarray(grey.convert("RGB"))


def recompressed(image: ImageArray) -> ImageArray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=50)
    return np.asarray(Image.open(buffer))


def moved(image: ImageArray) -> ImageArray:
    return np.roll(image, (2, -1), axis=(0, 1))


def brighter(image: ImageArray) -> ImageArray:
    return (image * 0.7 + 20).astype(np.uint8)


@pytest.mark.parametrize("change", [np.copy, recompressed, moved, brighter])
def test_copies_are_found_and_others_are_not(change: Callable[[ImageArray], ImageArray]) -> None:
    images = [pattern(seed) for seed in range(20)]
    images.insert(5, change(images[13]))
    found = near_duplicates(np.stack([duplicate_thumbnail(image) for image in images]))
    assert list(np.flatnonzero(found)) == [5, 14]


def test_blank_images_are_duplicates_of_each_other_only() -> None:
    blank = np.full((64, 64), 80, np.uint8)
    thumbnails = np.stack([blank, duplicate_thumbnail(pattern(0)), blank + 9])
    assert near_duplicates(thumbnails).tolist() == [True, False, True]


def test_parts_that_lie_alike_are_no_duplicates_of_each_other() -> None:
    """A jig puts every part in one place: what they share by that is not counted."""
    outline, rng = pattern(0).astype(float), np.random.default_rng(0)
    parts = [
        np.clip(outline + 0.08 * (pattern(seed) - 128.0) + rng.normal(0, 3, outline.shape), 0, 255)
        for seed in range(1, 31)
    ]
    images = [part.astype(np.uint8) for part in parts]
    thumbnails = [duplicate_thumbnail(image) for image in images]
    every_pair = np.corrcoef(np.reshape(thumbnails, (30, -1)))
    assert every_pair.min() > 0.98
    assert not near_duplicates(np.stack(thumbnails)).any()
    thumbnails.append(duplicate_thumbnail(recompressed(images[7])))
    assert list(np.flatnonzero(near_duplicates(np.stack(thumbnails)))) == [7, 30]


def test_weaves_of_another_phase_are_no_duplicates(good_folder: Path) -> None:
    model = FRE(size=96).fit(good_folder)
    assert model.metadata["provenance"]["near_duplicates"] == 0


@pytest.mark.slow
def test_real_sets_are_as_measured(screws: Path, tiles: Path) -> None:
    for root, count in ((screws, 2), (tiles, 235)):
        thumbnails = []
        for path in sorted((root / "train" / "good").iterdir()):
            with Image.open(path) as image:
                small = image.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
            thumbnails.append(duplicate_thumbnail(np.asarray(small)))
        found = int(near_duplicates(np.stack(thumbnails)).sum())
        assert found == pytest.approx(count, rel=0.02)


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight parts, three shots of each that differ by a little noise."""
    folder = tmp_path_factory.mktemp("shots")
    for part in range(8):
        still = texture(part).astype(float)
        for shot in range(3):
            noise = np.random.default_rng(100 * part + shot).normal(0, 1, still.shape)
            image = np.clip(still + noise, 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / f"part{part}_{shot}.png")
    return folder


def test_groups_raise_what_copies_had_lowered(shots: Path) -> None:
    loose = FRE("efficientnet_lite0", preset="reference", size=96).fit(shots)
    rule = r"^(part\d+)_"
    grouped = FRE("efficientnet_lite0", preset="reference", size=96, group_by=rule).fit(shots)
    assert loose.metadata["provenance"]["near_duplicates"] == 24
    assert grouped.metadata["provenance"]["n_groups"] == 8
    assert grouped.metadata["provenance"]["group_by"] == r"^(part\d+)_"
    assert "near_duplicates" not in grouped.metadata["provenance"]
    assert np.median(grouped.calibration.scores) > 1.5 * np.median(loose.calibration.scores)
    # shots of a new part score as the grouped calibration says, not as the loose one does
    new = grouped.predict(texture(50)).score
    assert new > loose.calibration.scores.max()
    assert new < 1.5 * grouped.calibration.scores.max()


@pytest.mark.slow
def test_groups_set_the_scales_of_the_default_preset(shots: Path) -> None:
    loose = FRE(size=96).fit(shots)
    grouped = FRE(size=96, group_by=r"^(part\d+)_").fit(shots)
    new = texture(50)
    assert loose.predict(new).score > loose.calibration.scores.max()
    assert grouped.predict(new).score < grouped.calibration.scores.max()


def test_groups_follow_the_images_that_can_be_read(shots: Path, tmp_path: Path) -> None:
    for path in shots.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "part0_0.png").write_bytes(b"")
    (tmp_path / "part99_0.png").write_bytes(b"")
    rule = r"^(part\d+)_"
    model = FRE(size=96, group_by=rule).fit(tmp_path, skip_unreadable=True)
    rest = [path for path in sorted(shots.iterdir()) if path.name != "part0_0.png"]
    expected = FRE(size=96, group_by=rule).fit(rest)
    assert model.metadata["provenance"]["n_groups"] == 8
    np.testing.assert_allclose(model.calibration.scores, expected.calibration.scores, rtol=1e-5)


def test_arrays_have_no_groups() -> None:
    with pytest.raises(OptionError, match="arrays have none"):
        FRE(size=96, group_by="folder").fit([texture(seed) for seed in range(3)])
