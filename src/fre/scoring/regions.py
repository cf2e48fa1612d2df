"""Connected regions of a mask or an anomaly map, with NumPy alone.

Two pixels are connected when they touch at a side or a corner (8-connectivity), as in the MVTec
AD benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError
from fre.types import FloatArray, MaskArray

IndexArray = NDArray[np.intp]


def label(mask: MaskArray) -> tuple[NDArray[np.int32], int]:
    """Number the connected components of a mask.

    Args:
        mask: bool, (H, W).

    Returns:
        Labels, int32, (H, W): 0 outside the mask, and 1 to n in the raster order of each
        component's first pixel. Then n.

    Raises:
        OptionError: the mask is not bool or not two-dimensional.
    """
    if mask.dtype != np.bool_ or mask.ndim != 2:
        raise OptionError(
            f"mask must be a bool array (H, W), found {mask.dtype} of shape {mask.shape}"
        )
    runs = _Runs.of(mask)
    component = runs.components()
    labels = np.zeros(mask.shape, dtype=np.int32)
    labels[mask] = np.repeat(component.astype(np.int32) + 1, runs.right - runs.left)
    return labels, int(component.max(initial=-1)) + 1


PEAK_SHARE = 0.75
"""Where no pixel of an anomalous image reaches the pixel threshold, its region is the surroundings
of its peak above this share of the peak."""


def region_threshold(anomaly_map: FloatArray, pixel_threshold: float) -> float:
    """Return the threshold above which an anomalous image has at least one region.

    Args:
        anomaly_map: float32 (h, w).
        pixel_threshold: threshold of the model, which holds where a pixel reaches it.
    """
    peak = float(anomaly_map.max())
    if peak >= pixel_threshold:
        return pixel_threshold
    return PEAK_SHARE * peak if peak > 0 else peak


def find_regions(
    anomaly_map: FloatArray,
    threshold: float,
    image_size: tuple[int, int],
    layer_maps: Mapping[str, FloatArray] | None = None,
) -> tuple[Region, ...]:
    """Describe the connected regions of a map at or above a threshold.

    The map may be smaller or larger than the image. Pixel i of the map then covers
    [i * s, (i + 1) * s) of the image, where s is the ratio of the sizes. A box is the smallest one
    of whole pixels that covers the region. An area is the covered area, rounded, at least 1. A peak
    is the image's pixel under the centre of the map's pixel. A centroid is a mean of pixel indices.

    Args:
        anomaly_map: float32, (h, w); infinities are allowed.
        threshold: smallest value of a region, on the scale of the map.
        image_size: height and width of the original image.
        layer_maps: float32 (h', w') each, finite, parts of which the map is the sum; of any size.

    Returns:
        The regions by their peak, highest first; equal peaks in raster order of the regions'
        first pixels.

    Raises:
        OptionError: the map is not two-dimensional, the map or the threshold is NaN, or a size
            is not positive.
    """
    values = np.asarray(anomaly_map)
    height, width = int(image_size[0]), int(image_size[1])
    _check_map(values, threshold, height, width)
    mask = values >= _rounded_up(threshold, values.dtype)
    if not mask.any():
        return ()
    found = _measure(values, _Runs.of(mask), layer_maps or {})
    map_height, map_width = values.shape
    regions = []
    for i in np.argsort(-found.peak, kind="stable"):
        box_x, box_width = _scale_extent(int(found.left[i]), int(found.right[i]), map_width, width)
        box_y, box_height = _scale_extent(
            int(found.top[i]), int(found.bottom[i]), map_height, height
        )
        covered = int(found.area[i]) * (height * width) / (map_height * map_width)
        regions.append(
            Region(
                bbox=(box_x, box_y, box_width, box_height),
                area=max(1, round(covered)),
                peak=float(found.peak[i]),
                peak_xy=(
                    _scale_index(int(found.peak_x[i]), map_width, width),
                    _scale_index(int(found.peak_y[i]), map_height, height),
                ),
                centroid=(
                    _scale_mean(float(found.mean_x[i]), map_width, width),
                    _scale_mean(float(found.mean_y[i]), map_height, height),
                ),
                layers={name: float(mean[i]) for name, mean in found.layers.items()},
            )
        )
    return tuple(regions)


def _check_map(values: NDArray[Any], threshold: float, height: int, width: int) -> None:
    if values.ndim != 2:
        raise OptionError(f"anomaly_map must have shape (h, w), found {values.shape}")
    if np.isnan(values).any():
        raise OptionError("anomaly_map holds NaN")
    if np.isnan(threshold):
        raise OptionError("threshold is NaN")
    if height < 1 or width < 1:
        raise OptionError(f"image_size must be positive, found {height} x {width}")


class _Measured(NamedTuple):
    """Measurements of each region in pixels of the map, arrays (number of regions,)."""

    area: IndexArray
    mean_x: NDArray[np.float64]
    mean_y: NDArray[np.float64]
    left: IndexArray
    top: IndexArray
    right: IndexArray
    bottom: IndexArray
    peak: NDArray[np.float64]
    peak_x: IndexArray
    peak_y: IndexArray
    layers: dict[str, NDArray[np.float64]]


class _Runs(NamedTuple):
    """Horizontal runs of a mask in raster order, arrays (number of runs,).

    A run is row y, columns [left, right).
    """

    y: IndexArray
    left: IndexArray
    right: IndexArray

    @classmethod
    def of(cls, mask: MaskArray) -> _Runs:
        """Find the runs of a mask, bool (H, W)."""
        height, width = mask.shape
        # The extra column keeps a run from going on into the next row.
        padded = np.zeros(1 + height * (width + 1), dtype=np.bool_)
        padded[1:].reshape(height, width + 1)[:, :width] = mask
        edges = np.flatnonzero(padded[1:] != padded[:-1])
        y, left = np.divmod(edges[::2], width + 1)
        return cls(y, left, edges[1::2] - y * (width + 1))

    def components(self) -> IndexArray:
        """Return the component of each run, from 0 in the order of the components' first runs."""
        stride = int(self.right.max(initial=0)) + 1
        starts, ends = self.y * stride + self.left, self.y * stride + self.right
        root = _components(len(starts), *_touching(starts, ends, stride))
        # Roots are the smallest run of their component, so counting them in order numbers the
        # components by their first pixel.
        is_root = root == np.arange(len(root))
        return np.asarray((np.cumsum(is_root) - 1)[root])


