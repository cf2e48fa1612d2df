"""Folders are listed whatever lies in them, and what is not read is counted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fre.errors import DatasetError
from fre.storage.listing import find_images, iter_images, left_out, left_out_note


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_every_documented_suffix_is_found_in_any_case(tmp_path: Path) -> None:
    suffixes = "png jpg jpeg jpe jfif bmp tif tiff webp ppm pgm pnm JFIF Png"
    names = [f"{index:02}.{end}" for index, end in enumerate(suffixes.split())]
    fill(tmp_path, *names, "a.txt", "b.gif", ".hidden.png")
    assert [path.name for path in find_images(tmp_path)] == names


def test_left_out_counts_images_that_are_not_read(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.gif", "sub/c.GIF", "sub/deep/d.heic", "e.txt", ".f.gif", "g", "gif")
    assert left_out(tmp_path) == {".gif": 2, ".heic": 1}
    note = left_out_note(left_out(tmp_path))
    assert note is not None
    assert note.startswith("3 files left out: 2 .gif, 1 .heic; fre reads .png, .jpg")
    assert left_out(tmp_path / "a.png") == left_out(tmp_path / "nowhere") == {}
    assert left_out_note({}) is None


def test_odd_entries_do_not_break_a_listing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fill(root, "z.png")
    (root / "dir.png").mkdir()
    for name, to in [
        ("self.png", "self.png"),
        ("self", "self"),
        ("up", "../root"),
        ("x.png", "none"),
    ]:
        (root / name).symlink_to(to)
    os.mkfifo(root / "pipe.png")
    # Reading them says what is wrong with each.
    names = [path.name for path in find_images(root)]
    assert names == ["pipe.png", "self.png", "x.png", "z.png"]
    assert left_out(root) == {}


def test_a_subfolder_that_vanishes_is_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "gone/b.png", "there/c.png")
    images = iter_images(tmp_path)
    assert next(images).name == "a.png"
    (tmp_path / "gone" / "b.png").unlink()
    (tmp_path / "gone").rmdir()
    assert [path.name for path in images] == ["c.png"]
    with pytest.raises(DatasetError, match="No such file"):
        find_images(tmp_path / "gone")


def test_predict_counts_what_it_leaves_out(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "b.gif", "c.heic")
    code = "import sys; from pathlib import Path; from fre.cli.common import note_left_out; "
    code += "note_left_out(Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    start = f"fre: {tmp_path}: 2 files left out: 1 .gif, 1 .heic; fre reads .png, "
    assert done.stderr.startswith(start)
