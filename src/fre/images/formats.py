"""Open image files from any source safely: known formats, regular files, bounded work.

`open_image` opens every image, mask and region of interest. Pillow knows more formats, some of
which start other programs, and a small file can keep its decoder busy for hours.
"""

from __future__ import annotations

import ctypes
import errno
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from fre.errors import ImageError, InputError, OptionError
from fre.images.jpeg import count_scans
from fre.images.png import is_plain
from fre.storage.files import open_regular

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM")
"""Formats that fre reads; PPM includes PGM."""

SCANS = 100
"""Largest number of scans in a JPEG. Progressive files have about 10. libtiff stops at 100 too, and
libjpeg-turbo's fuzzers at 500. A scan costs about 2 ns a pixel, whatever it changes."""

SCANS_AT_LIMIT = 20
"""Largest number of scans in a JPEG at the pixel limit, which then takes about 3 s to decode."""

SLOW_PIXELS = 4_000_000
"""Pixel limit for decoders that Pillow writes in Python: about a second of work."""

SLOW_DECODERS = ("bmp_rle", "ppm")

WIDTH_TAG, HEIGHT_TAG, DEPTH_TAG, ORIENTATION_TAG = 0x0100, 0x0101, 0x0102, 0x0112
SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""

BYTES_PER_PIXEL = 8
FILE_MARGIN = 64 * 1024**2
"""A file may have 8 bytes (16-bit RGBA) for each pixel of the limit, and 64 MiB of other data."""


class UnfitError(ValueError):
    """A readable file that fre refuses; the message says why, and what to do."""


