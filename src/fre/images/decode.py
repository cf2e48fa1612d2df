"""Find, decode, orient and resize: any image file becomes uint8 RGB (H, W, 3).

Training and prediction share these functions, so that a model is scored on what it was fitted on.
Pillow decodes: it refuses a truncated file where other decoders fill the rest with grey. Plain PNG
files are decoded by kornia-rs where it is installed (see `fre.images.png`), to the same pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fre.errors import DatasetError, ImageError, InputError
from fre.images.arrays import check_array, largest_in_memory
from fre.images.bits import (
    bits_of,
    deep_colour,
    eight_bits,
    is_deep,
    is_deep_colour,
    largest_value,
    open_low_bytes,
)
from fre.images.formats import (
    SIDEWAYS,
    file_limit,
    image_errors,
    open_image,
    orientation_of,
    shown_size,
)
from fre.images.geometry import FULL_RANGE, Decoding
from fre.images.jpeg import reduction, softened
from fre.images.png import decoded as png_pixels
from fre.parallel import in_order
from fre.storage import listing as folders
from fre.storage.files import open_regular
from fre.storage.listing import SUFFIXES, suffix
from fre.storage.remote import check_local, fetch, is_url
from fre.types import ImageArray, Progress

ImageSource: TypeAlias = "Path | str | NDArray[Any] | Image.Image"
"""A file, or its URL; an array, as in `fre.images.arrays.check_array`; or a PIL image."""
Target: TypeAlias = (
    "tuple[int, int] | Callable[[tuple[int, int]], tuple[int, int] | None] | Decoding"
)
"""Height and width to resize to; or a function from an image's height and width to these, which
returns ``None`` to leave it; or a `Decoding`, which adds the range of 16-bit values."""

SHALLOW = (".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp")
"""Suffixes of formats with 8 bits a value; reading refuses a file with a false suffix."""

BAND_ROWS = 64
"""Number of rows compared at a time. They stay in the cache; colour images differ in the first."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def find_images(source: Path | str) -> list[Path]:
    """Return the image files of a folder, at any depth, in natural order.

    Args:
        source: folder, or one image file of any suffix.

    Raises:
        DatasetError: nothing is there, the folder holds no image, or it is a URL.
    """
    check_local(str(source))
    root = Path(source)
    if not root.is_dir():
        if not os.path.lexists(root):
            raise DatasetError(f"{root}: no such file or folder")
        return [root]  # reading it says what it is, if it is no file
    found = folders.find_images(root)
    if not found:
        note = folders.left_out_note(folders.left_out(root))
        raise DatasetError(
            f"{root}: no images here or below: expected files ending in {', '.join(SUFFIXES)}"
            + (f"; {note.partition('; ')[0]}" if note else "")
        )
    return found


def _decoding(target: Target | None) -> Decoding:
    return target if isinstance(target, Decoding) else Decoding(target)


