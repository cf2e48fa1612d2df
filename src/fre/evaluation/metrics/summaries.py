"""Summaries of each image's map, so that resamples of images need no maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fre.evaluation.metrics.arrays import DoubleArray
from fre.evaluation.metrics.curves import Counts
from fre.evaluation.metrics.pixel_curves import PixelCurves

# Kept ranks of an image: geometrically spaced ones from its highest value down, for the far tail
# that AUPIMO needs, and equally spaced ones.
_TAIL_RANKS = 192
_EVEN_RANKS = 128
FEW_BINS = _TAIL_RANKS + _EVEN_RANKS
"""Number of bins up to which all are kept, without interpolation."""
# Shared thresholds: geometrically spaced ranks of good pixels, and equally spaced ones of defects.
_TAIL_EDGES = 384
_EVEN_EDGES = 512


@dataclass(frozen=True)
class Tail:
    """Cumulative weights of a population of pixels, from the highest value down.

    Exact at the kept thresholds, and linear in the bin number between them.

    Attributes:
        bins: int32 (k,), rising thresholds, as bins of `fre.evaluation.metrics.binning`.
        above: float64 (m, k), sum of each of m weights at or above each threshold.
    """

    bins: NDArray[np.int32]
    above: DoubleArray

    @classmethod
    def of(cls, used: NDArray[np.int32], weights: DoubleArray) -> Tail:
        """Summarise a population.

        Args:
            used: int32 (u,), rising, the bins with pixels.
            weights: float64 (m, u), sums of m weights in each bin. The first weight counts the
                pixels, and decides which thresholds are kept.
        """
        above = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
        kept = np.arange(used.size)
        if used.size > FEW_BINS:
            total = above[0, 0]
            ranks = np.concatenate(
                [np.geomspace(1, total, _TAIL_RANKS), np.linspace(1, total, _EVEN_RANKS)]
            )
            # The highest bin that has at least this number of pixels at or above it.
            kept = np.unique(np.searchsorted(-above[0], -np.floor(ranks), side="right") - 1)
        # A step at each kept bin: adjacent kept bins need no interpolation.
        bins = np.repeat(used[kept], 2)
        bins[1::2] += 1
        steps = np.repeat(above[:, kept], 2, axis=1)
        steps[:, 1::2] -= weights[:, kept]
        return cls(bins, steps)

    @property
    def total(self) -> float:
        """Number of pixels."""
        return float(self.above[0, 0]) if self.bins.size else 0.0

    def at(self, edges: NDArray[np.int64]) -> DoubleArray:
        """Return the sums at or above each edge: float64 (m, number of edges)."""
        if self.bins.size == 0:
            return np.zeros((len(self.above), edges.size))
        return np.stack([np.interp(edges, self.bins, above, right=0.0) for above in self.above])


@dataclass(frozen=True)
class MapSummary:
    """Summary of an image's map.

    Attributes:
        good: counts of defect-free pixels.
        defect: counts of defective pixels, and their shares of defects; ``None`` for a good image.
    """

    good: Tail
    defect: Tail | None


def shared_edges(
    used: NDArray[np.int64],
    good: Counts,
    good_images: DoubleArray,
    defects: Sequence[Counts],
) -> NDArray[np.int64]:
    """Return falling thresholds for all images: all bins, if they are few.

    Args:
        used: int64 (u,), falling, the bins with pixels of any image.
        good: float64 (u,), number of defect-free pixels in each bin.
        good_images: float64 (u,), share of the pixels of good images in each bin.
        defects: weights of defective pixels in each bin.
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
    # The last sum is rounded, and the search may end beyond it.
    places = np.unique(np.minimum(np.concatenate(chosen), used.size - 1))
    edges: NDArray[np.int64] = used[places]
    return edges


def resampled_curves(
    summaries: Sequence[MapSummary], edges: NDArray[np.int64], times: NDArray[np.int64]
) -> PixelCurves:
    """Return the curves of resamples of the images.

    Args:
        summaries: summaries of n images.
        edges: int64 (b,), falling thresholds.
        times: int64 (r, n), number of times that each resample draws each image.

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
