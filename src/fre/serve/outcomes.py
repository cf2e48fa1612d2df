"""Images on their way to a result: pending, scored or failed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from fre.errors import FREError, ImageError, InternalError
from fre.images.loading import LoadedImage
from fre.inference.prediction import Prediction
from fre.serve.loaded import LoadedModel
from fre.serve.result_rows import NewResult

log = logging.getLogger("fre.serve")


class UnjudgedError(InternalError):
    """The image can be read but has no result: fre or the model file is at fault.

    Attributes:
        reason: description of the fault, without the name of the image.
    """

    def __init__(self, name: str, reason: str) -> None:
        self.reason = f"not judged: {reason}"
        super().__init__(f"{name}: {self.reason}")


@dataclass(frozen=True)
class Outcome:
    """A result that is stored on the disk.

    Attributes:
        result: stored row, as the API shows it.
        prediction: prediction with its map.
        seconds: time from admission to the disk.
    """

    result: dict[str, Any]
    prediction: Prediction
    seconds: float


@dataclass
class PendingImage:
    """An admitted image without a result yet.

    Attributes:
        entry: model that was current at the admission.
        name: name of the image.
        source: source of the image, such as a camera.
        data: content of the image file.
        watch_key: key of a file in the watched folder, or ``None``.
        future: gets the outcome, or an `ImageError` or `UnjudgedError`.
        began: time of the admission, by ``time.perf_counter``.
        image: decoded image, once decoded.
        form: format of the image file, once known.
    """

    entry: LoadedModel
    name: str
    source: str
    data: bytes
    watch_key: str | None
    future: Future[Outcome]
    began: float
    image: LoadedImage | None = None
    form: str = ""


def score(batch: list[PendingImage]) -> list[NewResult | FREError]:
    """Score images of one model together, or one by one if that fails.

    Returns:
        For each image its result or its error: one image's failure affects no other image.
    """
    entry = batch[0].entry
    try:
        images = [job.image for job in batch if job.image is not None]
        predictions: Sequence[Prediction | ImageError] = entry.model.predict_loaded(images)
        return [
            UnjudgedError(job.name, prediction.reason)
            if isinstance(prediction, ImageError)
            else _new_result(job, image, prediction)
            for job, image, prediction in zip(batch, images, predictions, strict=True)
        ]
    except Exception as error:  # the client must get it, and the thread must live
        if len(batch) == 1:
            return [failure_of(batch[0], error)]
        # One by one each says what is wrong with it; if none does, the fault is the batch's.
        log.warning("the model %s: a batch of %d failed: %s", entry.name, len(batch), error)
    return [result for job in batch for result in score([job])]


def _new_result(job: PendingImage, image: LoadedImage, prediction: Prediction) -> NewResult:
    entry = job.entry
    return NewResult(
        model=entry.name,
        model_sha256=entry.model.sha256,
        calibration_sha256=entry.calibration_sha256,
        threshold=entry.model.threshold,
        map_range=entry.model.map_range,
        name=job.name,
        source=job.source,
        image_sha256=image.sha256,
        form=job.form,
        prediction=prediction,
        data=job.data,
        watch_key=job.watch_key,
    )


def failure_of(job: PendingImage, error: Exception) -> FREError:
    """Return the error of one image for its client; log what is not the image's fault."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, FREError):
        log.warning("the model %s: %s: %s", job.entry.name, job.name, error)
        return UnjudgedError(job.name, str(error))
    log.error("the model %s: %s", job.entry.name, job.name, exc_info=error)
    return UnjudgedError(job.name, f"{type(error).__name__}: {error}")
