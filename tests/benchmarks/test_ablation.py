"""The benchmarks of the default preset start from it, and their tables have every row."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
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
from fre.features.layout import FeatureLayout
from fre.subspaces.position import PositionStatistics
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
def ideas() -> Iterator[ModuleType]:
    yield from module("ideas")


@pytest.fixture(scope="module")
def few_shot() -> Iterator[ModuleType]:
    yield from module("few_shot")


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
    extractor = FeatureExtractor(backbone, layers.names, pool=1, size=SIZE)
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


def test_the_tables_have_every_step(ablation: Any, dataset: Path, tmp_path: Path) -> None:
    run: Callable[..., Any] = CliRunner().invoke
    result = run(
        ablation.main, [str(dataset), "--size", "64", "--json", str(tmp_path / "figures.json")]
    )
    assert result.exit_code == 0, result.output
    for label in (*ablation.STEPS, *ablation.VARIANTS):
        assert f"\n| {label} | " in result.output
    assert (tmp_path / "figures.json").exists()


def test_ideas_start_from_the_default_preset(ablation: Any, ideas: Any, dataset: Path) -> None:
    material = ideas.Dataset(dataset, edge=64).material(held=True)
    recipe = ideas.Recipe()
    names = tuple(material.names.values())
    reading = dict(ablation.rows())["+ a map of its own"]
    scores, maps = ablation.read(material.residuals, reading, names, SIZE)
    np.testing.assert_allclose(ideas.scores(material, recipe).test, scores, rtol=1e-3, atol=1e-3)
    for ours, theirs in zip(ideas.maps_of(material, recipe), maps, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-3 * np.abs(theirs).max())


def test_synthetic_defects_are_scored_by_subspaces_without_their_image(
    ideas: Any, dataset: Path
) -> None:
    material = ideas.Dataset(dataset, edge=64).material()
    source = material.residuals
    fold_of = np.empty(6, np.intp)
    for index, fold in enumerate(source.folds):
        fold_of[fold] = index
    # The good images themselves in the place of spoilt ones.
    again = ideas.Residuals(
        source.layouts,
        source.train,
        source.test,
        source.folds,
        held=source.train,
        held_folds=fold_of,
    )
    spoilt = ideas.Material(again, material.names, SIZE, material.samples, material.masks)
    for part in ("middle/position", "middle/patch", "coarse/image", "middle/whitened"):
        energies = spoilt.energies(part, ideas.Recipe())
        # Those of the good images are lower by what a fit of all images would have explained.
        assert (energies.held >= 0.99 * energies.good).all()
        assert (energies.held <= 1.5 * energies.good).all()
        assert np.corrcoef(energies.held.ravel(), energies.good.ravel())[0, 1] > 0.98


def test_a_patch_subspace_is_that_of_all_locations(ideas: Any) -> None:
    rng = np.random.default_rng(0)
    layout = FeatureLayout("a", 5, (2, 3), 1)
    X = rng.normal(size=(8, 30)).astype(np.float32) * np.repeat([4, 3, 1, 0.1, 0.1], 6)
    X = X.astype(np.float32)
    folds = [np.arange(4), np.arange(4, 8)]
    source = ideas.Residuals({"a": layout}, {"a": X}, {"a": X[:2]}, folds)
    material = ideas.Material(source, {"middle": "a"}, SIZE, (), ())
    found = material.energies("middle/patch", ideas.Recipe())
    vectors = X.reshape(8, 5, 6).transpose(0, 2, 1).reshape(-1, 5)
    centred = vectors - vectors.mean(axis=0)
    axes = np.linalg.svd(centred)[2]
    strength = np.cumsum(np.square(centred @ axes.T).sum(axis=0))
    rank = int(np.count_nonzero(strength < 0.97 * strength[-1])) + 1
    outside = np.square(centred @ axes[rank:].T).sum(axis=1).reshape(8, 6)
    np.testing.assert_allclose(found.test, outside[:2], rtol=1e-2, atol=1e-3)


def test_the_prior_of_means_is_the_covariance_of_shifted_images(ideas: Any) -> None:
    X = np.random.default_rng(1).normal(size=(7, 3 * 9)).astype(np.float32)
    statistics = PositionStatistics.of(X, (3, 3))
    # With a prior beyond all images, the middle location has that of all nine.
    found = ideas.blended(statistics, 1e12, means=True)[4]
    vectors = X.reshape(7, 3, 9)
    gaps = vectors - vectors[:, :, 4].mean(axis=0)[None, :, None]
    expected = np.einsum("ncp,ndp->cd", gaps, gaps) / (7 * 9)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_whitened_is_the_mahalanobis_distance(ideas: Any) -> None:
    X = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)
    distances = ideas.whitened(PositionStatistics.of(X, (1, 1)), 0, 0)(X)
    inverse = np.linalg.inv(np.cov(X.T, bias=True))
    gaps = X - X.mean(axis=0)
    expected = np.einsum("nc,cd,nd->n", gaps, inverse, gaps)
    np.testing.assert_allclose(distances[:, 0], expected, rtol=1e-3)


def test_moved_images(ideas: Any) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:30, 40:44] = 255

    def bounds(pixels: np.ndarray) -> list[int]:
        found = np.argwhere(pixels[:, :, 0] > 128)
        return [*found.min(axis=0), *found.max(axis=0)]

    np.testing.assert_array_equal(ideas.moved(image, (0, 0), 0), image)
    assert bounds(ideas.moved(image, (3, -5), 0)) == [15, 43, 24, 46]
    assert bounds(ideas.moved(image, (0, 0), 90)) == [20, 20, 23, 29]
    flat = np.full((32, 48, 3), 77, np.uint8)
    np.testing.assert_array_equal(ideas.moved(flat, (7.5, -9), 20), flat)


@pytest.mark.parametrize("kind", ["paste", "scar", "noise", "blur", "shade"])
def test_synthetic_defects_are_small(ideas: Any, kind: str) -> None:
    assert kind in ideas.SPOILINGS
    image, other = texture(0, SIZE), texture(1, SIZE)
    for seed in range(10):
        spoilt = ideas.spoilt(image, other, kind, np.random.default_rng(seed))
        share = (spoilt != image).any(axis=2).mean()
        assert 0 < share < 0.06


def test_a_guided_filter_keeps_the_edges_of_its_guide(ideas: Any) -> None:
    guide = np.zeros((40, 40), np.float32)
    guide[:, 20:] = 1
    np.testing.assert_allclose(ideas.guided_filter(3 * guide, guide, 1e-6), 3 * guide, atol=1e-3)
    flat = ideas.guided_filter(3 * guide, np.zeros((40, 40), np.float32), 1e-6)
    assert 1 < flat[20, 20] < 2


def test_filters_of_maps(ideas: Any) -> None:
    maps = np.zeros((1, 7, 7), np.float32)
    maps[0, 3, 3] = 9
    assert not ideas.median_filter(maps).any()
    step = np.zeros((1, 7, 7), np.float32)
    step[:, :, 4:] = 100
    np.testing.assert_allclose(ideas.bilateral_filter(step, 1.0), step, atol=1e-3)
    # A difference far below the deviation is smoothed.
    assert 0 < ideas.bilateral_filter(step, 1e4)[0, 3, 3] < 50


def test_layers_weigh_what_they_explain(ideas: Any) -> None:
    rng = np.random.default_rng(3)
    layout = FeatureLayout("plain", 4, (6, 6), 1)
    plain = (rng.normal(size=(20, 1)) @ rng.normal(size=(1, 144))).astype(np.float32)
    noise = rng.normal(size=(20, 144)).astype(np.float32)
    X = {"plain": plain, "noise": noise}
    layouts = {"plain": layout, "noise": replace(layout, layer="noise")}
    source = ideas.Residuals(layouts, X, X, ideas.make_folds(20))
    material = ideas.Material(source, {"middle": "plain", "coarse": "noise"}, SIZE, (), ())
    parts = ("middle/image", "coarse/image")
    first, second = material.weights(parts, ideas.Recipe(weighed=True))
    assert first > 3 * second
    assert first**2 + second**2 == pytest.approx(2)
    assert material.weights(parts, ideas.Recipe()) == [1, 1]


def test_rank_agreement(ideas: Any) -> None:
    """Equal values share their rank; what never varies agrees with nothing."""
    truth, evidence = (0.9, 0.7, 0.7, 0.8), (4.0, 1.0, 1.0, 2.0)
    labels = (ideas.DEFAULT, "a", "b", "c")
    rows = {
        label: {"auroc": a, "evidence": e, "variation": 0.5}
        for label, a, e in zip(labels, truth, evidence, strict=True)
    }
    turned = {label: {**row, "variation": row["auroc"]} for label, row in rows.items()}
    *_, first, second = ideas.agreement({"one": rows, "two": turned}).splitlines()
    assert (first, second) == ("| one | +1.00 |  |", "| two | +1.00 | -1.00 |")


def test_copies_go_with_their_image_and_set_no_scale(ideas: Any, dataset: Path) -> None:
    folds = ideas.with_their_copies([np.array([0, 2]), np.array([1])], 3, 2)
    assert [sorted(fold) for fold in folds] == [[0, 2, 3, 5, 6, 8], [1, 4, 7]]
    material = ideas.Dataset(dataset, edge=64).material(copies={"two": (2, 2, 2)})
    recipe = ideas.Recipe(copies="two")
    assert len(material.copies["two"].train[material.names["middle"]]) == 18
    energies = material.energies("middle/position", recipe)
    assert len(energies.good) == 6
    plain = material.energies("middle/position", ideas.Recipe())
    assert not np.allclose(energies.good, plain.good, rtol=0.01)


def test_the_tables_of_ideas(ideas: Any, dataset: Path, tmp_path: Path) -> None:
    run: Callable[..., Any] = CliRunner().invoke
    file = tmp_path / "figures.json"
    size = ["--size", "64"]
    result = run(ideas.main, ["ideas", str(dataset), *size, "--images", "5", "--json", str(file)])
    assert result.exit_code == 0, result.output
    for label in (ideas.DEFAULT, *ideas.IDEAS):
        assert f"\n| {label} | " in result.output
    name = dataset.name
    assert set(json.loads(file.read_text())["results"]) == {name, f"{name}, 5"}
    result = run(ideas.main, ["layers", str(dataset), *size])
    assert result.exit_code == 0, result.output
    for label in ideas.LAYERS:
        assert f"\n| {label} | " in result.output
    result = run(ideas.main, ["copies", str(dataset), *size])
    assert result.exit_code == 0, result.output
    for label in ideas.COPIES:
        assert f"\n| {label} | " in result.output
    sizes = ["--input", "efficientnet_lite0", "64", "--input", "efficientnet_lite0", "96"]
    result = run(ideas.main, ["inputs", str(dataset), *sizes])
    assert result.exit_code == 0, result.output
    assert "\n| efficientnet_lite0, 96 px, Gaussian in proportion | " in result.output


def test_the_table_of_few_images(
    few_shot: Any, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(few_shot, "COUNTS", (2, 4))
    monkeypatch.setattr(
        few_shot, "AMOUNTS", (few_shot.Amount(), few_shot.Amount(1, 2, 0), few_shot.Amount(2, 2, 0))
    )
    run: Callable[..., Any] = CliRunner().invoke
    result = run(few_shot.main, [str(dataset), "--size", "64", "--draws", "2", "--tests", "4"])
    assert result.exit_code == 0, result.output
    assert f"{dataset.name}, 4: AUROC" in result.output
    for label in ("no copies", "1 copies, 2 px, 0 degrees", "2 copies, 2 px, 0 degrees"):
        assert f"\n| {label} | " in result.output
