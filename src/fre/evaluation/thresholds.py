"""Another threshold for a fitted model.

Only the metadata of the file change; scores and maps stay the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fre.errors import DatasetError, OptionError
from fre.evaluation.metrics import max_f1
from fre.inference.model_file import with_document
from fre.model import Model
from fre.scoring.calibration import Calibration


def with_calibration(model: Model, calibration: Calibration, *, chosen: str | None = None) -> Model:
    """A copy of a model that decides by another calibration.

    Args:
        model: which stays as it is.
        calibration: such as `Calibration.at_rate` or `Calibration.at_threshold` of the model's.
        chosen: how the threshold was chosen, in words, for the file's provenance; ``None`` if
            by a false-alarm rate.
    """
    document = replace(
        model.document,
        calibration=calibration,
        provenance=replace(model.document.provenance, threshold=chosen),
    )
    return model.with_data(with_document(model.data, document.to_json()))


def max_f1_threshold(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """The threshold with the largest F1 on images whose defects are known.

    Args:
        scores: (n,), higher is more anomalous.
        labels: bool (n,), true is defective.

    Returns:
        The F1, in (0, 1], and the threshold, midway between two neighbouring scores: what is
        above it is defective.

    Raises:
        DatasetError: there are no good images, or no defective ones.
    """
    scores, labels = _checked(scores, labels)
    if labels.all():
        raise DatasetError("the largest F1 needs good test images, too; there are none")
    f1, lowest = max_f1(scores, labels)
    return f1, _below(scores, lowest)


def recall_threshold(scores: ArrayLike, labels: ArrayLike, recall: float) -> tuple[float, float]:
    """Return the highest threshold that finds a given share of known defects.

    Args:
        scores: (n,), higher is more anomalous.
        labels: bool (n,), true is defective.
        recall: share of defective images to find, in (0, 1].

    Returns:
        The reached recall, at least the requested one, and the threshold, midway between two
        neighbouring scores. Images above it are defective.

    Raises:
        OptionError: the recall is out of range.
        DatasetError: there are no defective images.
    """
    if not 0 < recall <= 1:
        raise OptionError(f"the recall must be above 0 and at most 1, not {recall}")
    scores, labels = _checked(scores, labels)
    defects = np.sort(scores[labels])[::-1]
    # The tolerance covers rounding errors, as in 0.07 * 100.
    needed = max(1, int(np.ceil(recall * len(defects) - 1e-9)))
    threshold = _below(scores, float(defects[needed - 1]))
    return float(np.mean(defects > threshold)), threshold


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    known = np.asarray(labels, bool)
    if not known.any():
        raise DatasetError("a threshold from known defects needs them; all test images are good")
    return np.asarray(scores, np.float64), known


def _below(scores: NDArray[np.float64], score: float) -> float:
    """Return the middle to the next lower score, with room for rounding of another runtime."""
    lower = scores[scores < score]
    if len(lower) == 0:
        return float(np.nextafter(score, -np.inf))
    middle = (score + float(lower.max())) / 2
    return middle if middle < score else float(lower.max())
