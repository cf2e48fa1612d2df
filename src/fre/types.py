"""Types of arrays and callbacks that several rooms share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

ImageArray: TypeAlias = NDArray[np.uint8]
"""uint8, (H, W, 3), RGB."""
FloatArray: TypeAlias = NDArray[np.float32]
MaskArray: TypeAlias = NDArray[np.bool_]
"""bool, (H, W), true marks a defect."""
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with the name of the work, the number of items done, and the number of all items."""
