"""`fre merge`."""

from __future__ import annotations

import json
from pathlib import Path

from commands import fre
from conftest import texture
from fitted_models import detector
from fre import load


def test_merge_through_the_command_line(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.onnx"
    done = fre("merge", folders / "a.onnx", folders / "b.onnx", "-o", out, "--json", "-")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values["n_models"], values["n_images"]) == (2, 24)
    assert load(out).threshold == values["threshold"]
    assert "few of all images" not in done.stderr
    more = [
        detector().fit(map(texture, range(first, first + 12))).save(tmp_path / f"{first}.onnx")
        for first in (60, 80)
    ]
    four = fre("merge", folders / "a.onnx", folders / "b.onnx", *more, "-o", out)
    assert "few of all images" in four.stderr
    one = fre("merge", folders / "a.onnx", "-o", out)
    assert one.returncode == 2
    assert "2 models or more" in one.stderr
