"""anomalib's checkpoints: what is read of them, and that nothing of them is run."""

from __future__ import annotations

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fre.backbones.torch_archive import Inert, Tensor, TorchArchive
from fre.checkpoint import import_checkpoint
from fre.errors import (
    BackboneError,
    DatasetError,
    MissingDependencyError,
    ModelFileError,
    OptionError,
)

SIZE, RANK, DIMENSION = 64, 3, 256 * 2 * 2
"""ResNet-18's layer3 has 256 channels and a stride of 16, before pooling by 2."""
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
DESCRIPTION = {
    "class_path": "torchvision.transforms.v2.Compose",
    "init_args": {
        "transforms": [
            {
                "class_path": "torchvision.transforms.v2.Resize",
                "init_args": {
                    "size": [SIZE, SIZE],
                    "interpolation": "bilinear",
                    "max_size": None,
                    "antialias": True,
                },
            },
            {
                "class_path": "torchvision.transforms.v2.Normalize",
                "init_args": {"mean": MEAN, "std": STD, "inplace": False},
            },
        ]
    },
}


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="needs fre[torch], to make checkpoints")


@pytest.fixture(scope="module")
def network(torch: Any) -> Any:
    timm = pytest.importorskip("timm", reason="needs fre[torch], for the networks")
    torch.manual_seed(0)
    return timm.create_model(
        "resnet18", pretrained=False, features_only=True, exportable=True, out_indices=[3]
    ).eval()


@pytest.fixture(scope="module")
def content(torch: Any, network: Any) -> dict[str, Any]:
    """What anomalib 2.7 gives to ``torch.save``, but for the optimiser's state."""
    random = torch.Generator().manual_seed(1)
    state = OrderedDict(
        {
            "post_processor._image_threshold": torch.tensor(12.5),
            "model.fre_model.weight": torch.randn(RANK, DIMENSION, generator=random) / 30,
            "model.fre_model.decoder_bias": torch.rand(DIMENSION, generator=random),
            "model.fre_model.encoder_bias": torch.randn(RANK, generator=random),
        }
    )
    for name, tensor in network.state_dict().items():
        state[f"model.feature_extractor.feature_extractor.{name}"] = tensor
    return {
        "epoch": 3,
        "global_step": 9,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": state,
        "hyper_parameters": {
            "backbone": "resnet18",
            "layer": "layer3",
            "pre_trained": True,
            "pooling_kernel_size": 2,
            "input_dim": DIMENSION,
            "latent_dim": RANK,
        },
        "anomalib_components_enabled": {"pre_processor": True, "post_processor": True},
        "anomalib_pre_processor_config": {"transform": DESCRIPTION},
    }


Save = Callable[[dict[str, Any]], Path]


@pytest.fixture
def save(torch: Any, tmp_path: Path) -> Save:
    def write(content: dict[str, Any]) -> Path:
        path = tmp_path / "fre.ckpt"
        torch.save(content, path)
        return path

    return write


def zipped(data: bytes, path: Path, compression: int = zipfile.ZIP_STORED, **more: bytes) -> Path:
    """A file as torch.save writes it, of a pickle that it would not write."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, part in {"data.pkl": data, **more}.items():
            file.writestr(f"archive/{name}", part)
    return path


def read(path: Path) -> Any:
    with zipfile.ZipFile(path) as file:
        return TorchArchive(file).content


# The reader


def test_tensors_are_read_as_torch_reads_them(torch: Any, tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    saved = {
        "whole": base,
        "transposed": base.T,
        "part": base[1:3, ::2],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "half": base.half(),
        "double": base.double(),
        "integers": torch.arange(3),
        "parameter": torch.nn.Parameter(base[0]),
    }
    path = tmp_path / "tensors.pt"
    torch.save(saved, path)
    with zipfile.ZipFile(path) as file:
        ours = TorchArchive(file)
        for name, expected in torch.load(path, weights_only=True).items():
            assert isinstance(ours.content[name], Tensor)
            found = ours.values(ours.content[name])
            np.testing.assert_array_equal(found, expected.detach().numpy(), name)
            assert found.dtype == expected.detach().numpy().dtype


def test_a_network_of_real_size_is_read_as_torch_reads_it(
    torch: Any, content: dict[str, Any], save: Save
) -> None:
    path = save(content)
    with zipfile.ZipFile(path) as file:
        ours = TorchArchive(file)
        assert list(ours.content["state_dict"]) == list(content["state_dict"])
        for name, expected in content["state_dict"].items():
            np.testing.assert_array_equal(
                ours.values(ours.content["state_dict"][name]), expected.numpy(), name
            )


class Runs:
    """Writes a file when it is unpickled as pickles usually are."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call = call, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    hostile = {
        "function": Runs(Path.touch, marker),
        "eval": Runs(eval, f"__import__('pathlib').Path({str(marker)!r}).touch()"),
        "attribute": Runs(getattr, marker, "touch"),
        "nested": [Runs(print, Runs(Path.touch, marker))],
    }
    data = pickle.dumps(hostile, 2)
    found = read(zipped(data, tmp_path / "hostile.pt"))
    assert not marker.exists()
    assert isinstance(found["eval"], Inert)
    assert found["eval"].origin == "__builtin__.eval"
    pickle.loads(data)  # the other way it would have been run
    assert marker.exists()


