"""Masks of the inspected region: regions of interest, and ignored areas."""

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
"""Largest relative difference of the aspects of an image and the mask."""
SIZES_KEPT = 4
"""Number of image sizes for which a resized mask is cached."""


@dataclass(frozen=True)
class Roi:
    """The inspected part of every image of a camera.

    Attributes:
        inspected: bool (H, W), at the size of the original images; false pixels are ignored.
    """

    inspected: MaskArray
    _resized: dict[tuple[int, int], MaskArray] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def load(cls, roi: MaskSource | None, ignore: MaskSource | None) -> Roi | None:
        """Read the region of interest from masks: files or arrays (H, W), non-zero where marked.

        Args:
            roi: mask of the inspected region; ``None`` marks the whole image.
            ignore: mask of the ignored area; ``None`` marks nothing.

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
        """Refuse an image of another aspect than the mask.

        Args:
            image_size: height and width of the original image.
            source: name of the image in the error message.

        Raises:
            ImageError: the image has another aspect.
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
        """Return the inspected pixels of the network's input, bool (H, W), for whole images."""
        size = self.inspected.shape[0], self.inspected.shape[1]
        box = content_box(size, geometry.size, geometry.fit)
        mask = np.zeros(geometry.size, np.bool_)
        box.of(mask)[:] = self.at_size((box.height, box.width))
        return mask

    def at_size(self, size: tuple[int, int]) -> MaskArray:
        """Return the inspected pixels of a resized image, bool (h, w).

        Ignored areas grow by a pixel, so that resizing brings nothing of them into inspected
        pixels.
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
        """Return an image, uint8 (h, w, 3), with its ignored pixels in the colour of padding."""
        return covered(pixels, self.at_size((pixels.shape[0], pixels.shape[1])))

    def shown_by(self, grid: TileGrid) -> list[bool]:
        """Tell for each tile whether any of its pixels is inspected."""
        mask = self.at_size(grid.image_size)
        return [bool(box.of(mask).any()) for box in grid.boxes]


def covered(pixels: NDArray[np.uint8], inspected: MaskArray) -> NDArray[np.uint8]:
    """Return an image, uint8 (h, w, 3), in the colour of padding outside of a mask, (h, w)."""
    return np.where(inspected[:, :, None], pixels, np.array(PADDING, np.uint8))


def cells(mask: MaskArray, grid: tuple[int, int]) -> MaskArray:
    """Return the locations of a feature map with at least half of their pixels inspected.

    Args:
        mask: bool (H, W), inspected pixels of the input.
        grid: height and width of the map.

    Returns:
        bool (h, w).
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
    """Return the mask, grown by a pixel in all directions."""
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
    """Return the error message for a region that covers no location of any feature map."""
    return (
        f"the inspected region is too small at the network's input of {size[0]} x {size[1]} pixels "
        "(height x width): it covers half of no location of the feature maps; mark a larger "
        "region, or use a larger size"
    )
