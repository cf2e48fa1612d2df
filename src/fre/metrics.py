"""Figures of merit of anomaly detection, on raw unbounded scores.

A higher score is more anomalous. Scores may be infinite, but not NaN; nothing is ever squashed
or rescaled, so only the order of the scores matters. Images or pixels with equal scores can't be
told apart by any threshold and enter every curve together, as in scikit-learn.

The functions are exact and hold all their input. `PixelMetrics` takes one image after another in
fixed memory, and says how far each of its figures can be from the exact one.

Every figure compares good with defective; where only one of them exists it is undefined, and
the functions raise OptionError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fre.errors import OptionError
from fre.regions import label
from fre.types import MaskArray

__all__ = [
    "PixelFigures",
    "PixelMetrics",
    "aupimo",
    "aupro",
    "auroc",
    "average_precision",
    "bootstrap_difference",
    "bootstrap_interval",
    "max_f1",
    "precision_recall_curve",
    "roc_curve",
]

DoubleArray: TypeAlias = NDArray[np.float64]
Metric: TypeAlias = Callable[[DoubleArray, MaskArray], float]

AUPIMO_FPR_BOUNDS = (1e-5, 1e-4)
"""Between these false-positive rates of good images AUPIMO's authors average the recall."""


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve.

    It is the probability that a defective item scores above a good one, ties counting half
    (Hanley and McNeil, Radiology 143, 1982).

    Args:
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.

    Returns:
        The area, in [0, 1]; 0.5 is chance.

    Raises:
        OptionError: the shapes differ, a score is NaN, or there is only one kind of label.
    """
    _, tp, fp = _ranked_counts(scores, labels)
    return _area_under_roc(tp, fp)


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision: the sum of precision times the step of recall over all thresholds.

    It is the area under the precision-recall curve without interpolation, as scikit-learn's
    ``average_precision_score`` defines it.

    Args:
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.

    Returns:
        The average precision, in (0, 1]; chance is the share of defective items.

    Raises:
        OptionError: the shapes differ, a score is NaN, or there is only one kind of label.
    """
    _, tp, fp = _ranked_counts(scores, labels)
    return _average_precision(tp, fp)


