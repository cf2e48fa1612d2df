"""Shifted and rotated copies of training images, for few good images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from fre.errors import OptionError
from fre.types import ImageArray

SHIFT = 1 / 32
"""Largest shift, as a share of the side. A smaller one helps less (docs/ablation.md)."""
ROTATION = 5.0
"""Largest rotation, in degrees."""


@dataclass(frozen=True)
class Augmentation:
    """How copies of an image are made.

    Copies are used to fit subspaces, and never scored to set a threshold.

    Attributes:
        copies: number of copies of each image, 1 to 64.
        flip: whether every second copy is mirrored left to right.
        seed: seed of the random shifts and rotations.
    """

    copies: int
    flip: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= 64:
            raise OptionError(f"augment must be 1 to 64 copies of each image, not {self.copies}")

    def of(self, pixels: ImageArray, digest: str) -> list[ImageArray]:
        """Return the copies of an image.

        Args:
            pixels: uint8 (H, W, 3).
            digest: digest of the image in hexadecimal; the same digest gives the same copies.

        Returns:
            uint8 (H, W, 3) each, shifted by up to 1/32 of the side and rotated by up to 5 degrees
            about the centre. The image is mirrored at its border.
        """
        height, width = pixels.shape[:2]
        rng = np.random.default_rng([self.seed, int(digest[:15] or "0", 16)])
        # A corner moves by the shift and by what the rotation adds.
        reach = SHIFT + np.sin(np.radians(ROTATION))
        margin = int(np.ceil(reach * max(height, width))) + 1
        # The margin may be wider than a narrow image, which is then mirrored several times.
        wide = Image.fromarray(
            np.pad(pixels, [(margin, margin), (margin, margin), (0, 0)], mode="symmetric")
        )
        copies = []
        for number in range(self.copies):
            dy, dx = rng.uniform(-SHIFT, SHIFT, 2) * (height, width)
            angle = rng.uniform(-ROTATION, ROTATION)
            moved = wide.rotate(angle, Image.Resampling.BILINEAR, translate=(round(dx), round(dy)))
            copy = np.asarray(moved)[margin : margin + height, margin : margin + width]
            copies.append(copy[:, ::-1] if self.flip and number % 2 else copy)
        return copies
