"""The input follows the training images."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from commands import fre, refused
from conftest import huge_png, texture
from fre import FRE, load, merge_models
from fre.errors import FREWarning, OptionError
from fre.images.decode import image_size, read_image
from fre.images.geometry import Geometry, Tiling
from fre.images.input_size import (
    VISIBLE,
    ImageSizes,
    InputChoice,
    InputOptions,
    choose_input,
    choose_size,
)
from fre.training.config import BUDGETS, resolve

DEFAULT = (256, 256)


def chosen(*sizes: tuple[int, int], budget: int = BUDGETS["default"], **options) -> InputChoice:
    images = ImageSizes(sizes)
    return choose_input(InputOptions(**options), images, DEFAULT, budget)


@pytest.mark.parametrize(
    ("height", "width", "side", "expected"),
    [
        (1260, 500, 256, (416, 160)),
        (1260, 500, 320, (480, 192)),
        (512, 512, 320, (320, 320)),
        (512, 512, 384, (384, 384)),
        (200, 5000, 320, (64, 1600)),
        (5000, 200, 320, (1600, 64)),
        (6000, 8000, 320, (288, 384)),
        (300, 300, 384, (288, 288)),  # never above the images' own pixels
        (40, 100, 320, (32, 96)),
        (20, 20, 320, (32, 32)),
        (10, 10000, 320, (32, 3104)),
    ],
)
def test_the_input_has_the_aspect_of_the_images_and_the_pixels_of_the_budget(
    height, width, side, expected
):
    assert choose_size(width / height, side * side, height * width) == expected


def test_a_chosen_input_keeps_within_budget_and_aspect():
    rng = np.random.default_rng(0)
    for _ in range(40):
        height, width = (int(2**x) for x in rng.uniform(8.5, 13, 2))
        size = choose_size(width / height, 320 * 320, height * width)
        assert not any(side % 32 for side in size)
        assert size[0] * size[1] <= min(1.1 * 320 * 320, height * width)
        assert size[0] * size[1] >= 0.75 * min(320 * 320, height * width)
        assert 0.8 < (size[1] / size[0]) / (width / height) < 1.25


def test_headers_are_read_with_their_rotation_and_unreadable_files_are_skipped(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 30)).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "broken.png").write_bytes(b"no image")
    # Its pixels are missing: only the header may be read.
    large = huge_png(tmp_path / "large.png", 4000, 1000)
    paths = [tmp_path / "turned.jpg", tmp_path / "broken.png", large]
    found = ImageSizes.of([*paths, np.zeros((50, 40, 3), np.uint8), Image.new("L", (70, 70))])
    assert found is not None
    assert found.sizes == ((60, 30), (50, 40), (70, 70), (1000, 4000))
    assert found.median == (70, 70)
    assert found.ends == ((60, 30), (1000, 4000))
    assert ImageSizes.of([tmp_path / "broken.png"]) is None


def test_a_rotation_that_follows_the_pixels_of_a_png_counts(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    file = io.BytesIO()
    Image.new("RGB", (60, 30)).save(file, "PNG", exif=exif)
    data = file.getvalue()
    begin = data.index(b"eXIf") - 4
    end = begin + 12 + int.from_bytes(data[begin : begin + 4], "big")
    late = data[:begin] + data[end:-12] + data[begin:end] + data[-12:]
    (tmp_path / "late.png").write_bytes(late)
    assert (
        image_size(tmp_path / "late.png") == (60, 30) == read_image(tmp_path / "late.png").shape[:2]
    )


def test_options_come_before_the_images():
    assert chosen((500, 1000), size=96).geometry.size == (96, 96)
    assert chosen((500, 1000), size=(64, 96)).geometry.size == (64, 96)
    assert chosen((500, 1000), tile=128).geometry.tiling == Tiling(64)
    assert chosen((96, 96), size=96).notes == ()
    assert "96 x 96 input" in chosen((500, 1000), size=96).notes[0]
    images = ImageSizes(((500, 1000),))
    fixed = choose_input(InputOptions(), images, DEFAULT, None)
    assert fixed.geometry.size == DEFAULT
    assert choose_input(InputOptions(), None, DEFAULT, 320 * 320) == InputChoice(Geometry(DEFAULT))


def test_presets_have_their_budgets_and_the_reference_its_own_input():
    def budget(preset):
        return resolve(preset=preset, backbone="efficientnet_lite0", default_backbone="").budget

    assert [budget(p) for p in (None, "default", "fast", "accurate", "reference")] == [
        *[320 * 320] * 2,
        256 * 256,
        384 * 384,
        None,
    ]


def test_the_choice_is_said_in_plain_words():
    assert chosen((1260, 500)).notes == (
        "500 x 1260 px images -> 192 x 480 input (width x height): defects from about "
        f"{VISIBLE * 1260 / 480:.0f} px on are visible; --defect-size PX chooses an input for "
        "smaller ones",
    )
    assert chosen((320, 320)).notes == ("320 x 320 px images -> 320 x 320 input (width x height)",)
    (mixed,) = chosen((480, 171), (300, 300), (190, 480)).notes
    assert mixed.startswith("171 x 480 to 480 x 190 px images -> ")


def test_a_defect_size_chooses_the_input_that_shows_it():
    whole = chosen((1000, 1000), defect_size=2 * VISIBLE)
    assert whole.geometry == Geometry((512, 512), training_sizes=((1000, 1000),) * 2)
    assert whole.notes[1] == "an image takes about 2.56 times as long as without --defect-size"
    large = chosen((4000, 4000), defect_size=4 * VISIBLE)
    assert large.geometry.size == (320, 320)
    assert large.geometry.tiling == Tiling(64, (1000, 1000))
    assert large.visible == pytest.approx(4 * VISIBLE)
    assert "1000 x 1000, cut into 16 tiles of 320 x 320" in large.notes[0]
    assert "16 times" in large.notes[1]
    plain = chosen((1000, 1000), defect_size=100)
    assert plain.geometry.size == (320, 320)
    assert "without --defect-size" in plain.notes[1]
    small = chosen((400, 400), defect_size=2)
    assert small.geometry.scale((400, 400)) >= 1
    assert "even at full resolution" in small.notes[-1]


def test_tiles_of_a_line_scan_are_as_high_as_the_scan():
    found = chosen((200, 5000), defect_size=1.25 * VISIBLE).geometry
    assert found.size == (160, 640)
    assert found.tiling == Tiling(64, (160, 4000))
    assert set(found.grid((200, 5000)).rows) == {0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 64}, "leave out size"),
        ({"tile": 64}, "leave out tile"),
        ({"fit": "letterbox"}, "leave out letterbox"),
    ],
)
def test_a_defect_size_beside_what_it_chooses_is_refused(options, message):
    with pytest.raises(OptionError, match=message):
        InputOptions(defect_size=20, **options)


@pytest.mark.parametrize("value", [0, -3, 9000, float("nan")])
def test_a_defect_size_out_of_range_is_refused(value):
    with pytest.raises(OptionError, match="1 to 8192"):
        InputOptions(defect_size=value)


def test_a_defect_size_needs_an_input_that_can_change():
    with pytest.raises(OptionError, match="whose input is 256 x 256"):
        chosen((900, 900), budget=None, defect_size=20)


def test_the_model_keeps_the_choice_and_warns_once_of_another_aspect(tmp_path):
    detector = FRE(frozen=True)
    images = [texture(seed, (96, 192)) for seed in range(4)]
    model = load(detector.fit(images).save(tmp_path / "m.onnx"))
    assert model.size == (96, 192)
    assert model.geometry.training_sizes == ((96, 192), (96, 192))
    assert detector.input_.notes[0].startswith("192 x 96 px images -> 192 x 96 input")
    model.predict(texture(9, (192, 400)))
    with pytest.warns(FREWarning, match=r"image of 96 x 192 pixels .* trained on 192 x 96"):
        model.predict(texture(9, (192, 96)))
    model.predict(texture(9, (192, 96)))


def test_aspects_that_are_kept_or_known_raise_no_warning():
    ends = ((300, 100), (100, 100))
    assert Geometry((64, 64), training_sizes=ends).unlike_training((300, 200)) is None
    assert Geometry((64, 64)).unlike_training((300, 900)) is None
    assert Geometry((64, 64), "letterbox", None, 16, ends).unlike_training((300, 900)) is None
    tiles = Geometry((64, 64), tiling=Tiling(8), training_sizes=ends)
    assert tiles.unlike_training((300, 900)) is None
    assert Geometry((64, 64), training_sizes=ends).unlike_training((300, 900)) is not None


def test_updates_and_merges_know_the_aspects_of_all_images():
    sizes = ((96, 64), (96, 128), (96, 96))
    first, second = (
        FRE(size=64).fit([texture(seed, sizes[place]) for seed in range(4 * place, 4 * place + 4)])
        for place in (0, 1)
    )
    assert merge_models(first, second).geometry.training_sizes == sizes[:2]
    with pytest.warns(FREWarning, match="trained on 64 x 96"):
        updated = first.update([texture(20, sizes[2])], accept_anomalous=True)
    assert updated.geometry.training_sizes == (sizes[0], sizes[2])
    assert updated.size == (64, 64)


def test_the_same_input_is_chosen_for_features_that_are_streamed():
    images = [texture(seed, (128, 64)) for seed in range(6)]
    held, streamed = (FRE(memory=memory, frozen=True).fit(images) for memory in (2.0, 1e-4))
    assert held.size == streamed.size == (128, 64)
    assert held.geometry == streamed.geometry


def test_the_command_line_says_what_it_chose(tmp_path: Path):
    for seed in range(6):
        (tmp_path / "good").mkdir(exist_ok=True)
        Image.fromarray(texture(seed, (64, 128))).save(tmp_path / "good" / f"{seed}.png")
    done = fre("train", tmp_path / "good", "-o", tmp_path / "m.onnx", "--json", tmp_path / "t.json")
    assert "128 x 64 px images -> 128 x 64 input (width x height)" in done.stderr
    summary = json.loads((tmp_path / "t.json").read_text())
    assert summary["input"] == {"size": [64, 128], "visible_defect": VISIBLE}
    Image.fromarray(texture(9, (128, 64))).save(tmp_path / "tall.png")
    Image.fromarray(texture(9, (128, 60))).save(tmp_path / "taller.png")
    done = fre("predict", tmp_path / "m.onnx", tmp_path / "tall.png", tmp_path / "taller.png")
    assert done.stderr.count("it is stretched to another shape") == 1
    assert done.stderr.startswith("fre: image of 64 x 128 pixels")
    options = ("--defect-size", 5, "--size", 64)
    assert "leave out size" in refused(
        "train", tmp_path / "good", "-o", tmp_path / "n.onnx", *options
    )
    assert not (tmp_path / "n.onnx").exists()
