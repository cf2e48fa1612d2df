"""A plain folder of images.

::

    *.png, or folders of images              all good
    good/*, <kind>/*                         good, and a folder for each kind of defect
    ground_truth/<kind>/<stem>_mask.png      optional; also masks/ or gt/, and <stem>.png
    <kind>/<stem>_mask.png                   a mask beside its image is found too

``good`` may have any name that means good, such as ``ok``, ``pass`` or ``non_defective``: see
``_names``. Folders may be nested: the first level below the root names the kind. With kinds of
defect, the good images are split by file name: about a fifth is kept to test on. With good
images alone, all are for training.

Without a folder of good images, every image is taken as good only if nothing speaks against it:
no folder's name means defects, there are no masks, and several subfolders have names that tell
when or where images were taken, such as ``monday`` or ``camera_2``. Anything else is an error
that asks which folders are good.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fre.datasets._contents import Contents, count, good_samples, some, split_unpublished
from fre.datasets._groups import Group, bare_key, group_images, listed, note_left_out, of, paths_of
from fre.datasets._masks import (
    attach_masks,
    drawn_masks,
    marked_images,
    marks,
    note_drawn,
    separate_masks,
)
from fre.datasets._names import (
    Meaning,
    Names,
    are_neutral,
    is_good,
    is_neutral,
    says_only_that,
    split_of,
)
from fre.datasets.samples import Sample
from fre.errors import DatasetError
from fre.storage.listing import find_images, folder_name, image_key, relative, subfolders


def find_folder(root: Path, children: Sequence[Path]) -> dict[str, Path]:
    """Return the folder itself, or its folders that hold a folder of good images."""
    if not root.is_dir():
        return {}
    names = Names()
    if all(names.meaning(child.name) is None for child in children):
        several = {
            child.name: child
            for child in children
            if any(is_good(grandchild.name) for grandchild in subfolders(child))
        }
        # A further folder of images would be left out without a word.
        if several and not any(find_images(c) for c in children if c.name not in several):
            return several
    return {folder_name(root): root}


def read_folder(root: Path, category: str, good: Sequence[str] = ()) -> Contents:
    """Read a plain folder.

    Args:
        root: the folder.
        category: its name.
        good: names of folders that hold good images, in addition to the known names.

    Raises:
        DatasetError: nothing tells which images are good.
    """
    names = Names(good)
    images, beside = separate_masks(find_images(root), root)
    groups = group_images(images, root, names)
    suspects = [path for g in groups if g.meaning is not Meaning.MASK for path in g.paths]
    if not of(groups, Meaning.GOOD) and _own_meaning(root, names) is Meaning.MASK:
        raise DatasetError(
            f"{root}: a folder of masks by its name, with no images to learn from or to test on; "
            f"if these {count(len(images), 'image')} are photographs of good parts, rename the "
            f"folder or add --good {folder_name(root)}"
        )
    drawn = drawn_masks(suspects, images)
    notes = [note_drawn(drawn, root)] if drawn else []
    groups = [
        Group(group.meaning, group.name, kept)
        for group in groups
        if (kept := [path for path in group.paths if path not in drawn])
    ]
    named, mask_notes = _first_of_each(of(groups, Meaning.MASK), root)
    masks = [(bare_key(path, root), path) for path in beside]
    masks += [*named, *_drawn_keys(drawn, root, suspects)]

    if of(groups, Meaning.GOOD):
        unclear = [g for g in of(groups, None) if not g.name or _says_nothing(g.name)]
        notes += _note_unclear(unclear, root)
        samples = _samples(group for group in groups if group not in unclear)
        samples = _without_marked(samples, masks, root, notes)
    elif masks or of(groups, Meaning.DEFECT) or of(groups, Meaning.MIXED):
        samples = _judged_by_masks(groups, masks, root)
    else:
        return _all_good(root, groups, names, notes)
    notes += [*_note_empty(root, images, names), *note_left_out(groups)]
    samples, pairing = attach_masks(
        samples, lambda sample: bare_key(sample.path, root), masks, root
    )
    notes += [*pairing, *mask_notes]
    if published := _by_split(samples, root, notes):
        return published
    return split_unpublished(
        samples,
        # Below the folder of good images, so that renaming it moves no image.
        lambda sample: _below_first(image_key(sample.path, root)),
        notes,
    )


def _by_split(samples: Sequence[Sample], root: Path, notes: Sequence[str]) -> Contents | None:
    """Return contents by folders such as ``good/train`` and ``bad/test``, or ``None``."""
    splits = [
        next(filter(None, map(split_of, relative(s.path, root).split("/")[:-1])), None)
        for s in samples
    ]
    if not {"train", "test"} <= set(splits):
        return None
    train = [s for s, split in zip(samples, splits, strict=True) if split == "train"]
    test = [s for s, split in zip(samples, splits, strict=True) if split == "test"]
    good = [sample for sample in train if sample.good]
    notes = [*notes]
    if len(good) < len(train):
        defective = count(len(train) - len(good), "defective image")
        notes.append(f"{defective} in folders called train not trained on")
    if unused := len(samples) - len(train) - len(test):
        notes.append(f"{count(unused, 'image')} in no folder called train or test not used")
    return Contents(good, test, notes)


def _says_nothing(name: str) -> bool:
    """Return whether a name is no kind of defect: ``monday`` and ``images``, but not ``3``."""
    return is_neutral(name) and not name.isdigit()


def _note_unclear(groups: Sequence[Group], root: Path) -> list[str]:
    return [
        f"{count(len(group.paths), 'image')} in {group.name}/, left out: good or not? Name the "
        f"folder with --good {group.name} or by its kind of defect"
        if group.name
        else f"{count(len(group.paths), 'image')} directly in the folder, left out: good or not? "
        f"{some(group.paths, root)}"
        for group in groups
    ]


def _samples(groups: Iterable[Group]) -> list[Sample]:
    samples: list[Sample] = []
    for group in groups:
        if group.meaning is Meaning.GOOD:
            samples += good_samples(group.paths)
        elif group.meaning in (Meaning.DEFECT, None):
            samples += [Sample(path, group.name) for path in group.paths]
    return samples


def _without_marked(
    samples: list[Sample], masks: Sequence[tuple[str, Path]], root: Path, notes: list[str]
) -> list[Sample]:
    """Leave out images in folders of good images whose own mask marks a defect."""
    if not masks:
        return samples
    keys = {bare_key(sample.path, root): sample.path for sample in samples if sample.good}
    odd = [keys[key] for key in sorted(marked_images(masks, keys))]
    if odd:
        notes.append(
            f"{count(len(odd), 'image')} in folders of good images left out: the mask marks a "
            f"defect: {some(odd, root)}"
        )
    left_out = {*odd}
    return [sample for sample in samples if sample.path not in left_out]


def _judged_by_masks(
    groups: Sequence[Group], masks: Sequence[tuple[str, Path]], root: Path
) -> list[Sample]:
    """Return samples where no folder is called good: a mask tells whether an image has a defect.

    Raises:
        DatasetError: neither a folder's name nor a mask tells whether an image is good.
    """
    samples = _samples(of(groups, Meaning.DEFECT))
    unclear: list[Group] = list(of(groups, Meaning.MIXED))
    for group in of(groups, None):
        name = group.name or "defect"
        assumed = [Sample(path, name) for path in group.paths]
        paired, _ = attach_masks(assumed, lambda s: bare_key(s.path, root), masks, root)
        without = [sample.path for sample in paired if not sample.masks]
        if without:
            unclear.append(Group(None, group.name, without))
        samples += [
            Sample(sample.path, name if any(map(marks, sample.masks)) else "good")
            for sample in paired
            if sample.masks
        ]
    if unclear:
        raise _undecided(root, [*of(groups, Meaning.DEFECT), *unclear])
    return samples


def _all_good(root: Path, groups: Sequence[Group], names: Names, notes: Sequence[str]) -> Contents:
    unclear = of(groups, None)
    images = paths_of(unclear)
    folders = [group.name for group in unclear if group.name]
    notes = [*notes, *note_left_out(groups)]
    if _own_meaning(root, names) is Meaning.DEFECT:
        name = folder_name(root)
        note = (
            f"{name}: {count(len(images), 'image')} taken as defective by the folder's name; if "
            f"they are good, rename the folder or add --good {name}"
        )
        return Contents([], [Sample(path, name) for path in images], [*notes, note])
    if len(unclear) > 1 and not are_neutral(folders):
        raise _undecided(root, unclear)
    if folders:
        notes.append(
            f"no folder called good: all {count(len(images), 'image')} in "
            f"{count(len(folders), 'subfolder')} taken as good"
        )
    return Contents(good_samples(images), [], notes)


def _own_meaning(root: Path, names: Names) -> Meaning | None:
    """Return DEFECT or MASK if the folder's own name, or its place in a dataset, says so."""
    place = root.absolute()
    if names.chosen(folder_name(root)):
        return None
    name, parent = folder_name(root), place.parent
    own = names.meaning(name) if says_only_that(name) else None
    if own in (Meaning.GOOD, Meaning.MASK):
        return own
    # ground_truth/dent and test/dent: the folder around says more, if it is part of a dataset.
    around = names.meaning(parent.name) if says_only_that(parent.name) else None
    is_test = split_of(parent.name) == "test" or parent.name == "test_public"
    if around not in (Meaning.DEFECT, Meaning.MASK) and not is_test:
        return own
    siblings = subfolders(parent) if is_test else subfolders(parent.parent)
    names_beside = [folder.name for folder in siblings]
    if is_test:
        names_beside += [folder.name for folder in subfolders(parent.parent)]
    if any(split_of(beside) == "train" or _only_good(beside) for beside in names_beside):
        return Meaning.MASK if around is Meaning.MASK else Meaning.DEFECT
    return own


