from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from fre.errors import OptionError
from fre.evaluation.metrics import (
    PixelMetrics,
    aupimo,
    aupro,
    auroc,
    average_precision,
    bootstrap_resamples,
    max_f1,
    percentile_interval,
    precision_recall_curve,
    roc_curve,
    wilson_interval,
)
from fre.evaluation.metrics.binning import lower_edge, to_bins
from fre.evaluation.metrics.resampling import resamples

FLOAT32_MAX = float(np.finfo(np.float32).max)
TINY = 1e-45


def bootstrap_interval(metric, scores, labels, *, n=1000, level=0.95, seed=0):
    return percentile_interval(bootstrap_resamples(metric, scores, labels, n=n, seed=seed), level)


def ranks(scores):
    """The same order and ties in numbers that scikit-learn takes: it refuses infinities."""
    return np.unique(np.ravel(scores), return_inverse=True)[1]


def cases():
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.3
    normal = rng.standard_normal(200) + labels
    extreme = rng.choice([-np.inf, -FLOAT32_MAX, -1e30, -TINY, 0.0, TINY, 1e30, np.inf], 200)
    return {
        "normal": (normal, labels),
        "negative": (normal - 100, labels),
        "skewed": (np.exp(5 * normal), labels),
        "denormal": (normal * 1e-40, labels),
        "huge": (normal * 1e300, labels),
        "tied": (np.round(normal), labels),
        "constant": (np.full(200, 3.5), labels),
        "extreme": (extreme, labels),
        "perfect": (labels.astype(float), labels),
        "inverted": (-labels.astype(float), labels),
        "two": ([1.0, 2.0], [1, 0]),
        "integers": (rng.integers(0, 9, 200), labels.astype(np.uint8)),
        "an image": (normal.reshape(10, 20), labels.reshape(10, 20)),
    }


CASES = cases()
each_case = pytest.mark.parametrize(("scores", "labels"), CASES.values(), ids=CASES.keys())


@each_case
def test_auroc_agrees_with_sklearn(scores, labels):
    expected = sklearn.metrics.roc_auc_score(np.ravel(labels), ranks(scores))
    assert auroc(scores, labels) == pytest.approx(expected, abs=1e-12)


@each_case
def test_average_precision_agrees_with_sklearn(scores, labels):
    expected = sklearn.metrics.average_precision_score(np.ravel(labels), ranks(scores))
    assert average_precision(scores, labels) == pytest.approx(expected, abs=1e-12)


@each_case
def test_max_f1_agrees_with_sklearn(scores, labels):
    f1, threshold = max_f1(scores, labels)
    truth = np.ravel(labels)
    precision, recall, _ = sklearn.metrics.precision_recall_curve(truth, ranks(scores))
    harmonic = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    assert f1 == pytest.approx(harmonic.max(), abs=1e-12)
    assert threshold in np.ravel(scores)
    at_threshold = np.ravel(scores) >= threshold
    assert f1 == pytest.approx(sklearn.metrics.f1_score(truth, at_threshold), abs=1e-12)


@each_case
def test_roc_curve_agrees_with_sklearn(scores, labels):
    fpr, tpr, thresholds = roc_curve(scores, labels)
    expected_fpr, expected_tpr, rank = sklearn.metrics.roc_curve(
        np.ravel(labels), ranks(scores), drop_intermediate=False
    )
    np.testing.assert_allclose(fpr, expected_fpr, atol=1e-12)
    np.testing.assert_allclose(tpr, expected_tpr, atol=1e-12)
    assert thresholds[0] == np.inf
    distinct = np.unique(np.ravel(scores))
    np.testing.assert_array_equal(thresholds[1:], distinct[rank[1:].astype(int)])


@each_case
def test_precision_recall_curve_agrees_with_sklearn(scores, labels):
    precision, recall, thresholds = precision_recall_curve(scores, labels)
    expected_precision, expected_recall, rank = sklearn.metrics.precision_recall_curve(
        np.ravel(labels), ranks(scores)
    )
    np.testing.assert_allclose(precision, expected_precision[::-1], atol=1e-12)
    np.testing.assert_allclose(recall, expected_recall[::-1], atol=1e-12)
    assert thresholds[0] == np.inf
    distinct = np.unique(np.ravel(scores))
    np.testing.assert_array_equal(thresholds[1:], distinct[rank[::-1].astype(int)])


