"""Real-IAD.

::

    realiad_jsons/<category>.json    (or realiad_jsons/realiad_jsons/<category>.json)
    realiad_1024/<category>/OK/S0001/<category>_0001_OK_C1_<time>.jpg
    realiad_1024/<category>/NG/<kind>/S0001/*.jpg and *_mask.png

A JSON file holds ``meta`` (``prefix``, ``normal_class``, ``pre_transform``) and the lists
``train`` and ``test`` of ``{category, anomaly_class, image_path, mask_path}``, with paths
relative to the prefix. To read another protocol than the standard one, such as
``realiad_jsons_sv``, give the JSON file itself in the place of the root.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fre.datasets._contents import Contents, count, good_only, some
from fre.datasets._masks import note_unpaired
from fre.datasets.samples import Sample
from fre.errors import DatasetError
from fre.storage.listing import natural_key

_JSON_FOLDERS = ("realiad_jsons/realiad_jsons", "realiad_jsons")
_IMAGE_FOLDERS = ("realiad_1024", "realiad_512", "realiad_256", "realiad_raw", "realiad")


def find_real_iad(root: Path, children: Sequence[Path]) -> dict[str, Path]:
    """Return the categories of Real-IAD at ``root``: name -> JSON file."""
    if root.is_file():
        return {root.stem: root} if root.suffix.lower() == ".json" else {}
    for folder in _JSON_FOLDERS:
        if files := list((root / folder).glob("*.json")):
            return {path.stem: path for path in sorted(files, key=lambda p: natural_key(p.name))}
    return {}


def read_real_iad(path: Path, category: str) -> Contents:
    """Read one category of Real-IAD: the images that its JSON file lists."""
    protocol = _load(path)
    meta = protocol.get("meta") or {}
    normal = str(meta.get("normal_class", "OK"))
    folder, notes = _image_folder(path, str(meta.get("prefix") or f"{category}/"))
    missing: list[Path] = []

    def samples(split: str) -> list[Sample]:
        found = []
        for number, row in enumerate(protocol.get(split, ())):
            try:
                image, kind, mask = row["image_path"], row["anomaly_class"], row.get("mask_path")
            except (TypeError, KeyError, AttributeError):
                raise DatasetError(
                    f"{path}: {split}[{number}]: expected image_path, anomaly_class and "
                    f"mask_path, found {str(row)[:80]}"
                ) from None
            if not (folder / image).is_file():
                missing.append(folder / image)
            elif kind == normal:
                found.append(Sample(folder / image, "good"))
            else:
                found.append(Sample(folder / image, kind, (folder / mask,) if mask else ()))
        return found

    train, test = samples("train"), samples("test")
    good = good_only(train, notes)
    if missing:
        notes.append(
            f"{count(len(missing), 'image')} of {path.name} not there, left out: "
            f"{some(missing, folder.parent)}"
        )
    return Contents(good, test, [*notes, *note_unpaired(test, folder)])


def _load(path: Path) -> dict[str, Any]:
    try:
        protocol = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: can't be read as JSON: {error}") from error
    if not isinstance(protocol, dict) or not {"train", "test"} & protocol.keys():
        raise DatasetError(
            f"{path}: expected a file of Real-IAD with the lists 'train' and 'test', found neither"
        )
    return protocol


def _image_folder(path: Path, prefix: str) -> tuple[Path, list[str]]:
    ancestors = path.absolute().parents[:3]
    found = [
        place / name / prefix
        for place in ancestors
        for name in _IMAGE_FOLDERS
        if (place / name / prefix).is_dir()
    ] or [place / prefix for place in ancestors if (place / prefix).is_dir()]
    if not found:
        raise DatasetError(
            f"{path}: expected its images in {_IMAGE_FOLDERS[0]}/{prefix} beside realiad_jsons, "
            "found no such folder; unpack the images there"
        )
    notes = []
    if len(found) > 1:
        notes.append(f"several sizes of the images: {found[0].parent.name} is read")
    return found[0], notes
