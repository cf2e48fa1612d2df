"""Rows of the history: what is stored, how the API shows it, and conditions on it."""

from __future__ import annotations

import base64
import json
import math
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from fre.errors import InternalError
from fre.inference.prediction import Prediction
from fre.scoring.regions import Region
from fre.serve.responses import invalid


@dataclass(frozen=True)
class NewResult:
    """A prediction to be stored.

    Attributes:
        model: name of the model.
        model_sha256: digest of the model file.
        calibration_sha256: digest of the calibration scores; p-values of equal digests compare.
        threshold: threshold of the decision.
        map_range: map range of the model.
        name: name of the image, as the client gave it.
        source: source of the image, such as a camera.
        image_sha256: digest of the image file.
        form: Pillow's name of the image format.
        prediction: prediction of the model.
        data: content of the image file.
        watch_key: key of a file in the watched folder, or ``None``.

    Raises:
        InternalError: a number is NaN or infinite. Such a result is no decision: NaN compares with
            nothing, and JSON can't express it.
    """

    model: str
    model_sha256: str
    calibration_sha256: str
    threshold: float
    map_range: tuple[float, float]
    name: str
    source: str
    image_sha256: str
    form: str
    prediction: Prediction
    data: bytes
    watch_key: str | None = None

    def __post_init__(self) -> None:
        prediction = self.prediction
        numbers: dict[str, Iterable[float]] = {
            "score": [prediction.score],
            "p-value": [prediction.p_value],
            "threshold": [self.threshold],
            "range of the map": self.map_range,
            # The extremes of an array with a NaN are NaN.
            "anomaly map": [
                float(prediction.input_map.min(initial=0)),
                float(prediction.input_map.max(initial=0)),
            ],
            "regions": (number for region in prediction.regions for number in _numbers(region)),
        }
        for what, values in numbers.items():
            for value in values:
                if not math.isfinite(value):
                    raise InternalError(f"the model gives {value} in the {what}; train it again")


def _numbers(region: Region) -> Iterator[float]:
    yield from (region.peak, *region.centroid, *region.layers.values())


@dataclass(frozen=True)
class Filters:
    """Conditions on results; ``None`` sets no condition.

    Attributes:
        model: name of the model.
        source: source of the image.
        anomalous: whether the result is anomalous.
        decision: decision of a model with a review band: ``"pass"``, ``"review"`` or ``"fail"``.
        name: text within the file name; upper and lower case of ASCII letters are the same.
        verdict: ``"good"``, ``"defect"``, ``"none"`` or ``"any"``.
        wrong: whether the verdict contradicts the decision.
        since: earliest time.
        until: time after the latest.
        after: id before the first.
    """

    model: str | None = None
    source: str | None = None
    anomalous: bool | None = None
    verdict: str | None = None
    wrong: bool | None = None
    since: str | None = None
    until: str | None = None
    after: int | None = None
    decision: str | None = None
    name: str | None = None

    def where(self) -> tuple[str, list[Any]]:
        """Return the condition in SQL, and its values."""
        clauses, values = ["1"], list[Any]()
        for column, value in (
            ("model", self.model),
            ("source", self.source),
            ("decision", self.decision),
        ):
            if value is not None:
                clauses.append(f"{column} = ?")
                values.append(value)
        if self.name is not None:
            # Escaped: % and _ stand for any text in LIKE.
            escaped = re.sub(r"([%_\\])", r"\\\1", self.name)
            clauses.append(r"name LIKE ? ESCAPE '\'")
            values.append(f"%{escaped}%")
        if self.anomalous is not None:
            clauses.append("anomalous = ?")
            values.append(int(self.anomalous))
        if self.verdict in ("good", "defect"):
            clauses.append("verdict = ?")
            values.append(self.verdict)
        elif self.verdict is not None:
            clauses.append(f"verdict IS {'NOT ' if self.verdict == 'any' else ''}NULL")
        if self.wrong is not None:
            # In the review band nothing is decided that could be wrong.
            is_wrong = "COALESCE(anomalous != (verdict = 'defect') AND decision IS NOT 'review', 0)"
            clauses.append(f"{is_wrong} = ?")
            values.append(int(self.wrong))
        for condition, bound in (
            ("created >= ?", self.since),
            ("created < ?", self.until),
            ("id > ?", self.after),
        ):
            if bound is not None:
                clauses.append(condition)
                values.append(bound)
        return " AND ".join(clauses), values


def to_result(row: sqlite3.Row) -> dict[str, Any]:
    """Return a row as the API shows it.

    Earlier versions stored numbers that are not finite; they become ``None``. A result with such a
    number is no decision, and counts as anomalous.
    """
    regions, readable = _regions(row["regions"])
    numbers = ("score", "p_value", "threshold", "pixel_threshold", "map_low", "map_high")
    found = {name: _finite(row[name]) for name in numbers}
    sound = readable and all(found[name] is not None for name in ("score", "p_value", "threshold"))
    return {
        "id": row["id"],
        "model": row["model"],
        "model_sha256": row["model_sha256"],
        "name": row["name"],
        "source": row["source"],
        "image_sha256": row["image_sha256"],
        "image_size": [row["height"], row["width"]],
        "score": found["score"],
        "p_value": found["p_value"],
        "anomalous": bool(row["anomalous"]) or not sound,
        "decision": row["decision"],
        "reason": row["reason"],
        "threshold": found["threshold"],
        "pixel_threshold": found["pixel_threshold"],
        "map_range": [found["map_low"], found["map_high"]],
        "regions": regions,
        "created": row["created"],
        "verdict": row["verdict"],
        "verdict_at": row["verdict_at"],
        "learnt_at": row["learnt_at"],
        "kept": row["kept_bytes"] > 0,
        "note": None if sound else UNSOUND,
    }


UNSOUND = (
    "the stored result holds numbers that are not finite or can't be read; it is no decision "
    "and counts as anomalous"
)


def _finite(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _regions(text: str) -> tuple[list[dict[str, Any]], bool]:
    """Return the stored regions, and whether all of their numbers are finite."""
    odd: list[str] = []
    try:
        regions = json.loads(text, parse_constant=odd.append)
    except ValueError:
        return [], False
    if not isinstance(regions, list):
        return [], False
    return regions, not odd


def to_cursor(score: float, identity: int) -> str:
    return base64.urlsafe_b64encode(f"{score!r}:{identity}".encode()).decode().rstrip("=")


def parse_cursor(cursor: str) -> tuple[float, int]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        score, identity = base64.urlsafe_b64decode(padded.encode("ascii")).decode().split(":")
        found = float(score), int(identity)
    except ValueError as error:
        raise invalid("cursor: expected the value of 'next' of the previous page") from error
    if not 0 <= found[1] < 2**63:
        raise invalid("cursor: expected the value of 'next' of the previous page")
    return found
