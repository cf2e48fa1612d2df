"""The image-wide subspace of features that are all in memory, cross-fitted."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from fre.subspaces.cross_fit import CrossFit, cross_fit, new_residuals
from fre.subspaces.gram import Gram
from fre.subspaces.image_statistics import ImageStatistics
from fre.subspaces.protocols import FitOptions
from fre.types import FloatArray

EXACT_ROWS = 3072
"""Features whose inner products are decomposed whole, which costs as the cube of their number. Of
more features only the strongest directions are kept, which costs as their number."""


def fit_image_wide(
    X: FloatArray,
    channels: int,
    folds: list[NDArray[np.intp]],
    options: FitOptions,
    capacity: int,
) -> CrossFit:
    """Fit an image-wide subspace to all features, and cross-fit their residuals.

    Args:
        X: float32 (n, D), a feature a row, flattened from (channels, P).
        channels: number of channels.
        folds: rows of each fold; two folds or more, none empty.
        options: options of the fit.
        capacity: directions to keep in the statistics; more, if the subspace has more.

    Raises:
        OptionError: ``variance`` or ``rank`` is out of range.
    """
    if len(X) > EXACT_ROWS:
        return cross_fit(
            X, channels, folds, partial(ImageStatistics.of, capacity=capacity), options
        )
    gram = Gram(X)
    statistics = ImageStatistics.of_gram(gram, capacity=max(capacity, gram.rank(options)))
    subspace = statistics.fit(options)
    return CrossFit(
        subspace,
        new_residuals(X, channels, subspace, gram.cross_fit(folds, channels, options)),
        statistics,
        coordinates_of(gram, statistics),
    )


def coordinates_of(gram: Gram, statistics: ImageStatistics) -> FloatArray | None:
    """Return `CrossFit.coordinates` for statistics that were made of these inner products."""
    return None if statistics.lost else gram.coordinates(statistics.rank).astype(np.float32)
