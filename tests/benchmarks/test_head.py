"""The benchmark of heads: every way to compute a residual gives the same, and it runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from fre import FRE
from fre.runtimes.runtime import open_runtime

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "head.py"


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("head", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, value in {"CHANNELS": 12, "LOCATIONS": 10, "RANK": 7}.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_all_ways_give_the_exact_map(head: ModuleType) -> None:
    basis, X, exact = head.synthetic(5)
    kept = 1 - exact.sum() / np.square(X, dtype=np.float64).sum()
    assert kept == pytest.approx(1 - head.RESIDUAL_SHARE, abs=0.01)
    for model, accuracy in (
        (head.two_passes(basis), 1e-5),
        (head.one_pass(basis), 1e-4),
        (head.two_passes(basis, half=True), 0.02),
    ):
        anomaly_map, score = open_runtime(model, ["map", "score"]).run(X)
        np.testing.assert_allclose(anomaly_map, exact, rtol=accuracy)
        np.testing.assert_allclose(score, exact.sum(axis=1), rtol=accuracy)


def test_it_measures_a_model(head: ModuleType, good_folder: Path, tmp_path: Path) -> None:
    model = FRE(size=64).fit(good_folder)
    file = model.save(tmp_path / "m.onnx")
    backbone = head.backbone_of(model.data, model.metadata["backbone"]["layers"])
    assert len(backbone) < len(model.data)
    result = CliRunner().invoke(head.main, [str(file), "--rounds", "2", "--threads", "1"])
    assert result.exit_code == 0, result.output
    assert result.output.count("| default, efficientnet_lite0 |") == 2
    assert result.output.count("two passes") == 3
