from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from fre.errors import OptionError
from fre.scoring.regions import Region, find_regions, label

EIGHT = np.ones((3, 3))


def comb(size):
    mask = np.zeros((size, size), dtype=bool)
    mask[:, ::2] = True
    mask[-1] = True
    return mask


def spiral(size):
    y, x = np.mgrid[:size, :size] - size // 2
    turns = np.hypot(y, x) - np.arctan2(y, x) * 8 / (2 * np.pi)
    return turns % 8 < 4


def noise(shape, density, seed=0):
    return np.random.default_rng(seed).random(shape) < density


MASKS = {
    "empty": np.zeros((5, 7), dtype=bool),
    "full": np.ones((5, 7), dtype=bool),
    "no rows": np.zeros((0, 4), dtype=bool),
    "no columns": np.zeros((4, 0), dtype=bool),
    "one pixel": np.ones((1, 1), dtype=bool),
    "one row": noise((1, 50), 0.5),
    "one column": noise((50, 1), 0.5),
    "checkerboard": np.indices((9, 8)).sum(axis=0) % 2 == 0,
    "comb": comb(64),
    "comb upside down": comb(64)[::-1],
    "comb on its side": comb(64).T,
    "spiral": spiral(128),
    **{f"noise {d}": noise((130, 97), d) for d in (0.05, 0.2, 0.3, 0.4, 0.5, 0.7)},
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_label_agrees_with_scipy(mask):
    labels, n = label(mask)
    expected, expected_n = ndimage.label(mask, EIGHT)
    assert labels.dtype == np.int32
    assert type(n) is int
    assert n == expected_n
    np.testing.assert_array_equal(labels, expected)


@settings(deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=12)))
def test_label_agrees_with_scipy_on_any_mask(mask):
    labels, n = label(mask)
    expected, expected_n = ndimage.label(mask, EIGHT)
    assert n == expected_n
    np.testing.assert_array_equal(labels, expected)


def test_rows_do_not_touch_around_the_border():
    mask = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], dtype=bool)
    assert label(mask)[1] == 2
    mask = np.array([[0, 0, 0, 1], [1, 0, 0, 0]], dtype=bool)
    assert label(mask)[1] == 2


@pytest.mark.parametrize("mask", [np.zeros((3, 3)), np.zeros(3, bool), np.zeros((1, 2, 3), bool)])
def test_label_refuses_what_is_not_a_mask(mask):
    with pytest.raises(OptionError, match="mask must be a bool array"):
        label(mask)


def test_regions_of_a_map_at_image_size():
    anomaly_map = np.array(
        [
            [0, 2, 0, 0, 0],
            [0, 0, 3, 0, 0],
            [0, 0, 0, 0, 0],
            [5, 5, 0, 0, 0],
            [0, 0, 0, 0, 1],
        ],
        dtype=np.float32,
    )
    assert find_regions(anomaly_map, 1.0, (5, 5)) == (
        Region(bbox=(0, 3, 2, 1), area=2, peak=5.0, peak_xy=(0, 3), centroid=(0.5, 3.0)),
        Region(bbox=(1, 0, 2, 2), area=2, peak=3.0, peak_xy=(2, 1), centroid=(1.5, 0.5)),
        Region(bbox=(4, 4, 1, 1), area=1, peak=1.0, peak_xy=(4, 4), centroid=(4.0, 4.0)),
    )
    assert find_regions(anomaly_map, 5.5, (5, 5)) == ()


def test_equal_peaks_stay_in_raster_order():
    anomaly_map = np.zeros((5, 9), dtype=np.float32)
    anomaly_map[::2, ::2] = 1
    peaks = [region.peak_xy for region in find_regions(anomaly_map, 1.0, (5, 9))]
    assert peaks == [(x, y) for y in (0, 2, 4) for x in (0, 2, 4, 6, 8)]


def test_regions_of_a_smaller_map():
    anomaly_map = np.zeros((4, 4), dtype=np.float32)
    anomaly_map[1, 2] = 7
    (region,) = find_regions(anomaly_map, 1.0, (10, 6))
    # x: [2, 3) * 1.5 is [3, 4.5); y: [1, 2) * 2.5 is [2.5, 5).
    assert region.bbox == (3, 2, 2, 3)
    assert region.area == round(1.5 * 2.5)
    assert region.peak_xy == (3, 3)
    assert region.centroid == pytest.approx((2.5 * 1.5 - 0.5, 1.5 * 2.5 - 0.5))


def test_regions_of_a_larger_map():
    anomaly_map = np.zeros((100, 100), dtype=np.float32)
    anomaly_map[0, 99] = 7
    (region,) = find_regions(anomaly_map, 1.0, (10, 5))
    assert region == Region(
        bbox=(4, 0, 1, 1), area=1, peak=7.0, peak_xy=(4, 0), centroid=(4.0, 0.0)
    )