def test_known_answers():
    scores, labels = [4, 3, 2, 1], [1, 0, 1, 0]
    assert auroc(scores, labels) == 0.75
    assert average_precision(scores, labels) == pytest.approx((1 + 2 / 3) / 2)
    assert max_f1(scores, labels) == (0.8, 2.0)
    assert auroc([1, 1, 1], [0, 1, 1]) == 0.5
    assert auroc([-np.inf, -5, np.inf], [0, 0, 1]) == 1.0
    assert max_f1([1, 2, 2, 3], [0, 0, 1, 1]) == (0.8, 2.0)


def test_of_equal_f1_the_highest_threshold():
    # Above 4: 1 of 1, F1 = 2/3; above 1: 2 of 4, F1 = 2/3.
    assert max_f1([4, 3, 2, 1], [1, 0, 0, 1]) == (pytest.approx(2 / 3), 4.0)


labelled = st.integers(2, 30).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=st.floats(-50, 50, width=16)),
        hnp.arrays(bool, n),
    )
)


@settings(deadline=None)
@given(labelled, st.sampled_from([np.arctan, np.exp, np.cbrt, lambda s: 3 * s - 7]))
def test_only_the_order_of_scores_matters(pair, transform):
    scores, labels = pair
    assume(labels.any() and not labels.all())
    transformed = transform(scores)
    assume(len(np.unique(transformed)) == len(np.unique(scores)))
    for metric in (auroc, average_precision, lambda s, t: max_f1(s, t)[0]):
        assert metric(transformed, labels) == metric(scores, labels)


@settings(deadline=None)
@given(labelled)
def test_auroc_counts_pairs(pair):
    scores, labels = pair
    assume(labels.any() and not labels.all())
    above = scores[labels][:, None] - scores[~labels]
    expected = np.mean((above > 0) + 0.5 * (above == 0))
    assert auroc(scores, labels) == pytest.approx(expected, abs=1e-12)
    assert auroc(-scores, labels) == pytest.approx(1 - expected, abs=1e-12)
    assert auroc(scores, ~labels) == pytest.approx(1 - expected, abs=1e-12)


EACH = [
    auroc,
    average_precision,
    max_f1,
    roc_curve,
    precision_recall_curve,
    lambda scores, labels: bootstrap_interval(auroc, scores, labels, n=3),
]
IDS = ["auroc", "average_precision", "max_f1", "roc_curve", "pr_curve", "bootstrap"]


@pytest.mark.parametrize("metric", EACH, ids=IDS)
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, np.nan], [0, 1], r"NaN \(1 of them\)"),
        ([1.0, 2.0], [1, 1], "found 0 good and 2 defective"),
        ([1.0, 2.0], [False, False], "found 2 good and 0 defective"),
        ([], [], "found 0 good and 0 defective"),
        ([1.0, 2.0], [0, 1, 1], r"one shape, found \(2,\) and \(3,\)"),
        ([[1.0], [2.0]], [0, 1], "one shape"),
        ([1.0, 2.0], [0, 255], "labels must be bool"),
        ([1.0, 2.0], ["good", "bad"], "labels must be bool"),
        ([1.0, 2.0], [[0, 1], [1]], "labels must be an array"),
        (["a", "b"], [0, 1], "scores must be real numbers"),
        ([1j, 2j], [0, 1], "scores must be real numbers"),
        ([[1.0, 2.0], [3.0]], [0, 1], "scores must be an array"),
    ],
)
def test_bad_input_is_one_clear_line(metric, scores, labels, message):
    with pytest.raises(OptionError, match=message) as raised:
        metric(scores, labels)
    assert "\n" not in str(raised.value)


# AUPRO


