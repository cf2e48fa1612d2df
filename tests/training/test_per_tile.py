"""Tiles of a fixed camera, each with a model of its own, in one file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from conftest import texture
from fre import FRE, Method, load
from fre.errors import DatasetError, OptionError
from fre.model import Model
from fre.types import ImageArray

SIZE = (100, 200)
TILES = {"tile": 64, "overlap": 16, "per_tile": True}


def scene(seed: int) -> ImageArray:
    """A texture on a ground that differs from place to place: uint8 (100, 200, 3)."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ground = 60 * np.sin(x / 25) + 50 * np.cos(y / 18 + x / 60)
    return np.clip(0.5 * texture(seed, SIZE) + ground[:, :, None] + 60, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model() -> Model:
    return FRE(**TILES).fit([scene(seed) for seed in range(8)])


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_defect_is_found_in_its_place(model: Model, tmp_path: Path, runtime: str) -> None:
    if importlib.util.find_spec(runtime) is None:
        pytest.skip(f"needs fre-vision[{runtime}]")
    opened = load(model.save(tmp_path / "m.onnx"), runtime=runtime)
    good, bad = scene(50), scene(50)
    bad[70:85, 150:165] = 255
    prediction = opened.predict(bad)
    assert prediction.score > 10 * max(1.0, opened.predict(good).score)
    assert prediction.anomaly_map.shape == SIZE
    y, x = np.unravel_index(prediction.anomaly_map.argmax(), SIZE)
    assert 60 < y < 95
    assert 140 < x < 175


def test_each_tile_is_judged_by_its_own_model() -> None:
    """What is normal in one place is an anomaly in another."""

    def pair(seed: int, *, swapped: bool = False) -> ImageArray:
        fine = texture(seed, (64, 64))
        coarse = np.repeat(np.repeat(texture(seed + 100, (16, 16)), 4, axis=0), 4, axis=1)
        return np.concatenate([coarse, fine] if swapped else [fine, coarse], axis=1)

    options = {"tile": 64, "overlap": 0, "layers": ["blocks.4"], "method": Method(scope="patch")}
    images = [pair(seed) for seed in range(10)]
    own, shared = (FRE(**options, per_tile=each).fit(images) for each in (True, False))
    assert not own.predict(pair(50)).anomalous
    assert own.predict(pair(50, swapped=True)).score > 10 * own.threshold
    assert shared.predict(pair(50, swapped=True)).score < 2 * shared.threshold


def test_heads_are_those_of_models_of_the_single_tiles(model: Model) -> None:
    """Each is what training on nothing but crops of its place would give."""
    crops = [scene(seed)[:64, :64] for seed in range(8)]
    alone = FRE(size=64).fit(crops)
    image = scene(50)
    # Faint: beyond the limit of the overall residual, the scores of all tiles count.
    image[20:30, 20:30] = np.minimum(image[20:30, 20:30], 205) + np.uint8(50)
    outputs = model._for_many.run(image[None, :64, :64], np.array([0]))
    assert outputs[0][0] == pytest.approx(alone.predict(image[:64, :64]).score, rel=0.05)


def test_the_file_has_one_backbone_and_a_second_input(model: Model) -> None:
    graph = onnx.load_from_string(model.data).graph
    assert [value.name for value in graph.input] == ["images", "tile"]
    assert sum(node.op_type == "Conv" for node in graph.node) == sum(
        node.op_type == "Conv"
        for node in onnx.load_from_string(
            FRE(size=64).fit([scene(seed) for seed in range(3)]).data
        ).graph.node
    )
    tiling = model.metadata["preprocessing"]["tiling"]
    assert tiling == {"overlap": 16, "per_tile": True, "image_size": list(SIZE)}


def heads(model: Model) -> int:
    """How many sets of subspaces the file holds."""
    stored = {tensor.name: tensor for tensor in onnx.load_from_string(model.data).graph.initializer}
    return int(stored["place_mean"].dims[0])


@pytest.mark.slow
def test_ignored_tiles_have_no_model() -> None:
    ignored = np.zeros(SIZE, bool)
    ignored[:, :80] = True
    images = [scene(seed) for seed in range(6)]
    part = FRE(**TILES, ignore=ignored).fit(images)
    whole = FRE(**TILES).fit(images)
    assert [heads(model) for model in (part, whole)] == [6, 8]
    image = scene(50)
    changed = image.copy()
    changed[ignored] = 255
    assert part.predict(changed).score == part.predict(image).score
    changed[40:55, 150:165] = 255
    assert part.predict(changed).anomalous


@pytest.mark.slow
def test_every_scope_and_the_overall_residual_have_heads() -> None:
    images = [scene(seed) for seed in range(6)]
    bad = scene(50)
    bad[70:85, 150:165] = 255
    for scope in ("patch", "image"):
        detector = FRE(**TILES, method=Method(scope=scope, overall=True))
        fitted = detector.fit(images)
        assert fitted.predict(bad).score > fitted.predict(scene(51)).score


def test_mistakes() -> None:
    images = [scene(seed) for seed in range(3)]
    with pytest.raises(OptionError, match="give a tile size"):
        FRE(per_tile=True, size=64).fit(images)
    with pytest.raises(OptionError, match="the default preset"):
        FRE("efficientnet_lite0", preset="reference", **TILES).fit(images)
    with pytest.raises(DatasetError, match="per-tile models can't be trained"):
        FRE(**TILES, memory=1e-5).fit(images)