@settings(max_examples=6)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.integers(-3, 3),
    ),
    st.integers(1, 4),
)
def test_a_whole_scale_is_the_same_as_repeating_pixels(anomaly_map, k):
    repeated = anomaly_map.repeat(k, axis=0).repeat(k, axis=1)
    scaled = find_regions(anomaly_map, 1.0, repeated.shape)
    for region, expected in zip(scaled, find_regions(repeated, 1.0, repeated.shape), strict=True):
        assert region.bbox == expected.bbox
        assert region.area == expected.area
        assert region.peak == expected.peak
        assert region.centroid == pytest.approx(expected.centroid)


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(allow_nan=False, width=32),
    ),
    st.floats(allow_nan=False),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_every_region_lies_inside_the_image(anomaly_map, threshold, image_size):
    regions = find_regions(anomaly_map, threshold, image_size)
    mask = anomaly_map.astype(float) >= threshold
    assert len(regions) == ndimage.label(mask, EIGHT)[1]
    assert [r.peak for r in regions] == sorted((r.peak for r in regions), reverse=True)
    if regions:
        assert regions[0].peak == anomaly_map.max()
    height, width = image_size
    for region in regions:
        x, y, w, h = region.bbox
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        assert 1 <= region.area <= w * h
        assert x <= region.peak_xy[0] < x + w
        assert y <= region.peak_xy[1] < y + h
        assert x - 0.5 <= region.centroid[0] <= x + w - 0.5
        assert y - 0.5 <= region.centroid[1] <= y + h - 0.5
        assert 0 <= region.centroid[0] <= width - 1
        assert 0 <= region.centroid[1] <= height - 1
    if image_size == anomaly_map.shape:
        assert sum(region.area for region in regions) == mask.sum()


def test_every_region_agrees_with_scipy_at_image_size():
    anomaly_map = ndimage.gaussian_filter(
        np.random.default_rng(0).standard_normal((90, 70)).astype(np.float32), 2
    )
    labels, n = ndimage.label(anomaly_map >= 0.05, EIGHT)
    regions = find_regions(anomaly_map, 0.05, anomaly_map.shape)
    assert n > 10
    assert len(regions) == n
    for region in regions:
        part = labels[region.peak_xy[::-1]]
        rows, columns = ndimage.find_objects(labels)[part - 1]
        assert region.bbox == (
            columns.start,
            rows.start,
            columns.stop - columns.start,
            rows.stop - rows.start,
        )
        assert region.area == np.count_nonzero(labels == part)
        assert region.peak == ndimage.maximum(anomaly_map, labels, part)
        centre = ndimage.center_of_mass(labels == part)
        assert region.centroid == pytest.approx(centre[::-1])


def test_regions_are_plain_numbers():
    anomaly_map = np.ones((2, 2), dtype=np.float32)
    (region,) = find_regions(anomaly_map, 0.5, (np.int64(3), np.int64(4)))
    numbers = [*region.bbox, region.area, *region.peak_xy]
    assert {type(number) for number in numbers} == {int}
    assert {type(number) for number in [region.peak, *region.centroid]} == {float}
    assert json.loads(json.dumps(region.to_dict()))["bbox"] == [0, 0, 4, 3]


def test_the_threshold_is_not_rounded_to_float32():
    below = np.array([[0.7]], dtype=np.float32)
    assert float(below[0, 0]) < 0.7
    assert find_regions(below, 0.7, (1, 1)) == ()
    assert len(find_regions(below, float(below[0, 0]), (1, 1))) == 1


def test_infinite_values_and_thresholds():
    anomaly_map = np.array([[np.inf, -np.inf, 0]], dtype=np.float32)
    assert [r.peak for r in find_regions(anomaly_map, 0.0, (1, 3))] == [np.inf, 0.0]
    assert find_regions(anomaly_map, -np.inf, (1, 3))[0].area == 3
    assert len(find_regions(anomaly_map, np.inf, (1, 3))) == 1


@pytest.mark.parametrize(
    ("anomaly_map", "threshold", "size", "message"),
    [
        ([[np.nan]], 0.0, (1, 1), "anomaly_map holds NaN"),
        ([[1.0]], np.nan, (1, 1), "threshold is NaN"),
        ([1.0], 0.0, (1, 1), "shape"),
        ([[1.0]], 0.0, (0, 1), "image_size must be positive"),
        ([[1.0]], 0.0, (1, -1), "image_size must be positive"),
    ],
)
def test_find_regions_refuses(anomaly_map, threshold, size, message):
    with pytest.raises(OptionError, match=message):
        find_regions(np.array(anomaly_map, dtype=np.float32), threshold, size)


@settings(deadline=None)
@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.integers(-3, 3),
    ),
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=5),
        elements=st.floats(-100, 100, width=32),
    ),
)
def test_peaks_and_layers_agree_with_the_pixels_of_each_region(anomaly_map, part):
    labels, n = label(anomaly_map >= 1)
    y, x = np.indices(anomaly_map.shape)
    rows = np.floor((y + 0.5) * part.shape[0] / anomaly_map.shape[0] + 1e-9).astype(int)
    columns = np.floor((x + 0.5) * part.shape[1] / anomaly_map.shape[1] + 1e-9).astype(int)
    expected = {}
    for number in range(1, n + 1):
        inside = labels == number
        peak = anomaly_map[inside].max()
        first = np.argmax((inside & (anomaly_map == peak)).ravel())
        expected[first % x.shape[1], first // x.shape[1]] = part[rows, columns][inside].mean()
    regions = find_regions(anomaly_map, 1.0, anomaly_map.shape, {"part": part})
    assert {region.peak_xy for region in regions} == set(expected)
    for region in regions:
        assert region.layers["part"] == pytest.approx(expected[region.peak_xy], abs=1e-4)
