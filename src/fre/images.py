"""Find, decode, orient and resize: any image file becomes uint8 RGB (H, W, 3).

Training and prediction share these functions, so that a model is scored on what it was fitted on.
Pillow decodes: it refuses a truncated file where other decoders fill the rest with grey.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fre import folders
from fre.ahead import Workers, in_order
from fre.errors import DatasetError, ImageError, InputError, OptionError
from fre.folders import SUFFIXES
from fre.jpeg import reduction, softened
from fre.storage import fetch, is_url
from fre.types import ImageArray

__all__ = [
    "FORMATS",
    "ImageSource",
    "LoadedImage",
    "Target",
    "decode_resized",
    "find_images",
    "image_size",
    "iter_loaded",
    "pixel_limit",
    "probe",
    "read_image",
    "read_resized",
    "set_pixel_limit",
    "source_digest",
]

ImageSource: TypeAlias = "Path | str | ImageArray"
"""A file, or its URL, or an image as uint8 RGB (H, W, 3)."""
Target: TypeAlias = "tuple[int, int] | Callable[[tuple[int, int]], tuple[int, int] | None]"
"""A height and width to resize to; or what says so of an image's own, ``None`` to leave it."""

ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
"""What is decoded of data that strangers send; Pillow knows more, some with long histories."""

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap height and width."""


def find_images(source: Path | str) -> list[Path]:
    """Image files of a folder, at any depth, in natural order; or the one file that is named.

    Args:
        source: a folder, or an image file of any suffix.

    Raises:
        DatasetError: nothing is there, or the folder holds no image.
    """
    root = Path(source)
    if root.is_file():
        return [root]
    if not root.exists():
        raise DatasetError(f"{root}: no such file or folder")
    found = folders.find_images(root)
    if not found:
        raise DatasetError(
            f"{root}: no images here or below: expected files ending in {', '.join(SUFFIXES)}"
        )
    return found


def pixel_limit() -> int:
    """The number of pixels above which an image is refused before it is decoded."""
    # Pillow keeps the limit for the whole process; None there switches its check off.
    return Image.MAX_IMAGE_PIXELS or 2**63


def set_pixel_limit(pixels: int) -> None:
    """Refuse images of more than this many pixels, for the whole process.

    The limit is Pillow's own, about 89 million at the start. It protects against files that are
    small on disk and exhaust the memory when decoded.

    Raises:
        OptionError: ``pixels`` is not positive.
    """
    if pixels < 1:
        raise OptionError(f"the pixel limit must be at least 1, not {pixels}")
    Image.MAX_IMAGE_PIXELS = pixels


def _too_large(width: int, height: int) -> str:
    return (
        f"{width} x {height} pixels is more than the limit of {pixel_limit():,}; "
        "raise it with --max-pixels or fre.images.set_pixel_limit if the file is to be trusted"
    )


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image in mode L or RGB, its values on 0..255 by the full range of its type.

    16-bit values lose their low byte, grey and colour alike. Alpha is dropped. A value range
    that the file does not state (floating point, 32-bit integers) is refused, not guessed.
    """
    if image.mode in ("L", "RGB"):
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        deep: NDArray[np.int64] = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(deep, 0, 65535) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "floating-point" if image.mode == "F" else "32-bit integer"
        raise ValueError(f"{kind} pixels have no stated range; convert the file to 8 or 16 bits")
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _resolve(target: Target | None, original: tuple[int, int]) -> tuple[int, int] | None:
    return target(original) if callable(target) else target


