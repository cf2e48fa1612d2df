"""The shapes of bodies and answers: checked on the way in, documented on the way out.

Plain dataclasses, which FastAPI understands. Answers are built as dictionaries; the tests compare
them with these.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import Path, Query


@dataclass
class ErrorDetail:
    """What is wrong: a word for machines, a sentence for people."""

    code: str
    message: str


@dataclass
class ErrorBody:
    """Every error has this shape."""

    error: ErrorDetail


@dataclass
class StatusBody:
    """Whether the service is there."""

    status: str
    models: int | None = None
    note: str | None = None


@dataclass
class LimitsBody:
    """What the service refuses."""

    max_upload_bytes: int
    max_train_bytes: int
    max_staged_bytes: int
    max_pixels: int
    max_batch: int
    max_queue: int


@dataclass
class WatchInfo:
    """The folder that is followed, the model that judges, and why it can't be listed just now."""

    folder: str
    model: str | None
    error: str | None


@dataclass
class ServiceBody:
    """What the service is and can."""

    version: str
    models_folder: bool
    can_train: bool
    limits: LimitsBody
    watch: WatchInfo | None
    n_results: int
    note: str | None


@dataclass
class ModelSummary:
    """A model that serves."""

    name: str
    sha256: str
    bytes: int
    preset: str | None
    backbone: str | None
    size: list[int]
    n_images: int | None
    created: str | None
    threshold: float
    false_alarm_rate: float | None
    expected_false_alarm_rate: float | None
    can_update: bool
    loaded_at: str
    error: str | None


@dataclass
class ModelFailure:
    """A model file that can't be loaded, and why."""

    name: str
    error: str


@dataclass
class ModelsBody:
    """All models, by name, and the files that can't be loaded."""

    models: list[ModelSummary]
    errors: list[ModelFailure]


@dataclass
class ModelBody:
    """A model, and what its file says of itself."""

    model: ModelSummary
    metadata: dict[str, Any]


@dataclass
class CalibrationBody:
    """Scores of good images, and the decision that is made by them."""

    model: str
    sha256: str
    scores: list[float]
    threshold: float
    pixel_threshold: float
    false_alarm_rate: float | None
    expected_false_alarm_rate: float | None
    attainable_false_alarm_rate: float
    map_range: list[float]
    caveat: str | None


@dataclass
class ThresholdRequest:
    """Exactly one of the two, and optionally the digest of the file that it was chosen for."""

    threshold: float | None = None
    false_alarm_rate: float | None = None
    sha256: str | None = None


@dataclass
class RegionBody:
    """A part of the map above the pixel threshold; pixels of the original image."""

    bbox: list[int]
    area: int
    peak: float
    peak_xy: list[int]
    centroid: list[float]
    layers: dict[str, float] = field(default_factory=dict)


@dataclass
class MapBody:
    """An anomaly map at the size of the image, as a file in base64."""

    format: Literal["png", "npy"]
    data: str
    range: list[float]


@dataclass
class PredictionItem:
    """What the model says of one image."""

    id: int
    name: str
    score: float
    p_value: float
    anomalous: bool
    regions: list[RegionBody]
    image_sha256: str
    image_size: list[int]
    threshold: float
    created: str
    reason: str | None = None
    map: MapBody | None = None


@dataclass
class UnreadableItem:
    """An image that can't be read, among others that can."""

    name: str
    error: str


@dataclass
class PredictBody:
    """An item for each image, in order."""

    model: str
    model_sha256: str
    predictions: list[PredictionItem | UnreadableItem]


@dataclass
class ResultInfo:
    """A result, with the thresholds and the range of the map that it was judged and drawn by.

    A number of an old result that is not finite is null, and ``note`` says so.
    """

    id: int
    model: str
    model_sha256: str
    name: str
    source: str
    image_sha256: str
    image_size: list[int]
    score: float | None
    p_value: float | None
    anomalous: bool
    threshold: float | None
    pixel_threshold: float | None
    map_range: list[float | None]
    regions: list[RegionBody]
    created: str
    verdict: Literal["good", "defect"] | None
    verdict_at: str | None
    learnt_at: str | None
    kept: bool
    note: str | None


