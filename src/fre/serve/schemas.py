"""Parameters, request bodies and response bodies of the API, with their documentation.

The bodies are plain dataclasses, which FastAPI understands. Responses are built as dictionaries;
the tests compare them with these dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import Field

from fre.serve.drift import Drift
from fre.training.findings import Finding, Group, InputAdvice, Pair


@dataclass
class ErrorDetail:
    """An error code for programs, and a sentence for people."""

    code: str
    message: str


@dataclass
class ErrorBody:
    """The body of every error."""

    error: ErrorDetail


@dataclass
class StatusBody:
    """State of the service."""

    status: str
    models: int | None = None
    note: str | None = None


@dataclass
class LimitsBody:
    """Limits for requests."""

    max_upload_bytes: int
    max_train_bytes: int
    max_staged_bytes: int
    max_pixels: int
    max_batch: int
    max_queue: int


@dataclass
class WatchInfo:
    """The watched folder, its model, and the reason why the folder can't be listed at present."""

    folder: str
    model: str | None
    error: str | None


@dataclass
class ServiceBody:
    """Version, features and limits of the service."""

    version: str
    models_folder: bool
    can_train: bool
    limits: LimitsBody
    watch: WatchInfo | None
    n_results: int
    note: str | None


@dataclass
class ModelSummary:
    """A loaded model."""

    name: str
    sha256: str
    bytes: int
    preset: str | None
    backbone: str | None
    size: list[int]
    n_images: int | None
    created: str | None
    threshold: float
    review_threshold: float | None
    n_odd: int
    false_alarm_rate: float | None
    expected_false_alarm_rate: float | None
    can_update: bool
    loaded_at: str
    error: str | None


@dataclass
class ModelFailure:
    """A model file that can't be loaded, and the reason."""

    name: str
    error: str


@dataclass
class ModelsBody:
    """All models by name, and the files that can't be loaded."""

    models: list[ModelSummary]
    errors: list[ModelFailure]


@dataclass
class ModelBody:
    """A model and the metadata of its file."""

    model: ModelSummary
    metadata: dict[str, Any]


@dataclass
class RateThreshold:
    """The threshold of a false-alarm rate.

    ``expected_false_alarm_rate`` is the sum of ``rate_of_others``, the share of ordinary good
    images that will alarm, and ``odd_share``, the share of good images as odd as the training
    images that are set aside. ``attainable`` says whether the images are enough for the rate.
    """

    false_alarm_rate: float
    threshold: float
    expected_false_alarm_rate: float
    rate_of_others: float
    odd_share: float
    attainable: bool


@dataclass
class CalibrationBody:
    """Scores of good images, and the thresholds that follow from them.

    The last ``n_odd`` of the ascending ``scores`` are of odd training images, set aside for the
    threshold. Results above ``review_threshold``, but not above ``threshold``, are for review; null
    for no such band. ``chosen`` says how a threshold was chosen that no false-alarm rate gives.
    """

    model: str
    sha256: str
    scores: list[float]
    n_odd: int
    keep_odd: bool
    threshold: float
    chosen: str | None
    review_threshold: float | None
    pixel_threshold: float
    false_alarm_rate: float | None
    expected_false_alarm_rate: float
    rate_of_others: float
    odd_share: float
    attainable_false_alarm_rate: float
    thresholds: list[RateThreshold]
    map_range: list[float]
    caveat: str | None


@dataclass
class ThresholdRequest:
    """Another threshold, review band, or both; optionally the digest of the model's file.

    Give ``threshold`` or ``false_alarm_rate``, or neither to keep the threshold. The band begins
    above ``review_threshold``, or at the threshold of ``review_rate``; ``no_review`` removes it.
    Without any of these three it stays where it is.
    """

    threshold: float | None = None
    false_alarm_rate: float | None = None
    review_threshold: float | None = None
    review_rate: float | None = None
    no_review: bool = False
    sha256: str | None = None


@dataclass
class OddRequest:
    """Whether odd training images count for the threshold like all others."""

    keep: bool
    sha256: str | None = None


@dataclass
class OddImageBody:
    """An odd training image; ``picture`` is the address of a small picture, if one is kept."""

    name: str
    score: float
    digest: str
    picture: str | None


@dataclass
class OddBody:
    """Odd training images of a model, highest score first.

    ``next_score`` is the highest score of the other images. ``note`` says why the model can't be
    trained again without them, if ``can_train_again`` is false.
    """

    model: str
    sha256: str
    images: list[OddImageBody]
    keep_odd: bool
    next_score: float | None
    can_train_again: bool
    note: str | None


@dataclass
class Confusion:
    """Defects found, good parts called defects, defects missed, and good parts passed."""

    tp: int
    fp: int
    fn: int
    tn: int


@dataclass
class InReview:
    """Defects and good parts in the review band."""

    defect: int
    good: int


