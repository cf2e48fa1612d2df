"""A small inspection data set that is drawn, not photographed.

The part is a milled and brushed metal plate on a dark belt, seen from above. A photo starts from
a height map at twice the resolution: outline, chamfer, countersunk holes, pocket, engraving. It
is lit by a near lamp, and passes through lens, sensor and tone curve. Placement, light, finish
and belt differ from photo to photo, as they do on a line. A defect alters the height map or the
finish, never the picture, so that it is lit like the rest of the part.

Lengths are shares of the image's side; x points right, y down, and the origin is the centre of
the image. u and v are the same axes fixed to the plate, u along the brushing.
"""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from fre.errors import OptionError, OutputError
from fre.types import ImageArray, MaskArray, Progress

KINDS: tuple[str, ...] = ("scratch", "stain", "missing_hole", "deformed")
"""The kinds of defect, in the order in which they are written."""

# Always float32; the stubs of NumPy can't follow the width through mixed arithmetic.
_Array: TypeAlias = NDArray[np.floating[Any]]

_MIN_SIZE = 64
_SUPERSAMPLING = 2
_BAND = 32 * _SUPERSAMPLING
_TRAIN, _GOOD, _DEFECT = range(3)


# --- the part ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Hole:
    """A through hole; ``sink`` is the radius of its countersink at the surface."""

    u: float
    v: float
    bore: float
    sink: float


_HALF_LENGTH = 0.395
_HALF_WIDTH = 0.315
_CORNER_RADIUS = 0.034
_CUT_CORNER = 0.064
_CHAMFER = 0.017
_BEVEL_SLOPE = 0.62
_LEAN = 0.03
_SCREW_HOLES = tuple(
    _Hole(u, v, 0.026, 0.044)
    for u, v in ((-0.318, -0.238), (0.318, -0.238), (-0.318, 0.238), (0.300, 0.225))
)
_DOWEL_HOLES = (_Hole(0.128, -0.142, 0.0165, 0.0215), _Hole(0.128, 0.142, 0.0165, 0.0215))
_BORE = _Hole(-0.105, 0.0, 0.098, 0.114)
_HOLES = (*_SCREW_HOLES, *_DOWEL_HOLES, _BORE)
_SLOT_U, _SLOT_V, _SLOT_HALF_LENGTH, _SLOT_RADIUS, _SLOT_DEPTH = 0.180, 0.0, 0.085, 0.026, 0.02
_ENGRAVED_RING = 0.158
_ENGRAVED_LINES = ((-0.300, -0.100, -0.300, 0.100), (0.315, -0.130, 0.315, 0.130))
_ENGRAVING_WIDTH, _ENGRAVING_DEPTH = 0.0030, 0.0022


@dataclass(frozen=True)
class _Scene:
    """What differs from one photo to the next, apart from texture and noise."""

    shift: tuple[float, float]
    angle: float
    lamp: tuple[float, float, float]
    key: float
    ambient: float
    warmth: float
    exposure: float
    roughness: tuple[float, float]
    grain: float
    chamfer: float
    shade_angle: float
    shade_edge: float
    shade_depth: float

    @property
    def turn(self) -> tuple[float, float]:
        """Cosine and sine of the plate's rotation."""
        return math.cos(self.angle), math.sin(self.angle)


@dataclass
class _Plate:
    """The part as the lamp meets it; every array but ``tint`` is float32, (side, side).

    Attributes:
        scene: how it lies.
        u, v: coordinates on the plate.
        distance: to the sound outline, negative inside.
        height: of the surface, 0 at the top face.
        coverage: 1 where metal hides the belt.
        openness: share of the light that reaches the surface, 1 at the top face.
        grain: texture along the brushing, about unit variance.
        gloss: factor of the specular reflection.
        tint: (3, side, side), factor of all reflection; None is 1 everywhere.
    """

    scene: _Scene
    u: _Array
    v: _Array
    distance: _Array
    height: _Array
    coverage: _Array
    openness: _Array
    grain: _Array
    gloss: _Array
    tint: _Array | None = None

    @property
    def side(self) -> int:
        return int(self.u.shape[0])

    def window(self, u: float, v: float, reach: float) -> tuple[slice, slice]:
        """The rows and columns within ``reach`` of a point of the plate."""
        cos, sin = self.scene.turn
        x = cos * u - sin * v + self.scene.shift[0]
        y = sin * u + cos * v + self.scene.shift[1]

        def span(centre: float) -> slice:
            first = math.floor((centre - reach + 0.5) * self.side) - 2
            end = math.ceil((centre + reach + 0.5) * self.side) + 2
            return slice(max(first, 0), max(end, 0))

        return span(y), span(x)


