"""`fre threshold`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

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
    assert "50 % asked, false alarms to expect: 48 %" in done.stdout
    assert "      50 %" in done.stdout
    values = json.loads((tmp_path / "t.json").read_text())
    assert values["false_alarm_rate"] == 0.5
    assert values["expected_false_alarm_rate"] == pytest.approx(15 / 31)
    assert values["threshold"] < values["previous_threshold"]
    assert (values["n_above"], values["n_odd"], values["n_calibration"]) == (14, 0, 30)
    assert values["changed"]
    after = [json.loads(line) for line in fre("predict", own, images).stdout.splitlines()]
    for old, new in zip(before, after, strict=True):
        assert (old["score"], old["p_value"]) == (new["score"], new["p_value"])
        assert new["anomalous"] == (new["score"] > values["threshold"])
    assert "50 % asked" in fre("info", own).stdout


def test_a_threshold_by_hand_and_its_report(model: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "hand.onnx"
    original = model.read_bytes()
    done = fre("threshold", model, "-o", out, "--value", 1e9)
    assert done.returncode == 0, done.stderr
    assert "\n  false alarms to expect: 3.2 %\n" in done.stdout
    assert "<- this model" not in done.stdout
    assert model.read_bytes() == original
    info = fre("info", out).stdout
    assert "false alarms to expect: 3.2 %, threshold 1e+09 (by hand)" in info
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
    for options, found in (
        (["--max-f1"], 8),
        (["--recall", 0.5], 4),
        (["--max-miss-rate", 0.5], 4),
    ):
        done = fre("threshold", model, "-o", out, "--from-dataset", dataset, *options)
        assert done.returncode == 0, done.stderr
        assert f"{found} of 8 defects of {dataset.name} are found, with 0 of 8 f" in done.stdout
        assert "the figures are optimistic" in done.stdout
        assert f"on the known defects of {dataset.name}" in fre("info", out).stdout
    lines = fre("predict", out, dataset / "test" / "scratch").stdout.splitlines()
    assert sum(json.loads(line)["anomalous"] for line in lines) == 4


@pytest.fixture(scope="module")
def banded(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of good images with one odd image, which has a review band."""
    folder = tmp_path_factory.mktemp("odd")
    shutil.copytree(dataset / "train" / "good", folder / "good")
    shutil.copy(dataset / "test" / "scratch" / "100.png", folder / "good" / "odd.png")
    assert fre("train", folder / "good", "-o", folder / "m.onnx", "--size", 64).returncode == 0
    options = ("--false-alarm-rate", 0.05, "--review-rate", 0.2)
    assert fre("threshold", folder / "m.onnx", *options).returncode == 0
    return folder / "m.onnx"


def changed(model: Path, out: Path, *options: object) -> dict[str, Any]:
    done = fre("threshold", model, "-o", out, *options, "--json", "-")
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    assert values["changed"]
    return values


def test_without_a_choice_the_table_is_shown_and_nothing_changes(
    model: Path, dataset: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.onnx"
    shutil.copy(model, own)
    own.chmod(0o400)
    done = fre("threshold", own, "--json", tmp_path / "t.json")
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "t.json").read_text())
    assert not values["changed"]
    assert [row["rate"] for row in values["table"]] == [0.01, 0.02, 0.05, 0.1]
    assert [row["chosen"] for row in values["table"]] == [True, False, False, False]
    assert values["known_defects"] is None
    rows = done.stdout.splitlines()[-4:]
    assert [row.split()[0] for row in rows] == ["1", "2", "5", "10"]
    assert "<- this model  (takes 99 images to promise)" in rows[0]
    assert "this model" not in "".join(rows[1:])
    assert "(before: " not in done.stdout
    done = fre("threshold", own, "--from-dataset", dataset, "--json", tmp_path / "t.json")
    assert done.returncode == 0, done.stderr
    assert "8 of 8                0 of 8" in done.stdout
    assert "8 of 8 defects of" in done.stdout
    assert "optimistic" not in done.stdout
    values = json.loads((tmp_path / "t.json").read_text())
    assert values["known_defects"]["recall"] == 1
    assert values["table"][0]["false_alarm_rate_observed"] == 0
    assert own.read_bytes() == model.read_bytes()


