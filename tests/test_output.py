"""Maps and overlays as files."""

from __future__ import annotations

import io
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fre.errors import ImageError, OptionError, OutputError
from fre.output import FolderWriter, encode_map
from fre.types import Prediction

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


def test_names_follow_the_folders_and_never_collide(tmp_path: Path) -> None:
    made = predictions(tmp_path / "a", "x.png", "b/x.png", "x.jpg")
    with FolderWriter(tmp_path / "out", [tmp_path / "a"], (0.0, 1.0), "npy") as writer:
        for prediction in made:
            writer.add(prediction)
    assert written(tmp_path / "out") == {
        *(f"overlays/{name}.png" for name in ("x", "b/x", "x_2")),
        *(f"maps/{name}.npy" for name in ("x", "b/x", "x_2")),
    }


def write(folder: Path, made: list[Prediction], interrupted: bool = False) -> None:
    with FolderWriter(folder, [], (0.0, 1.0), "npy") as writer:
        for prediction in made:
            writer.add(prediction)
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