def _small(image: Image.Image, target: tuple[int, int]) -> NDArray[np.uint8]:
    """The pixels of an opened file, not yet turned, at a width and height."""
    width, height = image.size
    scale = reduction((width, height), target)
    draft = image.draft(image.mode, (width // scale, height // scale))
    if draft is None:  # no JPEG
        scale = 1
    plain = _eight_bits(image)
    if plain.size != target:
        # The box, as the last pixel of a row or column may lie in the image in part only.
        box = draft[1] if draft else None
        plain = plain.resize(target, Image.Resampling.BILINEAR, box=box)
    return softened(
        np.asarray(plain),
        rows=scale > 1 and height == scale * target[1],
        columns=scale > 1 and width == scale * target[0],
    )


def _decode(
    source: Path | str | BinaryIO,
    wanted: Target | None,
    formats: tuple[str, ...] | None = None,
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    with Image.open(source, formats=formats) as image:
        width, height = image.size
        if width * height > pixel_limit():
            raise ValueError(_too_large(width, height))
        if image.format == "TIFF":
            # Pillow turns a TIFF upright itself, as it loads it.
            image.load()
            width, height = image.size
            orientation = 1
        else:
            orientation = image.getexif().get(ORIENTATION_TAG, 1)
        sideways = orientation in SIDEWAYS
        original = (width, height) if sideways else (height, width)
        size = _resolve(wanted, original)
        if size is None:
            pixels = np.asarray(_eight_bits(image))
        else:
            pixels = _small(image, size if sideways else (size[1], size[0]))
        if orientation in UPRIGHT:
            # Turning the small image costs less than turning the large one.
            pixels = np.asarray(Image.fromarray(pixels).transpose(UPRIGHT[orientation]))
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=2)
    return pixels, original


def _load(
    source: Path | str, target: Target | None, data: bytes | None = None
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """An image from a file, or from what was read of it."""
    try:
        if data is None and is_url(source):
            data = fetch(str(source))
        return _decode(source if data is None else io.BytesIO(data), target)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        reason = f"more pixels than the limit of {pixel_limit():,}; raise it with --max-pixels"
        raise ImageError(source, reason) from None
    except FileNotFoundError:
        raise ImageError(source, "no such file") from None
    except InputError:  # a FetchError, or what is missing to fetch anything
        raise
    except IsADirectoryError:
        raise ImageError(source, "a folder, where an image file was expected") from None
    except UnidentifiedImageError as error:
        # In whose own words data in memory are an object at some address.
        reason = f"not a readable image: cannot identify image file {Path(source).name}"
        raise ImageError(source, reason) from error
    except Exception as error:  # Pillow's decoders raise almost anything on a damaged file
        name = Path(source).name
        reason = str(error).replace(repr(str(source)), name).strip() or type(error).__name__
        raise ImageError(source, f"not a readable image: {reason}") from error


def check_array(image: NDArray[np.uint8]) -> ImageArray:
    """The array itself, if it is an image.

    Raises:
        ImageError: it is not uint8 (H, W, 3), or is empty.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(
            None,
            f"an image array must be uint8 RGB (H, W, 3), not {image.dtype} {image.shape}",
        )
    return image


def read_image(source: ImageSource) -> ImageArray:
    """An image at its full size, upright.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: the file can't be read, is damaged, or exceeds the pixel limit.
    """
    if isinstance(source, np.ndarray):
        return check_array(source)
    return _load(source, None)[0]


def read_resized(source: ImageSource, target: Target) -> tuple[ImageArray, tuple[int, int]]:
    """An image, upright, stretched to some size.

    Bilinear with antialiasing. A JPEG of twice the size or more is decoded at reduced scale, and
    then made to look as if it had been resized (see `fre.jpeg`).

    Args:
        source: a file, or uint8 (H, W, 3).
        target: height and width of the result; or a function from the image's own to those, or
            to ``None`` for an image that is left as it is.

    Returns:
        uint8 (h, w, 3), RGB; and the original height and width.

    Raises:
        ImageError: the file can't be read, is damaged, or exceeds the pixel limit.
    """
    if not isinstance(source, np.ndarray):
        return _load(source, target)
    image = check_array(source)
    original = (image.shape[0], image.shape[1])
    size = _resolve(target, original)
    if size is None or original == size:
        return image, original
    small = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(small), original


def image_size(source: ImageSource) -> tuple[int, int]:
    """Height and width of an image, upright; of a file from its header.

    Raises:
        ImageError: the file can't be read.
    """
    if isinstance(source, np.ndarray):
        height, width, _ = check_array(source).shape
        return height, width
    try:
        with Image.open(source) as image:
            width, height = image.size
            sideways = image.getexif().get(ORIENTATION_TAG, 1) in SIDEWAYS
    except Exception:  # Pillow's decoders raise almost anything on a damaged file
        height, width, _ = read_image(source).shape  # which says what is wrong with it
        return height, width
    return (width, height) if sideways else (height, width)


def probe(data: bytes, *, name: str) -> tuple[str, tuple[int, int]]:
    """What the first bytes of an image say of it; its pixels are not decoded.

    Args:
        data: a file's content.
        name: what to call it in errors.

    Returns:
        One of `FORMATS` (or ``"MPO"``, a JPEG with more behind it), and the height and width as
        stored.

    Raises:
        ImageError: it is none of `FORMATS`, or exceeds the pixel limit.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            form = image.format or ""
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        reason = f"more pixels than the limit of {pixel_limit():,}"
        raise ImageError(name, reason) from None
    except Exception as error:  # Pillow's decoders raise almost anything on damaged data
        raise ImageError(name, _not_an_image(data)) from error
    if width * height > pixel_limit():
        reason = f"{width} x {height} pixels is more than the limit of {pixel_limit():,}"
        raise ImageError(name, reason)
    return form, (height, width)


def _not_an_image(data: bytes) -> str:
    if not data:
        return "not a readable image: it is empty"
    return f"not a readable image: expected {', '.join(FORMATS)}, found something else"


def decode_resized(
    data: bytes, target: Target | None, *, name: str
) -> tuple[ImageArray, tuple[int, int]]:
    """`read_resized` for the content of a file, of one of `FORMATS`.

    Args:
        data: the content.
        target: of the result, as for `read_resized`; ``None`` keeps the image as it is.
        name: what to call it in errors.

    Returns:
        uint8 (h, w, 3), RGB; and the original height and width.

    Raises:
        ImageError: the data are damaged, none of `FORMATS`, or exceed the pixel limit.
    """
    probe(data, name=name)
    try:
        return _decode(io.BytesIO(data), target, FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(name, f"more pixels than the limit of {pixel_limit():,}") from None
    except Exception as error:  # as in _load
        reason = str(error).strip() or type(error).__name__
        raise ImageError(name, f"not a readable image: {reason}") from error


@dataclass(frozen=True)
class LoadedImage:
    """An image on its way to a model.

    Attributes:
        source: where it came from.
        pixels: uint8 (h, w, 3), at the size that was asked for.
        original_size: height and width before it was resized.
        sha256: digest of the file (of the pixels, for an array) in hexadecimal; empty unless
            asked for.
        thumbnail: what was made of the pixels, if anything was.
    """

    source: ImageSource
    pixels: ImageArray
    original_size: tuple[int, int]
    sha256: str = ""
    thumbnail: NDArray[np.uint8] | None = None


def _content(source: ImageSource) -> bytes | InputError | None:
    """What a file holds, or why it can't be had; ``None`` for an array."""
    if isinstance(source, np.ndarray):
        return None
    try:
        return fetch(str(source)) if is_url(source) else Path(source).read_bytes()
    except InputError as error:
        return error
    except OSError:
        return None  # and reading it again will say what is wrong with it


def _decoded(
    source: ImageSource, content: bytes | InputError | None, target: Target
) -> tuple[ImageArray, tuple[int, int]]:
    if isinstance(content, InputError):
        raise content
    if isinstance(source, np.ndarray):
        return read_resized(source, target)
    return _load(source, target, content)


def _digest(source: ImageSource, content: bytes | InputError | None) -> str:
    if isinstance(source, np.ndarray):
        return hashlib.sha256(source.tobytes()).hexdigest()
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else ""


def source_digest(source: ImageSource) -> str:
    """Return the SHA-256 of an image's file, or of an array's pixels, in hexadecimal.

    Empty if the file can't be read: decoding it says why.
    """
    return _digest(source, _content(source))


def iter_loaded(
    sources: Iterable[ImageSource],
    target: Target,
    *,
    workers: Workers,
    ahead: int,
    readers: int | None = None,
    digest: bool = False,
    thumbnail: Callable[[ImageArray], NDArray[np.uint8]] | None = None,
) -> Iterator[LoadedImage | ImageError]:
    """Read images on other threads, in order, a bounded number ahead of the caller.

    Args:
        sources: files or arrays; consumed lazily.
        target: of the results, as for `read_resized`.
        workers: the threads that decode.
        ahead: images that are decoded before the caller asks for them.
        readers: threads that read the files, where decoding should not wait for them; ``None``:
            those that decode.
        digest: whether to compute the digests.
        thumbnail: makes those of the pixels, while they are still in the cache of a core.

    Yields:
        For each source its image, or the error that says why it can't be read.
    """

    def decode(read: tuple[ImageSource, bytes | InputError | None]) -> LoadedImage | ImageError:
        source, content = read
        try:
            pixels, original = _decoded(source, content, target)
            sha256 = _digest(source, content) if digest else ""
            small = None if thumbnail is None else thumbnail(pixels)
            return LoadedImage(source, pixels, original, sha256, small)
        except ImageError as error:
            return error

    def load(source: ImageSource) -> LoadedImage | ImageError:
        # Without a digest a large file need not be in memory as a whole.
        return decode((source, _content(source) if digest else None))

    if readers is None:
        for _, image in in_order(load, sources, workers=workers, ahead=ahead):
            yield image
        return
    # Not many, as files may be large.
    contents = in_order(_content, sources, workers=readers, ahead=min(ahead, 2 * readers))
    for _, image in in_order(decode, contents, workers=workers, ahead=ahead):
        yield image
