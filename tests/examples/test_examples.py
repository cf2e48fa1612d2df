"""The programs in other languages give fre's scores and decisions."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

import fre
from conftest import SHARED
from fre.datasets.plate_dataset import PlateSet, write_dataset

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
TOLERANCE = 1e-4
"""Of the score; scores below 1 standard deviation count as 1."""


@pytest.fixture(scope="module")
def languages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("languages", ROOT / "benchmarks" / "languages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("examples")


@pytest.fixture(scope="module")
def images(languages: ModuleType, folder: Path) -> tuple[Path, list[Path]]:
    """A folder of good images, and 50 others as PNG: magnetic tiles, or else drawn plates."""
    root = SHARED / "data" / "magnetic_tile"
    if not root.exists():
        root = folder / "plates"
        write_dataset(root, PlateSet(n_train=40, seed=0))
    return root / "train" / "good", languages.as_png(
        languages.spread(root / "test", 50), folder / "png"
    )


@pytest.fixture(scope="module")
def model(images: tuple[Path, list[Path]], folder: Path) -> Path:
    good, _ = images
    files = sorted(good.iterdir())[:40]
    return fre.FRE(size=(192, 160)).fit(files).save(folder / "model.onnx")


def assert_as_fre(answers: list[dict[str, object]], model: Path, files: list[Path]) -> None:
    assert len(answers) == len(files) == 50
    expected = [fre.load(model).predict(file) for file in files]
    scores = np.array([prediction.score for prediction in expected])
    far = np.abs(np.array([answer["score"] for answer in answers], float) - scores)
    assert far.max() > 0 or len(set(scores)) > 40
    assert (far <= TOLERANCE * np.maximum(1, np.abs(scores))).all(), far.max()
    calibration = fre.load(model).calibration
    threshold, held_out = calibration.threshold, calibration.others
    for answer, prediction in zip(answers, expected, strict=True):
        assert Path(str(answer["path"])).name == prediction.path.name
        # Not `prediction.p_value`: a dead camera is found in the pixels, outside the graph.
        p_value = (1 + (held_out >= prediction.score).sum()) / (len(held_out) + 1)
        # A score this close to a held-out one may be rounded to its other side.
        assert abs(float(str(answer["p_value"])) - p_value) < 1.5 / (len(held_out) + 1)
        if abs(prediction.score - threshold) > TOLERANCE * max(1, abs(threshold)):
            assert answer["anomalous"] is (prediction.score > threshold)


def made(make: object, folder: Path, languages: ModuleType) -> object:
    try:
        return make(folder)  # type: ignore[operator]
    except languages.MissingToolError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["python", "javascript", "cpp"])
def test_a_program_gives_the_scores_of_fre(
    name: str,
    languages: ModuleType,
    folder: Path,
    model: Path,
    images: tuple[Path, list[Path]],
) -> None:
    program = made(getattr(languages, name), folder, languages)
    assert_as_fre(program(model, images[1]), model, images[1])  # type: ignore[operator]
    (answer,) = program(model, images[1][:1])  # type: ignore[operator]
    assert set(answer) == {"path", "score", "p_value", "anomalous"}


@pytest.mark.slow
def test_the_page_gives_the_scores_of_fre(
    languages: ModuleType,
    folder: Path,
    model: Path,
    images: tuple[Path, list[Path]],
) -> None:
    try:
        with languages.page(folder) as program:
            assert_as_fre(program(model, images[1]), model, images[1])
    except languages.MissingToolError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["python", "javascript", "cpp"])
def test_a_program_refuses_a_model_with_tiles(
    name: str, languages: ModuleType, folder: Path, good_folder: Path
) -> None:
    program = made(getattr(languages, name), folder, languages)
    tiled = fre.FRE(size=64, tile=64, overlap=16).fit(good_folder).save(folder / "tiled.onnx")
    with pytest.raises(RuntimeError, match="trained with letterbox or tiles"):
        program(tiled, [next(good_folder.iterdir())])  # type: ignore[operator]


SIZES = [(373, 248), (248, 373), (60, 50), (128, 500), (20, 700), (256, 100), (1, 1)]


@pytest.mark.parametrize("size", SIZES)
def test_the_resize_in_javascript_is_that_of_fre(size: tuple[int, int], tmp_path: Path) -> None:
    from fre.images.decode import read_resized

    if shutil.which("node") is None:
        pytest.skip("needs node: apt install nodejs")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    (tmp_path / "in").write_bytes(pixels.tobytes())
    code = (
        f"import {{ resize }} from {json.dumps(str(EXAMPLES / 'javascript' / 'resize.js'))};"
        "import { readFileSync, writeFileSync } from 'node:fs';"
        f"writeFileSync('out', resize(readFileSync('in'), {size[0]}, {size[1]}, 256, 192));"
    )
    subprocess.run(
        ["node", "--input-type=module", "-e", code], cwd=tmp_path, check=True, timeout=60
    )
    found = np.frombuffer((tmp_path / "out").read_bytes(), np.uint8).reshape(256, 192, 3)
    np.testing.assert_array_equal(found, read_resized(pixels, (256, 192))[0])


MAIN = """
using System.IO;
class Main_ {
    static void Main(string[] a) {
        int height = int.Parse(a[0]), width = int.Parse(a[1]);
        byte[] pixels = File.ReadAllBytes("in");
        File.WriteAllBytes("out", Resizer.Resize(pixels, height, width, 256, 192));
    }
}
"""


@pytest.mark.slow
def test_the_resize_in_csharp_is_that_of_fre(tmp_path: Path) -> None:
    """Mono compiles it; the program around it needs .NET and is not run."""
    from fre.images.decode import read_resized

    if shutil.which("mcs") is None or shutil.which("mono") is None:
        pytest.skip("needs Mono: apt install mono-mcs mono-runtime")
    (tmp_path / "Main.cs").write_text(MAIN)
    sources = [str(EXAMPLES / "csharp" / "Resizer.cs"), "Main.cs"]
    subprocess.run(["mcs", *sources, "-out:resize.exe"], cwd=tmp_path, check=True, timeout=120)
    for size in SIZES:
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
        (tmp_path / "in").write_bytes(pixels.tobytes())
        command = ["mono", "resize.exe", *map(str, size)]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=60)
        found = np.frombuffer((tmp_path / "out").read_bytes(), np.uint8).reshape(256, 192, 3)
        np.testing.assert_array_equal(found, read_resized(pixels, (256, 192))[0])


@pytest.mark.slow
def test_the_python_program_refuses_16_bits(model: Path, tmp_path: Path) -> None:
    deep = tmp_path / "deep.png"
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(deep)
    command = [sys.executable, EXAMPLES / "python" / "score.py", model, deep]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "expected 8 bits a channel" in done.stderr
