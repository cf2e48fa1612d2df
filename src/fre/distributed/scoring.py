"""Scoring folders, object stores and long lists into shards."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from fre.distributed.cluster import READERS, Cluster, check_version
from fre.distributed.shards import (
    Counts,
    Shard,
    ShardFile,
    ShardPlan,
    begun_run,
    iter_shards,
)
from fre.errors import ImageError
from fre.inference.prediction import prediction_row
from fre.model import Model
from fre.runtimes.lanes import BATCH
from fre.storage.remote import FetchError, Folder, check_sources, is_url, locate
from fre.types import Progress
from fre.version import __version__

SUMMARY = "_fre/summary.json"


@dataclass(frozen=True)
class ShardedResult:
    """Summary of a run.

    Attributes:
        output: output folder.
        n_images: number of lines in all shards.
        n_anomalous: number of anomalous images.
        n_errors: number of images that could not be read; each has a line with the reason.
        n_shards: number of shards.
        n_found: number of shards that an earlier run had written.
        seconds: duration of this run.
    """

    output: str
    n_images: int
    n_anomalous: int
    n_errors: int
    n_shards: int
    n_found: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the summary as plain JSON values."""
        return asdict(self)


def predict(
    model: Model,
    images: Iterable[Path | str],
    output: Path | str,
    *,
    cluster: Cluster | None = None,
    form: str = "jsonl",
    shard_size: int = 1000,
    batch_size: int = BATCH,
    runtime: str = "onnxruntime",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ShardedResult:
    """Score images on a Ray cluster, into shards: files of some lines each.

    The same call resumes an interrupted run: finished shards are kept. All machines must see
    images and output under the same names.

    Args:
        model: detector; workers open runtimes of their own.
        images: files and folders, as paths or URLs of fsspec (``s3://``, ``gs://``, ``https://``);
            lists of them as ``@FILE``, or as a file ending in ``.txt`` or ``.list``, one a line.
        output: output folder, as a path or a URL.
        cluster: cluster to work on; ``None`` is this machine.
        form: format of the shards, ``"jsonl"`` or ``"parquet"``.
        shard_size: number of images of a shard.
        batch_size: number of images of a run of the network.
        runtime: runtime of the workers, ``"onnxruntime"`` or ``"openvino"``.
        overwrite: whether to empty the folder first.
        progress: called after each shard.

    Raises:
        MissingDependencyError: Ray, or a package that the format or a URL needs, is missing.
        DatasetError: there are no images, or other ones than when the run began.
        OutputError: the folder holds something else, or can't be written.
        FetchError: no image of a shard can be fetched; finished shards are kept.
        OptionError: an option is out of range, or there is no cluster at the address.
    """
    began = time.perf_counter()
    cluster = cluster or Cluster()
    folder = Folder(_absolute(output))
    ShardFile(form)
    sources = [_source(image) for image in images]
    check_sources(sources)
    plan = ShardPlan(model.sha256, tuple(sources), shard_size, form, __version__)
    with cluster.joined(ordered=False) as workers:
        import ray

        with begun_run(folder, plan, overwrite=overwrite):
            task = ScoringTask(
                ray.put(model.data), folder, form, batch_size, cluster.threads, runtime, __version__
            )
            totals = _run(task, plan, cluster.pool(workers), progress)
    result = ShardedResult(str(folder), *totals, time.perf_counter() - began)
    folder.tidy()
    folder.write(SUMMARY, json.dumps(result.to_dict(), indent=2).encode())
    return result


def _absolute(place: Path | str) -> Path | str:
    """Return the name of a place that holds on every machine."""
    found = locate(str(place))
    return found.absolute() if isinstance(found, Path) else found


def _source(image: Path | str) -> str:
    text = str(image)
    mark = "@" if text.startswith("@") else ""
    return mark + str(_absolute(text.removeprefix("@")))


@dataclass(frozen=True)
class ScoringTask:
    """Everything that a worker needs to score shards.

    Attributes:
        model: Ray's reference to the content of the model file.
        folder: output folder.
        form: format of the shards.
        batch_size: number of images of a run of the network.
        threads: number of threads of the network.
        runtime: runtime of the network.
        version: version of fre on the machine of the command.
    """

    model: Any
    folder: Folder
    form: str
    batch_size: int
    threads: int
    runtime: str
    version: str


def _run(
    task: ScoringTask, plan: ShardPlan, pool: dict[str, Any], progress: Progress | None
) -> tuple[int, int, int, int, int]:
    import ray

    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    finished = (
        ray.data.from_items([{"run": 0}])
        # Lists may exist on this machine alone. Listing takes no core from the scoring.
        .map_batches(
            partial(_rows_of_shards, folder=task.folder, plan=plan),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,
            label_selector=here,
        )
        .map_batches(
            Scorer,
            fn_constructor_args=(task,),
            batch_size=1,
            batch_format="pyarrow",
            **pool,
        )
    )
    images = anomalous = errors = shards = found = 0
    for row in finished.iter_rows():
        images += row["images"]
        anomalous += row["anomalous"]
        errors += row["errors"]
        shards += 1
        found += row["found"]
        if progress:
            progress("Predicting", images, max(images, row["listed"]))
    return images, anomalous, errors, shards, found


def _rows_of_shards(_: Any, folder: Folder, plan: ShardPlan) -> Iterator[Any]:
    import pyarrow as pa

    check_version(plan.version)
    for shard in iter_shards(folder, plan):
        paths = json.dumps(shard.paths)
        yield pa.table({"shard": [shard.number], "paths": [paths], "listed": [shard.listed]})


class Scorer:
    """A worker, which loads the model once and scores shards one after the other."""

    def __init__(self, task: ScoringTask) -> None:
        self._task = task
        self._file = ShardFile(task.form)

    @cached_property
    def _model(self) -> Model:
        # Not in the constructor, whose exceptions Ray reports as text alone.
        import ray

        task = self._task
        check_version(task.version)
        return Model(ray.get(task.model), runtime=task.runtime, threads=task.threads)

    def __call__(self, batch: Any) -> Any:
        """Score shards, and return the counts of each."""
        import pyarrow as pa

        return pa.Table.from_pylist([self._row(row) for row in batch.to_pylist()])

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        shard = Shard(row["shard"], tuple(json.loads(row["paths"])), row["listed"])
        name = self._file.name(shard.number)
        before = self._task.folder.read(name)
        counts = None if before is None else self._file.count(before)
        found = counts is not None and counts.images == len(shard.paths)
        if counts is None or not found:
            counts = self._score(shard, name)
        return {"shard": shard.number, "listed": shard.listed, "found": found, **asdict(counts)}

    def _score(self, shard: Shard, name: str) -> Counts:
        sources = [path if is_url(path) else Path(path) for path in shard.paths]
        results = self._model.predict_many(
            sources,
            batch_size=self._task.batch_size,
            workers=READERS * self._task.threads,
            errors="return",
        )
        rows = []
        anomalous = errors = out_of_reach = 0
        last: ImageError | None = None
        for path, result in zip(shard.paths, results, strict=True):
            rows.append(prediction_row(result, path))
            if isinstance(result, ImageError):
                errors += 1
                out_of_reach += isinstance(result, FetchError)
                last = result
            else:
                anomalous += result.anomalous
        if last is not None and out_of_reach == len(rows):
            # The store may be down: a shard of errors alone would never be tried again.
            raise FetchError(shard.paths[-1], last.reason)
        self._task.folder.write(name, self._file.encode(rows))
        return Counts(len(rows), anomalous, errors)
