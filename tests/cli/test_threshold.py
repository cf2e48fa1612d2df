"""`fre threshold`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from commands import fre, refused


def test_threshold_changes_the_decision_only(model: Path, dataset: Path, tmp_path: Path) -> None:
    images = dataset / "test" / "good"
    before = [json.loads(line) for line in fre("predict", model, images).stdout.splitlines()]
    own = tmp_path / "own.onnx"
    shutil.copy(model, own)
    done = fre("threshold", own, "--false-alarm-rate", 0.5, "--json", tmp_path / "t.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "14 of 30 good images score above it" in done.stdout
    values = json.loads((tmp_path / "t.json").read_text())
    assert values["false_alarm_rate"] == 0.5
    assert values["expected_false_alarm_rate"] == pytest.approx(15 / 31)
    assert values["threshold"] < values["previous_threshold"]
    assert values["pixel_threshold"] < values["previous_pixel_threshold"]
    after = [json.loads(line) for line in fre("predict", own, images).stdout.splitlines()]
    for old, new in zip(before, after, strict=True):
        assert (old["score"], old["p_value"]) == (new["score"], new["p_value"])
        assert new["anomalous"] == (new["score"] > values["threshold"])
    assert "false-alarm rate 0.5" in fre("info", own).stdout


def test_a_threshold_by_hand_and_its_report(model: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "hand.onnx"
    original = model.read_bytes()
    done = fre("threshold", model, "-o", out, "--value", 1e9)
    assert done.returncode == 0, done.stderr
    assert "expected false-alarm rate 0.0323: 0 of 30 good images" in done.stdout
    assert model.read_bytes() == original
    info = fre("info", out).stdout
    assert "expected false-alarm rate 0.0323, threshold 1e+09 (by hand)" in info
    values = json.loads(fre("info", out, "--json", "-").stdout)
    assert values["calibration"]["false_alarm_rate"] is None
    report = tmp_path / "hand.html"
    done = fre("evaluate", out, dataset, "--report", report)
    assert done.returncode == 0, done.stderr
    assert '<p class="caution">The threshold was set by hand' in report.read_text()
    # with the evaluated decision it is as bad as it must be: no alarm at all
    assert "false-alarm rate observed   0.000   0.000 to" in done.stdout


def test_a_threshold_keeps_the_link_and_the_mode_of_the_model(model: Path, tmp_path: Path) -> None:
    private, link = tmp_path / "private.onnx", tmp_path / "link.onnx"
    shutil.copy(model, private)
    private.chmod(0o600)
    link.symlink_to(private)
    done = fre("threshold", link, "--value", 5)
    assert done.returncode == 0, done.stderr
    assert link.is_symlink()
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.read_bytes() != model.read_bytes()


def test_a_threshold_from_known_defects(model: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "known.onnx"
    for options, figure in ((["--max-f1"], "F1 1.000"), (["--recall", 0.5], "recall 0.500")):
        done = fre("threshold", model, "-o", out, "--from-dataset", dataset, *options)
        assert done.returncode == 0, done.stderr
        assert f"8 good, 8 defective; {figure}, 0 false alarms" in done.stdout
        assert "known defects" in fre("info", out).stdout
    lines = fre("predict", out, dataset / "test" / "scratch").stdout.splitlines()
    assert sum(json.loads(line)["anomalous"] for line in lines) == 4


def test_threshold_refuses_what_makes_no_sense(model: Path, dataset: Path, tmp_path: Path) -> None:
    original = model.read_bytes()
    assert "give one of" in refused("threshold", model)
    assert "give one of" in refused("threshold", model, "--value", 1, "--false-alarm-rate", 0.1)
    assert "goes with one of" in refused("threshold", model, "--from-dataset", dataset)
    assert "goes with one of" in refused("threshold", model, "--value", 1, "--max-f1")
    assert "goes with one of" in refused(
        "threshold", model, "--from-dataset", dataset, "--max-f1", "--recall", 1
    )
    assert "false-alarm rate" in refused("threshold", model, "--false-alarm-rate", 1.5)
    assert "finite" in refused("threshold", model, "--value", "nan")
    assert "recall" in refused("threshold", model, "--from-dataset", dataset, "--recall", 2)
    assert "no test images" in refused(
        "threshold", model, "--from-dataset", dataset / "train" / "good", "--max-f1"
    )
    assert "can't be written" in refused(
        "threshold", model, "-o", tmp_path / "absent" / "m.onnx", "--value", 1
    )
    assert "absent.onnx" in refused("threshold", tmp_path / "absent.onnx", "--value", 1)
    assert model.read_bytes() == original
