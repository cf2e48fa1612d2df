"""What ``fre predict`` writes: JSON lines, and overlays and maps on threads of their own."""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fre.cores import available_cores
from fre.errors import ImageError, OptionError
from fre.files import write_atomic
from fre.images import read_image
from fre.maps import resized_bands
from fre.types import FloatArray, Prediction
from fre.visualize import Scale, overlay

__all__ = ["MAP_FORMATS", "FolderWriter", "encode_map", "json_line", "write_map"]

MAP_FORMATS = ("tiff", "npy", "png")


def json_line(result: Prediction | ImageError) -> str:
    """A prediction, or why there is none, as one line of JSON."""
    if isinstance(result, ImageError):
        values: dict[str, Any] = {"path": str(result.path), "error": result.reason}
    else:
        values = result.to_dict()
    return json.dumps(values, ensure_ascii=False)


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
        roots: folders that the images came from; names below them are kept.
        scale: the model's range of the map: one scale for every picture.
        maps: format of the maps, or ``None`` for none.
        masks: whether to write masks: PNG, 255 at or above the pixel threshold, 0 elsewhere.
    """

    def __init__(
        self,
        folder: Path,
        roots: Sequence[Path],
        scale: Scale,
        maps: str | None,
        masks: bool = False,
    ) -> None:
        self.folder = folder
        self.roots = [root for root in roots if root.is_dir()]
        self.scale = scale
        self.maps = maps
        self.masks = masks
        self._taken: set[Path] = set()
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

    def _name(self, path: Path) -> Path:
        """The image's path below the folder it came from, without suffix; unique."""
        base = Path(path.name)
        for root in self.roots:
            if path.is_relative_to(root):
                base = path.relative_to(root if len(self.roots) == 1 else root.parent)
                break
        name, count = base.with_suffix(""), 1
        while name in self._taken:
            count += 1
            name = base.with_name(f"{base.stem}_{count}")
        self._taken.add(name)
        return name

    def add(self, prediction: Prediction) -> None:
        """Have one image's overlay written, and its map and its mask if they are wanted.

        Raises:
            ImageError: this image, or one before it, is gone.
            OutputError: the disk is full, or can't be written.
        """
        assert prediction.path is not None
        name = self._name(prediction.path)
        # Each waits with its map, and is drawn at full size: few may be on their way.
        large = prediction.input_map.size > LARGE_MAP
        while len(self._pending) >= (1 if large else 2 * self._workers):
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(self._draw, name, prediction))

    def _draw(self, name: Path, prediction: Prediction) -> None:
        assert prediction.path is not None
        picture = overlay(
            read_image(prediction.path, prediction.bits), prediction.anomaly_map, self.scale
        )
        self._write(Path("overlays", f"{name}.png"), _png(picture, compress_level=1))
        if self.maps:
            data = encode_map(prediction.anomaly_map, self.maps, self.scale)
            self._write(Path("maps", f"{name}.{self.maps}"), data)
        if self.masks:
            mask = np.where(prediction.mask, np.uint8(255), np.uint8(0))
            self._write(Path("masks", f"{name}.png"), _png(mask))

    def _write(self, name: Path, data: bytes) -> None:
        write_atomic(self.folder / name, data, parents=True)


def _png(pixels: NDArray[np.uint8], **options: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return buffer.getvalue()
