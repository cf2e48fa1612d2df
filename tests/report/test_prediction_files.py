"""Maps and overlays as files."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fre.errors import FREWarning, ImageError, OptionError, OutputError
from fre.inference.prediction import Prediction
from fre.report.prediction_files import FolderWriter, encode_map, json_line, output_names
from fre.storage.listing import find_images

MAP = np.linspace(-2, 10, 12, dtype=np.float32).reshape(3, 4)


def test_float_formats_are_exact() -> None:
    npy = np.load(io.BytesIO(encode_map(MAP, "npy", (0, 1))))
    tiff = np.asarray(Image.open(io.BytesIO(encode_map(MAP, "tiff", (0, 1)))))
    for read in (npy, tiff):
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, MAP)


def test_png_is_16_bit_on_the_models_scale() -> None:
    read = np.asarray(Image.open(io.BytesIO(encode_map(MAP, "png", (0, 8))))).astype(int)
    np.testing.assert_array_equal(read, np.rint(np.clip(MAP / 8, 0, 1) * 65535).astype(int))
    with pytest.raises(OptionError, match="gif"):
        encode_map(MAP, "gif", (0, 1))


def predictions(folder: Path, *names: str) -> list[Prediction]:
    """Of black pictures, which are made."""
    found = []
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
        nothing = np.zeros((4, 4), np.float32)
        found.append(Prediction(path, 1.0, 0.5, False, (), (8, 8), nothing))
    return found


def written(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_files_are_written_under_their_names(tmp_path: Path) -> None:
    (made,) = predictions(tmp_path / "a", "x.png")
    with FolderWriter(tmp_path / "out", (0.0, 1.0), "npy", masks=True) as writer:
        writer.add(made, "b/x")
        files = writer.files("b/x")
    assert files == {"overlay": "overlays/b/x.png", "map": "maps/b/x.npy", "mask": "masks/b/x.png"}
    assert written(tmp_path / "out") == set(files.values())
    line = json.loads(json_line(made, files))
    assert [line[key] for key in ("overlay", "map", "mask")] == list(files.values())


def names(folder: Path, sources: list[str], *images: str | bytes) -> list[str]:
    """The names of images below a folder, whatever their order."""
    for source in sources:
        (folder / source).mkdir(parents=True, exist_ok=True)
    roots = [folder / source for source in sources]
    paths = [folder / os.fsdecode(image) for image in images]
    found = output_names(roots, paths)
    assert output_names(roots[::-1], paths[::-1]) == found[::-1]
    return found


def test_names_follow_the_folders(tmp_path: Path) -> None:
    assert names(tmp_path, ["a"], "a/x.png", "a/b/x.png") == ["x", "b/x"]
    cameras = ["cam1/day", "cam2/day"]
    images = [f"{camera}/part.png" for camera in cameras]
    assert names(tmp_path, cameras, *images) == ["cam1/day/part", "cam2/day/part"]
    paths = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.png"]
    assert output_names(paths, paths) == ["a/x", "b/x"]
    assert output_names(paths[:1], paths[:1]) == ["x"]
    assert names(tmp_path, ["a"], "a/x.png", "a/../a/x.png") == ["x", "x"]


def test_images_of_one_stem_keep_their_suffix(tmp_path: Path) -> None:
    found = names(tmp_path, ["a"], "a/x.png", "a/x.jpg", "a/x_2.png", "a/y", "a/x.jpg.bmp")
    assert found[0] == "x.png"
    assert re.fullmatch(r"x-[0-9a-f]{8}", found[1])
    assert found[2:] == ["x_2", "y", "x.jpg.bmp"]


def test_names_are_apart_on_disks_that_fold_them(tmp_path: Path) -> None:
    found = names(tmp_path, ["a"], "a/X.png", "a/x.png", "a/e\u0301.png", "a/\u00e9.png")
    folded = {unicodedata.normalize("NFC", name).casefold() for name in found}
    assert len(folded) == 4
    assert found[0].startswith("X-")
    # An overlay must not have the name of a folder of overlays.
    found = names(tmp_path, ["b"], "b/c.jpg", "b/c.png/d.jpg", "b/C.TIFF/d.jpg")
    assert found[0] == "c.jpg"
    assert len(set(found)) == 3


def test_names_fit_any_disk(tmp_path: Path) -> None:
    long = "n" * 251
    found = names(
        tmp_path, ["a"], f"a/{long}.png", f"a/{long}.jpg", b"a/caf\xe9.png", "a/" + "é" * 125
    )
    assert len(set(found)) == 4
    assert found[2] == "caf%E9"
    assert found[3] == "é" * 125
    for name in found:
        assert len(f"{name}.tiff".encode()) <= 255


def write(folder: Path, made: list[Prediction], interrupted: bool = False) -> None:
    with FolderWriter(folder, (0.0, 1.0), "npy") as writer:
        for prediction in made:
            assert prediction.path is not None
            writer.add(prediction, prediction.path.stem)
        if interrupted:
            raise KeyboardInterrupt


def test_what_goes_wrong_on_a_thread_is_raised(tmp_path: Path) -> None:
    made = predictions(tmp_path / "a", *(f"{index}.png" for index in range(30)))
    assert made[3].path is not None
    made[3].path.unlink()
    for some in (made, made[3:4]):
        with pytest.raises(ImageError, match=r"3\.png: no such file"):
            write(tmp_path / "out", some)
    assert f"overlays/{len(made) - 1}.png" not in written(tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="can't be written"):
        write(tmp_path / "file", made[:1])


def test_nothing_is_written_after_an_interruption(tmp_path: Path) -> None:
    made = predictions(tmp_path / "a", *(f"{index}.png" for index in range(8)))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", made, interrupted=True)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    time.sleep(0.1)
    assert not (tmp_path / "out").exists()


def test_results_are_not_taken_for_images(tmp_path: Path) -> None:
    """Only the folders beside the lines: a folder of images may have any name."""
    predictions(tmp_path, "1.png", "out/overlays/1.png", "out/masks/1.png", "out/own/2.png")
    predictions(tmp_path, "overlays/3.png")
    (tmp_path / "out" / "predictions.jsonl").touch()
    with pytest.warns(FREWarning, match=r"out: holds results of fre predict; masks, overlays in"):
        found = find_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "1.png",
        "out/own/2.png",
        "overlays/3.png",
    ]
    assert len(find_images(tmp_path / "out" / "overlays")) == 1
