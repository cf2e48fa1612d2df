"""Charts as inline SVG, without scripts, fonts or colours of their own.

A chart is a string for an HTML page. Colours and fonts come from the page's style sheet through
class names, for light mode, dark mode and print. The XML serialiser escapes all text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray

# On a phone of 360 px the chart shrinks to three quarters, and its labels are still readable.
WIDTH = 440
LEFT, RIGHT, TOP, BOTTOM = 66.0, 24.0, 14.0, 50.0
CURVE_HEIGHT = 340

HISTOGRAM_LEFT = 14.0
HISTOGRAM_TOP = 30.0
ROW_HEIGHT = 116.0
ROW_GAP = 14.0
BINS = 44
LETTER = 8.0
"""Width of a letter of a label, at most."""
STYLE = """
text { font: 12.5px system-ui, sans-serif; fill: #5a636c; }
.mark { fill: #1b1f23; font-weight: 600; }
text.good { fill: #1b6f91; font-weight: 600; }
text.defect { fill: #bf4318; font-weight: 600; }
.grid { stroke: #dde1e5; }
.axis, .guess { stroke: #5a636c; }
.curve { fill: none; stroke: #1b6f91; stroke-width: 2.25; }
.point { fill: #ffffff; stroke: #1b1f23; stroke-width: 2.5; }
.threshold { stroke: #1b1f23; stroke-width: 1.5; stroke-dasharray: 5 4; }
.bars.good { fill: #1b6f91; }
.bars.defect { fill: #bf4318; }
.bars.calibration { fill: #cdd3d8; }
"""
"""Style of a chart outside of a page, on white: the report's colours in light mode."""
TICK_SPACING = 52.0
# Range, in spreads of the good images, beyond which a linear axis squeezes them into one bar.
LINEAR_SPREADS = 20.0


def number(value: float) -> str:
    """Format a score: three significant digits, thousands grouped, no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{min(decimals, 12)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


class Caption(NamedTuple):
    """Texts of a chart.

    Attributes:
        name: prefix of the ids in the chart, unique in its page.
        title: title for screen readers.
        description: summary of the data for screen readers.
    """

    name: str
    title: str
    description: str


def curve_chart(
    caption: Caption,
    *,
    x: ArrayLike,
    y: ArrayLike,
    axes: tuple[str, str],
    mark: tuple[float, float, str],
    guess: tuple[tuple[float, float], tuple[float, float]],
) -> str:
    """Draw a curve over the unit square.

    Args:
        caption: texts of the chart.
        x: (n,), in [0, 1].
        y: (n,), in [0, 1].
        axes: labels of the horizontal and the vertical axis.
        mark: x, y and label of a marked point.
        guess: both ends of the line of a random guess.

    Returns:
        An ``<svg>`` element.
    """
    svg = _chart(caption, CURVE_HEIGHT)
    across = _Axis(0, 1, LEFT, WIDTH - RIGHT)
    up = _Axis(0, 1, CURVE_HEIGHT - BOTTOM, TOP)
    for share in (0, 0.25, 0.5, 0.75, 1):
        _line(svg, (LEFT, up.at(share)), (WIDTH - RIGHT, up.at(share)), "grid")
        _line(svg, (across.at(share), TOP), (across.at(share), CURVE_HEIGHT - BOTTOM), "grid")
        label = f"{share:.0%}"
        _text(svg, (across.at(share), CURVE_HEIGHT - BOTTOM + 18), label, "tick", "middle")
        _text(svg, (LEFT - 8, up.at(share) + 4), label, "tick", "end")
    _text(svg, ((LEFT + WIDTH - RIGHT) / 2, CURVE_HEIGHT - 8), axes[0], "label", "middle")
    middle = (TOP + CURVE_HEIGHT - BOTTOM) / 2
    upright = _text(svg, (14, middle), axes[1], "label", "middle")
    upright.set("transform", f"rotate(-90 14 {_px(middle)})")
    (x0, y0), (x1, y1) = guess
    _line(svg, (across.at(x0), up.at(y0)), (across.at(x1), up.at(y1)), "guess")
    corners = zip(across.many(x), up.many(y), strict=True)
    ElementTree.SubElement(svg, "path", {"class": "curve", "d": _path(corners)})
    _marked(svg, (across.at(mark[0]), up.at(mark[1])), mark[2])
    return _markup(svg)


def score_histogram(
    caption: Caption,
    *,
    good: ArrayLike,
    defect: ArrayLike,
    calibration: ArrayLike,
    threshold: float,
) -> str:
    """Draw histograms of good and defective images, one above the other, and the threshold.

    The calibration scores lie behind both. Each histogram has the same height. The axis is linear
    within the spread of the good images, and logarithmic outside where scores spread far.

    Args:
        caption: texts of the chart.
        good: (n,), scores; may be empty.
        defect: (n,), scores; may be empty.
        calibration: (n,), scores of the good images that set the threshold; may be empty.
        threshold: score above which an image is anomalous.

    Returns:
        An ``<svg>`` element.
    """
    good, defect, behind = _finite([good, defect, calibration])
    rows = [(f"Good: {good.size}", good, "good"), (f"Defective: {defect.size}", defect, "defect")]
    return _histogram(caption, rows, behind, threshold)


def good_histogram(caption: Caption, scores: ArrayLike, threshold: float) -> str:
    """Draw a histogram of good images alone, and the threshold.

    Args:
        caption: texts of the chart.
        scores: (n,), scores.
        threshold: score above which an image is anomalous.

    Returns:
        An ``<svg>`` element.
    """
    [good] = _finite([scores])
    row = (f"Good, held out: {good.size}", good, "good")
    return _histogram(caption, [row], np.empty(0), threshold)


def _histogram(
    caption: Caption,
    rows: Sequence[tuple[str, NDArray[np.float64], str]],
    behind: NDArray[np.float64],
    threshold: float,
) -> str:
    """Draw rows of label, scores and style, each with further scores behind them."""
    axis = _score_axis([*(scores for _, scores, _ in rows), behind], threshold)
    bottom = HISTOGRAM_TOP + len(rows) * (ROW_HEIGHT + ROW_GAP) - ROW_GAP
    svg = _chart(caption, round(bottom + BOTTOM))
    for tick in _ticks(axis):
        x = axis.at(tick)
        _line(svg, (x, HISTOGRAM_TOP), (x, bottom), "grid")
        _text(svg, (x, bottom + 18), number(tick), "tick", "middle")
    x = axis.at(threshold)
    for index, (label, scores, style) in enumerate(rows):
        base = HISTOGRAM_TOP + ROW_HEIGHT + index * (ROW_HEIGHT + ROW_GAP)
        _bars(svg, axis, behind, base, "calibration", gap=0)
        _bars(svg, axis, scores, base, style, gap=2.5)
        _line(svg, (axis.start, base), (axis.end, base), "axis")
        # Left of the threshold's line where that would cross it.
        crossed = x > WIDTH - RIGHT - LETTER * len(label)
        end = x - 8 if crossed else WIDTH - RIGHT
        _text(svg, (end, base - ROW_HEIGHT + 14), label, style, "end")
    _line(svg, (x, HISTOGRAM_TOP - 6), (x, bottom), "threshold")
    anchor, x = _beside(x)
    _text(svg, (x, HISTOGRAM_TOP - 12), f"threshold {number(threshold)}", "mark", anchor)
    _text(svg, (WIDTH / 2, bottom + 40), f"anomaly score{axis.remark}", "label", "middle")
    return _markup(svg)


def standalone(element: str) -> str:
    """Return a chart as a complete SVG document with colours of its own, on white.

    Args:
        element: ``<svg>`` element that a function of this module drew.
    """
    svg = ElementTree.fromstring(element)
    svg.set("xmlns", "http://www.w3.org/2000/svg")
    style = ElementTree.Element("style")
    style.text = STYLE
    paper = ElementTree.Element("rect", width="100%", height="100%", fill="#ffffff")
    svg[:0] = [style, paper]
    return _markup(svg)


@dataclass(frozen=True)
class _Axis:
    """Axis from [low, high] to pixels [start, end]: linear, or asinh((value - centre) / unit)."""

    low: float
    high: float
    start: float
    end: float
    centre: float = 0.0
    unit: float | None = None

    @property
    def remark(self) -> str:
        return "" if self.unit is None else " (logarithmic in the tails)"

    def many(self, values: ArrayLike) -> NDArray[np.float64]:
        low, high = self._warp(self.low), self._warp(self.high)
        share = (self._warp(values) - low) / (high - low)
        pixels: NDArray[np.float64] = self.start + share * (self.end - self.start)
        return pixels

    def at(self, value: float) -> float:
        return float(self.many(value))

    def edges(self, bins: int) -> NDArray[np.float64]:
        """Return (bins + 1,) values at equal distances in pixels."""
        warped = np.linspace(self._warp(self.low), self._warp(self.high), bins + 1)
        edges = warped if self.unit is None else self.centre + self.unit * np.sinh(warped)
        # Rounding could leave the extreme scores outside.
        edges[0], edges[-1] = self.low, self.high
        return edges

    def _warp(self, values: ArrayLike) -> NDArray[np.float64]:
        array = np.asarray(values, np.float64)
        return array if self.unit is None else np.arcsinh((array - self.centre) / self.unit)


def _finite(groups: Sequence[ArrayLike]) -> list[NDArray[np.float64]]:
    """Return float64 copies with infinite scores at the nearest finite one, to stay visible."""
    arrays = [np.asarray(scores, np.float64) for scores in groups]
    values = np.concatenate(arrays)
    values = values[np.isfinite(values)]
    return [array.clip(values.min(), values.max()) if values.size else array for array in arrays]


def _score_axis(groups: Sequence[NDArray[np.float64]], threshold: float) -> _Axis:
    good, *_, calibration = groups
    values = np.concatenate([*groups, [threshold]])
    low, high = float(values.min()), float(values.max())
    if low == high:
        low, high = low - 1, high + 1
    reference = next((scores for scores in (calibration, good) if scores.size > 1), values)
    tenth, centre, ninetieth = np.quantile(reference, [0.1, 0.5, 0.9])
    unit = float(ninetieth - tenth) / 2
    start, end = HISTOGRAM_LEFT, WIDTH - RIGHT
    if unit == 0 or high - low <= LINEAR_SPREADS * unit:
        pad = (high - low) * 0.02
        return _Axis(low - pad, high + pad, start, end)
    return _Axis(low - 0.2 * unit, high * 1.05, start, end, float(centre), unit)


def _ticks(axis: _Axis) -> list[float]:
    """Return round values, as many as have room for their labels."""
    largest = max(abs(axis.low), abs(axis.high))
    finest = (axis.unit or axis.high - axis.low) / 10
    powers = range(math.floor(math.log10(finest)), math.ceil(math.log10(largest)) + 1)
    by_roundness = [0.0]
    if axis.unit is None:
        steps = [step * 10.0**power for power in reversed(powers) for step in (5, 2, 1)]
        room = TICK_SPACING / (axis.end - axis.start) * (axis.high - axis.low)
        step = min((step for step in steps if step >= room), default=axis.high - axis.low)
        count = range(math.ceil(axis.low / step), math.floor(axis.high / step) + 1)
        return [step * index for index in count]
    for digits in ((1,), (5,), (2,), (3, 4, 6, 7, 8, 9)):
        for power in reversed(powers):
            by_roundness += [sign * digit * 10.0**power for digit in digits for sign in (1, -1)]
    chosen: list[float] = []
    for value in by_roundness:
        inside = axis.low <= value <= axis.high
        if inside and all(abs(axis.at(value) - axis.at(tick)) >= TICK_SPACING for tick in chosen):
            chosen.append(value)
    return sorted(chosen)


def _bars(
    svg: ElementTree.Element,
    axis: _Axis,
    scores: NDArray[np.float64],
    base: float,
    style: str,
    gap: float,
) -> None:
    edges = axis.edges(BINS)
    counts, _ = np.histogram(scores, edges)
    if not counts.any():
        return
    pixels = axis.many(edges)
    # Room above the bars for the name of the row.
    unit = (ROW_HEIGHT - 24) / counts.max()
    group = ElementTree.SubElement(svg, "g", {"class": f"bars {style}"})
    for index in np.flatnonzero(counts):
        # A single image among thousands stays visible.
        height = max(2.0, counts[index] * unit)
        bar = ElementTree.SubElement(
            group,
            "rect",
            x=_px(pixels[index] + gap / 2),
            y=_px(base - height),
            width=_px(pixels[index + 1] - pixels[index] - gap),
            height=_px(height),
        )
        tip = ElementTree.SubElement(bar, "title")
        tip.text = f"{counts[index]} from {number(edges[index])} to {number(edges[index + 1])}"


def _chart(caption: Caption, height: int) -> ElementTree.Element:
    name, title, description = caption
    svg = ElementTree.Element(
        "svg",
        {
            "class": "chart",
            "viewBox": f"0 0 {WIDTH} {height}",
            "role": "img",
            "aria-labelledby": f"{name}-title {name}-desc",
        },
    )
    ElementTree.SubElement(svg, "title", id=f"{name}-title").text = title
    ElementTree.SubElement(svg, "desc", id=f"{name}-desc").text = description
    return svg


def _markup(svg: ElementTree.Element) -> str:
    return ElementTree.tostring(svg, encoding="unicode")


def _px(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _path(points: Iterable[tuple[float, float]]) -> str:
    """Return the path of the points, without repeats after rounding to a tenth of a pixel."""
    corners: list[str] = []
    for x, y in points:
        corner = f"{_px(x)} {_px(y)}"
        if not corners or corner != corners[-1]:
            corners.append(corner)
    return "M" + "L".join(corners)


def _line(
    svg: ElementTree.Element, start: tuple[float, float], end: tuple[float, float], style: str
) -> None:
    (x1, y1), (x2, y2) = start, end
    ends = {"x1": _px(x1), "y1": _px(y1), "x2": _px(x2), "y2": _px(y2)}
    ElementTree.SubElement(svg, "line", {"class": style, **ends})


def _text(
    svg: ElementTree.Element, at: tuple[float, float], text: str, style: str, anchor: str
) -> ElementTree.Element:
    place = {"x": _px(at[0]), "y": _px(at[1]), "class": style, "text-anchor": anchor}
    element = ElementTree.SubElement(svg, "text", place)
    element.text = text
    return element


def _beside(x: float) -> tuple[str, float]:
    """Return anchor and x of a text that starts or ends at x, on the side with room."""
    return ("start", x) if x < WIDTH / 2 else ("end", x)


def _marked(svg: ElementTree.Element, at: tuple[float, float], label: str) -> None:
    x, y = at
    ElementTree.SubElement(svg, "circle", {"class": "point", "cx": _px(x), "cy": _px(y), "r": "6"})
    anchor, _ = _beside(x)
    aside = x + 12 if anchor == "start" else x - 12
    below = min(y + 22, CURVE_HEIGHT - BOTTOM - 8)
    _text(svg, (aside, below), label, "mark", anchor)
