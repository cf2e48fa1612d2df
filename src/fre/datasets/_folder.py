"""A plain folder of images.

::

    *.png, or folders of images              all good
    good/*, <kind>/*                         good, and a folder for each kind of defect
    ground_truth/<kind>/<stem>_mask.png      optional; also masks/ or gt/, and <stem>.png
    <kind>/<stem>_mask.png                   a mask beside its image is found too

``good`` may be called ``ok`` or ``normal``. Folders may be nested: the first level below the
root names the kind. With kinds of defect, the good images are split by file name: about a fifth
is kept to test on. With good images alone, all are for training.

Without a folder of good images, every image is taken as good, unless there are masks or a
folder is called ``bad``, ``defect`` or the like: then all are defects, for testing only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fre.datasets._contents import Contents, count, good_samples, is_good, some
from fre.datasets._masks import attach_masks, named_as_mask, note_unpaired, strip_mask_ending
from fre.datasets._split import split_unpublished
from fre.folders import find_images, folder_name, image_key, list_folder, subfolders
from fre.types import Sample

_MASK_FOLDERS = ("ground_truth", "masks", "mask", "gt")
_BAD_NAMES = frozenset(
    {"bad", "ko", "ng", "defect", "defects", "defective", "anomaly", "anomalies", "anomalous"}
)


def find_folder(root: Path, children: Sequence[Path]) -> dict[str, Path]:
    """The folder itself, or those in it that hold a folder of good images."""
    if not root.is_dir():
        return {}
    if not any(is_good(child.name) for child in children):
        several = {
            child.name: child
            for child in children
            if any(is_good(grandchild.name) for grandchild in subfolders(child))
        }
        if several:
            return several
    return {folder_name(root): root}


def read_folder(root: Path, category: str) -> Contents:
    """A plain folder."""
    loose, children = list_folder(root)
    mask_roots = [child for child in children if child.name.casefold() in _MASK_FOLDERS]
    kinds = [child for child in children if child not in mask_roots]
    good_kinds = [child for child in kinds if is_good(child.name)]
    names_defects = any(child.name.casefold() in _BAD_NAMES for child in kinds)

    if not good_kinds and not mask_roots and not names_defects:
        return _all_good(root, loose, kinds)

    samples: list[Sample] = []
    notes: list[str] = []
    if loose:
        notes.append(
            f"{count(len(loose), 'image')} directly in the folder, left out: good or not? "
            f"{some(loose, root)}"
        )
    for child in kinds:
        images, masks = _separate_masks(find_images(child), root)
        if not images:
            notes.append(f"{child.name}: no images in it")
        for path in images:
            if child in good_kinds:
                samples.append(Sample(path, "good"))
            else:
                own = masks.get(image_key(path, root), ())
                samples.append(Sample(path, child.name, tuple(own)))

    if mask_roots:
        samples, mask_notes = _attach(samples, mask_roots[0], root)
        notes += mask_notes
        notes += [f"{extra.name}: not read, {mask_roots[0].name} is" for extra in mask_roots[1:]]
    else:
        notes += note_unpaired(samples, root)
    return split_unpublished(
        [sample for sample in samples if sample.good],
        [sample for sample in samples if not sample.good],
        # Below the folder of good images, so that renaming it moves no image.
        lambda sample: image_key(sample.path, root).partition("/")[2],
        notes,
    )


def _all_good(root: Path, loose: Sequence[Path], kinds: Sequence[Path]) -> Contents:
    nested = [path for child in kinds for path in find_images(child)]
    images, _ = _separate_masks([*loose, *nested], root)
    notes = []
    if nested:
        notes.append(
            f"no folder called good: all {count(len(images), 'image')} in "
            f"{count(len(kinds), 'subfolder')} taken as good"
        )
    return Contents(good_samples(images), [], notes)


def _separate_masks(paths: Sequence[Path], root: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """The images, and the masks that lie beside them by the images' keys."""
    suspects = [path for path in paths if named_as_mask(path)]
    if not suspects:
        return list(paths), {}
    keys = {image_key(path, root) for path in paths}
    masks: dict[str, list[Path]] = {}
    for path in suspects:
        base = strip_mask_ending(image_key(path, root))
        if base in keys:
            masks.setdefault(base, []).append(path)
    beside = {path for found in masks.values() for path in found}
    return [path for path in paths if path not in beside], masks


def _attach(
    samples: Sequence[Sample], mask_root: Path, root: Path
) -> tuple[list[Sample], list[str]]:
    if list_folder(mask_root)[1]:
        return attach_masks(samples, lambda sample: image_key(sample.path, root), mask_root, root)
    # All masks in one folder: a name tells which image only where no two kinds share it.
    names = Counter(sample.path.stem for sample in samples if not sample.good)
    paired, notes = attach_masks(
        samples,
        lambda sample: (
            image_key(sample.path, root) if names[sample.path.stem] > 1 else sample.path.stem
        ),
        mask_root,
        root,
    )
    if ambiguous := [name for name, number in names.items() if number > 1]:
        notes.append(
            f"{count(len(ambiguous), 'name')} shared by several kinds of defect, without masks: "
            f"{ambiguous[0]}; sort the masks into {mask_root.name}/<kind>/"
        )
    return paired, notes
