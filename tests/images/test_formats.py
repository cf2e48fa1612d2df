"""Files that are no images, or ask for more work than images do, are refused at once."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fre
from fre.errors import ImageError
from fre.images.decode import read_image, read_resized
from fre.images.formats import open_image, pixel_limit, set_pixel_limit
from fre.images.jpeg import count_scans
from fre.images.loading import iter_loaded

RAMP = np.add.outer(np.arange(48), np.arange(64)).astype(np.uint8)


def jpeg(side: int = 64, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.new("RGB", (side, side), (90, 120, 30))
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_scans(data: bytes, more: int) -> bytes:
    """The last scan of a JPEG some more times."""
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * more + b"\xff\xd9"


def test_only_one_place_opens_images() -> None:
    source = Path(fre.__file__).parent
    found = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if re.search(r"\bImage\.open\(|\bimport open as|ImageFile\.Parser", path.read_text())
    }
    assert found <= {"images/formats.py", "images/arrays.py"}
    # arrays.py names it in a message alone.
    assert "Image.open(file, formats=FORMATS)" in (source / "images/formats.py").read_text()
    calls = re.findall(r".*\bImage\.open\(.*", (source / "images/decode.py").read_text())
    assert all("opens the content of a file" in line for line in calls)


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n{} loop\n", "EPS"),
        (b"\xc5\xd0\xd3\xc6" + bytes(60), "EPS"),
        (b"%PDF-1.7\n", "PDF"),
        (b"GIF89a" + bytes(30), "GIF"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(30), "HEIC"),
        (b"8BPS\x00\x01" + bytes(30), "Photoshop"),
        (b"<?xml version='1.0'?><svg/>", "SVG"),
        (b"", "it is empty"),
        (b"hello", "cannot identify image file x.png; expected JPEG, PNG, BMP, TIFF, WebP"),
    ],
)
def test_other_formats_are_refused_and_named(tmp_path: Path, content: bytes, form: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    for digest in (False, True):
        (error,) = iter_loaded([path], (8, 8), workers=1, ahead=1, identify=digest)
        assert re.search(f"x.png: not a readable image: .*{re.escape(form)}", str(error))


def test_a_jpeg_of_many_scans_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(with_scans(jpeg(progressive=True), 90))
    assert read_image(path).shape == (64, 64, 3)
    for more in (91, 40_000):
        path.write_bytes(with_scans(jpeg(progressive=True), more))
        with pytest.raises(ImageError, match=r"a JPEG of [0-9,]+ scans, where .* may have 100"):
            read_resized(path, (32, 32))
    # The more pixels, the fewer scans.
    before = pixel_limit()
    try:
        set_pixel_limit(64 * 64)
        path.write_bytes(with_scans(jpeg(progressive=True), 11))
        with pytest.raises(ImageError, match=r"a JPEG of 21 scans, where .* may have 20"):
            read_image(path)
    finally:
        set_pixel_limit(before)


def test_scans_are_counted_as_a_decoder_does() -> None:
    baseline, progressive = jpeg(), jpeg(progressive=True)
    assert count_scans(io.BytesIO(baseline)) == 1
    assert count_scans(io.BytesIO(progressive)) == 10
    assert count_scans(io.BytesIO(with_scans(progressive, 200))) == 210
    # One scan has it all: no decoder looks at what comes after it.
    assert count_scans(io.BytesIO(with_scans(baseline, 200))) == 1
    # A component a scan: then a sequential JPEG may have more, too.
    apart = re.sub(rb"\xff\xda\x00\x0c\x03.{6}", b"\xff\xda\x00\x08\x01\x01\x00", baseline)
    assert count_scans(io.BytesIO(with_scans(apart, 200))) == 201
    # Markers in metadata and behind the end of the image are none.
    comment = b"\xff\xfe\xff\x00" + b"\xff\xda" * 32639
    hidden = progressive[:2] + comment + progressive[2:] + b"\xff\xda" * 300
    assert count_scans(io.BytesIO(hidden)) == 10
    assert read_image(Image.open(io.BytesIO(hidden))).shape == (64, 64, 3)
    for damaged in (b"\xff\xd8", progressive[:200], b"\xff" * 100_000 + b"\x00", b"\xff\xd8\xff"):
        assert count_scans(io.BytesIO(damaged)) <= 10
    file = io.BytesIO(progressive)
    file.seek(7)
    assert count_scans(file) == 10
    assert file.tell() == 7


def tiff(tags: dict[int, tuple[int, list[int]]], pixels: bytes) -> bytes:
    """A TIFF of some tags, each a type (3: 16 bits, 4: 32 bits) and values; pixels at byte 8."""
    start = 8 + len(pixels)
    entries, further = b"", b""
    base = start + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{'HI'[kind - 3]}", *values)
        entries += struct.pack("<HHI", tag, kind, len(values))
        if len(packed) > 4:
            entries += struct.pack("<I", base + len(further))
            further += packed
        else:
            entries += packed.ljust(4, b"\0")
    head = struct.pack("<2sHI", b"II", 42, start)
    # The next directory is this one again.
    return (
        head + pixels + struct.pack("<H", len(tags)) + entries + struct.pack("<I", start) + further
    )


def grey_tiff(strips: int, rows: int) -> bytes:
    side = 64
    return tiff(
        {
            256: (3, [side]),
            257: (3, [side]),
            258: (3, [8]),
            259: (3, [1]),
            262: (3, [1]),
            273: (4, [8] * strips),
            277: (3, [1]),
            278: (3, [rows]),
            279: (4, [side * rows] * strips),
        },
        bytes(range(256)) * 16,
    )


def test_strips_of_a_tiff_cover_it_once(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    path.write_bytes(grey_tiff(2, 32))  # whose directories follow each other for ever
    assert read_image(path).shape == (64, 64, 3)
    path.write_bytes(grey_tiff(5000, 63))
    with pytest.raises(ImageError, match="its 5,000 strips or tiles have"):
        read_image(path)


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


@pytest.mark.parametrize("kind", [b"iTXt", b"zTXt", b"iCCP"])
def test_compressed_metadata_of_a_png_does_not_fill_the_memory(tmp_path: Path, kind: bytes) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RAMP).save(buffer, "PNG")
    data = buffer.getvalue()
    bomb = zlib.compress(bytes(100_000_000))
    head = {b"iTXt": b"k\0\1\0\0\0", b"zTXt": b"k\0\0", b"iCCP": b"k\0\0"}[kind]
    path = tmp_path / "x.png"
    path.write_bytes(data[:33] + chunk(kind, head + bomb) + data[33:])
    code = f"""
