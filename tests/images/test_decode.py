"""Any file becomes uint8 RGB: formats, bit depths, orientation, damage, limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from conftest import huge_png, texture
from fre.errors import DatasetError, ImageError, OptionError
from fre.images.decode import (
    find_images,
    image_size,
    read_image,
    read_resized,
)
from fre.images.formats import pixel_limit, set_pixel_limit
from fre.images.loading import iter_loaded
from fre.images.near_duplicates import duplicate_thumbnail
from fre.images.resize import resize_map

RAMP = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)


def save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_are_read_exactly(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"x.{suffix}", COLOUR, **options)
    np.testing.assert_array_equal(read_image(path), COLOUR)


def test_jpeg_is_read_as_pillow_reads_it(tmp_path: Path) -> None:
    path = save(tmp_path / "x.jpg", COLOUR, quality=95)
    np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path)))


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png", RAMP)
    np.testing.assert_array_equal(read_image(path), np.repeat(RAMP[:, :, None], 3, axis=2))


def test_grey_is_resized_as_its_colour_twin(tmp_path: Path) -> None:
    grey = save(tmp_path / "g.png", RAMP)
    colour = save(tmp_path / "c.png", np.repeat(RAMP[:, :, None], 3, axis=2))
    np.testing.assert_array_equal(
        read_resized(grey, (20, 30))[0], read_resized(colour, (20, 30))[0]
    )


def test_transparency_is_dropped(tmp_path: Path) -> None:
    alpha = np.full((*RAMP.shape, 1), 128, np.uint8)
    path = save(tmp_path / "x.png", np.concatenate([COLOUR, alpha], axis=2))
    np.testing.assert_array_equal(read_image(path), COLOUR)
    grey = Image.merge("LA", [Image.fromarray(RAMP), Image.fromarray(alpha[:, :, 0])])
    grey.save(tmp_path / "la.png")
    np.testing.assert_array_equal(read_image(tmp_path / "la.png")[:, :, 0], RAMP)


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(256))])
def test_palette(tmp_path: Path, transparency: int | bytes | None) -> None:
    image = Image.fromarray(COLOUR).quantize(64)
    expected = np.asarray(image.convert("RGB"))
    options = {} if transparency is None else {"transparency": transparency}
    image.save(tmp_path / "x.png", **options)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), expected)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_keep_their_high_byte(tmp_path: Path, suffix: str) -> None:
    deep = RAMP.astype(np.uint16) * 256 + 77
    path = save(tmp_path / f"x.{suffix}", deep)
    np.testing.assert_array_equal(read_image(path)[:, :, 1], RAMP)


def test_one_bit(tmp_path: Path) -> None:
    Image.fromarray(RAMP > 50).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_image(tmp_path / "x.png")[:, :, 0], 255 * (RAMP > 50))


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "x.jpg")
    assert read_image(tmp_path / "x.jpg").shape == COLOUR.shape


def test_float_and_32_bit_pixels_are_refused(tmp_path: Path) -> None:
    for pixels in (RAMP.astype(np.float32), RAMP.astype(np.int32)):
        path = save(tmp_path / "x.tif", pixels)
        with pytest.raises(ImageError, match="no stated range"):
            read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(COLOUR).save(path, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    np.testing.assert_array_equal(read_image(path), upright)
    small, original = read_resized(path, (20, 16))
    assert original == upright.shape[:2]
    expected = read_resized(upright, (20, 16))[0]
    # Resampling before turning and after it may round a value the other way.
    assert np.abs(small.astype(int) - expected).max() <= 1


def test_large_jpeg_is_decoded_at_reduced_scale_without_a_visible_difference(
    tmp_path: Path,
) -> None:
    large = np.asarray(Image.fromarray(texture(0, (128, 128))).resize((2048, 2048)))
    path = save(tmp_path / "x.jpg", large, quality=95)
    small, original = read_resized(path, (128, 128))
    assert original == (2048, 2048)
    exact = read_resized(read_image(path), (128, 128))[0]
    assert np.abs(small.astype(float) - exact).mean() < 1.5


def test_an_array_at_the_right_size_is_not_copied() -> None:
    assert read_resized(COLOUR, COLOUR.shape[:2])[0] is COLOUR


def test_arrays_of_all_shapes_and_pil_images_are_what_their_files_are(tmp_path: Path) -> None:
    alpha = np.dstack([COLOUR, RAMP])
    grey = np.dstack([RAMP] * 3)
    for image, expected in [(RAMP, grey), (RAMP[:, :, None], grey), (alpha, COLOUR)]:
        np.testing.assert_array_equal(read_image(image), expected)
        path = save(tmp_path / "x.png", image.squeeze())
        np.testing.assert_array_equal(read_image(path), expected)
        for opened in (Image.open(path), Image.fromarray(image.squeeze())):
            np.testing.assert_array_equal(read_image(opened), expected)
            np.testing.assert_array_equal(
                read_resized(opened, (20, 30))[0], read_resized(path, (20, 30))[0]
            )


def test_a_pil_image_is_turned_and_left_as_it_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("x.jpg", "x.tif"):
        path = save(tmp_path / name, np.zeros((64, 128, 3), np.uint8) + 7, exif=exif)
        image = Image.open(path)
        pixels, original = read_resized(image, (16, 8))
        assert (pixels.shape, original) == ((16, 8, 3), (128, 64))
        assert image_size(path) == image_size(Image.open(path)) == (128, 64)
        assert sorted(image.size) == [64, 128]


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp"])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"x.{suffix}", texture(1))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=r"x\.\w+: not a readable image"):
        read_image(path)


def test_text_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("not an image")
    with pytest.raises(ImageError, match="not a readable image"):
        read_image(tmp_path / "x.png")
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "y.png")
    with pytest.raises(ImageError, match="a folder"):
        read_image(tmp_path)


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, side: int) -> None:
    with pytest.raises(ImageError, match=r"more.*than the limit.*--max-pixels"):
        read_resized(huge_png(tmp_path / "x.png", side, side), (32, 32))


def test_the_pixel_limit_can_be_moved(tmp_path: Path) -> None:
    path, before = save(tmp_path / "x.png", RAMP), pixel_limit()
    try:
        set_pixel_limit(RAMP.size - 1)
        with pytest.raises(ImageError, match="limit"):
            read_image(path)
        set_pixel_limit(RAMP.size)
        assert read_image(path).shape == (*RAMP.shape, 3)
        with pytest.raises(OptionError, match="at least 1"):
            set_pixel_limit(0)
    finally:
        set_pixel_limit(before)


def test_find_images(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/10.png", "a.JPEG", "notes.txt", ".hidden.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert names == ["a.JPEG", "b/2.PNG", "b/10.png"]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]
    with pytest.raises(DatasetError, match="no such"):
        find_images(tmp_path / "c")
    (tmp_path / "d").mkdir()
    with pytest.raises(DatasetError, match="no images"):
        find_images(tmp_path / "d")


@pytest.mark.parametrize("readers", [None, 3])
def test_loading_ahead_keeps_the_order_and_returns_errors(
    tmp_path: Path, readers: int | None
) -> None:
    arrays = [np.full((8, 8, 3), value, np.uint8) for value in range(50)]
    files = [save(tmp_path / f"{value}.png", array) for value, array in enumerate(arrays[:10])]
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:30])
    sources: list[Path | np.ndarray] = [
        *files, *arrays[10:20], tmp_path / "gone.png", *arrays[20:], broken, tmp_path,
    ]  # fmt: skip
    stream = iter_loaded(sources, (8, 8), workers=4, ahead=7, readers=readers, identify=True)
    loaded = list(stream)
    for place, reason in ((20, "no such file"), (51, "not a readable"), (52, "a folder")):
        assert isinstance(loaded[place], ImageError)
        assert reason in str(loaded[place])
    for item in loaded:
        if not isinstance(item, ImageError):
            np.testing.assert_array_equal(item.thumbnail, duplicate_thumbnail(item.pixels))
    values = [item.pixels[0, 0, 0] for item in loaded if not isinstance(item, ImageError)]
    assert values == list(range(50))
    digests = {item.sha256 for item in loaded if not isinstance(item, ImageError)}
    assert len(digests) == 50


@pytest.mark.parametrize(("readers", "further"), [(None, 0), (2, 4)])
def test_loading_ahead_is_lazy(readers: int | None, further: int) -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield np.zeros((4, 4, 3), np.uint8)

    loaded = iter_loaded(endless(), (4, 4), workers=2, ahead=5, readers=readers)
    for _ in range(10):
        next(loaded)
    loaded.close()
    assert taken <= 10 + 5 + further + 1


def test_resize_map_interpolates_between_pixel_centres() -> None:
    line = np.array([[0.0, 4.0]], np.float32)
    np.testing.assert_allclose(resize_map(line, (1, 4)), [[0, 1, 3, 4]])
    assert resize_map(line, (1, 2)) is line


@pytest.mark.parametrize("digest", [False, True])
def test_an_error_names_the_file_however_it_was_read(tmp_path: Path, digest: bool) -> None:
    path = tmp_path / "x.png"
    path.write_text("not an image")
    (error,) = iter_loaded([path], (8, 8), workers=1, ahead=1, identify=digest)
    expected = f"{path}: not a readable image: cannot identify image file x.png; expected JPEG, "
    assert str(error).startswith(expected)
