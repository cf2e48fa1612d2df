"""Bodies of versions and of prepared updates, with their documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fre.serve.schemas import Confusion
from fre.serve.versions import Why


@dataclass
class SaveBody:
    """A time that a model file was put in place; ``by`` is null if the client is unknown."""

    at: str
    by: str | None
    why: Why


@dataclass
class VersionInfo:
    """A file of a model that is kept; ``id`` is its SHA-256.

    The saves of a model are numbered; ``number`` belongs to the last save of this file. ``saves``
    come newest first, and ``at``, ``by`` and ``why`` repeat the newest.
    """

    id: str
    number: int
    at: str
    by: str | None
    why: Why
    current: bool
    bytes: int
    n_images: int | None
    threshold: float
    review_threshold: float | None
    expected_false_alarm_rate: float | None
    saves: list[SaveBody]


@dataclass
class VersionsBody:
    """The versions of a model; ``keep`` are kept beside the present one."""

    model: str
    keep: int
    versions: list[VersionInfo]


@dataclass
class ApplyRequest:
    """Digest of the previewed model, so that no other model is applied."""

    sha256: str


@dataclass
class NewImage:
    """An image to learn, and the address of a small picture of it."""

    name: str
    picture: str


@dataclass
class DecisionFacts:
    """Training images, thresholds and expected false alarms of a model."""

    n_images: int
    threshold: float
    review_threshold: float | None
    expected_false_alarm_rate: float
    rate_of_others: float
    odd_share: float


@dataclass
class ReviewedBeforeAfter:
    """Decisions on reviewed parts before and after an update."""

    before: Confusion
    after: Confusion


@dataclass
class ChangedResult:
    """A reviewed result whose decision changes; ``taught`` if the updated model learns its image.

    ``wrong`` says that the new decision contradicts the verdict.
    """

    result: int
    name: str
    image_sha256: str
    verdict: Literal["good", "defect"]
    taught: bool
    score_before: float
    score_after: float
    decision_before: Literal["pass", "review", "fail"]
    decision_after: Literal["pass", "review", "fail"]
    wrong: bool


@dataclass
class ReviewedChanges:
    """Reviewed images, scored by the model before and after an update.

    Of ``n_reviewed`` images ``n_checked`` were scored. The others were deleted to limit the disk
    space (``n_deleted``), can't be read, or were reviewed before the last thousand (``n_older``).
    ``confusion`` leaves out the ``n_taught`` checked images that the updated model learnt: their
    scores are too low. ``changes`` are at most 200 of the ``n_changes``.
    """

    n_reviewed: int
    n_checked: int
    n_taught: int
    n_deleted: int
    n_unreadable: int
    n_older: int
    confusion: ReviewedBeforeAfter
    n_changes: int
    changes: list[ChangedResult]


@dataclass
class PreviewBody:
    """A prepared update, and the changes that it would bring.

    ``sha256`` is the digest of the updated model, ``before_sha256`` the digest of the model before
    it. ``images`` are at most 50 of the ``n_images`` to learn.
    """

    model: str
    sha256: str
    before_sha256: str
    n_images: int
    images: list[NewImage]
    before: DecisionFacts
    after: DecisionFacts
    reviewed: ReviewedChanges
