"""The calibration that a training or update ends with, small enough to stay with its record."""

from __future__ import annotations

from typing import Any

import numpy as np

from fre.model import Model

MAX_SCORES = 200


def run_calibration(model: Model) -> dict[str, Any]:
    """Return the calibration of a model as it is now, to be kept with the run that made it.

    The model's file may get another threshold, or be replaced; the record of the run stays.

    Args:
        model: as it was saved.

    Returns:
        Digest of the model, thresholds, range of the map, number of calibration scores, and the
        scores in ascending order; of more than 200 only as many quantiles.
    """
    calibration = model.calibration
    scores = np.sort(np.asarray(calibration.scores, np.float64))
    shown = scores
    if len(scores) > MAX_SCORES:
        shown = np.quantile(scores, np.linspace(0, 1, MAX_SCORES))
    return {
        "sha256": model.sha256,
        "n_scores": len(scores),
        "scores": shown.tolist(),
        "threshold": calibration.threshold,
        "pixel_threshold": calibration.pixel_threshold,
        "map_range": list(calibration.map_range),
    }
