"""Request bodies and response bodies of the API, with their documentation.

The bodies are plain dataclasses, which FastAPI understands. Responses are built as dictionaries;
the tests compare them with these dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import StrictBool, StrictFloat

from fre.serve.drift import Drift


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
    """The source, its model, and the reason why it gives no images at present."""

    folder: str
    model: str | None
    error: str | None


@dataclass
class ServiceBody:
    """Version, features and limits of the service, and the role of the client."""

    version: str
    role: Literal["operator", "engineer"]
    token_needed: bool
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

    threshold: StrictFloat | None = None
    false_alarm_rate: StrictFloat | None = None
    review_threshold: StrictFloat | None = None
    review_rate: StrictFloat | None = None
    no_review: StrictBool = False
    sha256: str | None = None


@dataclass
class OddRequest:
    """Whether odd training images count for the threshold like all others."""

    keep: StrictBool
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
    min_parts: int
    min_calibration: int


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