from fre.benchmark.memory import peak_memory, reset_peak_memory
from fre.errors import ImageError
from fre.images.decode import read_image
reset_peak_memory()  # a child begins with the peak of its parent
try: read_image({str(path)!r})
except ImageError: pass
print(peak_memory())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200e6  # bytes; about 60e6 of them without the image


def test_a_large_run_length_encoded_bmp_is_refused(tmp_path: Path) -> None:
    def rle(width: int, height: int) -> bytes:
        rows = bytes([255, 7] * (width // 255) + [width % 255, 7, 0, 0]) * height + b"\0\1"
        palette = bytes(1024)
        start = 14 + 40 + len(palette)
        info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
        return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + info + palette + rows

    path = tmp_path / "x.bmp"
    path.write_bytes(rle(64, 48))
    assert read_image(path).shape == (48, 64, 3)
    path.write_bytes(rle(3000, 3000))
    with pytest.raises(ImageError, match=r"3000 x 3000 pixels in a rare encoding \(bmp_rle\)"):
        read_image(path)


def test_pipes_devices_and_links_to_themselves_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "self.png").symlink_to("self.png")
    sources = [tmp_path / f"{name}.png" for name in ("pipe", "zero", "self")]
    for digest in (False, True):
        errors = iter_loaded(sources, (8, 8), workers=2, ahead=3, identify=digest)
        for error, reason in zip(
            errors,
            ("a named pipe, where a regular", "a device, where", "Too many levels"),
            strict=True,
        ):
            assert re.search(f"can't be read: {reason}", str(error))


def test_a_file_larger_than_its_pixels_could_be_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageError, match=r"1,099,511,627,776 bytes are more than the limit"):
        read_image(tmp_path / "x.png")


def test_libtiff_writes_nothing_to_stderr(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)).save(
        path, compression="tiff_lzw"
    )
    data = bytearray(path.read_bytes())
    data[200:2200] = bytes(2000)
    path.write_bytes(data)
    code = f"""
from fre.errors import ImageError
from fre.images.decode import read_image
try: read_image({str(path)!r})
except ImageError as error: print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "x.tif: not a readable image: damaged or incomplete" in done.stdout


def test_an_error_in_the_block_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(RAMP).save(path)
    with pytest.raises(ImageError, match=r"x\.png: not a readable image: odd"), open_image(path):
        raise RuntimeError("odd")
