"""`fre evaluate`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from commands import FRE, fre, refused


def test_nothing_is_lost_if_nobody_reads_the_figures(
    model: Path, dataset: Path, tmp_path: Path
) -> None:
    figures, report = tmp_path / "e.json", tmp_path / "e.html"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*FRE, "evaluate", str(model), str(dataset), "--json", figures, "--report", report],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(figures.read_text())["n_good"]
    assert report.exists()


def test_evaluate(model: Path, dataset: Path, tmp_path: Path) -> None:
    done = fre(
        "evaluate", model, dataset, "--json", tmp_path / "e.json", "--report", tmp_path / "e.html"
    )
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "e.json").read_text())
    assert list(values) == [
        "image_auroc",
        "image_aupr",
        "image_f1",
        "f1",
        "recall",
        "precision",
        "confusion",
        "recall_by_kind",
        "pixel_auroc",
        "pixel_f1",
        "aupro",
        "n_good",
        "n_defect",
        "false_alarm_rate_observed",
        "images_per_second",
        "aupimo",
        "region_f1",
        "region_iou",
        "region_touch_rate",
        "threshold",
        "false_alarm_rate",
        "in_review",
        "trained_on",
        "intervals",
        "kinds",
        "n_masks",
        "n_unreadable",
        "unreadable",
        "reasons",
        "notes",
    ]
    assert (values["kinds"], values["n_masks"], values["n_unreadable"]) == ({"scratch": 8}, 8, 0)
    assert (values["reasons"], values["notes"]) == ({}, [])
    assert "8 good and 8 defective images (scratch 8), 8 masks" in done.stdout
    starts = ("image", "pixel", "aupro", "aupim", "regio", "f1")
    figures = {name for name in values if name[:5] in starts} - {"images_per_second"}
    figures |= {"recall", "precision", "false_alarm_rate_observed"}
    assert set(values["intervals"]) == figures
    counts = values["confusion"]
    assert counts["tp"] + counts["fn"] == counts["fp"] + counts["tn"] == 8
    assert values["recall"] == counts["tp"] / 8 == values["recall_by_kind"]["scratch"]
    assert values["false_alarm_rate_observed"] == counts["fp"] / 8
    assert values["region_touch_rate"] == 1
    assert 0 < values["region_iou"] < values["region_f1"] <= values["pixel_f1"]
    assert values["in_review"] is None
    assert values["trained_on"] == []
    assert done.stdout.startswith(
        f"found {counts['tp']} of 8 defects ({100 * counts['tp'] / 8:.0f} %), "
        f"{counts['fp']} of 8 false alarms, at threshold {values['threshold']:.3g} (1 % asked)\n"
        f"  scratch  {counts['tp']} of 8"
    )
    for name, (low, high) in values["intervals"].items():
        assert 0 <= low <= values[name] + 1e-3
        assert values[name] - 1e-3 <= high <= 1
        assert f"{low:.3f} to {high:.3f}" in done.stdout
    assert values["image_auroc"] == values["image_aupr"] == values["image_f1"] == 1
    assert values["pixel_auroc"] > 0.9
    assert values["aupimo"] > 0.9
    assert (values["n_good"], values["n_defect"]) == (8, 8)
    assert "1.000" in done.stdout
    html = (tmp_path / "e.html").read_text()
    assert "weave" in html
    assert '<p class="caution">' not in html


def test_the_report_says_when_the_threshold_is_from_known_defects(
    model: Path, dataset: Path, tmp_path: Path
) -> None:
    known, report = tmp_path / "known.onnx", tmp_path / "known.html"
    fre("threshold", model, "-o", known, "--from-dataset", dataset, "--max-f1")
    assert fre("evaluate", known, dataset, "--report", report).returncode == 0
    (caution,) = re.findall(r'<p class="caution">(.*?)</p>', report.read_text())
    chosen = f"largest F1 on the known defects of {dataset.name}"
    assert f"chosen with known defects ({chosen}), not from good images alone" in caution


def test_an_unreadable_image_in_evaluation(model: Path, dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weave"
    shutil.copytree(dataset / "test", folder / "test")
    bad = folder / "test" / "good" / "103.png"
    bad.write_bytes(bad.read_bytes()[:2000])
    assert f"{bad}: " in (error := refused("evaluate", model, folder))
    assert "--skip-unreadable" in error
    done = fre("evaluate", model, folder, "--skip-unreadable", "--json", "-")
    assert done.returncode == 0
    assert f"left out: {bad}" in done.stderr
    values = json.loads(done.stdout)
    assert (values["n_good"], values["n_unreadable"]) == (7, 1)
    assert values["reasons"]["pixel_auroc"] == "no masks"


def test_good_images_called_good_have_no_region(model: Path, dataset: Path, tmp_path: Path) -> None:
    lines = fre("predict", model, dataset / "test", "-o", tmp_path / "out").stdout.splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 16
    assert {bool(row["regions"]) == row["anomalous"] for row in rows} == {True}
    assert not all(row["anomalous"] for row in rows)


def test_test_images_that_were_trained_on_are_named_first(
    model: Path, dataset: Path, tmp_path: Path
) -> None:
    folder, report = tmp_path / "weave", tmp_path / "e.html"
    shutil.copytree(dataset, folder)
    shutil.copy(dataset / "train/good/7.png", folder / "test/good/renamed.png")
    done = fre("evaluate", model, folder, "--report", report)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "TRAINED ON 1 of these 17 test images, so the figures are too good: "
        "test/good/renamed.png; train without them\nfound "
    )
    assert "trained on 1 of these 17 test images" in report.read_text()
    quiet = fre("evaluate", model, folder, "--json", "-")
    assert json.loads(quiet.stdout)["trained_on"] == ["test/good/renamed.png"]
    assert "TRAINED ON 1 of these 17" in quiet.stderr
    both = fre("compare", model, model, folder)
    assert both.stdout.count("TRAINED ON 1 of these 17") == 2


def test_the_review_band_is_counted(model: Path, dataset: Path, tmp_path: Path) -> None:
    banded = tmp_path / "banded.onnx"
    done = fre("threshold", model, "--value", 1e6, "--review-rate", 0.1, "-o", banded)
    assert done.returncode == 0, done.stderr
    done = fre("evaluate", banded, dataset, "--json", tmp_path / "e.json")
    values = json.loads((tmp_path / "e.json").read_text())
    assert values["recall"] == 0
    assert values["in_review"]["defect"] == 8
    good = values["in_review"]["good"]
    assert f"in the review band: 8 of the other 8 defects, {good} of the other 8" in done.stdout
    assert "set without a rate" in done.stdout