def _draw_scene(rng: Generator) -> _Scene:
    return _Scene(
        # A stop on the belt holds the plate: about a pixel either way, half a degree.
        shift=(rng.uniform(-0.004, 0.004), rng.uniform(-0.004, 0.004)),
        angle=rng.uniform(-0.008, 0.008),
        lamp=(rng.uniform(-0.5, 0.0), rng.uniform(-0.85, -0.65), rng.uniform(1.15, 1.4)),
        key=rng.uniform(0.9, 1.1),
        ambient=rng.uniform(0.13, 0.18),
        warmth=rng.normal(0, 0.018),
        exposure=math.exp(rng.uniform(-0.1, 0.1)),
        roughness=(rng.uniform(0.21, 0.27), rng.uniform(0.36, 0.44)),
        grain=rng.uniform(0.75, 1.2),
        chamfer=_CHAMFER * rng.uniform(0.92, 1.08),
        shade_angle=rng.uniform(0, 2 * math.pi),
        shade_edge=rng.uniform(0.0, 0.5),
        shade_depth=rng.uniform(0.0, 0.15),
    )


def _axes(side: int) -> tuple[_Array, _Array]:
    """Coordinates x as a row and y as a column, at the centres of the pixels."""
    axis = (np.arange(side, dtype=np.float32) + 0.5) / side - 0.5
    return axis[None, :], axis[:, None]


def _outline(u: _Array, v: _Array) -> _Array:
    """Signed distance to a rectangle with round corners, one of them cut off."""
    qu = np.abs(u) - (_HALF_LENGTH - _CORNER_RADIUS)
    qv = np.abs(v) - (_HALF_WIDTH - _CORNER_RADIUS)
    outside = np.sqrt(np.square(np.maximum(qu, 0)) + np.square(np.maximum(qv, 0)))
    box = outside + np.minimum(np.maximum(qu, qv), 0) - _CORNER_RADIUS
    cut = (u + v - (_HALF_LENGTH + _HALF_WIDTH - _CUT_CORNER)) * (0.5**0.5)
    outline: _Array = np.maximum(box, cut)
    return outline


def _segment_distance(u: _Array, v: _Array, ends: tuple[float, float, float, float]) -> _Array:
    u0, v0, u1, v1 = ends
    du, dv = u1 - u0, v1 - v0
    along = np.clip(((u - u0) * du + (v - v0) * dv) / (du * du + dv * dv), 0, 1)
    return np.hypot(u - u0 - along * du, v - v0 - along * dv)


def _machine(scene: _Scene, side: int, rng: Generator) -> _Plate:
    """A sound plate, placed as the scene says."""
    x, y = _axes(side)
    x, y = x - scene.shift[0], y - scene.shift[1]
    cos, sin = scene.turn
    u, v = cos * x + sin * y, cos * y - sin * x
    distance = _outline(u, v)
    plate = _Plate(
        scene=scene,
        u=u,
        v=v,
        distance=distance,
        height=_bevel(distance, scene.chamfer),
        coverage=_cover(distance, side),
        openness=np.ones_like(u),
        grain=_brushing(rng, side, scene),
        gloss=1 + 0.05 * _noise(rng, side, 6, 4),
    )
    for hole in _HOLES:
        _drill(plate, hole)
    _mill_slot(plate)
    _engrave(plate)
    return plate


def _bevel(distance: _Array, chamfer: float) -> _Array:
    height: _Array = np.maximum(distance + chamfer, 0) * -_BEVEL_SLOPE
    return height


def _cover(distance: _Array, side: int) -> _Array:
    """1 inside, 0 outside, with an edge one pixel wide."""
    cover: _Array = np.clip(0.5 - distance * side, 0, 1)
    return cover


def _drill(plate: _Plate, hole: _Hole) -> None:
    at = plate.window(hole.u, hole.v, hole.sink)
    u, v = plate.u[at] - hole.u, plate.v[at] - hole.v
    radius = np.hypot(u, v)
    sink = np.maximum(hole.sink - radius, 0) * _BEVEL_SLOPE
    plate.height[at] = np.minimum(plate.height[at], -sink)
    # The lens looks down from the middle, and sees a crescent of the wall of holes off-centre.
    bottom = np.hypot(u + _LEAN * hole.u, v + _LEAN * hole.v)
    plate.coverage[at] *= 1 - _cover(np.maximum(radius, bottom) - hole.bore, plate.side)
    plate.openness[at] *= 1 - 0.6 * _cover(radius - hole.bore, plate.side)