@dataclass
class ResultBody:
    """One result."""

    result: ResultInfo


@dataclass
class ResultsBody:
    """A page of results; ``next`` is the cursor of the next one."""

    results: list[ResultInfo]
    next: str | None
    total: int


@dataclass
class VerdictRequest:
    """What the part is, by a reviewer; null takes it back."""

    verdict: Literal["good", "defect"] | None


@dataclass
class Bucket:
    """A span of time."""

    start: str
    n: int
    n_anomalous: int
    rate: float | None


@dataclass
class RateBody:
    """Anomalous rate over time, oldest first."""

    model: str
    bucket_seconds: int
    buckets: list[Bucket]


@dataclass
class DriftBody:
    """Whether recent parts still look like the good ones."""

    model: str
    test: str
    n: int
    n_calibration: int
    enough: bool
    statistic: float | None
    p_value: float | None
    significance: float
    warning: bool
    direction: Literal["higher", "lower"] | None
    message: str


@dataclass
class JobProgress:
    """How far a job is with one of its tasks."""

    task: str
    done: int
    total: int


@dataclass
class SkippedImage:
    """An image that was left out."""

    name: str
    error: str


@dataclass
class RunCalibration:
    """Calibration of the model that a training or update made, as it was at its end.

    ``scores`` are at most 200 quantiles of the ``n_scores`` calibration scores.
    """

    sha256: str
    n_scores: int
    scores: list[float]
    threshold: float
    pixel_threshold: float
    map_range: list[float]


@dataclass
class JobResult:
    """What a training made, or an update, which alone has the last three."""

    model: str
    n_images: int
    seconds: float
    threshold: float
    skipped: list[SkippedImage]
    caveat: str | None
    near_duplicates: int
    calibration: RunCalibration | None = None
    n_added: int | None = None
    n_accepted_anomalous: int | None = None
    previous_threshold: float | None = None


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


@dataclass
class SampleInfo:
    """An image that the service draws."""

    id: str
    kind: str
    url: str


@dataclass
class SamplesBody:
    """All samples."""

    samples: list[SampleInfo]


@dataclass
class SessionRequest:
    """The token, for a cookie."""

    token: str


TIME_PATTERN = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?(Z|[+-]\d\d:\d\d)$"
SOURCE_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"

Model = Annotated[str, Path(description="Name of the model.", examples=["plate"])]
Identity = Annotated[int, Path(description="Id of the result.", ge=1, examples=[1])]
JobIdentity = Annotated[int, Path(description="Id of the job.", ge=1, examples=[1])]
OneModel = Annotated[str | None, Query(description="Only of this model.", max_length=200)]
OneSource = Annotated[str | None, Query(description="Only of this source.", max_length=64)]
Source = Annotated[
    str,
    Query(description="A word that groups results, such as a camera.", pattern=SOURCE_PATTERN),
]
Side = Annotated[
    int | None, Query(ge=32, le=2048, description="The longest side at most, in pixels.")
]
Anomalous = Annotated[bool | None, Query(description="Only those that were, or were not.")]
Verdict = Annotated[
    Literal["good", "defect", "none", "any"] | None,
    Query(description="Only those with this verdict of a reviewer, with none, or with any."),
]
Wrong = Annotated[
    bool | None, Query(description="Only those whose verdict contradicts the decision, or not.")
]
Since = Annotated[
    str | None,
    Query(
        description="RFC 3339; from then on.",
        pattern=TIME_PATTERN,
        examples=["2026-01-31T08:00:00Z"],
    ),
]
Until = Annotated[
    str | None,
    Query(
        description="RFC 3339; before then.",
        pattern=TIME_PATTERN,
        examples=["2126-01-31T08:00:00Z"],
    ),
]
After = Annotated[int | None, Query(description="Only ids above this one.", ge=0, lt=2**63)]
