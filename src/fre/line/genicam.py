"""GenICam cameras (GigE Vision, USB3 Vision, CoaXPress), read by harvesters."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from fre.errors import MissingDependencyError, OptionError
from fre.line.frame import SourceError
from fre.line.live import Shot
from fre.types import ImageArray

FETCH_SECONDS = 5.0
"""Seconds without a frame after which the camera is opened again."""
CHANNELS = {
    "Mono8": ([0, 0, 0], 1),
    "RGB8": ([0, 1, 2], 3),
    "RGB8Packed": ([0, 1, 2], 3),
    "BGR8": ([2, 1, 0], 3),
    "RGBa8": ([0, 1, 2], 4),
    "BGRa8": ([2, 1, 0], 4),
}
"""Pixel formats: places of red, green and blue among the bytes of a pixel, and their number."""


def parse_genicam(text: str) -> tuple[Path, dict[str, str]]:
    """Return the producer and the search of ``/path/vendor.cti?serial_number=123``.

    Raises:
        OptionError: the producer is no file.
        MissingDependencyError: harvesters is not installed.
    """
    try:
        import harvesters.core  # noqa: F401  (is it installed?)
    except ImportError as error:
        raise MissingDependencyError("a GenICam camera", "genicam") from error
    path, _, query = text.partition("?")
    if not Path(path).is_file():
        raise OptionError(
            f"genicam:{path}: expected the GenTL producer of the camera's vendor, a file .cti"
        )
    return Path(path), dict(parse_qsl(query))


def genicam_shots(producer: Path, search: dict[str, str]) -> Generator[Shot, None, None]:
    """Open a camera, and yield its frames.

    Args:
        producer: GenTL producer, a file ``.cti``.
        search: properties that choose the camera, such as ``serial_number``; empty takes the first.

    Raises:
        SourceError: there is no such camera, it gives no frames, or its pixel format is unknown.
    """
    from harvesters.core import Harvester

    harvester = Harvester()
    camera: Any = None
    try:
        harvester.add_file(str(producer.absolute()))
        harvester.update()
        if not harvester.device_info_list:
            raise SourceError("the producer finds no camera")
        camera = harvester.create(search or 0)
        camera.start()
        while True:
            with camera.fetch(timeout=FETCH_SECONDS) as buffer:
                component = buffer.payload.components[0]
                # Copied: the camera overwrites the buffer.
                pixels = genicam_pixels(
                    component.data.copy(), component.height, component.width, component.data_format
                )
            yield Shot(partial(np.asarray, pixels))
    except (GeneratorExit, SourceError):
        raise
    except Exception as error:  # each producer raises errors of its own
        raise SourceError(" ".join(str(error).split()) or type(error).__name__) from error
    finally:
        if camera is not None:
            camera.destroy()
        harvester.reset()


def genicam_pixels(data: Any, height: int, width: int, form: str) -> ImageArray:
    """Return a frame as uint8 (H, W, 3), RGB.

    Args:
        data: bytes of the frame, uint8, one-dimensional.
        height: height in pixels.
        width: width in pixels.
        form: GenICam's name of the pixel format.

    Raises:
        SourceError: the format is not one of `CHANNELS`.
    """
    if form not in CHANNELS:
        raise SourceError(f"pixel format {form}: set the camera to one of {', '.join(CHANNELS)}")
    channels, n = CHANNELS[form]
    rows = data.reshape(height, -1)[:, : width * n]  # rows may be padded
    pixels: ImageArray = rows.reshape(height, width, n)[:, :, channels].astype(np.uint8)
    return pixels
