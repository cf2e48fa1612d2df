"""A list of images: a CSV file with a header, or a file of JSON lines.

::

    path,label,mask,split                            parts.csv
    a/0001.png,good,,train
    a/0002.png,scratch,masks/0002.png,test

    {"path": "a/0001.png", "label": "good"}          parts.jsonl
    {"path": "a/0002.png", "label": "scratch", "mask": ["m/1.png", "m/2.png"]}

Only ``path`` is needed. Paths are relative to the file. ``label`` is ``good``, ``ok``,
``normal`` or 0; 1 is ``defect``, anything else is the name of a kind of defect; without the
column all images are good. ``split`` is ``train``, ``test``, or ``validation``, which is not
used; without the column the good images are split by file name where there are defects, and are
all for training where there are none.

A spreadsheet's semicolons or tabs will do in the place of commas.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fre.datasets._contents import Contents, count, is_good
from fre.datasets._masks import note_unpaired
from fre.datasets._split import split_unpublished
from fre.errors import DatasetError
from fre.folders import image_key
from fre.types import Sample

_CSV = (".csv", ".tsv", ".txt")
_JSON_LINES = (".jsonl", ".ndjson")
LIST_SUFFIXES = (*_CSV, *_JSON_LINES)

_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


class _Row(NamedTuple):
    sample: Sample
    split: str


def find_list(root: Path, children: Sequence[Path]) -> dict[str, Path]:
    """The list itself."""
    is_it = root.suffix.lower() in LIST_SUFFIXES and root.is_file()
    return {root.stem: root} if is_it else {}


def read_list(path: Path, category: str) -> Contents:
    """A list of images."""
    rows = [_parse(values, where, path.parent) for where, values in _read_rows(path)]
    if any(row.split for row in rows):
        return _by_split(rows, path)
    samples = [row.sample for row in rows]
    return split_unpublished(
        [sample for sample in samples if sample.good],
        [sample for sample in samples if not sample.good],
        lambda sample: image_key(sample.path, path.parent),
        note_unpaired(samples, path.parent),
    )


def _by_split(rows: Sequence[_Row], path: Path) -> Contents:
    train: list[Sample] = []
    test: list[Sample] = []
    bad_in_train = unused = 0
    for sample, split in rows:
        if split == "test":
            test.append(sample)
        elif split != "train":
            unused += 1
        elif sample.good:
            train.append(sample)
        else:
            bad_in_train += 1
    notes = note_unpaired(test, path.parent)
    if bad_in_train:
        notes.append(f"train: {count(bad_in_train, 'defective image')} not trained on")
    if unused:
        notes.append(f"{count(unused, 'image')} of neither train nor test not used")
    return Contents(train, test, notes)


def _read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Where each row stands, and its values."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix.lower() in _JSON_LINES:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"{path}, line {number}", _parse_json(line, f"{path}, line {number}")
            else:
                yield from _read_csv(file, path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: can't be read as UTF-8 text: {error}") from error


def _read_csv(file: Any, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    header = file.readline()
    delimiter = max(",;\t", key=header.count)
    columns = [name.strip().casefold() for name in next(csv.reader([header], delimiter=delimiter))]
    if "path" not in columns:
        raise DatasetError(
            f"{path}: expected a first line such as 'path,label,mask', found {header.strip()!r}"
        )
    reader = csv.DictReader(file, columns, delimiter=delimiter)
    for values in reader:
        # The header was read apart: the reader's first line is the file's second.
        yield f"{path}, line {reader.line_num + 1}", values


def _parse_json(line: str, where: str) -> Mapping[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise DatasetError(f"{where}: expected a JSON object, but {error}") from None
    if not isinstance(values, dict):
        raise DatasetError(f"{where}: expected a JSON object, found {line.strip()[:80]}")
    return values


def _parse(values: Mapping[str, Any], where: str, folder: Path) -> _Row:
    path = values.get("path")
    if not isinstance(path, str) or not path.strip():
        raise DatasetError(f"{where}: expected the path of an image, found {path!r}")
    image = _existing(path, "image", where, folder)
    kind = _kind(values["label"], where) if "label" in values else "good"
    split = str(values.get("split") or "").strip()
    if split and split.casefold() not in _SPLITS:
        raise DatasetError(
            f"{where}: expected the split train, test or validation, found {split!r}"
        )
    masks = values.get("mask") or []
    masks = [masks] if isinstance(masks, str) else masks
    if not isinstance(masks, list) or not all(isinstance(mask, str) for mask in masks):
        raise DatasetError(f"{where}: expected the path of a mask, or a list, found {masks!r}")
    sample = Sample(
        image,
        kind,
        ()
        if kind == "good"
        else tuple(_existing(mask, "mask", where, folder) for mask in masks if mask.strip()),
    )
    return _Row(sample, _SPLITS.get(split.casefold(), ""))


def _existing(text: str, what: str, where: str, folder: Path) -> Path:
    path = folder / text.strip()
    if not path.is_file():
        raise DatasetError(
            f"{where}: no such {what}: {path}; paths are relative to the folder of the list"
        )
    return path


def _kind(label: object, where: str) -> str:
    text = "" if label is None else str(label).strip()
    if not text:
        raise DatasetError(f"{where}: expected a label, 'good' or the kind of defect, found none")
    if is_good(text) or text.casefold() in ("0", "false"):
        return "good"
    return "defect" if text.casefold() in ("1", "true") else text