def test_an_unknown_class_is_described_and_not_imported(tmp_path: Path) -> None:
    module = types.ModuleType("absent_module")
    exec("class Thing(dict):\n    pass\nclass Many(list):\n    pass", module.__dict__)
    thing, many = module.Thing(inner=1), module.Many([1, 2])
    thing.setting = "kept"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "absent_module", module)
        data = pickle.dumps({"thing": thing, "many": many, "after": 3}, 2)
    found = read(zipped(data, tmp_path / "unknown.pt"))
    assert "absent_module" not in sys.modules
    assert found["thing"].origin == "absent_module.Thing"
    assert found["thing"].state == {"setting": "kept"}
    assert isinstance(found["many"], Inert)
    assert found["after"] == 3


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def storage(count: int) -> bytes:
    """The pickle of a storage of float32."""
    return (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + f"I{count}\n".encode()
        + b"tQ"
    )


def tensor(count: int, offset: int, shape: str, strides: str) -> bytes:
    """The pickle of a tensor; sizes as pickled integers, such as ``I2\\nI3\\n``."""
    return (
        b"\x80\x02"
        + REBUILD
        + b"("
        + storage(count)
        + f"I{offset}\n({shape}t({strides}tI00\nNtR.".encode()
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tensor(4, 0, "I5\n", "I1\n"), "beyond its storage"),
        (tensor(4, 2, "I3\n", "I1\n"), "beyond its storage"),
        (tensor(4, 0, "I1000000000\n", "I0\n"), "beyond its storage"),
        (tensor(4, -1, "I2\n", "I1\n"), "impossible"),
        (tensor(4, 3, "I2\n", "I-1\n"), "impossible"),
        (tensor(4, 0, "I2\n", ""), "impossible"),
        (b"\x80\x02" + REBUILD + b"}b.", "it changes a function"),
        (b"\x80\x02cos\nPathLike\n}b.", "__setstate__"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "a storage of an unknown form"),
    ],
)
def test_a_damaged_or_hostile_pickle_is_refused(data: bytes, reason: str, tmp_path: Path) -> None:
    path = zipped(data, tmp_path / "damaged.pt")
    with pytest.raises((pickle.UnpicklingError, TypeError), match=reason):
        read(path)


def test_a_sound_tensor_of_the_same_make_is_read(tmp_path: Path) -> None:
    values = np.arange(4, dtype="<f4")
    data = tensor(4, 1, "I3\n", "I1\n")
    path = zipped(data, tmp_path / "sound.pt", **{"data/0": values.tobytes()})
    with zipfile.ZipFile(path) as file:
        ours = TorchArchive(file)
        np.testing.assert_array_equal(ours.values(ours.content), values[1:])


def test_values_of_another_size_than_stated_are_refused(tmp_path: Path) -> None:
    path = zipped(tensor(4, 0, "I4\n", "I1\n"), tmp_path / "short.pt", **{"data/0": b"\0" * 12})
    with zipfile.ZipFile(path) as file:
        ours = TorchArchive(file)
        with pytest.raises(pickle.UnpicklingError, match="another size"):
            ours.values(ours.content)