def _small(image: Image.Image, target: tuple[int, int], bits: int | None) -> NDArray[np.uint8]:
    """Return the pixels of an opened file at a width and height, before EXIF rotation."""
    width, height = image.size
    scale = reduction((width, height), target)
    draft = image.draft(image.mode, (width // scale, height // scale))
    if draft is None:  # no JPEG
        scale = 1
    # The box, as only a part of the last pixel of a row or column may lie in the image.
    plain = _resized(eight_bits(image, bits), target, draft[1] if draft else None)
    return softened(
        np.asarray(plain),
        rows=scale > 1 and height == scale * target[1],
        columns=scale > 1 and width == scale * target[0],
    )


def _resized(
    image: Image.Image, target: tuple[int, int], box: tuple[float, float, float, float] | None
) -> Image.Image:
    """Resize by width, then by height: Pillow chooses the order by its version and the sizes.

    Each pass rounds to 8 bits, so the order changes pixels and scores. Programs in other languages
    resize in this order, too (docs/deploy.md).
    """
    left, top, right, bottom = box or (0, 0, *image.size)
    for size, part in (
        ((target[0], image.height), (left, 0, right, image.height)),
        (target, (0, top, target[0], bottom)),
    ):
        if image.size != size or part != (0, 0, *size):
            image = image.resize(size, Image.Resampling.BILINEAR, box=part)
    return image


def _decode(
    source: Path | str | bytes, name: Path | str, decoding: Decoding
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Return an upright image, uint8 (h, w, 3), and its original height and width."""
    with open_image(source, name) as image:
        deep = is_deep_colour(image)
        if image.format == "PNG" and image.fp and (plain := png_pixels(image.fp)) is not None:
            return _plain(plain, decoding)
        if image.format == "TIFF":
            # Pillow turns a TIFF upright itself, as it loads it.
            image.load()
            orientation = 1
        else:
            orientation = orientation_of(image)
        if deep and decoding.bits != FULL_RANGE:
            with open_low_bytes(source, name) as low:
                return _upright(deep_colour(image, low, decoding.bits), orientation, decoding)
        return _upright(image, orientation, decoding)


def _plain(
    pixels: NDArray[np.uint8], decoding: Decoding
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Resize decoded pixels, (H, W) or (H, W, 3), that are upright."""
    original = (pixels.shape[0], pixels.shape[1])
    size = decoding.size_of(original)
    if size is not None and size != original:
        pixels = _grey_if_equal(pixels)
        pixels = np.asarray(_resized(Image.fromarray(pixels), (size[1], size[0]), None))
    return _three_channels(pixels), original


def _grey_if_equal(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H, W) of RGB pixels with three equal channels, which take a third of the resizing."""
    if pixels.ndim == 2 or not _equal_channels(pixels):
        return pixels
    return np.ascontiguousarray(pixels[:, :, 0])


def _equal_channels(pixels: NDArray[np.uint8]) -> bool:
    """Tell whether red, green and blue are equal everywhere; eight bytes at a time."""
    rows = pixels.reshape(len(pixels), -1)
    width = (rows.shape[1] - 1) // 8 * 8
    # Each byte beside the next: red and green, green and blue; blue and red of the next pixel.
    compared = np.resize(np.array([255, 255, 0], np.uint8), width).view(np.uint64)
    for start in range(0, len(rows), BAND_ROWS):
        band = rows[start : start + BAND_ROWS]
        differing = (band[:, 1 : width + 1] ^ band[:, :width]).view(np.uint64)
        if (np.bitwise_or.reduce(differing, axis=0) & compared).any():
            return False
    rest = pixels[:, width // 3 :]
    return bool((rest == rest[:, :, :1]).all())


def _three_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([pixels] * 3, axis=2) if pixels.ndim == 2 else pixels


def _upright(
    image: Image.Image, orientation: int, decoding: Decoding
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    width, height = image.size
    sideways = orientation in SIDEWAYS
    original = (width, height) if sideways else (height, width)
    size = decoding.size_of(original)
    if size is None:
        pixels = np.asarray(eight_bits(image, decoding.bits))
    else:
        target = size if sideways else (size[1], size[0])
        pixels = _small(image, target, decoding.bits)
    if orientation in UPRIGHT:
        # Turning the small image costs less than turning the large one.
        pixels = np.asarray(Image.fromarray(pixels).transpose(UPRIGHT[orientation]))
    return _three_channels(pixels), original


def _load(
    source: Path | str, decoding: Decoding, data: bytes | None = None
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Decode an image file, or the content that was read from it."""
    return _decode(_stored(source) if data is None else data, source, decoding)


def _stored(source: Path | str) -> Path | str | bytes:
    """Return a local file as it is, or the content of a URL."""
    if not is_url(source):
        return source
    try:
        return fetch(str(source))
    except FileNotFoundError:
        raise ImageError(source, "no such file") from None


def _from_memory(
    image: NDArray[Any] | Image.Image, decoding: Decoding
) -> tuple[ImageArray, tuple[int, int]]:
    """Decode an array or a PIL image."""
    if isinstance(image, Image.Image):
        with image_errors(None):
            # A copy: Pillow would keep the caller's image at the reduced scale.
            return _upright(*_opened(image), decoding)
    with image_errors(None):
        return _plain(check_array(image, decoding.bits), decoding)


def _opened(image: Image.Image) -> tuple[Image.Image, int]:
    """Return a copy of a PIL image, and the EXIF orientation that is still to be applied."""
    if is_deep_colour(image):
        raise ImageError(None, "a PIL image keeps 8 of 16 bits of colour: give its file instead")
    copy = image.copy()
    # Only an image from a file has an orientation; Pillow has applied that of a TIFF.
    stored = getattr(image, "format", None) not in (None, "TIFF")
    return copy, orientation_of(image) if stored else 1


def read_image(source: ImageSource, bits: int | None = FULL_RANGE) -> ImageArray:
    """Read an image at its full size, upright.

    Args:
        source: file, array or PIL image.
        bits: range of 16-bit values, as in `fre.images.geometry.Decoding`.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        ImageError: the file can't be read, is damaged, or exceeds a limit.
    """
    return read_resized(source, Decoding(None, bits))[0]


def read_resized(source: ImageSource, target: Target) -> tuple[ImageArray, tuple[int, int]]:
    """Read an image, upright and resized: bilinear with antialiasing.

    A JPEG of at least twice the size is decoded at reduced scale, then softened to look like a
    resized image (see `fre.images.jpeg`).

    Args:
        source: file, array or PIL image.
        target: height and width of the result, see `Target`.

    Returns:
        uint8 (h, w, 3), RGB; and the original height and width.

    Raises:
        ImageError: the file can't be read, is damaged, or exceeds a limit; or its 16-bit values
            are outside the range.
    """
    decoding = _decoding(target)
    if isinstance(source, (str, Path)):
        return _load(source, decoding)
    return _from_memory(source, decoding)


def image_size(source: ImageSource) -> tuple[int, int]:
    """Return the height and width of an upright image; only the header of a file is read.

    Raises:
        ImageError: the file can't be read.
    """
    if isinstance(source, (str, Path)):
        with open_image(_stored(source), source) as image:
            return shown_size(image)
    return read_resized(source, Decoding(None))[1]


def find_bits(
    sources: Sequence[ImageSource], *, workers: int, progress: Progress | None = None
) -> int | None:
    """Find the range that the 16-bit values of some images use.

    Unreadable files are skipped. Only the first URL is fetched, unless it has 16 bits.

    Args:
        sources: files, arrays or PIL images.
        workers: number of decoding threads.
        progress: called after each image of 16 bits.

    Returns:
        One of `fre.images.geometry.BITS`, by the largest value; ``None`` if all files have 8 bits.
    """
    files = [source for source in sources if isinstance(source, (str, Path))]
    urls = [source for source in files if is_url(source)]
    chosen = [source for source in files if not is_url(source) and _may_be_deep(source)]
    chosen += urls if urls and _largest(urls[0]) is not None else []
    in_memory = [largest for image in sources if (largest := largest_in_memory(image)) is not None]
    found = bits_of(max(in_memory)) if in_memory else None
    for done, (_, largest) in enumerate(
        in_order(_largest, chosen, workers=workers, ahead=2 * workers), start=1
    ):
        if largest is not None:
            found = max(found or 0, bits_of(largest))
        if progress:
            progress("Finding the range of 16-bit values", done, len(chosen))
        if found == FULL_RANGE:
            break
    return found


def _largest(source: Path | str) -> int | None:
    try:
        return largest_value(_stored(source), source)
    except InputError:
        return None


def _may_be_deep(source: Path | str) -> bool:
    """Tell from its first bytes whether a file may have 16 bits a value."""
    if suffix(Path(source).name) in SHALLOW:
        return False
    try:
        with open_regular(source, file_limit()) as file:
            head = file.read(25)
    except OSError:
        return False
    if head.startswith(b"\x89PNG"):
        return head[24:] == b"\x10"
    return head.startswith((b"II", b"MM", b"P5", b"P6"))


def probe(data: bytes, *, name: str, bits: int | None = FULL_RANGE) -> tuple[str, tuple[int, int]]:
    """Read the header of an image, without decoding its pixels.

    Args:
        data: content of the file.
        name: name of the image in error messages.
        bits: range of 16-bit values, as in `fre.images.geometry.Decoding`.

    Returns:
        The format, one of `FORMATS` or ``"MPO"`` (several JPEGs in a file), and the stored height
        and width. The format of 16-bit values ends with their range: ``"PNG:12"``.

    Raises:
        ImageError: the file has another format, or exceeds a limit.
    """
    with open_image(data, name) as image:
        width, height = image.size
        form = image.format or ""
        return f"{form}:{bits}" if is_deep(image) else form, (height, width)


def decode_resized(
    data: bytes, target: Target | None, *, name: str
) -> tuple[ImageArray, tuple[int, int]]:
    """Decode and resize the content of an image file, as `read_resized` does a file.

    Args:
        data: content of the file.
        target: height and width of the result, see `Target`; ``None`` keeps the original size.
        name: name of the image in error messages.

    Returns:
        uint8 (h, w, 3), RGB; and the original height and width.

    Raises:
        ImageError: the data are damaged, none of `FORMATS`, or exceed a limit.
    """
    return _decode(data, name, _decoding(target))


def file_of(source: ImageSource) -> Path | str | None:
    """Return the file or URL of an image; ``None`` for pixels."""
    return source if isinstance(source, (str, Path)) else None
