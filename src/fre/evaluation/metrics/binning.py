"""Fixed bins of float32 that keep its order.

A sign, an exponent and 13 bits of mantissa: 8192 bins between a number and its double.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MANTISSA_BITS = 13
_SHIFT = 23 - _MANTISSA_BITS
N_BINS = 1 << (32 - _SHIFT)
_MAGNITUDE = np.int32(0x7FFFFFFF)


def to_bins(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """The bin of each value: an integer in [0, N_BINS) that never falls as the value rises."""
    # The sum turns -0.0, whose bits are far from those of 0.0, into it.
    bits = (values + np.float32(0)).view(np.int32)
    # As integers, the bits of positive floats are in order and those of negative ones reversed.
    ordered = bits ^ ((bits >> 31) & _MAGNITUDE)
    return (ordered >> _SHIFT) + np.int32(N_BINS // 2)


def lower_edge(index: int) -> float:
    """The smallest float32 of a bin."""
    # An array, because NumPy 1 widens scalars.
    ordered = np.array([(index - N_BINS // 2) << _SHIFT], dtype=np.int32)
    edge = float((ordered ^ ((ordered >> 31) & _MAGNITUDE)).view(np.float32)[0])
    # The bin of -inf begins among the bit patterns of NaN.
    return -np.inf if np.isnan(edge) else edge
