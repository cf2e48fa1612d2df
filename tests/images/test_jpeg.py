"""What a JPEG decoder shrinks itself looks as if it had been resized."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fre.images.decode import decode_resized
from fre.images.jpeg import reduction, softened

WEIGHTS = np.array([1, 8, 1]) / 10


def by_hand(pixels: NDArray[np.uint8], rows: bool, columns: bool) -> NDArray[np.float64]:
    """The weighted means, in the order in which they are written down."""
    result = pixels.astype(np.float64)
    for axis in [axis for axis, wanted in enumerate((rows, columns)) if wanted]:
        padding = [(1, 1) if other == axis else (0, 0) for other in range(result.ndim)]
        padded = np.pad(result, padding, mode="edge")
        count = result.shape[axis]
        parts = [padded.take(range(k, k + count), axis) for k in range(3)]
        result = sum(weight * part for weight, part in zip(WEIGHTS, parts, strict=True))
    return result


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6, 3), (6, 1, 3), (2, 2), (17, 23, 3), (31, 8)])
def test_softened_is_the_weighted_mean(shape: tuple[int, ...], rows: bool, columns: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    before = pixels.copy()
    found = softened(pixels, rows=rows, columns=columns)
    assert found.dtype == np.uint8
    assert np.abs(found - by_hand(pixels, rows, columns)).max() <= 0.5 + 1e-9
    assert np.array_equal(pixels, before)


def test_softened_keeps_what_is_flat_up_to_the_brightest() -> None:
    for value in (0, 1, 254, 255):
        flat = np.full((5, 7, 3), value, np.uint8)
        assert np.array_equal(softened(flat), flat)


@pytest.mark.parametrize(
    ("size", "target", "expected"),
    [
        ((512, 512), (256, 256), 2),
        ((511, 512), (256, 256), 1),
        ((520, 512), (256, 256), 1),  # almost in step
        ((564, 512), (256, 256), 2),
        ((640, 480), (256, 256), 1),
        ((1024, 1024), (256, 256), 4),
        ((1024, 512), (256, 256), 2),
        ((2048, 2048), (256, 256), 8),
        ((8192, 8192), (256, 256), 8),
        ((256, 256), (256, 256), 1),
        ((16, 16), (256, 256), 1),
    ],
)
def test_reduction(size: tuple[int, int], target: tuple[int, int], expected: int) -> None:
    assert reduction(size, target) == expected


def picture(size: tuple[int, int], seed: int, mode: str) -> Image.Image:
    """Structure of all scales, down to single pixels."""
    rng = np.random.default_rng(seed)
    total = np.zeros((size[1], size[0], 3))
    for cell in (64, 16, 4, 2, 1):
        noise = rng.normal(size=(size[1] // cell + 1, size[0] // cell + 1, 3)) * cell**0.5
        total += np.kron(noise, np.ones((cell, cell, 1)))[: size[1], : size[0]]
    scaled = 128 + 30 * total / total.std()
    return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("side", [256, 288, 384, 512, 576, 1024, 1111])
def test_a_decoded_jpeg_is_what_resizing_makes_of_it(side: int, mode: str) -> None:
    encoded = io.BytesIO()
    picture((side, side), side, mode).save(encoded, "JPEG", quality=95, subsampling=0)
    small, original = decode_resized(encoded.getvalue(), (128, 128), name="x.jpg")
    assert original == (side, side)
    with Image.open(encoded) as whole:
        resized = whole.resize((128, 128), Image.Resampling.BILINEAR).convert("RGB")
    with Image.open(encoded) as halved:
        halved.draft(mode, (128, 128))
        plain = halved.convert("RGB").resize((128, 128), Image.Resampling.BILINEAR)
    error = np.std(small.astype(float) - np.asarray(resized))
    scale = reduction((side, side), (128, 128))
    assert scale > 1
    assert error < 0.06 * np.std(np.asarray(resized))
    if side == scale * 128:
        # Which is what softening is for.
        assert error < 0.6 * np.std(np.asarray(plain).astype(float) - np.asarray(resized))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_only_the_sides_that_the_decoder_finished_are_softened(orientation: int) -> None:
    stored = picture((256, 512), 3, "RGB")  # decoded at a half: one side is done, one is not
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = io.BytesIO()
    stored.save(encoded, "JPEG", quality=95, subsampling=0, exif=exif)
    small, original = decode_resized(encoded.getvalue(), (128, 128), name="x.jpg")
    assert original == ((256, 512) if orientation >= 5 else (512, 256))
    with Image.open(encoded) as halved:
        halved.draft("RGB", (128, 256))
        assert halved.size == (128, 256)
        rest = np.asarray(halved.resize((128, 128), Image.Resampling.BILINEAR))
    turned = Image.fromarray(softened(rest, rows=False))
    turns = {3: 180, 6: -90, 8: 90}
    if orientation in turns:
        turned = turned.rotate(turns[orientation], expand=True)
    if orientation in (1, *turns):
        np.testing.assert_array_equal(small, np.asarray(turned))


def test_an_odd_side_is_not_stretched() -> None:
    """Half of 613 pixels is decoded as 307: the last of them lies in the image by half only."""
    side, target = 613, 256
    ramp = np.linspace(0, 255, side)[None, :].repeat(side, 0).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(ramp).save(encoded, "JPEG", quality=100)
    assert reduction((side, side), (target, target)) == 2
    small = decode_resized(encoded.getvalue(), (target, target), name="x.jpg")[0][:, :, 0]
    exact = Image.open(encoded).resize((target, target), Image.Resampling.BILINEAR)
    difference = small.astype(float) - np.asarray(exact)
    assert np.abs(difference[:, -8:].mean()) < 0.15


@pytest.mark.parametrize(("form", "side"), [("JPEG", 128), ("JPEG", 200), ("PNG", 256)])
def test_what_the_decoder_did_not_shrink_is_not_softened(form: str, side: int) -> None:
    encoded = io.BytesIO()
    picture((side, side), 5, "RGB").save(encoded, form)
    small, _ = decode_resized(encoded.getvalue(), (128, 128), name="x")
    with Image.open(encoded) as whole:
        exact = whole.resize((128, 128), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(small, np.asarray(exact))
