"""What ``fre predict`` writes: JSON lines, and overlays and maps on threads of their own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fre.errors import ImageError, OptionError
from fre.images.decode import read_image
from fre.images.resize import resized_bands
from fre.inference.prediction import Prediction, json_row
from fre.parallel import available_cores
from fre.report.heatmaps import Scale, overlay
from fre.storage.files import write_atomic
from fre.types import FloatArray

MAP_FORMATS = ("tiff", "npy", "png")


NAME_BYTES = 255 - len(".tiff")
"""The longest name of a file or folder that leaves room for each suffix."""


def json_line(result: Prediction | ImageError, files: Mapping[str, str] | None = None) -> str:
    """Encode a prediction, or the reason why there is none, as one line of JSON.

    Args:
        result: the prediction or the error.
        files: further keys: files that were written for the image.
    """
    more = {} if isinstance(result, ImageError) else files or {}
    return json.dumps({**json_row(result), **more}, ensure_ascii=False)


def encode_map(anomaly_map: FloatArray, form: str, scale: Scale) -> bytes:
    """An anomaly map as the bytes of a file.

    Args:
        anomaly_map: float32 (H, W).
        form: ``"tiff"`` and ``"npy"`` keep the values as float32. ``"png"`` is for programs
            that read no floats: 16-bit grey, 0 at the low end of the scale or below, 65535 at
            its high end or above.
        scale: the model's range of the map.

    Raises:
        OptionError: an unknown format.
    """
    buffer = io.BytesIO()
    write_map(buffer, anomaly_map, form, scale)
    return buffer.getvalue()


def write_map(
    file: IO[bytes],
    anomaly_map: FloatArray,
    form: str,
    scale: Scale,
    size: tuple[int, int] | None = None,
) -> None:
    """Write an anomaly map to an open file, as `encode_map` encodes it.

    Args:
        file: open for writing.
        anomaly_map: float32 (h, w).
        form: ``"tiff"``, ``"npy"`` or ``"png"``.
        scale: the model's range of the map.
        size: height and width to resize the map to; ``None`` keeps its own. Only the rows in
            hand are resized, so that a huge map takes little memory.

    Raises:
        OptionError: an unknown format.
    """
    height, width = size or anomaly_map.shape
    if form == "npy":
        header = {"descr": "<f4", "fortran_order": False, "shape": (height, width)}
        np.lib.format.write_array_header_1_0(file, header)
        for _, band in resized_bands(anomaly_map, (height, width)):
            file.write(np.ascontiguousarray(band, "<f4").tobytes())
    elif form == "tiff":
        whole = Image.fromarray(np.ascontiguousarray(anomaly_map, np.float32))
        if whole.size != (width, height):
            whole = whole.resize((width, height), Image.Resampling.BILINEAR)
        # Floats of a huge map hardly get smaller, and would take a minute.
        compression = "raw" if height * width > LARGE_MAP else "tiff_deflate"
        whole.save(file, "TIFF", compression=compression)
    elif form == "png":
        low, high = scale
        grey = np.empty((height, width), np.uint16)
        for rows, band in resized_bands(anomaly_map, (height, width)):
            # In float64: the scale of a model of equal images is too small for float32.
            share = np.clip((band.astype(np.float64) - low) / (high - low), 0, 1)
            grey[rows] = np.rint(share * 65535)
        level = 1 if height * width > LARGE_MAP else 6
        Image.fromarray(grey).save(file, "PNG", compress_level=level)
    else:
        raise OptionError(f"no map format is called {form!r}; choose from: {MAP_FORMATS}")


LARGE_MAP = 4_000_000
"""Pixels of maps that are written one at a time."""


class FolderWriter:
    """Writes each prediction's overlay, and its map and mask if wanted, on worker threads.

    A context manager: when it ends well, everything is written. When it ends by an exception,
    what has not been begun is left out, and nothing is being written any more.

    Args:
        folder: where ``overlays/``, ``maps/`` and ``masks/`` go.
        scale: the model's range of the map: one scale for every picture.
        maps: format of the maps, or ``None`` for none.
        masks: whether to write masks: PNG, 255 at or above the pixel threshold, 0 elsewhere.
    """

    def __init__(self, folder: Path, scale: Scale, maps: str | None, masks: bool = False) -> None:
        self.folder = folder
        self.scale = scale
        self.maps = maps
        self.masks = masks
        self._pending: deque[Future[None]] = deque()
        self._workers = available_cores()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="fre-write")

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            while self._pending and error is None:
                self._pending.popleft().result()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def files(self, name: str) -> dict[str, str]:
        """Return the files of an image, as keys of its JSON line and paths below the folder.

        Args:
            name: of the image, from `output_names`.
        """
        found = {"overlay": f"overlays/{name}.png"}
        if self.maps:
            found["map"] = f"maps/{name}.{self.maps}"
        if self.masks:
            found["mask"] = f"masks/{name}.png"
        return found

    def add(self, prediction: Prediction, name: str) -> None:
        """Have one image's overlay written, and its map and its mask if they are wanted.

        Args:
            prediction: of the image.
            name: of the image, from `output_names`.

        Raises:
            ImageError: this image, or one before it, is gone.
            OutputError: the disk is full, or can't be written.
        """
        # Each waits with its map, and is drawn at full size: few may be on their way.
        large = prediction.input_map.size > LARGE_MAP
        while len(self._pending) >= (1 if large else 2 * self._workers):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._draw, self.files(name), prediction))

    def _draw(self, files: Mapping[str, str], prediction: Prediction) -> None:
        assert prediction.path is not None
        picture = overlay(
            read_image(prediction.path, prediction.bits), prediction.anomaly_map, self.scale
        )
        self._write(files["overlay"], _png(picture, compress_level=1))
        if self.maps:
            data = encode_map(prediction.anomaly_map, self.maps, self.scale)
            self._write(files["map"], data)
        if self.masks:
            mask = np.where(prediction.mask, np.uint8(255), np.uint8(0))
            self._write(files["mask"], _png(mask))

    def _write(self, name: str, data: bytes) -> None:
        write_atomic(self.folder / name, data, parents=True)


def _png(pixels: NDArray[np.uint8], **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()


def output_names(sources: Sequence[Path], paths: Sequence[Path]) -> list[str]:
    """Name each image's overlay, map and mask, so that no two images share a name.

    A name is the image's path below the folder that was given, or below the folder that several
    sources have in common, without its suffix. Where two images would share it, on a disk that
    ignores case, too, both keep their suffix; where that is not enough, a digest of the path is
    added. So a name depends on which images there are, and not on their order.

    Args:
        sources: the files and folders that were given.
        paths: the images in them.

    Returns:
        For each image a relative path without suffix, with forward slashes, in valid Unicode,
        no part of it longer than 250 bytes.
    """
    root = _common_folder(sources)
    keys = [_below(_absolute(path), root) for path in paths]
    forms = dict.fromkeys(keys, 0)
    names = {key: _name(key, 0) for key in forms}
    while clashing := [key for key in _clashing(names) if forms[key] < LAST_FORM]:
        for key in clashing:
            forms[key] += 1
            names[key] = _name(key, forms[key])
    return [names[key] for key in keys]


LAST_FORM = 2
"""Forms of an image's name: 0 without suffix, 1 with it, and 2 with a digest."""

