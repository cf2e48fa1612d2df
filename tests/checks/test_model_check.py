"""`fre info --check`: integrity, speed, and agreement of the runtimes."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import fre
from commands import fre as run
from commands import refused
from fre.checks import model_check
from fre.checks.model_check import RuntimeCheck, check_file

OPENVINO = importlib.util.find_spec("openvino") is not None


@pytest.fixture(scope="module")
def model(good_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fre.FRE(size=64).fit(good_folder).save(tmp_path_factory.mktemp("check") / "m.onnx")


@pytest.mark.slow
def test_a_sound_model_has_no_problems(model: Path) -> None:
    done = run("info", "--check", model, "--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == []
    names = [one["name"] for one in found["runtimes"]]
    assert names == ["onnxruntime", "openvino"][: 1 + OPENVINO]
    assert found["remarks"] == ([] if OPENVINO else ["openvino is not installed"])
    for one in found["runtimes"]:
        assert 0 < one["milliseconds"] < 1000 * one["seconds_to_first"]
    assert found["runtimes"][0]["score_difference"] == 0


@pytest.mark.slow
def test_a_runtime_that_computes_something_else_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not OPENVINO:
        pytest.skip("needs fre-vision[openvino]")
    true_open = model_check.open_runtime

    def shifted(*arguments: object, runtime: str, **options: object) -> object:
        opened = true_open(*arguments, runtime=runtime, **options)  # type: ignore[arg-type]
        if runtime == "openvino":
            true_run = opened.run
            opened.run = lambda *given: [true_run(*given)[0] * 1.01, true_run(*given)[1]]  # type: ignore[method-assign]
        return opened

    monkeypatch.setattr(model_check, "open_runtime", shifted)
    (problem,) = check_file(model).problems
    assert problem.startswith("scores of openvino differ from those of onnxruntime by ")
    done = run("info", "--check", model)
    assert done.returncode == 1
    assert "scores of openvino differ" in done.stderr


def test_a_damaged_file_is_refused(model: Path, tmp_path: Path) -> None:
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.onnx").write_bytes(data)
    assert "damaged" in refused("info", "--check", tmp_path / "damaged.onnx")


def test_differences_that_are_no_numbers_are_problems() -> None:
    sound = RuntimeCheck("onnxruntime", 1.0, 1.0, 0.0, 0.0)
    assert model_check._problems([sound]) == []
    (problem,) = model_check._problems([sound, RuntimeCheck("openvino", 1.0, 1.0, np.nan, 0.0)])
    assert "nan" in problem
