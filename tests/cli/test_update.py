"""`fre update`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from commands import fre
from fitted_models import NEW, SIZE, detector, scores
from fre import load


def test_update_through_the_command_line(folders: Path, tmp_path: Path) -> None:
    out = tmp_path / "new.onnx"
    done = fre(
        "update", folders / "a.onnx", folders / "new", "-o", out, "--accept-anomalous",
        "--json", "-",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values["n_added"], values["n_images"]) == (4, 16)
    assert values["threshold"] == load(out).threshold
    assert values["previous_threshold"] == load(folders / "a.onnx").threshold
    words = fre("info", out).stdout
    assert "learns more" in words
    assert "updated or merged 1 time" in words
    same = load(folders / "a.onnx").update(folders / "new", accept_anomalous=True)
    np.testing.assert_array_equal(scores(same, NEW), scores(load(out), NEW))


def test_the_command_lists_anomalous_images_and_writes_nothing(
    folders: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new.onnx"
    done = fre("update", folders / "a.onnx", folders / "odd", "-o", out)
    assert done.returncode == 2
    assert done.stdout == ""
    listed, error = done.stderr.splitlines()
    assert listed.startswith(f"fre: anomalous: {folders / 'odd' / 'scratch.png'} (score ")
    assert error.startswith("fre: error: 1 of 1 images are anomalous to the model: ")
    assert "--accept-anomalous" in error
    assert list(tmp_path.iterdir()) == []
    accepted = fre("update", folders / "a.onnx", folders / "odd", "-o", out, "--accept-anomalous")
    assert accepted.returncode == 0
    assert "1 of them anomalous" in accepted.stdout


@pytest.mark.slow
def test_the_command_refuses_frozen_and_different_models(folders: Path, tmp_path: Path) -> None:
    frozen, small = tmp_path / "frozen.onnx", tmp_path / "small.onnx"
    done = fre("train", folders / "a", "-o", frozen, "--size", SIZE, "--frozen")
    assert done.returncode == 0, done.stderr
    assert "no: it is frozen" in fre("info", frozen).stdout
    refused = fre("update", frozen, folders / "new", "-o", tmp_path / "m.onnx")
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    assert line.startswith("fre: error: the model can't learn more")
    detector(size=96).fit(folders / "a").save(small)
    differ = fre("merge", folders / "a.onnx", small, "-o", tmp_path / "m.onnx")
    assert differ.returncode == 2
    assert "size (64 x 64 and 96 x 96)" in differ.stderr
    assert not (tmp_path / "m.onnx").exists()


def test_images_of_any_earlier_update_are_refused_by_name(folders: Path, tmp_path: Path) -> None:
    once, twice, again = (tmp_path / f"{name}.onnx" for name in ("once", "twice", "again"))
    take = ("--accept-anomalous",)
    assert fre("update", folders / "a.onnx", folders / "new", "-o", once, *take).returncode == 0
    assert fre("update", once, folders / "b", "-o", twice, *take).returncode == 0
    # The first training, then the first update: neither is the last step.
    for folder, number in (("a", 12), ("new", 4)):
        done = fre("update", twice, folders / folder, "-o", again, *take)
        assert done.returncode == 2
        assert f"the model has learnt these {number} images already" in done.stderr
    some = tmp_path / "some"
    some.mkdir()
    for source, name in ((folders / "a" / "3.png", "seen.png"), (folders / "odd", "")):
        for file in source.iterdir() if source.is_dir() else [source]:
            (some / (name or file.name)).write_bytes(file.read_bytes())
    done = fre("update", twice, some, "-o", again, *take)
    assert done.returncode == 2
    assert "the model has learnt 1 of these 2 images already: seen.png;" in done.stderr
    done = fre("merge", twice, folders / "b.onnx", "-o", again)
    assert done.returncode == 2
    assert "model 2 has learnt 12 of the same images as those before it: 12.png" in done.stderr
    assert not again.exists()
