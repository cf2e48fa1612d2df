"""The maps of layers: which count, what of them is inspected, and how they are enlarged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError
from fre.images.roi import cells, too_small_a_region
from fre.types import FloatArray, MaskArray

Value = TypeVar("Value")

SHRINK = 4
"""The score map is smoothed and ranked at this fraction of the input's size, where both are the
same to three digits."""


def interpolation_matrix(source: int, target: int) -> FloatArray:
    """Bilinear interpolation along one axis, pixel centres at half-integers, edges held.

    As a matrix it is the same on every runtime, whatever each makes of ONNX's Resize.

    Returns:
        float32 (target, source): its rows sum to 1.
    """
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    below = np.minimum(np.floor(position).astype(int), max(source - 2, 0))
    share = position - below
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    matrix[rows, below] = 1 - share
    if source > 1:
        matrix[rows, below + 1] = share
    return matrix


def smoothing_matrix(length: int, sigma: float) -> NDArray[np.float64]:
    """Gaussian smoothing along one axis, cut at four deviations and at the ends.

    Returns:
        float64 (length, length): its rows sum to 1.
    """
    distance = np.subtract.outer(np.arange(length), np.arange(length))
    weights = np.exp(-0.5 * (distance / sigma) ** 2) * (np.abs(distance) <= 4 * sigma)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Enlargement:
    """A map to another size, as a matrix for either axis.

    Attributes:
        rows: float32 (H, h).
        columns: float32 (W, w).
    """

    rows: FloatArray
    columns: FloatArray

    @classmethod
    def through(cls, *grids: tuple[int, int], sigma: float = 0.0) -> Enlargement:
        """Bilinear from grid to grid; then smoothed, if ``sigma`` is above 0."""
        axes = []
        for axis in (0, 1):
            matrix = np.eye(grids[0][axis])
            for source, target in pairwise(grids):
                matrix = interpolation_matrix(source[axis], target[axis]) @ matrix
            if sigma > 0:
                matrix = smoothing_matrix(grids[-1][axis], sigma) @ matrix
            axes.append(matrix.astype(np.float32))
        return cls(*axes)

    def apply(self, maps: FloatArray) -> FloatArray:
        """Float32 (..., h, w) to (..., H, W)."""
        return np.asarray(self.rows @ maps @ self.columns.T, np.float32)


def fine_grid(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which the score map is ranked."""
    return -(-size[0] // SHRINK), -(-size[1] // SHRINK)


@dataclass(frozen=True)
class LayerMaps:
    """The maps of the layers that are fused: how large each is, and what it counts for.

    Attributes:
        size: height and width of the input.
        grids: height and width of each layer's map.
        in_score: for each layer, whether it counts for the score; one does at least.
        in_map: for each layer, whether it counts for the map; one does at least.
        inspected: bool (H, W), inspected pixels of the input; ``None`` is all.
    """

    size: tuple[int, int]
    grids: tuple[tuple[int, int], ...]
    in_score: tuple[bool, ...]
    in_map: tuple[bool, ...]
    inspected: MaskArray | None = None

    def scoring(self, values: Sequence[Value]) -> list[Value]:
        """Return the values of the score's layers."""
        return [value for value, counts in zip(values, self.in_score, strict=True) if counts]

    def mapped(self, values: Sequence[Value]) -> list[Value]:
        """Return the values of the map's layers."""
        return [value for value, counts in zip(values, self.in_map, strict=True) if counts]

    def locations(self, grid: tuple[int, int]) -> MaskArray | None:
        """Return the inspected locations of a map, bool (P,); ``None`` is all."""
        return None if self.inspected is None else np.ravel(cells(self.inspected, grid))

    @property
    def ranked(self) -> MaskArray | None:
        """Bool, the pixels of the score map that may count for the score; ``None`` is all."""
        return None if self.inspected is None else cells(self.inspected, fine_grid(self.size))

    def count_ranked(self) -> int:
        """Return the number of pixels of the score map that may count for the score.

        Raises:
            OptionError: there are none, as the inspected region is too small.
        """
        fine = fine_grid(self.size)
        if self.inspected is None:
            return math.prod(fine)
        ranked = cells(self.inspected, fine)
        seen = any(cells(self.inspected, grid).any() for grid in self.scoring(self.grids))
        if not (seen and ranked.any()):
            raise OptionError(too_small_a_region(self.size))
        return int(ranked.sum())
