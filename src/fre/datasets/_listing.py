"""A list of images: a CSV file with a header, or a file of JSON lines.

::

    path,label,mask,split                            parts.csv
    a/0001.png,good,,train
    a/0002.png,scratch,masks/0002.png,test

    {"path": "a/0001.png", "label": "good"}          parts.jsonl
    {"path": "a/0002.png", "label": "scratch", "mask": ["m/1.png", "m/2.png"]}

Only ``path`` is needed. Paths are relative to the file. ``label`` is a word that means good, such
as ``good``, ``ok``, ``pass`` or ``normal``, or 0; 1 is ``defect``. Where at least one row has such
a label, any other one names a kind of defect; where none has, labels that mean nothing known are
an error. Without the column all images are good. ``split`` is ``train``, ``test``, or
``validation``, which is not used; without the column the good images are split by file name where
there are defects, and are all for training where there are none.

A spreadsheet's semicolons or tabs will do in the place of commas. A ``.txt`` file may also be a
bare list: one path a line, all good.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fre.datasets._contents import Contents, count, good_only, split_unpublished
from fre.datasets._masks import note_unpaired
from fre.datasets._names import Meaning, meaning, similar_good_word, split_of
from fre.datasets.samples import Sample
from fre.errors import DatasetError
from fre.storage.listing import SUFFIXES, image_key, suffix

_CSV = (".csv", ".tsv", ".txt")
_JSON_LINES = (".jsonl", ".ndjson")
LIST_SUFFIXES = (*_CSV, *_JSON_LINES)


class _Row(NamedTuple):
    sample: Sample
    split: str
    label: str | None
    where: str


def find_list(root: Path, children: Sequence[Path]) -> dict[str, Path]:
    """Return the list itself."""
    is_it = root.suffix.lower() in LIST_SUFFIXES and root.is_file()
    return {root.stem: root} if is_it else {}


def read_list(path: Path, category: str) -> Contents:
    """Read a list of images."""
    rows = [_parse(values, where, path.parent) for where, values in _read_rows(path)]
    _check_labels(rows, path)
    if any(row.split for row in rows):
        return _by_split(rows, path)
    samples = [row.sample for row in rows]
    return split_unpublished(
        samples,
        lambda sample: image_key(sample.path, path.parent),
        note_unpaired(samples, path.parent),
    )


def listed_images(path: Path) -> list[Path]:
    """Return the images that a list names, in its order, whatever their labels.

    Raises:
        DatasetError: the list can't be read, names no image, or names one that is not there.
    """
    found = [_image(values, where, path.parent) for where, values in _read_rows(path)]
    if not found:
        raise DatasetError(f"{path}: no line names an image")
    return found


def _check_labels(rows: Sequence[_Row], path: Path) -> None:
    """Refuse labels that can't be told good from defective.

    Raises:
        DatasetError: with the labels found and those known.
    """
    found = Counter(row.label for row in rows if row.label is not None)
    unknown = [label for label in found if _meaning(label) is None]
    anchored = any(_meaning(label) is Meaning.GOOD for label in found)
    misspelt = {label: word for label in unknown if (word := similar_good_word(label))}
    unclear = [
        label
        for label in found
        if label in misspelt
        or _meaning(label) in (Meaning.MIXED, Meaning.MASK, Meaning.OTHER)
        or (label in unknown and (not anchored or _is_negative(label)))
    ]
    if not unclear:
        return
    where = next(row.where for row in rows if row.label in unclear)
    hint = "".join(f"; is {label!r} meant as {word!r}?" for label, word in misspelt.items())
    listed = ", ".join(f"{label} ({count(number, 'row')})" for label, number in found.items())
    raise DatasetError(
        f"{where}: can't tell whether the label {unclear[0]!r} is good or defective; labels "
        f"found: {listed}{hint}; known for good: good, ok, normal, pass, 0; for defects: defect, "
        "bad, ng, fail, anomaly, 1, or any kind of defect in a list that has good images, too"
    )


_NUMBERS = {
    **dict.fromkeys(("0", "0.0", "false"), Meaning.GOOD),
    **dict.fromkeys(("1", "1.0", "true"), Meaning.DEFECT),
}
"""Labels as programs write them."""


def _meaning(label: str) -> Meaning | None:
    """Return the meaning of a label: a number or a word."""
    return _NUMBERS.get(label.casefold()) or meaning(label)


def _is_negative(label: str) -> bool:
    """Return whether a label is negative: some programs write -1 for defects, others for good."""
    try:
        return float(label) < 0
    except ValueError:
        return False


def _by_split(rows: Sequence[_Row], path: Path) -> Contents:
    train = [row.sample for row in rows if row.split == "train"]
    test = [row.sample for row in rows if row.split == "test"]
    notes = note_unpaired(test, path.parent)
    good = good_only(train, notes)
    if unused := len(rows) - len(train) - len(test):
        notes.append(f"{count(unused, 'image')} of neither train nor test not used")
    return Contents(good, test, notes)


def _read_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield where each row stands, and its values."""
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
    if "path" not in columns and _is_bare(header, path):
        for number, line in enumerate([header, *file], 1):
            if line.strip():
                yield f"{path}, line {number}", {"path": line}
        return
    if "path" not in columns:
        raise DatasetError(
            f"{path}: expected a first line such as 'path,label,mask', found {header.strip()!r}"
        )
    reader = csv.DictReader(file, columns, delimiter=delimiter)
    for values in reader:
        # The header was read apart: the reader's first line is the file's second.
        yield f"{path}, line {reader.line_num + 1}", values


def _is_bare(line: str, path: Path) -> bool:
    """Return whether a text file is a list of paths without a header."""
    first = line.strip()
    if path.suffix.lower() != ".txt" or not first:
        return False
    return suffix(first) in SUFFIXES or (path.parent / first).is_file()


def _parse_json(line: str, where: str) -> Mapping[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise DatasetError(f"{where}: expected a JSON object, but {error}") from None
    if not isinstance(values, dict):
        raise DatasetError(f"{where}: expected a JSON object, found {line.strip()[:80]}")
    return values


def _parse(values: Mapping[str, Any], where: str, folder: Path) -> _Row:
    image = _image(values, where, folder)
    label = _label(values["label"], where) if "label" in values else None
    kind = "good" if label is None else _kind(label)
    split = str(values.get("split") or "").strip()
    if split and split_of(split) is None:
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
    return _Row(sample, split_of(split) or "", label, where)


def _image(values: Mapping[str, Any], where: str, folder: Path) -> Path:
    path = values.get("path")
    if not isinstance(path, str) or not path.strip():
        raise DatasetError(f"{where}: expected the path of an image, found {path!r}")
    return _existing(path, "image", where, folder)


def _existing(text: str, what: str, where: str, folder: Path) -> Path:
    path = folder / text.strip()
    if not path.is_file():
        raise DatasetError(
            f"{where}: no such {what}: {path}; paths are relative to the folder of the list"
        )
    return path


def _label(label: object, where: str) -> str:
    text = "" if label is None else str(label).strip()
    if not text:
        raise DatasetError(f"{where}: expected a label, 'good' or the kind of defect, found none")
    return text


def _kind(label: str) -> str:
    if _meaning(label) is Meaning.GOOD:
        return "good"
    return "defect" if label.casefold() in _NUMBERS else label
