"""16-bit image files are read by the range that the training images use."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fre
from conftest import texture
from fre.errors import DatasetError, ImageError, OptionError
from fre.images.decode import find_bits, probe, read_image, read_resized
from fre.images.geometry import Decoding
from fre.training.merge import merge_models

RAMP = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)
COLOUR = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)
SMALL = {"size": 64, "frozen": True}


def deep(pixels: np.ndarray, bits: int) -> np.ndarray:
    """8-bit values as a camera of so many bits gives them; the further bits are not zero."""
    low = pixels.astype(np.uint16) % (1 << (bits - 8)) if bits > 8 else 0
    return (pixels.astype(np.uint16) << (bits - 8)) | np.uint16(low)


def save_pgm(path: Path, values: np.ndarray, largest: int) -> None:
    head = f"P5\n{values.shape[1]} {values.shape[0]}\n{largest}\n".encode()
    path.write_bytes(head + values.astype(">u2").tobytes())


def save_colour(path: Path, values: np.ndarray) -> None:
    """A PNG of 16 bits for each of three channels, or four, which Pillow does not write."""
    import zlib

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    kind = {3: 2, 4: 6, 2: 4}[values.shape[2]]
    head = values.shape[1].to_bytes(4, "big") + values.shape[0].to_bytes(4, "big")
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in (
        (b"IHDR", head + bytes([16, kind, 0, 0, 0])),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        data += len(body).to_bytes(4, "big") + name + body
        data += zlib.crc32(name + body).to_bytes(4, "big")
    path.write_bytes(data)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_keeps_its_levels_whatever_the_range(tmp_path: Path, suffix: str, bits: int) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "pgm":
        save_pgm(path, deep(RAMP, bits), 2**bits - 1 if bits > 8 else 1023)
    else:
        Image.fromarray(deep(RAMP, bits)).save(path)
    np.testing.assert_array_equal(read_image(path, bits)[:, :, 0], RAMP)
    assert read_resized(path, Decoding((20, 30), bits))[0].std() > 10


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [3, 4])
def test_colour_keeps_its_levels(tmp_path: Path, bits: int, channels: int) -> None:
    path = tmp_path / "x.png"
    save_colour(path, deep(np.dstack([COLOUR, RAMP])[:, :, :channels], bits))
    np.testing.assert_array_equal(read_image(path, bits), COLOUR)


@pytest.mark.parametrize("order", ["<", ">"])
def test_colour_of_a_tiff_keeps_its_levels(tmp_path: Path, order: str) -> None:
    import struct

    values = deep(COLOUR, 12).astype(f"{order}u2").tobytes()
    entries = [
        (256, 3, 1, 64), (257, 3, 1, 48), (258, 3, 3, 8 + len(values)), (259, 3, 1, 1),
        (262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, 3), (278, 3, 1, 48), (279, 4, 1, len(values)),
    ]  # fmt: skip
    start = 8 + len(values) + 6
    data = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start) + values
    data += struct.pack(f"{order}3H", 16, 16, 16) + struct.pack(f"{order}H", len(entries))
    for tag, kind, count, value in entries:
        data += struct.pack(f"{order}HHI", tag, kind, count)
        short = kind == 3 and count == 1
        data += struct.pack(
            f"{order}HH" if short else f"{order}I", *([value, 0] if short else [value])
        )
    path = tmp_path / "x.tif"
    path.write_bytes(data + bytes(4))
    np.testing.assert_array_equal(read_image(path, 12), COLOUR)
    np.testing.assert_array_equal(read_image(path, 16), deep(COLOUR, 12) >> 8)


def test_colour_of_a_tiff_in_separate_planes_is_refused(tmp_path: Path) -> None:
    import struct

    planes = deep(COLOUR, 12).transpose(2, 0, 1).astype("<u2").tobytes()
    after, size = 8 + len(planes), 48 * 64 * 2
    entries = [
        (256, 3, 1, 64), (257, 3, 1, 48), (258, 3, 3, after), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 3, after + 6), (277, 3, 1, 3), (278, 3, 1, 48), (279, 4, 3, after + 18),
        (284, 3, 1, 2),
    ]  # fmt: skip
    data = struct.pack("<2sHI", b"II", 42, after + 30) + planes + struct.pack("<3H", 16, 16, 16)
    data += struct.pack("<6I", 8, 8 + size, 8 + 2 * size, size, size, size)
    data += struct.pack("<H", len(entries))
    data += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    (tmp_path / "x.tif").write_bytes(data)
    for bits in (16, 12, None):
        with pytest.raises(ImageError, match=r"x\.tif: 16-bit colour in separate planes"):
            read_image(tmp_path / "x.tif", bits)


@pytest.mark.parametrize("colour", [False, True])
def test_a_value_outside_the_range_is_refused(tmp_path: Path, colour: bool) -> None:
    path = tmp_path / "x.png"
    values = deep(COLOUR if colour else RAMP, 10)
    values[3, 4] = 1024
    if colour:
        save_colour(path, values)
    else:
        Image.fromarray(values).save(path)
    with pytest.raises(ImageError, match=r"x\.png: .*1,024, where .* 10-bit values, 0 to 1,023"):
        read_image(path, 10)
    with pytest.raises(ImageError, match=r"16-bit values, where the training images have 8 bits"):
        read_image(path, None)
    assert find_bits([path], workers=1) == 12


def test_what_would_lose_levels_is_refused(tmp_path: Path) -> None:
    save_colour(tmp_path / "la.png", deep(np.dstack([RAMP, RAMP]), 12))
    with pytest.raises(ImageError, match="16-bit colour of the kind LA;16B can't be read in full"):
        read_image(tmp_path / "la.png", 12)
    head = b"P6\n64 48\n65535\n"
    (tmp_path / "c.ppm").write_bytes(head + deep(COLOUR, 12).astype(">u2").tobytes())
    with pytest.raises(ImageError, match="a PPM of 16-bit colour; save it as"):
        read_image(tmp_path / "c.ppm")
    (tmp_path / "t.pgm").write_text("P2\n2 1\n4095\n0 4095\n")
    with pytest.raises(ImageError, match="in plain text"):
        read_image(tmp_path / "t.pgm")


def test_the_range_of_some_images(tmp_path: Path) -> None:
    paths = [tmp_path / f"{bits}.png" for bits in (8, 10, 12, 14, 16)]
    for path in paths:
        values = np.full((8, 8), 2 ** int(path.stem) - 1, np.uint16)
        Image.fromarray(values).save(path)
    Image.fromarray(RAMP).save(tmp_path / "shallow.png")
    Image.fromarray(RAMP).save(tmp_path / "x.jpg")
    shallow = [tmp_path / "shallow.png", tmp_path / "x.jpg", COLOUR, tmp_path / "none.png"]
    assert find_bits(shallow, workers=2) is None
    for stop, bits in enumerate((8, 10, 12, 14, 16), start=1):
        assert find_bits([*paths[:stop], *shallow], workers=2) == bits
    assert [probe(path.read_bytes(), name="x", bits=12)[0] for path in paths[:1]] == ["PNG:12"]
    assert probe((tmp_path / "shallow.png").read_bytes(), name="x")[0] == "PNG"


def test_memory_of_a_large_deep_image_is_bounded(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = tmp_path / "x.png"
    Image.fromarray(np.zeros((5000, 5000), np.uint16)).save(path, compress_level=1)
    code = f"""
