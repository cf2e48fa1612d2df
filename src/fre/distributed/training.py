"""The two passes of a streamed training on many machines.

A piece of work is some images of one fold. In the first pass a worker accumulates their statistics,
which are then merged as a tree until few are left. In the second pass a worker computes the
held-out residuals of some images, by the subspaces of all folds but theirs.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.distributed.cluster import READERS, Cluster, check_version
from fre.errors import ImageError, OptionError
from fre.features.layout import FeatureLayout
from fre.features.runner import FeatureRunner
from fre.features.stream import ImageRecord
from fre.images.decode import ImageSource
from fre.images.geometry import Geometry
from fre.images.roi import Roi
from fre.storage.remote import is_url
from fre.training.fold_statistics import FoldStatistics, HeldOutSubspaces
from fre.training.streamed import (
    HeldOutResiduals,
    Job,
    StreamOptions,
    accumulate,
    held_out_residuals,
)
from fre.types import Progress
from fre.version import __version__

PIECES = 4
"""Least number of pieces of work per worker, so that none waits long for the last piece."""

SMALLEST, LARGEST = 32, 8192
"""Number of images of a piece: enough to be worth their statistics, and few enough to repeat."""

HELD_OUT = 256
"""Number of images of a piece of the second pass, which sends no statistics."""

FAN_IN = 4
"""Number of statistics that one task merges."""


@dataclass(frozen=True)
class RayFit:
    """The two passes over the images of a training on a Ray cluster, for `fre.FRE.fit`.

    Example::

        FRE().fit(folder, stream=RayFit(Cluster("10.0.0.1:6379")))

    Args:
        cluster: cluster to work on.
    """

    cluster: Cluster

    def session(self) -> AbstractContextManager[Any]:
        """Join the cluster once for both passes."""
        return self.cluster.joined(ordered=True)

    def accumulate(
        self, job: Job, statistics: FoldStatistics, progress: Progress | None
    ) -> tuple[FoldStatistics, list[ImageRecord], list[ImageError]]:
        """Accumulate the statistics of each fold; see `fre.training.streamed.TwoPasses`.

        Checkpoints are not written. The model does not depend on which worker was faster, or died:
        statistics are merged in one order.

        Raises:
            MissingDependencyError: Ray is not installed.
            ImageError: an image can't be read.
            OptionError: no cluster at the address.
        """
        names = _absolute(job.sources)
        with self.cluster.joined(ordered=True) as workers:
            import ray

            shared = _Shared.of(ray, job, statistics, self.cluster.threads)
            size = min(max(SMALLEST, -(-len(names) // (PIECES * workers))), LARGEST)
            pieces = [*_pieces(range(len(names)), job.fold_of, names, size)]
            work = ray.data.from_items(pieces, override_num_blocks=len(pieces)).map_batches(
                Learning,
                fn_constructor_args=(shared,),
                batch_size=1,
                batch_format="pyarrow",
                **self.cluster.pool(workers),
            )
            left = len(pieces)
            while left > FAN_IN:
                left = -(-left // FAN_IN)
                work = work.map_batches(
                    partial(_merged, shared=shared),
                    batch_size=FAN_IN,
                    batch_format="pyarrow",
                    # Workers have all the cores.
                    num_cpus=0,
                    # Levels that differ in this are kept apart; others Ray Data would run as one.
                    compute=ray.data.TaskPoolStrategy(size=left),
                )
            total = shared.statistics()
            images: list[ImageRecord] = []
            skipped: dict[int, str] = {}
            for row in work.iter_rows():
                total = total.merge(shared.statistics(row["statistics"]))
                found, left_out = _records_from(row["seen"])
                images += found
                skipped |= left_out
        images.sort(key=lambda image: image.place)
        return total, images, [ImageError(names[at], skipped[at]) for at in sorted(skipped)]

    def hold_out(
        self,
        job: Job,
        subspaces: Iterable[tuple[int, HeldOutSubspaces]],
        chosen: NDArray[np.intp],
        progress: Progress | None,
    ) -> HeldOutResiduals:
        """Compute held-out residuals; see `fre.training.streamed.TwoPasses`."""
        names = _absolute(job.sources)
        with self.cluster.joined(ordered=True) as workers:
            import ray

            shared = _Shared.of(ray, job, None, self.cluster.threads)
            own: Any = None
            by_fold: dict[int, Any] = {}
            for fold, of_fold in subspaces:
                own = ray.put(of_fold.own) if own is None else own
                by_fold[fold] = ray.put(replace(of_fold, own=[]))
            size = min(max(SMALLEST, -(-len(chosen) // (PIECES * workers))), HELD_OUT)
            pieces = [*_pieces(chosen.tolist(), job.fold_of, names, size)]
            work = ray.data.from_items(pieces, override_num_blocks=len(pieces)).map_batches(
                HoldingOut,
                fn_constructor_args=(shared, own, by_fold),
                batch_size=1,
                batch_format="pyarrow",
                **self.cluster.pool(workers),
            )
            found: list[HeldOutResiduals] = []
            done = 0
            for row in work.iter_rows():
                images, _ = _records_from(row["seen"])
                done += row["done"]
                if images:
                    found.append(_residuals_from(row["residuals"], images))
                if progress:
                    progress("Calibrating", done, len(chosen))
        return HeldOutResiduals.join(found)


@dataclass(frozen=True)
class _Shared:
    """Data that every worker of a training receives.

    Attributes:
        model: reference to the network.
        layouts: layouts of the extracted layers.
        geometry: how an image meets the input.
        roi: the inspected part of the images; ``None`` is all.
        empty: statistics of the detector's parts, without any feature; not for the second pass.
        options: how the images are read.
        threads: number of threads of each worker.
        version: version of fre that workers must have.
    """

    model: Any
    layouts: tuple[FeatureLayout, ...]
    geometry: Geometry
    roi: Roi | None
    empty: FoldStatistics | None
    options: StreamOptions
    threads: int
    version: str

    @classmethod
    def of(cls, ray: Any, job: Job, empty: FoldStatistics | None, threads: int) -> _Shared:
        extractor, options = job.extractor, replace(job.options, checkpoint=None)
        return cls(
            ray.put(extractor.model()),
            extractor.layouts,
            extractor.geometry,
            extractor.roi,
            empty,
            options,
            threads,
            __version__,
        )

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

    def statistics(self, stored: Any = None) -> FoldStatistics:
        """Return statistics without any feature, or those that were stored."""
        assert self.empty is not None
        statistics = self.empty.empty()
        if stored is not None:
            statistics.restore(_unpacked(stored))
        return statistics


class Learning:
    """A worker of the first pass.

    Args:
        shared: data that every worker receives.
    """

    def __init__(self, shared: _Shared) -> None:
        self._shared = shared

    @cached_property
    def _runner(self) -> FeatureRunner:
        return self._shared.runner()

    def __call__(self, batch: Any) -> Any:
        """Return the statistics of some images of a fold."""
        (piece,) = batch.to_pylist()
        statistics = self._shared.statistics()
        images, skipped = accumulate(
            self._runner,
            _sources_of(piece),
            np.full(len(piece["sources"]), piece["fold"], np.intp),
            statistics,
            self._shared.options,
        )
        return _statistics_row(statistics.merge(), [_noted(piece, images, skipped)])


def _merged(batch: Any, shared: _Shared) -> Any:
    statistics = shared.statistics()
    seen = []
    for stored, noted in zip(batch["statistics"], batch["seen"], strict=True):
        statistics = statistics.merge(shared.statistics(stored.as_buffer()))
        seen += json.loads(noted.as_py())
    return _statistics_row(statistics, seen)


def _statistics_row(statistics: FoldStatistics, seen: list[Any]) -> Any:
    import pyarrow as pa

    return pa.table(
        {
            "statistics": _column(_packed(statistics.to_arrays())),
            "seen": pa.array([json.dumps(seen)], pa.large_string()),
        }
    )


class HoldingOut:
    """A worker of the second pass.

    Args:
        shared: data that every worker receives.
        own: reference to the subspaces of all images.
        by_fold: references to the subspaces of all folds but one.
    """

    def __init__(self, shared: _Shared, own: Any, by_fold: Mapping[int, Any]) -> None:
        self._shared = shared
        self._own = own
        self._by_fold = by_fold
        self._subspaces: dict[int, HeldOutSubspaces] = {}

    @cached_property
    def _runner(self) -> FeatureRunner:
        return self._shared.runner()

    def _of_fold(self, fold: int) -> HeldOutSubspaces:
        import ray

        if fold not in self._subspaces:
            # Pieces come fold by fold; the subspaces of one before would only take memory.
            found = replace(ray.get(self._by_fold[fold]), own=ray.get(self._own))
            self._subspaces = {fold: found}
        return self._subspaces[fold]

    def __call__(self, batch: Any) -> Any:
        """Return the held-out residuals of some images of a fold."""
        import pyarrow as pa

        (piece,) = batch.to_pylist()
        found = held_out_residuals(
            self._runner,
            _sources_of(piece),
            self._of_fold(piece["fold"]),
            self._shared.options,
        )
        arrays: dict[str, NDArray[Any]] = {"image": found.image, "tile": found.tile}
        for index, values in enumerate(found.residuals):
            arrays[f"residuals/{index}"] = values
        return pa.table(
            {
                "residuals": _column(_packed(arrays)),
                "seen": [json.dumps([_noted(piece, found.images, None)])],
                "done": [len(piece["sources"])],
            }
        )


def _absolute(sources: Sequence[ImageSource]) -> list[str]:
    """Return the names of files as every machine sees them.

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
    """Yield pieces of work, fold by fold, each of about ``size`` images."""
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
    """Return the images that were read and those that were skipped, as plain JSON values."""
    left_out = sorted({*range(len(piece["places"]))} - {image.place for image in images})
    return {
        "images": [image.at(piece["places"][image.place]).to_note() for image in images],
        "skipped": [
            (piece["places"][number], error.reason)
            for number, error in zip(left_out, skipped or (), strict=skipped is not None)
        ],
    }


