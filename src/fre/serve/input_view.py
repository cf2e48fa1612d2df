"""The input of a training as clients choose it, and a view of the network's input."""

from __future__ import annotations

import base64
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Query

from fre.detector import FRE
from fre.drawing.heatmaps import encode
from fre.errors import ImageError, OptionError
from fre.images.formats import pixel_limit
from fre.images.input_size import InputOptions
from fre.images.roi import covered
from fre.types import MaskArray

SIZE_PATTERN = r"^\d{2,4}(x\d{2,4})?$"
POLYGON_PATTERN = r"^\d{1,5}x\d{1,5}:\d{1,5},\d{1,5}( \d{1,5},\d{1,5}){2,99}$"
LEAST_SIDE, MOST_SIDE = 32, 1024
MOST_REGIONS = 8
MOST_SHOWN = 12
"""Number of tiles that a view shows, at most."""


@dataclass(frozen=True)
class InputWishes:
    """Wishes of a client for the input; ``None`` or empty leaves it to the images.

    Attributes:
        size: height and width of the input, ``256`` or ``320x256``.
        defect_size: width of the smallest defect to find, in pixels of the images.
        roi: polygons around the inspected region, ``WIDTHxHEIGHT:X,Y X,Y X,Y``, in pixels of an
            image of that size.

    Raises:
        OptionError: a value is out of range, or values do not go together.
    """

    size: str | None = None
    defect_size: float | None = None
    roi: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sides = self._sides()
        if sides is not None and not all(LEAST_SIDE <= side <= MOST_SIDE for side in sides):
            raise OptionError(f"size: expected {LEAST_SIDE} to {MOST_SIDE} a side, not {self.size}")
        InputOptions(size=sides, defect_size=self.defect_size)

    def parameters(self) -> dict[str, Any]:
        """Return them as keyword arguments of `fre.FRE`."""
        found: dict[str, Any] = {}
        if (sides := self._sides()) is not None:
            found["size"] = sides
        if self.defect_size is not None:
            found["defect_size"] = self.defect_size
        if self.roi:
            found["roi"] = region_mask(self.roi)
        return found

    def _sides(self) -> tuple[int, int] | None:
        if self.size is None:
            return None
        height, _, width = self.size.partition("x")
        return int(height), int(width or height)


async def input_wishes(
    size: Annotated[
        str | None,
        Query(
            description="Height and width of the input, in pixels: 256, or 320x256.",
            pattern=SIZE_PATTERN,
            examples=["256"],
        ),
    ] = None,
    defect_size: Annotated[
        float | None,
        Query(ge=1, le=8192, description="Width of the smallest defect to find, in image pixels."),
    ] = None,
    roi: Annotated[
        list[Annotated[str, Query(pattern=POLYGON_PATTERN)]] | None,
        Query(
            description="Polygon around what is inspected, in pixels of an image of that size: "
            "WIDTHxHEIGHT:X,Y X,Y X,Y; repeatable.",
            max_length=MOST_REGIONS,
            examples=[["640x480:20,20 600,20 600,440"]],
        ),
    ] = None,
) -> InputWishes:
    """Return the wishes that the query parameters express."""
    return InputWishes(size, defect_size, tuple(roi or ()))


def region_mask(polygons: Sequence[str]) -> MaskArray:
    """Return the pixels whose centres lie in any polygon, bool (H, W).

    Args:
        polygons: one or more, as in `InputWishes`.

    Raises:
        OptionError: they are for images of different sizes, reach out of the image, or hold no
            pixel.
    """
    sizes = {text.partition(":")[0] for text in polygons}
    if len(sizes) > 1:
        raise OptionError(f"roi: polygons of images of different sizes: {', '.join(sorted(sizes))}")
    width, height = map(int, sizes.pop().split("x"))
    if not 0 < width * height <= pixel_limit():
        raise OptionError(f"roi: {width} x {height} pixels is no image that can be read")
    mask = np.zeros((height, width), np.bool_)
    for text in polygons:
        points = [
            (int(x), int(y))
            for x, y in (pair.split(",") for pair in text.partition(":")[2].split(" "))
        ]
        if any(x > width or y > height for x, y in points):
            raise OptionError(f"roi: {text}: reaches out of the image")
        _fill(mask, points)
    if not mask.any():
        raise OptionError("roi: the polygons hold no pixel")
    return mask


def _fill(mask: MaskArray, points: Sequence[tuple[int, int]]) -> None:
    """Mark the pixels whose centres lie in a polygon, by the even-odd rule."""
    edges = list(zip(points, [*points[1:], points[0]], strict=True))
    for row in range(min(y for _, y in points), max(y for _, y in points)):
        level = row + 0.5
        crossings = sorted(
            x0 + (level - y0) / (y1 - y0) * (x1 - x0)
            for (x0, y0), (x1, y1) in edges
            if (y0 <= level) != (y1 <= level)
        )
        for left, right in zip(crossings[::2], crossings[1::2], strict=True):
            mask[row, math.ceil(left - 0.5) : math.ceil(right - 0.5)] = True


def view(parameters: dict[str, Any], data: bytes) -> dict[str, Any]:
    """Return the inputs of the network for one image, if all training images have its size.

    Args:
        parameters: keyword arguments of `fre.FRE`.
        data: content of the image file.

    Returns:
        Body of the response, as `fre.serve.job_schemas.InputViewBody`.

    Raises:
        ImageError: the image can't be read, or the region does not fit it.
        OptionError: a parameter is out of range, or the region is empty.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "image")
        file.write_bytes(data)
        preparation, choice = FRE(**parameters).preparation([file])
        try:
            image = preparation.load(file)
        except ImageError as error:
            raise ImageError(None, error.reason) from error
    roi, geometry = preparation.roi, preparation.geometry
    seen = [given.pixels for given in preparation.inputs(image)]
    if roi is not None and geometry.tiling is None:
        # Of a whole image the graph hides what is not inspected.
        shown = roi.at_input(geometry)
        seen = [covered(pixels, shown) for pixels in seen]
    return {
        "image_size": list(image.original_size),
        "size": list(geometry.size),
        "visible": choice.visible,
        "notes": list(choice.notes),
        "n_inputs": len(seen),
        "inputs": [
            base64.b64encode(encode(pixels, "PNG", compress_level=1)).decode()
            for pixels in seen[:MOST_SHOWN]
        ],
    }