from fre.benchmark.memory import peak_memory, reset_peak_memory
from fre.images.decode import read_resized
from fre.images.geometry import Decoding
reset_peak_memory()  # a child begins with the peak of its parent
before = peak_memory()
read_resized({str(path)!r}, Decoding((64, 64), 12))
print(peak_memory() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # 25 million pixels: two bytes each as stored, one as grey, one being resized.
    assert int(done.stdout) < 5 * 25e6


def folder(path: Path, bits: int | None, count: int = 6, start: int = 0) -> Path:
    path.mkdir()
    for seed in range(start, start + count):
        grey = texture(seed, (64, 64))[:, :, 0]
        Image.fromarray(grey if bits is None else deep(grey, bits)).save(path / f"{seed}.png")
    return path


def test_a_model_reads_deep_images_as_it_was_trained(tmp_path: Path) -> None:
    plain = fre.FRE(**SMALL).fit(folder(tmp_path / "8", None))
    twelve = fre.FRE(**SMALL).fit(folder(tmp_path / "12", 12))
    assert plain.geometry.bits is None
    assert twelve.geometry.bits == 12
    assert twelve.metadata["preprocessing"]["bits"] == 12
    again = fre.load(twelve.save(tmp_path / "m.onnx"))
    # The same picture: the same score.
    expected = twelve.predict(tmp_path / "12" / "0.png").score
    assert again.predict(tmp_path / "12" / "0.png").score == expected
    assert again.predict(Image.open(tmp_path / "12" / "0.png")).score == expected
    assert again.predict(tmp_path / "8" / "0.png").score == expected
    with pytest.raises(ImageError, match=r"0\.png: .*16-bit values, where the training images"):
        plain.predict(tmp_path / "12" / "0.png")
    (error,) = again.predict_many(folder(tmp_path / "16", 16, 1), errors="return")
    assert isinstance(error, ImageError)
    assert "read as 12-bit values" in str(error)
    fixed = fre.FRE(**SMALL, bits=16).fit(tmp_path / "12")
    assert fixed.geometry.bits == 16
    assert fixed.predict(tmp_path / "16" / "0.png").image_size == (64, 64)
    with pytest.raises(ImageError, match=r"read as 10-bit values, 0 to 1,023"):
        fre.FRE(**SMALL, bits=10).fit(tmp_path / "12")
    with pytest.raises(OptionError, match="bits must be one of 8, 10, 12, 14, 16, not 11"):
        fre.FRE(**SMALL, bits=11).fit(tmp_path / "12")


@pytest.mark.slow
def test_updates_and_merges_keep_the_range(tmp_path: Path) -> None:
    twelve = fre.FRE(size=64).fit(folder(tmp_path / "12", 12))
    more = folder(tmp_path / "more", 12, start=20)
    assert twelve.update(more, accept_anomalous=True).geometry.bits == 12
    ten = fre.FRE(size=64).fit(folder(tmp_path / "10", 10, start=40))
    plain = fre.FRE(size=64).fit(folder(tmp_path / "8", None, start=60))
    with pytest.raises(OptionError, match=r"range of 16-bit values \(12 and 10 bits\)"):
        merge_models(twelve, plain, ten)
    assert merge_models(plain, twelve).geometry.bits == 12
    with pytest.raises(ImageError, match="read as 12-bit values"):
        twelve.update(folder(tmp_path / "16", 16, start=80), accept_anomalous=True)


def test_a_model_can_be_pickled(tmp_path: Path) -> None:
    model = fre.FRE(**SMALL).fit(folder(tmp_path / "8", None))
    image = tmp_path / "8" / "1.png"
    expected = model.predict(image).score
    assert pickle.loads(pickle.dumps(model)).predict(image).score == expected


def test_one_image_is_not_taken_for_several(tmp_path: Path) -> None:
    model = fre.FRE(**SMALL).fit(folder(tmp_path / "8", None))
    for one in (COLOUR, Image.fromarray(COLOUR), b"data"):
        with pytest.raises(ImageError, match="several images are expected"):
            list(model.predict_many(one))
    assert len(list(model.predict_many(np.stack([COLOUR, COLOUR])))) == 2


@pytest.mark.parametrize("url", ["rtsp://camera/1", "http://host/a.png", "s3://bucket/a"])
def test_urls_are_no_missing_files(url: str) -> None:
    reason = "reads no streams" if url.startswith("rtsp") else "a URL, where a file or folder"
    for source in (url, Path(url)):
        with pytest.raises(DatasetError, match=f"{url}: .*{reason}"):
            fre.images.decode.find_images(source)
