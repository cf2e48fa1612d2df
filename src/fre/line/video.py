"""Video files, network streams and attached cameras, read by PyAV."""

from __future__ import annotations

import sys
from collections.abc import Generator
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from fre.errors import MissingDependencyError, OptionError
from fre.line.frame import SourceError
from fre.line.live import Shot
from fre.types import ImageArray

CONNECT_SECONDS = 10.0
READ_SECONDS = 10.0
"""Seconds without data after which a stream is opened again."""


def require_av() -> Any:
    """Return PyAV.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("a camera, a stream or a video", "camera") from error
    # FFmpeg's own lines on stderr; its errors arrive as exceptions.
    av.logging.set_level(None)
    return av


def without_password(url: str) -> str:
    """Return a URL without user and password."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def video_shots(address: str) -> Generator[Shot, None, None]:
    """Open a video or stream, and yield its frames.

    Args:
        address: path of a file, or URL of a stream: RTSP, HTTP and whatever FFmpeg reads.

    Raises:
        SourceError: it can't be opened, or stops in the middle.
    """
    # By TCP: of a picture that is sent by UDP parts get lost.
    live = "://" in address
    rtsp = address.startswith(("rtsp:", "rtsps:"))
    yield from _shots(address, {"rtsp_transport": "tcp"} if rtsp else {}, None, live)


def camera_shots(index: int) -> Generator[Shot, None, None]:
    """Open an attached camera, and yield its frames.

    Args:
        index: number of the camera, from 0.

    Raises:
        SourceError: there is no such camera, or it was removed.
    """
    av = require_av()
    if sys.platform == "win32":
        cameras = [
            device
            for device in av.enumerate_input_devices("dshow")
            if "video" in str(getattr(device, "media_types", "video"))
        ]
        if index >= len(cameras):
            raise SourceError(f"this machine has {len(cameras)} cameras")
        yield from _shots(f"video={cameras[index].name}", {}, "dshow", True)
    elif sys.platform == "darwin":
        yield from _shots(f"{index}:none", {"framerate": "30"}, "avfoundation", True)
    else:
        yield from _shots(f"/dev/video{index}", {}, "v4l2", True)


def _shots(
    address: str, options: dict[str, str], form: str | None, live: bool
) -> Generator[Shot, None, None]:
    av = require_av()
    try:
        with av.open(
            address,
            format=form,
            options=options,
            timeout=(CONNECT_SECONDS, READ_SECONDS) if live else None,
        ) as container:
            if not container.streams.video:
                raise SourceError("has no video")
            stream = container.streams.video[0]
            # Decoding several frames at once would delay each of a live source.
            stream.thread_type = "SLICE" if live else "AUTO"
            for frame in container.decode(stream):
                yield Shot(partial(_pixels, frame), frame.time, bool(frame.is_corrupt))
    except (av.error.FFmpegError, OSError) as error:
        raise SourceError(error.strerror or type(error).__name__) from error


def _pixels(frame: Any) -> ImageArray:
    pixels: ImageArray = frame.to_ndarray(format="rgb24")
    return pixels


def check_index(text: str) -> int:
    """Return the number of a camera.

    Raises:
        OptionError: the text is no number.
    """
    if not (text.isdecimal() and text.isascii()):
        raise OptionError(f"camera:{text}: expected the number of a camera, such as camera:0")
    return int(text)
