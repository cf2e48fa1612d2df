"""Shards: the images of each, and its file.

The list of images is written into the output before anything is scored, so that a resumed run has
the same shards, even if folders have changed. The name of a shard's file follows from its number,
and files are written whole or not at all, so that a shard may be scored twice.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from fre.errors import (
    DatasetError,
    MissingDependencyError,
    OptionError,
    OutputError,
)
from fre.storage.files import encode_text
from fre.storage.remote import Folder, iter_sources

FORMATS = ("jsonl", "parquet")

LISTED = 50_000
"""Number of images of a file of the list."""

PLAN = "_fre/run.json"
LIST_END = "_fre/images/end.json"


@dataclass(frozen=True)
class ShardPlan:
    """Settings of a run, which a resumed run must share.

    Attributes:
        model: digest of the model file.
        sources: absolute paths, URLs and lists of images.
        shard_size: number of images of a shard.
        form: ``"jsonl"`` or ``"parquet"``.
        version: version of fre.
    """

    model: str
    sources: tuple[str, ...]
    shard_size: int
    form: str
    version: str

    def __post_init__(self) -> None:
        if self.form not in FORMATS:
            raise OptionError(f"no format is called {self.form!r}; choose from: {FORMATS}")
        if self.shard_size < 1:
            raise OptionError(f"a shard must have 1 image or more, not {self.shard_size}")


@dataclass(frozen=True)
class Shard:
    """Images that are scored into one file.

    Attributes:
        number: number of the shard, from 0.
        paths: paths of its images.
        listed: number of images found so far, for the progress.
    """

    number: int
    paths: tuple[str, ...]
    listed: int


@dataclass(frozen=True)
class Counts:
    """Numbers of lines, of anomalous images and of errors in a shard."""

    images: int
    anomalous: int
    errors: int


def open_run(folder: Folder, plan: ShardPlan, *, overwrite: bool) -> None:
    """Begin a run in a folder, or resume the one in it.

    Raises:
        OutputError: the folder holds something else, or can't be written.
    """
    if overwrite:
        folder.clear()
    before = folder.read(PLAN)
    if before is None:
        if not folder.empty():
            raise OutputError(f"{folder}: is not empty; give a new folder, or --overwrite")
        folder.write(PLAN, json.dumps(asdict(plan), indent=2).encode())
        return
    try:
        found = json.loads(before)
        found = ShardPlan(**{**found, "sources": tuple(found["sources"])})
    except (ValueError, TypeError, KeyError) as error:
        raise OutputError(f"{folder}/{PLAN}: is damaged; give a new folder") from error
    for name, wanted in asdict(plan).items():
        if getattr(found, name) != wanted:
            raise OutputError(
                f"{folder}: holds the results of another run, whose {name} is "
                f"{getattr(found, name)} and not {wanted}; give a new folder, or --overwrite"
            )


def forget_run(folder: Folder) -> None:
    """Remove a run that found no image, to free the folder for another."""
    if folder.read(_list_name(0)) is None:
        folder.clear()


@contextmanager
def begun_run(folder: Folder, plan: ShardPlan, *, overwrite: bool) -> Iterator[None]:
    """Begin or resume a run in a folder; if it fails without an image, the folder is free again.

    Raises:
        OutputError: the folder holds something else, or can't be written.
    """
    open_run(folder, plan, overwrite=overwrite)
    try:
        yield
    except BaseException:
        forget_run(folder)
        raise


def iter_shards(folder: Folder, plan: ShardPlan) -> Iterator[Shard]:
    """Yield the shards of a run, while images are still being listed.

    Raises:
        DatasetError: there are no images, or other ones than in the interrupted run.
    """
    waiting: list[str] = []
    number = 0
    for chunk, listed in _listed(folder, plan):
        waiting += chunk
        while len(waiting) >= plan.shard_size:
            yield Shard(number, tuple(waiting[: plan.shard_size]), listed)
            del waiting[: plan.shard_size]
            number += 1
    if waiting:
        yield Shard(number, tuple(waiting), listed)


def _listed(folder: Folder, plan: ShardPlan) -> Iterator[tuple[list[str], int]]:
    """Yield lists of image names, after writing each to the output, with their number so far."""
    end = folder.read(LIST_END)
    listed = 0
    if end is not None:
        for number in range(json.loads(end)["files"]):
            data = folder.read(_list_name(number))
            if data is None:
                raise OutputError(f"{folder}/{_list_name(number)}: is missing; give a new folder")
            chunk = [json.loads(line) for line in data.splitlines()]
            listed += len(chunk)
            yield chunk, listed
        return
    names = iter_sources([*plan.sources])
    number = 0
    chunk = list(islice(names, LISTED))
    while chunk:
        data = encode_text("".join(f"{json.dumps(name, ensure_ascii=False)}\n" for name in chunk))
        before = folder.read(_list_name(number))
        if before is None:
            folder.write(_list_name(number), data)
        elif before != data:
            # The interrupted run had not listed all images: new ones would shift all shards.
            raise DatasetError(
                f"{', '.join(plan.sources)}: the images are no longer those of the run in "
                f"{folder}; give a new folder, or --overwrite"
            )
        listed += len(chunk)
        number += 1
        following = list(islice(names, LISTED))
        if not following:
            # Before the last names are yielded, as the caller may take long.
            folder.write(LIST_END, json.dumps({"files": number, "images": listed}).encode())
        yield chunk, listed
        chunk = following


def _list_name(number: int) -> str:
    return f"_fre/images/{number:06d}.txt"


class ShardFile:
    """Format of the files of shards.

    Args:
        form: ``"jsonl"`` or ``"parquet"``.

    Raises:
        MissingDependencyError: PyArrow is missing for Parquet.
    """

    def __init__(self, form: str) -> None:
        self.form = form
        if form == "parquet" and importlib.util.find_spec("pyarrow") is None:
            raise MissingDependencyError("the format parquet", "ray")

    def name(self, number: int) -> str:
        """Return the name of a shard's file."""
        return f"part-{number:07d}.{self.form}"

    def encode(self, rows: Sequence[dict[str, Any]]) -> bytes:
        """Return the content of a file of rows from `prediction_row`."""
        if self.form == "jsonl":
            return encode_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows))
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [
            {**row, "regions": [_with_pairs(region) for region in row["regions"]]}
            if "regions" in row
            else row
            for row in rows
        ]
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(columns, schema=_schema(pa)), sink)
        return sink.getvalue()

    def count(self, data: bytes) -> Counts | None:
        """Return the counts of a file's content; ``None`` if it is damaged."""
        try:
            if self.form == "jsonl":
                rows = [json.loads(line) for line in data.splitlines()]
                errors = sum("error" in row for row in rows)
                anomalous = sum(row.get("anomalous", False) for row in rows)
                return Counts(len(rows), anomalous, errors)
            import pyarrow.compute as pc
            import pyarrow.parquet as pq

            table = pq.read_table(io.BytesIO(data), columns=["anomalous", "error"])
            errors = table.num_rows - table["error"].null_count
            return Counts(table.num_rows, pc.sum(table["anomalous"]).as_py() or 0, errors)
        except (ValueError, OSError, AttributeError):  # Arrow's errors are among the first two
            return None


def _with_pairs(region: dict[str, Any]) -> dict[str, Any]:
    return {**region, "layers": [*region["layers"].items()]}


def _schema(pa: Any) -> Any:
    region = pa.struct(
        [
            ("bbox", pa.list_(pa.int32())),
            ("area", pa.int64()),
            ("peak", pa.float64()),
            ("peak_xy", pa.list_(pa.int32())),
            ("centroid", pa.list_(pa.float64())),
            ("layers", pa.map_(pa.string(), pa.float64())),
        ]
    )
    return pa.schema(
        [
            ("path", pa.string()),
            ("score", pa.float64()),
            ("p_value", pa.float64()),
            ("anomalous", pa.bool_()),
            ("reason", pa.string()),
            ("regions", pa.list_(region)),
            ("error", pa.string()),
        ]
    )
