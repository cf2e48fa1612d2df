"""The message about one image: the only place that decides what a receiver gets."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fre.errors import ImageError
from fre.inference.prediction import Prediction, prediction_row
from fre.line.frame import Frame
from fre.model import Model


@dataclass(frozen=True)
class ModelFacts:
    """The model and thresholds that a decision was made with.

    Attributes:
        name: name of the model.
        sha256: digest of the model file, hexadecimal.
        threshold: score above which an image is anomalous.
        pixel_threshold: map value at or above which a pixel belongs to a region.
        map_range: fixed scale of heat maps, low and high.
    """

    name: str
    sha256: str
    threshold: float
    pixel_threshold: float
    map_range: tuple[float, float]

    @classmethod
    def of(cls, name: str, model: Model) -> ModelFacts:
        """Return the facts of a loaded model."""
        pixel = model.calibration.pixel_threshold
        return cls(name, model.sha256, model.threshold, pixel, model.map_range)


@dataclass(frozen=True)
class Judgement:
    """The result of one frame.

    Attributes:
        result: prediction, or the reason why there is none.
        model: model that gave it.
        stored: id of the result in the history of ``fre serve``, or ``None``.
    """

    result: Prediction | ImageError
    model: ModelFacts
    stored: int | None = None


def decision(result: Prediction | ImageError) -> str:
    """Return ``"pass"``, ``"fail"``, or ``"error"`` for an image without a score."""
    if isinstance(result, ImageError):
        return "error"
    return "fail" if result.anomalous else "pass"


def payload(
    frame: Frame, judgement: Judgement, *, source: str, dropped: int, picture: Path | None = None
) -> dict[str, Any]:
    """Return the message about one frame, without its id; docs/line.md describes the keys.

    Args:
        frame: scored frame.
        judgement: its result.
        source: name of its source.
        dropped: number of frames of the source that were dropped so far.
        picture: file of the image, if it was kept.
    """
    model = judgement.model
    optional = {
        "part": frame.part,
        "position": frame.position,
        "result": judgement.stored,
        "picture": None if picture is None else str(picture),
    }
    return {
        **prediction_row(judgement.result, frame.name),
        "decision": decision(judgement.result),
        "threshold": model.threshold,
        "pixel_threshold": model.pixel_threshold,
        "model": model.name,
        "model_sha256": model.sha256,
        "source": source,
        "number": frame.number,
        "dropped": dropped,
        "taken": _stamp(frame.taken),
        "time": _stamp(time.time()),
        **{key: value for key, value in optional.items() if value is not None},
    }


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")