def _measure(values: FloatArray, runs: _Runs, layer_maps: Mapping[str, FloatArray]) -> _Measured:
    """Measure the regions of a map: time and memory grow with the number of runs, not of pixels.

    Args:
        values: the map, (h, w).
        runs: runs of the map's mask; at least one.
        layer_maps: parts of the map, of any size.
    """
    component = runs.components()
    # Runs by component, each in raster order, and the first run of each component.
    order = np.argsort(component, kind="stable")
    component = component[order]
    y, left, right = runs.y[order], runs.left[order], runs.right[order]
    first = np.flatnonzero(np.diff(component, prepend=-1))
    last = np.append(first[1:], len(component)) - 1
    length = right - left
    area = np.add.reduceat(length, first)
    run_peak = _run_peaks(values, runs)[order]
    peak = np.maximum.reduceat(run_peak, first)
    at_peak = np.flatnonzero(run_peak == peak[component])
    top_run = at_peak[np.diff(component[at_peak], prepend=-1) > 0]
    layers = {
        name: np.add.reduceat(_run_sums(part, y, left, right, values.shape), first) / area
        for name, part in layer_maps.items()
    }
    return _Measured(
        area=area,
        mean_x=np.add.reduceat(length * (left + right - 1), first) / (2 * area),
        mean_y=np.add.reduceat(length * y, first) / area,
        left=np.minimum.reduceat(left, first),
        top=y[first],
        right=np.maximum.reduceat(right, first),
        bottom=y[last] + 1,
        peak=peak.astype(np.float64),
        peak_x=_columns(values, y[top_run], left[top_run], right[top_run], peak),
        peak_y=y[top_run],
        layers=layers,
    )


def _run_peaks(values: FloatArray, runs: _Runs) -> FloatArray:
    """Return the largest value of each run, without a copy of the map."""
    row = runs.y * values.shape[1]
    bounds = np.stack([row + runs.left, row + runs.right], axis=1).ravel()
    if bounds[-1] == values.size:
        bounds = bounds[:-1]
    # Every other segment is the gap between two runs.
    return np.maximum.reduceat(values.ravel(), bounds)[::2]


def _columns(
    values: FloatArray, y: IndexArray, left: IndexArray, right: IndexArray, wanted: FloatArray
) -> IndexArray:
    """Return the first column of each run that has a wanted value; each run has it."""
    run, x = _ranges(left, right)
    found = np.flatnonzero(values[y[run], x] == wanted[run])
    return x[found[np.diff(run[found], prepend=-1) > 0]]