def _records_from(noted: str) -> tuple[list[ImageRecord], dict[int, str]]:
    """Return records of the images that were read, and the reason of each skipped one, by place."""
    images: list[ImageRecord] = []
    skipped: dict[int, str] = {}
    for piece in json.loads(noted):
        images += map(ImageRecord.of_note, piece["images"])
        skipped |= dict(piece["skipped"])
    return images, skipped


def _residuals_from(stored: Any, images: Sequence[ImageRecord]) -> HeldOutResiduals:
    arrays = _unpacked(stored)
    residuals = [arrays[f"residuals/{index}"] for index in range(len(arrays) - 2)]
    return HeldOutResiduals(residuals, arrays["image"], arrays["tile"], tuple(images))


def _packed(arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return arrays as one Arrow buffer."""
    import pyarrow as pa

    buffer = io.BytesIO()
    members: dict[str, Any] = dict(arrays)
    np.savez(buffer, **members)
    return pa.py_buffer(buffer.getbuffer())


def _column(buffer: Any) -> Any:
    """Return a column of one row that holds the buffer itself; Arrow would otherwise copy it."""
    import pyarrow as pa

    # Offsets of 64 bits: the statistics of wide layers exceed 2 GB.
    offsets = pa.py_buffer(np.array([0, buffer.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, buffer])


def _unpacked(stored: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays of a buffer that `_packed` made, or of its bytes."""
    import pyarrow as pa

    file: Any = pa.BufferReader(stored)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