def test_a_band_is_for_a_person_to_decide(banded: Path, dataset: Path, tmp_path: Path) -> None:
    values = json.loads(fre("threshold", banded, "--json", "-").stdout)
    assert values["false_alarm_rate"] == 0.05
    # 6 of 31 is the largest rate of at most 0.2: the band begins at the sixth score from above.
    scores = json.loads(fre("info", banded, "--json", "-").stdout)["calibration"]["scores"]
    assert values["review_threshold"] == scores[-1 - 6] < values["threshold"] == scores[-2]
    assert "\n  review above a score of " in fre("threshold", banded).stdout
    lines = fre("predict", banded, dataset / "train" / "good", dataset / "test").stdout.splitlines()
    for row in map(json.loads, lines):
        expected = "fail" if row["anomalous"] else "pass"
        if values["review_threshold"] < row["score"] <= values["threshold"]:
            expected = "review"
        assert row["decision"] == expected
    out = tmp_path / "m.onnx"
    by_value = changed(banded, out, "--review-value", -10)
    assert (by_value["review_threshold"], by_value["threshold"]) == (-10, values["threshold"])
    assert changed(banded, out, "--no-review")["review_threshold"] is None
    assert "decision" not in fre("predict", out, dataset / "test" / "good").stdout
    done = fre("threshold", banded, "-o", out, "--value", 5)
    assert "fre: the review band went with the old threshold" in done.stderr
    assert "review band" not in fre("threshold", out, "--no-review").stderr


def test_odd_images_count_when_they_are_kept(banded: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    before = json.loads(fre("threshold", banded, "--json", "-").stdout)
    assert (before["n_odd"], before["n_calibration"]) == (1, 31)
    assert before["odd_share"] == 1 / 31
    assert before["rate_of_others"] == 1 / 31
    assert before["expected_false_alarm_rate"] == pytest.approx(2 / 31)
    kept = changed(banded, out, "--keep-odd")
    assert (kept["n_odd"], kept["odd_share"]) == (0, 0)
    assert kept["threshold"] > before["threshold"]
    assert kept["false_alarm_rate"] == 0.05
    again = changed(out, out, "--set-odd-aside")
    assert (again["n_odd"], again["threshold"]) == (1, before["threshold"])
    by_hand = changed(banded, out, "--keep-odd", "--value", 3)
    assert (by_hand["n_odd"], by_hand["threshold"]) == (0, 3)


def test_a_threshold_by_hand_is_still_by_hand_with_a_band(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    changed(model, out, "--value", 9)
    changed(out, out, "--review-value", 3)
    assert (
        json.loads(fre("info", out, "--json", "-").stdout)["provenance"]["threshold"] == "by hand"
    )
    changed(out, out, "--false-alarm-rate", 0.1)
    assert "threshold" not in json.loads(fre("info", out, "--json", "-").stdout)["provenance"]


def test_threshold_refuses_what_makes_no_sense(model: Path, dataset: Path, tmp_path: Path) -> None:
    original = model.read_bytes()
    assert "-o has no effect without a choice" in refused("threshold", model, "-o", tmp_path / "m")
    for one, other in (
        (["--review-rate", 0.1], ["--no-review"]),
        (["--review-rate", 0.1], ["--review-value", 0.1]),
        (["--keep-odd"], ["--set-odd-aside"]),
    ):
        assert f"give one of {one[0]} and {other[0]}" in refused("threshold", model, *one, *other)
    assert "--good goes with" in refused("threshold", model, "--good", "x")
    assert "below the threshold" in refused("threshold", model, "--review-value", 1e9)
    assert "false-alarm rate" in refused("threshold", model, "--review-rate", 2)
    assert "give one of" in refused("threshold", model, "--value", 1, "--false-alarm-rate", 0.1)
    for rule in (["--max-f1"], ["--recall", 0.5], ["--max-miss-rate", 0.1]):
        assert f"{rule[0]} goes with --from-dataset" in refused("threshold", model, *rule)
        assert "give one of" in refused(
            "threshold", model, "--from-dataset", dataset, *rule, "--value", 1
        )
    assert "give one of --max-f1 and --recall" in refused(
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