def test_compressed_and_big_endian_files_are_refused(tmp_path: Path) -> None:
    data = pickle.dumps({}, 2)
    with pytest.raises(pickle.UnpicklingError, match="compressed"):
        read(zipped(data, tmp_path / "small.pt", zipfile.ZIP_DEFLATED))
    with pytest.raises(pickle.UnpicklingError, match="big-endian"):
        read(zipped(data, tmp_path / "big.pt", byteorder=b"big"))


# The import


def reference_scores(
    torch: Any, network: Any, content: dict[str, Any], images: list[np.ndarray]
) -> np.ndarray:
    """Scores by the formulas of anomalib's documentation, in PyTorch."""
    state = content["state_dict"]
    weight, encoder_bias, decoder_bias = (
        state[f"model.fre_model.{name}"] for name in ("weight", "encoder_bias", "decoder_bias")
    )
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous() / 255
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    with torch.no_grad():
        (features,) = network((pixels - mean) / std)
        features = torch.nn.functional.avg_pool2d(features, 2).flatten(1)
        code = features @ weight.T + encoder_bias
        residual = features - (code @ weight + decoder_bias)
    return np.asarray((residual**2).sum(1))


def pictures(n: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8) for _ in range(n)]


def test_scores_are_those_of_the_checkpoint(
    torch: Any, network: Any, content: dict[str, Any], save: Save
) -> None:
    good, images = pictures(4), pictures(5, seed=1)
    model = import_checkpoint(save(content), good)
    scores = [prediction.score for prediction in model.predict_many(images)]
    np.testing.assert_allclose(scores, reference_scores(torch, network, content, images), rtol=1e-4)
    # A map is the same energy, spread over the pixels: pooled twice, 32 of them a side.
    for prediction in model.predict_many(images):
        assert prediction.input_map.sum() / 32**2 == pytest.approx(prediction.score, rel=1e-4)


def test_the_good_images_calibrate(
    torch: Any, network: Any, content: dict[str, Any], save: Save
) -> None:
    good = pictures(4)
    model = import_checkpoint(save(content), good, false_alarm_rate=0.2)
    expected = np.sort(reference_scores(torch, network, content, good))
    np.testing.assert_allclose(model.calibration.scores, expected, rtol=1e-4)
    assert model.calibration.false_alarm_rate == 0.2
    assert model.threshold == model.calibration.scores[-1]
    assert not any(prediction.anomalous for prediction in model.predict_many(good, batch_size=1))
    # anomalib's own threshold is told, and not used.
    assert model.metadata["provenance"]["imported"]["image_threshold"] == 12.5


def test_the_model_says_where_it_comes_from(content: dict[str, Any], save: Save) -> None:
    metadata = import_checkpoint(save(content), pictures(2)).metadata
    assert metadata["backbone"]["name"] == "resnet18"
    assert metadata["backbone"]["layers"] == ["layer3"]
    (subspace,) = metadata["subspaces"]
    assert (subspace["kind"], subspace["rank"], subspace["dimension"]) == ("tied", RANK, DIMENSION)
    assert metadata["provenance"]["imported"]["from"] == "anomalib Fre"
    assert metadata["provenance"]["imported"]["lightning_version"] == "2.6.6"
    assert metadata["provenance"]["calibration_images"] == 2


