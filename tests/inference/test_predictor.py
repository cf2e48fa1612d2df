"""Decisions and regions of a loaded model: as its graph decides, on every runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from scipy import ndimage

from conftest import texture
from fitted_models import calibrated, defective
from fre import FRE, Method, Model
from fre.errors import ImageError
from fre.onnx_tools.initialisers import with_initialisers
from fre.runtimes.runtime import open_runtime
from fre.scoring.calibration import Calibration
from fre.types import ImageArray

OUTPUTS = ["score", "p_value", "anomalous"]
KINDS: dict[str, dict[str, Any]] = {
    "default": {"size": 64},
    "reference": {"size": 64, "preset": "reference", "backbone": "efficientnet_lite0"},
    "patch": {"size": 64, "layers": ["blocks.4"], "method": Method(scope="patch")},
    "per tile": {"tile": 64, "overlap": 32, "per_tile": True},
}
fitted: dict[str, Model] = {}


def model_of(kind: str) -> Model:
    if kind not in fitted:
        fitted[kind] = FRE(**KINDS[kind]).fit([texture(seed) for seed in range(11)])
    return fitted[kind]


@pytest.fixture(params=["onnxruntime", "openvino"])
def runtime(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"needs fre-vision[{request.param}]")
    return str(request.param)


def outputs(model: Model, images: list[ImageArray], runtime: str) -> list[np.ndarray]:
    """Score, p-value and decision of the graph: (n, tiles) each."""
    opened = open_runtime(model.data, OUTPUTS, runtime=runtime)
    found = []
    for image in images:
        inputs = [one.pixels for one in model.preparation.inputs(model.preparation.load(image))]
        heads = None if model.geometry.tiling is None else np.arange(len(inputs))
        found.append(opened.run(np.stack(inputs), heads))
    return [np.stack(column) for column in zip(*found, strict=True)]


def assert_decided(calibration: Calibration, found: list[np.ndarray]) -> None:
    scores, p_values, anomalous = found
    assert (p_values.dtype, anomalous.dtype) == (np.float32, np.bool_)
    assert scores.shape == p_values.shape == anomalous.shape
    expected = np.vectorize(calibration.p_value)(scores.astype(float))
    # Division may be a product with the reciprocal.
    np.testing.assert_allclose(p_values, expected, rtol=3e-7)
    np.testing.assert_array_equal(anomalous, np.vectorize(calibration.anomalous)(scores))


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_decides_as_the_calibration_does(kind: str, runtime: str) -> None:
    model = model_of(kind)
    images = [texture(0), texture(50), texture(51), defective(texture(52))]
    found = outputs(model, images, runtime)
    assert_decided(model.calibration, found)
    assert found[2][-1].any()

    scores = found[0].astype(float)
    exact = float(np.sort(scores.max(axis=1))[1])
    # Calibration scores that are those of these images, and a far higher one, which is set aside.
    known = np.sort(np.r_[scores.ravel(), exact, np.linspace(scores.min(), exact, 20), 1e30])
    odd = calibrated(known)
    assert odd.n_odd > 0
    for calibration in (
        odd.at_threshold(exact),
        odd.with_odd(keep=True).at_threshold(exact),
        odd.at_threshold(np.nextafter(np.float32(exact), np.float32(-np.inf))),
        odd.at_rate(0.5),
    ):
        changed = model.with_calibration(calibration)
        again = outputs(changed, images, runtime)
        np.testing.assert_array_equal(again[0], found[0])
        assert_decided(calibration, again)
        at_limit = again[0] == np.float32(exact)
        assert at_limit.any()
        assert (again[2][at_limit] == (calibration.threshold < exact)).all()


@pytest.mark.parametrize("kind", ["default", "per tile"])
def test_an_image_is_decided_by_its_highest_tile(kind: str) -> None:
    model = model_of(kind)
    images = [texture(50), defective(texture(52))]
    _, p_values, anomalous = outputs(model, images, "onnxruntime")
    for image, p_value, found in zip(images, p_values, anomalous, strict=True):
        prediction = model.predict(image)
        assert prediction.p_value == pytest.approx(p_value.min())
        assert prediction.anomalous == found.any()


@pytest.mark.parametrize(
    ("kind", "broken"), [("default", "gain"), ("reference", "mean"), ("patch", "gain")]
)
def test_a_score_that_is_not_a_number_is_anomalous(kind: str, broken: str, runtime: str) -> None:
    model = model_of(kind)
    graph = onnx.load_model_from_string(model.data).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # A file with NaN is refused: these numbers are finite, and their products are not.
    huge = {
        name: np.resize(np.array([3e38, -3e38], np.float32), values.shape)
        for name, values in arrays.items()
        if name.startswith(broken)
    }
    damaged = model.with_data(with_initialisers(model.data, huge))
    score, p_value, anomalous = outputs(damaged, [texture(50)], runtime)
    assert np.isnan(score).all()
    assert anomalous.all()
    np.testing.assert_allclose(p_value, model.calibration.attainable_rate, rtol=3e-7)
    with pytest.raises(ImageError, match="score is not finite, so it is neither good nor anomal"):
        damaged.predict(texture(50))


def decided(model: Model, change: Callable[[Calibration], Calibration]) -> Model:
    return model.with_calibration(change(model.calibration))


@pytest.mark.parametrize("kind", KINDS)
def test_good_images_have_no_region_unless_asked(kind: str) -> None:
    model = decided(model_of(kind), lambda found: replace(found, pixel_threshold=-1e9))
    for image in (texture(50), texture(51)):
        prediction = model.predict(image)
        assert not prediction.anomalous
        assert prediction.regions == ()
        assert not prediction.mask.any()
        asked = model.predict(image, all_regions=True)
        assert asked.regions
        assert asked.mask.all()
        assert (asked.score, asked.anomalous) == (prediction.score, False)
    (many,) = model.predict_many([texture(50)])
    (asked_many,) = model.predict_many([texture(50)], all_regions=True)
    assert many.regions == ()
    assert asked_many.regions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("high", [False, True])
def test_every_anomalous_image_has_a_region(kind: str, high: bool) -> None:
    """Also where no pixel reaches the pixel threshold."""
    model = decided(model_of(kind), lambda found: found.at_threshold(-1e9))
    if high:
        model = decided(model, lambda found: replace(found, pixel_threshold=1e9))
    images = [texture(50), defective(texture(51)), np.full((40, 50, 3), 90, np.uint8)]
    for image in images:
        prediction = model.predict(image)
        assert prediction.anomalous
        assert_regions_fit(prediction)
        if high:
            assert prediction.pixel_threshold < 1e9
            assert prediction.regions[0].peak == pytest.approx(prediction.input_map.max())


def assert_regions_fit(prediction: Any) -> None:
    """At least one region, each with a pixel in the mask, and no mask outside their boxes."""
    assert prediction.regions
    assert prediction.mask.shape == prediction.image_size
    covered = np.zeros(prediction.image_size, bool)
    for region in prediction.regions:
        x, y, width, height = region.bbox
        covered[y : y + height, x : x + width] = True
        assert prediction.mask[region.peak_xy[1], region.peak_xy[0]]
    # Enlarging the map may move the border by a pixel of the map.
    step = int(np.ceil(max(np.divide(prediction.image_size, prediction.input_map.shape))))
    near = ndimage.binary_dilation(covered, np.ones((3, 3)), iterations=step)
    assert near[prediction.mask].all()


def test_a_map_without_any_positive_value_has_its_region_where_it_is_inspected() -> None:
    roi = np.zeros((96, 96), np.uint8)
    roi[24:72, 24:72] = 1
    model = FRE(size=64, roi=roi).fit([texture(seed) for seed in range(6)])
    model = decided(model, lambda found: found.at_threshold(-1e9))
    loaded = model.preparation.load(texture(50))
    inside = model.roi.at_size((64, 64)) if model.roi is not None else None
    assert inside is not None
    for peak in (-3.0, 0.0):
        found = np.where(inside, np.float32(-5), np.float32(0))
        found[30, 30] = peak
        layers = [np.zeros((8, 8), np.float32)] * 2
        prediction = model._prediction(loaded, (1.0, [found, *layers]), False)
        (region,) = prediction.regions
        assert (region.peak, region.peak_xy) == (peak, (45, 45))
        assert prediction.mask[45, 45]
        assert not prediction.mask[:20].any()
    constant = np.where(inside, np.float32(-5), np.float32(0))
    prediction = model._prediction(loaded, (1.0, [constant, *layers]), False)
    assert len(prediction.regions) == 1
