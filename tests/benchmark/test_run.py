"""The benchmark: every category by every variant, kept as it goes, and tabulated."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import fre
from conftest import texture
from fre.backbones import get_backbone
from fre.benchmark.published import MVTEC_CATEGORIES, PUBLISHED
from fre.benchmark.run import Study, assign_weights, make_variant, open_categories, run_benchmark
from fre.benchmark.tables import benchmark_tables
from fre.detector import FRE
from fre.errors import DatasetError, OptionError, OutputError
from fre.features.extractor import FeatureExtractor
from fre.features.layout import pool_features
from fre.images.geometry import Geometry
from fre.images.preparation import Preparation
from fre.model import Model

LITE = "efficientnet_lite0"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories in the layout of MVTec AD: one whose name is published, one whose is not."""
    root = tmp_path_factory.mktemp("benchmark")
    for offset, category in ((0, "screw"), (50, "cloth")):
        for split, kind, count in (("train", "good", 8), ("test", "good", 4), ("test", "cut", 4)):
            folder = root / category / split / kind
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = texture(offset + index + 10 * count)
                if kind == "cut":
                    pixels = pixels.copy()
                    pixels[30:50, 30:50] = 255
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def run(root: Path, folder: Path, **options: Any) -> tuple[list[dict[str, Any]], list[bool]]:
    known: list[bool] = []
    report = options.pop("report", lambda cell, was_known: known.append(was_known))
    datasets = open_categories(root, options.pop("categories", ()))
    fixed = {
        "variants": [make_variant(LITE, None, "default", None, "pca")],
        "parameters": {"size": 64},
    }
    return run_benchmark(datasets, folder, Study(**fixed | options), report=report), known


def test_every_category_is_measured_and_kept(root: Path, tmp_path: Path) -> None:
    cells, known = run(root, tmp_path / "b")
    assert [cell["category"] for cell in cells] == ["cloth", "screw"]
    assert known == [False, False]
    for cell in cells:
        assert cell["figures"]["image_auroc"] > 0.9
        assert cell["figures"]["n_defect"] == 4
        assert cell["training"]["n_images"] == 8
        assert cell["training"]["parameters"]["seed"] == 42
        assert len(cell["training"]["backbone"]["weights_sha256"]) == 64
        assert cell["environment"]["packages"]["numpy"] == np.__version__
        assert cell["cost"]["model_bytes"] > 1e6
    again, known = run(root, tmp_path / "b")
    assert known == [True, True]
    assert json.dumps(again) == json.dumps(cells)


def test_a_stopped_run_continues(root: Path, tmp_path: Path) -> None:
    def stop(_: dict[str, Any], __: bool) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(root, tmp_path / "b", report=stop)
    _, known = run(root, tmp_path / "b")
    assert known == [True, False]


def test_other_settings_or_data_are_computed_anew(root: Path, tmp_path: Path) -> None:
    def known(**options: Any) -> list[bool]:
        return run(root, tmp_path / "b", **{"categories": ["screw"]} | options)[1]

    assert known() == [False]
    assert known(seed=7) == [False]
    assert known(seed=7, parameters={"size": 32}) == [False]
    file = next((tmp_path / "b").glob("screw*"))
    file.write_text(file.read_text()[:100])
    assert known(seed=7, parameters={"size": 32}) == [False]
    both = {"categories": ["cloth", "screw"]}
    assert known(seed=7, parameters={"size": 32}, **both) == [False, True]