def test_an_object_among_the_hyper_parameters_is_no_matter(
    content: dict[str, Any], save: Save, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    parameters = {**content["hyper_parameters"], "visualizer": Runs(Path.touch, marker)}
    hostile = {**content, "hyper_parameters": parameters, "callbacks": Runs(Path.touch, marker)}
    model = import_checkpoint(save(hostile), pictures(2))
    assert not marker.exists()
    assert model.size == (SIZE, SIZE)


def test_weights_that_do_not_fit_the_network_are_refused(
    content: dict[str, Any], save: Save
) -> None:
    with pytest.raises(BackboneError, match=r"fre\.ckpt: .* shape"):
        import_checkpoint(save(content), pictures(2), backbone="resnet34d")
    with pytest.raises(BackboneError, match="no backbone is called 'resnet_of_ours'"):
        import_checkpoint(save(content), pictures(2), backbone="resnet_of_ours")


def test_a_network_that_timm_cuts_into_stages_is_put_together(
    torch: Any, content: dict[str, Any], save: Save
) -> None:
    timm = pytest.importorskip("timm", reason="needs fre[torch], for the networks")
    network = timm.create_model(
        "convnext_atto", pretrained=False, features_only=True, exportable=True, out_indices=[1]
    ).eval()
    random = torch.Generator().manual_seed(2)
    dimension = 80 * 4 * 4
    state = {
        "model.fre_model.weight": torch.randn(RANK, dimension, generator=random) / 30,
        "model.fre_model.decoder_bias": torch.rand(dimension, generator=random),
        "model.fre_model.encoder_bias": torch.zeros(RANK),
    }
    for name, tensor in network.state_dict().items():
        state[f"model.feature_extractor.feature_extractor.{name}"] = tensor
    assert any("stages_0" in name for name in state)
    changed = {
        **content,
        "state_dict": state,
        "hyper_parameters": {
            **content["hyper_parameters"],
            "backbone": "convnext_atto",
            "layer": "stages.1",
        },
    }
    good = pictures(3)
    model = import_checkpoint(save(changed), good)
    expected = np.sort(reference_scores(torch, network, changed, good))
    np.testing.assert_allclose(model.calibration.scores, expected, rtol=1e-4)


def older(content: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """As before 2.7, which was the first to describe its parts."""
    kept = {key: value for key, value in content.items() if not key.startswith("anomalib_")}
    parameters = {**content["hyper_parameters"], **changes.pop("parameters", {})}
    return {**kept, "hyper_parameters": parameters, **changes}


def test_the_transform_is_read_from_every_version(
    torch: Any, content: dict[str, Any], save: Save
) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2", reason="needs fre[torch], for transforms")
    transform = v2.Compose([v2.Resize((SIZE, SIZE), antialias=True), v2.Normalize(MEAN, STD)])
    pre_processor = torch.nn.Module()
    pre_processor.transform = transform
    for version in (
        content,
        older(content, parameters={"pre_processor": pre_processor}),
        older(content, transform=transform),
    ):
        preprocessing = import_checkpoint(save(version), pictures(2)).metadata["preprocessing"]
        assert preprocessing["size"] == [SIZE, SIZE]
        np.testing.assert_allclose(preprocessing["mean"], 255 * np.array(MEAN))
        np.testing.assert_allclose(preprocessing["std"], 255 * np.array(STD))


def test_without_a_transform_it_is_the_default_and_must_fit(
    content: dict[str, Any], save: Save
) -> None:
    path = save(older(content, parameters={"pre_processor": True}))
    with pytest.raises(ModelFileError, match=r"256 x 256 .* = 16384; give the size"):
        import_checkpoint(path, pictures(2))
    model = import_checkpoint(path, pictures(2), size=SIZE)
    assert model.metadata["preprocessing"]["mean"] == pytest.approx([123.675, 116.28, 103.53])


def test_without_a_pre_processor_the_size_must_be_given(
    content: dict[str, Any], save: Save
) -> None:
    path = save({**content, "anomalib_components_enabled": {"pre_processor": False}})
    with pytest.raises(ModelFileError, match="does not say the size"):
        import_checkpoint(path, pictures(2))
    model = import_checkpoint(path, pictures(2), size=(SIZE, SIZE))
    assert model.metadata["preprocessing"]["std"] == [255, 255, 255]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("CenterCrop", {"size": [SIZE, SIZE]}),
        ("Resize", {"size": [SIZE]}),
        ("Resize", {"size": SIZE}),
        ("Resize", {"size": [SIZE, SIZE], "interpolation": "nearest"}),
        ("Resize", {"size": [SIZE, SIZE], "antialias": False}),
        ("Normalize", {"mean": [0.5], "std": [0.5]}),
    ],
)
def test_a_step_that_fre_has_not_is_refused(
    name: str, arguments: dict[str, Any], content: dict[str, Any], save: Save
) -> None:
    step = {"class_path": f"torchvision.transforms.v2.{name}", "init_args": arguments}
    path = save({**content, "anomalib_pre_processor_config": {"transform": step}})
    with pytest.raises(ModelFileError, match=f"fre.ckpt: .* a step that fre has not, {name} "):
        import_checkpoint(path, pictures(2))


def test_a_pooling_that_drops_a_rest_is_refused(content: dict[str, Any], save: Save) -> None:
    parameters = {**content["hyper_parameters"], "pooling_kernel_size": 3}
    with pytest.raises(ModelFileError, match="leaves out"):
        import_checkpoint(save({**content, "hyper_parameters": parameters}), pictures(2))


