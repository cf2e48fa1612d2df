"""Score images of concurrent requests together, in batches.

Each model decodes its images on threads of its own, so that a slow image delays no other model.
Very large images of all models share one more thread, one at a time, which bounds the memory.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fre.errors import FREError, ImageError, InternalError
from fre.images.decode import probe
from fre.images.loading import LoadedImage
from fre.inference.prediction import Prediction
from fre.parallel import available_cores
from fre.serve.loaded import LoadedModel
from fre.serve.responses import Problem, shutting_down
from fre.serve.result_rows import NewResult
from fre.serve.results import Results

log = logging.getLogger("fre.serve")

Observer = Callable[[str, list["Outcome"]], None]
"""Called with the name of a model and the outcomes of one batch."""


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


class Batcher:
    """Takes images from file content to stored results.

    Args:
        results: history of results.
        batch_size: number of images per run of the network.
        batch_wait: time that a batch waits for images in decoding, in seconds.
        max_queue: number of pending images of one model.
        large_pixels: number of pixels above which an image uses the thread for large images.
        observer: called with scored images, before clients get their results.
    """

    def __init__(
        self,
        results: Results,
        *,
        batch_size: int,
        batch_wait: float,
        max_queue: int,
        large_pixels: int,
        observer: Observer,
    ) -> None:
        self.results = results
        self.batch_size = batch_size
        self.batch_wait = batch_wait
        self.max_queue = max_queue
        self.large_pixels = large_pixels
        self.observer = observer
        self._large = ThreadPoolExecutor(1, thread_name_prefix="fre-decode-large")
        self._large_waiting: dict[str, deque[tuple[PendingImage, _Lane]]] = {}
        self._lanes: dict[str, _Lane] = {}
        self._lock = threading.Lock()
        self._closing = False

    def depths(self) -> dict[str, int]:
        """Return the number of pending images of each model."""
        return {name: lane.admitted for name, lane in list(self._lanes.items())}

    def admit(
        self,
        entry: LoadedModel,
        images: list[tuple[str, bytes]],
        *,
        source: str,
        watch_keys: Sequence[str | None] | None = None,
    ) -> list[Future[Outcome]]:
        """Admit all of the images, or none.

        Args:
            entry: model that scores the images.
            images: name and file content of each image.
            source: source of the images.
            watch_keys: keys of files in a watched folder; ``None`` for other images.

        Returns:
            A future for each image, with its outcome, an `ImageError` or an `UnjudgedError`.

        Raises:
            Problem: too many images are pending, or the service is ending.
        """
        with self._lock:
            if self._closing:
                raise shutting_down()
            lane = self._lanes.get(entry.name)
            if lane is None:
                lane = self._lanes[entry.name] = _Lane(self, entry.name)
        lane.reserve(len(images))
        began = time.perf_counter()
        jobs = [
            PendingImage(
                entry,
                name,
                source,
                data,
                None if watch_keys is None else watch_keys[index],
                Future(),
                began,
            )
            for index, (name, data) in enumerate(images)
        ]
        for job in jobs:
            # Not cancellable any more: a leaving client must not break the batch of others.
            job.future.set_running_or_notify_cancel()
            lane.decoders.submit(self._prepare, job, lane)
        return [job.future for job in jobs]

    def _prepare(self, job: PendingImage, lane: _Lane) -> None:
        try:
            bits = job.entry.model.geometry.bits
            job.form, (height, width) = probe(job.data, name=job.name, bits=bits)
        except Exception as error:
            lane.give_up(job, _failure(job, error))
            return
        if height * width > self.large_pixels:
            with self._lock:
                self._large_waiting.setdefault(lane.name, deque()).append((job, lane))
            self._large.submit(self._decode_large)
        else:
            self._decode(job, lane)

    def _decode_large(self) -> None:
        """Decode the next large image of the model whose turn it is."""
        with self._lock:
            name = next(iter(self._large_waiting))
            waiting = self._large_waiting.pop(name)
            job, lane = waiting.popleft()
            if waiting:
                self._large_waiting[name] = waiting  # behind the other models
        self._decode(job, lane)

    def _decode(self, job: PendingImage, lane: _Lane) -> None:
        try:
            # Checked before batching: an unfit image must not fail the batch of others.
            job.image = job.entry.model.preparation.decode(job.data, job.name)
        except Exception as error:
            lane.give_up(job, _failure(job, error))
        else:
            lane.put(job)

    def close(self) -> None:
        """Finish admitted images, and stop."""
        with self._lock:
            self._closing = True
            lanes = list(self._lanes.values())
        # In this order, because decoders feed the queues of the lanes.
        for lane in lanes:
            lane.decoders.shutdown(wait=True)
        self._large.shutdown(wait=True)
        for lane in lanes:
            lane.close()


def _failure(job: PendingImage, error: Exception) -> FREError:
    """Return the error of one image for its client; log what is not the image's fault."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, FREError):
        log.warning("the model %s: %s: %s", job.entry.name, job.name, error)
        return UnjudgedError(job.name, str(error))
    log.error("the model %s: %s", job.entry.name, job.name, exc_info=error)
    return UnjudgedError(job.name, f"{type(error).__name__}: {error}")