_ENDS = (".png", *(f".{form}" for form in MAP_FORMATS))


def _clashing(names: Mapping[str, str]) -> list[str]:
    """Images whose files would take the place of another one's, or of a folder."""
    folded = {key: _folded(name) for key, name in names.items()}
    taken = Counter(folded.values())
    folders = {folder for name in taken for folder in _folders(name)}
    return [
        key
        for key, name in folded.items()
        if taken[name] > 1 or any(name + end in folders for end in _ENDS)
    ]


def _name(key: str, form: int) -> str:
    stem, _, suffix = key.rpartition(".")
    name = stem if form != 1 and stem and "/" not in suffix and stem[-1] != "/" else key
    if form > 1:
        name = f"{name}-{_digest(key)}"
    # Disks of other systems may take valid Unicode only.
    name = re.sub("[\ud800-\udfff]", lambda found: f"%{ord(found[0]) & 0xFF:02X}", name)
    return "/".join(map(_shortened, name.split("/")))


def _shortened(part: str) -> str:
    data = part.encode()
    if len(data) <= NAME_BYTES:
        return part
    return f"{data[: NAME_BYTES - 9].decode(errors='ignore')}-{_digest(part)}"


def _digest(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


def _folded(name: str) -> str:
    """What is equal for names that some disk takes for one."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _folders(name: str) -> Iterator[str]:
    place = name.find("/")
    while place >= 0:
        yield name[:place]
        place = name.find("/", place + 1)


def _common_folder(sources: Sequence[Path]) -> str:
    folders = {_absolute(source if source.is_dir() else source.parent) for source in sources}
    try:
        return os.path.commonpath(folders)
    except ValueError:  # on different drives
        return ""


def _absolute(path: Path) -> str:
    return os.path.normpath(path.absolute())


def _below(path: str, root: str) -> str:
    """A path below a folder, with forward slashes."""
    text = path[len(root) :] if root else path.replace(":", "")
    return text.replace(os.sep, "/").lstrip("/")
