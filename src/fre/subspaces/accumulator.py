"""Statistics of features that come in batches of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

import numpy as np

from fre.errors import OptionError
from fre.subspaces.image_statistics import BLOCK_ROWS
from fre.subspaces.protocols import S
from fre.types import FloatArray


class Accumulator(Generic[S]):
    """Statistics of features that come in batches of any size.

    Features wait until a block is full, so the result is the same to the last bit however they
    were split, as long as their order is the same.

    Example::

        of = partial(ImageStatistics.of, capacity=256)
        accumulator = Accumulator(of)
        for X in batches:
            accumulator.add(X)
        subspace = accumulator.result().fit()

    Args:
        of: makes statistics of the first features, (n, D).
        block: features that are absorbed at once, from 1.
        absorbed: `absorbed` of an accumulator that this one goes on from.
        pending: `pending` of that accumulator.

    Raises:
        OptionError: ``block`` is below 1.
    """

    def __init__(
        self,
        of: Callable[[FloatArray], S],
        *,
        block: int = BLOCK_ROWS,
        absorbed: S | None = None,
        pending: FloatArray | None = None,
    ) -> None:
        if block < 1:
            raise OptionError(f"block must be at least 1, not {block}")
        self._of = of
        self._block = block
        self._absorbed = absorbed
        self._buffer: FloatArray | None = None
        self._waiting = 0
        if pending is not None:
            self.add(pending)

    @property
    def absorbed(self) -> S | None:
        """The statistics of all full blocks; ``None`` before the first is full."""
        return self._absorbed

    @property
    def pending(self) -> FloatArray | None:
        """A copy of the features that wait, float32 (b, D), b < block; ``None`` before any."""
        return None if self._buffer is None else self._buffer[: self._waiting].copy()

    def add(self, X: FloatArray) -> None:
        """Add features.

        Args:
            X: float32 (b, D), b >= 0. Copied.

        Raises:
            OptionError: the features have another length, are not float32, or are refused by the
                statistics.
        """
        if X.ndim != 2 or X.dtype != np.float32:
            raise OptionError(f"features must be a float32 matrix, not {X.dtype} {X.shape}")
        if self._buffer is None:
            self._buffer = np.empty((self._block, X.shape[1]), np.float32)
        if X.shape[1] != self._buffer.shape[1]:
            raise OptionError(
                f"the features have {X.shape[1]} entries, and those before have "
                f"{self._buffer.shape[1]}"
            )
        done = 0
        while done < len(X):
            taken = X[done : done + self._block - self._waiting]
            self._buffer[self._waiting : self._waiting + len(taken)] = taken
            self._waiting += len(taken)
            done += len(taken)
            if self._waiting == self._block:
                self._absorbed = self._with(self._buffer)
                self._waiting = 0

    def result(self) -> S:
        """The statistics of all features so far; more can be added afterwards.

        Raises:
            OptionError: there were none.
        """
        if self._buffer is not None and self._waiting:
            return self._with(self._buffer[: self._waiting])
        if self._absorbed is None:
            raise OptionError("there are no features to make statistics of")
        return self._absorbed

    def _with(self, X: FloatArray) -> S:
        return self._of(X) if self._absorbed is None else self._absorbed.update(X)
