"""The input of the network is chosen from the sizes of the training images.

Height and width are multiples of 32. Their ratio follows the median aspect of the images, and
their product follows a budget of pixels, which never exceeds the images' own pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat

import numpy as np

from fre.errors import ImageError, OptionError
from fre.images.decode import ImageSource, image_size
from fre.images.geometry import SHAPES_APART, Fit, Geometry, Size, Tiling
from fre.parallel import available_cores, in_order
from fre.storage.remote import is_url

MULTIPLE = 32
"""Sides of a chosen input are multiples of the coarsest stride."""

LEAST_SIDE, MOST_SIDE = 32, 8192

OVERLAP = 64
"""Pixels that neighbouring tiles share."""

SLACK = 1.1
"""Largest ratio of a chosen input's pixels to the budget: multiples of 32 rarely meet it."""

BUDGET_WEIGHT = 0.5
"""Cost of a pixel count that is off by a factor, relative to an aspect that is off by it."""

HEADERS, REMOTE_HEADERS = 1000, 16
"""Most files, and URLs, whose sizes are read: a URL is fetched whole."""

VISIBLE = 12
"""Width in input pixels from which defects are found: benchmarks/defect_size.py measures it."""

MOST_WHOLE = 512 * 512
"""Most pixels of a larger input that a defect size asks for; beyond, images are cut into tiles."""