def test_variants_of_a_backbone_share_one_pass(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = 0
    extract = FeatureExtractor.extract

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal passes
        passes += 1
        return extract(*arguments, **options)

    monkeypatch.setattr(FeatureExtractor, "extract", counted)
    variants = [make_variant(LITE, None, "reference", pool, "pca") for pool in (1, 2, 3)]
    cells, _ = run(root, tmp_path / "b", variants=variants, categories=["screw"])
    assert passes == 1
    assert [cell["training"]["dimension"] for cell in cells] == [112 * n for n in (16, 4, 4)]


@pytest.mark.parametrize("pool", [2, 3, 4])
def test_features_pooled_later_are_those_of_the_graph(pool: int) -> None:
    images = [texture(seed) for seed in range(3)]
    fine, coarse = (
        FeatureExtractor(get_backbone(), "blocks.2", Preparation(Geometry((64, 96))), pool=p)
        for p in (1, pool)
    )
    later = pool_features(fine.extract(images).X, fine.layout, coarse.layout)
    np.testing.assert_allclose(later, coarse.extract(images).X, atol=1e-5)


def test_fitting_features_is_fitting_images() -> None:
    images = [texture(seed) for seed in range(6)]
    detector = FRE(size=64)
    extractor = detector._extractor(get_backbone())
    model = Model(detector._trainer(extractor).fit_features(extractor.extract(images)))
    other = detector.fit(images)
    assert model.predict(texture(9)).score == pytest.approx(other.predict(texture(9)).score)
    assert model.threshold == other.threshold


def test_mistakes(root: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no category is called 'bolt'; there are cloth, screw"):
        run(root, tmp_path / "b", categories=["bolt"])
    with pytest.raises(DatasetError, match="no test images"):
        run(root / "screw" / "train", tmp_path / "b")
    with pytest.raises(OutputError, match="/proc"):
        run(root, Path("/proc/b"))


def test_weights_find_their_backbone() -> None:
    names = [LITE, "resnet18", "resnet50"]
    assert assign_weights(names, ["resnet18=a", "resnet50=b"]) == {
        "resnet18": Path("a"),
        "resnet50": Path("b"),
    }
    assert assign_weights(names[:2], ["c"]) == {"resnet18": Path("c")}
    assert assign_weights(names, ["resnet18=a", "c"])["resnet50"] == Path("c")
    with pytest.raises(OptionError, match="say which backbone it is for"):
        assign_weights(names, ["c"])
    with pytest.raises(OptionError, match="'resnet34' is not among the backbones"):
        assign_weights(names, ["resnet34=a"])


def cell(label: str, category: str, auroc: float, backbone: str = "resnet18") -> dict[str, Any]:
    return {
        "category": category,
        "label": label,
        "figures": {"image_auroc": auroc, "image_f1": 0.5, "pixel_auroc": None, "aupro": None},
        "cost": {
            "features_seconds": 1.0,
            "fit_seconds": 2.0,
            "images_per_second": 10.0,
            "model_bytes": 5_000_000,
            "peak_memory_bytes": None,
        },
        "training": {"backbone": {"name": backbone}, "parameters": {"pool": 2}},
    }


def test_tables_have_the_published_form() -> None:
    cells = [cell("a", "zipper", 0.9), cell("a", "carpet", 0.7), cell("a", "mine", 0.8)]
    tables = benchmark_tables(cells)
    assert "|  | Avg | Carpet | Zipper | Mine |" in tables
    assert "| a | 0.800 | 0.700 | 0.900 | 0.800 |" in tables
    assert "| a | - | - | - | - |" in tables
    assert "| a | 3.0 s | 10.0 | 5.0 MB | - |" in tables
    titles = re.findall(r"### (.*)", tables)
    assert titles == ["Image AUROC", "Image F1", "Pixel AUROC", "AUPRO", "Cost"]


def test_tables_against_the_published_figures() -> None:
    tables = benchmark_tables([cell("a", "screw", 0.9)], against_published=True)
    assert "| anomalib DFM (PCA 97 %), resnet18, pool 2 | 0.890 | 0.890 |" in tables
    assert "| difference: a | +0.010 | +0.010 |" in tables
    of_default = cell("b", "screw", 0.9)
    of_default["training"]["parameters"]["pool"] = None
    assert "| difference: b | +0.010 |" in benchmark_tables([of_default], against_published=True)
    assert "anomalib" not in benchmark_tables(
        [cell("a", "screw", 0.9, backbone="other")], against_published=True
    )


def test_published_rows_have_the_averages_that_were_published() -> None:
    averages = {
        ("resnet50", "image_auroc"): {0.933},
        ("resnet50", "image_f1"): {0.935},
        ("wide_resnet50_2", "image_auroc"): {0.947, 0.943},
        ("wide_resnet50_2", "image_f1"): {0.941, 0.950},
        ("resnet18", "image_auroc"): {0.936},
        ("resnet18", "image_f1"): {0.943},
    }
    for row in PUBLISHED:
        assert len(row.values) == len(MVTEC_CATEGORIES) == 15
        mean = np.mean(row.values)
        assert min(abs(mean - stated) for stated in averages[row.backbone, row.figure]) < 0.0015


def test_from_the_command_line(root: Path, tmp_path: Path) -> None:
    options = ["--backbone", LITE, "--preset", "default", "reference", "--size", "64"]
    options += ["--category", "screw"]
    done = fre("benchmark", root, *options, "--json", "b.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for label in ("default", "reference, pool 2, pca"):
        assert f"| {LITE}, {label} | 1.000 | 1.000 |" in done.stdout
    assert len(json.loads((tmp_path / "b.json").read_text())["cells"]) == 2
    assert len(list((tmp_path / "fre-benchmark").iterdir())) == 2
