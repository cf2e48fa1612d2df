"""MVTec AD and the datasets that share its shape: MPDD, BTAD, MVTec LOCO AD, MVTec AD 2.

::

    <category>/train/good/*                          MVTec AD, MPDD
    <category>/test/good/*, test/<kind>/*
    <category>/ground_truth/<kind>/<stem>_mask.png   (or <stem>.png)

    <category>/train/ok/*, test/ok/*, test/ko/*      BTAD
    <category>/ground_truth/ko/<stem>.png            (.bmp in category 03)

    <category>/train/good/*, validation/good/*       MVTec LOCO AD
    <category>/test/good/*, test/logical_anomalies/*, test/structural_anomalies/*
    <category>/ground_truth/<kind>/<stem>/000.png    (001.png, ...)

    <category>/train/good/*, validation/good/*       MVTec AD 2
    <category>/test_public/good/*, test_public/bad/*
    <category>/test_public/ground_truth/bad/<stem>_mask.png
    <category>/test_private/*, test_private_mixed/*  (without labels)

The images lie directly in these folders; what is deeper is not read, so that the depth images
of MVTec 3D-AD are not taken for photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fre.datasets._contents import Contents, count, good_samples, is_good, some
from fre.datasets._masks import attach_masks
from fre.folders import (
    find_images,
    folder_name,
    image_key,
    images_in,
    list_folder,
    subfolders,
)
from fre.types import Sample


def is_mvtec(folder: Path) -> bool:
    """Whether the folder is one category in MVTec AD's shape."""
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def is_btad(folder: Path) -> bool:
    """Whether the folder is one category of BTAD."""
    return any((folder / name).is_dir() for name in ("train/ok", "test/ok", "test/ko"))


def is_loco(folder: Path) -> bool:
    """Whether the folder is one category of MVTec LOCO AD."""
    return any(
        (folder / "test" / kind).is_dir() for kind in ("logical_anomalies", "structural_anomalies")
    )


def is_ad2(folder: Path) -> bool:
    """Whether the folder is one category of MVTec AD 2."""
    return (folder / "test_public").is_dir()


def by_folder(
    is_category: Callable[[Path], bool],
) -> Callable[[Path, Sequence[Path]], dict[str, Path]]:
    """A finder of categories: the root itself is one, or some of its folders are."""

    def find(root: Path, children: Sequence[Path]) -> dict[str, Path]:
        if is_category(root):
            return {folder_name(root): root}
        return {child.name: child for child in children if is_category(child)}

    return find


def read_mvtec(folder: Path, category: str) -> Contents:
    """One category of MVTec AD, MPDD, BTAD or MVTec LOCO AD."""
    return _read(folder, test=folder / "test", masks=folder / "ground_truth")


def read_ad2(folder: Path, category: str) -> Contents:
    """One category of MVTec AD 2, tested on its public test images."""
    test = folder / "test_public"
    return _read(folder, test=test, masks=test / "ground_truth")


def _read(folder: Path, *, test: Path, masks: Path) -> Contents:
    train, train_notes = _read_train(folder)
    samples, test_notes = _read_test(folder, test, masks)
    paired, mask_notes = attach_masks(
        samples, lambda sample: image_key(sample.path, test), masks, folder
    )
    return Contents(train, paired, [*train_notes, *test_notes, *_note_unused(folder), *mask_notes])


def _read_train(folder: Path) -> tuple[list[Sample], list[str]]:
    train = folder / "train"
    paths = images_in(train)
    notes = []
    if paths:
        notes.append(f"{count(len(paths), 'image')} directly in train/, taken as good")
    for child in subfolders(train):
        if is_good(child.name):
            paths += images_in(child)
        elif defects := find_images(child):
            notes.append(
                f"train/{child.name}: {count(len(defects), 'image')} not trained on; only good "
                "images are"
            )
    return good_samples(paths), notes


def _read_test(folder: Path, test: Path, masks: Path) -> tuple[list[Sample], list[str]]:
    samples: list[Sample] = []
    notes: list[str] = []
    if not test.is_dir():
        return samples, notes
    loose, kinds = list_folder(test)
    if loose:
        notes.append(
            f"{count(len(loose), 'image')} directly in {test.name}/, left out: good or not? "
            f"{some(loose, folder)}"
        )
    for child in kinds:
        if child == masks:
            continue
        kind = "good" if is_good(child.name) else child.name
        paths = images_in(child)
        if not paths:
            notes.append(f"{test.name}/{child.name}: no images in it")
        samples += [Sample(path, kind) for path in paths]
    return samples, notes


def _note_unused(folder: Path) -> list[str]:
    unused = {
        "validation": "neither trained nor tested on",
        "test_private": "not tested on: no labels are published",
        "test_private_mixed": "not tested on: no labels are published",
    }
    notes = []
    for name, why in unused.items():
        if (folder / name).is_dir() and (paths := find_images(folder / name)):
            notes.append(f"{name}: {count(len(paths), 'image')} {why}")
    return notes
