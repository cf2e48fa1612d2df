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
    forget_run,
    iter_shards,
    open_run,
)
from fre.errors import ImageError
from fre.inference.prediction import json_row
from fre.model import Model
from fre.storage.remote import FetchError, Folder, check_sources, is_url, locate
from fre.types import Progress
from fre.version import __version__

SUMMARY = "_fre/summary.json"


@dataclass(frozen=True)
class ShardedResult:
    """What a run has written.

    Attributes:
        output: the folder.
        n_images: lines in all shards.
        n_anomalous: images that are called so.
        n_errors: images that could not be read; each has a line that says why.
        n_shards: files.
        n_found: those of them that were there before.
        seconds: of this run.
    """

    output: str
    n_images: int
    n_anomalous: int
    n_errors: int
    n_shards: int
    n_found: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def predict(
    model: Model,
    images: Iterable[Path | str],
    output: Path | str,
    *,
    cluster: Cluster | None = None,
    form: str = "jsonl",
    shard_size: int = 1000,
    batch_size: int = 8,
    runtime: str = "onnxruntime",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ShardedResult:
    """Score images on a Ray cluster, into files of some lines each.

    A run that was stopped goes on where it was when it is asked for once more: shards that are
    there are not done again. All machines must see images and output under the same names.

    Args:
        model: the detector. Its own runtime is not used.
        images: files and folders, as paths or URLs of fsspec (``s3://``, ``gs://``, ``https://``);
            lists of them as ``@FILE``, or as a file ending in ``.txt`` or ``.list``, one a line.
        output: a folder, as a path or a URL.
        cluster: where to work; this machine, if ``None``.
        form: ``"jsonl"`` or ``"parquet"``.
        shard_size: images of a file.
        batch_size: images to a run of the network.
        runtime: of the workers, ``"onnxruntime"`` or ``"openvino"``.
        overwrite: whether to remove what is in the folder.
        progress: called after each shard.

    Raises:
        MissingDependencyError: Ray, or a package that the format or a URL needs, is missing.
        DatasetError: nothing is there to be scored, or it is not what the run began with.
        OutputError: the folder holds something else, or can't be written.
        FetchError: not one image of a shard can be fetched; shards that are done are kept.
        OptionError: an option out of range, or no cluster at the address.
    """
    began = time.perf_counter()
    cluster = cluster or Cluster()
    folder = Folder(_absolute(output))
    ShardFile(form)
    sources = [_source(image) for image in images]
    check_sources(sources)
    plan = ShardPlan(model.sha256, tuple(sources), shard_size, form, __version__)
    with cluster.joined(ordered=False) as workers:
        open_run(folder, plan, overwrite=overwrite)
        try:
            totals = _run(model, folder, plan, cluster, workers, batch_size, runtime, progress)
        except BaseException:
            forget_run(folder)
            raise
    result = ShardedResult(str(folder), *totals, time.perf_counter() - began)
    folder.tidy()
    folder.write(SUMMARY, json.dumps(result.to_dict(), indent=2).encode())
    return result


def _absolute(place: Path | str) -> Path | str:
    """The place as it is called on every machine."""
    found = locate(str(place))
    return found.absolute() if isinstance(found, Path) else found


def _source(image: Path | str) -> str:
    text = str(image)
    mark = "@" if text.startswith("@") else ""
    return mark + str(_absolute(text.removeprefix("@")))


def _run(
    model: Model,
    folder: Folder,
    plan: ShardPlan,
    cluster: Cluster,
    workers: int,
    batch_size: int,
    runtime: str,
    progress: Progress | None,
) -> tuple[int, int, int, int, int]:
    import ray

    scorer = {
        "model": ray.put(model.data),
        "folder": folder,
        "form": plan.form,
        "batch_size": batch_size,
        "threads": cluster.threads,
        "runtime": runtime,
        "version": __version__,
    }
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    finished = (
        ray.data.from_items([{"run": 0}])
        # A list may be on this machine alone; and listing takes no core from the scoring.
        .map_batches(
            partial(_rows_of_shards, folder=folder, plan=plan),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,
            label_selector=here,
        )
        .map_batches(
            Scorer,
            fn_constructor_kwargs=scorer,
            batch_size=1,
            batch_format="pyarrow",
            **cluster.pool(workers),
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
    """A worker: the model, loaded once, and shards that are scored one after the other.

    Args:
        model: reference to the model's file.
        folder: of the output.
        form: of the files.
        batch_size: images to a run of the network.
        threads: of the network.
        runtime: that runs it.
        version: of fre, of the command.
    """

    def __init__(
        self,
        *,
        model: Any,
        folder: Folder,
        form: str,
        batch_size: int,
        threads: int,
        runtime: str,
        version: str,
    ) -> None:
        self._reference = model
        self._folder = folder
        self._file = ShardFile(form)
        self._batch_size = batch_size
        self._threads = threads
        self._runtime = runtime
        self._version = version

    @cached_property
    def _model(self) -> Model:
        # Not in the constructor: Ray passes on what goes wrong there as text alone.
        import ray

        check_version(self._version)
        return Model(ray.get(self._reference), runtime=self._runtime, threads=self._threads)

    def __call__(self, batch: Any) -> Any:
        """Score shards; counts of each."""
        import pyarrow as pa

        return pa.Table.from_pylist([self._row(row) for row in batch.to_pylist()])

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        shard = Shard(row["shard"], tuple(json.loads(row["paths"])), row["listed"])
        name = self._file.name(shard.number)
        before = self._folder.read(name)
        counts = None if before is None else self._file.count(before)
        found = counts is not None and counts.images == len(shard.paths)
        if counts is None or not found:
            counts = self._score(shard, name)
        return {"shard": shard.number, "listed": shard.listed, "found": found, **asdict(counts)}

    def _score(self, shard: Shard, name: str) -> Counts:
        sources = [path if is_url(path) else Path(path) for path in shard.paths]
        results = self._model.predict_many(
            sources,
            batch_size=self._batch_size,
            workers=READERS * self._threads,
            errors="return",
        )
        rows = []
        anomalous = errors = out_of_reach = 0
        last: ImageError | None = None
        for path, result in zip(shard.paths, results, strict=True):
            rows.append(json_row(result, path))
            if isinstance(result, ImageError):
                errors += 1
                out_of_reach += isinstance(result, FetchError)
                last = result
            else:
                anomalous += result.anomalous
        if last is not None and out_of_reach == len(rows):
            # The images may be fine: a shard of nothing but errors would never be tried again.
            raise FetchError(shard.paths[-1], last.reason)
        self._folder.write(name, self._file.encode(rows))
        return Counts(len(rows), anomalous, errors)
