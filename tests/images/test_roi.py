"""Ignored pixels are neither learnt nor scored, in any geometry."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import pytest
from PIL import Image

from commands import fre, refused
from conftest import texture
from fre import FRE, Autoencoder, Method, load
from fre.backbones import get_backbone
from fre.errors import ImageError, OptionError
from fre.images.geometry import Tiling
from fre.images.roi import Roi, cells
from fre.inference.document import to_json
from fre.model import Model

SIZE = (80, 200)
IGNORED = np.zeros(SIZE, bool)
IGNORED[14:59, 43:109] = True

REFERENCE = {"preset": "reference", "backbone": "efficientnet_lite0"}
STRETCH: dict[str, Any] = {"size": 64}
LETTERBOX: dict[str, Any] = {"size": 88, "image_fit": "letterbox"}
RECTANGLE: dict[str, Any] = {"size": (64, 152)}
TILES: dict[str, Any] = {"tile": 64, "overlap": 16}
PATCH: dict[str, Any] = {"method": Method(scope="patch")}
CASES: dict[str, dict[str, Any]] = {
    "stretch": STRETCH,
    "letterbox": LETTERBOX,
    "rectangle": RECTANGLE,
    "tiles": TILES,
    "stretched and cut": TILES | {"size": (64, 160)},
    "patch": STRETCH | PATCH,
    "patch tiles": TILES | PATCH,
    "reference": {"size": 96} | REFERENCE,
    "reference letterbox": LETTERBOX | REFERENCE,
    "reference tiles": TILES | REFERENCE,
}
GOOD = [texture(seed, SIZE) for seed in range(6)]


def painted(image: np.ndarray, where: np.ndarray = IGNORED, seed: int = 0) -> np.ndarray:
    """Noise, glare and a gradient where the mask is true."""
    rng = np.random.default_rng(seed)
    changed = image.copy()
    changed[where] = rng.integers(0, 256, (int(where.sum()), 3))
    rows = np.flatnonzero(where.any(axis=1))
    upper = where & (np.arange(len(where)) < rows[: len(rows) // 2].max())[:, None]
    changed[upper] = 255
    return changed


@pytest.mark.parametrize(
    ("roi", "ignore", "message"),
    [
        (None, IGNORED & False, "the mask of the ignored area marks nothing: mark something"),
        (IGNORED | True, None, "the mask of the region of interest marks every pixel"),
        (IGNORED, IGNORED & False, "the mask of the ignored area marks nothing"),
        (None, IGNORED | True, "leave no pixel to inspect"),
        (IGNORED & False, None, "leave no pixel to inspect"),
    ],
)
def test_masks_without_effect_are_refused(
    roi: np.ndarray | None, ignore: np.ndarray | None, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        FRE(size=96, roi=roi, ignore=ignore).fit(GOOD)


def initialisers(model: Model) -> dict[str, bytes]:
    graph = onnx.load_from_string(model.data).graph
    return {tensor.name: tensor.SerializeToString() for tensor in graph.initializer}


@pytest.mark.parametrize("name", CASES)
def test_painting_what_is_ignored_changes_nothing(name: str) -> None:
    detector = FRE(ignore=IGNORED, **CASES[name])
    extractor = detector._extractor(get_backbone())
    trainer = detector._trainer(extractor)
    features = extractor.extract(GOOD)
    model = Model(trainer.fit_features(features))
    image = texture(77, SIZE)
    expected, found = model.predict(image), model.predict(painted(image))
    assert found.score == expected.score
    np.testing.assert_array_equal(found.input_map, expected.input_map)
    np.testing.assert_array_equal(found.anomaly_map, expected.anomaly_map)
    assert not expected.anomaly_map[IGNORED].any()
    assert not found.mask[IGNORED].any()
    # What is looked at does count, right beside the ignored area, too.
    beside = np.zeros(SIZE, bool)
    beside[27:43, 120:136] = True
    wrong = model.predict(np.where(beside[:, :, None], np.uint8(255), image))
    assert wrong.score > expected.score
    assert wrong.anomalous
    y, x = np.unravel_index(wrong.anomaly_map.argmax(), SIZE)
    assert abs(y - 35) <= 21
    assert abs(x - 128) <= 21

    # Nor is it learnt. Folds are dealt by the digests of the images, which do differ.
    others = extractor.extract([painted(one, seed=i) for i, one in enumerate(GOOD)])
    np.testing.assert_array_equal(others.X, features.X)
    assert others.sha256 != features.sha256
    again = Model(trainer.fit_features(replace(others, sha256=features.sha256)))
    assert initialisers(again) == initialisers(model)
    assert to_json(again.calibration) == to_json(model.calibration)


def test_files_train_the_same_network_whatever_is_ignored_in_them(tmp_path: Path) -> None:
    for folder, images in (("a", GOOD), ("b", [painted(one) for one in GOOD])):
        (tmp_path / folder).mkdir()
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / folder / f"{index}.png")
    one, other = (
        FRE(ignore=IGNORED, **STRETCH, **REFERENCE).fit(tmp_path / folder) for folder in "ab"
    )
    assert initialisers(one) == initialisers(other)
    # A mask of another size of the same images does as well, if it marks the same.
    assert one.roi is not None
    half = IGNORED.reshape(40, 2, 100, 2).any(axis=(1, 3))
    smaller = FRE(ignore=half, **STRETCH, **REFERENCE).fit(tmp_path / "a")
    assert smaller.predict(GOOD[0]).anomaly_map.shape == SIZE


Photographs: TypeAlias = tuple[list[np.ndarray], np.ndarray, list[Path]]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    """Large images, what is ignored in them, and two JPEGs that differ in nothing else."""
    size, ignored = (1337, 3341), np.zeros((1337, 3341), bool)
    ignored[201:939, 675:1735] = True

    def photograph(seed: int) -> np.ndarray:
        small = Image.fromarray(texture(seed, (133, 333)))
        return np.asarray(small.resize((size[1], size[0]), Image.Resampling.BILINEAR))

    image, rng = photograph(9), np.random.default_rng(3)
    noise = np.where(ignored[:, :, None], rng.integers(0, 256, (*size, 1), dtype=np.uint8), image)
    files = [tmp_path_factory.mktemp("photographs") / f"{name}.jpg" for name in ("plain", "noise")]
    for file, pixels in zip(files, (image, noise), strict=True):
        Image.fromarray(pixels).save(file, quality=90)
    with Image.open(files[0]) as opened:
        opened.draft("RGB", (320, 128))
        assert opened.size[0] < size[1] / 7
    return [photograph(seed) for seed in range(4)], ignored, files


@pytest.mark.parametrize(
    "options",
    [
        STRETCH,
        LETTERBOX,
        RECTANGLE | REFERENCE,
        TILES | {"size": (64, 160)},
        TILES | {"size": (64, 160)} | PATCH,
    ],
)
def test_jpegs_that_are_decoded_at_reduced_scale(
    options: dict[str, Any], photographs: Photographs
) -> None:
    """A JPEG's blocks carry what is ignored up to 15 pixels further: less than one at the input."""
    good, ignored, files = photographs
    model = FRE(ignore=ignored, **options).fit(good)
    expected, found = (model.predict(file) for file in files)
    assert found.score == expected.score
    np.testing.assert_array_equal(found.input_map, expected.input_map)
    assert not expected.anomaly_map[ignored].any()


