"""A model in integers: what is fitted anew, what is compared, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from commands import fre
from conftest import texture
from fre import FRE, Method, load
from fre.backbones import get_backbone
from fre.backbones.model_file import FLOAT_FIRST, is_quantized
from fre.datasets import training_images
from fre.errors import ModelFileError, OptionError
from fre.images.decode import find_images
from fre.inference.rebuild import network_of
from fre.model import Model
from fre.quantize import Quantization, quantize, rank_correlation
from fre.runtimes.runtime import open_runtime

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {"size": 64},
    "given": {
        "size": (64, 96),
        "image_fit": "letterbox",
        "layers": ["blocks.2", "blocks.4"],
        "method": Method(
            scope=["patch", "image"],
            score_layers=["blocks.4"],
            top=0.1,
            rank=5,
            variance=0.9,
            folds=3,
        ),
        "seed": 4,
        "frozen": True,
    },
    "reference": {"size": 64, "preset": "reference", "backbone": "efficientnet_lite0"},
    "tiles": {"tile": 64, "overlap": 16, "per_tile": True},
}


QUICK = "default"


@pytest.fixture(
    scope="module",
    params=[QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in SETTINGS if n != QUICK)],
)
def pair(request: pytest.FixtureRequest, good_folder: Path) -> tuple[Model, Quantization]:
    model = FRE(**SETTINGS[request.param], false_alarm_rate=0.1).fit(good_folder)
    return model, quantize(model, good_folder)


def test_the_model_is_the_same_but_for_its_network(pair: tuple[Model, Quantization]) -> None:
    model, result = pair
    small = result.model
    for key in ("preset", "preprocessing", "parameters", "reading", "score_layers", "layer_maps"):
        assert small.metadata.get(key) == model.metadata.get(key), key
    kept = ("layer", "scope", "kind", "channels", "grid", "pool", "dimension", "n")
    for ours, theirs in zip(small.metadata["subspaces"], model.metadata["subspaces"], strict=True):
        assert {key: ours[key] for key in kept} == {key: theirs[key] for key in kept}
    assert ("learning" in small.metadata) == ("learning" in model.metadata)
    assert result.same_images
    assert small.metadata["backbone"]["name"] == "efficientnet_lite0 int8"
    assert small.metadata["backbone"]["precision"] == "int8"
    assert Model(small.data, runtime="auto")._for_one.name == "onnxruntime"
    network = network_of(small)
    convolutions = [n for n in network._network.graph.node if n.op_type == "Conv"]
    assert is_quantized(network._network)
    assert len(convolutions) > 20
    constants = {tensor.name: tensor for tensor in network._network.graph.initializer}
    in_float = [node.input[1] in constants for node in convolutions]
    assert in_float == [index < FLOAT_FIRST for index in range(len(convolutions))]


def test_the_threshold_is_that_of_the_integers(
    pair: tuple[Model, Quantization], good_folder: Path
) -> None:
    model, result = pair
    calibration = result.model.calibration
    assert len(calibration.scores) == len(model.calibration.scores)
    assert not np.array_equal(calibration.scores, model.calibration.scores)
    assert calibration.false_alarm_rate == 0.1
    # 12 good images: of those that were learnt, at most the share that may be is above it.
    above = [p.anomalous for p in result.model.predict_many(find_images(good_folder))]
    assert np.mean(above) <= 0.2


def test_a_hole_scores_above_the_threshold(
    pair: tuple[Model, Quantization], good_folder: Path
) -> None:
    _, result = pair
    image = texture(100)
    image[30:60, 30:60] = 255
    prediction = result.model.predict(image)
    assert prediction.anomalous
    assert result.model.predict(texture(3)).score < prediction.score


def test_a_network_is_taken_out_as_it_was_built_in(good_folder: Path) -> None:
    backbone = get_backbone()
    model = FRE(size=64).fit(good_folder)
    embedded = network_of(model)
    names = [layer.name for layer in embedded.layers]
    assert names == model.metadata["backbone"]["layers"]
    assert [backbone.layer(name) for name in names] == list(embedded.layers)
    assert embedded.normalisation == pytest.approx(backbone.normalisation)
    image = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    ours, theirs = (
        open_runtime(network.graph(names, (64, 64)).SerializeToString(), names).run(image)
        for network in (embedded, backbone)
    )
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.slow
def test_a_plain_refit_gives_the_same_calibration(good_folder: Path) -> None:
    """What the metadata hold is enough: without quantisation nothing changes."""
    from fre.quantize import _extractor
    from fre.training.sources import Sources

    for settings in SETTINGS.values():
        model = FRE(**settings).fit(good_folder)
        parameters = json.loads(json.dumps(model.metadata["parameters"]))
        embedded = network_of(model)
        extractor = _extractor(embedded, model, parameters, 0)
        detector = FRE.from_parameters(parameters)
        trained = detector._trainer(extractor).fit(Sources(training_images(good_folder)))
        again = Model(trained.data)
        np.testing.assert_allclose(again.calibration.scores, model.calibration.scores, rtol=1e-6)
        assert again.calibration.threshold == pytest.approx(model.calibration.threshold)
        assert again.metadata["parameters"] == model.metadata["parameters"]


@pytest.mark.slow
def test_a_threshold_that_was_changed_is_kept_in_its_rate(good_folder: Path) -> None:

    model = FRE(size=64).fit(good_folder)
    changed = model.with_calibration(model.calibration.at_rate(0.3))
    assert quantize(changed, good_folder).model.calibration.false_alarm_rate == 0.3


def test_models_that_can_not_be_quantised(
    pair: tuple[Model, Quantization], good_folder: Path
) -> None:
    model, result = pair
    with pytest.raises(ModelFileError, match="quantised already"):
        quantize(result.model, good_folder)
    proto = onnx.load_from_string(model.data)
    (entry,) = [entry for entry in proto.metadata_props if entry.key == "fre"]
    document = json.loads(entry.value)
    del document["parameters"]
    entry.value = json.dumps(document)
    with pytest.raises(ModelFileError, match="does not say how it was trained"):
        quantize(Model(proto.SerializeToString()), good_folder)


def test_objections(pair: tuple[Model, Quantization]) -> None:
    _, result = pair
    before = replace(result.before, milliseconds=2.0)
    fine = replace(
        result, before=before, after=replace(result.after, milliseconds=1.0), correlation=0.96
    )
    assert fine.objections == ()
    slow = replace(fine, after=replace(result.after, milliseconds=2.0))
    assert [text[:16] for text in slow.objections] == ["it is not faster"]
    for correlation in (0.94, float("nan")):
        (objection,) = replace(fine, correlation=correlation).objections
        assert "below 0.95" in objection


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, good_folder: Path) -> Path:
    """A dataset: good images to train on, good ones and ones with a hole to test on."""
    root = tmp_path_factory.mktemp("parts")
    for seed in range(24):
        image = texture(seed)
        place = "train/good" if seed < 12 else "test/good" if seed < 18 else "test/hole"
        if seed >= 18:
            image[20:50, 20:50] = 255
        (root / place).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / place / f"{seed:02d}.png")
    return root


@pytest.fixture(scope="module")
def of_parts(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("of_parts") / "m.onnx"
    assert fre("train", parts, "-o", model, "--size", "64").returncode == 0
    return model


def test_the_command_line_quantises(parts: Path, of_parts: Path, tmp_path: Path) -> None:
    model, small = of_parts, tmp_path / "m8.onnx"
    written = tmp_path / "values.json"
    command = ("quantize", model, parts, "-o", small, "--dataset", parts, "--json", written)
    done = fre(*command, "--force")
    assert done.returncode == 0, done.stderr
    values = json.loads(written.read_text())
    assert values["model"] == str(small)
    assert values["same_images"] is True
    assert values["n_images"] == 12
    assert values["after"]["megabytes"] < values["before"]["megabytes"]
    assert values["after"]["evaluation"]["image_auroc"] == 1.0
    assert -1 <= values["correlation"] <= 1
    assert load(small).metadata["parameters"] == load(model).metadata["parameters"]
    for title in ("one image, ms", "file, MB", "expected false-alarm rate", "12 test images"):
        assert title in done.stdout


def test_a_model_that_is_not_worth_having_is_not_written(of_parts: Path, tmp_path: Path) -> None:
    small = tmp_path / "m8.onnx"
    # Noise instead of good images: of what the ranges and subspaces are then, nothing is left.
    noise = tmp_path / "noise"
    noise.mkdir()
    for seed in range(12):
        pixels = np.random.default_rng(seed).integers(0, 256, (96, 96, 3), np.uint8)
        Image.fromarray(pixels).save(noise / f"{seed}.png")
    done = fre("quantize", of_parts, noise, "-o", small)
    assert done.returncode == 2
    assert "expected false-alarm rate" in done.stdout
    assert "12 good images" in done.stdout
    remark, error = [line for line in done.stderr.splitlines() if "can't promise" not in line]
    assert "the model was trained on other images" in remark
    assert error.startswith(f"fre: error: {small}: not written: ")
    assert "below 0.95; --force writes it anyway" in error
    assert not small.exists()


numbers = st.lists(st.integers(-20, 20), min_size=2, max_size=30)


@given(st.data())
def test_rank_correlation_has_the_properties_of_spearmans(data: st.DataObject) -> None:
    a = data.draw(numbers)
    b = data.draw(st.lists(st.integers(-20, 20), min_size=len(a), max_size=len(a)))
    r = rank_correlation(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert np.isnan(r)
        return
    assert -1 - 1e-12 <= r <= 1 + 1e-12
    assert r == pytest.approx(rank_correlation(b, a))
    assert r == pytest.approx(-rank_correlation(a, [-x for x in b]))
    assert r == pytest.approx(rank_correlation([x**3 for x in a], b))
    assert rank_correlation(a, a) == pytest.approx(1)


def test_rank_correlation_equals_scipys() -> None:
    stats = pytest.importorskip("scipy.stats", reason="needs fre-vision[test]")
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(0, 9, (2, 30))
        assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    with pytest.raises(OptionError, match="equally long"):
        rank_correlation([1, 2], [1, 2, 3])