def _only_good(name: str) -> bool:
    return is_good(name) and says_only_that(name)


def _undecided(root: Path, groups: Sequence[Group]) -> DatasetError:
    return DatasetError(
        f"{root}: which images are good? There are {listed(groups)}. Call the folder of good "
        "images good and the others bad or by their kind of defect, give the folder of good "
        "images itself, or name it with --good NAME"
    )


def _note_empty(root: Path, images: Sequence[Path], names: Names) -> list[str]:
    filled = {relative(path, root).partition("/")[0] for path in images}
    return [
        f"{child.name}: no images in it"
        for child in subfolders(root)
        if child.name not in filled and names.meaning(child.name) is not Meaning.MASK
    ]


def _first_of_each(groups: Sequence[Group], root: Path) -> tuple[list[tuple[str, Path]], list[str]]:
    """Return masks with their keys, from the first of several folders with the same keys."""
    masks: list[tuple[str, Path]] = []
    owners: dict[str, str] = {}
    notes: list[str] = []
    for group in groups:
        keyed = [(bare_key(path, root), path) for path in group.paths]
        taken = [owners[key] for key, _ in keyed if key in owners]
        if taken:
            notes.append(f"{group.name}: not read, {taken[0]} is")
            continue
        owners.update((key, group.name) for key, _ in keyed)
        masks += keyed
    return masks, notes


def _drawn_keys(drawn: set[Path], root: Path, images: Sequence[Path]) -> list[tuple[str, Path]]:
    """Return masks that were found by their content, with their keys.

    Such a mask lies beside its image, or in a folder for masks whose name tells nothing.
    """
    if not drawn:
        return []
    shared = Counter(bare_key(path, root) for path in images)
    keyed = [(bare_key(path, root), path) for path in images if path in drawn]
    return [(key if shared[key] > 1 else _below_first(key), path) for key, path in keyed]


def _below_first(key: str) -> str:
    return key.partition("/")[2] or key