def _mill_slot(plate: _Plate) -> None:
    """A blind pocket with round ends and a flat, duller floor."""
    at = plate.window(_SLOT_U, _SLOT_V, _SLOT_HALF_LENGTH + _SLOT_RADIUS)
    u, v = plate.u[at] - _SLOT_U, plate.v[at] - _SLOT_V
    reach = np.maximum(np.abs(u) - (_SLOT_HALF_LENGTH - _SLOT_RADIUS), 0)
    inside = _SLOT_RADIUS - np.hypot(reach, v)
    wall = np.clip(inside / 0.007, 0, 1)
    plate.height[at] -= wall * (_SLOT_DEPTH * 0.4)
    # A floor sees less of the sky the closer it is to a wall.
    corner = np.exp(-np.maximum(inside, 0) / 0.012)
    plate.openness[at] *= 1 - wall * (0.25 + 0.5 * corner)


def _engrave(plate: _Plate) -> None:
    at = plate.window(_BORE.u, _BORE.v, _ENGRAVED_RING + 0.01)
    radius = np.hypot(plate.u[at] - _BORE.u, plate.v[at] - _BORE.v)
    _cut_groove(plate, at, np.abs(radius - _ENGRAVED_RING))
    for line in _ENGRAVED_LINES:
        u0, v0, u1, v1 = line
        at = plate.window((u0 + u1) / 2, (v0 + v1) / 2, abs(v1 - v0) / 2 + 0.01)
        _cut_groove(plate, at, _segment_distance(plate.u[at], plate.v[at], line))


def _cut_groove(plate: _Plate, at: tuple[slice, slice], distance: _Array) -> None:
    depth = np.exp(-np.square(distance / _ENGRAVING_WIDTH))
    plate.height[at] -= depth * _ENGRAVING_DEPTH
    plate.openness[at] *= 1 - 0.45 * depth


# --- textures ------------------------------------------------------------------------------


def _noise(rng: Generator, side: int, rows: int, columns: int) -> _Array:
    """Smooth noise: independent values on a coarse grid, stretched to (side, side)."""
    grid = rng.standard_normal((rows, columns), dtype=np.float32)
    return _resize(grid, side)


def _resize(values: _Array, side: int) -> _Array:
    stretched = Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(stretched, dtype=np.float32)


