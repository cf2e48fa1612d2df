"""Arrays of all types, and what is no image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import texture
from fre.errors import ImageError, InputError, OptionError
from fre.images.arrays import check_several, to_rgb
from fre.images.decode import find_bits, read_image

COLOUR = np.arange(48 * 64 * 3, dtype=np.uint32).reshape(48, 64, 3).astype(np.uint8)
GREY = COLOUR[:, :, 0]


@pytest.mark.parametrize(
    "array",
    [GREY.astype(np.int64), GREY > 9, COLOUR[:, :, :2], COLOUR[:0], COLOUR[None], COLOUR[0, 0]],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_an_array_that_is_no_image_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match=r"an image array must") as raised:
        read_image(array)
    assert str(array.shape) in str(raised.value)


def test_channels_that_come_first_are_named() -> None:
    with pytest.raises(InputError, match=r"uint8 \(3, 48, 64\); the channels come last"):
        read_image(np.moveaxis(COLOUR, -1, 0))


@pytest.mark.parametrize("image", [b"\x89PNG", bytearray(4), None, 3, [[1]], {"a": 1}], ids=repr)
def test_other_types_are_refused(image: object) -> None:
    with pytest.raises(ImageError, match=f"a PIL image or an array, not {type(image).__name__}"):
        read_image(image)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_are_from_0_to_1(kind: type[np.floating]) -> None:
    np.testing.assert_array_equal(read_image((COLOUR / 255).astype(kind)), COLOUR)
    np.testing.assert_array_equal(read_image(np.array([[0, 0.5, 1]], kind))[0, :, 0], [0, 128, 255])
    for bad, found in (
        (COLOUR, "span 0 to 255"),
        (COLOUR / 255 - 0.5, "span -0.5"),
        (np.where(GREY > 3, np.nan, 0), "hold NaN"),
    ):
        with pytest.raises(ImageError, match=found):
            read_image(bad.astype(kind))


def test_16_bit_arrays_are_what_their_files_are(tmp_path: Path) -> None:
    deep = (GREY.astype(np.uint16) << 4) | 7
    path = tmp_path / "deep.png"
    Image.fromarray(deep).save(path)
    for bits in (12, 14, 16):
        expected = read_image(path, bits)
        for array in (deep, deep[:, :, None], np.dstack([deep] * 3), np.dstack([deep] * 4)):
            np.testing.assert_array_equal(read_image(array, bits), expected)
    with pytest.raises(ImageError, match="4,087, where the training images are read as 10-bit"):
        read_image(deep, 10)
    with pytest.raises(ImageError, match="where the training images have 8 bits"):
        read_image(deep, None)
    for image in (deep, Image.fromarray(deep)):
        assert find_bits([GREY, image], workers=1) == 12
    assert find_bits([GREY, GREY / 255.0], workers=1) is None


def test_bgr_is_the_order_of_opencv() -> None:
    alpha = np.dstack([COLOUR[:, :, ::-1], GREY])
    for image in (COLOUR[:, :, ::-1], alpha):
        np.testing.assert_array_equal(read_image(to_rgb(image, "bgr")), COLOUR)
    assert to_rgb(GREY, "bgr") is GREY
    assert to_rgb("part.png", "rgb") == "part.png"
    with pytest.raises(OptionError, match="a str states its own"):
        to_rgb("part.png", "bgr")
    with pytest.raises(OptionError, match="not 'gbr'"):
        to_rgb(COLOUR, "gbr")  # type: ignore[arg-type]


@pytest.mark.parametrize("images", [COLOUR, GREY, b"x", Image.fromarray(COLOUR), 3, None])
def test_one_image_is_not_several(images: object) -> None:
    with pytest.raises(ImageError, match="several images are expected"):
        check_several(images)


def test_several_images_may_be_an_array_of_paths() -> None:
    check_several(np.array(["a.png", "b.png"]))
    check_several([texture(0)])
    check_several("folder")