def test_copies_of_few_images_do_not_learn_it() -> None:
    detector = FRE(ignore=IGNORED, **STRETCH)
    extractor = detector._extractor(get_backbone())
    from fre.images.augmentation import Augmentation

    kept = []
    for images in (GOOD[:2], [painted(one) for one in GOOD[:2]]):
        # The amounts follow from an image's digest; the same digest gives the same copies.
        roi = extractor.roi
        assert roi is not None
        copies = [
            roi.cover(copy)
            for image in images
            for copy in Augmentation(2).of(roi.cover(image), "00ff")
        ]
        kept.append(copies)
    np.testing.assert_array_equal(kept[0], kept[1])
    assert np.isfinite(FRE(ignore=IGNORED, augment=2, **STRETCH).fit(GOOD).threshold)


def test_masks_from_files_and_arrays() -> None:
    inspected = Roi.load(~IGNORED, None)
    ignored = Roi.load(None, IGNORED)
    both = Roi.load(~IGNORED, IGNORED)
    for roi in (inspected, ignored, both):
        assert roi is not None
        np.testing.assert_array_equal(roi.inspected, ~IGNORED)
    assert Roi.load(None, None) is None
    with pytest.raises(OptionError, match="200 x 80 pixels, the ignored area 90 x 70 pixels"):
        Roi.load(~IGNORED, np.zeros((70, 90), bool))
    with pytest.raises(OptionError, match="leave no pixel"):
        Roi.load(np.zeros(SIZE), None)
    with pytest.raises(ImageError, match=r"\(H, W\)"):
        Roi.load(np.zeros((3, 4, 3)), None)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "I;16", "LA"])
def test_a_mask_file_of_any_mode(mode: str, tmp_path: Path) -> None:
    grey = Image.fromarray(np.where(IGNORED, np.uint8(255), np.uint8(0)))
    image = Image.fromarray(IGNORED.astype(np.uint16)) if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / "mask.png")
    roi = Roi.load(None, tmp_path / "mask.png")
    assert roi is not None
    np.testing.assert_array_equal(roi.inspected, ~IGNORED)


