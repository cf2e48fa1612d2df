"""Features that are not finite stop a training, and the error names the image and the layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from conftest import texture
from fre import FRE, Autoencoder, Method
from fre.cli.common import suggest_skipping
from fre.errors import ImageError
from fre.features.stream import FeatureError


@pytest.fixture(scope="module")
def overflowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose second layer overflows where an image is bright."""
    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32) / 8
    constants = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array(100, np.float32), "factor"),
    ]
    window = {"kernel_shape": [3, 3], "strides": [8, 8], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["images", "weights"], ["fine"], **window),
        helper.make_node("MaxPool", ["fine"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        # White is 2 after normalisation, and e^200 more than a float32 holds; grey adds nothing.
        helper.make_node("ReduceMax", ["images"], ["brightest"], keepdims=0),
        helper.make_node("Mul", ["brightest", "factor"], ["scaled"]),
        helper.make_node("Exp", ["scaled"], ["power"]),
        helper.make_node("Add", ["pooled", "power"], ["coarse"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("coarse", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = tmp_path_factory.mktemp("network") / "own.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Dark textures; the fifth has a white square."""
    paths = []
    for seed in range(6):
        pixels = texture(seed) // 4
        if seed == 4:
            pixels[40:60, 40:60] = 255
        paths.append(tmp_path / f"{seed}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def detector(network: Path, **parameters: Any) -> FRE:
    return FRE(backbone=str(network), layers=["fine", "coarse"], size=64, **parameters)


@pytest.mark.parametrize(
    "parameters",
    [
        *({"method": Method(scope=scope)} for scope in ("position", "image", "patch")),
        {"memory": 1e-6},
    ],
    ids=str,
)
def test_features_that_are_not_finite_name_the_image_and_the_layer(
    overflowing: Path, images: list[Path], parameters: dict[str, Any]
) -> None:
    with pytest.raises(FeatureError, match=r"4\.png: .* NaN or infinite features of coarse: ") as e:
        detector(overflowing, **parameters).fit(images, skip_unreadable=True)
    assert e.value.path == images[4]
    # The image can be read, so that to skip unreadable ones would not help.
    assert suggest_skipping(e.value, images) is e.value
    assert "--skip-unreadable" in str(suggest_skipping(ImageError(images[4], "damaged"), images))


def test_an_array_is_named_by_its_place(overflowing: Path, images: list[Path]) -> None:
    pixels = [np.asarray(Image.open(path)) for path in images]
    with pytest.raises(FeatureError, match=r"^image 4: .* infinite features of coarse: "):
        detector(overflowing).fit(pixels)


@pytest.mark.slow
def test_an_autoencoder_is_not_trained_on_them(overflowing: Path, images: list[Path]) -> None:
    pytest.importorskip("torch", reason="needs fre-vision[torch]")
    fitted = FRE(
        backbone=str(overflowing), layers=["coarse"], size=64, subspace=Autoencoder(rank=2)
    )
    with pytest.raises(FeatureError, match=r"4\.png: .* features of coarse: "):
        fitted.fit(images)


def test_a_model_refuses_an_image_with_such_features(overflowing: Path, images: list[Path]) -> None:
    white = images.pop(4)
    model = detector(overflowing).fit(images)
    with pytest.raises(ImageError, match=r"4\.png: its (score|anomaly map) is not finite"):
        model.predict(white)
    with pytest.raises(ImageError, match=r"4\.png: its (score|anomaly map) is not finite"):
        model.update([white])
