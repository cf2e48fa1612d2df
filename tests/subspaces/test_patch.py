"""One subspace for all locations: PCA of all vectors, exactly mergeable."""

from __future__ import annotations

import importlib.util
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from conftest import texture
from fre import FRE, Method, load
from fre.backbones import get_backbone
from fre.features.extractor import FeatureExtractor
from fre.images.geometry import Geometry
from fre.images.preparation import Preparation
from fre.onnx_tools.protobuf import with_outputs
from fre.runtimes.runtime import open_runtime
from fre.scoring.graph import layer_map
from fre.subspaces.patch import PatchStatistics
from fre.subspaces.protocols import FitOptions

GRID = (3, 4)


def features(n: int, channels: int = 6, seed: int = 0) -> np.ndarray:
    """Vectors near a plane, the same everywhere: float32 (n, C * P)."""
    rng = np.random.default_rng(seed)
    plane = rng.normal(0, 3, (2, channels))
    vectors = rng.normal(0, 1, (n, 12, 2)) @ plane + rng.normal(0, 0.1, (n, 12, channels)) + 5
    return vectors.transpose(0, 2, 1).reshape(n, -1).astype(np.float32)


def rows(X: np.ndarray, places: np.ndarray | None = None, channels: int = 6) -> np.ndarray:
    """All vectors: (n * P, C)."""
    planes = X.reshape(len(X), channels, -1)
    planes = planes if places is None else planes[:, :, places]
    return planes.transpose(0, 2, 1).reshape(-1, channels).astype(np.float64)


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.97])
def test_it_is_the_pca_of_all_vectors(variance: float) -> None:
    X = features(20)
    subspace = PatchStatistics.of(X, GRID).fit(FitOptions(variance=variance))
    pca = PCA(n_components=variance, svd_solver="full").fit(rows(X))
    assert subspace.rank == pca.n_components_
    assert (subspace.n, subspace.grid, subspace.channels) == (20, GRID, 6)
    np.testing.assert_allclose(subspace.mean, pca.mean_, rtol=1e-6)
    assert subspace.kept_variance == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-9)
    left = rows(X) - pca.inverse_transform(pca.transform(rows(X)))
    expected = np.square(left).sum(axis=1).reshape(20, -1)
    energies = subspace.squared_residuals(X)
    assert energies.dtype == np.float32
    np.testing.assert_allclose(energies, expected, rtol=2e-2, atol=1e-3 * expected.max())


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 50), st.randoms())
@settings(max_examples=5)
def test_statistics_add_up_in_any_split_and_order(sizes: list[int], seed: int, random) -> None:
    X = features(sum(sizes), seed=seed)
    parts = [PatchStatistics.of(part, GRID) for part in np.split(X, np.cumsum(sizes)[:-1])]
    random.shuffle(parts)
    whole = PatchStatistics.of(X, GRID)
    for merged in (parts[0].merge(*parts[1:]), reduce(PatchStatistics.merge, parts)):
        assert merged.n == whole.n
        assert merged.pooled.n == whole.pooled.n == 12 * whole.n
        np.testing.assert_allclose(merged.pooled.mean, whole.pooled.mean, rtol=1e-9)
        largest = np.abs(whole.pooled.scatter).max()
        np.testing.assert_allclose(merged.pooled.scatter, whole.pooled.scatter, atol=1e-9 * largest)


def test_blocks_of_images_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    X = features(30)
    whole = PatchStatistics.of(X, GRID)
    monkeypatch.setattr("fre.subspaces.patch.BLOCK_BYTES", 8 * X.shape[1] * 7)
    parts = PatchStatistics.of(X, GRID)
    np.testing.assert_allclose(parts.pooled.scatter, whole.pooled.scatter, rtol=1e-9)
    assert parts.pooled.n == whole.pooled.n


def test_places_that_do_not_count_are_not_learnt() -> None:
    X = features(15)
    places = np.ones(12, bool)
    places[[0, 5, 11]] = False
    wild = X.reshape(15, 6, 12).copy()
    wild[:, :, ~places] = np.random.default_rng(1).normal(0, 100, (15, 6, 3))
    wild = wild.reshape(15, -1)
    ours = PatchStatistics.of(X, GRID, places)
    np.testing.assert_array_equal(
        ours.pooled.scatter, PatchStatistics.of(wild, GRID, places).pooled.scatter
    )
    np.testing.assert_allclose(ours.pooled.mean[0], rows(X, places).mean(axis=0), rtol=1e-6)
    assert ours.pooled.n == 15 * 9
    assert ours.fit().squared_residuals(wild).shape == (15, 12)


def test_constant_features_have_rank_zero() -> None:
    X = np.full((4, 72), 3, np.float32)
    subspace = PatchStatistics.of(X, GRID).fit()
    assert subspace.rank == 0
    assert subspace.kept_variance == 1.0
    assert not subspace.squared_residuals(X).any()
    np.testing.assert_allclose(subspace.squared_residuals(X + np.float32(1)), 6, rtol=1e-5)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_graph_equals_the_energies(runtime: str) -> None:
    """Without scales, a layer's part of the map is the root of its residual."""
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"needs fre-vision[{runtime}]")
    size, images = (64, 96), np.stack([texture(seed, (64, 96)) for seed in range(7)])
    method = Method(scope="patch", standardise="none")
    model = FRE(layers=["blocks.2"], size=size, method=method).fit(list(images[:6]))
    extractor = FeatureExtractor(get_backbone(), "blocks.2", Preparation(Geometry(size)))
    X = extractor.run(images)
    subspace = PatchStatistics.of(X[:6], extractor.layout.grid).fit()
    data = with_outputs(model.data, [layer_map(0)])
    (parts,) = open_runtime(data, [layer_map(0)], runtime=runtime).run(images)
    expected = np.sqrt(subspace.squared_residuals(X)).reshape(7, *extractor.layout.grid)
    np.testing.assert_allclose(parts, expected, rtol=5e-3, atol=5e-3 * expected.max())
    (described,) = [part for part in model.metadata["subspaces"] if part["scope"] == "patch"]
    assert described["rank"] == subspace.rank


def test_a_model_of_patches_sees_a_defect_that_no_position_saw() -> None:
    """And its file says what it is."""
    images = [texture(seed) for seed in range(4)]
    model = FRE(size=96, method=Method(scope="patch")).fit(images)
    assert [part["scope"] for part in model.metadata["subspaces"]] == ["patch"] * 3 + ["image"]
    bad = texture(9).copy()
    bad[60:76, 20:36] = 255
    good, wrong = model.predict(texture(9)), model.predict(bad)
    assert wrong.score > 3 * max(good.score, 1.0)
    y, x = np.unravel_index(wrong.anomaly_map.argmax(), (96, 96))
    assert max(abs(y - 68), abs(x - 28)) <= 16


def test_patches_are_saved_and_loaded(tmp_path) -> None:
    model = FRE(size=64, method=Method(scope="patch")).fit([texture(seed) for seed in range(4)])
    again = load(model.save(tmp_path / "m.onnx"))
    assert again.predict(texture(9)).score == model.predict(texture(9)).score
