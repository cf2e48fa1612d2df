"""The reference system from the command line, on real screws and real ResNet-18 weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from commands import fre as command
from conftest import shared

pytest.importorskip("torch", reason="needs fre-vision[torch]")
pytest.importorskip("timm", reason="needs fre-vision[torch]")


def fre(*arguments: object) -> dict[str, object]:
    done = command(*arguments, "--json", "-")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.fixture
def resnet18() -> tuple[str, ...]:
    weights = shared("weights", "resnet18_layer3.safetensors")
    return "--backbone", "resnet18", "--weights", str(weights)


@pytest.mark.slow
def test_resnet18_on_screws_is_where_it_was_published(
    screws: Path, tmp_path: Path, resnet18: tuple[str, ...]
) -> None:
    """anomalib publishes an image AUROC of 0.890 and an F1 of 0.914 for the closed form."""
    options = ("--preset", "reference", *resnet18)
    trained = fre("train", screws, "-o", tmp_path / "m.onnx", *options)
    (layer,) = trained["layers"]
    assert (layer["name"], layer["dimension"]) == ("layer3", 256 * 8 * 8)
    figures = fre("evaluate", tmp_path / "m.onnx", screws)
    assert figures["image_auroc"] == pytest.approx(0.890, abs=0.02)
    assert figures["image_f1"] == pytest.approx(0.914, abs=0.02)


@pytest.mark.slow
def test_the_trained_autoencoder_makes_a_model(
    screws: Path, tmp_path: Path, resnet18: tuple[str, ...]
) -> None:
    options = ("--size", 64, "--set", "rank=16", "--set", "epochs=8", "--set", "folds=2")
    for kind in ("tied", "plain"):
        file = tmp_path / f"{kind}.onnx"
        trained = fre("train", screws, "-o", file, *resnet18, "--subspace", kind, *options)
        assert trained["layers"][0]["rank"] == 16
        told = fre("info", file)["subspaces"][0]
        assert (told["kind"], told["epochs"]) == (kind, 8)
        figures = fre("evaluate", file, screws)
        assert 0 <= figures["false_alarm_rate_observed"] <= 0.2


@pytest.mark.slow
def test_the_reference_preset_reads_65536_numbers(tmp_path: Path, good_folder: Path) -> None:
    """ResNet-50 with random weights, which are all that this test needs."""
    import timm
    import torch

    torch.manual_seed(0)
    state = timm.create_model("resnet50", pretrained=False).state_dict()
    torch.save(state, tmp_path / "resnet50.pth")
    trained = fre(
        *("train", good_folder, "-o", tmp_path / "m.onnx", "--preset", "reference"),
        *("--weights", tmp_path / "resnet50.pth", "--set", "epochs=1", "--set", "folds=2"),
    )
    (layer,) = trained["layers"]
    assert (layer["name"], layer["dimension"], layer["rank"]) == ("layer3", 65_536, 220)
    told = fre("info", tmp_path / "m.onnx")
    assert told["preset"] == "reference"
    assert told["preprocessing"]["size"] == [256, 256]
    assert told["subspaces"][0]["kind"] == "tied"
