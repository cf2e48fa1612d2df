"""A dataset and a model that the commands share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import fre
from conftest import texture
from fitted_models import defective, detector


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weave with bright scratches, in the layout of MVTec AD."""
    root = tmp_path_factory.mktemp("weave")

    def save(path: str, pixels: np.ndarray) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / path)

    for seed in range(30):
        save(f"train/good/{seed}.png", texture(seed))
    for seed in range(100, 108):
        save(f"test/good/{seed}.png", texture(seed))
        image, mask = texture(seed + 100), np.zeros((96, 96), np.uint8)
        mask[30:40, 20:70] = 255
        image[mask > 0] = 255
        save(f"test/scratch/{seed}.png", image)
        save(f"ground_truth/scratch/{seed}_mask.png", mask)
    return root


@pytest.fixture(scope="session")
def model(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "weave.onnx"
    done = fre("train", dataset, "-o", path, "--size", 96)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    for name, seeds in (("a", range(12)), ("b", range(12, 24)), ("new", range(30, 34))):
        (root / name).mkdir()
        for seed in seeds:
            Image.fromarray(texture(seed)).save(root / name / f"{seed}.png")
    (root / "odd").mkdir()
    Image.fromarray(defective(texture(50))).save(root / "odd" / "scratch.png")
    for name in ("a", "b"):
        detector().fit(root / name).save(root / f"{name}.onnx")
    return root