@dataclass(frozen=True)
class ImageSizes:
    """Sizes of some training images.

    Attributes:
        sizes: height and width of each image, from the narrowest to the widest.
    """

    sizes: tuple[Size, ...]

    @classmethod
    def of(cls, sources: Sequence[ImageSource]) -> ImageSizes | None:
        """Read the sizes of images from their headers, of at most 1,000 files and 16 URLs.

        Unreadable images are skipped. EXIF rotation counts.

        Returns:
            The sizes; ``None`` if no image can be read.
        """
        urls = any(isinstance(source, str) and is_url(source) for source in sources)
        chosen = _spread(sources, REMOTE_HEADERS if urls else HEADERS)
        found = in_order(_size_or_none, chosen, workers=available_cores(), ahead=64)
        sizes = [size for _, size in found if size is not None]
        return cls.from_sizes(sizes) if sizes else None

    @classmethod
    def from_sizes(cls, sizes: Sequence[Size]) -> ImageSizes:
        """Return the sizes of images in any order; one at least."""
        return cls(tuple(sorted(sizes, key=lambda size: (_aspect(size), size))))

    @property
    def median(self) -> Size:
        """Height and width of the image with the median aspect."""
        return self.sizes[len(self.sizes) // 2]

    @property
    def aspect(self) -> float:
        """Median of width / height."""
        return _aspect(self.median)

    @property
    def pixels(self) -> float:
        """Median number of pixels."""
        return float(np.median([height * width for height, width in self.sizes]))

    @property
    def ends(self) -> tuple[Size, Size]:
        """Sizes of the narrowest and the widest image."""
        return self.sizes[0], self.sizes[-1]


def _spread(sources: Sequence[ImageSource], most: int) -> list[ImageSource]:
    places = np.linspace(0, len(sources) - 1, min(most, len(sources))).round().astype(int)
    return [sources[place] for place in places]


def _size_or_none(source: ImageSource) -> Size | None:
    try:
        return image_size(source)
    except ImageError:
        return None  # training says what is wrong with the file


def _aspect(size: Size) -> float:
    return size[1] / size[0]


def choose_size(aspect: float, budget: float, pixels: float = math.inf) -> Size:
    """Choose the height and width of an input among multiples of 32.

    Args:
        aspect: width / height of the images, above 0.
        budget: wanted number of pixels.
        pixels: number of the images' own pixels, which the input does not exceed, except that
            each side has at least 32.

    Returns:
        Height and width with the least cost ``|log(w / h / aspect)| + |log(h w / wanted)| / 2``,
        where ``wanted`` is the smaller of budget and pixels. Their product is at most 1.1 times
        the budget.
    """
    sides = np.arange(MULTIPLE, MOST_SIDE + 1, MULTIPLE, dtype=np.float64)
    height, width = sides[:, None], sides[None, :]
    area = height * width
    cost = np.abs(np.log(width / height / aspect))
    cost = cost + BUDGET_WEIGHT * np.abs(np.log(area / min(budget, pixels)))
    cost[area > max(min(SLACK * budget, pixels), MULTIPLE**2)] = np.inf
    row, column = np.unravel_index(cost.argmin(), cost.shape)
    return int(sides[row]), int(sides[column])


@dataclass(frozen=True)
class InputOptions:
    """Wishes of the user about the input; ``None`` leaves a choice to the images.

    Attributes:
        size: height and width of the input; with tiles, of the whole image before it is cut.
        fit: how images meet the input.
        tile: height and width of the tiles that images are cut into.
        overlap: number of pixels that neighbouring tiles share.
        per_tile: whether each tile position has its own subspaces.
        defect_size: width of the smallest defect to find, in pixels of the images.

    Raises:
        OptionError: a value is out of range, or options do not go together.
    """

    size: int | Size | None = None
    fit: Fit = "stretch"
    tile: int | Size | None = None
    overlap: int | None = None
    per_tile: bool = False
    defect_size: float | None = None

    def __post_init__(self) -> None:
        if self.defect_size is None:
            return
        if not 1 <= self.defect_size <= MOST_SIDE:
            raise OptionError(
                f"defect-size must be 1 to {MOST_SIDE} image pixels, not {self.defect_size:g}"
            )
        if self.size is not None or self.tile is not None:
            given = "size" if self.tile is None else "tile"
            raise OptionError(f"defect-size chooses the input: leave out {given}, or defect-size")
        if self.fit != "stretch":
            raise OptionError("defect-size chooses the input: leave out letterbox, or defect-size")


@dataclass(frozen=True)
class InputChoice:
    """The input of a training, and what to say about it.

    Attributes:
        geometry: size of the input, fit and tiles.
        notes: one line each: the choice, and the defects that it shows.
        visible: width in image pixels from which defects are found; ``None`` if the images' sizes
            are not known.
    """

    geometry: Geometry
    notes: tuple[str, ...] = ()
    visible: float | None = None


def choose_input(
    options: InputOptions, images: ImageSizes | None, default: Size, budget: int | None
) -> InputChoice:
    """Choose how images become the input of a network.

    Args:
        options: wishes of the user.
        images: sizes of the training images; ``None`` if they are not known.
        default: height and width of the network's own input.
        budget: wanted number of pixels; ``None`` for a network or preset with a fixed input.

    Raises:
        OptionError: a size is out of range, or options do not go together.
    """
    if options.defect_size is not None and budget is not None and images is not None:
        return _for_defects(options.defect_size, images, budget)
    if options.defect_size is not None:
        raise OptionError(
            f"defect-size has no effect with this preset or backbone, whose input is "
            f"{default[0]} x {default[1]} pixels; leave it out, or cut tiles with --tile"
        )
    tiling = None
    if options.tile is not None:
        whole = None if options.size is None else _sides(options.size)
        if options.per_tile and whole is None and images is not None:
            # Tiles with models of their own are counted: all images have one size.
            whole = images.median
        overlap = OVERLAP if options.overlap is None else options.overlap
        tiling, size = Tiling(overlap, whole, options.per_tile), _sides(options.tile)
    elif options.size is not None:
        size = _sides(options.size)
    elif budget is None or images is None:
        size = default
    else:
        size = choose_size(images.aspect, budget, images.pixels)
    choice = _described(Geometry(size, options.fit, tiling), images)
    given = options.size is not None or options.tile is not None
    if given and images is not None and choice.geometry.scale(images.median) >= 1:
        return replace(choice, notes=())  # nothing that the user has not said
    return choice


def _for_defects(width: float, images: ImageSizes, budget: int) -> InputChoice:
    """Choose an input in which defects of some width cover `VISIBLE` pixels, or tiles."""
    # Resizing makes no image sharper: beyond its own pixels an input gains nothing.
    scale = min(1.0, VISIBLE / width)
    height, length = images.median
    usual = choose_size(images.aspect, budget, images.pixels)
    larger = _multiple_above(height * scale), _multiple_above(length * scale)
    inputs, geometry = 1, Geometry(usual)
    if geometry.scale(images.median) < scale and math.prod(larger) <= MOST_WHOLE:
        geometry = Geometry(larger)
    elif geometry.scale(images.median) < scale:
        tile, whole = _tiles((height * scale, length * scale), budget)
        overlap = min(OVERLAP, min(tile) // 2)
        geometry = Geometry(tile, tiling=Tiling(overlap, whole))
        inputs = geometry.count(whole)
    cost = inputs * math.prod(geometry.size) / math.prod(usual)
    notes = [
        f"an image takes about {cost:.3g} times as long as without --defect-size"
        if cost != 1
        else f"the input is large enough for defects of {width:g} px without --defect-size"
    ]
    if width < VISIBLE:
        notes.append(
            f"defects of {width:g} px are narrower than the {VISIBLE} px that the network needs, "
            "even at full resolution: expect to miss some; a sharper image helps"
        )
    choice = _described(geometry, images, advice="")
    return replace(choice, notes=(*choice.notes, *notes))


def _multiple_above(length: float) -> int:
    return MULTIPLE * max(1, math.ceil(length / MULTIPLE))


def _tiles(image: tuple[float, float], budget: int) -> tuple[Size, Size]:
    """Return the size of tiles, and of the image before it is cut.

    An image that is short along an axis is resized to whole tiles there, as padding teaches
    nothing.
    """
    side = MULTIPLE * round(math.sqrt(budget) / MULTIPLE)
    whole = [max(MULTIPLE, round(length)) for length in image]
    short = [MULTIPLE * max(1, round(length / MULTIPLE)) for length in whole]
    tile = [min(side, length) for length in short]
    for axis, other in ((0, 1), (1, 0)):
        if tile[axis] < side:
            whole[axis] = tile[axis]
            tile[other] = min(short[other], MULTIPLE * int(budget / tile[axis] / MULTIPLE))
    return (tile[0], tile[1]), (whole[0], whole[1])


ADVICE = "; --defect-size PX chooses an input for smaller ones"


def _described(geometry: Geometry, images: ImageSizes | None, advice: str = ADVICE) -> InputChoice:
    """Return a choice with its notes in words."""
    if images is None:
        return InputChoice(geometry)
    geometry = replace(geometry, training_sizes=images.ends)
    visible = max(1.0, VISIBLE / geometry.scale(images.median))
    narrow, wide = images.ends
    shown = _in_words(images.median)
    if _aspect(wide) > SHAPES_APART * _aspect(narrow):
        shown = f"{_in_words(narrow)} to {_in_words(wide)}"
    tiling, size = geometry.tiling, _in_words(geometry.size)
    if tiling is None:
        text = f"{shown} px images -> {size} input (width x height)"
    else:
        whole = "" if tiling.image_size is None else f"{_in_words(tiling.image_size)}, cut into "
        text = (
            f"{shown} px images -> {whole}{geometry.count(images.median)} tiles of {size} "
            "(width x height)"
        )
    if geometry.scale(images.median) < 1:
        text += f": defects from about {visible:.0f} px on are visible{advice}"
    return InputChoice(geometry, (text,), visible)


def _in_words(size: Size) -> str:
    """Return a size as people write it: width x height."""
    return f"{size[1]} x {size[0]}"


def _sides(size: int | Size) -> Size:
    height, width = tuple(repeat(size, 2)) if isinstance(size, int) else size
    if min(height, width) < LEAST_SIDE or max(height, width) > MOST_SIDE:
        raise OptionError(
            f"size must be {LEAST_SIDE} to {MOST_SIDE} pixels a side, not {height} x {width}"
        )
    return height, width


def shape_note(images: Sequence[tuple[str, Size]], geometry: Geometry) -> str | None:
    """Say that images of different aspects are stretched to one.

    Args:
        images: name, and height and width of each image.
        geometry: how images meet the input.

    Returns:
        One line; ``None`` if no image is stretched by much more than another.
    """
    stretched = geometry.size if geometry.tiling is None else geometry.tiling.image_size
    found = sorted(images, key=lambda image: _aspect(image[1]))
    if geometry.fit != "stretch" or stretched is None or not found:
        return None
    if _aspect(found[-1][1]) <= SHAPES_APART * _aspect(found[0][1]):
        return None
    shown = " to ".join(
        f"{_in_words(size)} ({name or 'an array'})" for name, size in (found[0], found[-1])
    )
    advice = (
        "letterbox keeps their proportions" if geometry.tiling is None else "leave out the size"
    )
    return (
        f"images of different proportions, {shown} pixels (width x height), are all stretched to "
        f"{_in_words(stretched)}: {advice}"
    )
