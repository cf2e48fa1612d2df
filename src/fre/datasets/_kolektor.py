"""KolektorSDD and KolektorSDD2.

::

    kos01/Part0.jpg, kos01/Part0_label.bmp, ...    KolektorSDD
    train/10000.png, train/10000_GT.png, ...       KolektorSDD2
    test/20000.png, test/20000_GT.png, ...

Every image has a label image, and is good when that is all black; so the label images are read
when the dataset is opened.

KolektorSDD publishes folds for supervised learning only. Here its good images are split by the
name of their item (``kos01``), so that no item is both trained and tested on. KolektorSDD2 has a
split of its own, whose training part also holds defects: these are not trained on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from fre.datasets._contents import Contents, count, good_only, some, split_unpublished
from fre.datasets._masks import mask_is_empty
from fre.datasets.samples import Sample
from fre.storage.listing import folder_name, image_key, images_in, subfolders

_ITEM = re.compile(r"kos\d+", re.IGNORECASE)
_SDD_ENDING = "_label"
_SDD2_ENDING = "_GT"


def find_kolektorsdd(root: Path, children: Sequence[Path]) -> dict[str, Path]:
    """Return KolektorSDD at ``root``."""
    is_it = any(_ITEM.fullmatch(child.name) for child in children)
    return {folder_name(root): root} if is_it else {}


def find_kolektorsdd2(root: Path, children: Sequence[Path]) -> dict[str, Path]:
    """Return KolektorSDD2 at ``root``."""
    is_it = any(
        path.stem.endswith(_SDD2_ENDING)
        for child in children
        if child.name in ("train", "test")
        for path in images_in(child)
    )
    return {folder_name(root): root} if is_it else {}


def read_kolektorsdd(root: Path, category: str) -> Contents:
    """Read KolektorSDD, split by item."""
    samples: list[Sample] = []
    notes: list[str] = []
    for item in subfolders(root):
        if _ITEM.fullmatch(item.name):
            samples += _read_labelled(item, _SDD_ENDING, root, notes)
    return split_unpublished(
        samples,
        lambda sample: sample.path.parent.name,
        notes,
    )


def read_kolektorsdd2(root: Path, category: str) -> Contents:
    """Read KolektorSDD2 in its published split."""
    notes: list[str] = []
    train = _read_labelled(root / "train", _SDD2_ENDING, root, notes)
    test = _read_labelled(root / "test", _SDD2_ENDING, root, notes)
    return Contents(good_only(train, notes), test, notes)


def _read_labelled(folder: Path, ending: str, root: Path, notes: list[str]) -> list[Sample]:
    labels: dict[str, Path] = {}
    images: list[Path] = []
    for path in images_in(folder):
        key, is_label, rest = image_key(path, folder).rpartition(ending)
        if not is_label:
            images.append(path)
        elif not rest:
            labels[key] = path
        # What is left is a stray copy, such as "10301_GT (copy).png".

    samples: list[Sample] = []
    bare: list[Path] = []
    for path in images:
        label = labels.get(image_key(path, folder))
        if label is None:
            bare.append(path)
        elif mask_is_empty(label):
            samples.append(Sample(path, "good"))
        else:
            samples.append(Sample(path, "defect", (label,)))
    if bare:
        notes.append(
            f"{count(len(bare), 'image')} without a label image (<name>{ending}), left out: "
            f"{some(bare, root)}"
        )
    return samples
