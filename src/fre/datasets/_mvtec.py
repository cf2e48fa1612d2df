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

``train`` and ``test`` may be written in capitals; ``good`` and ``ground_truth`` may have any name
of that meaning: see ``_names``. Folders may be nested: the first level below ``test`` names the
kind of defect, and what lies below ``train/good`` is good. Depth images, such as those in the
folders ``xyz`` of MVTec 3D-AD, are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from fre.datasets._contents import Contents, count, good_samples, some
from fre.datasets._groups import bare_key, group_images, note_left_out, of, paths_of
from fre.datasets._masks import (
    attach_masks,
    drawn_masks,
    marked_images,
    masks_below,
    note_drawn,
    separate_masks,
)
from fre.datasets._names import Meaning, Names, are_neutral, meaning, split_of
from fre.datasets.samples import Sample
from fre.storage.listing import (
    find_images,
    folder_name,
    image_key,
    list_folder,
    relative,
    subfolders,
    suffix,
)


def is_mvtec(folder: Path) -> bool:
    """Return whether the folder is one category in MVTec AD's shape."""
    if (folder / "train").is_dir() or (folder / "test").is_dir():
        return True
    return any(split_of(child.name) in ("train", "test") for child in subfolders(folder))


def is_btad(folder: Path) -> bool:
    """Return whether the folder is one category of BTAD."""
    return any((folder / name).is_dir() for name in ("train/ok", "test/ok", "test/ko"))


def is_loco(folder: Path) -> bool:
    """Return whether the folder is one category of MVTec LOCO AD."""
    return any(
        (folder / "test" / kind).is_dir() for kind in ("logical_anomalies", "structural_anomalies")
    )


def is_ad2(folder: Path) -> bool:
    """Return whether the folder is one category of MVTec AD 2."""
    return (folder / "test_public").is_dir()


def by_folder(
    is_category: Callable[[Path], bool],
) -> Callable[[Path, Sequence[Path]], dict[str, Path]]:
    """Return a finder of categories: the root itself is one, or some of its folders are."""

    def find(root: Path, children: Sequence[Path]) -> dict[str, Path]:
        if is_category(root):
            return {folder_name(root): root}
        # good/train and bad/test are halves of one dataset.
        named = (child for child in children if meaning(child.name) is None)
        return {child.name: child for child in named if is_category(child)}

    return find


def read_mvtec(folder: Path, category: str, good: Sequence[str] = ()) -> Contents:
    """Read one category of MVTec AD, MPDD, BTAD or MVTec LOCO AD."""
    test = _split_folder(folder, "test")
    masks = folder / "ground_truth"
    if not masks.is_dir():
        named = (child for child in subfolders(folder) if meaning(child.name) is Meaning.MASK)
        masks = next(named, masks)
    return _read(folder, Names(good), test=test, masks=masks)


def read_ad2(folder: Path, category: str, good: Sequence[str] = ()) -> Contents:
    """Read one category of MVTec AD 2, with its public test images."""
    test = folder / "test_public"
    return _read(folder, Names(good), test=test, masks=test / "ground_truth")


def _split_folder(folder: Path, split: str) -> Path:
    """Return the folder of a split, also if it is called ``Train`` or ``TESTING``."""
    exact = folder / split
    if exact.is_dir():
        return exact
    return next((child for child in subfolders(folder) if split_of(child.name) == split), exact)


def _read(folder: Path, names: Names, *, test: Path, masks: Path) -> Contents:
    train_folder = _split_folder(folder, "train")
    train, train_notes = _read_train(folder, train_folder, names)

    def key(sample: Sample) -> str:
        return _key_below_kind(sample.path, test)

    samples, own_masks, test_notes = _read_test(folder, test, masks, names)
    named = [*masks_below(masks), *own_masks]
    paired, mask_notes = attach_masks(samples, key, named, folder)
    notes = [*train_notes, *test_notes]
    bare = {sample.kind for sample in paired if not sample.good} - {
        sample.kind for sample in paired if sample.masks
    }
    # Only kinds without any mask are looked at: a published dataset is listed without reading.
    suspects = [sample.path for sample in samples if sample.kind in bare]
    if drawn := drawn_masks(suspects, [sample.path for sample in samples]):
        photographs = [sample for sample in samples if sample.path not in drawn]
        keyed = [(image_key(path, test).partition("/")[2], path) for path in sorted(drawn)]
        notes.append(f"{test.name}: {note_drawn(drawn, folder)}")
        named += keyed
        paired, mask_notes = attach_masks(photographs, key, named, folder)
    unused = _note_unused(folder, (train_folder, test, masks))
    return Contents(train, paired, [*notes, *unused, *mask_notes])


