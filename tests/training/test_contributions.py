"""What each layer adds to a region; and tensors of a graph as further outputs."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import onnx
import pytest

from conftest import texture
from fre import FRE, Method
from fre.model import Model
from fre.onnx_tools.protobuf import with_outputs
from fre.runtimes.runtime import open_runtime
from fre.scoring.graph import MAP, SCORE
from fre.scoring.regions import find_regions, label

SIZE = (96, 128)


def fitted(**options: Any) -> Model:
    return FRE(**({"size": SIZE} | options)).fit([texture(seed, SIZE) for seed in range(8)])


def defective() -> np.ndarray:
    image = texture(9, SIZE).copy()
    image[20:36, 30:50] = 255
    image[70:80, 100:115] = 0
    return image


def needs(runtime: str) -> None:
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"needs fre-vision[{runtime}]")


@pytest.fixture(scope="module")
def model() -> Model:
    return fitted()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_contributions_add_up_to_the_map_before_it_is_smoothed(model: Model, runtime: str) -> None:
    needs(runtime)
    opened = Model(model.data, runtime=runtime)
    prediction = opened.predict(defective())
    assert len(prediction.regions) >= 1
    tensors = model.metadata["layer_maps"]
    assert list(tensors) == ["blocks.2", "blocks.4"]
    data = with_outputs(model.data, list(tensors.values()))
    maps = open_runtime(data, list(tensors.values()), runtime=runtime).run(defective()[None])
    grid = maps[0].shape[1:]
    assert all(part.shape == (1, *grid) for part in maps)
    unsmoothed = sum(part[0] for part in maps)
    # The graph's own map, without the enlargement and the smoothing, at the nearest location.
    nearest = np.repeat(np.repeat(unsmoothed, SIZE[0] // grid[0], 0), SIZE[1] // grid[1], 1)
    labels, _ = label(prediction.mask)
    for region in prediction.regions:
        x, y = region.peak_xy
        inside = labels == labels[y, x]
        total = sum(region.layers.values())
        assert total == pytest.approx(float(nearest[inside].mean()), rel=1e-4)
        # Smoothing moves little of it beyond the region.
        assert total == pytest.approx(float(prediction.anomaly_map[inside].mean()), rel=0.35)
        assert list(region.to_dict()["layers"]) == list(tensors)


@pytest.mark.slow
def test_contributions_in_tiles_and_letterboxes() -> None:
    for options in ({"size": None, "tile": 64, "overlap": 16}, {"image_fit": "letterbox"}):
        prediction = fitted(**options).predict(defective())
        assert prediction.regions
        labels, _ = label(prediction.mask)
        for region in prediction.regions[:1]:
            x, y = region.peak_xy
            mean = float(prediction.anomaly_map[labels == labels[y, x]].mean())
            assert sum(region.layers.values()) == pytest.approx(mean, rel=0.35)


@pytest.mark.slow
def test_a_layer_that_is_read_twice_has_two_names() -> None:
    model = fitted(layers=["blocks.4", "blocks.4"], method=Method(scope=["position", "image"]))
    assert list(model.metadata["layer_maps"]) == ["blocks.4/position", "blocks.4/image"]
    three = ["blocks.3", "blocks.4", "blocks.4"]
    method = Method(scope="position", pool=[1, 1, 2], map_layers=three)
    same = fitted(layers=three, method=method)
    names = list(same.metadata["layer_maps"])
    assert names == ["blocks.3", "blocks.4/position", "blocks.4/position/2"]
    assert list(same.predict(defective()).regions[0].layers) == names


def test_the_reference_has_no_contributions() -> None:
    model = fitted(preset="reference", backbone="efficientnet_lite0")
    assert "layer_maps" not in model.metadata
    assert [region.layers for region in model.predict(defective()).regions][:1] == [{}]


def test_layer_maps_of_any_size_are_averaged_over_a_region() -> None:
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[:4, :4] = 5
    anomaly_map[6:, 6:] = 3
    parts = {
        "a": np.array([[1, 2], [3, 4]], np.float32),
        "b": np.arange(16, dtype=np.float32).reshape(4, 4),
    }
    first, second = find_regions(anomaly_map, 1.0, (16, 16), parts)
    assert first.layers == {"a": 1.0, "b": 2.5}
    assert second.layers == {"a": 4.0, "b": 15.0}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_further_outputs_leave_the_model_as_it_is(model: Model, runtime: str) -> None:
    needs(runtime)
    names = list(model.metadata["layer_maps"].values())
    data = with_outputs(model.data, names)
    assert data.startswith(model.data)
    proto, before = onnx.load_from_string(data), onnx.load_from_string(model.data)
    assert [value.name for value in proto.graph.output] == [
        *(value.name for value in before.graph.output),
        *names,
    ]
    del proto.graph.output[4:]
    assert proto == before
    images = np.stack([texture(5, SIZE), defective()])
    plain = open_runtime(model.data, [SCORE, MAP], runtime=runtime).run(images)
    score, anomaly_map, *parts = open_runtime(data, [SCORE, MAP, *names], runtime=runtime).run(
        images
    )
    np.testing.assert_allclose(score, plain[0], rtol=1e-5)
    np.testing.assert_allclose(anomaly_map, plain[1], rtol=1e-5, atol=1e-4)
    assert len(parts) == len(names)
    assert all(np.isfinite(part).all() for part in parts)


def test_a_name_longer_than_a_byte_counts() -> None:
    """Lengths are written in seven bits a byte."""
    name = "x" * 300
    proto = onnx.load_from_string(with_outputs(b"", [name, "y"]))
    assert [value.name for value in proto.graph.output] == [name, "y"]
