"""One file, the same scores and maps everywhere: on real images, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import shared
from fre import FRE, load
from fre.errors import MissingDependencyError
from fre.images.decode import find_images


def test_onnx_runtime_reports_to_nobody(good_folder: Path, tmp_path: Path) -> None:
    model = FRE(size=64).fit(good_folder).save(tmp_path / "m.onnx")
    image = find_images(good_folder)[0]
    home = tmp_path / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if k not in ("ORT_DISABLE_TELEMETRY", "FRE_CACHE")}
    places = {"HOME": str(home), "USERPROFILE": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    subprocess.run(
        [sys.executable, "-m", "fre", "predict", str(model), str(image)],
        env={**kept, **places},
        check=True,
        capture_output=True,
    )
    # Its client keeps an identifier of the device and a database of events.
    written = {path.name for path in home.rglob("*")}
    assert not {name for name in written if "onnxruntime" in name or name == "deviceid"}


def test_openvino_is_named_where_it_is_missing(good_folder: Path) -> None:
    try:
        import openvino  # noqa: F401  # only whether it is there
    except ImportError:
        model = FRE(size=64).fit(good_folder)
        path = model.save(good_folder.parent / "m.onnx")
        with pytest.raises(MissingDependencyError, match=r"pip install 'fre-vision\[openvino\]'"):
            load(path, runtime="openvino")
    else:
        pytest.skip("OpenVINO is installed")


# Scores and maps of the default preset are normal deviations and cross 0, so that the bound is
# absolute, too; those of the reference are sums of squares.
BOUNDS: dict[str, dict[str, float]] = {
    "default": {"rel": 1e-5, "abs": 1e-4},
    "reference": {"rel": 1e-5, "abs": 0.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("preset", BOUNDS)
@pytest.mark.parametrize("name", ["magnetic_tile", "screw"])
def test_scores_and_maps_agree_on_real_images(name: str, preset: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs fre-vision[openvino]")
    folder = shared("data", name)
    good = find_images(folder / "train")[:80]
    detector = FRE("efficientnet_lite0", preset=preset)
    path = detector.fit(good).save(tmp_path / "m.onnx")
    images = find_images(folder / "test")[::2][:120]
    assert len(images) >= 80
    ours = list(load(path).predict_many(images))
    theirs = list(load(path, runtime="openvino").predict_many(images))
    bound = BOUNDS[preset]
    for a, b in zip(ours, theirs, strict=True):
        assert a.score == pytest.approx(b.score, **bound)
        size = np.abs(a.input_map).max()
        assert np.abs(a.input_map - b.input_map).max() <= bound["rel"] * size + bound["abs"]
