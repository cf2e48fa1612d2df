"""Maps and overlays as files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fre.errors import OptionError
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


def test_names_follow_the_folders_and_never_collide(tmp_path: Path) -> None:
    writer = FolderWriter(tmp_path / "out", [tmp_path / "a"], (0.0, 1.0), "npy")
    paths = [tmp_path / "a" / "x.png", tmp_path / "a" / "b" / "x.png", tmp_path / "a" / "x.jpg"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
        prediction = Prediction(path, 1.0, 0.5, False, (), (8, 8), np.zeros((4, 4), np.float32))
        # the roots are looked at when the writer is made, and this one is there by then
        writer = (
            writer
            if writer.roots
            else FolderWriter(tmp_path / "out", [tmp_path / "a"], (0.0, 1.0), "npy")
        )
        writer.add(prediction)
    files = {f.relative_to(tmp_path / "out").as_posix() for f in (tmp_path / "out").rglob("*.*")}
    assert files == {
        *(f"overlays/{name}.png" for name in ("x", "b/x", "x_2")),
        *(f"maps/{name}.npy" for name in ("x", "b/x", "x_2")),
    }
