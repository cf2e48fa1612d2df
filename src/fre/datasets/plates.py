"""Photos of a metal plate, sound or defective, that are drawn: data for demonstrations.

The part is a milled and brushed metal plate on a dark belt, seen from above. A photo starts from
a height map at twice the resolution: outline, chamfer, countersunk holes, slot and engraving. It
is lit by a near lamp, and passes through lens, sensor and tone curve. Placement, light, finish and
belt vary between photos. A defect changes the height map or the finish, never the picture, so
that it is lit like the rest of the part.

Lengths are shares of the image's side. x points right and y down from the centre of the image;
u and v are the axes of the plate, u along the brushing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from fre.errors import OptionError
from fre.types import ImageArray, MaskArray

# Always float32; the stubs of NumPy can't follow the width through mixed arithmetic.
_Array: TypeAlias = NDArray[np.floating[Any]]

MIN_SIZE = 64
"""Least side of an image, in pixels."""
_SUPERSAMPLING = 2


class _Hole(NamedTuple):
    """A through hole: its centre, its radius, and the radius of its countersink."""

    u: float
    v: float
    bore: float
    sink: float


_HALF_LENGTH, _HALF_WIDTH = 0.395, 0.315
_CORNER_RADIUS, _CUT_CORNER = 0.034, 0.064
_CHAMFER, _BEVEL_SLOPE = 0.017, 0.62
_SMALL_HOLES = (
    *(_Hole(u, v, 0.026, 0.044) for u in (-0.318, 0.318) for v in (-0.238, 0.238) if u + v < 0.5),
    _Hole(0.300, 0.225, 0.026, 0.044),
    *(_Hole(0.128, v, 0.0165, 0.0215) for v in (-0.142, 0.142)),
)
_BORE = _Hole(-0.105, 0.0, 0.098, 0.114)
_HOLES = (*_SMALL_HOLES, _BORE)
_SLOT_U, _SLOT_HALF_LENGTH, _SLOT_RADIUS, _SLOT_DEPTH = 0.180, 0.059, 0.026, 0.008
_ENGRAVED_RING = 0.158


@dataclass
class _Plate:
    """The part as the lamp meets it; arrays are float32 (side, side).

    Attributes:
        side: height and width in supersampled pixels.
        u, v: coordinates on the plate.
        distance: signed distance to the outline of a sound plate, negative inside.
        height: height of the surface, 0 at the top face.
        coverage: 1 where metal hides the belt.
        openness: share of the light that reaches the surface, 1 at the top face.
        grain: texture along the brushing, of about unit variance.
        gloss: factor of the specular reflection.
        tint: factor of all reflection, (3 or 1, side, side); ``None`` is 1.
    """

    side: int
    u: _Array
    v: _Array
    distance: _Array
    height: _Array
    coverage: _Array
    openness: _Array
    grain: _Array
    gloss: _Array
    tint: _Array | None = None

    def from_point(self, u: float, v: float) -> _Array:
        """Return the distance of each pixel from a point of the plate."""
        return _length(self.u - u, self.v - v)

    def reshape(self, distance: _Array, where: MaskArray) -> None:
        """Give the plate another outline in some of its pixels."""
        self.height[where] = _bevel(distance)[where]
        self.coverage[where] = _inside(distance, self.side)[where]


def _length(u: _Array, v: _Array) -> _Array:
    return np.sqrt(u * u + v * v)  # np.hypot takes three times as long


def _axes(side: int) -> tuple[_Array, _Array]:
    """Return coordinates x as a row and y as a column, at the centres of the pixels."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    return axis[None, :], axis[:, None]


def _outline(u: _Array, v: _Array) -> _Array:
    """Return the signed distance to a rectangle with round corners, one of them cut off."""
    qu = np.abs(u) - (_HALF_LENGTH - _CORNER_RADIUS)
    qv = np.abs(v) - (_HALF_WIDTH - _CORNER_RADIUS)
    outside = _length(np.maximum(qu, 0), np.maximum(qv, 0))
    box = outside + np.minimum(np.maximum(qu, qv), 0) - _CORNER_RADIUS
    cut = (u + v - (_HALF_LENGTH + _HALF_WIDTH - _CUT_CORNER)) * 0.5**0.5
    return np.asarray(np.maximum(box, cut))


