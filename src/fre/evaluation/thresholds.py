"""Thresholds from images whose defects are known, and what a threshold finds among them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fre.errors import DatasetError, OptionError
from fre.evaluation.metrics import max_f1


@dataclass(frozen=True)
class KnownScores:
    """Scores of test images whose defects are known.

    Attributes:
        name: name of the dataset.
        scores: float64 (n,), higher is more anomalous.
        labels: bool (n,), true is defective.
    """

    name: str
    scores: NDArray[np.float64]
    labels: NDArray[np.bool_]

    @classmethod
    def of(cls, name: str, scores: ArrayLike, labels: ArrayLike) -> KnownScores:
        """Return the scores of a dataset."""
        return cls(name, np.asarray(scores, np.float64), np.asarray(labels, bool))

    def at(self, threshold: float) -> dict[str, Any]:
        """Return what a threshold finds, and its false alarms, as plain JSON values."""
        above = self.scores > threshold
        n_defect, n_good = int(self.labels.sum()), int((~self.labels).sum())
        found, false = int((above & self.labels).sum()), int((above & ~self.labels).sum())
        return {
            "dataset": self.name,
            "n_defect": n_defect,
            "found": found,
            "recall": found / n_defect if n_defect else None,
            "n_good": n_good,
            "false_alarms": false,
            "false_alarm_rate_observed": false / n_good if n_good else None,
        }


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
