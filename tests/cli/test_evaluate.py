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
        "pixel_auroc",
        "pixel_f1",
        "aupro",
        "n_good",
        "n_defect",
        "false_alarm_rate_observed",
        "images_per_second",
        "aupimo",
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
    figures = {name for name in values if name[:5] in ("image", "pixel", "aupro", "aupim", "false")}
    assert set(values["intervals"]) == figures - {"images_per_second"}
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