def test_an_ignored_area_never_shrinks() -> None:
    """At any size every pixel that shows a part of it, and each beside, is ignored."""
    roi = Roi(~IGNORED)
    for height, width in [(64, 64), (31, 77), (80, 200), (160, 400), (8, 8)]:
        seen = roi.at_size((height, width))
        assert seen.shape == (height, width)
        for y, x in np.argwhere(seen):
            rows = slice(y * SIZE[0] // height, -(-(y + 1) * SIZE[0] // height))
            columns = slice(x * SIZE[1] // width, -(-(x + 1) * SIZE[1] // width))
            assert not IGNORED[rows, columns].any()
    for height in range(50, 50 + 40):
        roi.at_size((height, 100))
    assert len(roi._resized) <= 4


def test_cells_that_are_at_least_half_inspected() -> None:
    mask = np.zeros((8, 12), bool)
    mask[:, :6] = True
    np.testing.assert_array_equal(cells(mask, (2, 2)), [[True, False]] * 2)
    np.testing.assert_array_equal(cells(mask, (1, 3)), [[True, True, False]])
    np.testing.assert_array_equal(cells(np.ones((7, 5), bool), (3, 2)), np.ones((3, 2), bool))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    for index, image in enumerate(GOOD):
        Image.fromarray(image).save(root / f"{index}.png")
    return root


def save(mask: np.ndarray, path: Path) -> Path:
    Image.fromarray(mask).save(path)
    return path


def test_masks_that_do_not_fit_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    train = ("train", folder, "-o", out, "--size", 64)
    square = save(np.tri(100, dtype=bool), tmp_path / "square.png")
    error = refused(*train, "--roi", square)
    assert "200 x 80 pixels" in error
    assert "100 x 100 pixels" in error
    assert ".png" in error
    ignore = save(IGNORED, tmp_path / "ignore.png")
    assert "make both the size" in refused(*train, "--roi", square, "--ignore", ignore)
    black = save(np.zeros(SIZE, bool), tmp_path / "black.png")
    assert "no pixel to inspect" in refused(*train, "--roi", black)
    (tmp_path / "text.png").write_text("no image")
    assert "text.png: not a readable mask" in refused(*train, "--roi", tmp_path / "text.png")
    assert "nowhere.png: no such mask" in refused(*train, "--ignore", tmp_path / "nowhere.png")
    dot = np.zeros(SIZE, bool)
    dot[40:44, 67:73] = True
    tiny = save(dot, tmp_path / "dot.png")
    for preset in ("default", "reference"):
        options = ("--roi", tiny, "--preset", preset, "--backbone", "efficientnet_lite0")
        assert "inspected region is too small" in refused(*train, *options)
    assert not out.exists()


def test_a_model_says_what_it_inspects_and_refuses_other_shapes(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    ignore = save(IGNORED, tmp_path / "ignore.png")
    assert fre("train", folder, "-o", path, "--size", 64, "--ignore", ignore).returncode == 0
    share = 1 - IGNORED.mean()
    done = fre("info", path)
    assert f"inspected    {share:.1%} of the image, by a mask of 80 x 200" in done.stdout
    assert json.loads(fre("info", path, "--json", "-").stdout)["roi"]["inspected"] == share
    model = load(path)
    assert model.roi is not None
    np.testing.assert_array_equal(model.roi.inspected, ~IGNORED)
    Image.fromarray(texture(1, (80, 80))).save(tmp_path / "square.png")
    done = fre("predict", path, tmp_path / "square.png", folder / "0.png")
    assert done.returncode == 2
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert "80 x 80 pixels" in first["error"]
    assert "score" in second
    with pytest.raises(ImageError, match="80 x 80"):
        model.predict(tmp_path / "square.png")


def test_a_region_that_a_small_image_loses() -> None:
    """Tiles are cut at full resolution, and images may have several."""
    thin = np.zeros(SIZE, bool)
    thin[33:39] = True
    model = FRE(roi=thin, **TILES).fit(GOOD[:3])
    with pytest.raises(ImageError, match="20 x 8 pixels nothing of the inspected region"):
        model.predict(texture(0, (8, 20)))


@pytest.mark.slow
def test_openvino_agrees_on_a_model_with_a_region(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs fre-vision[openvino]")
    for options in (STRETCH, LETTERBOX, TILES, STRETCH | PATCH):
        path = FRE(ignore=IGNORED, **options).fit(GOOD).save(tmp_path / "m.onnx")
        ours, theirs = load(path), load(path, runtime="openvino")
        for seed in range(4):
            image = painted(texture(50 + seed, SIZE), seed=seed)
            image[67:74, 167:180] = 255
            a, b = ours.predict(image), theirs.predict(image)
            assert b.score == pytest.approx(a.score, rel=1e-4)
            assert np.abs(a.input_map - b.input_map).max() <= 1e-4 * np.abs(a.input_map).max()
            assert not b.anomaly_map[IGNORED].any()
            assert [list(r.layers) for r in a.regions] == [list(r.layers) for r in b.regions]


def test_an_autoencoder_has_no_region() -> None:
    with pytest.raises(OptionError, match="closed form"):
        FRE("efficientnet_lite0", preset="reference", subspace=Autoencoder(), ignore=IGNORED).fit(
            GOOD
        )


def test_a_tile_that_shows_nothing_is_not_learnt() -> None:
    half = np.zeros((64, 256), bool)
    half[:, :60] = True
    images = [texture(seed, (64, 256)) for seed in range(3)]
    extractor = FRE(roi=half, **TILES)._extractor(get_backbone())
    assert extractor.geometry.tiling == Tiling(16)
    features = extractor.extract(images)
    assert set(features.tile.tolist()) == {0, 1}
    assert len(extractor.geometry.grid((64, 256))) == 5
