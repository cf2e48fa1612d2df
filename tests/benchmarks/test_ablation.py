"""The benchmarks of the default preset start from it, and their tables have every row."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from conftest import texture
from fre import FRE
from fre.backbones import get_backbone
from fre.features.extractor import FeatureExtractor
from fre.images.geometry import Geometry
from fre.images.preparation import Preparation
from fre.training.plan import plan_detector

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SIZE = (64, 64)


def module(name: str) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module(name)


@pytest.fixture(scope="module")
def ablation() -> Iterator[ModuleType]:
    yield from module("ablation")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("textures")

    def save(pixels: np.ndarray, *parts: str) -> None:
        path = root.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    for seed in range(6):
        save(texture(seed, SIZE), "train", "good", f"{seed}.png")
    for seed in range(10, 13):
        save(texture(seed, SIZE), "test", "good", f"{seed}.png")
        defect, mask = texture(seed + 10, SIZE), np.zeros(SIZE, np.uint8)
        defect[20:40, 20:40], mask[20:40, 20:40] = 255, 255
        save(defect, "test", "spot", f"{seed}.png")
        save(mask, "ground_truth", "spot", f"{seed}_mask.png")
    return root


def test_the_last_step_is_the_default_preset(ablation: Any, dataset: Path) -> None:
    backbone = get_backbone()
    layers = plan_detector(backbone)
    extractor = FeatureExtractor(backbone, layers.names, Preparation(Geometry(SIZE)))
    train = sorted((dataset / "train" / "good").iterdir())
    test = sorted((dataset / "test").rglob("*.png"))
    residuals = ablation.Residuals.extract(extractor, train, test)
    names = tuple(part.layer for part in layers.layers)
    reading = dict(ablation.rows())["+ which leaves out the coarse layer (the default preset)"]
    scores, maps = ablation.read(residuals, reading, names, SIZE)
    model = FRE(preset="default", size=64).fit(train)
    for score, anomaly_map, prediction in zip(scores, maps, model.predict_many(test), strict=True):
        assert prediction.score == pytest.approx(score, rel=1e-2, abs=1e-2)
        largest = np.abs(anomaly_map).max()
        np.testing.assert_allclose(prediction.anomaly_map, anomaly_map, atol=1e-2 * largest)


@pytest.mark.slow
def test_the_tables_have_every_step(ablation: Any, dataset: Path, tmp_path: Path) -> None:
    run: Callable[..., Any] = CliRunner().invoke
    result = run(
        ablation.main, [str(dataset), "--size", "64", "--json", str(tmp_path / "figures.json")]
    )
    assert result.exit_code == 0, result.output
    for label in (*ablation.STEPS, *ablation.VARIANTS):
        assert f"\n| {label} | " in result.output
    assert (tmp_path / "figures.json").exists()
