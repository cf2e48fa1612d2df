"""The arithmetic of the default detector, and its graph against it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from conftest import texture
from fitted_models import calibrated
from fre import FRE, evaluate, load
from fre.backbones import get_backbone
from fre.errors import BackboneError, OptionError
from fre.features.extractor import FeatureExtractor
from fre.features.table import Features
from fre.images.geometry import Geometry
from fre.images.preparation import Preparation
from fre.runtimes.runtime import open_runtime
from fre.scoring.fusion import Fusion, Limit, Standard, Veto
from fre.scoring.graph import MAP, SCORE, Head, fused_model
from fre.scoring.maps import LayerMaps
from fre.subspaces.cross_fit import make_folds
from fre.training.config import Configuration, Method, resolve
from fre.training.folds import Folds
from fre.training.held import HeldRows
from fre.training.pipeline import fit_detector
from fre.training.plan import DetectorPlan, LayerPlan, plan_detector
from fre.training.readout import read_out


def test_standards_are_half_the_place_and_half_the_whole() -> None:
    values = np.random.default_rng(0).gamma(2, 3, (50, 6)).astype(np.float32) * np.arange(1, 7)
    scale = Standard.of(values, positional_mean=True)
    np.testing.assert_allclose(scale.mean, (values.mean(axis=0) + values.mean()) / 2, rtol=1e-5)
    np.testing.assert_allclose(scale.deviation, (values.std(axis=0) + values.std()) / 2, rtol=1e-5)
    np.testing.assert_allclose(scale.apply(values), (values - scale.mean) / scale.deviation, 1e-5)
    assert np.ptp(Standard.of(values, positional_mean=False).mean) == 0
    flat = Standard.of(np.full((5, 3), 2, np.float32), positional_mean=True)
    assert (flat.deviation > 0).all()


def test_left_out_deviations_are_by_the_other_folds() -> None:
    values = np.random.default_rng(0).gamma(2, 3, (23, 6)).astype(np.float32)
    folds = make_folds(23, folds=4)
    for positional in (True, False):
        left_out = Standard.left_out(values, folds, positional_mean=positional)
        for fold in folds:
            others = np.array([row for row in range(23) if row not in fold])
            scale = Standard.of(values[others], positional_mean=positional)
            np.testing.assert_array_equal(left_out[fold], scale.apply(values[fold]))


def test_an_extraordinary_image_is_more_so_by_what_the_others_are() -> None:
    rng = np.random.default_rng(0)
    energies = [rng.gamma(9, 1, (12, 16)).astype(np.float32)]
    energies[0][3, 5] *= 20
    fusion = Fusion.fit(energies, np.zeros(12), LayerMaps((16, 16), ((4, 4),), (True,), (True,)))
    folds = make_folds(12, folds=12)
    scores, left_out = (
        fusion.scores(energies, np.zeros(12)),
        fusion.left_out_scores(energies, np.zeros(12), folds),
    )
    assert left_out[3] > scores[3] + 1
    assert np.argmax(left_out) == np.argmax(scores) == 3
    maps = list(fusion.left_out_maps(energies, folds))
    assert [values.shape for values in maps] == [(16, 16)] * 12
    assert maps[3].max() > 1.5 * max(values.max() for values in fusion.maps(energies))


def test_the_score_is_the_mean_of_the_largest_pixels_in_normal_deviations() -> None:
    rng = np.random.default_rng(0)
    energies = [rng.gamma(2, 1, (40, 16)).astype(np.float32) for _ in range(2)]
    layers = LayerMaps((16, 16), ((4, 4),) * 2, (False, True), (True, True))
    fusion = Fusion.fit(energies, rng.normal(size=40), layers)
    assert fusion.veto is None
    assert fusion.top == max(1, round(0.03 * 16))
    z = fusion.score_standards[0].apply(energies[1]).reshape(-1, 4, 4)
    enlarged = fusion.score_enlargements[0].apply(z).reshape(40, -1)
    raw = np.sort(enlarged, axis=1)[:, -fusion.top :].mean(axis=1)
    np.testing.assert_allclose(fusion.raw_scores(energies), raw, rtol=1e-5)
    scores = fusion.scores(energies, np.zeros(40))
    np.testing.assert_allclose(scores, (raw - raw.mean()) / raw.std(), rtol=1e-4, atol=1e-5)
    assert scores.mean() == pytest.approx(0, abs=1e-5)


def test_the_veto_counts_from_two_deviations_on_and_from_a_hundred_images_on() -> None:
    veto = Veto(10.0, 2.0)
    np.testing.assert_array_equal(veto.apply(np.array([0.0, 13, 14, 16])), [0, 0, 0, 1])
    rng = np.random.default_rng(0)
    for n, there in ((99, False), (100, True)):
        energies = [rng.gamma(2, 1, (n, 4)).astype(np.float32)]
        layers = LayerMaps((8, 8), ((2, 2),), (True,), (True,))
        fusion = Fusion.fit(energies, rng.normal(5, 1, n), layers)
        assert (fusion.veto is not None) == there


def test_a_residual_far_beyond_the_good_ones_counts_at_any_number_of_images() -> None:
    limit = Limit.of(np.array([1.0, 4.0]), np.array([-1.0, 2.0, 6.0]), 25)
    assert limit.energy == pytest.approx((1.25 + 1.7 / 5) * 4)
    scale = limit.energy
    np.testing.assert_allclose(limit.apply(np.array([0, 1, 1.1, 2]) * scale), [0, 0, 10, 100])
    # However few images: a score that was the lowest is above the highest from 1.1 times on.
    assert -1 - 3 + limit.apply(np.array([1.1 * scale]))[0] >= 6
    assert Limit.of(np.array([4.0]), np.array([0.0]), 10**6).energy == pytest.approx(5, rel=1e-2)
    assert np.isfinite(Limit.of(np.zeros(3), np.zeros(3), 3).apply(np.ones(1))).all()


@pytest.mark.parametrize("n", [5, 104])
@pytest.mark.parametrize("overall", [None, False])
def test_what_is_unlike_anything_learnt_scores_above_all_good_images(
    n: int, overall: bool | None
) -> None:
    model = FRE(preset="default", size=64, method=Method(overall=overall)).fit(
        [texture(seed) for seed in range(n)]
    )
    bars = np.repeat(np.array([0, 255, 60, 200], np.uint8), 24)[None, :, None]
    picture = np.ascontiguousarray(np.broadcast_to(bars, (96, 96, 3)))
    assert model.predict(picture).score > model.calibration.scores.max()


def settings(**given: Any) -> Configuration:
    return resolve(
        preset="default",
        backbone=None,
        default_backbone="efficientnet_lite0",
        method=Method(**given),
    )


def head_of(
    extractor: FeatureExtractor,
    features: Features,
    plan: DetectorPlan,
    folds: list[NDArray[np.intp]],
) -> Head:
    rows = HeldRows(features, extractor.layouts)
    fitted = fit_detector(rows, plan, Folds.of(folds), extractor.inspected)
    (head,), _ = read_out([fitted], plan, extractor)
    return head


def test_layers_are_chosen_by_stride() -> None:
    chosen = plan_detector(get_backbone())
    assert chosen.names == ["blocks.2", "blocks.4", "blocks.5"]
    assert chosen.layers == (
        LayerPlan("blocks.2", "position", 1, in_score=False, in_map=True),
        LayerPlan("blocks.4", "position", 1, in_score=True, in_map=True),
        LayerPlan("blocks.5", "image", 1, in_score=True, in_map=False),
    )
    assert chosen.overall == "blocks.4"


def test_layers_of_ones_own() -> None:
    own = plan_detector(get_backbone(), ["blocks.1", "blocks.3", "blocks.3"])
    assert own.names == ["blocks.1", "blocks.3"]
    assert [part.pool for part in own.layers] == [1, 1, 2]
    (one,) = plan_detector(get_backbone(), ["blocks.3"]).layers
    assert one == LayerPlan("blocks.3", "position", 1, in_score=True, in_map=True)
    two = plan_detector(
        get_backbone(), ["blocks.2", "blocks.4"], settings(scope="patch", pool=[1, 2])
    )
    assert two.layers == (
        LayerPlan("blocks.2", "patch", 1, in_score=True, in_map=True),
        LayerPlan("blocks.4", "patch", 2, in_score=True, in_map=True),
    )
    counted = plan_detector(get_backbone(), None, settings(score_layers=["blocks.2"]))
    assert [part.in_score for part in counted.layers] == [True, False, False]
    mapped = plan_detector(get_backbone(), None, settings(map_layers=["blocks.2", "blocks.5"]))
    assert [part.in_map for part in mapped.layers] == [True, False, True]


def test_mistakes_in_layers() -> None:
    with pytest.raises(BackboneError, match=r"blocks\.6"):
        plan_detector(get_backbone(), ["a", "b", "c"])
    with pytest.raises(OptionError, match="list of names"):
        plan_detector(get_backbone(), "blocks.2")
    with pytest.raises(OptionError, match="scope takes one value, or one for each of the 3"):
        plan_detector(get_backbone(), None, settings(scope=["patch", "image"]))
    with pytest.raises(OptionError, match=r"'blocks\.1' can't count for the score"):
        plan_detector(get_backbone(), None, settings(score_layers=["blocks.1"]))


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("n", [12, 104])
@pytest.mark.parametrize("size", [(64, 64), (96, 68)])
def test_the_graph_computes_what_the_calibration_computed(
    runtime: str, n: int, size: tuple[int, int]
) -> None:
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"needs fre-vision[{runtime}]")
    backbone = get_backbone()
    layers = plan_detector(backbone, None, settings(variance=0.9))
    extractor = FeatureExtractor(backbone, layers.names, Preparation(Geometry(size)))
    features = extractor.extract([texture(seed, size) for seed in range(n)])
    fitted = head_of(extractor, features, layers, make_folds(n))
    assert (fitted.fusion.veto is not None) == (n >= 100)
    model = fused_model(extractor.network, backbone.normalisation, [fitted], size, calibrated([1]))
    images = np.stack([texture(seed, size) for seed in range(500, 505)])
    images[2:, 20:40, 20:40] = 255
    opened = open_runtime(model.SerializeToString(), [SCORE, MAP], runtime=runtime)
    score, anomaly_map = opened.run(images)

    fine, middle, coarse = extractor.split(extractor.run(images))
    energies = [
        fitted.subspaces[0].squared_residuals(fine, 40),
        fitted.subspaces[1].squared_residuals(middle, 112),
        np.square(fitted.subspaces[2].residual(coarse))
        .reshape(5, fitted.layouts[2].channels, -1)
        .sum(axis=1)
        .astype(np.float32),
    ]
    layout, subspace = fitted.overall
    h, w = layout.grid
    assert (h % 2, w % 2) == (0, 0) or size != (64, 64)
    pooled = FeatureExtractor(backbone, layout.layer, Preparation(Geometry(size)), pool=2).run(
        images
    )
    overall = np.square(subspace.residual(pooled)).sum(axis=1) / layout.dimension
    expected = fitted.fusion.scores(energies, overall)
    np.testing.assert_allclose(score, expected, rtol=1e-3, atol=1e-3)
    for ours, reference in zip(anomaly_map, fitted.fusion.maps(energies), strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-3 * np.abs(reference).max())
    assert score[2:].min() > score[:2].max()


def test_a_subspace_that_is_both_coarse_and_overall_is_stored_once() -> None:
    backbone, size = get_backbone(), (64, 64)
    layers = plan_detector(backbone, ["blocks.2", "blocks.4", "blocks.4"], settings(variance=0.9))
    extractor = FeatureExtractor(backbone, layers.names, Preparation(Geometry(size)))
    features = extractor.extract([texture(seed, size) for seed in range(104)])
    folds = make_folds(104)
    fitted = head_of(extractor, features, layers, folds)
    layout, subspace = fitted.overall
    assert fitted.subspaces[-1] is subspace
    model = fused_model(extractor.network, backbone.normalisation, [fitted], size, calibrated([1]))
    stored = [tensor for tensor in model.graph.initializer if tensor.dims[:1] == [layout.dimension]]
    assert [list(tensor.dims) for tensor in stored if len(tensor.dims) == 2] == [
        [layout.dimension, subspace.rank]
    ]
    images = np.stack([texture(500, size), np.full((*size, 3), 255, np.uint8)])
    (score,) = open_runtime(model.SerializeToString(), [SCORE]).run(images)
    fine, middle = extractor.split(extractor.run(images))
    pooled = FeatureExtractor(backbone, layout.layer, Preparation(Geometry(size)), pool=2).run(
        images
    )
    squares = np.square(subspace.residual(pooled)).reshape(2, layout.channels, -1).sum(axis=1)
    energies = [
        fitted.subspaces[0].squared_residuals(fine, 40),
        fitted.subspaces[1].squared_residuals(middle, 112),
        squares.astype(np.float32),
    ]
    overall = squares.sum(axis=1) / layout.dimension
    assert fitted.fusion.veto is not None
    assert fitted.fusion.veto.apply(overall)[1] > 0
    np.testing.assert_allclose(score, fitted.fusion.scores(energies, overall), rtol=1e-3)


def test_large_arrays_are_stored_in_half_precision() -> None:
    model = FRE(preset="default", size=64).fit([texture(seed) for seed in range(6)])
    stored = onnx.load_from_string(model.data).graph.initializer
    named = {tensor.name: tensor.data_type for tensor in stored}
    for name in ("place_complement", "place_complement_2", "basis"):
        assert named[name] == onnx.TensorProto.FLOAT16


def test_from_three_images_on(tmp_path: Path) -> None:
    for n in (3, 5):
        model = FRE(preset="default", size=64).fit([texture(seed) for seed in range(n)])
        good, bad = texture(50), texture(50).copy()
        bad[30:60, 30:60] = 255
        assert model.predict(bad).score > model.predict(good).score


def test_the_model_says_what_is_in_it(tmp_path: Path) -> None:
    model = FRE(preset="default", size=64).fit([texture(seed) for seed in range(6)])
    assert model.metadata["preset"] == "default"
    assert model.metadata["backbone"]["layers"] == ["blocks.2", "blocks.4", "blocks.5"]
    scopes = [part["scope"] for part in model.metadata["subspaces"]]
    assert scopes == ["position", "position", "image", "image"]
    again = load(model.save(tmp_path / "m.onnx"))
    assert again.predict(texture(7)).score == model.predict(texture(7)).score
    twice = FRE(preset="default", size=64).fit([texture(seed) for seed in range(6)])
    assert twice.predict(texture(7)).score == model.predict(texture(7)).score


@pytest.mark.slow
def test_screws_are_told_apart_better_than_by_the_reference(screws: Path) -> None:
    result = evaluate(FRE(preset="default").fit(screws), screws)
    assert result.image_auroc >= 0.945
    assert result.pixel_auroc >= 0.985
    assert result.aupro >= 0.94


@pytest.mark.slow
def test_tiles_are_told_apart_better_than_by_the_reference(tiles: Path) -> None:
    result = evaluate(FRE(preset="default").fit(tiles), tiles)
    assert result.image_auroc >= 0.982
    assert result.aupro >= 0.74
