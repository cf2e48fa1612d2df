"""Training in two passes on many machines.

Each piece of work is some images of one fold. In the first pass a worker makes of them the
statistics of that fold, and sums of few are summed again, as a tree, until few are left. In the
second one a worker looks at some of the images once more, with the subspaces that their fold is
judged by.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.distributed.cluster import READERS, Cluster, check_version
from fre.errors import ImageError, OptionError
from fre.features.extractor import FeatureExtractor
from fre.features.layout import FeatureLayout
from fre.features.runner import FeatureRunner
from fre.features.stream import ImageRecord
from fre.images.decode import ImageSource
from fre.images.geometry import Geometry
from fre.images.roi import Roi
from fre.storage.remote import is_url
from fre.subspaces.cross_fit import folds_of
from fre.training.fold_statistics import FoldStatistics
from fre.training.parts import Part
from fre.training.plan import StreamOptions
from fre.training.two_pass import (
    HeldOutResiduals,
    HeldOutSubspaces,
    Streamed,
    absorb,
    calibration_places,
    check_enough,
    held_out_residuals,
    streamed_from,
)
from fre.types import Progress
from fre.version import __version__

PIECES = 4
"""Pieces of work for each worker at least, so that none waits long for the last one."""

SMALLEST, LARGEST = 32, 8192
"""Images of a piece: enough to be worth their statistics, and not too many to do again."""

JUDGED = 256
"""Images of a piece of the second pass, which has no statistics to send."""

FAN_IN = 4
"""Sums that are summed at once."""


@dataclass(frozen=True)
class RayFit:
    """Goes through the images of a training on a Ray cluster, for `fre.FRE.fit`.

    Example::

        FRE().fit(folder, stream=RayFit(Cluster("10.0.0.1:6379")))

    Args:
        cluster: where.
    """

    cluster: Cluster

    def __call__(
        self,
        extractor: FeatureExtractor,
        sources: Sequence[ImageSource],
        parts: Sequence[Part],
        folds: Sequence[NDArray[np.intp]],
        options: StreamOptions,
        *,
        identity: Mapping[str, Any],
        progress: Progress | None = None,
    ) -> Streamed:
        """See `fre.training.two_pass.stream_fit`; checkpoints are not written.

        The model does not depend on which worker was faster, or died: sums are made in one order.

        Raises:
            MissingDependencyError: Ray is not installed.
            ImageError: an image can't be read.
            DatasetError: fewer than two images can be read.
            OptionError: no cluster at the address, or a rank that the images do not allow.
        """
        names = _absolute(sources)
        fold_of = folds_of(len(sources), folds)
        with self.cluster.joined(ordered=True) as workers:
            import ray

            job = _Job(
                ray.put(extractor.model()),
                extractor.layouts,
                extractor.geometry,
                extractor.roi,
                tuple(parts),
                len(folds),
                replace(options, checkpoint=None),
                self.cluster.threads,
                __version__,
            )
            learner, images, skipped = self._learn(ray, job, names, fold_of, workers)
            check_enough([image.sha256 for image in images], sources)
            judges = HeldOutSubspaces.of(learner, options, progress)
            chosen = calibration_places(images, extractor)
            judged = self._judge(ray, job, judges, names, fold_of, chosen, workers, progress)
        folds_judged = fold_of[[image.place for image in judged.images]]
        return streamed_from(judges, judged, folds_judged, images, skipped)

    def _learn(
        self,
        ray: Any,
        job: _Job,
        names: Sequence[str],
        fold_of: NDArray[np.intp],
        workers: int,
    ) -> tuple[FoldStatistics, list[ImageRecord], list[ImageError]]:
        """The first pass: what was learnt, of which images, and errors of those left out."""
        size = min(max(SMALLEST, -(-len(names) // (PIECES * workers))), LARGEST)
        pieces = [*_pieces(range(len(names)), fold_of, names, size)]
        work = ray.data.from_items(pieces, override_num_blocks=len(pieces)).map_batches(
            Learning,
            fn_constructor_args=(job,),
            batch_size=1,
            batch_format="pyarrow",
            **self.cluster.pool(workers),
        )
        left = len(pieces)
        while left > FAN_IN:
            left = -(-left // FAN_IN)
            work = work.map_batches(
                partial(_merged, job=job),
                batch_size=FAN_IN,
                batch_format="pyarrow",
                # Workers have all the cores.
                num_cpus=0,
                # Levels that differ in this are kept apart; others Ray Data would run as one.
                compute=ray.data.TaskPoolStrategy(size=left),
            )
        learner = job.learner()
        images: list[ImageRecord] = []
        skipped: dict[int, str] = {}
        for row in work.iter_rows():
            learner = learner.merge(job.learner(row["statistics"]))
            found, left_out = _seen_from(row["seen"])
            images += found
            skipped |= left_out
        images.sort(key=lambda image: image.place)
        return learner, images, [ImageError(names[at], skipped[at]) for at in sorted(skipped)]

    def _judge(
        self,
        ray: Any,
        job: _Job,
        judges: HeldOutSubspaces,
        names: Sequence[str],
        fold_of: NDArray[np.intp],
        chosen: Sequence[int],
        workers: int,
        progress: Progress | None,
    ) -> HeldOutResiduals:
        """The second pass."""
        by_fold = {fold: ray.put(judges.of_fold(fold)) for fold in judges.others}
        size = min(max(SMALLEST, -(-len(chosen) // (PIECES * workers))), JUDGED)
        pieces = [*_pieces(chosen, fold_of, names, size)]
        work = ray.data.from_items(pieces, override_num_blocks=len(pieces)).map_batches(
            Judging,
            fn_constructor_args=(job, by_fold),
            batch_size=1,
            batch_format="pyarrow",
            **self.cluster.pool(workers),
        )
        found: list[HeldOutResiduals] = []
        done = 0
        for row in work.iter_rows():
            images, _ = _seen_from(row["seen"])
            done += row["done"]
            if images:
                found.append(_judged_from(row["judged"], images))
            if progress:
                progress("Calibrating", done, len(chosen))
        return HeldOutResiduals.join(found).in_order()


@dataclass(frozen=True)
class _Job:
    """What every worker knows of a training."""

    model: Any
    layouts: tuple[FeatureLayout, ...]
    geometry: Geometry
    roi: Roi | None
    parts: tuple[Part, ...]
    folds: int
    options: StreamOptions
    threads: int
    version: str

    def runner(self) -> FeatureRunner:
        import ray

        check_version(self.version)
        return FeatureRunner(
            ray.get(self.model),
            self.layouts,
            self.geometry,
            self.roi,
            threads=self.threads,
            readers=READERS * self.threads,
        )

    def learner(self, stored: Any = None) -> FoldStatistics:
        """A learner that knows nothing, or what was stored."""
        learner = FoldStatistics(
            self.parts, self.layouts, folds=self.folds, capacity=self.options.capacity
        )
        if stored is not None:
            learner.restore(_unpacked(stored))
        return learner


class Learning:
    """A worker of the first pass.

    Args:
        job: what it knows.
    """

    def __init__(self, job: _Job) -> None:
        self._job = job

    @cached_property
    def _runner(self) -> FeatureRunner:
        return self._job.runner()

    def __call__(self, batch: Any) -> Any:
        """The statistics of some images of a fold."""
        (piece,) = batch.to_pylist()
        learner = self._job.learner()
        images, skipped = absorb(
            self._runner,
            _sources_of(piece),
            np.full(len(piece["sources"]), piece["fold"], np.intp),
            learner,
            self._job.options,
        )
        return _statistics_row(learner.merge(), [_noted(piece, images, skipped)])


def _merged(batch: Any, job: _Job) -> Any:
    learner = job.learner()
    seen = []
    for statistics, noted in zip(batch["statistics"], batch["seen"], strict=True):
        learner = learner.merge(job.learner(statistics.as_buffer()))
        seen += json.loads(noted.as_py())
    return _statistics_row(learner, seen)


def _statistics_row(learner: FoldStatistics, seen: list[Any]) -> Any:
    import pyarrow as pa

    return pa.table(
        {
            "statistics": _column(_packed(learner.to_arrays())),
            "seen": pa.array([json.dumps(seen)], pa.large_string()),
        }
    )


class Judging:
    """A worker of the second pass.

    Args:
        job: what it knows.
        judges: references to the judges of each fold.
    """

    def __init__(self, job: _Job, judges: Mapping[int, Any]) -> None:
        self._job = job
        self._references = judges
        self._judges: dict[int, HeldOutSubspaces] = {}

    @cached_property
    def _runner(self) -> FeatureRunner:
        return self._job.runner()

    def _of_fold(self, fold: int) -> HeldOutSubspaces:
        import ray

        if fold not in self._judges:
            # Pieces come fold by fold; the judges of one before would only take memory.
            self._judges = {fold: ray.get(self._references[fold])}
        return self._judges[fold]

    def __call__(self, batch: Any) -> Any:
        """The residuals of some images of a fold."""
        import pyarrow as pa

        (piece,) = batch.to_pylist()
        judged = held_out_residuals(
            self._runner,
            _sources_of(piece),
            piece["fold"],
            self._of_fold(piece["fold"]),
            self._job.learner(),
            self._job.options,
        )
        arrays: dict[str, NDArray[Any]] = {"image": judged.image, "tile": judged.tile}
        for index, values in enumerate(judged.energies):
            arrays[f"energies/{index}"] = values
        return pa.table(
            {
                "judged": _column(_packed(arrays)),
                "seen": [json.dumps([_noted(piece, judged.images, None)])],
                "done": [len(piece["sources"])],
            }
        )


def _absolute(sources: Sequence[ImageSource]) -> list[str]:
    """Files as they are called on every machine.

    Raises:
        OptionError: some are arrays.
    """
    names = []
    for source in sources:
        if not isinstance(source, (str, Path)):
            raise OptionError("training on several machines needs image files, not arrays")
        names.append(str(source) if is_url(source) else str(Path(source).absolute()))
    return names


def _pieces(
    chosen: Sequence[int], fold_of: NDArray[np.intp], names: Sequence[str], size: int
) -> Iterator[dict[str, Any]]:
    """Pieces of work, fold by fold, each of about ``size`` images."""
    numbers = np.asarray(chosen)
    for fold in np.unique(fold_of[numbers]):
        mine = numbers[fold_of[numbers] == fold]
        for piece in np.array_split(mine, -(-len(mine) // size)):
            yield {
                "fold": int(fold),
                "places": piece.tolist(),
                "sources": [names[number] for number in piece],
            }


def _sources_of(piece: Mapping[str, Any]) -> list[ImageSource]:
    return [source if is_url(source) else Path(source) for source in piece["sources"]]


def _noted(
    piece: Mapping[str, Any], images: Sequence[ImageRecord], skipped: Sequence[ImageError] | None
) -> dict[str, Any]:
    """Which images were seen, as plain JSON values."""
    left_out = sorted({*range(len(piece["places"]))} - {image.place for image in images})
    return {
        "images": [image.at(piece["places"][image.place]).to_note() for image in images],
        "skipped": [
            (piece["places"][number], error.reason)
            for number, error in zip(left_out, skipped or (), strict=skipped is not None)
        ],
    }


def _seen_from(noted: str) -> tuple[list[ImageRecord], dict[int, str]]:
    """Images that were seen; and by its place, why another one was not."""
    images: list[ImageRecord] = []
    skipped: dict[int, str] = {}
    for piece in json.loads(noted):
        images += map(ImageRecord.of_note, piece["images"])
        skipped |= dict(piece["skipped"])
    return images, skipped


def _judged_from(stored: Any, images: Sequence[ImageRecord]) -> HeldOutResiduals:
    arrays = _unpacked(stored)
    energies = [arrays[f"energies/{index}"] for index in range(len(arrays) - 2)]
    return HeldOutResiduals(energies, arrays["image"], arrays["tile"], tuple(images))


def _packed(arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Arrays as one Arrow buffer."""
    import pyarrow as pa

    buffer = io.BytesIO()
    members: dict[str, Any] = dict(arrays)
    np.savez(buffer, **members)
    return pa.py_buffer(buffer.getbuffer())


def _column(buffer: Any) -> Any:
    """A column of one row: the buffer itself, of which Arrow would otherwise make a copy."""
    import pyarrow as pa

    # Offsets of 64 bits: the statistics of wide layers exceed 2 GB.
    offsets = pa.py_buffer(np.array([0, buffer.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, buffer])


def _unpacked(stored: Any) -> dict[str, NDArray[Any]]:
    """The arrays of such a buffer, or of its bytes."""
    import pyarrow as pa

    file: Any = pa.BufferReader(stored)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
