"""The default backbone: its registry, its graph and the cache it is kept in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from fre.backbones import get_backbone
from fre.errors import BackboneError
from fre.storage.cache import cache_folder


def test_layers_have_the_channels_and_strides_of_the_paper() -> None:
    layers = get_backbone().layers
    assert [layer.name for layer in layers] == [f"blocks.{index}" for index in range(7)]
    assert [layer.stride for layer in layers] == [2, 4, 8, 16, 16, 32, 32]
    assert [layer.channels for layer in layers] == [16, 24, 40, 80, 112, 192, 320]


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (65, 33)])
def test_graph_gives_what_the_registry_says(size: tuple[int, int]) -> None:
    backbone = get_backbone()
    names = [layer.name for layer in backbone.layers]
    session = ort.InferenceSession(backbone.graph(names, size).SerializeToString())
    outputs = session.run(names, {"input": np.zeros((2, 3, *size), np.float32)})
    for layer, output in zip(backbone.layers, outputs, strict=True):
        grid = tuple(-(-side // layer.stride) for side in size)
        assert output.shape == (2, layer.channels, *grid)


def test_graph_ends_at_the_deepest_layer() -> None:
    backbone = get_backbone()
    shallow = backbone.graph(["blocks.1"], (64, 64)).graph
    deep = backbone.graph(["blocks.1", "blocks.6"], (64, 64)).graph
    assert len(shallow.node) < len(deep.node) / 3
    assert len(shallow.SerializeToString()) < len(deep.SerializeToString()) / 10


def test_activations_stay_in_range() -> None:
    session = ort.InferenceSession(get_backbone().graph(["blocks.0"], (64, 64)).SerializeToString())
    x = np.random.default_rng(0).normal(0, 100, (1, 3, 64, 64)).astype(np.float32)
    (y,) = session.run(None, {"input": x})
    assert np.isfinite(y).all()
    assert y.std() > 0


def test_unknown_names_list_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"no layer 'layer3'.*blocks\.0, .*blocks\.6"):
        get_backbone().graph(["layer3"], (64, 64))
    with pytest.raises(BackboneError, match=r"nonsense.*efficientnet_lite0, efficientnet_lite1"):
        get_backbone("nonsense")
    with pytest.raises(BackboneError, match=r"gone\.pth: can't read"):
        get_backbone("efficientnet_lite0", weights=tmp_path / "gone.pth")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    path.write_bytes(b"these are no weights")
    with pytest.raises(BackboneError, match=r"other\.pth: not a state dict"):
        get_backbone("efficientnet_lite0", weights=path).graph(["blocks.0"], (64, 64))


def test_the_cache_is_filled_once_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRE_CACHE", str(tmp_path / "cache"))
    backbone = get_backbone()
    first = backbone.graph(["blocks.4"], (64, 64))
    (file,) = cache_folder().iterdir()
    assert backbone.weights_sha256[:16] in file.name
    written = file.stat().st_mtime_ns
    assert backbone.graph(["blocks.4"], (64, 64)) == first
    assert file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:1000])
    assert backbone.graph(["blocks.4"], (64, 64)) == first


def test_a_cache_that_cannot_be_written_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRE_CACHE", "/proc/nowhere")
    assert get_backbone().graph(["blocks.0"], (64, 64)).graph.node


@pytest.mark.slow
def test_two_processes_that_start_at_once_both_work(tmp_path: Path) -> None:
    code = (
        "from fre.backbones import get_backbone;"
        "print(len(get_backbone().graph(['blocks.4'], (64, 64)).SerializeToString()))"
    )
    environment = {"FRE_CACHE": str(tmp_path), "PATH": ""}
    processes = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    sizes = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0] * 4
    assert len(sizes) == 1
    assert len(list(tmp_path.iterdir())) == 1
