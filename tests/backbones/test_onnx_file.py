"""Networks of the user's own, in ONNX files."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conftest import texture
from fre.backbones import Layer, get_backbone
from fre.detector import FRE
from fre.errors import BackboneError, OptionError
from fre.runtimes.runtime import open_runtime

LAYERS = (Layer("c1", 4, 8), Layer("r1", 4, 8), Layer("c2", 16, 16), Layer("maps", 16, 16))


def network(
    *,
    batch: int | str = "N",
    size: tuple[int | str, int | str] = ("H", "W"),
    channels: int = 3,
    kind: int = TensorProto.FLOAT,
    opset: int = 18,
    fixed_inside: bool = False,
    outputs: tuple[str, ...] = ("maps", "logits"),
) -> onnx.ModelProto:
    """Two convolutions and a classifier."""
    rng = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) / 8, name)

    constants = [weights("w1", 8, 3, 3, 3), weights("w2", 16, 8, 3, 3), weights("w3", 16, 10)]
    window = {"kernel_shape": [3, 3], "strides": [4, 4], "pads": [1, 1, 1, 1]}
    nodes = [helper.make_node("Conv", ["images", "w1"], ["c1"], **window)]
    activated = "c1"
    if fixed_inside:
        shape = np.array([1, 8, 16, 16])
        constants.append(numpy_helper.from_array(shape, "shape"))
        nodes.append(helper.make_node("Reshape", ["c1", "shape"], ["same"]))
        activated = "same"
    nodes += [
        helper.make_node("Relu", [activated], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], **window),
        helper.make_node("Relu", ["c2"], ["maps"]),
    ]
    if opset < 18:
        nodes.append(helper.make_node("ReduceMean", ["maps"], ["mean"], axes=[2, 3], keepdims=0))
    else:
        constants.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
        nodes.append(helper.make_node("ReduceMean", ["maps", "axes"], ["mean"], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["mean", "w3"], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("images", kind, [batch, channels, *size])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        constants,
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=7 if opset < 15 else 8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "own.onnx"


def run(model: onnx.ModelProto, images: np.ndarray, runtime: str = "onnxruntime") -> np.ndarray:
    name = model.graph.output[0].name
    return open_runtime(model.SerializeToString(), [name], runtime=runtime).run(images)[0]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_layers_size_and_digest(file: Path) -> None:
    onnx.save(network(), file)
    backbone = get_backbone(str(file))
    assert backbone.name == "own.onnx"
    assert backbone.layers == LAYERS
    assert backbone.reference_layer == "maps"
    assert backbone.default_size == (256, 256)
    assert backbone.weights_sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert backbone.normalisation.mean == pytest.approx((123.675, 116.28, 103.53))


@pytest.mark.parametrize(("layer", "weights"), [("maps", ["w1", "w2"]), ("r1", ["w1"])])
def test_the_graph_is_cut_at_the_layer(file: Path, layer: str, weights: list[str]) -> None:
    onnx.save(network(), file)
    graph = get_backbone(file).graph([layer], (64, 96))
    assert [t.name for t in graph.graph.initializer] == [f"own.onnx/{name}" for name in weights]
    x = noise(3, 3, 64, 96)
    ours = run(graph, x)
    np.testing.assert_allclose(ours, run(network(outputs=(layer,)), x), atol=1e-6)
    if importlib.util.find_spec("openvino"):
        np.testing.assert_allclose(run(graph, x, "openvino"), ours, atol=1e-5)


def test_a_fixed_size_is_the_only_size(file: Path) -> None:
    onnx.save(network(size=(64, 96)), file)
    backbone = get_backbone(file)
    assert backbone.default_size == (64, 96)
    backbone.graph(["maps"], (64, 96))
    with pytest.raises(BackboneError, match="images of 64 x 96 pixels, not 256 x 256"):
        backbone.graph(["maps"], (256, 256))


def test_a_fixed_batch_is_freed(file: Path) -> None:
    onnx.save(onnx.shape_inference.infer_shapes(network(batch=1, size=(64, 64))), file)
    x = noise(5, 3, 64, 64)
    ours = run(get_backbone(file).graph(["maps"], (64, 64)), x)
    np.testing.assert_allclose(ours, run(network(outputs=("maps",)), x), atol=1e-6)


def test_a_batch_fixed_within_the_network_is_refused(file: Path) -> None:
    onnx.save(network(batch=1, size=(64, 64), fixed_inside=True), file)
    backbone = get_backbone(file)
    with pytest.raises(BackboneError, match="batches of 1 only; export it with a dynamic"):
        backbone.graph(["maps"], (64, 64))
    backbone.graph(["c1"], (64, 64))


def test_an_older_operator_set_is_converted(file: Path) -> None:
    onnx.save(network(opset=13), file)
    graph = get_backbone(file).graph(["maps"], (64, 64))
    assert graph.opset_import[0].version == 18
    x = noise(2, 3, 64, 64)
    np.testing.assert_allclose(run(graph, x), run(network(outputs=("maps",)), x), atol=1e-6)


def test_normalisation_from_the_metadata(file: Path) -> None:
    model = network()
    helper.set_model_props(model, {"fre.normalisation": '{"mean": [0, 0, 0], "std": [1, 2, 255]}'})
    onnx.save(model, file)
    normalisation = get_backbone(file).normalisation
    assert (normalisation.mean, normalisation.std) == ((0, 0, 0), (1, 2, 255))
    for wrong in ("", "[]", '{"mean": [0, 0, 0], "std": [1, 1, 0]}', '{"mean": [0], "std": [1]}'):
        helper.set_model_props(model, {"fre.normalisation": wrong})
        onnx.save(model, file)
        with pytest.raises(BackboneError, match="must be JSON with 'mean' and 'std'"):
            get_backbone(file)


def test_what_is_no_feature_map_is_refused(file: Path) -> None:
    onnx.save(network(), file)
    backbone = get_backbone(file)
    with pytest.raises(
        BackboneError, match=r"logits is no feature map: .*\(1, 10\).*: maps; inner"
    ):
        backbone.layer("logits")
    with pytest.raises(BackboneError, match=r"no layer 'nope'; .*: maps; .*: c1, r1, c2$"):
        backbone.graph(["nope"], (64, 64))
    onnx.save(network(outputs=("logits",)), file)
    with pytest.raises(BackboneError, match=r"\(none\); inner tensors that are: c1, r1, c2, maps"):
        FRE(backbone=str(file), size=64).fit([texture(seed) for seed in range(3)])


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (network(channels=1), r"found float32 \(N, 1, H, W\)"),
        (network(kind=TensorProto.UINT8), r"found uint8 \(N, 3, H, W\)"),
    ],
)
def test_inputs_that_are_not_images(file: Path, model: onnx.ModelProto, found: str) -> None:
    onnx.save(model, file)
    with pytest.raises(BackboneError, match=found):
        get_backbone(file)


@pytest.mark.parametrize("keep", [0, 10, 300, 0.5, 0.99])
def test_damaged_files(file: Path, keep: float) -> None:
    whole = network().SerializeToString()
    file.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(BackboneError, match=r"own\.onnx: not an ONNX model, or a damaged one"):
        get_backbone(file)


def test_files_that_are_not_there_or_not_onnx(file: Path) -> None:
    with pytest.raises(BackboneError, match="can't read the network: No such file"):
        get_backbone(file)
    file.write_text("an ordinary text\n" * 100)
    with pytest.raises(BackboneError, match="not an ONNX model"):
        get_backbone(file)


def test_weights_in_a_file_beside_it_are_refused(file: Path) -> None:
    onnx.save(network(), file, save_as_external_data=True, size_threshold=0, location="own.bin")
    with pytest.raises(BackboneError, match=r"'w1' are in another file.*merge them"):
        get_backbone(file)
    onnx.save(onnx.load(file), file)
    assert get_backbone(file).layers


def test_control_flow_and_functions_are_refused(file: Path) -> None:
    """No runtime sees them: a loop may never end."""
    model = network()
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    model.graph.node.append(helper.make_node("Loop", ["", ""], [], body=body))
    onnx.save(model, file)
    with pytest.raises(BackboneError, match="it holds subgraphs"):
        get_backbone(file)
    model = network()
    model.functions.add(name="f", domain="d")
    onnx.save(model, file)
    with pytest.raises(BackboneError, match="it holds functions"):
        get_backbone(file)


def test_weights_do_not_go_with_it(file: Path) -> None:
    onnx.save(network(), file)
    with pytest.raises(OptionError, match="holds its own weights"):
        get_backbone(file, weights="more.pth")


def test_training_and_predicting_with_it(file: Path) -> None:
    onnx.save(network(), file)
    images = [texture(seed) for seed in range(8)]
    model = FRE(backbone=str(file), size=96).fit(images)
    assert model.metadata["backbone"]["name"] == "own.onnx"
    assert np.isfinite(model.predict(images[0]).score)
