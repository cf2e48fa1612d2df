"""Response bodies of checks, trainings, updates and jobs, with their documentation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fre.serve.schemas import ErrorDetail
from fre.serve.version_schemas import PreviewBody
from fre.training.findings import Finding, Group, InputAdvice, Pair


@dataclass
class InputViewBody:
    """Inputs of the network for one image, if all training images had its size.

    ``size`` is height and width of an input in pixels; ``inputs`` are PNG files in base64, 12 tiles
    at most of ``n_inputs``. Defects from ``visible`` image pixels on are found; ``notes`` says it
    in words. What is not inspected has one colour.
    """

    image_size: list[int]
    size: list[int]
    visible: float | None
    notes: list[str]
    n_inputs: int
    inputs: list[str]


@dataclass
class JobProgress:
    """Progress of a job in its present task."""

    task: str
    done: int
    total: int


@dataclass
class SkippedImage:
    """An image that was left out, and the reason."""

    name: str
    error: str


@dataclass
class SizeCount:
    """Number of images of one size, in pixels."""

    height: int
    width: int
    n: int


@dataclass
class AspectRange:
    """Width over height of the images."""

    min: float
    median: float
    max: float


@dataclass
class CheckBody:
    """Check of good images before a training; ``lines`` says it all in words."""

    n_images: int
    unreadable: list[SkippedImage]
    sizes: list[SizeCount]
    aspects: AspectRange
    equal: str | None
    n_near_duplicates: int
    closest: list[Pair]
    odd: list[Finding]
    outliers: list[Finding]
    n_quick: int
    groups: list[Group]
    false_alarm_rate: float
    attainable_rate: float
    images_needed: int
    input: InputAdvice
    lines: list[str]


@dataclass
class RunCalibration:
    """Calibration of the model that a training or update made, as it was at the end of the job.

    ``scores`` are at most 200 quantiles of the ``n_scores`` calibration scores.
    """

    sha256: str
    n_scores: int
    scores: list[float]
    threshold: float
    pixel_threshold: float
    map_range: list[float]
    review_threshold: float | None = None
    false_alarm_rate: float | None = None
    attainable_false_alarm_rate: float | None = None
    expected_false_alarm_rate: float | None = None
    rate_of_others: float | None = None
    odd_share: float | None = None


@dataclass
class OddScore:
    """Name and held-out score of an odd training image."""

    name: str
    score: float


@dataclass
class JobResult:
    """Result of a training, an update, or the preview of one.

    Updates and previews have ``n_added``, ``n_accepted_anomalous`` and ``previous_threshold``.
    ``left_out`` names images that were left out on request. Jobs of earlier versions of fre lack
    ``review_threshold``, ``odd``, ``left_out`` and ``note``.
    """

    model: str
    n_images: int
    seconds: float
    threshold: float
    skipped: list[SkippedImage]
    caveat: str | None
    near_duplicates: int
    calibration: RunCalibration | None = None
    review_threshold: float | None = None
    odd: list[OddScore] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    note: str | None = None
    n_added: int | None = None
    n_accepted_anomalous: int | None = None
    previous_threshold: float | None = None
    preview: PreviewBody | None = None


@dataclass
class JobInfo:
    """A job."""

    id: int
    kind: str
    model: str
    state: Literal["queued", "running", "done", "failed", "cancelled"]
    progress: JobProgress | None
    created: str
    started: str | None
    finished: str | None
    error: ErrorDetail | None
    result: JobResult | None


@dataclass
class JobBody:
    """One job."""

    job: JobInfo


@dataclass
class JobsBody:
    """The last jobs, newest first."""

    jobs: list[JobInfo]
