"""Scores of an evaluation as a histogram."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fre.drawing.charts import Caption, number, score_histogram
from fre.types import MaskArray

if TYPE_CHECKING:
    from fre.evaluation.figures import ScoredImage


def histogram(rows: Iterable[ScoredImage], calibration: ArrayLike, threshold: float) -> str:
    """Draw the scores of good and of defective images.

    Args:
        rows: scored images.
        calibration: (n,), scores of the good images that set the threshold; may be empty.
        threshold: score above which an image is anomalous.

    Returns:
        An ``<svg>`` element.
    """
    scores, labels = scores_and_labels(rows)
    return score_histogram(
        Caption(
            "histogram",
            "Scores of good and of defective images",
            f"{np.count_nonzero(~labels)} good and {np.count_nonzero(labels)} defective images; "
            f"the threshold is {number(threshold)}.",
        ),
        good=scores[~labels],
        defect=scores[labels],
        calibration=calibration,
        threshold=threshold,
    )


def scores_and_labels(rows: Iterable[ScoredImage]) -> tuple[NDArray[np.float64], MaskArray]:
    """Return the scores, float64 (n,), and whether each image is defective, bool (n,)."""
    rows = list(rows)
    scores = np.array([row.score for row in rows], np.float64)
    return scores, np.array([not row.sample.good for row in rows], np.bool_)
