"""Masks: finding an image's masks, reading them, and checking their sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import ImageOps

from fre.datasets._contents import count, some
from fre.decoding import open_image, shown_size
from fre.errors import ImageError
from fre.folders import find_images, image_key
from fre.types import Dataset, MaskArray, Sample

_MASK_ENDING = re.compile(r"[_-](mask|gt|label|ground_truth)$", re.IGNORECASE)


def named_as_mask(path: Path) -> bool:
    """Whether the name of a file ends as a mask's does."""
    return _MASK_ENDING.search(path.stem) is not None


def strip_mask_ending(key: str) -> str:
    """``scratch/000`` for ``scratch/000_mask``; other keys as they are."""
    return _MASK_ENDING.sub("", key)


def attach_masks(
    samples: Sequence[Sample],
    key: Callable[[Sample], str],
    mask_root: Path,
    root: Path,
) -> tuple[list[Sample], list[str]]:
    """Add to each defective sample the masks below ``mask_root`` that are named after it.

    The mask of ``scratch/000`` is ``scratch/000_mask.png`` or ``scratch/000.png``, or every
    image in the folder ``scratch/000/``.

    Args:
        samples: good and defective samples; a good one takes no mask.
        key: a sample's path without suffix, below what corresponds to ``mask_root``.
        mask_root: the folder of masks.
        root: what the notes name files below.

    Returns:
        The samples in their order, and notes on what has no partner.
    """
    keys = {key(sample) for sample in samples}
    masks: dict[str, list[Path]] = {}
    orphans: list[Path] = []
    for path in find_images(mask_root) if mask_root.is_dir() else ():
        own = image_key(path, mask_root)
        candidates = (own, strip_mask_ending(own), own.rpartition("/")[0])
        partner = next((name for name in candidates if name in keys), None)
        if partner is None:
            orphans.append(path)
        else:
            masks.setdefault(partner, []).append(path)

    paired = [
        sample
        if sample.good
        else replace(sample, masks=(*sample.masks, *masks.get(key(sample), ())))
        for sample in samples
    ]
    notes = note_unpaired(paired, root)
    if orphans:
        notes.append(
            f"{count(len(orphans), 'mask')} without an image of the same name, left out: "
            f"{some(orphans, root)}"
        )
    return paired, notes


def note_unpaired(samples: Iterable[Sample], root: Path) -> list[str]:
    """A note on defective samples without a mask, where others have one."""
    defects = [sample for sample in samples if not sample.good]
    bare = [sample.path for sample in defects if not sample.masks]
    if not bare or len(bare) == len(defects):
        return []
    return [
        f"{len(bare)} of {count(len(defects), 'defective image')} without a mask, left out of "
        f"the pixel figures: {some(bare, root)}"
    ]


def load_mask(sample: Sample, size: tuple[int, int]) -> MaskArray | None:
    """The union of a sample's masks.

    Any colour but black counts as a defect, whatever its value: some datasets number their
    kinds of defect 1, 2, 3. In a JPEG, whose compression leaves specks, it is what is brighter
    than half.

    Args:
        sample: a sample of a dataset.
        size: height and width of its image.

    Returns:
        bool, (H, W), True where there is a defect: all False for a good sample, ``None`` for a
        defective one without a mask.

    Raises:
        ImageError: a mask can't be read, or has another size than its image.
    """
    if sample.good:
        return np.zeros(size, dtype=np.bool_)
    if not sample.masks:
        return None
    union = np.zeros(size, dtype=np.bool_)
    for path in sample.masks:
        union |= _read_mask(path, size, sample.path)
    return union


def mask_is_empty(path: Path) -> bool:
    """Whether a mask marks no defect at all.

    Raises:
        ImageError: the mask can't be read.
    """
    return not _read_mask(path).any()


def check_masks(dataset: Dataset) -> list[str]:
    """What is wrong with the masks of a dataset, one line each.

    Reads the headers of the test images that have masks and of those masks, no pixels.
    """
    found = (_mask_problem(mask, sample) for sample in dataset.test for mask in sample.masks)
    return [problem for problem in found if problem is not None]


def header_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as it is shown, from its header.

    Raises:
        ImageError: the file can't be read as an image.
    """
    with open_image(path) as image:
        return shown_size(image)


def _mask_problem(mask: Path, sample: Sample) -> str | None:
    try:
        _check_size(mask, header_size(mask), sample.path, header_size(sample.path))
    except ImageError as error:
        return str(error)
    return None


def _read_mask(
    path: Path, size: tuple[int, int] | None = None, image_path: Path | None = None
) -> MaskArray:
    with open_image(path) as image:
        if size is not None and image_path is not None:
            _check_size(path, shown_size(image), image_path, size)
        threshold = 127 if image.format == "JPEG" else 0
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in ("1", "L", "I", "F") and not upright.mode.startswith("I;16"):
            upright = upright.convert("RGB")
        pixels = np.asarray(upright)
    marked: MaskArray = pixels > threshold
    if marked.ndim == 3:
        marked = np.logical_or.reduce(marked, axis=2)
    return marked


def _check_size(
    path: Path, size: tuple[int, int], image_path: Path, image_size: tuple[int, int]
) -> None:
    if size != image_size:
        raise ImageError(
            path,
            f"mask of {size[1]} x {size[0]} pixels for an image of {image_size[1]} x "
            f"{image_size[0]} ({image_path}); make them the same size",
        )