def literal_aupro(maps, masks, limit):
    """The definition word by word: every threshold, every region, every trapezoid."""
    truths = [
        np.zeros(np.shape(m), bool) if k is None else k for m, k in zip(maps, masks, strict=True)
    ]
    parts = [ndimage.label(truth, np.ones((3, 3))) for truth in truths]
    curve = [(0.0, 0.0)]
    for threshold in sorted({float(v) for m in maps for v in np.ravel(m)}, reverse=True):
        overlaps, alarms, good = [], 0, 0
        for anomaly_map, truth, (labels, n) in zip(maps, truths, parts, strict=True):
            above = anomaly_map >= threshold
            overlaps += [np.mean(above[labels == i]) for i in range(1, n + 1)]
            alarms += np.sum(above & ~truth)
            good += np.sum(~truth)
        curve.append((alarms / good, np.mean(overlaps)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        area += (x1 - x0) * (y0 + y1) / 2
        if x1 == limit:
            break
    return area / limit


def small_images(seed, kind):
    rng = np.random.default_rng(seed)
    maps, masks = [], []
    for i, shape in enumerate([(9, 12), (14, 7), (10, 10), (8, 8)]):
        mask = ndimage.binary_dilation(rng.random(shape) < 0.04)
        anomaly_map = rng.standard_normal(shape) + mask
        if kind == "tied":
            anomaly_map = np.round(anomaly_map)
        elif kind == "constant":
            anomaly_map = np.full(shape, 2.0)
        elif kind == "squares":
            anomaly_map = 1e4 * anomaly_map**4
        elif kind == "extreme":
            anomaly_map = rng.choice([-np.inf, -1e30, -TINY, 0, TINY, 1e30, np.inf], shape)
        elif kind == "perfect":
            anomaly_map = mask.astype(float)
        elif kind == "inverted":
            anomaly_map = -mask.astype(float)
        maps.append(anomaly_map.astype(np.float32))
        masks.append(None if i == 2 else mask)
    return maps, masks


KINDS = ["normal", "tied", "constant", "squares", "extreme", "perfect", "inverted"]


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_aupro_agrees_with_its_definition(kind, limit):
    for seed in range(3):
        maps, masks = small_images(seed, kind)
        expected = literal_aupro(maps, masks, limit)
        assert aupro(maps, masks, limit) == pytest.approx(expected, abs=1e-12)


def test_aupro_known_answers():
    mask = np.zeros((4, 6), dtype=bool)
    mask[0, 0] = mask[2, 2:5] = True
    assert aupro([mask.astype(float)], [mask]) == 1.0
    assert aupro([-mask.astype(float)], [mask]) == 0.0
    # One of two regions is found before any false alarm, the other after every good pixel.
    found = np.zeros((4, 6))
    found[0, 0] = 1
    found[2, 2:5] = -1
    assert aupro([found], [mask]) == pytest.approx(0.5)
    # A constant map rises along the diagonal: its mean height up to the limit is half of it.
    assert aupro([np.zeros((4, 6))], [mask], 0.3) == pytest.approx(0.15)


def test_aupro_leaves_out_what_is_found_at_the_limit_itself():
    # The first false alarm, of four good pixels, comes before the defect.
    maps, masks = [np.array([[5.0, 4, 3, 2, 1]])], [np.array([[False, True, False, False, False]])]
    assert aupro(maps, masks, 0.25) == 0.0
    assert aupro(maps, masks, 0.5) == 0.5


def test_aupro_counts_the_pixels_of_good_images():
    mask = np.zeros((4, 4), dtype=bool)
    mask[1, 1] = True
    noisy = np.where(mask, 0.5, 0.0)
    noisy[3, 3] = 1.0
    alone = aupro([noisy], [mask], 0.1)
    assert alone < aupro([noisy, np.zeros((4, 4))], [mask, None], 0.1) < 1
    assert aupro([noisy, np.full((4, 4), 2.0)], [mask, None], 0.1) == 0
    empty = np.zeros((4, 4), dtype=bool)
    maps = [noisy, np.zeros((4, 4))]
    assert aupro(maps, [mask, None]) == aupro(maps, [mask, empty])


def test_aupro_joins_regions_at_corners():
    mask = np.eye(4, dtype=bool)
    anomaly_map = np.zeros((4, 4))
    anomaly_map[0, 0] = 1
    # One region of four pixels, a quarter found: 1/4 at no false alarm, 1 at 100 %.
    assert aupro([anomaly_map], [mask], 1.0) == pytest.approx((1 / 4 + 1) / 2)


ONE = np.ones((2, 2))
HALF = np.array([[True, True], [False, False]])


@pytest.mark.parametrize(
    ("maps", "masks", "limit", "message"),
    [
        ([], [], 0.3, "found 0 good and 0 defective"),
        ([ONE], [None], 0.3, "found 4 good and 0 defective"),
        ([ONE], [ONE > 0], 0.3, "found 0 good and 4 defective"),
        ([ONE], [HALF, HALF], 0.3, "1 maps and 2 masks"),
        ([ONE], [HALF.ravel()], 0.3, "shape of its map"),
        ([ONE], [HALF * 255], 0.3, "a mask must be bool"),
        ([ONE.ravel()], [HALF], 0.3, r"\(H, W\)"),
        ([ONE * np.nan], [HALF], 0.3, "NaN"),
        ([ONE], [HALF], 0.0, "fpr_limit"),
        ([ONE], [HALF], 1.1, "fpr_limit"),
        ([ONE], [HALF], np.nan, "fpr_limit"),
    ],
)
def test_aupro_and_pixel_metrics_refuse(maps, masks, limit, message):
    with pytest.raises(OptionError, match=message):
        aupro(maps, masks, limit)
    if len(maps) == len(masks):
        with pytest.raises(OptionError, match=message):
            stream(maps, masks, limit)


# AUPIMO

# Rates that images of a hundred pixels have; those of the benchmark need a hundred thousand.
WIDE = (0.02, 0.4)


def literal_aupimo(maps, masks, bounds):
    """The definition word by word: every threshold, every image, every step of the rate."""
    good = [m for m, k in zip(maps, masks, strict=True) if k is None or not k.any()]
    thresholds = sorted({np.inf, *(float(v) for m in maps for v in np.ravel(m))}, reverse=True)
    # Nothing is at or above a threshold beyond all values, infinite ones included.
    rates = [0.0, *(np.mean([np.mean(m >= t) for m in good]) for t in thresholds)]
    figures = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        if mask is None or not mask.any():
            figures.append(np.nan)
            continue
        recalls = [0.0, *(np.mean(anomaly_map[mask] >= t) for t in thresholds)]
        inside = [rate for rate in rates if bounds[0] < rate < bounds[1]]
        steps = [bounds[0], *inside, bounds[1]]
        area = 0.0
        for left, right in itertools.pairwise(steps):
            allowed = [r for r, rate in zip(recalls, rates, strict=True) if rate <= left]
            area += (np.log(right) - np.log(left)) * max(allowed)
        figures.append(area / np.log(bounds[1] / bounds[0]))
    return figures


@pytest.mark.parametrize("bounds", [WIDE, (0.2, 1.0), (1e-5, 1e-4)])
@pytest.mark.parametrize("kind", KINDS)
def test_aupimo_agrees_with_its_definition(kind, bounds):
    for seed in range(3):
        maps, masks = small_images(seed, kind)
        # A second good image, of another size: each counts the same.
        masks[3] = np.zeros_like(masks[3])
        expected = literal_aupimo(maps, masks, bounds)
        found = aupimo(maps, masks, bounds)
        assert found == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert np.isnan(found[2:]).all()
        assert 0 <= np.nanmin(found) <= np.nanmax(found) <= 1


def test_aupimo_known_answers():
    mask = np.zeros((4, 6), dtype=bool)
    mask[0, 0] = mask[2, 2:5] = True
    good = np.linspace(0, 1, 1000).reshape(25, 40)
    # A quarter of the defect is above every good pixel, the rest is below them all.
    found = np.where(mask, -1.0, 5.0)
    found[0, 0] = 2
    assert aupimo([found, good], [mask, None], (0.01, 0.1))[0] == 0.25
    # The rest is reached at a rate of 0.01 x 10^0.5, half way between the bounds.
    found[2, 2:5] = np.sort(good.ravel())[-round(1000 * 0.01 * 10**0.5)]
    expected = 0.25 + 0.75 * np.log10(0.1 / 0.032)
    assert aupimo([found, good], [mask, None], (0.01, 0.1))[0] == pytest.approx(expected)


def test_aupimo_counts_good_images_alike_whatever_their_size():
    defect, mask = np.array([[0.5]]), np.array([[True]])
    small, large = np.array([[1.0, 0.0]]), np.zeros((30, 30))
    maps, masks = [defect, small, large], [mask, None, None]
    # Half of the small one and none of the large one: 1 / 4, of the pixels 1 / 902.
    expected = np.log(1.0 / 0.25) / np.log(1.0 / 0.01)
    assert aupimo(maps, masks, (0.01, 1.0))[0] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("maps", "masks", "bounds", "message"),
    [
        ([], [], WIDE, "images, found 0 good and 0 defective"),
        ([ONE], [None], WIDE, "images, found 1 good and 0 defective"),
        ([ONE], [HALF], WIDE, "images, found 0 good and 1 defective"),
        ([ONE], [HALF, HALF], WIDE, "1 maps and 2 masks"),
        ([ONE, ONE * np.nan], [HALF, None], WIDE, "NaN"),
        ([ONE, ONE], [HALF, None], (0.0, 0.1), "fpr_bounds"),
        ([ONE, ONE], [HALF, None], (0.1, 0.1), "fpr_bounds"),
        ([ONE, ONE], [HALF, None], (0.1, 1.1), "fpr_bounds"),
    ],
)
def test_aupimo_refuses(maps, masks, bounds, message):
    with pytest.raises(OptionError, match=message):
        aupimo(maps, masks, bounds)
    if "fpr" in message:
        with pytest.raises(OptionError, match=message):
            PixelMetrics(fpr_bounds=bounds)


# Streaming


def stream(maps, masks, fpr_limit=0.3):
    metrics = PixelMetrics(fpr_limit, WIDE)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.add(anomaly_map, mask)
    return metrics.compute()


def flat(maps, masks):
    truths = [
        np.zeros(np.shape(m), bool) if k is None else k for m, k in zip(maps, masks, strict=True)
    ]
    return np.concatenate([np.ravel(m) for m in maps]), np.concatenate(
        [np.ravel(t) for t in truths]
    )


def exact(maps, masks, fpr_limit=0.3):
    scores, labels = flat(maps, masks)
    return {
        "auroc": auroc(scores, labels),
        "average_precision": average_precision(scores, labels),
        "f1": max_f1(scores, labels)[0],
        "aupro": aupro(maps, masks, fpr_limit),
    } | exact_aupimo(maps, masks)


def exact_aupimo(maps, masks):
    if all(mask is not None and mask.any() for mask in masks):
        return {}
    return {"aupimo": np.nanmean(aupimo(maps, masks, WIDE))}


def f1_at(threshold, maps, masks):
    scores, labels = flat(maps, masks)
    above = scores.astype(float) >= threshold
    return 2 * np.sum(above & labels) / (np.sum(above) + np.sum(labels))


def realistic_images(kind, separation, n=12, size=96):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:size, :size]
    maps, masks = [], []
    for i in range(n):
        mask = np.zeros((size, size), dtype=bool)
        for _ in range(2 * (i % 2)):
            cy, cx = rng.integers(0, size, 2)
            mask |= np.hypot(y - cy, x - cx) < rng.integers(2, 14)
        soft = separation * ndimage.gaussian_filter(mask.astype(float), 2)
        if kind == "squares":
            noise = rng.standard_normal((4, size, size))
            energy = np.sum(ndimage.gaussian_filter(noise, (0, 2, 2)) ** 2, axis=0)
            anomaly_map = 1e3 * (energy * (1 + 3 * soft)) ** 1.5
        else:
            anomaly_map = 4 * ndimage.gaussian_filter(rng.standard_normal((size, size)), 2)
            anomaly_map += soft * rng.uniform(0.3, 1.5)
        maps.append(anomaly_map.astype(np.float32))
        masks.append(mask if i % 2 else None)
    return maps, masks


