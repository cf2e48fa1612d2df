"""Exact AUPRO and AUPIMO of maps in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fre.evaluation.metrics.arrays import AUPIMO_FPR_BOUNDS, DoubleArray
from fre.evaluation.metrics.checks import check_both_kinds, check_bounds, check_limit, check_maps
from fre.evaluation.metrics.curves import area_to_limit, low_fpr_share
from fre.evaluation.metrics.defects import region_shares
from fre.evaluation.metrics.ranking import rank


def aupro(
    maps: Sequence[ArrayLike], masks: Sequence[ArrayLike | None], fpr_limit: float = 0.3
) -> float:
    """Area under the per-region-overlap curve, of the MVTec AD benchmark.

    At each threshold, the per-region overlap (PRO) is the share of a defect's pixels at or above
    it, averaged over the connected defects of all images. So small defects count as much as large
    ones. PRO is integrated over the false-positive rate of all defect-free pixels, from 0 to the
    limit, and divided by the limit. The curve is interpolated linearly.

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
    check_limit(fpr_limit)
    all_scores, all_shares = [np.empty(0)], [np.empty(0)]
    for values, truth in check_maps(maps, masks):
        share = np.zeros(values.shape)
        if truth is not None:
            share[truth] = region_shares(truth)
        all_scores.append(values.ravel())
        all_shares.append(share.ravel())
    scores, shares = np.concatenate(all_scores), np.concatenate(all_shares)
    good = shares == 0
    n_good = int(np.count_nonzero(good))
    check_both_kinds(scores.size - n_good, n_good, "pixels")

    order, last = rank(scores)
    fpr = np.cumsum(good[order])[last] / n_good
    overlap = np.cumsum(shares[order])[last]
    return float(area_to_limit(fpr, overlap / overlap[-1], fpr_limit))


def aupimo(
    maps: Sequence[ArrayLike],
    masks: Sequence[ArrayLike | None],
    fpr_bounds: tuple[float, float] = AUPIMO_FPR_BOUNDS,
) -> DoubleArray:
    """Area under the per-image overlap curve of each defective image.

    It is the recall of an image's defective pixels at very low false-positive rates, averaged
    over the logarithm of the rate between the bounds. The rate is the mean of the rates of the
    good images, so that all images share the same thresholds. Defect-free pixels beside a defect
    don't count.

    A defective pixel counts at rates from F on, where F is the rate at the pixel's value. So the
    integral is exact: the mean over an image's defective pixels of log(high / F) / log(high /
    low), clipped to [0, 1]. The original takes trapezoids over equally spaced thresholds, which
    agrees for many thresholds and good pixels.

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
    check_bounds(fpr_bounds)
    good: list[DoubleArray] = []
    defects: dict[int, DoubleArray] = {}
    for index, (values, truth) in enumerate(check_maps(maps, masks)):
        if truth is not None and truth.any():
            defects[index] = values[truth]
        else:
            good.append(values.ravel())
    check_both_kinds(len(defects), len(good), "images")

    # All good pixels in one ranking, each with its share of the mean rate.
    scores = np.concatenate(good)
    shares = np.concatenate([np.full(values.size, 1 / values.size) for values in good])
    order, last = rank(scores)
    fpr = np.concatenate([[0.0], np.cumsum(shares[order])[last] / len(good)])
    rising = scores[order[last]][::-1]
    figures = np.full(len(maps), np.nan)
    for index, values in defects.items():
        at_or_above = rising.size - np.searchsorted(rising, values, side="left")
        figures[index] = np.mean(low_fpr_share(fpr[at_or_above], fpr_bounds))
    return figures