def _run_sums(
    part: FloatArray, y: IndexArray, left: IndexArray, right: IndexArray, shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return the sum of a smaller map under the centres of each run's pixels."""
    rows = (2 * y + 1) * part.shape[0] // (2 * shape[0])
    columns = (2 * np.arange(shape[1]) + 1) * part.shape[1] // (2 * shape[1])
    sums = np.zeros((part.shape[0], shape[1] + 1))
    np.cumsum(part[:, columns], axis=1, dtype=np.float64, out=sums[:, 1:])
    return np.asarray(sums[rows, right] - sums[rows, left])


def _rounded_up(threshold: float, dtype: np.dtype[np.floating]) -> np.floating:
    """Return the smallest value of a type that is no less than the threshold.

    NumPy would round the threshold to the map's type to compare it, up or down; and a copy of the
    map in float64 would take twice its memory.
    """
    with np.errstate(over="ignore"):
        rounded = dtype.type(threshold)
        if float(rounded) < threshold:
            rounded = np.nextafter(rounded, dtype.type(np.inf))
    return rounded


def _touching(starts: IndexArray, ends: IndexArray, stride: int) -> tuple[IndexArray, IndexArray]:
    """Pairs (run, run of the row above) that touch at a side or a corner."""
    first = np.searchsorted(ends, starts - stride, side="left")
    stop = np.searchsorted(starts, ends - stride, side="right")
    return _ranges(first, stop)


def _ranges(start: IndexArray, stop: IndexArray) -> tuple[IndexArray, IndexArray]:
    """Return all integers of some ranges [start, stop): the number of the range, and the integer.

    Empty ranges, also those whose stop is below their start, give nothing.
    """
    count = np.maximum(stop - start, 0)
    member = np.repeat(np.arange(len(start)), count)
    within = np.arange(len(member)) - np.repeat(np.cumsum(count) - count, count)
    return member, start[member] + within


def _components(n: int, u: IndexArray, v: IndexArray) -> IndexArray:
    """The smallest node of each node's component, in a graph of n nodes and edges (u, v).

    Every round hooks each root onto its smallest neighbouring root and then flattens the trees,
    one of the algorithms of Liu and Tarjan, Simple Concurrent Labeling Algorithms for Connected
    Components, SOSA 2019. A 1024 x 1024 mask of noise takes three to six
    rounds.
    """
    parent = np.arange(n)
    while len(u):
        root_u, root_v = parent[u], parent[v]
        # The smallest neighbour must win: with any other, a comb takes a round a tooth.
        np.minimum.at(parent, np.maximum(root_u, root_v), np.minimum(root_u, root_v))
        while not np.array_equal(grandparent := parent[parent], parent):
            parent = grandparent
        apart = parent[u] != parent[v]
        u, v = u[apart], v[apart]
    return parent


def _scale_extent(start: int, stop: int, old: int, new: int) -> tuple[int, int]:
    """Start and length of the whole pixels that cover [start, stop) after resizing."""
    scaled_start = start * new // old
    scaled_stop = -(-stop * new // old)
    return scaled_start, scaled_stop - scaled_start


def _scale_index(index: int, old: int, new: int) -> int:
    """The pixel under the centre of pixel ``index`` after resizing."""
    return (2 * index + 1) * new // (2 * old)


def _scale_mean(mean: float, old: int, new: int) -> float:
    """A mean of pixel indices after resizing, kept inside the image where it shrinks."""
    scale = new / old
    return min(max(mean * scale + (scale - 1) / 2, 0.0), float(new - 1))


@dataclass(frozen=True)
class Region:
    """One connected part of the anomaly map above the pixel threshold.

    All coordinates are pixels of the original image, x to the right and y down.

    Attributes:
        bbox: x, y, width and height.
        area: number of pixels.
        peak: the largest value of the anomaly map in the region.
        peak_xy: x and y of the peak.
        centroid: mean x and mean y.
        layers: mean contribution of each layer to the map in the region, before smoothing, in
            standard deviations of good images. Fine layers see texture, coarse ones arrangement.
    """

    bbox: tuple[int, int, int, int]
    area: int
    peak: float
    peak_xy: tuple[int, int]
    centroid: tuple[float, float]
    layers: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The region as plain JSON values."""
        return {
            "bbox": list(self.bbox),
            "area": self.area,
            "peak": self.peak,
            "peak_xy": list(self.peak_xy),
            "centroid": list(self.centroid),
            "layers": dict(self.layers),
        }
