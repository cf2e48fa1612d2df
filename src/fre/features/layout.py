"""Layout of a flat feature: layer, channels, grid and pooling."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fre.errors import OptionError
from fre.types import FloatArray


def pool_features(X: FloatArray, fine: FeatureLayout, coarse: FeatureLayout) -> FloatArray:
    """Pool features that were extracted without pooling, as the graph would.

    Args:
        X: float32 (n, D), in the layout ``fine``.
        fine: layout without pooling.
        coarse: layout of the same layer, with pooling.

    Returns:
        float32 (n, D'), in the layout ``coarse``.
    """
    maps = X.reshape(len(X), -1, *fine.grid)
    rows = pooling_matrix(fine.grid[0], coarse.pooled[0])
    columns = pooling_matrix(fine.grid[1], coarse.pooled[1])
    pooled: FloatArray = np.matmul(np.matmul(rows, maps), columns.T)
    return pooled.reshape(len(X), coarse.dimension)


def combined_digest(digests: Iterable[str]) -> str:
    """Return one digest of many: that of ``sha256sum FILES | cut -c1-64 | sort | sha256sum``."""
    lines = "".join(f"{digest}\n" for digest in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


@dataclass(frozen=True)
class FeatureLayout:
    """Layout of a flat feature: a layer's feature map after average pooling.

    Attributes:
        layer: name of the layer.
        channels: number of channels.
        grid: height and width of the feature map before pooling.
        pool: side of the pooling windows, in locations.
    """

    layer: str
    channels: int
    grid: tuple[int, int]
    pool: int

    def __post_init__(self) -> None:
        if not 1 <= self.pool <= min(self.grid):
            raise OptionError(
                f"pool must be between 1 and {min(self.grid)}, the smaller side of the feature "
                f"map of {self.layer}, not {self.pool}"
            )

    @property
    def pooled(self) -> tuple[int, int]:
        """Height and width after pooling, rounded up: no location is left out."""
        return -(-self.grid[0] // self.pool), -(-self.grid[1] // self.pool)

    @property
    def dimension(self) -> int:
        """Length of the flat feature."""
        return self.channels * self.pooled[0] * self.pooled[1]


def pooling_matrix(source: int, target: int) -> FloatArray:
    """Return the matrix of average pooling along one axis, with windows spread evenly.

    Windows overlap where ``target`` does not divide ``source``, as in adaptive pooling.

    Returns:
        float32 (target, source): its rows sum to 1.
    """
    matrix = np.zeros((target, source), np.float32)
    for row in range(target):
        start, stop = row * source // target, -(-(row + 1) * source // target)
        matrix[row, start:stop] = 1 / (stop - start)
    return matrix