_MAGIC = (
    (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript (EPS)"),
    (rb"%PDF", "PDF"),
    (rb"GIF8", "GIF"),
    (rb".{4}ftyp(heic|heix|heim|heis|hevc|mif1|msf1)", "HEIC"),
    (rb".{4}ftypavi[fs]", "AVIF"),
    (rb".{4}ftyp", "an MP4 film"),
    (rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51", "JPEG 2000"),
    (rb"\xff\x0a|\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (rb"8BPS", "Photoshop (PSD)"),
    (rb"RIFF.{4}AVI ", "an AVI film"),
    (rb"\x1a\x45\xdf\xa3", "a Matroska film"),
    (rb"\x00\x00[\x01\x02]\x00", "an icon (ICO)"),
    (rb"v/1\x01", "OpenEXR"),
    (rb"#\?RADIANCE", "Radiance HDR"),
    (rb"DDS ", "DDS"),
    (rb"qoif", "QOI"),
    (rb"SIMPLE  =", "FITS"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb".{128}DICM", "DICOM"),
    (rb"\x89HDF", "HDF5"),
    (rb"PK\x03\x04", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"\s*<(\?xml|svg)", "XML or SVG"),
    (rb"\s*<(!doctype|html)", "an HTML page"),
)


def pixel_limit() -> int:
    """Return the number of pixels above which an image is refused before it is decoded."""
    # Pillow keeps the limit for the whole process; None switches its check off.
    return Image.MAX_IMAGE_PIXELS or 2**63


def set_pixel_limit(pixels: int) -> None:
    """Refuse images of more than this many pixels, for the whole process.

    The limit is Pillow's, about 89 million by default. It protects against small files that
    exhaust the memory when decoded.

    Raises:
        OptionError: ``pixels`` is not positive.
    """
    if pixels < 1:
        raise OptionError(f"the pixel limit must be at least 1, not {pixels}")
    Image.MAX_IMAGE_PIXELS = pixels


def file_limit() -> int:
    """Return the size in bytes above which an image file is not read."""
    return BYTES_PER_PIXEL * pixel_limit() + FILE_MARGIN


@contextmanager
def open_image(
    source: Path | str | bytes, name: Path | str | None = None
) -> Iterator[ImageFile.ImageFile]:
    """Open an image file of one of `FORMATS`; Pillow decodes the pixels when they are read.

    Exceptions of Pillow in the block become `ImageError`.

    Args:
        source: local file, or the content of a file.
        name: name of the image in error messages; ``None`` takes the name of the file.

    Yields:
        The image, as it is stored.

    Raises:
        ImageError: the file can't be read, is no regular file, is none of `FORMATS`, is damaged,
            exceeds the pixel limit, or needs far more work than other images of its size.
    """
    if name is None and not isinstance(source, bytes):
        name = source
    _silence_libtiff()
    with image_errors(name), _stream(source) as file:
        head = file.read(256)
        file.seek(0)
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError as error:
            # Pillow's message names data in memory by their address.
            raise ImageError(name, _unidentified(head, name)) from error
        with image:
            _check_ppm(image)
            _check_planes(image)
            _check_work(image, file)
            yield image


@contextmanager
def image_errors(name: Path | str | None) -> Iterator[None]:
    """Turn any exception of Pillow's decoders into an `ImageError`; they raise almost anything.

    Args:
        name: name of the image in the error message; ``None`` for an image in memory.
    """
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise ImageError(name, "no such file") from None
    except IsADirectoryError:
        raise ImageError(name, "a folder, where an image file was expected") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        reason = f"more pixels than the limit of {pixel_limit():,}; raise it with --max-pixels"
        raise ImageError(name, reason) from None
    except Exception as error:  # Pillow's decoders raise almost anything
        raise ImageError(name, _reason(error, name)) from error


PNG_SIGNATURE, PNG_CHECKSUM = 8, 4
"""Bytes at the start of a PNG, and at the end of each of its chunks."""

MOST_EXIF = 1 << 20


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened file as it is stored, 1 to 8; 1 is upright."""
    file: Any = getattr(image, "fp", None)
    if image.format == "PNG" and file and not file.closed and is_plain(file):
        return 1  # Pillow would decode the whole file to look for an orientation after the pixels.
    if image.format == "TIFF":
        stored = _tags(image).get(ORIENTATION_TAG, 1)
    else:
        stored = image.getexif().get(ORIENTATION_TAG, 1)
    return stored if stored in range(1, 9) else 1


def _tags(image: Image.Image) -> Any:
    """Return the tags of an opened TIFF by number."""
    return image.tag_v2  # type: ignore[attr-defined]  # only Pillow's own class of TIFFs has them


def _read_late_exif(image: ImageFile.ImageFile) -> None:
    """Read the EXIF block that follows the pixels of an opened PNG, if it has one.

    Pillow would decode all pixels to get there. Raises nothing for a file that ends early.
    """
    stream = image.fp
    assert stream is not None
    place = stream.tell()
    stream.seek(PNG_SIGNATURE)
    while len(head := stream.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"eXIf" and length <= MOST_EXIF:
            image.info["exif"] = b"Exif\0\0" + stream.read(length)
        if kind in (b"eXIf", b"IEND"):
            break
        stream.seek(length + PNG_CHECKSUM, 1)
    stream.seek(place)


def shown_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Return height and width of an opened file, upright, without decoding its pixels."""
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & image.info.keys():
        _read_late_exif(image)
        image.info.setdefault("exif", b"")  # else Pillow decodes the pixels to look for it
    width, height = image.size
    if image.format == "TIFF":
        # Some versions of Pillow have swapped the size already.
        tags = _tags(image)
        width, height = tags[WIDTH_TAG], tags[HEIGHT_TAG]
    return (width, height) if orientation_of(image) in SIDEWAYS else (height, width)


def _stream(source: Path | str | bytes) -> BinaryIO:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    return open_regular(source, file_limit())


def _unidentified(head: bytes, name: Path | str | None) -> str:
    if not head:
        return "not a readable image: it is empty"
    formats = "expected JPEG, PNG, BMP, TIFF, WebP, PPM or PGM"
    for pattern, form in _MAGIC:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            return f"not a readable image: it is {form}; {formats}"
    file = "" if name is None else f" {Path(name).name}"
    return f"not a readable image: cannot identify image file{file}; {formats}"


def _reason(error: Exception, name: Path | str | None) -> str:
    if isinstance(error, OSError) and error.errno and error.strerror:
        hint = "; raise it with --max-pixels" if error.errno == errno.EFBIG else ""
        return f"can't be read: {error.strerror}{hint}"
    if isinstance(error, UnfitError):
        return str(error)
    text = str(error).strip() or type(error).__name__
    if name is not None:
        text = text.replace(repr(str(name)), Path(name).name)
    if re.match(r"(decoder error|encoder error) -?\d+", text):
        text = f"damaged or incomplete ({text})"
    return f"not a readable image: {text}"


def _check_work(image: Image.Image, file: BinaryIO) -> None:
    """Refuse a file above the pixel limit, or one that needs far more work than its size."""
    width, height = image.size
    pixels = width * height
    if pixels > pixel_limit():
        raise UnfitError(
            f"{width} x {height} pixels is more than the limit of {pixel_limit():,}; raise it "
            "with --max-pixels or fre.images.formats.set_pixel_limit if the file is to be trusted"
        )
    if image.format in ("JPEG", "MPO"):
        allowed = min(SCANS, SCANS_AT_LIMIT * pixel_limit() // max(pixels, 1))
        if (scans := count_scans(file)) > allowed:
            raise UnfitError(
                f"a JPEG of {scans:,} scans, where files of {width} x {height} pixels may have "
                f"{allowed}; save it again as a baseline JPEG"
            )
        return
    tiles = getattr(image, "tile", ())
    covered = 0
    for decoder, extents, *_ in tiles:
        if decoder in SLOW_DECODERS and pixels > SLOW_PIXELS:
            raise UnfitError(
                f"{width} x {height} pixels in a rare encoding ({decoder}) that is slow to read; "
                "save it as PNG or uncompressed"
            )
        left, top, right, bottom = extents or (0, 0, width, height)
        covered += max(0, right - left) * max(0, bottom - top)
    # Strips and tiles cover the image once, or once for each band.
    if covered > (len(image.getbands()) + 1) * pixels:
        raise ValueError(
            f"its {len(tiles):,} strips or tiles have {covered:,} pixels, where the image has "
            f"{pixels:,}; save it again"
        )


def _check_ppm(image: ImageFile.ImageFile) -> None:
    """Read 16-bit grey as it is stored; refuse encodings that would lose most of its levels."""
    tiles: list[Any] = image.tile if image.format == "PPM" else []
    for decoder, extents, offset, args in tiles:
        if decoder == "ppm_plain":
            raise UnfitError("a PPM or PGM in plain text; save it as a binary one")
        if decoder == "ppm" and image.mode == "I":
            # Pillow would stretch the values to 16 bits, one by one and in Python.
            raw: Any = ("raw", extents, offset, ("I;16B", 0, 1))
            image.tile = [raw]
        elif decoder == "ppm" and args[1] > 255:
            raise UnfitError("a PPM of 16-bit colour; save it as a 16-bit PNG or TIFF")


def _check_planes(image: ImageFile.ImageFile) -> None:
    """Refuse 16-bit colour in separate planes: Pillow takes its bytes for 8-bit values."""
    if image.format != "TIFF" or len(image.getbands()) == 1:
        return
    depth = max(_tags(image).get(DEPTH_TAG, (8,)))
    if depth > 8 and not all(";16" in str(tile[3]) for tile in image.tile):
        raise UnfitError(f"{depth}-bit colour in separate planes; save it as interleaved RGB")


@cache
def _silence_libtiff() -> None:
    """Stop libtiff from writing to stderr about damaged files; the exception says what is wrong."""
    try:
        # Pillow's library has loaded libtiff, unless it is built in.
        library = ctypes.CDLL(Image.core.__file__)  # type: ignore[attr-defined]  # Pillow hides it
        handlers = [library.TIFFSetErrorHandler, library.TIFFSetWarningHandler]
    except (OSError, AttributeError):
        return
    for handler in handlers:
        handler.argtypes, handler.restype = [ctypes.c_void_p], ctypes.c_void_p
        handler(None)
