"""The sources that a command line names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from fre.errors import DatasetError, OptionError
from fre.line.folder import FolderOptions, FolderSource
from fre.line.frame import Source, SourceOptions
from fre.line.genicam import genicam_shots, parse_genicam
from fre.line.live import LiveSource
from fre.line.video import camera_shots, check_index, require_av, video_shots, without_password
from fre.storage.listing import SUFFIXES, suffix


def is_folder(text: str) -> bool:
    """Return whether a source is a folder, or at least no camera, stream or file."""
    named = "://" in text or text.startswith(("camera:", "genicam:"))
    return not named and not Path(text).is_file()


def open_source(
    text: str,
    options: SourceOptions,
    folder: FolderOptions,
    *,
    warn: Callable[[str], None],
) -> Source:
    """Return the source of a text.

    Args:
        text: a folder; ``camera:0``; ``rtsp://``, ``http://`` or another URL of a stream;
            ``genicam:PRODUCER.cti``; or a video file.
        options: selection of frames; a folder has none.
        folder: times and mode of a folder.
        warn: called with one line of text for each thing to know.

    Raises:
        DatasetError: the folder does not exist.
        OptionError: an option does not fit the source, or the text names nothing.
        OutputError: another process watches the folder.
        MissingDependencyError: an extra is not installed.
    """
    if is_folder(text):
        if options != SourceOptions():
            raise OptionError(
                f"{text}: a folder has no --every, --rate, --buffer or --trigger; every image in "
                "it is scored"
            )
        if not Path(text).is_dir():
            raise DatasetError(
                f"{text}: expected a folder or a video file, and there is none; a camera is "
                "camera:0, a stream rtsp://HOST/PATH"
            )
        return FolderSource(Path(text), folder, warn=warn)
    if replace(folder, interval=0, batch_bytes=0) != FolderOptions(interval=0, batch_bytes=0):
        raise OptionError(
            f"{without_password(text)}: --once, --skip-existing, --settle and --patience are for "
            "folders"
        )
    if text.startswith("genicam:"):
        producer, search = parse_genicam(text.removeprefix("genicam:"))
        shots = partial(genicam_shots, producer, search)
        return LiveSource(text, shots, options, live=True, warn=warn)
    require_av()
    if text.startswith("camera:"):
        shots = partial(camera_shots, check_index(text.removeprefix("camera:")))
        return LiveSource(text, shots, options, live=True, warn=warn)
    live = "://" in text
    if not live and suffix(text) in SUFFIXES:
        raise OptionError(f"{text}: an image; give its folder, or score it with fre predict")
    name = without_password(text)
    return LiveSource(name, partial(video_shots, text), options, live=live, warn=warn)
