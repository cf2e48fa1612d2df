"""What is kept of each image's map, so that images can be drawn again without their maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fre.evaluation.metrics.arrays import DoubleArray
from fre.evaluation.metrics.curves import Counts
from fre.evaluation.metrics.pixel_curves import PixelCurves

# Of one image: these many ranks from its highest value down, each some percent further, which
# keeps the far tail that AUPIMO needs; and these many that are equally far apart.
_TAIL_RANKS = 192
_EVEN_RANKS = 128
FEW_BINS = _TAIL_RANKS + _EVEN_RANKS
"""Where images hold no more than so many bins, all are kept and nothing is guessed."""
# Thresholds that all images share: as finely for all good pixels, for those of good images, and
# for defects.
_TAIL_EDGES = 384
_EVEN_EDGES = 512


@dataclass(frozen=True)
class Tail:
    """How much of a population of pixels is at or above a threshold.

    Exact at the thresholds that it keeps; between two of them, linear in the number of the bin.

    Attributes:
        bins: int32 (k,), rising: thresholds, as bins of `fre.evaluation.metrics.binning`.
        above: float64 (m, k): for each of m weights, the sum at or above each threshold.
    """

    bins: NDArray[np.int32]
    above: DoubleArray

    @classmethod
    def of(cls, used: NDArray[np.int32], weights: DoubleArray) -> Tail:
        """Summarise a population.

        Args:
            used: int32 (u,), rising: the bins that hold any pixel.
            weights: float64 (m, u): sums of m weights of the pixels in each. The first counts
                the pixels; by it the thresholds are chosen.
        """
        above = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
        kept = np.arange(used.size)
        if used.size > FEW_BINS:
            total = above[0, 0]
            ranks = np.concatenate(
                [np.geomspace(1, total, _TAIL_RANKS), np.linspace(1, total, _EVEN_RANKS)]
            )
            # The highest bin at which at least so many pixels are reached.
            kept = np.unique(np.searchsorted(-above[0], -np.floor(ranks), side="right") - 1)
        # A step at each bin that is kept: between neighbours that both are, nothing is guessed.
        bins = np.repeat(used[kept], 2)
        bins[1::2] += 1
        steps = np.repeat(above[:, kept], 2, axis=1)
        steps[:, 1::2] -= weights[:, kept]
        return cls(bins, steps)

    @property
    def total(self) -> float:
        """The number of pixels."""
        return float(self.above[0, 0]) if self.bins.size else 0.0

    def at(self, edges: NDArray[np.int64]) -> DoubleArray:
        """The sums at or above each of the edges: float64 (m, number of edges)."""
        if self.bins.size == 0:
            return np.zeros((len(self.above), edges.size))
        return np.stack([np.interp(edges, self.bins, above, right=0.0) for above in self.above])


@dataclass(frozen=True)
class MapSummary:
    """One image.

    Attributes:
        good: of its defect-free pixels: their number.
        defect: of its defective pixels: their number, and that of the defects they make up.
            ``None`` for a good image.
    """

    good: Tail
    defect: Tail | None


def shared_edges(
    used: NDArray[np.int64],
    good: Counts,
    good_images: DoubleArray,
    defects: Sequence[Counts],
) -> NDArray[np.int64]:
    """Thresholds at which the images are compared: falling, and all bins if they are few.

    Args:
        used: int64 (u,), falling: the bins that hold any pixel of any image.
        good: float64 (u,), defect-free pixels in each.
        good_images: the same of good images alone; all 0 without any.
        defects: weights of defective pixels in each.
    """
    if used.size <= FEW_BINS:
        return used
    chosen = [np.array([0, used.size - 1])]
    for weights in (good, good_images):
        above = np.cumsum(weights)
        if above[-1] > 0:
            first = above[np.flatnonzero(above)[0]]
            chosen.append(np.searchsorted(above, np.geomspace(first, above[-1], _TAIL_EDGES)))
    mixed = np.cumsum(sum(weights / weights.sum() for weights in defects))
    chosen.append(np.searchsorted(mixed, np.linspace(0, mixed[-1], _EVEN_EDGES)))
    # The last sum is rounded, and may be searched for in vain.
    places = np.unique(np.minimum(np.concatenate(chosen), used.size - 1))
    edges: NDArray[np.int64] = used[places]
    return edges


def resampled_curves(
    summaries: Sequence[MapSummary], edges: NDArray[np.int64], times: NDArray[np.int64]
) -> PixelCurves:
    """The curves of resamples of the images.

    Args:
        summaries: of n images.
        edges: int64 (b,), falling thresholds.
        times: int64 (r, n), how often each resample draws each image.

    Returns:
        Curves of shape (r, b).
    """
    good = np.stack([summary.good.at(edges)[0] for summary in summaries])
    is_good = np.array([summary.defect is None for summary in summaries])
    defect = np.stack([s.defect.at(edges) for s in summaries if s.defect is not None])
    drawn = times.astype(np.float64)
    drawn_good, drawn_defective = drawn[:, is_good], drawn[:, ~is_good]
    rates = good[is_good] / good[is_good, -1:]
    found = defect[:, 0] / defect[:, 0, -1:]
    n_good = int(is_good.sum())
    return PixelCurves(
        fp=drawn @ good,
        tp=drawn_defective @ defect[:, 0],
        overlap=drawn_defective @ defect[:, 1],
        good_rate=drawn_good @ rates / n_good if n_good else None,
        found=drawn_defective @ found / len(found),
    )
