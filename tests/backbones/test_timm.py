"""Networks of timm: the exported graphs against PyTorch, and what can be wrong with weights."""

from __future__ import annotations

import importlib.util
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from conftest import shared, texture
from fre import FRE
from fre.backbones import get_backbone
from fre.errors import BackboneError, DatasetError, MissingDependencyError
from fre.images.decode import find_images, read_resized
from fre.onnx_tools.builder import IR_VERSION, OPSET
from fre.runtimes.runtime import open_runtime

torch = pytest.importorskip("torch", reason="needs fre-vision[torch]")
timm = pytest.importorskip("timm", reason="needs fre-vision[torch]")


def create(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, **options).eval()
    # As they are created, batch norms do nothing; these would show if one were left out.
    generator = torch.Generator().manual_seed(1)
    for key, value in model.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return model


def save(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    model = create("resnet18")
    return model, save(model.state_dict(), tmp_path_factory.mktemp("weights") / "resnet18.pth")


def run(model: onnx.ModelProto, images: np.ndarray, runtime: str = "onnxruntime") -> list[Any]:
    names = [output.name for output in model.graph.output]
    return open_runtime(model.SerializeToString(), names, runtime=runtime).run(images)


def intermediates(model: Any, images: np.ndarray, indices: list[int]) -> list[np.ndarray]:
    """What timm itself gives for some entries of a model's ``feature_info``."""
    with torch.inference_mode():
        features = model.forward_intermediates(
            torch.from_numpy(images), indices=indices, intermediates_only=True
        )
    return [feature.numpy() for feature in features]


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.slow
def test_resnet18_on_real_images_equals_timm() -> None:
    weights = shared("weights", "resnet18_layer3.safetensors")
    backbone = get_backbone("resnet18", weights=weights)
    assert backbone.reference_layer == "layer3"
    assert backbone.default_size == (256, 256)
    assert [(layer.name, layer.stride, layer.channels) for layer in backbone.layers] == [
        ("act1", 2, 64),
        ("layer1", 4, 64),
        ("layer2", 8, 128),
        ("layer3", 16, 256),
        ("layer4", 32, 512),
    ]
    photos = find_images(shared("data", "screw", "train"))[:2]
    photos += find_images(shared("data", "magnetic_tile", "train"))[:2]
    pixels = np.stack([read_resized(photo, (256, 256))[0] for photo in photos])
    mean, std = backbone.normalisation.mean, backbone.normalisation.std
    x = ((pixels - np.array(mean)) / std).astype(np.float32).transpose(0, 3, 1, 2)

    import safetensors.torch

    reference = timm.create_model(
        "resnet18", pretrained=False, features_only=True, out_indices=(1, 2, 3)
    ).eval()
    reference.load_state_dict(safetensors.torch.load_file(weights), strict=False)
    with torch.inference_mode():
        theirs = reference(torch.from_numpy(x))
    ours = run(backbone.graph(["layer1", "layer2", "layer3"], (256, 256)), x)
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other.numpy())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layers", "size"),
    [
        ("resnet50", ["layer1", "layer3"], (96, 64)),
        ("wide_resnet50_2", ["layer3"], (64, 64)),
        ("efficientnet_b5", ["blocks.4"], (64, 96)),
        ("vgg16_bn", ["features.42"], (64, 64)),
    ],
)
def test_the_graph_equals_pytorch_on_both_runtimes(
    name: str, layers: list[str], size: tuple[int, int], tmp_path: Path
) -> None:
    # The classifier of VGG is six times the rest of it.
    model = create(name, **({"num_classes": 0} if name == "vgg16_bn" else {}))
    indices = [i for i, info in enumerate(model.feature_info) if info["module"] in layers]
    backbone = get_backbone(name, weights=save(model.state_dict(), tmp_path / "w.pth"))
    assert backbone.reference_layer == layers[-1]
    graph = backbone.graph(layers, size)
    x = noise(3, 3, *size)
    theirs = intermediates(model, x, indices)
    ours = run(graph, x)
    for mine, other, layer in zip(ours, theirs, layers, strict=True):
        assert_close(mine, other)
        assert backbone.layer(layer).channels == mine.shape[1]
        assert backbone.layer(layer).stride == size[0] // mine.shape[2]
    if importlib.util.find_spec("openvino"):
        for mine, other in zip(run(graph, x, "openvino"), ours, strict=True):
            assert_close(mine, other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_small_patch14_dinov2", (70, 98)),
        ("vit_small_patch14_reg4_dinov2", (70, 70)),
    ],
)
def test_patch_tokens_are_a_feature_map(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    model = create(name)
    backbone = get_backbone(name, weights=save(model.state_dict(), tmp_path / "w.pth"))
    assert [layer.name for layer in backbone.layers] == [f"blocks.{i}" for i in range(12)]
    assert backbone.reference_layer == "blocks.7"
    assert backbone.default_size == model.pretrained_cfg["input_size"][1:]
    graph = backbone.graph(["blocks.2", "blocks.7"], size)
    x = noise(3, 3, *size)
    model.set_input_size(img_size=size)
    theirs = intermediates(model, x, [2, 7])
    ours = run(graph, x)
    for mine, other in zip(ours, theirs, strict=True):
        assert_close(mine, other)
    assert not any("blocks.8" in tensor.name for tensor in graph.graph.initializer)
    if importlib.util.find_spec("openvino"):
        for mine, other in zip(run(graph, x, "openvino"), ours, strict=True):
            assert_close(mine, other)
    with pytest.raises(BackboneError, match=r"multiples of 14, not 100 x 96; try"):
        backbone.graph(["blocks.2"], (100, 96))


@pytest.mark.slow
def test_the_default_preset_reads_the_mean_of_middle_layers_of_a_transformer(
    tmp_path: Path,
) -> None:
    name, size = "vit_small_patch14_dinov2", (70, 70)
    model = create(name)
    weights = save(model.state_dict(), tmp_path / "w.pth")
    x = noise(2, 3, *size)
    (ours,) = run(get_backbone(name, weights=weights).graph(["blocks.6+blocks.7"], size), x)
    model.set_input_size(img_size=size)
    assert_close(ours, np.mean(intermediates(model, x, [6, 7]), axis=0))
    images = [np.random.default_rng(i).integers(0, 255, (70, 70, 3), np.uint8) for i in range(6)]
    fitted = FRE(name, weights=weights, size=70).fit(images)
    (layer,) = fitted.document.learning.layers
    assert (layer.layer, layer.scope) == ("blocks.6+blocks.7", "patch")
    prediction = fitted.predict(images[0])
    assert np.isfinite(prediction.score)
    assert prediction.anomaly_map.shape == (70, 70)
    backbone = get_backbone(name, weights=weights)
    with pytest.raises(BackboneError, match=r"has no layer 'blocks\.12'"):
        backbone.layer("blocks.6+blocks.12")


@pytest.mark.slow
def test_a_mean_needs_layers_of_one_shape(resnet18: tuple[Any, Path]) -> None:
    backbone = get_backbone("resnet18", weights=resnet18[1])
    expected = "layer2 128 channels at stride 8, layer3 256 channels at stride 16"
    with pytest.raises(BackboneError, match=expected):
        backbone.layer("layer2+layer3")


@pytest.mark.slow
def test_channels_last_becomes_channels_first(tmp_path: Path) -> None:
    model = create("mambaout_femto")
    assert model.output_fmt == "NHWC"
    backbone = get_backbone("mambaout_femto", weights=save(model.state_dict(), tmp_path / "w.pth"))
    x = noise(1, 3, 64, 96)
    (ours,) = run(backbone.graph(["stages.1"], (64, 96)), x)
    assert_close(ours, intermediates(model, x, [1])[0])


@pytest.mark.slow
def test_nothing_after_the_layer_is_in_the_graph(resnet18: tuple[Any, Path]) -> None:
    model, weights = resnet18
    graph = get_backbone("resnet18", weights=weights).graph(["layer2"], (64, 64))
    names = [tensor.name for tensor in graph.graph.initializer]
    assert "resnet18/layer2.1.conv2.weight" in names
    assert not any("layer3" in name or "layer4" in name for name in names)
    convolutions = [
        value.numel()
        for name, value in model.state_dict().items()
        if name.startswith(("conv1", "layer1", "layer2")) and value.ndim == 4
    ]
    used = sum(convolutions)
    # Beside them: a folded bias for each of the convolutions, and the graph.
    assert 4 * used < graph.ByteSize() < 4 * used + 30_000
    assert {node.op_type for node in graph.graph.node} == {"Conv", "Relu", "MaxPool", "Add"}


@pytest.mark.slow
def test_the_graph_is_plain_and_tells_nothing_of_this_machine(
    resnet18: tuple[Any, Path],
) -> None:
    graph = get_backbone("resnet18", weights=resnet18[1]).graph(["layer1"], (64, 96))
    onnx.checker.check_model(graph, full_check=True)
    assert graph.ir_version == IR_VERSION
    assert [(opset.domain, opset.version) for opset in graph.opset_import] == [("", OPSET)]
    (source,), (output,) = graph.graph.input, graph.graph.output
    dims = [d.dim_param or d.dim_value for d in source.type.tensor_type.shape.dim]
    assert (source.name, dims) == ("input", ["N", 3, 64, 96])
    dims = [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]
    assert (output.name, dims) == ("layer1", ["N", 64, 16, 24])
    data = graph.SerializeToString()
    assert b".py" not in data
    assert b"torch" not in data


@pytest.mark.slow
def test_any_module_with_a_feature_map_is_a_layer(resnet18: tuple[Any, Path]) -> None:
    model, weights = resnet18
    backbone = get_backbone("resnet18", weights=weights)
    layer = backbone.layer("layer2.0.bn1")
    assert (layer.stride, layer.channels) == (8, 128)
    # Its activation works in place, and the two names are of one tensor.
    graph = backbone.graph(["layer2.0.bn1", "layer1", "layer1.1"], (64, 64))
    x = noise(2, 3, 64, 64)
    with torch.inference_mode():
        y = model.maxpool(model.act1(model.bn1(model.conv1(torch.from_numpy(x)))))
        first = model.layer1(y)
        norm = model.layer2[0].bn1(model.layer2[0].conv1(first)).numpy()
    ours = run(graph, x)
    assert norm.min() < 0
    for mine, other in zip(ours, [norm, first.numpy(), first.numpy()], strict=True):
        assert_close(mine, other)


def test_unknown_layers_are_answered_with_the_known(resnet18: tuple[Any, Path]) -> None:
    backbone = get_backbone("resnet18", weights=resnet18[1])
    with pytest.raises(BackboneError, match=r"no layer 'layer9'; choose from: act1, layer1, .*4;"):
        backbone.graph(["layer9"], (64, 64))
    with pytest.raises(BackboneError, match="global_pool takes no part"):
        backbone.graph(["global_pool"], (64, 64))


def test_a_second_call_exports_nothing(
    resnet18: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = get_backbone("resnet18", weights=resnet18[1]).graph(["layer1"], (32, 32))
    monkeypatch.setattr(torch.onnx, "export", None)
    backbone = get_backbone("resnet18", weights=resnet18[1])
    assert backbone.graph(["layer1"], (32, 32)) == first
    with pytest.raises(BackboneError, match="can't be exported"):
        backbone.graph(["layer1"], (32, 64))


@pytest.mark.slow
def test_exporting_is_silent_and_deterministic(
    resnet18: tuple[Any, Path],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("FRE_CACHE", str(tmp_path / "one"))
    backbone = get_backbone("resnet18", weights=resnet18[1])
    first = backbone.graph(["act1"], (32, 32))
    monkeypatch.setenv("FRE_CACHE", str(tmp_path / "two"))
    assert backbone.graph(["act1"], (32, 32)).SerializeToString() == first.SerializeToString()
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET


@pytest.mark.parametrize("nest", ["plain", "state_dict", "model", "parallel", "safetensors"])
def test_weights_files_of_all_kinds(resnet18: tuple[Any, Path], nest: str, tmp_path: Path) -> None:
    state = {k: v for k, v in resnet18[0].state_dict().items() if not k.startswith("fc.")}
    file = tmp_path / "w"
    match nest:
        case "parallel":
            save({"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, file)
        case "safetensors":
            import safetensors.torch

            safetensors.torch.save_file(state, file)
        case "plain":
            save(state, file)
        case _:
            save({nest: state, "epoch": 3}, file)
    ours = get_backbone("resnet18", weights=file)._model.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in state.items())


@pytest.mark.slow
def test_only_the_tensors_in_use_are_needed(resnet18: tuple[Any, Path], tmp_path: Path) -> None:
    state = {k: v for k, v in resnet18[0].state_dict().items() if "num_batches" not in k}
    state = {k: v for k, v in state.items() if not k.startswith(("layer3", "layer4"))}
    del state["layer2.1.bn1.running_var"]
    backbone = get_backbone("resnet18", weights=save(state, tmp_path / "w.pth"))
    backbone.graph(["layer1"], (32, 32))
    lacks = r"w\.pth: the weights lack the tensor layer2\.1\.bn1\.running_var, needed .* layer2"
    with pytest.raises(BackboneError, match=lacks):
        backbone.graph(["layer2"], (32, 32))
    with pytest.raises(BackboneError, match=r"and \d+ more, needed by .* layer3"):
        backbone.graph(["layer3"], (32, 32))


def test_weights_that_do_not_fit(resnet18: tuple[Any, Path], tmp_path: Path) -> None:
    state = resnet18[0].state_dict()
    file = save({**state, "conv1.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"\(64, 3, 3, 3\), where resnet18 needs \(64, 3, 7, 7"):
        get_backbone("resnet18", weights=file)
    file = save({"stem.weight": torch.zeros(3)}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match="none of its tensors belongs to resnet18"):
        get_backbone("resnet18", weights=file)
    file = save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match="no tensors"):
        get_backbone("resnet18", weights=file)
    with pytest.raises(BackboneError, match="absent: can't read the weights"):
        get_backbone("resnet18", weights=tmp_path / "absent")


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(__file__).parent / "malice-was-here",)


def test_code_in_a_weights_file_is_not_run(resnet18: tuple[Any, Path], tmp_path: Path) -> None:
    torch.save({"conv1.weight": Malice()}, tmp_path / "new.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Malice()))
    (tmp_path / "cut.pth").write_bytes(resnet18[1].read_bytes()[:100_000])
    (tmp_path / "cut.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    for file in ("new.pth", "old.pth", "cut.pth", "cut.safetensors"):
        with pytest.raises(BackboneError, match="neither safetensors nor"):
            get_backbone("resnet18", weights=tmp_path / file)
    assert not (Path(__file__).parent / "malice-was-here").exists()


def test_without_network_or_file_there_are_two_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BackboneError, match=r"--weights FILE, or train once where the network"):
        get_backbone("resnet18")


def test_unknown_names() -> None:
    with pytest.raises(BackboneError, match=r"'resnet19'; did you mean .*resnet18.*lite0"):
        get_backbone("resnet19")
    with pytest.raises(BackboneError, match=r"can't build resnet18\.nonsense"):
        get_backbone("resnet18.nonsense")


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "timm" else find(name)
    )
    with pytest.raises(MissingDependencyError, match=r"resnet18 needs .* 'fre-vision\[torch\]'"):
        get_backbone("resnet18")
    with pytest.raises(
        BackboneError, match=r"called 'x'.*efficientnet_lite0.*'fre-vision\[torch\]'"
    ):
        get_backbone("x")


@pytest.mark.slow
def test_training_and_predicting_with_it(resnet18: tuple[Any, Path], tmp_path: Path) -> None:
    from fre.detector import FRE

    images = [texture(seed, (64, 64)) for seed in range(6)]
    detector = FRE(backbone="resnet18", weights=resnet18[1], layers=["layer2"], size=64)
    unusable = r"sees no difference between them.* weights are unusable"
    with pytest.raises(DatasetError, match=unusable):
        detector.fit(images)  # the shifted batch norms leave nothing above 0 there
    weights = save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    model = FRE(backbone="resnet18", weights=weights, layers=["layer2"], size=64).fit(images)
    assert model.metadata["backbone"]["name"] == "resnet18"
    assert model.metadata["backbone"]["layers"] == ["layer2"]
    assert np.isfinite(model.predict(images[0]).score)
