"""Check arrays: those that were stored, and those to fit to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.errors import ModelFileError, OptionError


def check_finite(sums: NDArray[np.float64] | float) -> None:
    """Refuse features whose sums, or means, are NaN or infinite.

    Raises:
        OptionError: they are.
    """
    if not np.isfinite(sums).all():
        raise OptionError("the features to fit to must be finite, and some are NaN or infinite")


def take(
    arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int | None, ...], what: str
) -> NDArray[Any]:
    """One of the arrays.

    Args:
        arrays: by name.
        name: its name.
        shape: expected shape; ``None`` allows any length.
        what: name of the thing that the arrays make up, for the message.

    Raises:
        ModelFileError: it is missing or has another shape.
    """
    if name not in arrays:
        raise ModelFileError(f"{what} lack the array {name!r}: the file is damaged or not of fre")
    found = arrays[name].shape
    fits = len(found) == len(shape) and all(
        wanted is None or length == wanted for length, wanted in zip(found, shape, strict=True)
    )
    if not fits:
        expected = " x ".join("any" if length is None else str(length) for length in shape)
        raise ModelFileError(
            f"{what} have the array {name!r} in the shape {found}, not {expected or 'a number'}: "
            "the file is damaged or not of fre"
        )
    return arrays[name]
