"""An image file becomes the network's inputs: one way for fit, predict, serve and quantize."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fre.errors import ImageError
from fre.images.appearance import appearance
from fre.images.augmentation import Augmentation
from fre.images.decode import ImageSource, decode_resized, file_of, read_resized
from fre.images.geometry import Geometry
from fre.images.loading import LoadedImage, iter_loaded
from fre.images.roi import Roi
from fre.parallel import Workers
from fre.types import ImageArray


class NetworkInput(NamedTuple):
    """One input of the network.

    Attributes:
        copy: 0 for the image itself, above 0 for an augmented copy.
        tile: index of the tile, 0 for an image that is not cut.
        pixels: uint8 (H, W, 3), at the size of the network's input.
    """

    copy: int
    tile: int
    pixels: ImageArray


@dataclass(frozen=True)
class Preparation:
    """How image files become inputs of a network.

    Attributes:
        geometry: input size, resizing or tiling, and range of 16-bit values.
        roi: inspected region of the images; ``None`` inspects them whole.
    """

    geometry: Geometry
    roi: Roi | None = None

    def load(self, source: ImageSource) -> LoadedImage:
        """Read and check one image.

        Raises:
            ImageError: the image can't be read, or `check` refuses it.
        """
        image = LoadedImage(source, *read_resized(source, self.geometry.decoding))
        self.check(image.original_size, file_of(source))
        return image

    def decode(self, data: bytes, name: str) -> LoadedImage:
        """Decode and check the content of an image file.

        Args:
            data: content of the file.
            name: name of the file in error messages.

        Raises:
            ImageError: the image can't be decoded, or `check` refuses it.
        """
        pixels, original = decode_resized(data, self.geometry.decoding, name=name)
        self.check(original, name)
        return LoadedImage(pixels, pixels, original, hashlib.sha256(data).hexdigest())

    def load_many(
        self,
        sources: Iterable[ImageSource],
        *,
        workers: Workers,
        ahead: int,
        readers: int | None = None,
        identify: bool = False,
    ) -> Iterator[LoadedImage | ImageError]:
        """Read and check images on other threads; arguments as for `iter_loaded`.

        Yields:
            For each source, its image, or the error that says why it can't be used.
        """
        loaded = iter_loaded(
            sources,
            self.geometry.decoding,
            workers=workers,
            ahead=ahead,
            readers=readers,
            identify=identify,
        )
        for image in loaded:
            if isinstance(image, LoadedImage):
                try:
                    self.check(image.original_size, file_of(image.source))
                except ImageError as error:
                    image = error
            yield image

    def check(self, image_size: tuple[int, int], source: Path | str | None) -> None:
        """Refuse an image that the region of interest does not fit.

        Args:
            image_size: height and width of the original image.
            source: name of the image in the error message.

        Raises:
            ImageError: the image has another aspect than the mask, or none of its tiles shows
                any inspected pixel.
        """
        if self.roi is None:
            return
        self.roi.check(image_size, source)
        if self.geometry.tiling is not None and not any(self._inspected_tiles(image_size)):
            raise ImageError(
                source,
                f"at {image_size[1]} x {image_size[0]} pixels nothing of the inspected region is "
                "left; give a larger image, or mark a larger region",
            )

    def inputs(
        self, image: LoadedImage, augmentation: Augmentation | None = None
    ) -> Iterator[NetworkInput]:
        """Yield the inputs of a checked image, without tiles that show no inspected pixel.

        Args:
            image: image that `load`, `load_many` or `decode` returned.
            augmentation: makes further copies of the image; ``None`` makes none.
        """
        variants, roi, size = [image.pixels], self.roi, image.original_size
        # The graph hides ignored pixels of a whole input itself. Copies move them, and tiles
        # show different parts of the mask: these are covered beforehand.
        if roi is not None and (augmentation is not None or self.geometry.tiling is not None):
            variants = [roi.cover(image.pixels)]
        if augmentation is not None:
            copies = augmentation.of(variants[0], image.sha256)
            variants += copies if roi is None else map(roi.cover, copies)
        inspected = self._inspected_tiles(size)
        for copy, variant in enumerate(variants):
            for tile, pixels in enumerate(self.geometry.inputs(variant, size)):
                if inspected[tile]:
                    yield NetworkInput(copy, tile, pixels)

    def appearance(self, image: LoadedImage) -> NDArray[np.float64]:
        """Return the pixel statistics of the inspected part: see `fre.images.appearance`."""
        inspected = None if self.roi is None else self.roi.at_size(image.pixels.shape[:2])
        return appearance(image.pixels, inspected)

    def _inspected_tiles(self, image_size: tuple[int, int]) -> list[bool]:
        if self.roi is None or self.geometry.tiling is None:
            return [True] * self.geometry.count(image_size)
        return self.roi.shown_by(self.geometry.grid(image_size))
