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
from typing import Any

from fre.errors import FREError
from fre.images.decode import probe
from fre.parallel import available_cores
from fre.runtimes.lanes import Sharing
from fre.serve.loaded import LoadedModel
from fre.serve.outcomes import Outcome, PendingImage, failure_of, score
from fre.serve.responses import Problem, shutting_down
from fre.serve.result_rows import NewResult
from fre.serve.results import Results

log = logging.getLogger("fre.serve")

Observer = Callable[[str, list[Outcome]], None]
"""Called with the name of a model and the outcomes of one batch."""


class Batcher:
    """Takes images from file content to stored results.

    Args:
        results: history of results.
        batch_size: number of images per run of the network.
        batch_wait: time that a batch waits for images in decoding, in seconds.
        max_queue: number of pending images of one model.
        large_pixels: number of pixels above which an image uses the thread for large images.
        observer: called with scored images of one batch, before clients get their results.
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
        except Exception as error:  # `failure_of` logs what is not the image's fault
            lane.give_up(job, failure_of(job, error))
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
        except Exception as error:  # as in `_prepare`
            lane.give_up(job, failure_of(job, error))
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


class _Lane:
    """The images of one model: decoding threads, a queue, and scoring threads.

    One scoring thread runs the network while another makes results of its outputs.
    """

    def __init__(self, batcher: Batcher, name: str) -> None:
        self.batcher = batcher
        self.name = name
        self.admitted = 0
        self.decoders = ThreadPoolExecutor(
            available_cores(), thread_name_prefix=f"fre-decode-{name}"
        )
        self._waiting: queue.SimpleQueue[PendingImage | None] = queue.SimpleQueue()
        self._left: PendingImage | None = None
        self._undecoded = 0
        self._scoring = 0
        self._count = threading.Lock()
        self._gathering = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, name=f"fre-score-{name}-{number}", daemon=True)
            for number in range(Sharing.of(available_cores()).batches)
        ]
        for thread in self._threads:
            thread.start()

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
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._gathering:
                batch = self._gather()
                if not batch:
                    return
                in_tiles = batch[0].entry.model.geometry.tiling is not None
                if in_tiles:
                    # One large image takes memory enough, and its tiles keep all cores busy.
                    self._score(batch)
            if not in_tiles:
                self._score(batch)

    def _gather(self) -> list[PendingImage]:
        """Wait for a batch for one version of the model; it is empty once the lane ends."""
        first = self._left if self._left is not None else self._waiting.get()
        self._left = None
        if first is None:
            self._waiting.put(None)  # for the other threads
            return []
        batch = [first]
        deadline = time.perf_counter() + self.batcher.batch_wait
        while len(batch) < self._largest_batch():
            remaining = deadline - time.perf_counter()
            try:
                if remaining > 0 and (self._undecoded > 0 or self._scoring > 0):
                    job = self._waiting.get(timeout=remaining)
                else:
                    job = self._waiting.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._waiting.put(None)  # for the next call
                break
            if job.entry.model is not first.entry.model:
                self._left = job
                break
            batch.append(job)
        return batch

    def _largest_batch(self) -> int:
        """Return the number of images that leaves as many to each other scoring thread."""
        # Two images in one run take one core each; in runs of their own each takes all.
        share = max(2, -(-self.admitted // len(self._threads)))
        return min(self.batcher.batch_size, share)

    def _score(self, batch: list[PendingImage]) -> None:
        with self._count:
            self._scoring += 1
        try:
            self._store(batch)
        finally:
            with self._count:
                self._scoring -= 1

    def _store(self, batch: list[PendingImage]) -> None:
        done: list[tuple[PendingImage, NewResult]] = []
        for job, result in zip(batch, score(batch), strict=True):
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
