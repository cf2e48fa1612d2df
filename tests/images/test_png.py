"""Plain PNG files are decoded by kornia-rs to the very pixels that Pillow gives."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, PngImagePlugin

from fre.errors import ImageError
from fre.images import decode, png
from fre.images.decode import decode_resized, read_image, read_resized
from fre.images.formats import set_pixel_limit
from fuzz import interlaced_png

needs_kornia = pytest.mark.skipif(png.fast_decoder() is None, reason="needs fre-vision[fast]")


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def paeth(a: int, b: int, c: int) -> int:
    distances = [abs(b - c), abs(a - c), abs(a + b - 2 * c)]
    return (a, b, c)[distances.index(min(distances))]


def filtered(pixels: np.ndarray, filters: list[int]) -> bytes:
    """Encode rows with given filters, by the formulas of the PNG specification."""
    rows = pixels.reshape(len(pixels), -1).astype(int)
    step = pixels.shape[2] if pixels.ndim == 3 else 1
    out = bytearray()
    for y, row in enumerate(rows):
        above = rows[y - 1] if y else np.zeros_like(row)
        left = np.concatenate([np.zeros(step, int), row[:-step]])
        corner = np.concatenate([np.zeros(step, int), above[:-step]])
        kind = filters[y % len(filters)]
        nearest = [paeth(*values) for values in zip(left, above, corner, strict=True)]
        guess = [0, left, above, (left + above) // 2, np.array(nearest)][kind]
        out += bytes([kind]) + ((row - guess) % 256).astype(np.uint8).tobytes()
    return bytes(out)


def encoded(
    pixels: np.ndarray, filters: list[int], pieces: int = 1, *, before: bytes = b""
) -> bytes:
    height, width = pixels.shape[:2]
    colour = 2 if pixels.ndim == 3 else 0
    data = zlib.compress(filtered(pixels, filters))
    step = -(-len(data) // pieces)
    parts = [data[start : start + step] for start in range(0, len(data), step)]
    header = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    return (
        png.SIGNATURE
        + chunk(b"IHDR", header)
        + before
        + b"".join(chunk(b"IDAT", part) for part in parts)
        + chunk(b"IEND", b"")
    )


def outcome(data: bytes, size: tuple[int, int] | None = None) -> Any:
    """Pixels and original size; or the error."""
    try:
        pixels, original = decode_resized(data, size, name="a.png")
    except ImageError as error:
        return str(error)
    return pixels.shape, pixels.tobytes(), original


def by_pillow(data: bytes, size: tuple[int, int] | None = None) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "png_pixels", lambda file: None)
        return outcome(data, size)


shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=20)
images = shapes.flatmap(
    lambda shape: st.sampled_from([shape, (*shape, 3)]).flatmap(
        lambda form: hnp.arrays(np.uint8, form)
    )
)


@needs_kornia
@settings(deadline=None)
@given(
    images,
    st.lists(st.integers(0, 4), min_size=1, max_size=5),
    st.integers(1, 4),
    st.one_of(st.none(), st.tuples(st.integers(1, 24), st.integers(1, 24))),
    st.sampled_from(
        [
            b"",
            chunk(b"gAMA", struct.pack(">I", 45455)),
            chunk(b"sBIT", b"\x05"),
            chunk(b"pHYs", struct.pack(">IIB", 1, 2, 0)),
            chunk(b"tEXt", b"Comment\0camera 3"),
        ]
    ),
)
def test_pixels_are_those_of_pillow(
    pixels: np.ndarray, filters: list[int], pieces: int, size: Any, before: bytes
) -> None:
    data = encoded(pixels, filters, pieces, before=before)
    assert png.is_plain(io.BytesIO(data))
    fast = png.decoded(io.BytesIO(data))
    if before[4:8] != b"sBIT" or pixels.ndim == 2:
        assert fast is not None
    if fast is not None:
        np.testing.assert_array_equal(fast, pixels)
    assert outcome(data, size) == by_pillow(data, size)


def saved(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def unusual() -> dict[str, bytes]:
    grey = np.arange(12 * 9, dtype=np.uint8).reshape(12, 9)
    image = Image.fromarray(grey)
    exif = Image.Exif()
    exif[0x0112] = 6
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", "\nexif\n 8\n4578696600000000\n")
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    plain = saved(image)
    end = plain.index(b"IEND") - 4
    late = plain[:end] + chunk(b"eXIf", exif.tobytes()[6:]) + plain[end:]
    return {
        "16 bits": saved(Image.fromarray(grey.astype(np.uint16) * 37)),
        "palette": saved(image.convert("P")),
        "alpha": saved(image.convert("RGBA")),
        "grey and alpha": saved(image.convert("LA")),
        "1 bit": saved(image.convert("1")),
        "transparent level": saved(image, transparency=7),
        "transparent colour": saved(image.convert("RGB"), transparency=(7, 7, 7)),
        "interlaced": interlaced_png(grey),
        "orientation": saved(image, exif=exif),
        "orientation after the pixels": late,
        "orientation in a text": saved(image, pnginfo=text),
        "orientation in XMP": saved(image, pnginfo=xmp),
        "animated": saved(image, save_all=True, append_images=[image.rotate(180)]),
        "no PNG": b"\x89PNG\r\n\x1a\n" + bytes(40),
    }


@pytest.mark.parametrize("name", unusual())
def test_unusual_files_are_left_to_pillow(name: str) -> None:
    data = unusual()[name]
    assert not png.is_plain(io.BytesIO(data))
    assert png.decoded(io.BytesIO(data)) is None
    assert outcome(data, (5, 7)) == by_pillow(data, (5, 7))


@pytest.mark.parametrize("name", ["orientation", "orientation after the pixels"])
def test_an_orientation_is_applied(name: str) -> None:
    pixels, original = decode_resized(unusual()[name], None, name=name)
    assert pixels.shape == (9, 12, 3)
    assert original == (9, 12)


@needs_kornia
@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_damaged_file_ends_as_without_kornia(data: st.DataObject) -> None:
    """Nothing that Pillow refuses is read, and what Pillow reads stays the same."""
    pixels = np.random.default_rng(0).integers(0, 9, (24, 31, 3), np.uint8)
    content = bytearray(encoded(pixels, [0, 1, 2, 3, 4], 3))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "drop", "double"]))
        if kind == "flip":
            content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at + 1 :]
        elif kind == "drop":
            del content[at : at + data.draw(st.integers(1, 20))]
        else:
            content[at:at] = content[at : at + data.draw(st.integers(1, 20))]
        if not content:
            break
    assert outcome(bytes(content)) == by_pillow(bytes(content))


@needs_kornia
def test_limits_come_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(saved(Image.new("L", (40, 30), 7)))
    monkeypatch.setattr(decode, "png_pixels", lambda file: pytest.fail("decoded"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    set_pixel_limit(1000)
    with pytest.raises(ImageError, match="limit of 1,000"):
        read_image(file)


@needs_kornia
def test_files_and_contents_are_decoded_by_kornia(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(saved(Image.new("RGB", (40, 30), (1, 2, 3))))
    used = []
    decoder = png.fast_decoder()

    def counting(*arguments: Any) -> Any:
        used.append(arguments[1:])
        return decoder(*arguments)

    monkeypatch.setattr(png, "fast_decoder", lambda: counting)
    assert read_resized(file, (15, 20))[0].tolist() == [[[1, 2, 3]] * 20] * 15
    decode_resized(file.read_bytes(), None, name="a.png")
    assert used == [((30, 40), "rgb")] * 2


class PanicException(BaseException):
    """Named as the exception that a panic of Rust becomes."""


@pytest.mark.parametrize("error", [ValueError("odd"), PanicException("index out of bounds")])
def test_pillow_decodes_where_kornia_fails(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: Any) -> Any:
        raise error

    monkeypatch.setattr(png, "fast_decoder", lambda: failing)
    pixels, _ = decode_resized(saved(Image.new("L", (4, 3), 9)), None, name="a.png")
    assert pixels.tolist() == [[[9] * 3] * 4] * 3


def test_an_interruption_is_no_failure_of_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(png, "fast_decoder", lambda: interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode_resized(saved(Image.new("L", (4, 3), 9)), None, name="a.png")


@pytest.mark.parametrize("size", [(3, 4), (17, 5), (64, 70)])
def test_grey_as_rgb_is_resized_as_colour_is(size: tuple[int, int]) -> None:
    grey = np.random.default_rng(1).integers(0, 256, (41, 53), np.uint8)
    colour = np.stack([grey] * 3, axis=2)
    odd = colour.copy()
    odd[40, 52, 2] ^= 1
    for pixels in (colour, odd):
        image = Image.fromarray(pixels)
        expected = image.resize((size[1], 41), Image.Resampling.BILINEAR)
        expected = expected.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        for source in (pixels, saved(image)):
            found = (
                decode_resized(source, size, name="a.png")
                if isinstance(source, bytes)
                else read_resized(source, size)
            )
            np.testing.assert_array_equal(found[0], np.asarray(expected))


@settings(deadline=None)
@given(st.integers(1, 20), st.integers(1, 70), st.data())
def test_equal_channels(height: int, width: int, data: st.DataObject) -> None:
    grey = np.random.default_rng(height).integers(0, 256, (height, width, 1), np.uint8)
    pixels = np.repeat(grey, 3, axis=2)
    assert decode._equal_channels(pixels)
    at = tuple(data.draw(st.integers(0, side - 1)) for side in pixels.shape)
    pixels[at] ^= 1 << data.draw(st.integers(0, 7))
    assert not decode._equal_channels(pixels)