def test_a_missing_hyper_parameter_is_named(content: dict[str, Any], save: Save) -> None:
    parameters = {key: v for key, v in content["hyper_parameters"].items() if key != "backbone"}
    path = save({**content, "hyper_parameters": parameters})
    with pytest.raises(ModelFileError, match="does not say its backbone"):
        import_checkpoint(path, pictures(2))
    assert import_checkpoint(path, pictures(2), backbone="resnet18").size == (SIZE, SIZE)


def test_other_models_are_refused(content: dict[str, Any], save: Save) -> None:
    state = {"model.memory_bank": content["state_dict"]["model.fre_model.weight"]}
    with pytest.raises(ModelFileError, match="not a checkpoint of anomalib's Fre"):
        import_checkpoint(save({**content, "state_dict": state}), pictures(2))
    with pytest.raises(ModelFileError, match="not an exported model"):
        import_checkpoint(save({"model": state}), pictures(2))


def test_parameters_that_do_not_fit_each_other_are_refused(
    torch: Any, content: dict[str, Any], save: Save
) -> None:
    state = {**content["state_dict"], "model.fre_model.encoder_bias": torch.zeros(RANK + 1)}
    with pytest.raises(ModelFileError, match="do not fit each other"):
        import_checkpoint(save({**content, "state_dict": state}), pictures(2))


def test_a_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path) -> None:
    pickled = io.BytesIO()
    pickle.dump({"state_dict": {}}, pickled)
    cases = {
        "text.ckpt": b"not a zip",
        "old.ckpt": pickled.getvalue(),
        "empty.ckpt": b"",
    }
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match=f"{name}: not a checkpoint") as caught:
            import_checkpoint(path, pictures(2))
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelFileError, match="can't read the checkpoint: No such file"):
        import_checkpoint(tmp_path / "absent.ckpt", pictures(2))


def test_a_truncated_checkpoint_is_refused(content: dict[str, Any], save: Save) -> None:
    path = save(content)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelFileError, match="or a damaged one"):
        import_checkpoint(path, pictures(2))


def test_what_it_calibrates_on_is_checked_first(tmp_path: Path, good_folder: Path) -> None:
    absent = tmp_path / "absent.ckpt"
    with pytest.raises(DatasetError, match="2 good images or more, found 1"):
        import_checkpoint(absent, pictures(1))
    with pytest.raises(OptionError, match="false-alarm rate"):
        import_checkpoint(absent, pictures(2), false_alarm_rate=1.0)
    dataset = tmp_path / "dataset"
    for folder in ("train/good", "test/good", "test/scratch"):
        (dataset / folder).mkdir(parents=True)
        for image in good_folder.iterdir():
            (dataset / folder / image.name).write_bytes(image.read_bytes())
    with pytest.raises(DatasetError, match="expected a folder of good images"):
        import_checkpoint(absent, dataset)


def test_without_the_extra_the_error_names_it(
    content: dict[str, Any], save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(content)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(MissingDependencyError, match=r"fre\[torch\]"):
        import_checkpoint(path, pictures(2))


def test_without_good_images_the_threshold_is_the_checkpoints(
    torch: Any, content: dict[str, Any], save: Save, network: Any
) -> None:
    images = pictures(5, seed=1)
    reference = reference_scores(torch, network, content, images)
    threshold = float(np.median(reference))
    content["state_dict"]["post_processor._image_threshold"] = torch.tensor(threshold)
    model = import_checkpoint(save(content))
    predictions = list(model.predict_many(images, batch_size=1))
    np.testing.assert_allclose([p.score for p in predictions], reference, rtol=1e-4)
    assert model.threshold == pytest.approx(threshold)
    assert sum(p.anomalous for p in predictions) in (2, 3)
    assert all(p.p_value == 1 and not p.regions for p in predictions)
    assert "threshold was given" in (model.calibration.caveat() or "")
    assert model.metadata["subspaces"][0]["kept_variance"] is None
    content["state_dict"]["post_processor._image_threshold"] = torch.tensor(float("nan"))
    with pytest.raises(ModelFileError, match="--good"):
        import_checkpoint(save(content))
