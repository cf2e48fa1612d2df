"""The inspection of a source: the loop of ``fre watch`` and of ``fre serve``."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fre.errors import FREError, FREWarning, ImageError
from fre.inference.prediction import Prediction
from fre.line.delivery import Delivery
from fre.line.frame import Frame, Source
from fre.line.journal import Journal
from fre.line.payload import Judgement, ModelFacts, payload
from fre.line.sinks import Receivers
from fre.model import Model

POLL_SECONDS = 0.2
"""Seconds to wait for a frame before looking whether the end was asked for."""

Scorer = Callable[[list[Frame]], Sequence["Judgement | None"]]
"""Returns a judgement for each frame, or ``None`` if it can't be scored now."""


class Inspection:
    """Takes frames from a source, scores them, records the results and delivers them.

    Args:
        source: source of the frames.
        score: scores frames.
        journal: record of scored files and undelivered messages.
        receivers: receivers of messages and pictures.
        batch_size: number of frames scored at once, at most.
        warn: called with one line of text for each thing to know.

    Attributes:
        scored: number of scored frames.
        anomalous: number of anomalous frames.
        errors: number of frames that could not be scored.
        deliveries: delivery to each receiver.
    """

    def __init__(
        self,
        source: Source,
        score: Scorer,
        journal: Journal,
        receivers: Receivers,
        *,
        batch_size: int,
        warn: Callable[[str], None],
    ) -> None:
        self.source = source
        self.journal = journal
        self.batch_size = batch_size
        self.scored = self.anomalous = self.errors = 0
        self.deliveries = [Delivery(sink, journal, warn) for sink in receivers.sinks]
        self._score = score
        self._pictures = receivers.pictures
        self._warn = warn
        for name, n in journal.open_receivers([sink.name for sink in receivers.sinks]):
            warn(f"{n} messages of before for {name}, which is no --to any more, are dropped")

    def start(self) -> None:
        """Start the source and the deliveries."""
        for delivery in self.deliveries:
            delivery.start()
        self.source.start(self.journal.keys())

    def run(self, stopped: Callable[[], bool] = lambda: False) -> None:
        """Inspect until the source ends.

        Args:
            stopped: returns whether to stop.

        Raises:
            DatasetError: the source can't be read, and will not come back.
            OutputError: the journal can't be written.
        """
        while not stopped() and not self.source.ended:
            frames = self.source.take(self.batch_size, POLL_SECONDS)
            if frames:
                self.step(frames)

    def step(self, frames: list[Frame]) -> None:
        """Score frames, and record their results; see `run`."""
        ended: list[tuple[Frame, Judgement]] = []
        for frame, judgement in zip(frames, self._score(frames), strict=True):
            failed = judgement is not None and isinstance(judgement.result, ImageError)
            # A pipe or a dangling link gets as much time as an unreadable file.
            if judgement is None or not self.source.accept(frame, failed=failed):
                self.source.postpone(frame)
            else:
                ended.append((frame, judgement))
        if not ended:
            return
        self.journal.record([(frame.key, self._message(frame, found)) for frame, found in ended])
        self.source.finish(frame for frame, _ in ended)
        for delivery in self.deliveries:
            delivery.wake()

    def _message(self, frame: Frame, judgement: Judgement) -> dict[str, Any]:
        result = judgement.result
        if isinstance(result, ImageError):
            self.errors += 1
        else:
            self.scored += 1
            self.anomalous += result.anomalous
        kept = [folder.save(frame, judgement) for folder in self._pictures]
        return payload(
            frame,
            judgement,
            source=self.source.name,
            dropped=self.source.counts.dropped,
            picture=next((path for path in kept if path is not None), None),
        )

    def close(self, seconds: float) -> list[tuple[str, int]]:
        """Stop the source, and deliver the remaining messages.

        Args:
            seconds: longest time for the deliveries.

        Returns:
            Receivers that did not get all messages, and how many stay in the journal for each.
        """
        self.source.close()
        end = time.monotonic() + seconds
        left = [
            (delivery.sink.name, delivery.close(max(0.0, end - time.monotonic())))
            for delivery in self.deliveries
        ]
        return [(name, n) for name, n in left if n]


class ModelScorer:
    """Scores frames by a loaded model.

    Args:
        name: name of the model.
        model: the model.
    """

    def __init__(self, name: str, model: Model) -> None:
        self.facts = ModelFacts.of(name, model)
        self._model = model

    def __call__(self, frames: list[Frame]) -> list[Judgement | None]:
        """Return a judgement for each frame."""
        images = [frame for frame in frames if frame.fault is None]
        results = iter(self._predictions(images))
        return [
            Judgement(
                next(results) if frame.fault is None else ImageError(None, frame.fault), self.facts
            )
            for frame in frames
        ]

    def _predictions(self, frames: list[Frame]) -> list[Prediction | ImageError]:
        """Score frames together, or one by one if that fails, so that no image fails another."""
        if not frames:
            return []
        images = [frame.image for frame in frames if frame.image is not None]
        try:
            if isinstance(images[0], Path):
                n = len(images)
                return list(self._model.predict_many(images, batch_size=n, errors="return"))
            # Frames are decoded already: no threads for each batch.
            prepare = self._model.preparation.load
            return self._model.predict_loaded([prepare(image) for image in images])
        except Exception as error:  # any error of one image must not stop the next
            if len(frames) == 1:
                if isinstance(error, ImageError):
                    return [error]
                kind = "" if isinstance(error, FREError) else f"{type(error).__name__}: "
                path = images[0] if isinstance(images[0], Path) else None
                return [ImageError(path, f"not judged: {kind}{error}")]
            # One by one each says what is wrong with it; if none does, the fault is the batch's.
            text = f"{len(frames)} images together were not judged: {type(error).__name__}: {error}"
            warnings.warn(f"{text}; judges one at a time", FREWarning, stacklevel=2)
        return [result for frame in frames for result in self._predictions([frame])]
