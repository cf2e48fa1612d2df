"""Output of ``fre predict``: JSON lines, overlays, maps and masks."""

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
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image

from fre.drawing.heatmaps import Scale, encode, overlay
from fre.errors import ImageError, OptionError
from fre.images.decode import read_image
from fre.images.resize import resized_bands
from fre.inference.prediction import Prediction, prediction_row
from fre.parallel import available_cores
from fre.storage.files import write_atomic
from fre.types import FloatArray

if TYPE_CHECKING:
    from fre.report.prediction_page import PredictionGallery

MAP_FORMATS = ("tiff", "npy", "png")


NAME_BYTES = 255 - len(".tiff")
"""Largest length of a name, in bytes, with room for each suffix."""


def json_line(result: Prediction | ImageError, files: Mapping[str, str] | None = None) -> str:
    """Encode a prediction, or the error in its place, as one line of JSON.

    Args:
        result: prediction or error.
        files: further keys of a prediction: the files written for the image.
    """
    more = {} if files is None or isinstance(result, ImageError) else files
    return json.dumps({**prediction_row(result), **more}, ensure_ascii=False)


def encode_map(anomaly_map: FloatArray, form: str, scale: Scale) -> bytes:
    """Encode an anomaly map as the content of a file.

    Args:
        anomaly_map: float32 (H, W).
        form: ``"tiff"`` and ``"npy"`` keep float32 values. ``"png"``, for programs that read no
            floats, is 16-bit grey: 0 at the low end of the scale, 65535 at the high end.
        scale: range of the model's maps.

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
        file: file, open for writing.
        anomaly_map: float32 (h, w).
        form: ``"tiff"``, ``"npy"`` or ``"png"``.
        scale: range of the model's maps.
        size: height and width to resize the map to, in bands of rows to save memory; ``None``
            keeps its own.

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
        # Compressing floats of a huge map saves little and takes a minute.
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
"""Number of pixels above which maps are written one at a time."""


class FolderWriter:
    """Writer of overlays, maps and masks on worker threads.

    A context manager. Its end waits until everything is written; after an exception, pending
    files are dropped.

    Args:
        folder: folder for ``overlays/``, ``maps/`` and ``masks/``.
        scale: range of the model's maps, one for all pictures.
        maps: format of the maps, or ``None`` for no maps.
        masks: whether to write masks: PNG, 255 at or above the pixel threshold, 0 elsewhere.
        gallery: page that shows the most anomalous images, if one is to be written.
    """

    def __init__(
        self,
        folder: Path,
        scale: Scale,
        maps: str | None,
        masks: bool = False,
        gallery: PredictionGallery | None = None,
    ) -> None:
        self.folder = folder
        self.scale = scale
        self.maps = maps
        self.masks = masks
        self.gallery = gallery
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
            name: name of the image, from `output_names`.
        """
        found = {"overlay": f"overlays/{name}.png"}
        if self.maps:
            found["map"] = f"maps/{name}.{self.maps}"
        if self.masks:
            found["mask"] = f"masks/{name}.png"
        return found

    def add(self, prediction: Prediction, name: str) -> None:
        """Write the files of one image on another thread.

        Args:
            prediction: prediction of the image.
            name: name of the image, from `output_names`.

        Raises:
            ImageError: the file of this image, or of an earlier one, has disappeared.
            OutputError: the disk is full, or can't be written.
        """
        # Each waits with its map and is drawn at full size, so few may wait.
        large = prediction.input_map.size > LARGE_MAP
        while len(self._pending) >= (1 if large else 2 * self._workers):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._draw, name, prediction))

    def _draw(self, name: str, prediction: Prediction) -> None:
        assert prediction.path is not None
        files = self.files(name)
        image = read_image(prediction.path, prediction.bits)
        if self.gallery:
            self.gallery.add(prediction, name, files["overlay"], image)
        picture = overlay(image, prediction.anomaly_map, self.scale)
        self._write(files["overlay"], encode(picture, "PNG", compress_level=1))
        if self.maps:
            data = encode_map(prediction.anomaly_map, self.maps, self.scale)
            self._write(files["map"], data)
        if self.masks:
            mask = np.where(prediction.mask, np.uint8(255), np.uint8(0))
            self._write(files["mask"], encode(mask, "PNG"))

    def _write(self, name: str, data: bytes) -> None:
        write_atomic(self.folder / name, data, parents=True)


def shown_names(sources: Sequence[Path], paths: Sequence[Path]) -> list[str]:
    """Return the paths of images below the common folder of their sources, for a table."""
    root = _common_folder(sources)
    return [_below(_absolute(path), root) for path in paths]


def output_names(sources: Sequence[Path], paths: Sequence[Path]) -> list[str]:
    """Return unique names for the output files of images.

    A name is the image's path without suffix, below the given folder or the common folder of
    several sources. Two images that would share a name, ignoring case, keep their suffix; if that
    is not enough, a digest of the path is added. Names do not depend on the order of the images.

    Args:
        sources: given files and folders.
        paths: images in the sources.

    Returns:
        For each image a relative path without suffix, with forward slashes, in valid Unicode, and
        with parts of at most 250 bytes.
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
    """Return the images whose files would overwrite another image's files or a folder."""
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
    """Return a form that is equal for names that are one on some disk."""
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
    """Return a path below a folder, with forward slashes."""
    text = path[len(root) :] if root else path.replace(":", "")
    return text.replace(os.sep, "/").lstrip("/")
