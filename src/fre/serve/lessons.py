"""Reviewed results: their decisions before and after an update, and which of them are learnt."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from fre.errors import ImageError
from fre.images.loading import LoadedImage
from fre.inference.prediction import Prediction
from fre.inference.training_images import TrainingImages
from fre.model import Model
from fre.parallel import available_cores
from fre.runtimes.lanes import BATCH
from fre.serve.database import now
from fre.serve.pictures import IMAGE
from fre.serve.results import Results
from fre.types import Progress

MOST_CHECKED = 1000
"""Reviewed images, the last reviewed first, that both models score."""
MOST_CHANGES = 200
"""Results with another decision that are listed."""


@dataclass(frozen=True)
class Reviewed:
    """A reviewed image.

    Attributes:
        id: id of the result that was reviewed last.
        name: name of the image.
        verdict: ``"good"`` or ``"defect"``.
        sha256: digest of the image file.
        file: the stored image, or ``None`` if it was deleted.
    """

    id: int
    name: str
    verdict: str
    sha256: str
    file: Path | None


class Judged(NamedTuple):
    """Score of an image, and ``"pass"``, ``"review"`` or ``"fail"``."""

    score: float
    decision: str


def reviewed_images(results: Results, model: str) -> list[Reviewed]:
    """Return the reviewed images of a model, the last reviewed first."""
    rows = results.database.read().execute(
        # SQLite takes the other columns from the row of the maximum.
        "SELECT id, name, verdict, image_sha256, kept_bytes, MAX(verdict_at || id) AS last "
        "FROM results WHERE model = ? AND verdict IS NOT NULL "
        "GROUP BY image_sha256 ORDER BY last DESC",
        [model],
    )
    return [
        Reviewed(
            row["id"],
            row["name"],
            row["verdict"],
            row["image_sha256"],
            results.pictures.path(row["id"], IMAGE) if row["kept_bytes"] else None,
        )
        for row in rows
    ]


def compare(
    before: Model, after: Model, reviewed: Sequence[Reviewed], progress: Progress
) -> dict[str, Any]:
    """Score reviewed images by a model before and after an update.

    Images that the updated model was fitted to count among the changes, but not for the found
    defects and false alarms: their scores are too low.

    Args:
        before: model in use.
        after: updated model.
        reviewed: reviewed images, the last reviewed first; 1000 at most are scored.
        progress: called after each image.

    Returns:
        Counts, and the results with another decision, as the API shows them.
    """
    images = [image for image in reviewed[:MOST_CHECKED] if image.file is not None]
    learnt = _learnt(after.training_images, [image.sha256 for image in images])
    judged = _judge(before, after, [image.file for image in images if image.file], progress)
    changes: list[dict[str, Any]] = []
    counts = {when: dict.fromkeys(("tp", "fp", "fn", "tn"), 0) for when in ("before", "after")}
    n_checked = n_taught = 0
    for image, (first, second) in zip(images, judged, strict=True):
        if first is None or second is None:
            continue
        n_checked += 1
        taught = image.sha256 in learnt
        n_taught += taught
        if not taught:
            counts["before"][_kind(image, first)] += 1
            counts["after"][_kind(image, second)] += 1
        if first.decision != second.decision:
            changes.append(_change(image, first, second, taught))
    # What becomes wrong is read first.
    changes.sort(key=lambda change: (not change["wrong"], change["taught"]))
    return {
        "n_reviewed": len(reviewed),
        "n_checked": n_checked,
        "n_taught": n_taught,
        "n_deleted": sum(image.file is None for image in reviewed[:MOST_CHECKED]),
        "n_unreadable": len(images) - n_checked,
        "n_older": len(reviewed[MOST_CHECKED:]),
        "confusion": counts,
        "n_changes": len(changes),
        "changes": changes[:MOST_CHANGES],
    }


def _judge(
    before: Model, after: Model, files: Sequence[Path], progress: Progress
) -> Iterator[tuple[Judged | None, Judged | None]]:
    """Yield both models' judgements of each image; ``None`` if it can't be read or scored."""
    # An update changes neither the input nor the region: one decoding serves both models.
    loaded = before.preparation.load_many(files, workers=available_cores(), ahead=2 * BATCH)
    size = BATCH if before.geometry.tiling is None else 1
    done = 0
    while group := list(islice(loaded, size)):
        readable = [image for image in group if isinstance(image, LoadedImage)]
        outcomes = zip(*(model.predict_loaded(readable) for model in (before, after)), strict=True)
        for image in group:
            first, second = (None, None) if isinstance(image, ImageError) else next(outcomes)
            done += 1
            progress("Checking reviewed results", done, len(files))
            yield _judged(first), _judged(second)
    # A preview is kept for a while, and needs no open runtimes meanwhile.
    before.forget()
    after.forget()


def _judged(found: Prediction | ImageError | None) -> Judged | None:
    if found is None or isinstance(found, ImageError):
        return None
    return Judged(found.score, found.decision or ("fail" if found.anomalous else "pass"))


def _kind(image: Reviewed, judged: Judged) -> str:
    anomalous = judged.decision == "fail"
    if image.verdict == "defect":
        return "tp" if anomalous else "fn"
    return "fp" if anomalous else "tn"


def _change(image: Reviewed, first: Judged, second: Judged, taught: bool) -> dict[str, Any]:
    return {
        "result": image.id,
        "name": image.name,
        "image_sha256": image.sha256,
        "verdict": image.verdict,
        "taught": taught,
        "score_before": first.score,
        "score_after": second.score,
        "decision_before": first.decision,
        "decision_after": second.decision,
        "wrong": second.decision == ("pass" if image.verdict == "defect" else "fail"),
    }


def _learnt(images: TrainingImages, sha256: Sequence[str]) -> set[str]:
    """Return the digests, among some, of images that a model was fitted to."""
    return set(images.shared(TrainingImages.of(sha256, sha256)))


def match_learnt(results: Results, model: str, images: TrainingImages) -> list[dict[str, Any]]:
    """Mark the results of a model as learnt if it was fitted to their images, and only these.

    After another version of the model is put in place, other results are learnt: those that are
    not may be taught again.

    Args:
        results: all results.
        model: name of the model.
        images: training images of the model as it is now.

    Returns:
        The changed results.
    """
    moment = now()

    def change(connection: sqlite3.Connection) -> list[int]:
        rows = connection.execute(
            "SELECT id, image_sha256, learnt_at FROM results WHERE model = ? "
            "AND (learnt_at IS NOT NULL OR verdict = 'good')",
            [model],
        ).fetchall()
        learnt = _learnt(images, [row["image_sha256"] for row in rows])
        changed = [
            (None if row["learnt_at"] else moment, row["id"])
            for row in rows
            if (row["learnt_at"] is not None) != (row["image_sha256"] in learnt)
        ]
        connection.executemany("UPDATE results SET learnt_at = ? WHERE id = ?", changed)
        return [identity for _, identity in changed]

    return [results.get(identity) for identity in results.database.write(change)]