class _Lane:
    """The images of one model: decoding threads, a queue, and a scoring thread."""

    def __init__(self, batcher: Batcher, name: str) -> None:
        self.batcher = batcher
        self.name = name
        self.admitted = 0
        self.decoders = ThreadPoolExecutor(
            available_cores(), thread_name_prefix=f"fre-decode-{name}"
        )
        self._waiting: queue.SimpleQueue[PendingImage | None] = queue.SimpleQueue()
        self._undecoded = 0
        self._count = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"fre-score-{name}", daemon=True)
        self._thread.start()

    def reserve(self, n: int) -> None:
        with self._count:
            if self.admitted + n > self.batcher.max_queue:
                raise Problem(
                    503,
                    "queue_full",
                    f"{self.admitted} images wait for the model {self.name}, and at most "
                    f"{self.batcher.max_queue} may; try again in a second",
                    retry_after=1,
                )
            self.admitted += n
            self._undecoded += n

    def give_up(self, job: PendingImage, error: FREError) -> None:
        with self._count:
            self.admitted -= 1
            self._undecoded -= 1
        job.future.set_exception(error)

    def put(self, job: PendingImage) -> None:
        # Counted down last: a reader that sees none undecoded finds all images in the queue.
        self._waiting.put(job)
        with self._count:
            self._undecoded -= 1

    def close(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        left: PendingImage | None = None
        while True:
            first = left if left is not None else self._waiting.get()
            if first is None:
                return
            batch, left, ended = self._gather(first)
            self._score(batch)
            if ended:
                return

    def _gather(self, first: PendingImage) -> tuple[list[PendingImage], PendingImage | None, bool]:
        """Return a batch for one version of the model.

        Returns:
            The batch; the next image if it is for another version; and whether the lane ends.
        """
        batch = [first]
        deadline = time.perf_counter() + self.batcher.batch_wait
        while len(batch) < self.batcher.batch_size:
            remaining = deadline - time.perf_counter()
            try:
                if remaining > 0 and self._undecoded > 0:
                    job = self._waiting.get(timeout=remaining)
                else:
                    job = self._waiting.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return batch, None, True
            if job.entry.model is not first.entry.model:
                return batch, job, False
            batch.append(job)
        return batch, None, False

    def _score(self, batch: list[PendingImage]) -> None:
        done: list[tuple[PendingImage, NewResult]] = []
        for job, result in zip(batch, _results(batch), strict=True):
            if isinstance(result, NewResult):
                done.append((job, result))
            else:
                self._release(1)
                job.future.set_exception(result)
        if done:
            # The next batch is scored while this one is written to the disk.
            written = self.batcher.results.add([result for _, result in done])
            written.add_done_callback(lambda future: self._answer(done, future))

    def _answer(
        self,
        done: list[tuple[PendingImage, NewResult]],
        written: Future[list[dict[str, Any]]],
    ) -> None:
        self._release(len(done))
        error = written.exception()
        if error is not None:
            for job, _ in done:
                job.future.set_exception(error)
            return
        end = time.perf_counter()
        outcomes = [
            Outcome(row, new.prediction, end - job.began)
            for (job, new), row in zip(done, written.result(), strict=True)
        ]
        try:
            self.batcher.observer(self.name, outcomes)
        except Exception:  # clients must get their results even if metrics fail
            log.exception("the metrics of %s", self.name)
        for (job, _), outcome in zip(done, outcomes, strict=True):
            job.future.set_result(outcome)

    def _release(self, n: int) -> None:
        with self._count:
            self.admitted -= n


def _results(batch: list[PendingImage]) -> list[NewResult | FREError]:
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
            return [_failure(batch[0], error)]
    return [result for job in batch for result in _results([job])]


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
