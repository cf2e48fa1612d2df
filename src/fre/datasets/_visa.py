"""VisA.

::

    split_csv/1cls.csv                             object,split,label,image,mask
    <category>/Data/Images/Normal/0000.JPG
    <category>/Data/Images/Anomaly/000.JPG
    <category>/Data/Masks/Anomaly/000.png          non-zero, but dark: 1, 2, 3, ...

The split is that of ``1cls.csv``, whose paths are relative to the root. A category on its own,
without that file, is split by file name.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from fre.datasets._contents import Contents, count, good_samples, some, split_unpublished
from fre.datasets._masks import attach_masks, masks_below, note_unpaired
from fre.datasets._names import is_good
from fre.datasets.samples import Sample
from fre.errors import DatasetError
from fre.storage.listing import folder_name, image_key, images_in

_SPLIT = Path("split_csv", "1cls.csv")
_COLUMNS = ("object", "split", "label", "image", "mask")


def find_visa(root: Path, children: Sequence[Path]) -> dict[str, Path]:
    """Return the categories of VisA in or at ``root``."""
    if _is_category(root):
        return {folder_name(root): root}
    return {child.name: child for child in children if _is_category(child)}


def read_visa(folder: Path, category: str) -> Contents:
    """Read one category of VisA."""
    # By its spelling, so that a category may be a link to another place.
    root = Path(os.path.normpath(folder / ".."))
    return _read_split(root, category) if (root / _SPLIT).is_file() else _read_unsplit(folder)


def _is_category(folder: Path) -> bool:
    return (folder / "Data" / "Images" / "Normal").is_dir()


def _read_split(root: Path, category: str) -> Contents:
    table = root / _SPLIT
    contents = Contents([], [], [])
    missing: list[Path] = []
    defects_in_train = 0
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if absent := set(_COLUMNS) - set(reader.fieldnames or ()):
            raise DatasetError(
                f"{table}: expected the columns {', '.join(_COLUMNS)}, but there is no "
                f"{', '.join(sorted(absent))}"
            )
        for row in reader:
            if row["object"] != category:
                continue
            path = root / row["image"]
            if not path.is_file():
                missing.append(path)
            elif is_good(row["label"]):
                side = contents.train if row["split"] == "train" else contents.test
                side.append(Sample(path, "good"))
            elif row["split"] == "train":
                defects_in_train += 1
            else:
                masks = (root / row["mask"],) if row["mask"] else ()
                contents.test.append(Sample(path, row["label"], masks))

    notes = contents.notes
    if missing:
        notes.append(
            f"{count(len(missing), 'image')} of {_SPLIT.as_posix()} not there, left out: "
            f"{some(missing, root)}"
        )
    if defects_in_train:
        notes.append(
            f"{count(defects_in_train, 'defective image')} of the training split not trained on"
        )
    notes += note_unpaired(contents.test, root)
    return contents


def _read_unsplit(folder: Path) -> Contents:
    images = folder / "Data" / "Images"
    defects = [Sample(path, "anomaly") for path in images_in(images / "Anomaly")]
    paired, notes = attach_masks(
        defects,
        lambda sample: image_key(sample.path, images),
        masks_below(folder / "Data" / "Masks"),
        folder,
    )
    return split_unpublished(
        [*good_samples(images_in(images / "Normal")), *paired],
        lambda sample: image_key(sample.path, images),
        notes,
    )
