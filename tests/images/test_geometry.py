"""Images of any size and shape: nothing is cut off, nothing is out of place, no seams."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from commands import fre, refused
from conftest import texture
from fre import FRE, Method, load
from fre.backbones import get_backbone
from fre.errors import OptionError
from fre.images.geometry import PADDING, Box, Geometry, Tiling, content_box
from fre.model import Model

SIDES = st.integers(1, 400)
TILES = st.integers(8, 96)


@given(st.tuples(SIDES, SIDES), st.tuples(TILES, TILES), st.floats(0, 0.5))
@settings(max_examples=18)
def test_tiles_cover_every_pixel_and_share_what_was_asked_for(
    image: tuple[int, int], tile: tuple[int, int], share: float
) -> None:
    overlap = int(share * min(tile))
    grid = Tiling(overlap).grid(image, tile)
    for starts, length, edge in zip((grid.rows, grid.columns), image, tile, strict=True):
        assert starts[0] == 0
        assert starts[-1] == max(0, length - edge)
        steps = np.diff(starts)
        assert (steps > 0).all()
        assert (steps <= edge - overlap).all()
        # No more tiles than that takes.
        assert len(starts) == 1 or (len(starts) - 2) * (edge - overlap) + edge < length
    assert len(grid) == len(grid.boxes) == len(grid.rows) * len(grid.columns)


@given(st.tuples(SIDES, SIDES), st.tuples(TILES, TILES), st.floats(0, 0.5), TILES, TILES)
@settings(max_examples=18)
def test_blending_weights_add_up_to_one_everywhere(
    image: tuple[int, int], tile: tuple[int, int], share: float, rows: int, columns: int
) -> None:
    grid = Tiling(int(share * min(tile))).grid(image, tile)
    # On maps of another size, as those of a layer are, no location is left out either.
    for one in (grid, grid.scaled((min(rows, tile[0]), min(columns, tile[1])))):
        blended = one.blend(np.ones(one.tile, np.float32) for _ in one.boxes)
        assert blended.shape == one.image_size
        np.testing.assert_allclose(blended, 1, atol=1e-5)


@given(
    st.tuples(st.integers(1, 120), st.integers(1, 120)),
    st.tuples(TILES, TILES),
    st.floats(0, 0.5),
    st.integers(0, 9),
)
@settings(max_examples=7)
def test_the_pieces_of_an_image_are_put_together_again(
    image: tuple[int, int], tile: tuple[int, int], share: float, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*image, 3), dtype=np.uint8)
    grid = Tiling(int(share * min(tile))).grid(image, tile)
    pieces = list(grid.cut(pixels))
    assert all(piece.shape == (*tile, 3) for piece in pieces)
    maps = (piece[:, :, 1].astype(np.float32) for piece in pieces)
    np.testing.assert_allclose(grid.blend(maps), pixels[:, :, 1], atol=1e-3)


def test_a_map_of_nothing_counts_as_zeros() -> None:
    grid = Tiling(0).grid((8, 16), (8, 8))
    blended = grid.blend(iter([None, np.ones((8, 8), np.float32)]))
    np.testing.assert_array_equal(blended, np.repeat([[0, 1]], 8, axis=1).repeat(8, axis=0))


def test_an_image_smaller_than_a_tile_is_padded_at_its_end() -> None:
    image = texture(0, (20, 30))
    (piece,) = Tiling(8).grid((20, 30), (32, 48)).cut(image)
    np.testing.assert_array_equal(piece[:20, :30], image)
    assert (piece[20:] == PADDING).all()
    assert (piece[:, 30:] == PADDING).all()


@pytest.mark.parametrize(
    ("image", "size", "box"),
    [
        ((100, 200), (64, 64), Box(16, 0, 32, 64)),
        ((200, 100), (64, 64), Box(0, 16, 64, 32)),
        ((64, 64), (64, 64), Box(0, 0, 64, 64)),
        ((50, 50), (64, 128), Box(0, 32, 64, 64)),
        ((1, 1000), (64, 64), Box(31, 0, 1, 64)),
    ],
)
def test_a_letterbox_is_in_the_middle_and_keeps_the_aspect(
    image: tuple[int, int], size: tuple[int, int], box: Box
) -> None:
    assert content_box(image, size, "letterbox") == box
    assert content_box(image, size, "stretch") == Box(0, 0, *size)


@given(st.tuples(SIDES, SIDES), st.tuples(st.integers(32, 200), st.integers(32, 200)))
@settings(max_examples=12)
def test_a_letterbox_shows_all_of_an_image(image: tuple[int, int], size: tuple[int, int]) -> None:
    geometry = Geometry(size, "letterbox")
    box = content_box(image, size, "letterbox")
    assert box.height == size[0] or box.width == size[1]
    assert geometry.target(image) == (box.height, box.width)
    scale = min(size[0] / image[0], size[1] / image[1])
    assert abs(box.height - max(1, image[0] * scale)) <= 0.5 + 1e-9
    assert abs(box.width - max(1, image[1] * scale)) <= 0.5 + 1e-9
    resized = np.random.default_rng(0).integers(0, 256, (box.height, box.width, 3), np.uint8)
    (padded,) = geometry.inputs(resized, image)
    assert padded.shape == (*size, 3)
    (values,) = [padded[:, :, 0].astype(np.float32)]
    np.testing.assert_array_equal(geometry.content([values], image), resized[:, :, 0])
    outside = np.ones(size, bool)
    box.of(outside)[:] = False
    assert (padded[outside] == PADDING).all()


def test_geometries_that_make_no_sense() -> None:
    with pytest.raises(OptionError, match="stretch, letterbox"):
        Geometry((64, 64), "crop")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="no letterbox"):
        Geometry((64, 64), "letterbox", Tiling(8))
    for overlap in (-1, 33):
        with pytest.raises(OptionError, match="0 to 32 pixels"):
            Geometry((64, 96), tiling=Tiling(overlap))


# The same defect, 20 x 20, all over a wide image.

WIDE = (200, 500)
EDGE = 20
OPTIONS = {
    "stretch": "--size 128",
    "letterbox": "--size 128 --fit letterbox",
    "rectangle": "--size 96x240",
    "tiles": "--tile 96 --overlap 24",
    "stretched and cut": "--tile 96 --overlap 24 --size 128x320",
}
PLACES = [(y, x) for y in (0, 90, 180) for x in (0, 240, 480)]


def with_defect(image: np.ndarray, y: int, x: int, edge: int = EDGE) -> np.ndarray:
    image = image.copy()
    image[y : y + edge, x : x + edge] = 255
    return image


@pytest.fixture(scope="module")
def wide_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wide")
    for seed in range(7):
        Image.fromarray(texture(seed, WIDE)).save(folder / f"{seed}.png")
    return folder


Trained: TypeAlias = "Callable[[str], Path]"


@pytest.fixture(scope="module")
def trained(wide_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Makes the model of a geometry, once, from the command line."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def train(name: str) -> Path:
        path = folder / f"{name}.onnx"
        done = fre("train", wide_folder, "-o", path, *OPTIONS[name].split())
        assert done.returncode == 0, done.stderr
        return path

    return train


@pytest.mark.parametrize("name", OPTIONS)
def test_a_defect_is_seen_where_it_is_up_to_the_last_corner(name: str, trained: Trained) -> None:
    model = load(trained(name))
    good = model.predict(texture(77, WIDE))
    assert good.anomaly_map.shape == WIDE
    for y, x in PLACES:
        wrong = model.predict(with_defect(texture(77, WIDE), y, x))
        assert wrong.anomalous, (y, x)
        peak_y, peak_x = np.unravel_index(wrong.anomaly_map.argmax(), WIDE)
        # Within the defect, but for what a location of the finest map covers.
        slack_y, slack_x = 8, 12
        assert y - slack_y <= peak_y < y + EDGE + slack_y, (y, x)
        assert x - slack_x <= peak_x < x + EDGE + slack_x, (y, x)
        left, top, width, height = wrong.regions[0].bbox
        assert left - 4 <= x + EDGE // 2 <= left + width + 4, (y, x)
        assert top - 4 <= y + EDGE // 2 <= top + height + 4, (y, x)
        assert wrong.mask[min(peak_y, 199), peak_x]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("letterbox", "128 x 128 pixels (height x width), images"),
        ("rectangle", "96 x 240 pixels (height x width), images stretched"),
        (
            "tiles",
            "tiles of 96 x 96 pixels (height x width), 24 or more shared, of images at their own",
        ),
        ("stretched and cut", "stretched to 128 x 320"),
    ],
)
def test_the_same_from_the_command_line(
    name: str, words: str, trained: Trained, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    Image.fromarray(with_defect(texture(77, WIDE), 90, 400)).save(bad)
    path = trained(name)
    assert words in fre("info", path).stdout
    done = fre("predict", path, bad, "-o", tmp_path / name, "--masks", "--maps", "npy")
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert line["anomalous"]
    x, y, width, height = line["regions"][0]["bbox"]
    assert x <= 410 <= x + width
    assert y <= 100 <= y + height
    assert list(line["regions"][0]["layers"]) == ["blocks.2", "blocks.4"]
    with Image.open(tmp_path / name / "masks" / "bad.png") as image:
        assert image.mode == "L"
        mask = np.asarray(image)
    assert mask.shape == WIDE
    assert set(np.unique(mask)) == {0, 255}
    assert mask[100, 410] == 255
    values = np.load(tmp_path / name / "maps" / "bad.npy")
    np.testing.assert_array_equal(mask > 0, values >= load(path).calibration.pixel_threshold)
    assert "--masks needs a folder" in refused("predict", path, bad, "--masks")


@pytest.mark.parametrize(
    "geometry", [{"size": 128, "image_fit": "letterbox"}, {"tile": 96, "overlap": 24}], ids=str
)
def test_images_of_mixed_sizes(geometry: dict[str, Any]) -> None:
    sizes = [(200, 500), (96, 96), (150, 220), (64, 300), (257, 131)]
    images = [texture(seed, sizes[seed % 5]) for seed in range(10)]
    model = FRE(**geometry).fit(images)
    for index, size in enumerate(sizes):
        good = model.predict(texture(100 + index, size))
        wrong = model.predict(with_defect(texture(100 + index, size), size[0] - 40, size[1] - 40))
        assert good.anomaly_map.shape == wrong.mask.shape == size
        assert wrong.score > good.score
        y, x = np.unravel_index(wrong.anomaly_map.argmax(), size)
        # A location of the letterbox's finest map is 31 pixels of the widest image.
        assert abs(y - (size[0] - 30)) <= 32
        assert abs(x - (size[1] - 30)) <= 32
    many = model.predict_many([texture(index, size) for index, size in enumerate(sizes)])
    assert [prediction.image_size for prediction in many] == sizes


# Seams: tiles of 128 pixels, 96 apart, on a weave of period 32, which the network's strides divide.

PERIOD, TILE, OVERLAP = 32, 128, 32
SHEET = (320, 512)
PATCH = Method(scope="patch")
STEP = TILE - OVERLAP
# Measured: 0.993, 0.11, 1.08, 1.6 and 0.12.
CORRELATION, DIFFERENCE, SEAM_MEAN, SEAM_LARGEST, SHIFT = 0.93, 0.4, 1.25, 2.0, 0.3


def weave(seed: int, size: tuple[int, int] = SHEET) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]] * (2 * np.pi / PERIOD)
    grey = 120 + 30 * (np.sin(x) + np.sin(y)) + 10 * np.sin(3 * x + 2 * y)
    grey += rng.normal(0, 4, size)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.fixture(scope="module")
def tiled() -> Model:
    model = FRE(tile=TILE, overlap=OVERLAP, method=PATCH).fit([weave(seed) for seed in range(8)])
    grid = model.geometry.grid(SHEET)
    assert grid.rows == tuple(range(0, 193, STEP))
    assert grid.columns == tuple(range(0, 385, STEP))
    return model


@pytest.fixture(scope="module")
def whole() -> Model:
    return FRE(size=SHEET, method=PATCH).fit([weave(seed) for seed in range(8)])


def test_tiles_give_the_map_of_a_model_of_the_whole_image(tiled: Model, whole: Model) -> None:
    image = weave(50)
    for y, x in ((40, 60), (150, 290), (280, 470)):
        image = with_defect(image, y, x, 16)
    a, b = tiled.predict(image).anomaly_map, whole.predict(image).anomaly_map
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > CORRELATION
    slope = float((a * b).sum() / (b * b).sum())
    difference = float(np.linalg.norm(a - slope * b) / np.linalg.norm(slope * b))
    print("correlation", np.corrcoef(a.ravel(), b.ravel())[0, 1], "slope", slope, difference)
    assert difference < DIFFERENCE


def seam_ratio(anomaly_map: np.ndarray) -> tuple[float, float]:
    """How large steps are where tiles begin and end, as multiples of those elsewhere.

    Returns:
        The mean over all seams, and the largest of a single seam.
    """
    ratios = []
    for steps, length in (
        (np.abs(np.diff(anomaly_map, axis=1)).mean(axis=0), SHEET[1]),
        (np.abs(np.diff(anomaly_map, axis=0)).mean(axis=1), SHEET[0]),
    ):
        begins = np.arange(STEP, length - OVERLAP, STEP)
        seams = np.concatenate([begins - 1, begins + OVERLAP - 1])
        elsewhere = np.setdiff1d(np.arange(8, length - 9), seams)
        ratios.append(steps[seams] / steps[elsewhere].mean())
    together = np.concatenate(ratios)
    return float(together.mean()), float(together.max())


def test_there_is_no_step_where_tiles_meet(tiled: Model, whole: Model) -> None:
    maps = [tiled.predict(weave(60 + seed)).anomaly_map for seed in range(6)]
    means, largest = zip(*(seam_ratio(values) for values in maps), strict=True)
    plain = [seam_ratio(whole.predict(weave(60 + seed)).anomaly_map) for seed in range(6)]
    print("seams", np.mean(means), np.max(largest), "whole", np.mean(plain, axis=0))
    assert np.mean(means) < SEAM_MEAN
    assert np.max(largest) < SEAM_LARGEST
    # The measure sees a seam where there is one: tiles put side by side.
    abrupt = maps[0].copy()
    abrupt[:, STEP:] += 2 * abrupt.std()
    assert seam_ratio(abrupt)[1] > SEAM_LARGEST


def test_a_defect_that_moves_across_a_border_looks_the_same(tiled: Model) -> None:
    """In steps of a whole location of the coarsest layer, on the same sheet."""
    peaks = [
        float(tiled.predict(with_defect(weave(70), y, x, 16)).anomaly_map.max())
        for x in range(96, 96 + 4 * PERIOD, PERIOD)
        for y in (96, 128, 160, 192)
    ]
    spread = (max(peaks) - min(peaks)) / np.mean(peaks)
    print("peaks", spread, peaks)
    assert spread < SHIFT


# Large images, through the command line, with the child's peak memory in GB (measured on one
# core: 0.6 and 0.8, 0.5, 0.5, 1.8).
LINE_TRAINING, LINE_PREDICTION, PHOTOGRAPH_TRAINING, PHOTOGRAPH_PREDICTION = 1.6, 0.8, 1.8, 2.5


MEASURED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_gigabytes(*arguments: object) -> float:
    """Run a command; its largest resident size.

    A process of its own starts it: a child's peak counts that of whoever it was forked from.
    """
    pytest.importorskip("resource", reason="needs a system that measures memory, not Windows")
    command = [sys.executable, "-c", MEASURED, sys.executable, "-m", "fre", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scale = 2**30 if sys.platform == "darwin" else 2**20
    return int(done.stdout) / scale


def plain_weave(seed: int, size: tuple[int, int]) -> np.ndarray:
    """A weave of period 20 that goes on when it is repeated."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]] * (2 * np.pi / 20)
    grey = 120 + 30 * (np.sin(x) + np.sin(y)) + rng.normal(0, 4, size)
    return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [["--size", "64x1600"], ["--tile", "192x512", "--overlap", "64"]]
)
def test_line_scans(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    for seed in range(8):
        Image.fromarray(plain_weave(seed, (200, 5000))).save(tmp_path / "good" / f"{seed}.png")
    bad = tmp_path / "bad.png"
    Image.fromarray(with_defect(plain_weave(50, (200, 5000)), 160, 4700, 24)).save(bad)
    model = tmp_path / "m.onnx"
    training = peak_gigabytes("train", tmp_path / "good", "-o", model, *options)
    out = tmp_path / "out"
    prediction = peak_gigabytes("predict", model, bad, "-o", out, "--maps", "npy", "--masks")
    print("line scan", options, training, prediction)
    (line,) = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert line["anomalous"]
    x, y = line["regions"][0]["peak_xy"]
    assert 4680 <= x <= 4744
    assert 140 <= y <= 199
    assert np.load(out / "maps" / "bad.npy").shape == (200, 5000)
    assert training < LINE_TRAINING
    assert prediction < LINE_PREDICTION


@pytest.mark.slow
def test_a_photograph_of_48_megapixels(tmp_path: Path) -> None:
    """One model for all tiles: small images of the same surface do for training."""
    (tmp_path / "good").mkdir()
    for seed in range(6):
        Image.fromarray(plain_weave(seed, (700, 900))).save(
            tmp_path / "good" / f"{seed}.jpg", quality=92
        )
    photograph = np.tile(plain_weave(50, (600, 800)), (10, 10, 1))
    assert photograph.shape == (6000, 8000, 3)
    photograph[5930:5970, 7900:7940] = 255
    Image.fromarray(photograph).save(tmp_path / "bad.jpg", quality=92)
    # All of it strange: the largest region that there can be.
    Image.fromarray(255 - photograph[:, ::-1] // 2).save(tmp_path / "strange.jpg", quality=92)
    model, out = tmp_path / "m.onnx", tmp_path / "out"
    training = peak_gigabytes(
        "train",
        tmp_path / "good",
        "-o",
        model,
        "--tile",
        512,
        "--overlap",
        64,
        "--set",
        "scope=patch",
    )
    images = [tmp_path / f"{name}.jpg" for name in ("bad", "strange")]
    prediction = peak_gigabytes("predict", model, *images, "-o", out, "--maps", "png", "--masks")
    print("photograph", training, prediction)
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    bad, strange = lines
    assert bad["anomalous"]
    x, y = bad["regions"][0]["peak_xy"]
    assert 7880 <= x <= 7960
    assert 5910 <= y <= 5990
    assert strange["anomalous"]
    assert strange["regions"]
    for folder in ("overlays", "maps", "masks"):
        with Image.open(out / folder / "bad.png") as image:
            assert image.size == (8000, 6000)
    assert training < PHOTOGRAPH_TRAINING
    assert prediction < PHOTOGRAPH_PREDICTION


def test_features_of_more_tiles_than_were_reserved_are_the_same() -> None:
    """Rows are reserved as if all images were of the size of the first."""
    sizes = [(64, 64), (64, 64), (150, 200), (64, 64), (200, 64), (64, 130)]
    images = [texture(seed, size=size) for seed, size in enumerate(sizes)]
    extractor = FRE(tile=64, overlap=16)._extractor(get_backbone("efficientnet_lite0"))
    together = extractor.extract(images)
    apart = [extractor.extract([image]) for image in images]
    assert len(together.X) > len(images)
    np.testing.assert_array_equal(together.X, np.concatenate([each.X for each in apart]))
    assert together.image is not None
    counts = np.bincount(together.image)
    assert counts.tolist() == [len(each.X) for each in apart]
