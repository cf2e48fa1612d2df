"""Plain PNG files, decoded by kornia-rs where it is installed: the same pixels in less time.

Plain is what cameras write: 8 bits, grey or RGB, not interlaced, without transparency, animation or
an orientation. Pillow decodes all other files, and those that kornia-rs refuses, so that errors and
limits stay the same. ``benchmarks/decode.py`` prints the time of each decoder.
"""

from __future__ import annotations

from functools import cache
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOURS = {0: (1, "mono"), 2: (3, "rgb")}
"""Channels, and kornia-rs's name, of the colour types grey and RGB."""
HARMLESS = (b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"pHYs", b"tIME", b"bKGD", b"sBIT", b"hIST")
"""Chunks that change no pixel and have no orientation."""
TEXTS = (b"tEXt", b"zTXt")
EXIF_TEXT = b"Raw profile type"
"""Start of the keyword of a text that may hold an orientation."""


@cache
def fast_decoder() -> Any:
    """Return the function of kornia-rs that decodes a PNG; ``None`` where it is not installed."""
    try:
        from kornia_rs.io import decode_image_png_u8
    except ImportError:
        return None
    return decode_image_png_u8


def is_plain(file: IO[bytes]) -> bool:
    """Tell from the headers of its chunks whether a PNG is plain; the file's position is kept."""
    position = file.tell()
    try:
        file.seek(0)
        return _header(file.read(33)) is not None and _plain_chunks(file)
    finally:
        file.seek(position)


def decoded(file: IO[bytes]) -> NDArray[np.uint8] | None:
    """Decode a plain PNG whose size was checked.

    Args:
        file: PNG file, whose position is kept.

    Returns:
        uint8 (H, W), grey, or (H, W, 3), RGB. ``None`` if kornia-rs is not installed or refuses
        the file, or the file is not plain: Pillow then decodes it, or says what is wrong.
    """
    decode = fast_decoder()
    if decode is None or not is_plain(file):
        return None
    position = file.tell()
    try:
        file.seek(0)
        data = file.read()
    finally:
        file.seek(position)
    height, width, channels, mode = _header(data[:33]) or (0, 0, 0, "")
    try:
        pixels = decode(data, (height, width), mode)
    except BaseException as error:
        # Pillow decodes what kornia-rs refuses, or says why it can't. A panic of Rust is no
        # Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        return None
    return np.asarray(pixels).reshape((height, width) if channels == 1 else (height, width, 3))


def _header(start: bytes) -> tuple[int, int, int, str] | None:
    """Return height, width, channels and kornia-rs's mode; ``None`` of another kind of PNG."""
    if start[:16] != SIGNATURE + b"\0\0\0\rIHDR" or len(start) < 33:
        return None
    depth, colour, *rest = start[24:29]
    if depth != 8 or colour not in COLOURS or any(rest):
        return None
    width, height = int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
    return height, width, *COLOURS[colour]


def _plain_chunks(file: IO[bytes]) -> bool:
    """Read the chunks after the header: harmless ones, then the pixels, then the end."""
    pixels = False
    while len(head := file.read(8)) == 8:
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND":
            return pixels
        if kind == b"IDAT":
            pixels = True
        elif pixels or kind not in (*HARMLESS, *TEXTS):
            return False
        elif kind in TEXTS:
            start = file.read(min(length, len(EXIF_TEXT)))
            if start == EXIF_TEXT:
                return False
            length -= len(start)
        file.seek(length + 4, 1)
    return False