@pytest.mark.parametrize("separation", [0.3, 2.0])
@pytest.mark.parametrize("kind", ["squares", "standardised"])
def test_streaming_is_close_to_exact_on_realistic_maps(kind, separation):
    maps, masks = realistic_images(kind, separation)
    if kind == "standardised":
        assert min(m.min() for m in maps) < -1
    figures = stream(maps, masks)
    expected = exact(maps, masks)
    n_defective = np.count_nonzero(flat(maps, masks)[1])
    # At this small size, one pixel alone can be worth so much to precision and F1.
    for name in ("average_precision", "f1"):
        assert getattr(figures, name) == pytest.approx(expected[name], abs=1 / n_defective), name
    assert figures.auroc == pytest.approx(expected["auroc"], abs=1e-6)
    assert figures.aupro == pytest.approx(expected["aupro"], abs=5e-6)
    assert figures.aupimo == pytest.approx(expected["aupimo"], abs=5e-5)
    assert figures.f1 == pytest.approx(f1_at(figures.f1_threshold, maps, masks), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_streaming_is_exact_for_values_at_the_edges_of_bins(kind):
    maps, masks = small_images(0, kind)
    edges = [np.vectorize(lower_edge, otypes=[np.float32])(to_bins(m)) for m in maps]
    figures = stream(edges, masks)
    for name, value in exact(edges, masks).items():
        assert getattr(figures, name) == pytest.approx(value, abs=1e-12), name
    scores, labels = flat(edges, masks)
    assert figures.f1_threshold == max_f1(scores, labels)[1]
    # And maps are counted as if they were rounded down to the edges.
    assert stream(maps, masks) == figures


any_float32 = st.floats(allow_nan=False, width=32)
# Few numbers so close together that bins are shared.
near_one = st.integers(0, 4000).map(lambda i: float(np.float32(1 + i * 2.0**-23)))


@pytest.mark.slow
@settings(max_examples=15)
@given(st.data(), st.sampled_from([any_float32, near_one]), st.sampled_from([0.1, 0.3, 1.0]))
def test_streaming_is_exact_for_any_maps_rounded_to_bins(data, elements, limit):
    shapes = data.draw(st.lists(st.sampled_from([(3, 4), (5, 2)]), min_size=1, max_size=3))
    maps = [data.draw(hnp.arrays(np.float32, shape, elements=elements)) for shape in shapes]
    masks = [data.draw(hnp.arrays(bool, shape)) for shape in shapes]
    labels = flat(maps, masks)[1]
    assume(labels.any() and not labels.all())
    figures = stream(maps, masks, limit)
    edges = [np.vectorize(lower_edge, otypes=[np.float32])(to_bins(m)) for m in maps]
    for name, value in exact(edges, masks, limit).items():
        assert getattr(figures, name) == pytest.approx(value, abs=1e-12), name
    assert figures.f1 <= exact(maps, masks, limit)["f1"] + 1e-12
    if figures.aupimo is not None:
        assert figures.aupimo <= exact(maps, masks, limit)["aupimo"] + 1e-12
    assert figures.f1 == pytest.approx(f1_at(figures.f1_threshold, maps, masks), abs=1e-12)


def test_without_good_images_there_is_no_aupimo():
    maps, masks = small_images(0, "normal")
    figures = stream(maps[:2], masks[:2])
    assert figures.aupimo is None


@settings(deadline=None)
@given(any_float32, any_float32)
def test_bins_keep_the_order_of_floats(a, b):
    a, b = min(a, b), max(a, b)
    low, high = to_bins(np.array([a, b], dtype=np.float32))
    assert 0 <= low <= high
    if a == b:
        assert low == high
    elif a > 0 and b > a * 1.0002 and a > 1e-37:
        assert low < high
    edge = lower_edge(int(low))
    assert edge <= a
    assert to_bins(np.array([edge], dtype=np.float32))[0] == low
    if abs(a) > 1e-37 and np.isfinite(a):
        assert a - edge <= abs(a) * 2.0**-13


def test_bins_at_the_ends():
    values = np.array([-np.inf, -FLOAT32_MAX, -TINY, -0.0, 0.0, TINY, 1, FLOAT32_MAX, np.inf])
    bins = to_bins(values.astype(np.float32))
    assert bins[0] < bins[1] < bins[2] < bins[3] == bins[4] <= bins[5] < bins[6] < bins[7] < bins[8]
    assert lower_edge(int(bins[0])) == -np.inf
    assert lower_edge(int(bins[-1])) == np.inf
    assert lower_edge(int(bins[6])) == 1.0


def test_the_order_of_images_does_not_matter_and_more_can_follow():
    maps, masks = small_images(0, "normal")
    metrics = PixelMetrics(fpr_bounds=WIDE)
    metrics.add(maps[3], masks[3])
    assert metrics.compute() == stream(maps[3:], masks[3:])
    for i in (1, 0, 2):
        metrics.add(maps[i], masks[i])
    figures = dataclasses.astuple(metrics.compute())
    assert figures == pytest.approx(dataclasses.astuple(stream(maps, masks)), abs=1e-12)


def test_an_empty_mask_is_a_good_image():
    maps, masks = small_images(0, "normal")
    empty = [np.zeros(m.shape, bool) if k is None else k for m, k in zip(maps, masks, strict=True)]
    assert stream(maps, masks) == stream(maps, empty)


def test_a_refused_image_is_not_counted():
    maps, masks = small_images(0, "normal")
    metrics = PixelMetrics(fpr_bounds=WIDE)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.add(anomaly_map, mask)
        with pytest.raises(OptionError):
            metrics.add(anomaly_map, np.ones((1, 1), bool))
        with pytest.raises(OptionError):
            metrics.add(np.full_like(anomaly_map, np.nan), mask)
    assert metrics.compute() == stream(maps, masks)


def test_doubles_beyond_float32_become_infinite():
    mask = np.array([[False, True]])
    assert stream([np.array([[1e30, 1e300]])], [mask]).auroc == 1.0
    assert stream([np.array([[1e300, 1e30]])], [mask]).auroc == 0.0


# Bootstrap


def test_bootstrap_keeps_the_number_of_each_kind():
    labels = np.arange(40) < 10
    share = bootstrap_interval(lambda _, kind: float(np.mean(kind)), np.arange(40), labels, n=50)
    assert share == (0.25, 0.25)


def test_bootstrap_resamples_each_kind_from_itself():
    scores = np.array([1.0, 2.0, 3.0, 10.0, 20.0])
    labels = scores > 5
    seen = {False: set(), True: set()}

    def record(resample, kind):
        for value, is_defective in zip(resample, kind, strict=True):
            seen[bool(is_defective)].add(float(value))
        return 0.0

    bootstrap_interval(record, scores, labels, n=50)
    assert seen == {False: {1.0, 2.0, 3.0}, True: {10.0, 20.0}}


def test_bootstrap_of_a_mean_is_its_standard_error():
    rng = np.random.default_rng(0)
    scores, labels = rng.standard_normal(800), np.arange(800) < 400
    low, high = bootstrap_interval(
        lambda s, kind: float(np.mean(s[kind])), scores, labels, n=2000, level=0.95
    )
    defective = scores[labels]
    half_width = 1.96 * defective.std() / np.sqrt(400)
    assert low == pytest.approx(defective.mean() - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(defective.mean() + half_width, abs=0.1 * half_width)


def test_bootstrap_interval_of_auroc():
    rng = np.random.default_rng(0)
    labels = rng.random(150) < 0.4
    scores = rng.standard_normal(150) + labels
    low, high = bootstrap_interval(auroc, scores, labels, n=300)
    assert 0.5 < low < auroc(scores, labels) < high < 1
    assert (low, high) == bootstrap_interval(auroc, scores, labels, n=300)
    assert (low, high) != bootstrap_interval(auroc, scores, labels, n=300, seed=1)
    inner = bootstrap_interval(auroc, scores, labels, n=300, level=0.5)
    assert low < inner[0] < inner[1] < high
    assert bootstrap_interval(auroc, labels, labels, n=20) == (1.0, 1.0)


@pytest.mark.parametrize("options", [{"n": 0}, {"level": 0.0}, {"level": 1.0}, {"level": np.nan}])
def test_bootstrap_refuses(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        bootstrap_interval(auroc, [1.0, 2.0], [0, 1], **options)


def counted(maps, masks):
    metrics = PixelMetrics(fpr_bounds=WIDE)
    for anomaly_map, mask in zip(maps, masks, strict=True):
        metrics.add(anomaly_map, mask)
    return metrics


def brute_resamples(maps, masks, n, seed=0):
    """The exact figures of each resample, from all its maps."""
    truth = np.array([mask is not None and mask.any() for mask in masks])
    figures = [
        exact([maps[i] for i in drawn], [masks[i] for i in drawn])
        for drawn in resamples(truth, n, seed)
    ]
    return {name: np.array([each[name] for each in figures]) for name in figures[0]}


# What the docstring of `PixelMetrics.resample` states.
RESAMPLING_ERROR = {"auroc": 1e-3, "f1": 2e-3, "aupro": 1e-3, "aupimo": 1e-3}


@pytest.mark.parametrize("separation", [0.3, 2.0])
@pytest.mark.parametrize("kind", ["squares", "standardised"])
def test_resampled_pixel_figures_are_close_to_those_of_the_maps(kind, separation):
    maps, masks = realistic_images(kind, separation)
    found = counted(maps, masks).resample(20)
    expected = brute_resamples(maps, masks, 20)
    assert list(found) == list(RESAMPLING_ERROR)
    for name, error in RESAMPLING_ERROR.items():
        assert found[name].shape == (20,)
        assert np.abs(found[name] - expected[name]).max() < error, name
        width = np.ptp(percentile_interval(expected[name]))
        assert width > 20 * error, "the images differ, or the comparison says little"
        low, high = percentile_interval(found[name])
        assert (low, high) == pytest.approx(percentile_interval(expected[name]), abs=error)


@pytest.mark.parametrize("kind", KINDS)
def test_resampled_pixel_figures_of_few_values_are_exact(kind):
    for seed in range(2):
        maps, masks = small_images(seed, kind)
        # Two with defects and a good one: 270 pixels.
        maps, masks = [maps[i] for i in (0, 1, 3)], [masks[0], masks[1], None]
        edges = [np.vectorize(lower_edge, otypes=[np.float32])(to_bins(m)) for m in maps]
        found = counted(edges, masks).resample(25, seed)
        expected = brute_resamples(edges, masks, 25, seed)
        for name in RESAMPLING_ERROR:
            assert found[name] == pytest.approx(expected[name], abs=1e-9), name


def test_resampled_pixel_figures_draw_the_images_that_image_figures_draw():
    # Maps of one value: all pixels of an image say what its score says.
    scores, labels = np.arange(9.0) % 5, np.arange(9) >= 5
    maps = [np.full((3, 3), score, np.float32) for score in scores]
    masks = [np.full((3, 3), label) for label in labels]
    found = counted(maps, masks).resample(200, seed=4)["auroc"]
    interval = bootstrap_interval(auroc, scores, labels, n=200, seed=4)
    assert percentile_interval(found) == pytest.approx(interval)
    others = scores[::-1].copy()
    other = counted([np.full((3, 3), score, np.float32) for score in others], masks)
    difference = other.resample(200, seed=4)["auroc"] - found
    first, second = (
        bootstrap_resamples(auroc, values, labels, n=200, seed=4) for values in (scores, others)
    )
    assert percentile_interval(difference) == pytest.approx(percentile_interval(second - first))


def test_a_perfect_map_stays_perfect_in_every_resample():
    maps, masks = realistic_images("squares", 2.0)
    perfect = [m + (0 if k is None else 1e9 * k) for m, k in zip(maps, masks, strict=True)]
    found = counted(perfect, masks).resample(30)
    for name, values in found.items():
        assert values == pytest.approx(np.ones(30), abs=1e-12), name


def test_without_good_images_resamples_have_no_aupimo():
    maps, masks = small_images(0, "normal")
    assert list(counted(maps[:2], masks[:2]).resample(3)) == ["auroc", "f1", "aupro"]


def test_a_resample_without_a_good_pixel_is_left_out():
    half = np.array([[True, False]])
    maps = [np.array([[2.0, 1.0]]), np.array([[3.0, 3.0]])]
    found = counted(maps, [half, np.ones((1, 2), bool)]).resample(100)
    # A quarter of the draws have the second image twice.
    assert 60 < found["auroc"].size < 90
    assert found["auroc"] == pytest.approx(np.ones(found["auroc"].size))


def test_what_is_kept_of_an_image_does_not_grow_with_it():
    rng = np.random.default_rng(0)
    metrics, mask = PixelMetrics(), np.zeros((700, 700), bool)
    mask[100:400, 100:400] = True
    metrics.add(rng.standard_normal((700, 700)).astype(np.float32), mask)
    (summary,) = metrics._summaries
    tails = (summary.good, summary.defect)
    assert 8000 < sum(tail.bins.nbytes + tail.above.nbytes for tail in tails) < 20_000


def test_resampling_refuses():
    maps, masks = small_images(0, "normal")
    with pytest.raises(OptionError, match="n must be"):
        counted(maps, masks).resample(0)
    with pytest.raises(OptionError, match="found 0 good and 0 defective"):
        PixelMetrics().resample()


@pytest.mark.parametrize(("part", "total"), [(0, 10), (3, 10), (10, 10), (1, 1), (400, 1000)])
def test_wilson_interval_is_where_the_share_is_just_likely(part, total):
    low, high = wilson_interval(part, total)
    share = part / total
    assert 0 <= low <= share <= high <= 1
    for end in {low, high} - {0.0, 1.0}:
        assert abs(share - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / total))
    assert high - low > 0
