"""The model file: prediction, streams, and every way in which it can be wrong."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from conftest import texture
from fre import FRE, load
from fre.errors import DatasetError, ImageError, ModelFileError, OptionError
from fre.inference.prediction import Prediction
from fre.model import Model
from fre.onnx_tools.check import check_model


def scratched(seed: int) -> np.ndarray:
    image = texture(seed).copy()
    image[40:50, 20:70] = 255
    return image


@pytest.fixture(scope="module")
def model() -> Model:
    return FRE(size=96).fit([texture(seed) for seed in range(40)])


def test_defects_score_higher_and_are_found(model: Model) -> None:
    good = [model.predict(texture(seed)) for seed in range(100, 120)]
    bad = [model.predict(scratched(seed)) for seed in range(100, 120)]
    assert max(p.score for p in good) < min(p.score for p in bad)
    assert all(p.anomalous for p in bad)
    assert sum(p.anomalous for p in good) <= 2
    for prediction in bad:
        assert prediction.p_value == pytest.approx(1 / 41)
        x, y, width, height = prediction.regions[0].bbox
        assert x < 45 < x + width
        assert y < 45 < y + height
        row, column = np.unravel_index(prediction.anomaly_map.argmax(), (96, 96))
        assert 15 <= column <= 75
        assert 30 <= row <= 60


def test_regions_are_where_the_map_is_above_the_pixel_threshold(model: Model) -> None:
    prediction = model.predict(scratched(0))
    above = prediction.input_map >= model.calibration.pixel_threshold
    assert sum(region.area for region in prediction.regions) == above.sum()
    assert prediction.regions[0].peak == pytest.approx(prediction.input_map.max())


def test_map_has_the_size_of_the_image_and_one_scale(model: Model) -> None:
    large = np.asarray(Image.fromarray(scratched(3)).resize((300, 200)))
    prediction = model.predict(large)
    assert prediction.image_size == (200, 300)
    assert prediction.anomaly_map.shape == (200, 300)
    assert prediction.anomaly_map.dtype == np.float32
    assert prediction.anomaly_map.max() == pytest.approx(prediction.input_map.max(), rel=0.05)


def test_batches_and_workers_do_not_change_the_scores(model: Model) -> None:
    images = [texture(seed) for seed in range(20)]
    alone = [model.predict(image).score for image in images]
    for options in ({"batch_size": 1}, {"batch_size": 7, "workers": 1}, {"batch_size": 64}):
        together = [p.score for p in model.predict_many(images, **options)]
        np.testing.assert_allclose(together, alone, rtol=1e-4)


def test_predict_many_streams(model: Model) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield texture(taken)

    stream = model.predict_many(endless(), batch_size=4)
    for _ in range(6):
        next(stream)
    stream.close()
    assert taken < 40


def test_a_model_predicts_while_it_streams(model: Model) -> None:
    images = [texture(seed) for seed in range(20)]
    alone = [model.predict(image) for image in images]
    for index, streamed in enumerate(model.predict_many(images, batch_size=3)):
        between = model.predict(images[index])
        assert between.score == alone[index].score
        assert streamed.score == pytest.approx(alone[index].score, rel=1e-4)
        np.testing.assert_allclose(streamed.input_map, alone[index].input_map, rtol=0, atol=1e-3)


def test_what_the_images_raise_comes_through(model: Model) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from (texture(seed) for seed in range(40))
        raise ValueError("the camera is off")

    with pytest.raises(ValueError, match="the camera is off"):
        list(model.predict_many(broken()))
    before = threading.active_count()
    stream = model.predict_many(texture(seed) for seed in range(10**6))
    next(stream)
    stream.close()
    patience = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < patience:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_predict_many_reads_folders_and_keeps_the_order(model: Model, good_folder: Path) -> None:
    names = [p.path.name for p in model.predict_many(good_folder) if p.path]
    assert names == [f"{index}.png" for index in range(12)]


def test_an_unreadable_image_is_returned_or_raised(
    model: Model, good_folder: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    files = sorted(good_folder.iterdir())
    files.insert(5, bad)
    results = list(model.predict_many(files, errors="return"))
    assert [isinstance(result, ImageError) for result in results] == [i == 5 for i in range(13)]
    assert [result.path for result in results] == files
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        list(model.predict_many(files))
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        model.predict(bad)
    with pytest.raises(DatasetError, match="no such file or folder"):
        list(model.predict_many(tmp_path / "nowhere"))
    with pytest.raises(OptionError, match="at least 1"):
        list(model.predict_many(files, batch_size=0))


def test_a_prediction_as_json(model: Model, tmp_path: Path) -> None:
    Image.fromarray(scratched(1)).save(tmp_path / "x.png")
    values = json.loads(json.dumps(model.predict(tmp_path / "x.png").to_dict()))
    assert list(values) == ["path", "score", "p_value", "anomalous", "regions"]
    keys = ["bbox", "area", "peak", "peak_xy", "centroid", "layers"]
    assert list(values["regions"][0]) == keys
    assert isinstance(model.predict(texture(0)), Prediction)
    assert model.predict(texture(0)).to_dict()["path"] is None


def foreign_model() -> bytes:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()


def with_metadata(data: bytes, value: str) -> bytes:
    proto = onnx.load_from_string(data)
    proto.metadata_props[0].value = value
    return proto.SerializeToString()


def test_files_that_are_not_our_models(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(ModelFileError, match=r"m\.onnx: can't read the model: No such file"):
        load(path)
    for damaged in (b"", b"plain text", model.data[:1000], model.data[: len(model.data) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"m\.onnx: .*expected a model written by fre"):
            load(path)
    path.write_bytes(foreign_model())
    with pytest.raises(ModelFileError, match="not one of fre"):
        load(path)
    path.write_bytes(with_metadata(model.data, "{"))
    with pytest.raises(ModelFileError, match="damaged"):
        load(path)
    later = json.dumps({**model.metadata, "format": 7, "fre_version": "9.1"})
    path.write_bytes(with_metadata(model.data, later))
    with pytest.raises(ModelFileError, match=r"format 7 .* reads format 2.*9\.1"):
        load(path)
    partial = {key: value for key, value in model.metadata.items() if key != "calibration"}
    path.write_bytes(with_metadata(model.data, json.dumps(partial)))
    with pytest.raises(ModelFileError, match="lack 'calibration'"):
        load(path)
    with pytest.raises(OptionError, match="no runtime is called 'x'"):
        Model(model.data, runtime="x")


def test_a_damaged_network_is_an_error_when_the_file_is_opened(
    model: Model, tmp_path: Path
) -> None:
    proto = onnx.load_from_string(model.data)
    proto.graph.node[3].op_type = "Nonsense"
    path = tmp_path / "m.onnx"
    whole = bytearray(model.data)
    whole[200:240] = b"\xff" * 40
    for damaged in (proto.SerializeToString(), bytes(whole)):
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"m\.onnx: .*expected a model written by fre"):
            load(path)


def test_every_truncation_is_a_clear_error(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    rng = np.random.default_rng(0)
    for length in rng.integers(0, len(model.data), 40):
        path.write_bytes(model.data[:length])
        with pytest.raises(ModelFileError):
            load(path)


@given(st.dictionaries(st.text(min_size=1), st.text(max_size=400), max_size=5))
def test_metadata_are_read_as_they_were_written(properties: dict[str, str]) -> None:
    proto = onnx.ModelProto(ir_version=8, producer_name="someone", model_version=2**40)
    proto.opset_import.add(version=18)
    proto.graph.name = "g"
    proto.graph.initializer.add(raw_data=bytes(300), data_type=TensorProto.FLOAT, dims=[75])
    helper.set_model_props(proto, properties)
    assert check_model(proto.SerializeToString()).metadata == properties


@given(st.binary(max_size=200))
@example(b"8\x00")  # a graph's number, but encoded as a number
def test_what_is_no_model_is_nothing_but_a_clear_error(noise: bytes) -> None:
    try:
        check_model(noise)
    except ModelFileError:
        pass
    else:
        assert bytes([7 << 3 | 2]) in noise  # a graph, of whatever is in it


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("output", ["score", "anomaly_map"])
def test_a_result_that_is_not_finite_is_an_error_of_its_image(
    model: Model, output: str, value: float
) -> None:
    """One image of a batch; the others have their results."""
    proto = onnx.load_from_string(model.data)
    for node in proto.graph.node:
        node.output[:] = ["sound" if name == output else name for name in node.output]
    proto.graph.initializer.append(helper.make_tensor("unsound", TensorProto.FLOAT, [1], [value]))
    # Only bright images have it: x + 0 * log(mean of the image <= 200) and the like give no choice.
    nodes = [
        helper.make_node("Cast", ["images"], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["as_float", "pixel_axes"], ["brightest"], keepdims=0),
        helper.make_node("Greater", ["brightest", "limit"], ["chosen"]),
    ]
    chosen = "chosen"
    if output == "anomaly_map":
        nodes.append(helper.make_node("Reshape", ["chosen", "map_shape"], ["chosen_map"]))
        chosen = "chosen_map"
    nodes.append(helper.make_node("Where", [chosen, "unsound", "sound"], [output]))
    # The decision, the last nodes of the graph, follows from the score.
    first = next(i for i, node in enumerate(proto.graph.node) if "score" in node.input)
    decision = [*proto.graph.node[first:]]
    del proto.graph.node[first:]
    proto.graph.node.extend([*nodes, *decision])
    for name, kind, values in (
        ("pixel_axes", TensorProto.INT64, [1, 2, 3]),
        ("map_shape", TensorProto.INT64, [-1, 1, 1]),
    ):
        proto.graph.initializer.append(helper.make_tensor(name, kind, [len(values)], values))
    proto.graph.initializer.append(helper.make_tensor("limit", TensorProto.FLOAT, [1], [250.0]))
    broken = Model(proto.SerializeToString())
    good, bad = np.minimum(texture(0), 240), scratched(1)
    with pytest.raises(ImageError, match="not finite"):
        broken.predict(bad)
    results = list(broken.predict_many([good, bad, good], errors="return"))
    assert [type(result) for result in results] == [Prediction, ImageError, Prediction]
    with pytest.raises(ImageError, match=f"its {output.replace('_', ' ')} is not finite"):
        list(broken.predict_many([good, bad]))