def _bevel(distance: _Array) -> _Array:
    return np.asarray(np.maximum(distance + _CHAMFER, 0) * -_BEVEL_SLOPE)


def _inside(distance: _Array, side: int) -> _Array:
    """Return 1 inside and 0 outside, with an edge one pixel wide."""
    return np.asarray(np.clip(0.5 - distance * side, 0, 1))


def _smoothstep(t: _Array) -> _Array:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


def _noise(rng: Generator, side: int, rows: int, columns: int) -> _Array:
    """Return smooth noise: independent values on a coarse grid, resized to (side, side)."""
    grid = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    return np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)


def _machine(side: int, rng: Generator) -> _Plate:
    """Return a sound plate in its place on the belt."""
    # A stop holds the plate: about a pixel either way, half a degree.
    shift_x, shift_y, angle = rng.uniform((-0.004, -0.004, -0.008), (0.004, 0.004, 0.008))
    x, y = _axes(side)
    x, y = x - float(shift_x), y - float(shift_y)
    cos, sin = math.cos(angle), math.sin(angle)
    u, v = cos * x + sin * y, cos * y - sin * x
    distance = _outline(u, v)
    rows = side // _SUPERSAMPLING
    grain = 0.9 * _noise(rng, side, rows, rows // 11) + 0.7 * _noise(rng, side, rows, rows // 40)
    plate = _Plate(
        side=side,
        u=u,
        v=v,
        distance=distance,
        height=_bevel(distance),
        coverage=_inside(distance, side),
        openness=np.ones_like(u),
        grain=rng.uniform(0.75, 1.2) * grain,
        gloss=1 + 0.05 * _noise(rng, side, 6, 4),
    )
    for hole in _HOLES:
        radius = plate.from_point(hole.u, hole.v)
        through = _inside(radius - hole.bore, side)
        plate.height = np.minimum(plate.height, np.minimum(radius - hole.sink, 0) * _BEVEL_SLOPE)
        plate.coverage *= 1 - through
        plate.openness *= 1 - 0.6 * through
    # A blind slot with round ends and a flat floor, which sees less of the sky near its walls.
    beyond_middle = np.maximum(np.abs(u - _SLOT_U) - _SLOT_HALF_LENGTH, 0)
    depth = _SLOT_RADIUS - _length(beyond_middle, v)
    wall = np.clip(depth / 0.007, 0, 1)
    plate.height -= wall * _SLOT_DEPTH
    plate.openness *= 1 - wall * (0.25 + 0.5 * np.exp(-np.maximum(depth, 0) / 0.012))
    groove = np.abs(plate.from_point(_BORE.u, _BORE.v) - _ENGRAVED_RING)
    engraved = np.exp(-np.square(groove / 0.0030))
    plate.height -= 0.0022 * engraved
    plate.openness *= 1 - 0.45 * engraved
    return plate


def _illuminate(plate: _Plate, rng: Generator) -> _Array:
    """Return linear radiance at the resolution of the image, (3, size, size)."""
    lamp_x, lamp_y, lamp_z = map(float, rng.uniform((-0.5, -0.85, 1.15), (0.0, -0.65, 1.4)))
    power, ambient, warmth = rng.uniform(0.8, 1.2), rng.uniform(0.13, 0.18), rng.normal(0, 0.018)
    x, y = _axes(plate.side)
    to_x, to_y = lamp_x - x, lamp_y - y
    near = 1 / np.sqrt(np.square(to_x) + np.square(to_y) + lamp_z**2)
    to_x, to_y, to_z = to_x * near, to_y * near, lamp_z * near
    light = np.square(near) * (power * (lamp_x**2 + lamp_y**2 + lamp_z**2))

    slope_y, slope_x = (np.clip(-plate.side * g, -1.2, 1.2) for g in np.gradient(plate.height))
    upright = 1 / np.sqrt(1 + np.square(slope_x) + np.square(slope_y))
    diffuse = np.maximum(slope_x * to_x + slope_y * to_y + to_z, 0) * upright
    # Facets of brushed metal are tilted across the grooves far more than along them, so that
    # the highlight is a band across the brushing.
    half = 1 / (1 + to_z)
    along = (to_x * half - slope_x) / rng.uniform(0.21, 0.27)
    across = (to_y * half - slope_y) / rng.uniform(0.36, 0.44) + 0.18 * plate.grain
    glint = np.exp(-np.square(along) - np.square(across)) * plate.gloss
    seen = plate.coverage * plate.openness
    key = (0.16 * diffuse + 0.42 * glint) * light * seen
    sky = ambient * (1 - 0.35 * slope_y * upright) * (1 + 0.07 * plate.grain) * seen

    # The shadow falls away from the lamp. The sound outline casts it even for a bent plate: the
    # difference would be a change of the belt, outside the defect.
    umbra = _outline(plate.u + 0.030 * lamp_x, plate.v + 0.030 * lamp_y)
    contact = np.exp(-np.maximum(plate.distance, 0) / 0.010)
    shadow = (0.28 + 0.72 * _smoothstep((umbra + 0.012) / 0.030)) * (1 - 0.60 * contact)
    # The rubber belt has blotches, grit, and ribs along its travel.
    grit = _noise(rng, plate.side, plate.side // _SUPERSAMPLING, plate.side // _SUPERSAMPLING)
    ribs = np.sin(y * (2 * math.pi * 44) + rng.uniform(0, 2 * math.pi))
    belt = np.clip(1 + 0.12 * _noise(rng, plate.side, 6, 6) + 0.16 * grit + 0.09 * ribs, 0.2, 2.5)
    ground = 0.034 * belt * shadow * (1 - plate.coverage) * (0.8 * light + 2 * ambient)
    lamp, sky_colour, rubber = (
        np.array(colour, np.float32)[:, None, None]
        for colour in ((1 + warmth, 1, 0.985 - warmth), (0.95, 1, 1.06), (0.96, 1, 1.03))
    )
    metal = _shrink(key) * lamp + _shrink(sky) * sky_colour
    if plate.tint is not None:
        metal *= _shrink(plate.tint)
    return np.asarray(metal + _shrink(ground) * rubber)


def _photograph(radiance: _Array, rng: Generator) -> ImageArray:
    """Return the 8-bit RGB of a camera for linear radiance, (3, size, size)."""
    x, y = _axes(radiance.shape[-1])
    light = radiance * (1 - 0.45 * (np.square(x) + np.square(y)))
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    light = np.maximum(light + noise * np.sqrt(np.maximum(light, 0) * 1.6e-4 + 2e-6), 0)
    # A shoulder keeps highlights from clipping hard, as a camera's tone curve does.
    light *= (1 + light * 0.25) / (1 + light)
    encoded = np.power(np.minimum(light * 1.5, 1), 1 / 2.2)
    pixels = np.asarray(np.rint(encoded * 255), dtype=np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _shrink(values: _Array) -> _Array:
    """Return the mean of every block of supersampled pixels, over the last two axes."""
    k = _SUPERSAMPLING
    rows = sum((values[..., i::k, :] for i in range(1, k)), values[..., ::k, :])
    return np.asarray(sum((rows[..., i::k] for i in range(1, k)), rows[..., ::k]) / k**2)


# Each defect damages a plate, and returns how much it touched: float32 (side, side), 0 to 1.
def _between(low: float, high: float, severity: float) -> float:
    return low + (high - low) * severity


def _free_spot(rng: Generator, clearance: float) -> tuple[float, float]:
    """Return a point of the top face with some room to the holes, the slot and the edge."""
    u = v = 0.0
    for _ in range(100):
        u, v = rng.uniform(-0.9, 0.9) * _HALF_LENGTH, rng.uniform(-0.9, 0.9) * _HALF_WIDTH
        edge = min(_HALF_LENGTH - abs(u), _HALF_WIDTH - abs(v))
        holes = min(math.hypot(u - hole.u, v - hole.v) - hole.sink for hole in _HOLES)
        slot = math.hypot(max(abs(u - _SLOT_U) - _SLOT_HALF_LENGTH, 0), v) - _SLOT_RADIUS
        if min(edge, holes, slot) > clearance:
            break
    return u, v


def _scratch(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """A bent groove with raised lips, of uneven depth."""
    u0, v0 = _free_spot(rng, 0.03)
    # More across the brushing than along it, where it would pass for a coarse streak.
    angle = math.pi / 2 + rng.normal(0, 0.6)
    length = _between(0.14, 0.40, severity) * rng.uniform(0.85, 1.15)
    width = _between(0.0026, 0.0042, severity)
    cos, sin = math.cos(angle), math.sin(angle)
    du, dv = plate.u - u0, plate.v - v0
    t = (du * cos + dv * sin) / length + 0.5
    bend = rng.normal(0, 0.12) * length * (4 * t * (1 - t) - 1)
    offset = (dv * cos - du * sin - bend) / width
    skips = np.interp(t, np.linspace(0, 1, 14), rng.uniform(0.35, 1.0, 14)).astype(np.float32)
    pressure = _smoothstep(t / 0.12) * _smoothstep((1 - t) / 0.35) * skips
    # A tool that hardly presses leaves nothing: the tails end, and with them the mask.
    pressure = np.maximum(pressure * 1.1 - 0.1, 0)
    pressure *= plate.coverage * (plate.openness > 0.9) * (np.abs(offset) < 2.8)
    groove = np.exp(-np.square(offset))
    lips = np.exp(-np.square((np.abs(offset) - 1.7) / 0.6))
    depth = pressure * _between(0.55, 1.30, severity)
    plate.height += depth * 0.0016 * (lips - groove)
    plate.gloss *= 1 + depth * (1.5 * groove - 0.6 * lips)
    plate.grain *= 1 - pressure * groove
    plate.tint = (1 + depth * (0.8 * groove - 0.5 * lips))[None]
    return np.asarray(np.minimum(10 * pressure, 1) * np.exp(-np.square(offset / 1.8)))


def _stain(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """A film of oil or a bloom of rust, with an irregular outline."""
    u0, v0 = _free_spot(rng, 0.02)
    size = _between(0.035, 0.085, severity) * rng.uniform(0.85, 1.2)
    angle = np.arctan2(plate.v - v0, plate.u - u0)
    reach = np.ones_like(angle)
    for order in range(1, 8):
        reach += rng.normal(0, 0.2) / order**0.8 * np.cos(order * angle + rng.uniform(0, 6.3))
    field = 1 - plate.from_point(u0, v0) / (size * np.clip(reach, 0.35, 1.8))
    body = _smoothstep(field / 0.35) * plate.coverage
    if rng.random() < 0.5:  # rust
        thickness = 0.75 + 0.22 * _noise(rng, plate.side, plate.side // 4, plate.side // 4)
        absorbed, dulled = (0.42, 0.66, 0.84), 0.8
    else:
        thickness = 0.7 + 0.35 * np.exp(-np.square((field - 0.2) / 0.14))
        absorbed, dulled = (0.54, 0.62, 0.76), 0.25
    film = np.minimum(body * np.clip(thickness, 0.2, 1.2) * _between(0.35, 0.95, severity), 1)
    plate.tint = np.stack([1 - share * film for share in absorbed])
    plate.gloss *= 1 - dulled * film
    return body


def _missing_hole(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """A hole that swarf has plugged; at full severity, one that was never drilled."""
    hole = _SMALL_HOLES[rng.integers(len(_SMALL_HOLES))]
    radius = _between(hole.bore, hole.sink, severity)
    plug = _inside(plate.from_point(hole.u, hole.v) - radius, plate.side)
    plate.height += (-_BEVEL_SLOPE * (hole.sink - radius) - plate.height) * plug
    plate.openness += (1 - plate.openness) * plug
    plate.coverage += (1 - plate.coverage) * plug
    return plug


def _deformed(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """A dent in the edge, or a bent corner."""
    return (_dent if rng.random() < 0.5 else _bent_corner)(plate, rng, severity)


def _dent(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """The edge pushed in."""
    reach = _between(0.032, 0.055, severity) * rng.uniform(0.9, 1.15)
    # A point of the outline, away from the corners.
    along, end = rng.uniform(-0.6, 0.6), rng.choice((-1.0, 1.0))
    u, v = (end, along) if rng.random() < 0.5 else (along, end)
    away = plate.from_point(float(u * _HALF_LENGTH), float(v * _HALF_WIDTH)) / reach
    bump = np.square(np.maximum(1 - np.square(away), 0))
    touched = (bump > 0) & (plate.distance < 0)
    plate.reshape(plate.distance + reach * _between(0.30, 0.50, severity) * bump, touched)
    plate.grain *= 1 - 0.7 * np.minimum(2 * bump, 1)
    return np.asarray(np.minimum(8 * bump, 1) * touched)


def _bent_corner(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """A corner folded down along a crease: it turns from the lamp and looks shorter."""
    # The fourth corner is cut off.
    corner_u, corner_v = ((-1, -1), (1, -1), (-1, 1))[rng.integers(3)]
    skew = rng.uniform(0.38, 0.62) * math.pi / 2
    across_u, across_v = corner_u * math.cos(skew), corner_v * math.sin(skew)
    slope = _between(0.45, 0.80, severity)
    tip = abs(across_u) * _HALF_LENGTH + abs(across_v) * _HALF_WIDTH - 0.35 * _CORNER_RADIUS
    crease = tip - _between(0.050, 0.090, severity)
    beyond = np.maximum(plate.u * across_u + plate.v * across_v - crease, 0)
    # Foreshortening: what is seen here lay further out before the fold.
    shift = beyond * slope * 0.45
    shorter = _outline(plate.u + across_u * shift, plate.v + across_v * shift)
    distance = np.maximum(plate.distance, shorter)
    plate.reshape(distance, (beyond > 0) & (distance > -2.2 * _CHAMFER))
    plate.height -= beyond * slope
    return _smoothstep(beyond / 0.006) * (plate.distance < 0)


_DAMAGE: dict[str, Callable[[_Plate, Generator, float], _Array]] = {
    "scratch": _scratch,
    "stain": _stain,
    "missing_hole": _missing_hole,
    "deformed": _deformed,
}
KINDS = tuple(_DAMAGE)
"""The kinds of defect, in the order in which they are written."""


def draw_plate(
    seed: int | Sequence[int], *, kind: str = "good", severity: float = 0.5, size: int = 256
) -> tuple[ImageArray, MaskArray]:
    """Draw one photo of a plate.

    The same seed gives the same plate, light and noise for every kind: a defective plate and its
    sound twin differ at the defect only.

    Args:
        seed: one or more integers, not negative.
        kind: ``"good"``, or one of ``KINDS``.
        severity: from 0, hard to see, to 1, hard to miss; ignored for a good plate.
        size: side of the square image in pixels, at least 64.

    Returns:
        The image, uint8 (size, size, 3), RGB; and the mask, bool (size, size), true where the
        defect changed the plate.

    Raises:
        OptionError: an unknown kind, or a number out of its range.
    """
    if kind != "good" and kind not in _DAMAGE:
        raise OptionError(f"kind must be good, {', '.join(KINDS)}; got {kind!r}")
    if not 0 <= severity <= 1:
        raise OptionError(f"severity must be from 0 to 1; got {severity}")
    if size < MIN_SIZE:
        raise OptionError(f"size must be at least {MIN_SIZE} pixels; got {size}")
    try:
        sequence = np.random.SeedSequence(seed)
    except ValueError as error:
        raise OptionError(f"seed must not be negative; got {seed}") from error
    # A stream of its own for each: a defect must not shift the noise of the sensor.
    for_plate, for_light, for_sensor, for_defect = map(np.random.default_rng, sequence.spawn(4))
    plate = _machine(size * _SUPERSAMPLING, for_plate)
    mask = np.zeros((size, size), dtype=np.bool_)
    if kind != "good":
        mask = _shrink(_DAMAGE[kind](plate, for_defect, severity)) > 0.2
    return _photograph(_illuminate(plate, for_light), for_sensor), mask