def _read_train(folder: Path, train: Path, names: Names) -> tuple[list[Sample], list[str]]:
    if not train.is_dir():
        return [], []
    images, masks = separate_masks(find_images(train), folder)
    drawn = drawn_masks(_namesakes(images, train), images)
    groups = group_images([path for path in images if path not in drawn], train, names)
    notes = []
    loose = [path for g in of(groups, None) if not g.name for path in g.paths]
    if loose:
        notes.append(f"{count(len(loose), 'image')} directly in {train.name}/, taken as good")
    unknown = [group for group in of(groups, None) if group.name]
    paths = [*loose, *paths_of(of(groups, Meaning.GOOD))]
    sure = not paths and unknown and not of(groups, Meaning.DEFECT)
    if sure and (len(unknown) == 1 or are_neutral([group.name for group in unknown])):
        paths = paths_of(unknown)
        notes.append(
            f"{train.name}: no folder called good: all {count(len(paths), 'image')} in "
            f"{count(len(unknown), 'subfolder')} taken as good"
        )
        unknown = []
    notes += [
        f"{train.name}/{group.name}: {count(len(group.paths), 'image')} not trained on; only "
        "good images are"
        for group in groups
        if group.meaning is Meaning.DEFECT or group in unknown
    ]
    masks += [*sorted(drawn), *paths_of(of(groups, Meaning.MASK))]
    if masks:
        keys = {bare_key(path, train): path for path in paths}
        keyed = ((bare_key(mask, train), mask) for mask in masks)
        odd = [keys[key] for key in sorted(marked_images(keyed, keys))]
        paths = [path for path in paths if path not in odd]
        notes += [f"{relative(p, folder)}: not trained on; its mask marks a defect" for p in odd]
        notes.append(
            f"{train.name}: {count(len(masks), 'mask')} not trained on: {some(masks, folder)}"
        )
    return good_samples(paths), [*notes, *note_left_out(groups, f"{train.name}/")]


def _namesakes(images: Sequence[Path], root: Path) -> list[Path]:
    """Return images that differ from another one in their suffix only."""
    if len({suffix(str(path)) for path in images}) < 2:
        return []
    number = Counter(image_key(path, root) for path in images)
    return [path for path in images if number[image_key(path, root)] > 1]


def _read_test(
    folder: Path, test: Path, masks: Path, names: Names
) -> tuple[list[Sample], list[tuple[str, Path]], list[str]]:
    """Return the samples, the masks that lie among them with their keys, and notes."""
    samples: list[Sample] = []
    notes: list[str] = []
    if not test.is_dir():
        return samples, [], notes
    kinds = [child for child in subfolders(test) if child != masks]
    loose, _ = list_folder(test)
    found = [*loose, *(path for child in kinds for path in find_images(child))]
    images, beside = separate_masks(found, test)
    groups = group_images(images, test, names)
    for group in groups:
        if group.meaning is None and not group.name:
            notes.append(
                f"{count(len(group.paths), 'image')} directly in {test.name}/, left out: good "
                f"or not? {some(group.paths, folder)}"
            )
        elif group.meaning is Meaning.GOOD:
            samples += good_samples(group.paths)
        elif group.meaning in (Meaning.DEFECT, None):
            samples += [Sample(path, group.name) for path in group.paths]
    filled = {image_key(path, test).partition("/")[0] for path in found}
    notes += [f"{test.name}/{c.name}: no images in it" for c in kinds if c.name not in filled]
    notes += note_left_out(groups, f"{test.name}/")
    own = [*beside, *paths_of(of(groups, Meaning.MASK))]
    return samples, [(_key_below_kind(path, test), path) for path in own], notes


def _key_below_kind(path: Path, test: Path) -> str:
    """Return the key of an image or a mask: its kind and, without ``rgb`` or ``gt``, its name."""
    kind, there, _ = image_key(path, test).partition("/")
    if not there or meaning(kind) is Meaning.MASK:
        return bare_key(path, test)
    return f"{kind}/{bare_key(path, test / kind)}"


_UNUSED = {
    "test_private": "not tested on: no labels are published",
    "test_private_mixed": "not tested on: no labels are published",
}


def _note_unused(folder: Path, read: Sequence[Path]) -> list[str]:
    notes = []
    loose, children = list_folder(folder)
    if loose:
        notes.append(
            f"{count(len(loose), 'image')} beside the folders of the dataset, left out: "
            f"{some(loose, folder)}"
        )
    for child in sorted(children, key=lambda child: child.name in _UNUSED):
        # By identity: a disk that ignores case gives Train under the name train.
        known = any(other.exists() and child.samefile(other) for other in read)
        if not known and (paths := find_images(child)):
            why = _UNUSED.get(child.name, "neither trained nor tested on")
            notes.append(f"{child.name}: {count(len(paths), 'image')} {why}")
    return notes
