"""Where a model looks: regions of interest, and areas that are ignored."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fre.errors import ImageError, OptionError
from fre.images.formats import open_image
from fre.images.geometry import PADDING, Geometry, TileGrid, content_box
from fre.types import MaskArray

MaskSource: TypeAlias = "Path | str | NDArray[Any]"

ASPECT_TOLERANCE = 0.01
"""An image fits a mask whose ratio of sides differs by no more than this share."""
SIZES_KEPT = 4
"""A camera's images have one size; a mask is kept at so many of them."""


@dataclass(frozen=True)
class Roi:
    """The inspected part of every image that a camera takes.

    Attributes:
        inspected: bool (H, W), in the pixels of the original images; what is false is ignored.
    """

    inspected: MaskArray
    _resized: dict[tuple[int, int], MaskArray] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def load(cls, roi: MaskSource | None, ignore: MaskSource | None) -> Roi | None:
        """From masks: files, or arrays (H, W); non-zero is marked.

        Args:
            roi: marks what is inspected; ``None`` is all of an image.
            ignore: marks what is not; ``None`` is nothing.

        Returns:
            The region of interest; ``None`` without masks.

        Raises:
            ImageError: a mask can't be read.
            OptionError: the masks differ in size, leave nothing to inspect, or have no effect.
        """
        if roi is None and ignore is None:
            return None
        region = None if roi is None else _read(roi)
        hidden = None if ignore is None else _read(ignore)
        marked = np.ones_like(hidden, np.bool_) if region is None else region
        if hidden is not None:
            if hidden.shape != marked.shape:
                raise OptionError(
                    f"the region of interest has {_pixels(marked.shape)}, the ignored area "
                    f"{_pixels(hidden.shape)}; make both the size of the images"
                )
            if not hidden.any():
                raise OptionError(
                    "the mask of the ignored area marks nothing: mark something, or leave it out"
                )
            marked = marked & ~hidden
        if not marked.any():
            raise OptionError("the masks leave no pixel to inspect: mark what is to be looked at")
        if region is not None and region.all():
            raise OptionError(
                "the mask of the region of interest marks every pixel: mark less, or leave it out"
            )
        return cls(marked)

    def check(self, image_size: tuple[int, int], source: Path | str | None) -> None:
        """Refuse an image that the mask does not fit.

        Raises:
            ImageError: the ratio of its sides is another.
        """
        height, width = self.inspected.shape
        ratio = (image_size[1] / image_size[0]) / (width / height)
        if abs(ratio - 1) > ASPECT_TOLERANCE:
            raise ImageError(
                source,
                f"{_pixels(image_size)}, where the mask of the inspected region has "
                f"{_pixels(self.inspected.shape)}; give images of that size, or train with a "
                "mask of theirs",
            )

    def at_input(self, geometry: Geometry) -> MaskArray:
        """Which pixels of a network's input show nothing that is ignored: bool (H, W).

        For images that are not cut into tiles.
        """
        size = self.inspected.shape[0], self.inspected.shape[1]
        box = content_box(size, geometry.size, geometry.fit)
        mask = np.zeros(geometry.size, np.bool_)
        box.of(mask)[:] = self.at_size((box.height, box.width))
        return mask

    def at_size(self, size: tuple[int, int]) -> MaskArray:
        """Which pixels of an image that was resized show nothing that is ignored.

        An ignored area grows by a pixel of the smaller image, so that nothing in it reaches any
        other pixel, however the image was decoded and resized.
        """
        if self.inspected.shape == size:
            return self.inspected
        if size not in self._resized:
            if len(self._resized) == SIZES_KEPT:
                self._resized.clear()
            ignored = Image.fromarray((~self.inspected).astype(np.float32))
            share = np.asarray(ignored.resize((size[1], size[0]), Image.Resampling.BILINEAR))
            self._resized[size] = ~_grown(share > 0)
        return self._resized[size]

    def cover(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image, uint8 (h, w, 3), whose ignored pixels have the colour of padding."""
        mask = self.at_size((pixels.shape[0], pixels.shape[1]))
        return np.where(mask[:, :, None], pixels, np.array(PADDING, np.uint8))

    def shown_by(self, grid: TileGrid) -> list[bool]:
        """For each tile whether any of it is inspected."""
        mask = self.at_size(grid.image_size)
        return [bool(box.of(mask).any()) for box in grid.boxes]


def cells(mask: MaskArray, grid: tuple[int, int]) -> MaskArray:
    """Which locations of a map look at an input at least half of which is inspected.

    Args:
        mask: bool (H, W), of the input.
        grid: height and width of the map.
    """
    share = np.asarray(mask, np.float64)
    for axis, count in enumerate(grid):
        edges = np.linspace(0, mask.shape[axis], count + 1)
        starts = np.floor(edges[:-1]).astype(int)
        lengths = np.maximum(np.ceil(edges[1:]).astype(int) - starts, 1)
        sums = np.concatenate([np.zeros_like(share.take([0], axis)), share.cumsum(axis)], axis)
        total = sums.take(starts + lengths, axis) - sums.take(starts, axis)
        share = total / np.expand_dims(lengths, 1 - axis)
    return np.asarray(share >= 0.5)


def _grown(mask: MaskArray) -> MaskArray:
    """The mask and every pixel that touches it."""
    return np.asarray(Image.fromarray(mask.view(np.uint8)).filter(ImageFilter.MaxFilter(3)), bool)


def _read(source: MaskSource) -> MaskArray:
    if isinstance(source, np.ndarray):
        if source.ndim != 2 or 0 in source.shape:
            raise ImageError(None, f"a mask must be an array (H, W), not {source.shape}")
        return np.asarray(source != 0)
    try:
        with open_image(source) as image:
            grey = image.convert("L") if image.mode not in ("1", "I;16", "I") else image
            return np.asarray(np.asarray(grey) != 0)
    except ImageError as error:
        reason = error.reason.replace("readable image", "readable mask")
        raise ImageError(source, reason.replace("no such file", "no such mask")) from error


def _pixels(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"


def too_small_a_region(size: tuple[int, int]) -> str:
    """What to say of a region of interest that no location of a feature map looks at."""
    return (
        f"the inspected region is too small at the network's input of {size[0]} x {size[1]} pixels "
        "(height x width): it covers half of no location that the score is made of; mark a "
        "larger region, or use a larger size"
    )
