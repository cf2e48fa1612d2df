"""Score every file that arrives in a folder, for ever: the loop of ``fre watch``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from fre.errors import DatasetError, FREError, ImageError
from fre.inference.prediction import Prediction, prediction_row
from fre.line.follower import Arrival, BatchLimits, Follower, log, score_arrivals
from fre.line.journal import Journal, Line
from fre.model import Model


@dataclass(frozen=True)
class WatchOptions:
    """How a folder is watched.

    Attributes:
        settle: seconds without a change after which a file is complete.
        patience: seconds without a change after which an unreadable file is given up.
        interval: seconds between two listings, at least. Folders that are slow to list get more.
        batch_size: number of images per run of the network.
        command: whether a command runs for the anomalous images.
        skip_existing: whether to skip files that are present at the start, if the journal is
            empty.
        once: whether to end when all present files are scored.
    """

    settle: float = 0.5
    patience: float = 5.0
    interval: float = 0.2
    batch_size: int = 8
    command: bool = False
    skip_existing: bool = False
    once: bool = False


def watch_folder(
    model: Model,
    folder: Path,
    journal: Journal,
    options: WatchOptions,
    *,
    warn: Callable[[str], None] = log.warning,
) -> Iterator[Line]:
    """Score files that arrive in a folder, each file once.

    Args:
        model: model that scores the files.
        folder: folder to follow, including its subfolders.
        journal: record of scored files. It holds a line before the line is yielded.
        options: times, batch size and mode.
        warn: called with one line of text, once for each fault of a folder.

    Yields:
        First the lines that a crash kept from being printed, then a line for each file.

    Raises:
        DatasetError: the folder can't be listed at the start, or with ``once``.
        OutputError: the journal can't be written.
    """
    done = journal.keys()
    yield from journal.unprinted()
    follower = Follower(folder, settle=options.settle, done=done, warn=warn)
    if options.skip_existing and not done:
        present = Follower(folder, settle=0).poll()
        journal.skip(arrival.key for arrival in present)
        for arrival in present:
            follower.finish(arrival)
    limits = BatchLimits(options.batch_size, patience=options.patience)
    while True:
        found = False
        for batch in score_arrivals(follower, lambda files: _predictions(model, files), limits):
            found = True
            lines = [(arrival.key, _values(arrival, result)) for arrival, result in batch]
            journal.record(lines, command=options.command)
            for key, values in lines:
                yield Line(key, values, False)
        if options.once and follower.away is not None:
            raise DatasetError(follower.away)
        if options.once and not found and follower.idle():
            return
        time.sleep(max(options.interval, 4 * follower.listing_seconds))


def _values(arrival: Arrival, result: Prediction | ImageError) -> dict[str, Any]:
    moment = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return {**prediction_row(result, arrival.name), "time": moment}


def _predictions(model: Model, batch: list[Arrival]) -> list[Prediction | ImageError]:
    """Score files together, or one by one if that fails, so that no file fails another."""
    if not batch:
        return []
    paths = [arrival.path for arrival in batch]
    try:
        return list(model.predict_many(paths, batch_size=len(batch), errors="return"))
    except Exception as error:  # any error of one file must not stop the next file
        if len(batch) == 1:
            kind = "" if isinstance(error, FREError) else f"{type(error).__name__}: "
            return [ImageError(paths[0], f"not judged: {kind}{error}")]
    return [result for arrival in batch for result in _predictions(model, [arrival])]
