"""An image, its map and its mask, small enough for a page of hundreds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from fre.drawing.heatmaps import Scale, colorize, encode, heat_layer, thumbnail
from fre.images.resize import resize_map
from fre.types import FloatArray, ImageArray, MaskArray

Qualities: TypeAlias = "tuple[tuple[int, int], ...]"

# Longest side and JPEG quality, best first: the first at which all images fit is taken.
QUALITIES: Qualities = ((320, 82), (320, 65), (256, 60), (192, 50))
# Maps are smooth: half the resolution of their image is enough.
HEAT_SIDE = 160
HEAT_QUALITY = 70
N_SWATCHES = 12


@dataclass(frozen=True)
class GalleryItem:
    """Pictures of one image for the report.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        anomaly_map: float32, of any size; it covers the whole image.
        mask: bool (H, W), True where there is a defect, or ``None``.
    """

    image: ImageArray
    anomaly_map: FloatArray
    mask: MaskArray | None = None


@dataclass(frozen=True)
class Picture:
    """Encoded parts of a picture; ``images`` has a JPEG for each quality."""

    width: int
    height: int
    images: tuple[bytes, ...]
    heat: bytes
    outline: str

    def size(self, level: int) -> int:
        """Return the bytes in the page: base64 takes four for three; the outline is drawn twice."""
        return (len(self.images[level]) + len(self.heat)) * 4 // 3 + 2 * len(self.outline)


def draw(item: GalleryItem, scale: Scale, qualities: Qualities = QUALITIES) -> Picture:
    image = thumbnail(item.image, qualities[0][0])
    height, width = image.shape[:2]
    return Picture(
        width=width,
        height=height,
        images=tuple(
            encode(thumbnail(image, side), "JPEG", quality=quality, optimize=True)
            for side, quality in qualities
        ),
        heat=_encode_heat(item.anomaly_map, (height, width), scale),
        outline="" if item.mask is None else _outline_path(_reduced(item.mask, (height, width))),
    )


def _encode_heat(anomaly_map: FloatArray, size: tuple[int, int], scale: Scale) -> bytes:
    factor = min(1.0, HEAT_SIDE / max(size))
    height, width = (max(1, round(side * factor)) for side in size)
    layer = heat_layer(resize_map(anomaly_map, (height, width)), scale)
    return encode(layer, "WEBP", quality=HEAT_QUALITY)


def _reduced(mask: MaskArray, size: tuple[int, int]) -> MaskArray:
    """Return the mask at another size; a pixel is set if any part of it is."""
    reduced: MaskArray = resize_map(mask.astype(np.float32), size) > 0
    return reduced


def _outline_path(mask: MaskArray) -> str:
    """Return the contour of a mask as the ``d`` of an SVG path: runs of pixel edges."""
    padded = np.pad(mask, 1)
    across = _edge_runs(padded[1:, 1:-1] != padded[:-1, 1:-1])
    down = _edge_runs((padded[1:-1, 1:] != padded[1:-1, :-1]).T)
    return "".join(
        [f"M{start} {line}h{length}" for line, start, length in across]
        + [f"M{line} {start}v{length}" for line, start, length in down]
    )


def _edge_runs(edges: MaskArray) -> list[tuple[int, int, int]]:
    """Return line, start and length of each run of True along the lines."""
    steps = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = np.argwhere(steps == 1), np.argwhere(steps == -1)
    return [
        (int(line), int(start), int(end - start))
        for (line, start), (_, end) in zip(starts, ends, strict=True)
    ]


def swatches() -> list[str]:
    """Return colours of the heat map from low to high, as CSS."""
    colours = colorize(np.linspace(0, 1, N_SWATCHES, dtype=np.float32)[None], (0, 1))[0]
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in colours.tolist()]
