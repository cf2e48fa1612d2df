"""From an image of any size to the input of a network, and from its maps back to the image.

Three ways: *stretch* resizes to the input's size; *letterbox* keeps the aspect and pads; *tiles*
of the input's size overlap at full resolution. No way crops the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError

Fit: TypeAlias = Literal["stretch", "letterbox"]
FITS: tuple[Fit, ...] = ("stretch", "letterbox")

Size: TypeAlias = tuple[int, int]
"""Height and width, in pixels."""

BITS = (8, 10, 12, 14, 16)
"""Ranges of 16-bit values: 10-bit and 12-bit cameras write 0 to 1023 or 4095 to 16-bit files."""

FULL_RANGE = 16

SHAPES_APART = 1.2
"""Aspects that differ by a larger factor are said to be stretched."""

PADDING = (124, 116, 104)
"""Colour of the padding: the mean of ImageNet, which normalisation brings close to 0."""


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
        """Return the part of an array (H, W, ...) inside the box, as a view."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]

    def scaled(self, old: Size, new: Size) -> Box:
        """Return the box on a map of size ``new``, where this one is on a map of size ``old``."""
        top, left = self.top * new[0] // old[0], self.left * new[1] // old[1]
        bottom = -(-(self.top + self.height) * new[0] // old[0])
        right = -(-(self.left + self.width) * new[1] // old[1])
        return Box(top, left, bottom - top, right - left)


def content_box(image_size: Size, size: Size, fit: Fit) -> Box:
    """Return the box that an image fills in an input of some size."""
    if fit == "stretch":
        return Box(0, 0, *size)
    scale = min(size[0] / image_size[0], size[1] / image_size[1])
    height = min(size[0], max(1, round(image_size[0] * scale)))
    width = min(size[1], max(1, round(image_size[1] * scale)))
    return Box((size[0] - height) // 2, (size[1] - width) // 2, height, width)


@dataclass(frozen=True)
class Tiling:
    """How large images are cut into overlapping tiles.

    Attributes:
        overlap: least number of pixels that neighbouring tiles share.
        image_size: height and width that images are resized to before tiling; ``None`` keeps
            their own.
        per_tile: whether each tile position has its own subspaces, for a fixed camera and part;
            otherwise all tiles share them.
    """

    overlap: int
    image_size: Size | None = None
    per_tile: bool = False

    def grid(self, image_size: Size, tile: Size) -> TileGrid:
        """Return the tiles of an image.

        Args:
            image_size: height and width of the image.
            tile: height and width of a tile.
        """
        rows, columns = (
            _starts(length, edge, self.overlap)
            for length, edge in zip(image_size, tile, strict=True)
        )
        return TileGrid(image_size, tile, rows, columns)


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """Return the first pixels of tiles that cover an axis, spread evenly."""
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
        """Return the grid for maps with another tile size, rounded to whole locations."""
        if tile == self.tile:
            return self
        lengths, starts = [], []
        for length, old, new, firsts in zip(
            self.image_size, self.tile, tile, (self.rows, self.columns), strict=True
        ):
            scaled = tuple(round(at * new / old) for at in firsts)
            starts.append(scaled)
            # The last tile ends with the image; an image smaller than a tile ends before it.
            lengths.append(scaled[-1] + min(new, max(1, -(-length * new // old))))
        return TileGrid((lengths[0], lengths[1]), tile, starts[0], starts[1])

    @property
    def boxes(self) -> list[Box]:
        """Return the box of each tile; an image smaller than a tile is padded at its end."""
        return [Box(row, column, *self.tile) for row in self.rows for column in self.columns]

    def cut(self, pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
        """Yield the tiles (h, w, 3) of an image, uint8 (H, W, 3)."""
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
        """Blend the maps of tiles into one map of the whole image.

        Overlapping values are averaged with weights that fall towards the border of each tile,
        and add up to 1 everywhere.

        Args:
            maps: float32 (h, w) for each tile, in the order of `boxes`; ``None`` is a map of
                zeros. Consumed one by one.

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
    """Return the pixel weights of each tile along an axis; they add up to 1 everywhere.

    A weight is proportional to the squared distance to the tile's nearer end, which is never 0.
    The plain distance would leave a step at the border of a tile, where padding changes its map
    most.
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
        target: height and width to resize to; or a function from an image's height and width to
            these. ``None``, also from the function, keeps the original size.
        bits: 16-bit values of a file lie in 0 to 2**bits - 1 and are scaled from that range to 8
            bits; one of `BITS`. ``None`` refuses such files.
    """

    target: Size | Callable[[Size], Size | None] | None
    bits: int | None = FULL_RANGE

    def size_of(self, image_size: Size) -> Size | None:
        """Return the size to resize an image to; ``None`` keeps its own."""
        return self.target(image_size) if callable(self.target) else self.target


@dataclass(frozen=True)
class Geometry:
    """How images are resized, padded or tiled for the input of a network.

    Attributes:
        size: height and width of the input.
        fit: ``"stretch"`` or ``"letterbox"``.
        tiling: how images are cut into tiles of the input's size; ``None`` keeps them whole.
        bits: range of the 16-bit values of image files, as in `Decoding`.
        training_sizes: height and width of the narrowest and of the widest training image;
            ``None`` if they are not known.
    """

    size: Size
    fit: Fit = "stretch"
    tiling: Tiling | None = None
    bits: int | None = FULL_RANGE
    training_sizes: tuple[Size, Size] | None = None

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
        """Return the size of an image before padding or tiling; ``None`` keeps its own."""
        if self.tiling is not None:
            return self.tiling.image_size
        box = content_box(image_size, self.size, self.fit)
        return box.height, box.width

    def with_training_sizes(self, sizes: Iterable[Size]) -> Geometry:
        """Return the geometry of a model that was trained on further images.

        Args:
            sizes: height and width of each further image. Without the sizes of the earlier images,
                none are known.
        """
        if self.training_sizes is None:
            return self
        by_aspect = sorted((*self.training_sizes, *sizes), key=lambda size: size[1] / size[0])
        return replace(self, training_sizes=(by_aspect[0], by_aspect[-1]))

    def scale(self, image_size: Size) -> float:
        """Return the number of input pixels per pixel of an image, along the axis with fewer."""
        height, width = self.target(image_size) or image_size
        return min(height / image_size[0], width / image_size[1])

    def unlike_training(self, image_size: Size) -> str | None:
        """Say that an image is stretched much more than every training image was.

        Args:
            image_size: height and width of the image.

        Returns:
            One line; ``None`` if the aspect is like theirs, kept, or theirs are not known.
        """
        stretched = self.tiling is None or self.tiling.image_size is not None
        if self.training_sizes is None or self.fit != "stretch" or not stretched:
            return None
        height, width = image_size
        low, high = (size[1] / size[0] for size in self.training_sizes)
        if low / SHAPES_APART <= width / height <= high * SHAPES_APART:
            return None
        known = " to ".join(dict.fromkeys(f"{size[1]} x {size[0]}" for size in self.training_sizes))
        return (
            f"image of {width} x {height} pixels (width x height), but the model was trained on "
            f"{known}: it is stretched to another shape, and its score may mislead"
        )

    @property
    def decoding(self) -> Decoding:
        """How an image file becomes the pixels that `inputs` takes."""
        return Decoding(self.target, self.bits)

    def grid(self, image_size: Size) -> TileGrid:
        """Return the tiles of an image of some original size."""
        assert self.tiling is not None
        return self.tiling.grid(self.tiling.image_size or image_size, self.size)

    def inputs(self, resized: NDArray[np.uint8], image_size: Size) -> Iterator[NDArray[np.uint8]]:
        """Pad an image to the input of the network, or cut it into tiles.

        Args:
            resized: uint8 (h, w, 3), the image at the size that `target` returns.
            image_size: original height and width of the image.

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
        """Return the number of inputs of an image."""
        return len(self.grid(image_size)) if self.tiling is not None else 1

    def content(
        self, maps: Sequence[NDArray[np.float32] | None], image_size: Size
    ) -> NDArray[np.float32]:
        """Join the maps of an image's inputs, and remove the padding.

        Args:
            maps: float32 (h, w) for each of `inputs`, at the input's size or at that of a feature
                map; ``None`` is a map of zeros.
            image_size: original height and width of the image.

        Returns:
            float32 (h', w'), at the scale of the maps.
        """
        only = next(values for values in maps if values is not None)
        grid = only.shape[0], only.shape[1]
        if self.tiling is not None:
            return self.grid(image_size).scaled(grid).blend(maps)
        box = content_box(image_size, self.size, self.fit)
        return (box if grid == self.size else box.scaled(self.size, grid)).of(only)
