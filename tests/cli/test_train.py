"""`fre train`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import fre, refused
from conftest import texture
from fre import load


def test_train_reports_in_words_and_as_json(dataset: Path, tmp_path: Path) -> None:
    done = fre("train", dataset, "-o", tmp_path / "m.onnx", "--size", "96", "--json", "-")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["model"] == str(tmp_path / "m.onnx")
    assert values["n_images"] == 30
    assert list(values["seconds"]) == ["total", "features", "fit"]
    assert values["images_per_second"] > 0
    layers = {(layer["name"], layer["scope"]): layer for layer in values["layers"]}
    assert list(layers) == [
        ("blocks.2", "position"),
        ("blocks.4", "position"),
        ("blocks.5", "image"),
        ("blocks.4", "image"),
    ]
    assert layers["blocks.4", "image"]["dimension"] == 112 * 9
    assert layers["blocks.4", "image"]["rank"] <= 29
    assert all(layer["kept_variance"] >= 0.97 for layer in layers.values())
    assert values["threshold"] > 0
    assert done.stderr.startswith("fre: 30 good images can't promise a false-alarm rate of 0.01")
    reference = ["--preset", "reference", "--backbone", "efficientnet_lite0", "--set", "rank=5"]
    words = fre("train", dataset, "-o", tmp_path / "m.onnx", "--size", "96x64", *reference)
    lines = words.stdout.splitlines()
    assert "from 30 good images in" in lines[0]
    assert lines[2] == "  input: 96 x 64 pixels (height x width), images stretched"
    assert not [line for line in lines if "dimensions" in line]
    output = tmp_path / "m.onnx"
    assert lines[-2:] == [
        f"next: fre predict {output} IMAGES -o results",
        f"      fre evaluate {output} {dataset}",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_folders_that_mean_defects_or_masks_are_not_learnt(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    scratch = dataset / "test" / "scratch"
    error = refused("train", scratch, "-o", output)
    assert "8 images taken as defective" in error
    assert "--good scratch" in error
    for folder in ("A", "B"):
        shutil.copytree(scratch, tmp_path / "ask" / folder)
    assert "A (8 images), B (8 images)" in refused("train", tmp_path / "ask", "-o", output)
    assert not output.exists()


def test_train_says_what_is_odd_about_a_folder(dataset: Path, tmp_path: Path) -> None:
    for kind in ("good", "scratch"):
        shutil.copytree(dataset / "test" / kind, tmp_path / "plain" / kind)
    done = fre("train", tmp_path / "plain", "-o", tmp_path / "m.onnx", "--size", 64, "--json", "-")
    assert done.returncode == 0
    assert "are kept for testing" in done.stderr
    values = json.loads(done.stdout)
    assert values["n_images"] < 8
    assert values["dataset"]["n_train"] == values["n_images"]
    assert values["dataset"]["kinds"] == {"scratch": 8}


def test_an_unreadable_image_in_training(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "good"
    shutil.copytree(dataset / "train" / "good", folder)
    bad = folder / "15.png"
    bad.write_bytes(bad.read_bytes()[:2000])
    output = tmp_path / "m.onnx"
    empty = folder / "20.png"
    content = empty.read_bytes()
    empty.write_bytes(b"")
    error = refused("train", folder, "-o", output, "--size", 64)
    assert str(bad) in error
    assert f"{empty} can't be read, either; leave such images out with --skip-unreadable" in error
    empty.write_bytes(content)
    assert not output.exists()
    done = fre("train", folder, "-o", output, "--size", 64, "--skip-unreadable", "--json", "-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["n_images"] == 29
    assert json.loads(done.stdout)["n_skipped"] == 1
    assert f"left out: {bad}" in done.stderr


def test_training_mistakes(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "m.onnx"
    output.parent.mkdir()

    def train(data: Path, *options: object) -> str:
        message = refused("train", data, "-o", output, *options)
        assert not list(output.parent.iterdir())
        return message

    empty, text, one = (tmp_path / name for name in ("empty", "text", "one"))
    for folder in (empty, text, one):
        folder.mkdir()
    (text / "a.txt").write_text("no image")
    (text / "b.png").write_text("no image, whatever its name")
    Image.fromarray(texture(0)).save(one / "x.png")
    good = dataset / "train" / "good"
    assert f"{empty}: no images" in train(empty)
    assert "no such folder" in train(tmp_path / "nowhere")
    assert "3 good images or more, found 1" in train(one)
    for name in ("c.png", "d.png"):
        (text / name).write_text("neither this")
    assert "not a readable image" in train(text)
    (text / "b.png").unlink()
    (text / "c.png").unlink()
    (text / "d.png").unlink()
    assert f"{text}: no images" in train(text)
    reference = ["--preset", "reference", "--backbone", "efficientnet_lite0"]
    assert "span 29 dimensions" in train(good, *reference, "--set", "rank=500", "--size", 64)
    assert "top has no effect with the reference preset" in train(
        good, *reference, "--set", "top=0.1"
    )
    assert "no such mask" in train(good, "--roi", tmp_path / "nowhere.png")
    assert "expected a whole number" in train(good, "--set", "pool=two")
    assert "no backbone is called 'resnet0'" in train(good, "--backbone", "resnet0")
    assert "efficientnet_lite0" in train(good, "--backbone", "resnet0")
    assert "choose from: blocks.0" in train(good, "--layers", "layer9")
    assert "expected 256 or HxW" in train(good, "--size", "big")
    assert "variance" in train(good, "--set", "variance=2")
    assert "false-alarm rate" in train(good, "--false-alarm-rate", 0)
    assert "pool must be" in train(good, "--set", "pool=50")
    assert "--nonsense" in train(good, "--nonsense")


@pytest.fixture
def mixed(dataset: Path, tmp_path: Path) -> Path:
    """Twenty good images in two folders with equal names, and a scratched one."""
    for seed in range(20):
        folder = tmp_path / "data" / ("a" if seed < 10 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(dataset / "train" / "good" / f"{seed}.png", folder / f"{seed % 10}.png")
    shutil.copy(dataset / "test" / "scratch" / "100.png", tmp_path / "data" / "a" / "odd.png")
    return tmp_path / "data"


SMALL = ("--size", 64, "--good", "a", "--good", "b")


def trained(data: Path, *options: object) -> tuple[dict[str, Any], str, str]:
    """Train beside the data: the JSON, the words and the notes."""
    out = data.parent / "m.onnx"
    done = fre("train", data, "-o", out, *SMALL, "--json", out.with_suffix(".json"), *options)
    assert done.returncode == 0, done.stderr
    return json.loads(out.with_suffix(".json").read_text()), done.stdout, done.stderr


def test_train_names_odd_images_and_what_to_do(mixed: Path) -> None:
    review = mixed.parent / "review"
    values, words, notes = trained(mixed, "--review", review, "--false-alarm-rate", 0.05)
    (odd,) = values["odd"]
    assert odd["name"] == "a/odd.png"
    assert odd["score"] > values["threshold"]
    assert values["without"] == []
    assert values["odd_share"] == 1 / 21
    assert values["rate_of_others"] == 1 / 21
    assert values["expected_false_alarm_rate"] == pytest.approx(2 / 21)
    assert [row["rate"] for row in values["false_alarms"]] == [0.01, 0.02, 0.05, 0.1]
    assert values["false_alarms"][2]["threshold"] == values["threshold"]
    lines = words.splitlines()
    (at,) = [place for place, line in enumerate(lines) if "set aside for the threshold" in line]
    assert lines[at].startswith("  1 odd image, ")
    assert f"(the next score is {values['threshold']:.3g})" in lines[at]
    assert lines[at + 1].split() == [f"{odd['score']:.3g}", "a/odd.png"]
    assert "--without-odd" in lines[at + 2]
    assert "--keep-odd" in lines[at + 3]
    assert "4.8 % of ordinary good images and 4.8 % as odd as those set aside" in words
    assert [path.name for path in (review / "overlays").iterdir()] == ["001-odd.png"]
    assert f"overlays of 1 odd images are in {review / 'overlays'}" in notes


def test_train_without_odd_images_is_training_on_the_others(mixed: Path) -> None:
    review, model = mixed.parent / "review", mixed.parent / "m.onnx"
    values, words, notes = trained(mixed, "--without-odd", "--review", review)
    assert (values["n_images"], values["odd"], values["without"]) == (20, [], ["a/odd.png"])
    assert "  left out: a/odd.png" in words
    assert "odd image" not in words
    assert f"no odd images: nothing is written to {review}" in notes
    assert not review.exists()
    assert not model.with_name("m.onnx.partial").exists()
    again = load(model)
    named, _, _ = trained(mixed, "--without", "odd.png")
    assert (named["n_images"], named["without"]) == (20, ["a/odd.png"])
    assert load(model).training_images.digests == again.training_images.digests
    np.testing.assert_array_equal(load(model).calibration.scores, again.calibration.scores)


def test_train_keeps_odd_images_if_asked(mixed: Path) -> None:
    values, _, _ = trained(mixed)
    kept, words, _ = trained(mixed, "--keep-odd")
    assert kept["threshold"] == values["odd"][0]["score"] > values["threshold"]
    assert (kept["odd"], kept["odd_share"]) == ([], 0)
    assert "odd image" not in words
    assert load(mixed.parent / "m.onnx").calibration.keep_odd


def test_images_to_leave_out_are_told_apart(mixed: Path) -> None:
    output = mixed.parent / "m.onnx"

    def train(*options: object) -> str:
        return refused("train", mixed, "-o", output, *SMALL, *options)

    assert "--without zz.png: no training image of" in train("--without", "zz.png")
    assert "close: odd.png" in train("--without", "add.png")
    error = train("--without", "3.png")
    assert "2 training images of" in error
    assert str(mixed / "a" / "3.png") in error
    assert "give the path" in error
    assert "exclude each other" in train("--keep-odd", "--without-odd")
    assert not output.exists()
    paths = ("--without", "a/3.png", "--without", mixed / "b" / "3.png")
    assert trained(mixed, *paths)[0]["without"] == ["a/3.png", "b/3.png"]


@pytest.mark.slow
def test_train_names_near_duplicates_unless_they_are_grouped(tmp_path: Path) -> None:
    folder = tmp_path / "good"
    folder.mkdir()
    for part in range(6):
        for shot in ("a", "b"):
            Image.fromarray(texture(part) + (shot == "b")).save(folder / f"{part}{shot}.png")
    command = ("train", folder, "-o", tmp_path / "m.onnx", "--size", 96, "--false-alarm-rate", 0.1)
    done = fre(*command)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("fre: 12 of 12 images have a near-duplicate")
    done = fre(*command, "--group-by", r"^(\d+)")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "all 12 images are of one group, 'good'" in refused(*command, "--group-by", "folder")
    assert "no regular expression" in refused(*command, "--group-by", "(")
