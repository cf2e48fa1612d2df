"""Changes of a photo move, turn, light and blur it as they say, and the pictures are drawn."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from conftest import texture

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def module(name: str) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module(name)


@pytest.fixture(scope="module")
def conditions() -> Iterator[ModuleType]:
    yield from module("conditions")


@pytest.fixture(scope="module")
def picture() -> Iterator[ModuleType]:
    yield from module("picture")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Textures; the defect is a white square, marked by a mask."""
    root = tmp_path_factory.mktemp("textures")
    mask = np.zeros((64, 64), np.uint8)
    mask[20:40, 20:40] = 255
    for part, count, first in (("train/good", 12, 0), ("test/good", 4, 50), ("test/spot", 3, 90)):
        for index in range(count):
            pixels = np.array(Image.fromarray(texture(first + index)).resize((64, 64)))
            if part == "test/spot":
                pixels[mask > 0] = 255
                name = root / "ground_truth" / "spot" / f"{index:03d}_mask.png"
                name.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(name)
            (root / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / part / f"{index:03d}.png")
    return root


def test_changes_show_true_pixels_of_the_photo(conditions: ModuleType) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)
    middle = conditions.middle(photo)
    assert middle.shape == (80, 160, 3)
    assert np.array_equal(middle, photo[10:90, 20:180])
    # 5 % of a width of 160 pixels are 8.
    assert np.array_equal(conditions.moved(shift=0.05)(photo), photo[10:90, 12:172])
    assert np.array_equal(conditions.moved(angle=180.0)(photo), middle[::-1, ::-1])
    assert np.array_equal(conditions.light(1.0)(photo), middle)
    assert conditions.light(1.2)(photo).max() == 255
    assert conditions.blur(1 / 50)(photo).std() < 0.5 * middle.std()


@pytest.mark.slow
def test_the_picture_of_the_readme_has_a_column_for_each_kind(
    picture: ModuleType, dataset: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(picture.main, [str(dataset), str(tmp_path / "overview.png")])
    assert result.exit_code == 0, result.output
    assert result.output.count("score") == 2
    with Image.open(tmp_path / "overview.png") as drawn:
        # Two columns of square images with gaps between them.
        assert drawn.width > 2 * picture.CELL


@pytest.mark.slow
def test_the_table_of_changes_has_every_change(
    conditions: ModuleType, dataset: Path, tmp_path: Path
) -> None:
    drawing = tmp_path / "conditions.png"
    result = CliRunner().invoke(conditions.main, [str(dataset), "--picture", str(drawing)])
    assert result.exit_code == 0, result.output
    assert all(f"| {name} |" in result.output for name in conditions.CHANGES)
    assert drawing.exists()
