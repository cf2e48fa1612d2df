"""`fre demo`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import fre, refused


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    done = fre("demo", "--json", "demo.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "demo.json").read_text())
    assert values["image_auroc"] > 0.9
    assert values["aupro"] > 0.9
    folder = tmp_path / "fre-demo"
    assert len(list(folder.glob("overlays/*/*.png"))) == 60
    assert (folder / "overview.png").stat().st_size > 10_000
    assert "<html" in (folder / "report.html").read_text()
    assert "fre train YOUR/GOOD/IMAGES" in done.stdout
    predicted = fre("predict", folder / "plate.onnx", folder / "plates/test/stain", cwd=tmp_path)
    assert predicted.returncode == 0
    assert "not empty" in refused("demo", "-o", folder)
