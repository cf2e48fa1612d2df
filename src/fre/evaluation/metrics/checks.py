"""Checks of scores, labels, maps and options, with a one-line error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fre.errors import OptionError
from fre.evaluation.metrics.arrays import DoubleArray
from fre.types import MaskArray


def check_pair(scores: ArrayLike, labels: ArrayLike) -> tuple[DoubleArray, MaskArray]:
    values, truth = check_scores(scores), check_labels(labels, "labels")
    if values.shape != truth.shape:
        raise OptionError(
            f"scores and labels must have one shape, found {values.shape} and {truth.shape}"
        )
    n_defective = int(np.count_nonzero(truth))
    check_both_kinds(n_defective, truth.size - n_defective, "items")
    return values.ravel(), truth.ravel()


def check_scores(scores: ArrayLike, dtype: type[Any] = np.float64) -> NDArray[Any]:
    values = as_array(scores, "scores")
    if values.dtype.kind not in "biuf":
        raise OptionError(f"scores must be real numbers, found {values.dtype}")
    if np.isnan(values).any():
        raise OptionError(f"scores hold NaN ({np.count_nonzero(np.isnan(values))} of them)")
    return values.astype(dtype, copy=False)


def check_labels(labels: ArrayLike, name: str) -> MaskArray:
    truth = as_array(labels, name)
    if truth.dtype == np.bool_:
        return truth
    if truth.dtype.kind not in "iuf" or not np.isin(truth, (0, 1)).all():
        raise OptionError(f"{name} must be bool, or 0 (good) and 1 (defective)")
    return truth.astype(np.bool_)


def as_array(values: ArrayLike, name: str) -> NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise OptionError(f"{name} must be an array: {error}") from error


def check_maps(
    maps: Sequence[ArrayLike], masks: Sequence[ArrayLike | None]
) -> Iterator[tuple[DoubleArray, MaskArray | None]]:
    if len(maps) != len(masks):
        raise OptionError(
            f"there must be a mask (or None) for each map, found {len(maps)} maps and "
            f"{len(masks)} masks"
        )
    for anomaly_map, mask in zip(maps, masks, strict=True):
        values = check_map(check_scores(anomaly_map))
        yield values, None if mask is None else check_mask(mask, values)


def check_map(values: NDArray[Any]) -> NDArray[Any]:
    if values.ndim != 2:
        raise OptionError(f"a map must have shape (H, W), found {values.shape}")
    return values


def check_mask(mask: ArrayLike, values: NDArray[Any]) -> MaskArray:
    truth = check_labels(mask, "a mask")
    if truth.shape != values.shape:
        raise OptionError(
            f"a mask must have the shape of its map, found {truth.shape} and {values.shape}"
        )
    return truth


def check_both_kinds(n_defective: int, n_good: int, what: str) -> None:
    if n_defective == 0 or n_good == 0:
        raise OptionError(
            f"the figure needs good and defective {what}, found {n_good} good and "
            f"{n_defective} defective"
        )


def check_resampling(n: int) -> None:
    if n < 1:
        raise OptionError(f"n must be at least 1, found {n}")


def check_level(level: float) -> None:
    if not 0 < level < 1:
        raise OptionError(f"level must be between 0 and 1, found {level}")


def check_bounds(fpr_bounds: tuple[float, float]) -> None:
    low, high = fpr_bounds
    if not 0 < low < high <= 1:
        raise OptionError(f"fpr_bounds must be 0 < low < high <= 1, found {fpr_bounds}")


def check_limit(fpr_limit: float) -> None:
    if not 0 < fpr_limit <= 1:
        raise OptionError(f"fpr_limit must be in (0, 1], found {fpr_limit}")