def max_f1(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """The largest F1 = 2 TP / (2 TP + FP + FN) over all thresholds.

    Args:
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.

    Returns:
        The F1, in (0, 1], and a threshold that reaches it by calling scores at or above it
        defective: one of the scores, the highest if there are several.

    Raises:
        OptionError: the shapes differ, a score is NaN, or there is only one kind of label.
    """
    thresholds, tp, fp = _ranked_counts(scores, labels)
    f1 = _f1(tp, fp)
    best = int(np.argmax(f1))
    return float(f1[best]), float(thresholds[best])


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """The ROC curve, for plots.

    Args:
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.

    Returns:
        False-positive rate, true-positive rate and threshold, float64, (k + 1,) each, for k
        distinct scores. Item i is for calling scores at or above threshold i defective; the
        first is (0, 0, inf), where nothing is.

    Raises:
        OptionError: the shapes differ, a score is NaN, or there is only one kind of label.
    """
    thresholds, tp, fp = _ranked_counts(scores, labels)
    return (
        np.concatenate([[0.0], fp / fp[-1]]),
        np.concatenate([[0.0], tp / tp[-1]]),
        np.concatenate([[np.inf], thresholds]),
    )


def precision_recall_curve(
    scores: ArrayLike, labels: ArrayLike
) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """The precision-recall curve, for plots.

    Args:
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.

    Returns:
        Precision, recall and threshold, float64, (k + 1,) each, for k distinct scores, by rising
        recall. Item i is for calling scores at or above threshold i defective; the first is
        (1, 0, inf), where nothing is.

    Raises:
        OptionError: the shapes differ, a score is NaN, or there is only one kind of label.
    """
    thresholds, tp, fp = _ranked_counts(scores, labels)
    return (
        np.concatenate([[1.0], tp / (tp + fp)]),
        np.concatenate([[0.0], tp / tp[-1]]),
        np.concatenate([[np.inf], thresholds]),
    )


def aupro(
    maps: Sequence[ArrayLike], masks: Sequence[ArrayLike | None], fpr_limit: float = 0.3
) -> float:
    """Area under the per-region-overlap curve, of the MVTec AD benchmark.

    At each threshold, the per-region overlap (PRO) is the share of a defect's pixels at or above
    it, averaged over all connected defects of all images, so that small defects count as much as
    large ones. It is integrated over the false-positive rate of all defect-free pixels, those of
    good images too, from 0 to the limit, and divided by the limit. Between the curve's points,
    and at the limit, it is interpolated linearly.

    Bergmann, Batzner, Fauser, Sattlegger and Steger, The MVTec Anomaly Detection Dataset, IJCV
    129, 2021, section on evaluation metrics for segmentation.

    Args:
        maps: real numbers, (H, W) each; sizes may differ.
        masks: bool or 0 and 1, of the shape of its map each, true on defects; ``None`` for a
            good image. Defects are 8-connected.
        fpr_limit: in (0, 1]; figures for different limits are not comparable.

    Returns:
        The normalised area, in [0, 1].

    Raises:
        OptionError: the numbers of maps and masks or their shapes differ, a map holds NaN, the
            limit is out of range, or there are no defective or no defect-free pixels.
    """
    _check_limit(fpr_limit)
    all_scores, all_shares = [np.empty(0)], [np.empty(0)]
    for values, truth in _check_maps(maps, masks):
        share = np.zeros(values.shape)
        if truth is not None:
            share[truth] = _region_shares(truth)
        all_scores.append(values.ravel())
        all_shares.append(share.ravel())
    scores, shares = np.concatenate(all_scores), np.concatenate(all_shares)
    good = shares == 0
    n_good = int(np.count_nonzero(good))
    _check_both_kinds(scores.size - n_good, n_good, "pixels")

    order, last = _rank(scores)
    fpr = np.cumsum(good[order])[last] / n_good
    overlap = np.cumsum(shares[order])[last]
    return _area_to_limit(fpr, overlap / overlap[-1], fpr_limit)


def aupimo(
    maps: Sequence[ArrayLike],
    masks: Sequence[ArrayLike | None],
    fpr_bounds: tuple[float, float] = AUPIMO_FPR_BOUNDS,
) -> DoubleArray:
    """Area under the per-image overlap curve of each defective image.

    It is the recall of an image's defective pixels at thresholds that hardly any pixel of a good
    image reaches: averaged over the logarithm of the false-positive rate, between the bounds. The
    rate is that of good images alone, the mean of their own rates, so every image is judged at
    the same thresholds, and defect-free pixels beside a defect don't count.

    At each rate the threshold is the lowest that does not exceed it. So a defective pixel counts
    at the rates from F on, where F is the rate at the pixel's own value, and the integral is
    exact: the mean over the image's defective pixels of log(high / F) / log(high / low), clipped
    to [0, 1]. The original takes trapezoids over thresholds at equal distances, which comes to
    the same where these, and good pixels, are many.

    Bertoldo, Ameln, Vaidya and Akçay, AUPIMO: Redefining Visual Anomaly Detection Benchmarks
    with High Speed and Low Tolerance, BMVC 2024.

    Args:
        maps: real numbers, (H, W) each; sizes may differ.
        masks: bool or 0 and 1, of the shape of its map each, true on defects; ``None`` for a
            good image. An image whose mask is empty is a good one.
        fpr_bounds: low and high, 0 < low < high <= 1; figures for different bounds are not
            comparable.

    Returns:
        float64, (number of maps,): in [0, 1] for defective images, NaN for good ones.

    Raises:
        OptionError: the numbers of maps and masks or their shapes differ, a map holds NaN, the
            bounds are out of range, or there are no defective or no good images.
    """
    _check_bounds(fpr_bounds)
    good: list[DoubleArray] = []
    defects: dict[int, DoubleArray] = {}
    for index, (values, truth) in enumerate(_check_maps(maps, masks)):
        if truth is not None and truth.any():
            defects[index] = values[truth]
        else:
            good.append(values.ravel())
    _check_both_kinds(len(defects), len(good), "images")

    # All good pixels in one ranking, each with its share of the mean rate.
    scores = np.concatenate(good)
    shares = np.concatenate([np.full(values.size, 1 / values.size) for values in good])
    order, last = _rank(scores)
    fpr = np.concatenate([[0.0], np.cumsum(shares[order])[last] / len(good)])
    rising = scores[order[last]][::-1]
    figures = np.full(len(maps), np.nan)
    for index, values in defects.items():
        at_or_above = rising.size - np.searchsorted(rising, values, side="left")
        figures[index] = np.mean(_low_fpr_share(fpr[at_or_above], fpr_bounds))
    return figures


def bootstrap_interval(
    metric: Metric,
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a figure, stratified by label.

    The good and the defective items are resampled apart, each with replacement to their own
    number, so that every resample has both (Efron and Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 13). It is the uncertainty from the choice of test images, not from
    that of training images.

    Args:
        metric: takes scores and labels, and returns a float, such as `auroc`.
        scores: real numbers of any shape; higher is more anomalous.
        labels: bool or 0 and 1, of the same shape; true is defective.
        n: number of resamples.
        level: share of the resamples that the interval holds, in (0, 1).
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        The interval's ends, low and high.

    Raises:
        OptionError: the shapes differ, a score is NaN, there is only one kind of label, or an
            option is out of range.
    """
    _check_resampling(n, level)
    values, truth = _check_pair(scores, labels)
    figures = [metric(values[drawn], truth[drawn]) for drawn in _resamples(truth, n, seed)]
    return _percentiles(figures, level)


def bootstrap_difference(
    metric: Metric,
    scores: ArrayLike,
    others: ArrayLike,
    labels: ArrayLike,
    *,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of how much a figure differs between two scores of the items.

    As `bootstrap_interval`, and paired: each resample draws the same items for both, so that
    what makes an item hard for both cancels. The interval is that of the difference, which may
    exclude 0 although the intervals of the two figures overlap.

    Args:
        metric: takes scores and labels, and returns a float, such as `auroc`.
        scores: real numbers of any shape; higher is more anomalous.
        others: of the same items in the same order.
        labels: bool or 0 and 1, of the same shape; true is defective.
        n: number of resamples.
        level: share of the resamples that the interval holds, in (0, 1).
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        The ends, low and high, of the interval of metric(others) - metric(scores).

    Raises:
        OptionError: the shapes differ, a score is NaN, there is only one kind of label, or an
            option is out of range.
    """
    _check_resampling(n, level)
    first, truth = _check_pair(scores, labels)
    second, _ = _check_pair(others, labels)
    differences = [
        metric(second[drawn], truth[drawn]) - metric(first[drawn], truth[drawn])
        for drawn in _resamples(truth, n, seed)
    ]
    return _percentiles(differences, level)


@dataclass(frozen=True)
class PixelFigures:
    """Figures of the pixels of a set of images, as `PixelMetrics` computes them.

    Attributes:
        auroc: see `fre.metrics.auroc`.
        average_precision: see `fre.metrics.average_precision`.
        f1: see `fre.metrics.max_f1`; never above the exact figure.
        f1_threshold: the threshold that gives exactly this F1 on the maps.
        aupro: see `fre.metrics.aupro`.
        aupimo: the mean over the defective images of `fre.metrics.aupimo`; never above the exact
            figure. ``None`` without good images.
        auroc_error: the exact figure of the maps is at most this far from ``auroc``.
        average_precision_error: the same for ``average_precision``.
        f1_error: the same for ``f1``.
        aupro_error: the same for ``aupro``.
        aupimo_error: the same for ``aupimo``; 0 without good images.
    """

    auroc: float
    average_precision: float
    f1: float
    f1_threshold: float
    aupro: float
    aupimo: float | None
    auroc_error: float
    average_precision_error: float
    f1_error: float
    aupro_error: float
    aupimo_error: float


class PixelMetrics:
    """Pixel AUROC, average precision, F1, AUPRO and AUPIMO of images that arrive one by one.

    The pixels are counted in fixed bins that keep float32's order: a sign, an exponent and 13
    bits of mantissa, that is, 8192 bins between a number and its double, over the whole range of
    float32. So no range has to be known beforehand, and memory is 160 MiB, however many images
    there are.

    The figures are the exact ones of maps whose values are rounded down to the edges of the
    bins. From the counts alone follows how far they can be from those of the maps as they are:
    within a bin, any order of its pixels is possible. `PixelFigures` has these bounds: on sums
    of squares and on standardised residuals about 1e-5 for AUROC and AUPRO and below 1e-4 for
    the other two, and the true errors are smaller still. They are wide where many defective and
    many good pixels share a bin: on maps with few distinct values, of whose ties they know
    nothing, and on maps that vary by less than a thousandth of their mean.

    Args:
        fpr_limit: the false-positive rate up to which AUPRO integrates, in (0, 1].
        fpr_bounds: those between which AUPIMO integrates, 0 < low < high <= 1.

    Raises:
        OptionError: the limit or the bounds are out of range.
    """

    def __init__(
        self, fpr_limit: float = 0.3, fpr_bounds: tuple[float, float] = AUPIMO_FPR_BOUNDS
    ) -> None:
        _check_limit(fpr_limit)
        _check_bounds(fpr_bounds)
        self._fpr_limit = fpr_limit
        self._fpr_bounds = fpr_bounds
        self._good = np.zeros(_N_BINS, dtype=np.int64)
        self._defective = np.zeros(_N_BINS, dtype=np.int64)
        # PRO averages over regions, so each region's pixels can go into one histogram at the
        # weight that they will have: no region needs a histogram of its own.
        self._overlap = np.zeros(_N_BINS, dtype=np.float64)
        # AUPIMO averages over images in the same way, and its rate over the good ones.
        self._good_share = np.zeros(_N_BINS, dtype=np.float64)
        self._image_overlap = np.zeros(_N_BINS, dtype=np.float64)
        self._n_good_images = 0

    def add(self, anomaly_map: ArrayLike, mask: ArrayLike | None) -> None:
        """Count the pixels of one image.

        An image with a defect but without a mask must be left out, not given as good.

        Args:
            anomaly_map: float32, (H, W); infinities are allowed. Other numbers are rounded to
                float32, which sends those above 3.4e38 to infinity.
            mask: bool or 0 and 1, (H, W), true on defects; ``None`` for a good image, which an
                empty mask says, too.

        Raises:
            OptionError: the map holds NaN, or the shapes are not right. Nothing is counted then.
        """
        with np.errstate(over="ignore"):
            values = _check_map(_check_scores(anomaly_map, np.float32))
        truth = None if mask is None else _check_mask(mask, values)
        bins = _bin(values)
        if truth is None or not truth.any():
            np.add.at(self._good, bins.ravel(), 1)
            np.add.at(self._good_share, bins.ravel(), 1 / bins.size)
            self._n_good_images += 1
            return
        defect = bins[truth]
        np.add.at(self._good, bins[~truth], 1)
        np.add.at(self._defective, defect, 1)
        np.add.at(self._overlap, defect, _region_shares(truth))
        np.add.at(self._image_overlap, defect, 1 / defect.size)

    def compute(self) -> PixelFigures:
        """The figures of all images so far.

        Raises:
            OptionError: there are no defective or no defect-free pixels.
        """
        used = np.flatnonzero(self._good | self._defective)[::-1]
        good, defective = self._good[used], self._defective[used]
        _check_both_kinds(int(defective.sum()), int(good.sum()), "pixels")
        tp, fp = np.cumsum(defective), np.cumsum(good)
        fpr = fp / fp[-1]
        overlap = np.cumsum(self._overlap[used])
        pro = overlap / overlap[-1]
        f1 = _f1(tp, fp)
        best = int(np.argmax(f1))
        low, high = self._aupimo(used)
        return PixelFigures(
            auroc=_area_under_roc(tp, fp),
            average_precision=_average_precision(tp, fp),
            f1=float(f1[best]),
            f1_threshold=_lower_edge(int(used[best])),
            aupro=_area_to_limit(fpr, pro, self._fpr_limit),
            aupimo=low if self._n_good_images else None,
            auroc_error=_area_error(fpr, tp / tp[-1], 1.0),
            average_precision_error=_average_precision_error(tp, fp),
            f1_error=_f1_error(tp, fp),
            aupro_error=_area_error(fpr, pro, self._fpr_limit),
            aupimo_error=high - low,
        )

    def _aupimo(self, used: NDArray[np.int64]) -> tuple[float, float]:
        """With all, and with none, of the good pixels of a bin above its defective ones."""
        if not self._n_good_images:
            return 0.0, 0.0
        fpr = np.cumsum(self._good_share[used]) / self._n_good_images
        above = np.concatenate([[0.0], fpr[:-1]])
        overlap = self._image_overlap[used]
        low, high = (
            float(np.average(_low_fpr_share(rate, self._fpr_bounds), weights=overlap))
            for rate in (fpr, above)
        )
        return low, high


# Curves. The arguments are cumulative, float64 or int64, (k,): entry i counts what is at or above
# the i-th highest threshold; the last entry counts everything.


def _area_under_roc(tp: NDArray[np.int64], fp: NDArray[np.int64]) -> float:
    # In counts, where a perfect ranking gives exactly 1.
    twice = np.sum(np.diff(fp, prepend=0) * (2.0 * tp - np.diff(tp, prepend=0)))
    return float(twice / (2.0 * tp[-1] * fp[-1]))


def _average_precision(tp: NDArray[np.int64], fp: NDArray[np.int64]) -> float:
    return float(np.sum(np.diff(tp, prepend=0) * (tp / (tp + fp))) / tp[-1])


def _f1(tp: NDArray[np.int64], fp: NDArray[np.int64]) -> DoubleArray:
    f1: DoubleArray = 2 * tp / (tp + fp + tp[-1])
    return f1


def _area_to_limit(x: DoubleArray, y: DoubleArray, limit: float) -> float:
    """Trapezoids under (0, 0), (x, y) up to x = limit, divided by the limit."""
    x, y = np.concatenate([[0.0], x]), np.concatenate([[0.0], y])
    inside = int(np.searchsorted(x, limit, side="right"))
    y = np.append(y[:inside], np.interp(limit, x, y))
    x = np.append(x[:inside], limit)
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / (2 * limit))


def _low_fpr_share(fpr: DoubleArray, bounds: tuple[float, float]) -> DoubleArray:
    """The share of the interval between the bounds that is at or above a rate, in logarithms."""
    low, high = bounds
    share: DoubleArray = np.log(high / np.clip(fpr, low, high)) / np.log(high / low)
    return share


# Errors from binning. The curve passes exactly through its points, which are at the edges of the
# bins; between two of them it may rise in any way.


def _area_error(x: DoubleArray, y: DoubleArray, limit: float) -> float:
    """How far `_area_to_limit` can be from the area under the finer curve.

    Between two points that curve stays in the rectangle that they span. A trapezoid is off by at
    most half the rectangle. Where the limit cuts a rectangle after a share t of its width, the
    line rises to t of its height only, so the area may be short by 1 - t / 2 of what is left.
    """
    width, rise = np.diff(x, prepend=0.0), np.diff(y, prepend=0.0)
    inside = np.clip(limit - (x - width), 0.0, width)
    t = np.divide(inside, width, out=np.zeros_like(width), where=width > 0)
    return float(np.sum(inside * rise * (1 - t / 2)) / limit)


def _average_precision_error(tp: NDArray[np.int64], fp: NDArray[np.int64]) -> float:
    """How far `_average_precision` can be from that of the unbinned scores.

    The precision at a defective pixel is highest when all defective pixels of its bin, and none
    of the good, are above it; and lowest when it is the other way round.
    """
    defective, good = np.diff(tp, prepend=0), np.diff(fp, prepend=0)
    precision = tp / (tp + fp)
    some = defective > 0
    first = tp - defective + 1
    lowest = first / (first + fp)
    highest = tp / np.maximum(tp + fp - good, 1)
    below = np.sum((defective * (precision - lowest))[some])
    above = np.sum((defective * (highest - precision))[some])
    return float(max(below, above) / tp[-1])


def _f1_error(tp: NDArray[np.int64], fp: NDArray[np.int64]) -> float:
    """How far the largest of `_f1` can be below that of the unbinned scores.

    In a bin F1 is at most what all of its defective pixels before any of its good ones give.
    """
    highest = _f1(tp, fp - np.diff(fp, prepend=0))
    return float(np.max(highest) - np.max(_f1(tp, fp)))


# Bins of float32.

_MANTISSA_BITS = 13
_SHIFT = 23 - _MANTISSA_BITS
_N_BINS = 1 << (32 - _SHIFT)
_MAGNITUDE = np.int32(0x7FFFFFFF)


def _bin(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """The bin of each value: an integer in [0, _N_BINS) that never falls as the value rises."""
    # The sum turns -0.0, whose bits are far from those of 0.0, into it.
    bits = (values + np.float32(0)).view(np.int32)
    # As integers, the bits of positive floats are in order and those of negative ones reversed.
    ordered = bits ^ ((bits >> 31) & _MAGNITUDE)
    return (ordered >> _SHIFT) + np.int32(_N_BINS // 2)


def _lower_edge(index: int) -> float:
    """The smallest float32 of a bin."""
    # An array, because NumPy 1 widens scalars.
    ordered = np.array([(index - _N_BINS // 2) << _SHIFT], dtype=np.int32)
    edge = float((ordered ^ ((ordered >> 31) & _MAGNITUDE)).view(np.float32)[0])
    # The bin of -inf begins among the bit patterns of NaN.
    return -np.inf if np.isnan(edge) else edge


# Resampling.


def _resamples(truth: MaskArray, n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Indices of n resamples: the good items, then the defective, each drawn from their own."""
    good, defective = np.flatnonzero(~truth), np.flatnonzero(truth)
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield np.concatenate([rng.choice(good, good.size), rng.choice(defective, defective.size)])


def _percentiles(figures: list[float], level: float) -> tuple[float, float]:
    low, high = np.quantile(figures, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


# Ranking and checking.


def _ranked_counts(
    scores: ArrayLike, labels: ArrayLike
) -> tuple[DoubleArray, NDArray[np.int64], NDArray[np.int64]]:
    """Distinct scores, highest first, and how many defective and good ones are at or above."""
    values, truth = _check_pair(scores, labels)
    order, last = _rank(values)
    tp = np.cumsum(truth[order], dtype=np.int64)[last]
    return values[order[last]], tp, last + 1 - tp


def _rank(values: DoubleArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order from high to low, and in it the last position of every run of equal values."""
    order = np.argsort(values)[::-1]
    ranked = values[order]
    # Compared, not subtracted: inf - inf is NaN.
    return order, np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), values.size - 1)


def _region_shares(truth: MaskArray) -> DoubleArray:
    """For each defective pixel, 1 / the size of its region. Summed, the number of regions."""
    labels, n = label(truth)
    region = labels[truth] - 1
    return 1.0 / np.bincount(region, minlength=n)[region]


def _check_pair(scores: ArrayLike, labels: ArrayLike) -> tuple[DoubleArray, MaskArray]:
    values, truth = _check_scores(scores), _check_labels(labels, "labels")
    if values.shape != truth.shape:
        raise OptionError(
            f"scores and labels must have one shape, found {values.shape} and {truth.shape}"
        )
    n_defective = int(np.count_nonzero(truth))
    _check_both_kinds(n_defective, truth.size - n_defective, "items")
    return values.ravel(), truth.ravel()


def _check_scores(scores: ArrayLike, dtype: type[Any] = np.float64) -> NDArray[Any]:
    values = _as_array(scores, "scores")
    if values.dtype.kind not in "biuf":
        raise OptionError(f"scores must be real numbers, found {values.dtype}")
    if np.isnan(values).any():
        raise OptionError(f"scores hold NaN ({np.count_nonzero(np.isnan(values))} of them)")
    return values.astype(dtype, copy=False)


def _check_labels(labels: ArrayLike, name: str) -> MaskArray:
    truth = _as_array(labels, name)
    if truth.dtype == np.bool_:
        return truth
    if truth.dtype.kind not in "iuf" or not np.isin(truth, (0, 1)).all():
        raise OptionError(f"{name} must be bool, or 0 (good) and 1 (defective)")
    return truth.astype(np.bool_)


def _as_array(values: ArrayLike, name: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise OptionError(f"{name} must be an array: {error}") from error


def _check_maps(
    maps: Sequence[ArrayLike], masks: Sequence[ArrayLike | None]
) -> Iterator[tuple[DoubleArray, MaskArray | None]]:
    if len(maps) != len(masks):
        raise OptionError(
            f"there must be a mask (or None) for each map, found {len(maps)} maps and "
            f"{len(masks)} masks"
        )
    for anomaly_map, mask in zip(maps, masks, strict=True):
        values = _check_map(_check_scores(anomaly_map))
        yield values, None if mask is None else _check_mask(mask, values)


def _check_map(values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim != 2:
        raise OptionError(f"a map must have shape (H, W), found {values.shape}")
    return values


def _check_mask(mask: ArrayLike, values: NDArray[Any]) -> MaskArray:
    truth = _check_labels(mask, "a mask")
    if truth.shape != values.shape:
        raise OptionError(
            f"a mask must have the shape of its map, found {truth.shape} and {values.shape}"
        )
    return truth


def _check_both_kinds(n_defective: int, n_good: int, what: str) -> None:
    if n_defective == 0 or n_good == 0:
        raise OptionError(
            f"the figure needs good and defective {what}, found {n_good} good and "
            f"{n_defective} defective"
        )


def _check_resampling(n: int, level: float) -> None:
    if n < 1:
        raise OptionError(f"n must be at least 1, found {n}")
    if not 0 < level < 1:
        raise OptionError(f"level must be between 0 and 1, found {level}")


def _check_bounds(fpr_bounds: tuple[float, float]) -> None:
    low, high = fpr_bounds
    if not 0 < low < high <= 1:
        raise OptionError(f"fpr_bounds must be 0 < low < high <= 1, found {fpr_bounds}")


def _check_limit(fpr_limit: float) -> None:
    if not 0 < fpr_limit <= 1:
        raise OptionError(f"fpr_limit must be in (0, 1], found {fpr_limit}")
