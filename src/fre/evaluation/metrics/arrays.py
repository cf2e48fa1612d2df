"""Types and constants that the figures share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.types import MaskArray

DoubleArray: TypeAlias = NDArray[np.float64]
Metric: TypeAlias = Callable[[DoubleArray, MaskArray], float]

AUPIMO_FPR_BOUNDS = (1e-5, 1e-4)
"""Between these false-positive rates of good images AUPIMO's authors average the recall."""
