"""Odd training images: named by the model, found among the files, left out by name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import texture
from fitted_models import defective, detector, scores
from fre import Model, load, merge_models
from fre.errors import OptionError
from fre.images.loading import source_digest
from fre.inference.training_images import OddImage
from fre.training.odd import left_out, odd_files


def written(folder: Path, seeds: Sequence[int], odd: Sequence[str] = ()) -> Path:
    """Good images named by their seeds, and some with a defect."""
    folder.mkdir(parents=True)
    for seed in seeds:
        Image.fromarray(texture(seed)).save(folder / f"{seed:03}.png")
    for name in odd:
        Image.fromarray(defective(texture(len(seeds) + 900))).save(folder / name)
    return folder


def assert_listed(model: Model, odd: list[str], n: int, scored: int | None = None) -> None:
    """The list in the file has all images, and the scores of the calibration."""
    images = model.training_images
    known = images.scores[~np.isnan(images.scores)]
    assert (len(images), len(known)) == (n, n if scored is None else scored)
    np.testing.assert_array_equal(np.sort(known), model.calibration.scores.astype(np.float32))
    assert sorted(image.name for image in model.odd_images) == odd
    assert [image.score for image in model.odd_images] == sorted(
        model.calibration.scores[len(known) - len(odd) :], reverse=True
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"memory": 1e-6},
        {"frozen": True},
        {"preset": "reference"},
        {"size": None, "tile": 64, "overlap": 32, "per_tile": True},
    ],
    ids=str,
)
def test_the_odd_image_is_named(tmp_path: Path, parameters: dict[str, Any]) -> None:
    folder = written(tmp_path / "good", range(14), ["007_odd.png"])
    model = load(detector(**parameters).fit(folder).save(tmp_path / "m.onnx"))
    assert_listed(model, ["007_odd.png"], 15)
    files = sorted(folder.iterdir())
    assert list(model.training_images.names) == [file.name for file in files]
    assert [digest.hex() for digest in model.training_images.digests] == [
        source_digest(file)[:16] for file in files
    ]
    assert odd_files(model.odd_images, files) == [folder / "007_odd.png"]


def test_scores_stand_by_their_images(tmp_path: Path) -> None:
    """Held in memory or streamed, an image has about the same held-out score."""
    folder = written(tmp_path / "good", range(20), ["010_odd.png"])
    held, streamed = (
        detector(memory=memory).fit(folder).training_images.scores for memory in (2, 1e-6)
    )
    assert np.corrcoef(np.argsort(np.argsort(held)), np.argsort(np.argsort(streamed)))[0, 1] > 0.7


def test_beyond_the_capacity_most_images_have_no_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fre.training.streamed.CALIBRATION_ROWS", 32)
    folder = written(tmp_path / "good", range(39), ["000_odd.png"])
    model = detector("reference", memory=1e-6).fit(folder)
    assert_listed(model, ["000_odd.png"], 40, scored=32)
    assert not np.isnan(model.training_images.scores[[0, -1]]).any()


def test_updates_keep_names_and_scores(tmp_path: Path) -> None:
    model = detector().fit(written(tmp_path / "good", range(14), ["007_odd.png"]))
    new = written(tmp_path / "new", range(50, 75), ["060_new.png"])
    grown = load(model.update(new, accept_anomalous=True).save(tmp_path / "grown.onnx"))
    assert_listed(grown, ["007_odd.png", "060_new.png"], 41)
    names = list(grown.training_images.names)
    assert names[:15] == list(model.training_images.names)
    assert names[15:] == sorted(file.name for file in new.iterdir())
    kept = model.with_calibration(model.calibration.with_odd(keep=True))
    assert kept.odd_images == []
    again = kept.update(new, accept_anomalous=True)
    assert again.calibration.keep_odd
    assert_listed(again, [], 41)
    np.testing.assert_array_equal(again.training_images.scores, grown.training_images.scores)


def test_merges_keep_names_and_scores(tmp_path: Path) -> None:
    first = detector().fit(written(tmp_path / "first", range(14), ["007_odd.png"]))
    second = detector().fit(written(tmp_path / "second", range(20, 45), ["030_odd.png"]))
    merged = load(merge_models(first, second).save(tmp_path / "merged.onnx"))
    assert_listed(merged, ["007_odd.png", "030_odd.png"], 41)
    assert merged.training_images.names == (
        *first.training_images.names,
        *second.training_images.names,
    )


def test_only_so_many_scores_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fre.training.fitted.KEPT_ROWS", 33)
    images = [texture(seed, (64, 64)) for seed in range(40)]
    images[0] = defective(images[0])
    model = detector("reference").fit(images)
    assert_listed(model, ["image 0"], 40)
    grown = model.update([texture(seed, (64, 64)) for seed in range(50, 54)], accept_anomalous=True)
    images_of = grown.training_images
    known = np.flatnonzero(~np.isnan(images_of.scores))
    assert (len(images_of), len(known)) == (44, len(grown.calibration.scores))
    np.testing.assert_array_equal(
        np.sort(images_of.scores[known]), grown.calibration.scores.astype(np.float32)
    )


def test_odd_images_do_not_hide_defects(tmp_path: Path) -> None:
    """The threshold is that of the others, and finds the fault that was mixed in."""
    folder = written(tmp_path / "good", range(24), ["odd.png"])
    model = detector().fit(folder)
    bad = [defective(texture(seed)) for seed in range(300, 304)]
    assert scores(model, bad).min() > model.threshold
    assert model.threshold < model.odd_images[0].score
    kept = model.calibration.with_odd(keep=True)
    assert kept.threshold == model.odd_images[0].score
    assert kept.pixel_threshold == model.calibration.pixel_threshold


def test_files_of_one_name_are_told_apart_by_their_content(tmp_path: Path) -> None:
    for place, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        Image.fromarray(texture(place)).save(tmp_path / name / "1.png")
    files = [tmp_path / name / "1.png" for name in "abc"]

    def odd(file: Path) -> OddImage:
        return OddImage("1.png", 5.0, source_digest(file)[:16])

    assert odd_files([odd(files[2]), odd(files[0])], files) == [files[2], files[0]]
    assert odd_files([OddImage("1.png", 5.0, "0" * 16)], files) == []
    shutil.copy(files[1], tmp_path / "copy.png")
    assert odd_files([odd(files[1])], [tmp_path / "copy.png", *files]) == [files[1]]


def test_images_are_left_out_by_name_or_path(tmp_path: Path) -> None:
    images = [tmp_path / name for name in ("a/1.png", "a/2.png", "b/1.png", "part_07.png")]
    assert left_out([], images, tmp_path) == []
    assert left_out(["2.png", "b/1.png"], images, tmp_path) == [images[1], images[2]]
    assert left_out([str(images[0])], images, tmp_path) == [images[0]]
    with pytest.raises(OptionError, match=r"2 training images .* such as .*a/1\.png and .*b/1\."):
        left_out(["1.png"], images, tmp_path)
    with pytest.raises(OptionError, match=r"--without part_7\.png: no .*; close: part_07\.png$"):
        left_out(["part_7.png"], images, tmp_path)
    with pytest.raises(OptionError, match=r"no training image of .* has this name$"):
        left_out(["zzzzzzzz"], images, tmp_path)
