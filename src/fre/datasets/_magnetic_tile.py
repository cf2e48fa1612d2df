"""Magnetic tile defects (Huang et al., 2018), as published.

::

    MT_Free/Imgs/*.jpg       good
    MT_Blowhole/Imgs/*.jpg   and MT_Break, MT_Crack, MT_Fray, MT_Uneven
    MT_*/Imgs/*.png          the mask of the .jpg of the same name

There is no published split: the good images are split by file name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fre.datasets._contents import Contents, count, some, split_unpublished
from fre.datasets._masks import note_unpaired
from fre.datasets.samples import Sample
from fre.storage.listing import folder_name, image_key, images_in, subfolders, suffix

_PREFIX = "MT_"
_GOOD = "free"


def find_magnetic_tile(root: Path, children: Sequence[Path]) -> dict[str, Path]:
    """Return the magnetic tiles at ``root``."""
    is_it = any(_is_kind(child) for child in children)
    return {folder_name(root): root} if is_it else {}


def read_magnetic_tile(root: Path, category: str) -> Contents:
    """Read the magnetic tiles, split by file name."""
    samples: list[Sample] = []
    orphans: list[Path] = []
    for folder in subfolders(root):
        if not _is_kind(folder):
            continue
        kind = folder.name[len(_PREFIX) :].lower()
        files = images_in(folder / "Imgs")
        masks = {path.stem: path for path in files if suffix(path.name) == ".png"}
        for path in files:
            if suffix(path.name) == ".png":
                continue
            mask = masks.pop(path.stem, None)
            if kind == _GOOD:
                samples.append(Sample(path, "good"))
            else:
                samples.append(Sample(path, kind, () if mask is None else (mask,)))
        orphans += masks.values()

    notes = note_unpaired(samples, root)
    if orphans:
        notes.append(
            f"{count(len(orphans), 'mask')} without a .jpg of the same name, left out: "
            f"{some(orphans, root)}"
        )
    return split_unpublished(
        samples,
        lambda sample: image_key(sample.path, root),
        notes,
    )


def _is_kind(folder: Path) -> bool:
    return folder.name.startswith(_PREFIX) and (folder / "Imgs").is_dir()