@dataclass
class ReviewedBody:
    """Reviewed results of a model, by the decision at its present threshold.

    An image counts once, by its last review. ``recall`` is the share of the defects that are
    found. Intervals are of 95 %. ``n_earlier`` counts reviewed images of an earlier version of the
    model, whose scores do not compare. ``lines`` says it all in words.
    """

    model: str
    sha256: str
    threshold: float
    review_threshold: float | None
    n_defect: int
    n_good: int
    confusion: Confusion
    in_review: InReview | None
    recall: float | None
    recall_interval: list[float] | None
    false_alarm_rate: float | None
    false_alarm_rate_interval: list[float] | None
    n_earlier: int
    lines: list[str]


@dataclass
class RegionBody:
    """A region of the anomaly map above the pixel threshold, in pixels of the original image."""

    bbox: list[int]
    area: int
    peak: float
    peak_xy: list[int]
    centroid: list[float]
    layers: dict[str, float] = field(default_factory=dict)


@dataclass
class MapBody:
    """An anomaly map at the size of the image, as a base64 file."""

    format: Literal["png", "npy"]
    data: str
    range: list[float]


@dataclass
class PredictionItem:
    """Prediction for one image."""

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
    decision: Literal["pass", "review", "fail"] | None = None
    reason: str | None = None
    map: MapBody | None = None


@dataclass
class UnreadableItem:
    """An image that can't be read, among others that can."""

    name: str
    error: str


@dataclass
class PredictBody:
    """One item for each image, in order."""

    model: str
    model_sha256: str
    predictions: list[PredictionItem | UnreadableItem]


@dataclass
class ResultInfo:
    """A stored result, with the thresholds and the map range of its prediction.

    A number of an old result that is not finite is null, and ``note`` says so. ``reason`` says
    why the image is anomalous whatever its score, such as a black image; usually it is null.
    ``decision`` is null if the model had no review band; ``"fail"`` is the same as anomalous.
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
    decision: Literal["pass", "review", "fail"] | None
    reason: str | None
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
    """A page of results; ``next`` is the cursor of the next page."""

    results: list[ResultInfo]
    next: str | None
    total: int


@dataclass
class VerdictRequest:
    """Verdict of a reviewer; null removes it."""

    verdict: Literal["good", "defect"] | None


@dataclass
class Bucket:
    """A time span."""

    start: str
    n: int
    n_anomalous: int
    rate: float | None


@dataclass
class RateBody:
    """Anomalous rate over time, oldest span first."""

    model: str
    bucket_seconds: int
    buckets: list[Bucket]


@dataclass(frozen=True)
class DriftBody(Drift):
    """Result of the test whether recent parts still look like the good images."""

    model: str
    test: str
    significance: float


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
    """Result of a training or an update; only updates have the last three fields.

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
    """The token, in exchange for a cookie."""

    token: str


TIME_PATTERN = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?(Z|[+-]\d\d:\d\d)$"
MOST_NAMES = 1000
SOURCE_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"

Model = Annotated[str, Path(description="Name of the model.", examples=["plate"])]
Identity = Annotated[int, Path(description="Id of the result.", ge=1, examples=[1])]
JobIdentity = Annotated[int, Path(description="Id of the job.", ge=1, examples=[1])]
OneModel = Annotated[str | None, Query(description="Only results of this model.", max_length=200)]
OneSource = Annotated[str | None, Query(description="Only results of this source.", max_length=64)]
Source = Annotated[
    str,
    Query(description="Source of the images, such as a camera.", pattern=SOURCE_PATTERN),
]
Side = Annotated[
    int | None, Query(ge=32, le=2048, description="Longest side of the picture, in pixels.")
]
Anomalous = Annotated[bool | None, Query(description="Only anomalous results, or only others.")]
Decided = Annotated[
    Literal["pass", "review", "fail"] | None,
    Query(description="Only results with this decision of a model with a review band."),
]
Digest = Annotated[
    str,
    Path(
        description="Digest of the training image.",
        pattern=r"^[0-9a-f]{16}$",
        examples=["0123456789abcdef"],
    ),
]
Without = Annotated[
    list[Annotated[str, Field(max_length=1024)]] | None,
    Query(description="Names of images to leave out.", max_length=MOST_NAMES),
]
Verdict = Annotated[
    Literal["good", "defect", "none", "any"] | None,
    Query(description="Only results with this verdict of a reviewer, without one, or with any."),
]
Wrong = Annotated[
    bool | None,
    Query(description="Only results whose verdict contradicts the decision, or only others."),
]
Since = Annotated[
    str | None,
    Query(
        description="Earliest time, RFC 3339.",
        pattern=TIME_PATTERN,
        examples=["2026-01-31T08:00:00Z"],
    ),
]
Until = Annotated[
    str | None,
    Query(
        description="Time after the latest result, RFC 3339.",
        pattern=TIME_PATTERN,
        examples=["2126-01-31T08:00:00Z"],
    ),
]
After = Annotated[int | None, Query(description="Only results with a higher id.", ge=0, lt=2**63)]