def _brushing(rng: Generator, side: int, scene: _Scene) -> _Array:
    """Streaks along the u axis, turned with the plate."""
    rows = side // _SUPERSAMPLING
    grain = (
        0.75 * _noise(rng, rows, rows, rows // 11)
        + 0.65 * _noise(rng, rows, rows, rows // 40)
        + 0.45 * _noise(rng, rows, rows // 3, 3)
    )
    cos, sin = (part / _SUPERSAMPLING for part in scene.turn)
    middle = side / 2
    turn = (
        *(cos, sin, rows / 2 - middle * (cos + sin)),
        *(-sin, cos, rows / 2 - middle * (cos - sin)),
    )
    turned = Image.fromarray(grain).transform(
        (side, side), Image.Transform.AFFINE, turn, Image.Resampling.BILINEAR
    )
    return np.array(turned, dtype=np.float32)


def _belt(rng: Generator, size: int) -> _Array:
    """Reflectance of the rubber belt: coarse blotches, fine grit, ribs along its travel."""
    phase = rng.uniform(0, 2 * math.pi)
    texture = (
        0.12 * _noise(rng, size, 6, 6)
        + 0.07 * _noise(rng, size, size // 2, 4)
        + 0.14 * rng.standard_normal((size, size), dtype=np.float32)
        + 0.09 * np.sin(_axes(size)[1] * (2 * math.pi * 44) + phase)
    )
    belt: _Array = 0.034 * np.clip(1 + texture, 0.2, 2.5)
    return belt


# --- light ---------------------------------------------------------------------------------


def _illuminate(plate: _Plate, rng: Generator) -> _Array:
    """Linear radiance at the resolution of the image, (3, size, size)."""
    scene = plate.scene
    bands = [_reflect(plate, first) for first in range(0, plate.side, _BAND)]
    key, sky = (np.concatenate(parts) for parts in zip(*bands, strict=True))
    # The belt is rough and its shadow soft: they need no supersampling.
    size = key.shape[0]
    fall_off = _lamp(scene, *_axes(size))[3]
    ground = _belt(rng, size) * _cast_shadow(plate) * (1 - _shrink(plate.coverage))
    ground *= 0.8 * fall_off + 2 * scene.ambient

    lamp_colour = _colour(1 + scene.warmth, 1.0, 0.985 - scene.warmth)
    metal = key * lamp_colour + sky * _colour(0.95, 1.0, 1.06)
    if plate.tint is not None:
        metal *= _shrink(plate.tint)
    return metal + ground * lamp_colour * _colour(0.96, 1.0, 1.05)


def _colour(red: float, green: float, blue: float) -> _Array:
    return np.array((red, green, blue), dtype=np.float32)[:, None, None]


def _lamp(scene: _Scene, x: _Array, y: _Array) -> tuple[_Array, _Array, _Array, _Array]:
    """Unit direction to the lamp, and its light, about 1 at the centre."""
    lamp_x, lamp_y, lamp_z = scene.lamp
    to_x, to_y = lamp_x - x, lamp_y - y
    near = 1 / np.sqrt(np.square(to_x) + np.square(to_y) + lamp_z**2)
    fall_off = np.square(near) * (scene.key * (lamp_x**2 + lamp_y**2 + lamp_z**2))
    return to_x * near, to_y * near, lamp_z * near, fall_off


def _reflect(plate: _Plate, first: int) -> tuple[_Array, _Array]:
    """What the metal sends up of the lamp's and of the sky's light, for one band of rows.

    Both at the resolution of the image. By bands, because the many intermediate arrays of a
    whole plate would not stay in the processor's cache.
    """
    scene = plate.scene
    rows = slice(first, min(first + _BAND, plate.side))
    x, y = _axes(plate.side)
    to_x, to_y, to_z, fall_off = _lamp(scene, x, y[rows])
    slope_x, slope_y = _slopes(plate, rows)
    grain = plate.grain[rows] * scene.grain

    upright = 1 / np.sqrt(1 + np.square(slope_x) + np.square(slope_y))
    lambert = np.maximum(slope_x * to_x + slope_y * to_y + to_z, 0) * upright
    # Facets of brushed metal are tilted across the grooves far more than along them, so that
    # the highlight is a band across the brushing.
    half = 1 / (1 + to_z)
    tilt_x, tilt_y = to_x * half - slope_x, to_y * half - slope_y
    cos, sin = scene.turn
    along = (cos * tilt_x + sin * tilt_y) / scene.roughness[0]
    across = (cos * tilt_y - sin * tilt_x) / scene.roughness[1] + 0.18 * grain
    glint = np.exp(-np.square(along) - np.square(across)) * plate.gloss[rows]

    seen = plate.coverage[rows] * plate.openness[rows]
    key = (0.16 * lambert + 0.42 * glint) * fall_off * seen
    sky = scene.ambient * (1 - 0.35 * slope_y * upright) * (1 + 0.07 * grain) * seen
    return _shrink(key), _shrink(sky)


def _slopes(plate: _Plate, rows: slice) -> tuple[_Array, _Array]:
    """Slope of the surface's normal towards x and y, limited as a cutter's walls are."""
    last = plate.side - 1
    here = np.arange(rows.start, rows.stop)
    height, scale = plate.height, plate.side / 2
    slope_y = (height[np.maximum(here - 1, 0)] - height[np.minimum(here + 1, last)]) * scale
    slope_x = np.zeros_like(slope_y)
    slope_x[:, 1:-1] = (height[rows, :-2] - height[rows, 2:]) * scale
    return np.clip(slope_x, -1.2, 1.2), np.clip(slope_y, -1.2, 1.2)


def _soft_shade(scene: _Scene, side: int) -> _Array:
    """What something beside the line leaves of the light: a half-plane with a wide edge."""
    x, y = _axes(side)
    across = math.cos(scene.shade_angle) * x + math.sin(scene.shade_angle) * y
    return 1 - scene.shade_depth * _smoothstep((across - scene.shade_edge) / 0.5 + 0.5)


def _cast_shadow(plate: _Plate) -> _Array:
    """Share of the light that the plate leaves to the belt, at the image's resolution."""
    # Falls away from the lamp, by the thickness of the plate. The sound outline casts it even
    # for a bent plate: the difference would be a change of the belt, outside the defect.
    at = slice(None, None, _SUPERSAMPLING)
    fall_x, fall_y = (-0.030 * place for place in plate.scene.lamp[:2])
    umbra = _outline(plate.u[at, at] - fall_x, plate.v[at, at] - fall_y)
    contact = np.exp(-np.maximum(plate.distance[at, at], 0) / 0.010)
    light: _Array = (0.28 + 0.72 * _smoothstep((umbra + 0.012) / 0.030)) * (1 - 0.60 * contact)
    return light


def _smoothstep(t: _Array) -> _Array:
    t = np.clip(t, 0, 1)
    return t * t * (3 - 2 * t)


# --- defects -------------------------------------------------------------------------------
# Each takes a sound plate, damages it, and returns how much it touched: float32 in [0, 1],
# (side, side).

_Damage: TypeAlias = Callable[[_Plate, Generator, float], _Array]


def _between(low: float, high: float, severity: float) -> float:
    return low + (high - low) * severity


def _free_spot(rng: Generator, clearance: float) -> tuple[float, float]:
    """A point of the top face with some room to the holes and the edge."""
    u = v = 0.0
    for _ in range(100):
        u = rng.uniform(-0.9, 0.9) * _HALF_LENGTH
        v = rng.uniform(-0.9, 0.9) * _HALF_WIDTH
        edge = min(_HALF_LENGTH - abs(u), _HALF_WIDTH - abs(v))
        holes = min(math.hypot(u - hole.u, v - hole.v) - hole.sink for hole in _HOLES)
        slot = math.hypot(max(abs(u - _SLOT_U) - _SLOT_HALF_LENGTH, 0), v - _SLOT_V)
        if min(edge, holes, slot - _SLOT_RADIUS) > clearance:
            break
    return u, v


def _scratch(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """A bent groove with raised lips, of uneven depth."""
    u0, v0 = _free_spot(rng, 0.03)
    # More across the brushing than along it, where it would pass for a coarse streak.
    angle = math.pi * (1 / 2 + rng.normal(0, 0.2))
    length = _between(0.14, 0.40, severity) * rng.uniform(0.85, 1.15)
    width = _between(0.0026, 0.0042, severity)
    bend = rng.normal(0, 0.10) + math.copysign(0.05, rng.normal())

    cos, sin = math.cos(angle), math.sin(angle)
    du, dv = plate.u - u0, plate.v - v0
    t = (du * cos + dv * sin) / length + 0.5
    curve = bend * length * (4 * t * (1 - t) - 1)
    wobble = 0.004 * np.sin(t * rng.uniform(4, 9) + angle)
    offset = (dv * cos - du * sin - curve - wobble) / width

    tool = _smoothstep(t / 0.12) * _smoothstep((1 - t) / 0.35)
    skips = np.interp(t, np.linspace(0, 1, 14), rng.uniform(0.35, 1.0, 14))
    # A tool that hardly presses leaves nothing: the tails end, and with them the mask.
    pressure = np.maximum(tool * skips.astype(np.float32) * 1.1 - 0.1, 0)
    pressure *= plate.coverage * (plate.openness > 0.9) * (np.abs(offset) < 2.8)
    groove = np.exp(-np.square(offset))
    lips = np.exp(-np.square((np.abs(offset) - 1.7) / 0.6))

    depth = _between(0.55, 1.30, severity)
    plate.height += pressure * depth * 0.0016 * (lips - groove)
    plate.gloss *= 1 + pressure * depth * (1.5 * groove - 0.6 * lips)
    plate.grain *= 1 - pressure * groove
    bare = 1 + pressure * depth * (0.8 * groove - 0.5 * lips)
    plate.tint = np.broadcast_to(bare, (3, *bare.shape))
    touch: _Array = np.minimum(10 * pressure, 1) * np.exp(-np.square(offset / 1.8))
    return touch


def _stain(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """A film of oil or a bloom of rust, with satellites."""
    u0, v0 = _free_spot(rng, 0.02)
    size = _between(0.035, 0.085, severity) * rng.uniform(0.85, 1.2)
    field = _blot(plate, rng, u0, v0, size)
    for _ in range(rng.integers(0, 4)):
        angle, away = rng.uniform(0, 2 * math.pi), size * rng.uniform(1.3, 2.0)
        satellite = size * rng.uniform(0.16, 0.3)
        field = np.maximum(
            field,
            _blot(plate, rng, u0 + away * math.cos(angle), v0 + away * math.sin(angle), satellite),
        )
    body = _smoothstep(field / 0.35) * plate.coverage
    rust = rng.random() < 0.5
    density = _between(0.35, 0.95, severity)
    cloud = _noise(rng, plate.side, 24, 24)
    if rust:
        speckle = _noise(rng, plate.side, plate.side // 4, plate.side // 4)
        thickness = np.clip(0.75 + 0.22 * (cloud + speckle), 0.2, 1.2)
        absorbed, dulled = (0.42, 0.66, 0.84), 0.8
    else:
        rim = np.exp(-np.square((field - 0.2) / 0.14))
        thickness = 0.7 + 0.10 * cloud + 0.35 * rim
        absorbed, dulled = (0.54, 0.62, 0.76), 0.25
    film = body * np.clip(thickness, 0, 1.2) * density
    plate.tint = np.stack([1 - share * np.minimum(film, 1) for share in absorbed])
    plate.gloss *= 1 - dulled * np.minimum(film, 1)
    return body


def _blot(plate: _Plate, rng: Generator, u0: float, v0: float, size: float) -> _Array:
    """1 at the centre, 0 at an irregular outline, negative beyond."""
    du, dv = plate.u - u0, plate.v - v0
    stretch, lean = rng.uniform(0.75, 1.35), rng.normal(0, 0.3)
    radius = np.hypot(du * stretch + dv * lean, dv / stretch) / size
    turn = np.linspace(-math.pi, math.pi, 241)
    edge = np.ones_like(turn)
    for order in range(2, 8):
        swing, phase = rng.normal(0, 0.24) / order**0.8, rng.uniform(0, 2 * math.pi)
        edge += swing * np.cos(order * turn + phase)
    reach = np.interp(np.arctan2(dv, du), turn, np.clip(edge, 0.35, 1.8)).astype(np.float32)
    blot: _Array = 1 - radius / reach
    return blot


def _missing_hole(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """A hole that was never drilled, or one that swarf has plugged."""
    drilled = (*_SCREW_HOLES, *_DOWEL_HOLES)
    hole = drilled[rng.integers(len(drilled))]
    radius = np.hypot(plate.u - hole.u, plate.v - hole.v)
    if severity >= 0.4:
        touched = _cover(radius - hole.sink, plate.side)
        around = touched > 0
        plate.height[around] = 0
        plate.coverage[around] = 1
        plate.openness[around] = 1
        return touched
    touched = _cover(radius - hole.bore, plate.side)
    lumps = _noise(rng, plate.side, plate.side // 7, plate.side // 7)
    floor = -_BEVEL_SLOPE * (hole.sink - hole.bore) + lumps * 0.0022
    plate.height += (floor - plate.height) * touched
    plate.coverage += (1 - plate.coverage) * touched
    filled = _between(0.45, 0.8, rng.random()) + 0.08 * lumps
    plate.openness += (np.clip(filled, 0.2, 1) - plate.openness) * touched
    return touched


def _deformed(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """A dent in the edge, a bent corner, or a burr."""
    return _DEFORMATIONS[rng.integers(len(_DEFORMATIONS))](plate, rng, severity)


def _edge_spot(rng: Generator) -> tuple[float, float]:
    """A point of the outline, away from the corners."""
    along, sign = rng.uniform(-0.6, 0.6), math.copysign(1, rng.normal())
    if rng.random() < 0.5:
        return sign * _HALF_LENGTH, along * _HALF_WIDTH
    return along * _HALF_LENGTH, sign * _HALF_WIDTH


def _dent(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """The edge pushed in, with metal heaped up behind it."""
    u0, v0 = _edge_spot(rng)
    reach = _between(0.032, 0.055, severity) * rng.uniform(0.9, 1.15)
    push = reach * _between(0.30, 0.50, severity)
    du, dv = plate.u - u0, plate.v - v0
    ragged = 1 + 0.10 * np.sin(3 * np.arctan2(dv, du) + rng.uniform(0, 2 * math.pi))
    bump = np.square(np.maximum(1 - np.square(np.hypot(du, dv) * ragged / reach), 0))
    heap = 0.5 * push * bump * np.exp(-np.square(plate.distance / push + 1.5))
    touched = (bump > 0) & (plate.distance < 0)
    distance = plate.distance + push * bump
    plate.height[touched] = (_bevel(distance, plate.scene.chamfer) + heap)[touched]
    plate.coverage[touched] = _cover(distance, plate.side)[touched]
    plate.grain *= 1 - 0.7 * np.minimum(2 * bump, 1)
    touch: _Array = np.minimum(8 * bump, 1) * touched
    return touch


def _bent_corner(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """A corner folded down along a crease: it turns from the lamp and looks shorter."""
    # The fourth corner is cut off.
    corner_u, corner_v = ((-1, -1), (1, -1), (-1, 1))[rng.integers(3)]
    skew = rng.uniform(0.38, 0.62) * math.pi / 2
    across_u, across_v = corner_u * math.cos(skew), corner_v * math.sin(skew)
    fold = _between(0.050, 0.090, severity)
    slope = _between(0.45, 0.80, severity)
    tip = abs(across_u) * _HALF_LENGTH + abs(across_v) * _HALF_WIDTH - 0.35 * _CORNER_RADIUS
    beyond = np.maximum(plate.u * across_u + plate.v * across_v - (tip - fold), 0)
    # Foreshortening: what is seen here lay further out before the fold. Only the outline is
    # redrawn, as a hole would move by less than a pixel.
    shift = beyond * slope * 0.45
    shorter = _outline(plate.u + across_u * shift, plate.v + across_v * shift)
    distance = np.maximum(plate.distance, shorter)
    edge = (beyond > 0) & (distance > -2.2 * plate.scene.chamfer)
    plate.coverage[edge] = _cover(distance, plate.side)[edge]
    plate.height[edge] = _bevel(distance, plate.scene.chamfer)[edge]
    plate.height -= beyond * slope
    touch: _Array = _smoothstep(beyond / 0.006) * (plate.distance < 0)
    return touch


def _burr(plate: _Plate, rng: Generator, severity: float) -> _Array:
    """A ragged, bright sliver that the cutter left standing over the edge."""
    u0, v0 = _edge_spot(rng)
    length = _between(0.035, 0.080, severity) * rng.uniform(0.9, 1.2)
    reach = _between(0.012, 0.022, severity)
    du, dv = plate.u - u0, plate.v - v0
    along = (dv if abs(u0) == _HALF_LENGTH else du) / length
    teeth = np.interp(along, np.linspace(-1, 1, 13), rng.uniform(0.3, 1.0, 13)).astype(np.float32)
    sliver = np.maximum(1 - np.square(along), 0) * teeth * reach
    root = plate.distance + 0.006
    touched = (np.hypot(du, dv) < length + reach) & (sliver > 0) & (root > 0)
    touched &= plate.distance < sliver + 1 / plate.side
    plate.height[touched] = (0.25 * root)[touched]
    plate.coverage[touched] = _cover(plate.distance - sliver, plate.side)[touched]
    plate.grain[touched] *= 0.3
    plate.gloss[touched] *= 1.4
    touch: _Array = plate.coverage * touched
    return touch


_DEFORMATIONS: tuple[_Damage, ...] = (_dent, _bent_corner, _burr)
_DAMAGE: dict[str, _Damage] = dict(
    zip(KINDS, (_scratch, _stain, _missing_hole, _deformed), strict=True)
)


# --- camera --------------------------------------------------------------------------------


def _photograph(radiance: _Array, scene: _Scene, rng: Generator) -> ImageArray:
    """From linear radiance, (3, size, size), to the 8-bit RGB of a camera."""
    light = _blur(radiance)
    size = light.shape[-1]
    x, y = _axes(size)
    vignette = 1 - 0.45 * (np.square(x) + np.square(y))
    light *= vignette * _soft_shade(scene, size) * (scene.exposure * 1.05)
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    light += noise * np.sqrt(np.maximum(light, 0) * 1.6e-4 + 2e-6)
    light = np.maximum(light, 0)
    # A shoulder keeps highlights from clipping hard, as a camera's tone curve does.
    light *= (1 + light * 0.25) / (1 + light)
    encoded = np.power(np.minimum(light * 1.5, 1), 1 / 2.2)
    pixels = np.asarray(np.rint(encoded * 255), dtype=np.uint8)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _shrink(values: _Array) -> _Array:
    """Mean of every block of supersampled pixels, over the last two axes."""
    k = _SUPERSAMPLING
    rows = sum(values[..., i::k, :] for i in range(1, k)) + values[..., ::k, :]
    total = sum(rows[..., i::k] for i in range(1, k)) + rows[..., ::k]
    return total / k**2


def _blur(light: _Array) -> _Array:
    """The lens: three taps along each of the last two axes."""
    side, centre = 0.14, 0.72
    rows = np.pad(light, ((0, 0), (1, 1), (0, 0)), mode="edge")
    light = side * (rows[:, :-2] + rows[:, 2:]) + centre * rows[:, 1:-1]
    columns = np.pad(light, ((0, 0), (0, 0), (1, 1)), mode="edge")
    return side * (columns[:, :, :-2] + columns[:, :, 2:]) + centre * columns[:, :, 1:-1]


# --- public --------------------------------------------------------------------------------


def draw_plate(
    seed: int | Sequence[int], *, kind: str = "good", severity: float = 0.5, size: int = 256
) -> tuple[ImageArray, MaskArray]:
    """Draw one photo of a plate.

    The same seed gives the same plate, light and noise whatever the kind: the defective plate
    and its sound twin differ at the defect only.

    Args:
        seed: one or more integers, not negative.
        kind: ``"good"``, or one of ``KINDS``.
        severity: from 0, hard to see, to 1, hard to miss; a good plate has none.
        size: side of the square image in pixels, at least 64.

    Returns:
        The image, uint8, (size, size, 3), RGB; and the mask, bool, (size, size), True where
        the defect changed the plate: nowhere on a good one.

    Raises:
        OptionError: an unknown kind, or a number out of its range.
    """
    if kind != "good" and kind not in _DAMAGE:
        raise OptionError(f"kind must be good, {', '.join(KINDS)}; got {kind!r}")
    if not 0 <= severity <= 1:
        raise OptionError(f"severity must be from 0 to 1; got {severity}")
    if size < _MIN_SIZE:
        raise OptionError(f"size must be at least {_MIN_SIZE} pixels; got {size}")
    try:
        sequence = np.random.SeedSequence(seed)
    except ValueError as error:
        raise OptionError(f"seed must not be negative; got {seed}") from error
    # A stream of its own for each: a defect must not shift the noise of the sensor.
    streams = sequence.spawn(5)
    for_scene, for_finish, for_belt, for_sensor, for_defect = map(np.random.default_rng, streams)
    scene = _draw_scene(for_scene)
    plate = _machine(scene, size * _SUPERSAMPLING, for_finish)
    mask = np.zeros((size, size), dtype=np.bool_)
    if kind != "good":
        mask = _shrink(_DAMAGE[kind](plate, for_defect, severity)) > 0.2
    image = _photograph(_illuminate(plate, for_belt), scene, for_sensor)
    return image, mask


def write_dataset(
    root: Path,
    *,
    n_train: int = 60,
    n_good: int = 20,
    n_defect: int = 40,
    size: int = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Write a data set of plates in the layout of MVTec AD.

    The folder appears when everything is in it, or not at all. The same arguments give the
    same bytes with the same versions of NumPy and Pillow.

    Args:
        root: the folder to make; it may exist if it is empty.
        n_train: good images to train on, at least 1.
        n_good: good images to test on.
        n_defect: defective images to test on, spread evenly over ``KINDS``.
        size: side of the square images in pixels, at least 64.
        seed: not negative; another one gives other plates.
        progress: called after every image.

    Raises:
        OptionError: a number out of its range.
        OutputError: ``root`` is not an empty folder, or can't be written.
    """
    _check_counts(n_train=n_train, n_good=n_good, n_defect=n_defect, seed=seed, size=size)
    root = Path(root).absolute()
    jobs = _plan(n_train, n_good, n_defect, seed)
    try:
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            raise OutputError(f"{root}: exists already; give a new or an empty folder")
        root.parent.mkdir(parents=True, exist_ok=True)
        partial = root.parent / f".{root.name}.{secrets.token_hex(4)}.partial"
        try:
            for done, job in enumerate(jobs, start=1):
                _write_job(partial, job, size)
                if progress is not None:
                    progress("drawing", done, len(jobs))
            if root.exists():
                root.rmdir()
            partial.rename(root)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    except OSError as error:
        raise OutputError(f"{root}: can't be written: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Job:
    split: str
    kind: str
    index: int
    seed: tuple[int, int, int]
    severity: float = 0.5


def _check_counts(*, n_train: int, n_good: int, n_defect: int, seed: int, size: int) -> None:
    least = {"n_train": 1, "n_good": 0, "n_defect": 0, "seed": 0, "size": _MIN_SIZE}
    given = {"n_train": n_train, "n_good": n_good, "n_defect": n_defect, "seed": seed, "size": size}
    for name, value in given.items():
        if value < least[name]:
            raise OptionError(f"{name} must be at least {least[name]}; got {value}")


def _plan(n_train: int, n_good: int, n_defect: int, seed: int) -> list[_Job]:
    jobs = [_Job("train", "good", i, (seed, _TRAIN, i)) for i in range(n_train)]
    jobs += [_Job("test", "good", i, (seed, _GOOD, i)) for i in range(n_good)]
    borders = [n_defect * i // len(KINDS) for i in range(len(KINDS) + 1)]
    rng = np.random.default_rng((seed, _DEFECT))
    for kind, (first, end) in zip(KINDS, pairwise(borders), strict=True):
        # Each kind from faint to plain, in no order that its file names would give away.
        severities = (rng.permutation(end - first) + 0.5) / max(end - first, 1)
        jobs += [
            _Job("test", kind, i, (seed, _DEFECT, first + i), float(severity))
            for i, severity in enumerate(severities)
        ]
    return jobs


def _write_job(root: Path, job: _Job, size: int) -> None:
    image, mask = draw_plate(job.seed, kind=job.kind, severity=job.severity, size=size)
    _write_png(root / job.split / job.kind / f"{job.index:03d}.png", image)
    if job.kind != "good":
        file = root / "ground_truth" / job.kind / f"{job.index:03d}_mask.png"
        _write_png(file, mask.astype(np.uint8) * np.uint8(255))


def _write_png(file: Path, pixels: NDArray[np.uint8]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Noise hardly compresses: more effort would cost time and save nothing.
    Image.fromarray(pixels).save(file, compress_level=2)
