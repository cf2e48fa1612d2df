"""`fre predict`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import FRE, fre, refused


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_predict_prints_a_line_for_each_image(model: Path, dataset: Path) -> None:
    done = fre("predict", model, dataset / "test" / "scratch", dataset / "test" / "good")
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 16
    assert list(lines[0]) == ["path", "score", "p_value", "anomalous", "regions"]
    assert all(line["anomalous"] and line["regions"] for line in lines[:8])
    assert not any(line["anomalous"] for line in lines[8:])
    assert "8 of 16 images anomalous" in done.stderr


def test_predict_writes_overlays_maps_and_lines(model: Path, dataset: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    scratch = picture(dataset / "test" / "scratch" / "100.png")
    Image.fromarray(scratch).resize((640, 480)).save(large)
    for form in ("tiff", "npy", "png"):
        out = tmp_path / form
        done = fre("predict", model, large, "-o", out, "--maps", form)
        assert done.returncode == 0, done.stderr
        lines = (out / "predictions.jsonl").read_text()
        assert lines == done.stdout
        assert picture(out / "overlays" / "large.png").shape == (480, 640, 3)
        file = out / "maps" / f"large.{form}"
        values = np.load(file) if form == "npy" else picture(file)
        assert values.shape == (480, 640)
        assert values.dtype == (np.uint16 if form == "png" else np.float32)
    assert "not empty" in refused("predict", model, large, "-o", tmp_path / "npy")
    assert fre("predict", model, large, "-o", tmp_path / "npy", "--overwrite").returncode == 0
    assert not (tmp_path / "npy" / "maps").exists()
    assert "--maps needs" in refused("predict", model, large, "--maps", "npy")


def test_predict_names_each_image_s_files(model: Path, dataset: Path, tmp_path: Path) -> None:
    """Equal stems, names that are not Unicode, and earlier results among the images."""
    folder = tmp_path / "parts"
    (folder / "day").mkdir(parents=True)
    scratch = dataset / "test" / "scratch" / "100.png"
    odd = os.fsdecode(b"day/caf\xe9.png")
    for name in ("day/part.png", odd, f"day/{'n' * 251}.png"):
        shutil.copy(scratch, folder / name)
    with Image.open(scratch) as image:
        image.resize((80, 60)).save(folder / "day" / "part.jpg")
    command = ("predict", model, folder, "-o", folder / "out", "--masks", "--maps", "png")
    done = fre(*command)
    assert done.returncode == 0, done.stderr
    text = (folder / "out" / "predictions.jsonl").read_bytes()
    assert text == done.stdout.encode()
    lines = {json.loads(line)["path"]: json.loads(line) for line in text.splitlines()}
    assert set(lines) == {str(path) for path in (folder / "day").iterdir()}
    for path, line in lines.items():
        with Image.open(path) as image:
            for key in ("overlay", "map", "mask"):
                with Image.open(folder / "out" / line[key]) as made:
                    assert made.size == image.size
    assert lines[str(folder / odd)]["mask"] == "masks/day/caf%E9.png"
    again = fre(*command, "--overwrite")
    assert again.stdout == done.stdout
    assert f"{folder / 'out'}: holds results of fre predict" in again.stderr


def test_overlays_have_one_scale(model: Path, dataset: Path, tmp_path: Path) -> None:
    """A good image stays as it is; a defect is coloured. Per-image scaling would colour both."""
    good, bad = (dataset / "test" / kind / "100.png" for kind in ("good", "scratch"))
    assert fre("predict", model, good, "-o", tmp_path / "g").returncode == 0
    assert fre("predict", model, bad, "-o", tmp_path / "b").returncode == 0
    changed = {}
    for image, out in ((good, "g"), (bad, "b")):
        overlay = picture(tmp_path / out / "overlays" / "100.png").astype(int)
        changed[out] = np.abs(overlay - picture(image)).max()
    assert changed["b"] > 100
    assert changed["g"] < 60


def test_predict_json_goes_to_a_file(model: Path, dataset: Path, tmp_path: Path) -> None:
    done = fre("predict", model, dataset / "test" / "good", "--json", tmp_path / "p.jsonl")
    assert done.stdout == ""
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 8


def test_predict_survives_the_end_of_its_reader(model: Path, dataset: Path, tmp_path: Path) -> None:
    command = [*FRE, "predict", str(model), str(dataset / "train"), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr
    assert "Traceback" not in process.stderr.read()
    assert process.wait() == 0
    process.stderr.close()
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 30


def test_an_unreadable_image_in_prediction(model: Path, dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(dataset / "test" / "good", folder)
    bad = folder / "103.png"
    bad.write_bytes(bad.read_bytes()[:2000])
    done = fre("predict", model, folder, "-o", tmp_path / "out")
    assert done.returncode == 2
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 8
    assert list(lines[3]) == ["path", "error"]
    assert lines[3]["path"] == str(bad)
    clean = fre("predict", model, dataset / "test" / "good").stdout.splitlines()
    for line, expected in zip(lines, map(json.loads, clean), strict=True):
        if "error" not in line:
            assert line["score"] == pytest.approx(expected["score"], rel=1e-4)
    assert "1 could not be read" in done.stderr
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 7


def test_predict_reads_a_list(model: Path, dataset: Path, tmp_path: Path) -> None:
    images = sorted((dataset / "test" / "good").iterdir())[:2]
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{image}\n" for image in images))
    done = fre("predict", model, listed)
    assert done.returncode == 0, done.stderr
    paths = [json.loads(line)["path"] for line in done.stdout.splitlines()]
    assert paths == list(map(str, images))
    listed.write_text("gone.png\n")
    assert "list.txt, line 1: no such image" in refused("predict", model, listed)
