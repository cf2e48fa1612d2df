"""From an image of any size to the input of a network, and from its maps back to the image.

Three ways: *stretch* to the input's size; *letterbox*, scaled with its aspect kept and padded;
*tiles* of the input's size that overlap, at full resolution. None of them cuts anything off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError

Fit: TypeAlias = Literal["stretch", "letterbox"]
FITS: tuple[Fit, ...] = ("stretch", "letterbox")

Size: TypeAlias = tuple[int, int]
"""Height and width, in pixels."""

BITS = (8, 10, 12, 14, 16)
"""Ranges of 16-bit values: cameras of 10 or 12 bits write files of 16 bits, 0 to 1023 or 4095."""

FULL_RANGE = 16

PADDING = (124, 116, 104)
"""What pads an image: the mean colour of ImageNet, which a backbone takes for next to nothing."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels.

    Attributes:
        top: first row.
        left: first column.
        height: number of rows.
        width: number of columns.
    """

    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """The part of an array (H, W, ...) that the box covers, as a view."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]

    def scaled(self, old: Size, new: Size) -> Box:
        """The locations of a map of size ``new`` that the box covers on one of size ``old``."""
        top, left = self.top * new[0] // old[0], self.left * new[1] // old[1]
        bottom = -(-(self.top + self.height) * new[0] // old[0])
        right = -(-(self.left + self.width) * new[1] // old[1])
        return Box(top, left, bottom - top, right - left)


def content_box(image_size: Size, size: Size, fit: Fit) -> Box:
    """Where an image is within an input of some size."""
    if fit == "stretch":
        return Box(0, 0, *size)
    scale = min(size[0] / image_size[0], size[1] / image_size[1])
    height = min(size[0], max(1, round(image_size[0] * scale)))
    width = min(size[1], max(1, round(image_size[1] * scale)))
    return Box((size[0] - height) // 2, (size[1] - width) // 2, height, width)


@dataclass(frozen=True)
class Tiling:
    """Large images are looked at tile by tile.

    Attributes:
        overlap: pixels that neighbouring tiles share, at least.
        image_size: images are stretched to this size before they are cut; ``None`` leaves them
            as they are.
        per_tile: whether each place of a tile has a model of its own, for a camera and a part
            that do not move; else one model is for all tiles.
    """

    overlap: int
    image_size: Size | None = None
    per_tile: bool = False

    def grid(self, image_size: Size, tile: Size) -> TileGrid:
        """The tiles of an image.

        Args:
            image_size: height and width of the image that is cut.
            tile: height and width of a tile.
        """
        rows, columns = (
            _starts(length, edge, self.overlap)
            for length, edge in zip(image_size, tile, strict=True)
        )
        return TileGrid(image_size, tile, rows, columns)


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """First pixels of tiles that cover an axis, spread evenly."""
    if length <= tile:
        return (0,)
    count = -(-(length - overlap) // (tile - overlap))
    return tuple(round(index * (length - tile) / (count - 1)) for index in range(count))


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one image, in rows.

    Attributes:
        image_size: height and width of the image.
        tile: height and width of a tile.
        rows: first row of each row of tiles.
        columns: first column of each column of tiles.
    """

    image_size: Size
    tile: Size
    rows: tuple[int, ...]
    columns: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def scaled(self, tile: Size) -> TileGrid:
        """The same tiles on maps where each has another size, to the nearest location."""
        if tile == self.tile:
            return self
        lengths, starts = [], []
        for length, old, new, firsts in zip(
            self.image_size, self.tile, tile, (self.rows, self.columns), strict=True
        ):
            scaled = tuple(round(at * new / old) for at in firsts)
            starts.append(scaled)
            # Several tiles end where the last one does; an image smaller than a tile before that.
            lengths.append(scaled[-1] + min(new, max(1, -(-length * new // old))))
        return TileGrid((lengths[0], lengths[1]), tile, starts[0], starts[1])

    @property
    def boxes(self) -> list[Box]:
        """Where each tile is; an image smaller than a tile is padded at its end."""
        return [Box(row, column, *self.tile) for row in self.rows for column in self.columns]

    def cut(self, pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """The tiles of an image, uint8 (H, W, 3), each (h, w, 3)."""
        for box in self.boxes:
            part = box.of(pixels)
            if part.shape[:2] == self.tile:
                yield part
                continue
            padded = np.empty((*self.tile, 3), np.uint8)
            padded[:] = PADDING
            padded[: part.shape[0], : part.shape[1]] = part
            yield padded

    def blend(self, maps: Iterable[NDArray[np.float32] | None]) -> NDArray[np.float32]:
        """One map of the whole image from those of its tiles.

        Where tiles overlap their values are averaged with weights that fall to the border of
        each, and add up to 1 everywhere.

        Args:
            maps: float32, (h, w) of a tile each, in the order of `boxes`; ``None`` is a map of
                zeros. Taken one by one.

        Returns:
            float32 (H, W).
        """
        height, width = self.image_size
        blended = np.zeros((height, width), np.float32)
        down, across = (
            _weights(starts, edge, length)
            for starts, edge, length in (
                (self.rows, self.tile[0], height),
                (self.columns, self.tile[1], width),
            )
        )
        tiles = iter(maps)
        for row, vertical in zip(self.rows, down, strict=True):
            for column, horizontal in zip(self.columns, across, strict=True):
                part = Box(row, column, *self.tile).of(blended)
                values = next(tiles)
                if values is not None:
                    values = values[: part.shape[0], : part.shape[1]]
                    part += values * vertical[:, None] * horizontal
        return blended


def _weights(starts: Sequence[int], tile: int, length: int) -> list[NDArray[np.float32]]:
    """For each tile along an axis the weight of its pixels; together they are 1 everywhere.

    Before they are scaled to that, weights are the square of the distance to the tile's nearer
    end, which is never 0. The distance itself would leave a step where a tile begins: what it
    sees there differs most from what its neighbour sees, for the padding beyond.
    """
    ramp = np.square(np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 1.0)
    total = np.zeros(max(length, starts[-1] + tile))
    for start in starts:
        total[start : start + tile] += ramp
    return [
        (ramp / total[start : start + tile])[: length - start].astype(np.float32)
        for start in starts
    ]


@dataclass(frozen=True)
class Decoding:
    """How an image file becomes pixels.

    Attributes:
        target: height and width to resize to; or a function from an image's own height and width
            to those. ``None``, or a function that returns it, leaves the image as it is.
        bits: 16-bit values of a file lie in 0 to 2**bits - 1, and become 8-bit values by that
            range; one of `BITS`. ``None`` refuses such files.
    """

    target: Size | Callable[[Size], Size | None] | None
    bits: int | None = FULL_RANGE

    def size_of(self, image_size: Size) -> Size | None:
        """Return the size to resize an image to; ``None`` to leave it as it is."""
        return self.target(image_size) if callable(self.target) else self.target


@dataclass(frozen=True)
class Geometry:
    """How images meet the input of a network.

    Attributes:
        size: height and width of the input.
        fit: how an image is brought to that size.
        tiling: how it is cut into tiles of that size instead; ``None`` leaves it whole.
        bits: range of the 16-bit values of image files, as in `Decoding`.
    """

    size: Size
    fit: Fit = "stretch"
    tiling: Tiling | None = None
    bits: int | None = FULL_RANGE

    def __post_init__(self) -> None:
        if self.bits is not None and (isinstance(self.bits, bool) or self.bits not in BITS):
            raise OptionError(f"bits must be one of {', '.join(map(str, BITS))}, not {self.bits!r}")
        if self.fit not in FITS:
            raise OptionError(f"no fit is called {self.fit!r}; choose from: {', '.join(FITS)}")
        if self.tiling is not None:
            if self.fit != "stretch":
                raise OptionError("tiles are cut at full resolution: they need no letterbox")
            limit = min(self.size) // 2
            if not 0 <= self.tiling.overlap <= limit:
                raise OptionError(
                    f"the overlap of tiles must be 0 to {limit} pixels, half their smaller side, "
                    f"not {self.tiling.overlap}"
                )

    def target(self, image_size: Size) -> Size | None:
        """The size that an image is resized to, before it is padded or cut; ``None``: as it is."""
        if self.tiling is not None:
            return self.tiling.image_size
        box = content_box(image_size, self.size, self.fit)
        return box.height, box.width

    @property
    def decoding(self) -> Decoding:
        """How an image file becomes the pixels that `inputs` takes."""
        return Decoding(self.target, self.bits)

    def grid(self, image_size: Size) -> TileGrid:
        """The tiles of an image of that original size."""
        assert self.tiling is not None
        return self.tiling.grid(self.tiling.image_size or image_size, self.size)

    def inputs(self, resized: NDArray[np.uint8], image_size: Size) -> Iterator[NDArray[np.uint8]]:
        """What the network is given of an image.

        Args:
            resized: uint8 (h, w, 3), the image at the size that `target` says.
            image_size: its original height and width.

        Yields:
            uint8 (H, W, 3) at the input's size: one, or one for each tile.
        """
        if self.tiling is not None:
            yield from self.grid(image_size).cut(resized)
            return
        if resized.shape[:2] == self.size:
            yield resized
            return
        padded = np.empty((*self.size, 3), np.uint8)
        padded[:] = PADDING
        content_box(image_size, self.size, self.fit).of(padded)[:] = resized
        yield padded

    def count(self, image_size: Size) -> int:
        """The number of inputs of an image."""
        return len(self.grid(image_size)) if self.tiling is not None else 1

    def content(
        self, maps: Sequence[NDArray[np.float32] | None], image_size: Size
    ) -> NDArray[np.float32]:
        """The map of an image from those of its inputs, without padding.

        Args:
            maps: float32, (h, w) each, one for each of `inputs`, ``None`` for zeros; of the
                input's size, or of a feature map's, and then the result is as much smaller than
                the image.
            image_size: original height and width of the image.
        """
        only = next(values for values in maps if values is not None)
        grid = only.shape[0], only.shape[1]
        if self.tiling is not None:
            return self.grid(image_size).scaled(grid).blend(maps)
        box = content_box(image_size, self.size, self.fit)
        return (box if grid == self.size else box.scaled(self.size, grid)).of(only)

    def to_dict(self) -> dict[str, Any]:
        """The geometry as plain JSON values."""
        tiling = self.tiling
        return {
            "size": list(self.size),
            "fit": self.fit,
            "bits": self.bits,
            "tiling": None
            if tiling is None
            else {
                "overlap": tiling.overlap,
                "per_tile": tiling.per_tile,
                "image_size": list(tiling.image_size) if tiling.image_size else None,
            },
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Geometry:
        """The inverse of `to_dict`; files of older versions lack keys."""
        height, width = values["size"]
        tiling = values.get("tiling")
        if tiling is not None:
            whole = tiling["image_size"]
            tiling = Tiling(
                int(tiling["overlap"]),
                (int(whole[0]), int(whole[1])) if whole else None,
                bool(tiling["per_tile"]),
            )
        bits = values.get("bits", FULL_RANGE)
        return cls((int(height), int(width)), values.get("fit", "stretch"), tiling, bits)
