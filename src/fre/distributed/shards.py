"""What is scored, in shards: which images each has, and the file that it becomes.

A shard is a run of images in the order of the list. The list is written into the output before
anything is scored, so that a run that goes on has the same shards, whatever has been added to the
folders since. The file of a shard has a name that follows from its number, and is there whole or
not; so a shard that is done twice is there once.
"""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Iterator, Sequence
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
"""Images whose names are written down at once."""

PLAN = "_fre/run.json"
LIST_END = "_fre/images/end.json"


@dataclass(frozen=True)
class ShardPlan:
    """What a run is to do; a run that goes on has the same.

    Attributes:
        model: digest of the model's file.
        sources: what was asked for: absolute paths, URLs and lists.
        shard_size: images of a shard.
        form: ``"jsonl"`` or ``"parquet"``.
        version: of fre.
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
    """Some images.

    Attributes:
        number: of the shard, from 0.
        paths: of its images.
        listed: how many images were found so far.
    """

    number: int
    paths: tuple[str, ...]
    listed: int


@dataclass(frozen=True)
class Counts:
    """What is in the file of a shard."""

    images: int
    anomalous: int
    errors: int


def open_run(folder: Folder, plan: ShardPlan, *, overwrite: bool) -> None:
    """Begin a run in a folder, or go on with the one that is there.

    Raises:
        OutputError: something else is there, or the folder can't be written.
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
    """Remove a run that has found no image: it must not stand in the way of another."""
    if folder.read(_list_name(0)) is None:
        folder.clear()


def iter_shards(folder: Folder, plan: ShardPlan) -> Iterator[Shard]:
    """The shards of a run, while the images are still being listed.

    Raises:
        DatasetError: there are no images, or they are no longer those of the run before.
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
    """The names of the images, written down before they are handed out."""
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
            # The run before ended while it listed: what was added since would shift all shards.
            raise DatasetError(
                f"{', '.join(plan.sources)}: the images are no longer those of the run that "
                f"{folder} is of; give a new folder, or --overwrite"
            )
        listed += len(chunk)
        number += 1
        following = list(islice(names, LISTED))
        if not following:
            # Before the last are handed out: who takes them may take long.
            folder.write(LIST_END, json.dumps({"files": number, "images": listed}).encode())
        yield chunk, listed
        chunk = following


def _list_name(number: int) -> str:
    return f"_fre/images/{number:06d}.txt"


class ShardFile:
    """The file of a shard.

    Args:
        form: ``"jsonl"`` or ``"parquet"``.

    Raises:
        MissingDependencyError: Parquet needs an extra.
    """

    def __init__(self, form: str) -> None:
        self.form = form
        if form == "parquet" and importlib.util.find_spec("pyarrow") is None:
            raise MissingDependencyError("the format parquet", "ray")

    def name(self, number: int) -> str:
        """The file's name."""
        return f"part-{number:07d}.{self.form}"

    def encode(self, rows: Sequence[dict[str, Any]]) -> bytes:
        """The file of some rows from `json_row`."""
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
        """What is in a file; ``None`` if it is damaged."""
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
