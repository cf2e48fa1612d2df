"""A loaded model of the service, and how lists of models show it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fre.model import Model
from fre.scoring.calibration import Calibration
from fre.serve.responses import conflict
from fre.serve.thresholds import calibration_body


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model.

    Attributes:
        name: stem of the file.
        path: model file.
        model: model, ready to run.
        calibration_sha256: digest of the calibration scores.
        loaded_at: time of loading.
        error: reason why the present file can't be loaded, if ``model`` is its earlier version.
    """

    name: str
    path: Path
    model: Model
    calibration_sha256: str
    loaded_at: str
    error: str | None = None

    @property
    def can_update(self) -> bool:
        """Whether the file contains the statistics that an update needs."""
        return self.model.document.can_update

    def check_file(self) -> None:
        """Refuse to change the model while its present file can't be loaded.

        Raises:
            Problem: the file can't be loaded; an earlier version serves.
        """
        if self.error is not None:
            raise conflict(f"the file of {self.name} can't be read: {self.error}")

    def summary(self) -> dict[str, Any]:
        """Return the model as lists of models show it."""
        document, calibration = self.model.document, self.model.calibration
        return {
            "name": self.name,
            "sha256": self.model.sha256,
            "bytes": len(self.model.data),
            "preset": document.preset,
            "backbone": document.backbone.name,
            "size": list(self.model.size),
            "n_images": document.provenance.n_images,
            "created": document.provenance.created,
            "threshold": calibration.threshold,
            "review_threshold": calibration.review_threshold,
            "n_odd": calibration.n_odd,
            "false_alarm_rate": calibration.false_alarm_rate,
            "expected_false_alarm_rate": calibration.expected_rate,
            "can_update": self.can_update,
            "loaded_at": self.loaded_at,
            "error": self.error,
        }

    def calibration(self) -> dict[str, Any]:
        """Return the complete calibration."""
        return calibration_body(self.name, self.model)


def calibration_digest(calibration: Calibration) -> str:
    """Return the SHA-256 of the calibration scores, hexadecimal."""
    scores = np.ascontiguousarray(calibration.scores, np.float64)
    return hashlib.sha256(scores.tobytes()).hexdigest()
