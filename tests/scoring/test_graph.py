"""The assembled graph against the formulas, on every runtime that is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from conftest import texture
from fitted_models import calibrated
from fre import FRE
from fre.backbones import get_backbone
from fre.errors import OptionError
from fre.features.extractor import FeatureExtractor
from fre.features.layout import FeatureLayout, pooling_matrix
from fre.images.geometry import Geometry
from fre.images.preparation import Preparation
from fre.images.resize import resize_map
from fre.runtimes.runtime import open_runtime
from fre.scoring.graph import MAP, SCORE, detector_model
from fre.scoring.maps import interpolation_matrix
from fre.subspaces.autoencoder import Kind, LinearAutoencoder
from fre.subspaces.gram import Gram
from fre.subspaces.protocols import FitOptions

CALIBRATION = calibrated([1, 2, 3])


def test_interpolation_equals_pillow() -> None:
    rng = np.random.default_rng(0)
    for h, w, H, W in [(8, 8, 256, 256), (3, 5, 7, 31), (1, 4, 9, 4), (6, 6, 6, 6)]:
        small = rng.normal(size=(h, w)).astype(np.float32)
        ours = interpolation_matrix(h, H) @ small @ interpolation_matrix(w, W).T
        np.testing.assert_allclose(ours, resize_map(small, (H, W)), atol=1e-5)


def test_pooling_covers_every_location_evenly() -> None:
    np.testing.assert_array_equal(pooling_matrix(4, 2), [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
    for source, target in [(13, 7), (16, 8), (9, 5), (3, 3)]:
        matrix = pooling_matrix(source, target)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-6)
        assert (matrix.sum(axis=0) > 0).all()


def test_layout_refuses_a_pool_that_does_not_fit() -> None:
    assert FeatureLayout("x", 8, (16, 12), 2).dimension == 8 * 8 * 6
    assert FeatureLayout("x", 8, (13, 4), 3).pooled == (5, 2)
    for pool in (0, 5):
        with pytest.raises(OptionError, match="pool must be between 1 and 4"):
            FeatureLayout("x", 8, (16, 4), pool)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(
    ("size", "pool"), [((64, 64), 2), ((96, 160), 1), ((96, 96), 4), ((65, 50), 2)]
)
def test_graph_equals_the_formulas(runtime: str, size: tuple[int, int], pool: int) -> None:
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"needs fre-vision[{runtime}]")
    backbone = get_backbone()
    extractor = FeatureExtractor(backbone, "blocks.2", Preparation(Geometry(size)), pool=pool)
    images = np.stack([texture(seed, size) for seed in range(9)])
    X = extractor.run(images)
    layout = extractor.layout
    subspace = Gram(X[:6]).fit(FitOptions(rank=3))
    model = detector_model(
        extractor.network, backbone.normalisation, (layout, subspace), size, CALIBRATION
    )
    opened = open_runtime(model.SerializeToString(), [SCORE, MAP], runtime=runtime)
    score, anomaly_map = opened.run(images)

    squared = np.square(subspace.residual(X)).reshape(len(X), layout.channels, *layout.pooled)
    residuals = squared.sum(axis=1)
    total = residuals.sum(axis=(1, 2))
    np.testing.assert_allclose(score, total, rtol=1e-4, atol=1e-6 * total.max())
    assert (score.shape, anomaly_map.shape) == ((9,), (9, *size))
    assert (score.dtype, anomaly_map.dtype) == (np.float32, np.float32)
    for ours, reference in zip(anomaly_map, residuals, strict=True):
        expected = resize_map(reference.astype(np.float32), size)
        np.testing.assert_allclose(ours, expected, atol=1e-4 * expected.max() + 1e-6)


def test_features_are_the_pooled_layer(good_folder: object) -> None:
    size = (64, 96)
    images = np.stack([texture(seed, size) for seed in range(3)])
    fine = FeatureExtractor(get_backbone(), "blocks.1", Preparation(Geometry(size)))
    coarse = FeatureExtractor(get_backbone(), "blocks.1", Preparation(Geometry(size)), pool=2)
    channels, (h, w) = fine.layout.channels, fine.layout.grid
    maps = fine.run(images).reshape(3, channels, h // 2, 2, w // 2, 2)
    expected = maps.mean(axis=(3, 5)).reshape(3, -1)
    np.testing.assert_allclose(coarse.run(images), expected, rtol=1e-4, atol=1e-5)


def test_constant_images_make_a_graph_without_a_basis() -> None:
    images = np.full((4, 64, 64, 3), 90, np.uint8)
    backbone = get_backbone()
    extractor = FeatureExtractor(backbone, "blocks.1", Preparation(Geometry((64, 64))), pool=2)
    subspace = Gram(extractor.run(images)).fit()
    assert subspace.rank == 0
    model = detector_model(
        extractor.network,
        backbone.normalisation,
        (extractor.layout, subspace),
        (64, 64),
        CALIBRATION,
    )
    scores, _ = open_runtime(model.SerializeToString(), [SCORE, MAP]).run(images)
    np.testing.assert_allclose(scores, 0, atol=1e-4)


@pytest.mark.parametrize("name", ["features", "images", "score", "anomaly_map", "mean", "cast"])
def test_a_layer_may_have_the_name_of_one_of_our_tensors(name: str, tmp_path: Path) -> None:
    backbone = get_backbone().graph(["blocks.1"], (64, 64))
    graph = backbone.graph
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [name if tensor == "blocks.1" else tensor for tensor in names]
    graph.output[0].name = name
    onnx.save(backbone, tmp_path / "net.onnx")
    images = [texture(seed, (64, 64)) for seed in range(4)]
    model = FRE(tmp_path / "net.onnx", layers=[name], size=64).fit(images)
    good, bad = texture(9, (64, 64)), texture(9, (64, 64)).copy()
    bad[20:40, 20:40] = 255
    assert model.predict(bad).score > model.predict(good).score


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["tied", "plain"])
def test_a_trained_autoencoder_in_the_graph_equals_its_formula(runtime: str, kind: Kind) -> None:
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"needs fre-vision[{runtime}]")
    backbone, size = get_backbone(), (64, 64)
    extractor = FeatureExtractor(backbone, "blocks.2", Preparation(Geometry(size)), pool=2)
    images = np.stack([texture(seed, size) for seed in range(5)])
    X, layout = extractor.run(images), extractor.layout
    rng = np.random.default_rng(0)

    def matrix() -> np.ndarray:
        return (rng.normal(size=(layout.dimension, 7)) / layout.dimension**0.5).astype(np.float32)

    encoder = matrix()
    autoencoder = LinearAutoencoder(
        kind=kind,
        encoder=encoder,
        encoder_bias=rng.normal(size=7).astype(np.float32),
        decoder=encoder if kind == "tied" else matrix(),
        decoder_bias=rng.normal(size=layout.dimension).astype(np.float32),
        n=5,
        energy=1.0,
        residual_energy=0.5,
        losses=(1.0,),
    )
    model = detector_model(
        extractor.network, backbone.normalisation, (layout, autoencoder), size, CALIBRATION
    )
    weights = [t for t in model.graph.initializer if list(t.dims) == [layout.dimension, 7]]
    assert len(weights) == (1 if kind == "tied" else 2)
    opened = open_runtime(model.SerializeToString(), [SCORE], runtime=runtime)
    expected = np.square(autoencoder.residual(X)).sum(axis=1)
    np.testing.assert_allclose(opened.run(images)[0], expected, rtol=1e-5)
