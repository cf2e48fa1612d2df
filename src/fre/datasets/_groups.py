"""Images of a folder, grouped by what the names of its subfolders say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from fre.datasets._contents import count
from fre.datasets._names import Meaning, Names
from fre.datasets._names import meaning as meaning_of
from fre.storage.listing import image_key, relative


class Group(NamedTuple):
    """A group of images.

    Attributes:
        meaning: meaning of the folders' names; ``None`` for unknown names.
        name: kind of defect, or the folder that decides: the first level below the base, or the
            first folder of known meaning; empty for images directly in the base.
        paths: images of the group.
    """

    meaning: Meaning | None
    name: str
    paths: list[Path]


def group_images(paths: Iterable[Path], base: Path, names: Names) -> list[Group]:
    """Group images by the names of the folders between ``base`` and the files, at any depth."""
    folders: dict[str, list[Path]] = {}
    for path in paths:
        folders.setdefault(relative(path, base).rpartition("/")[0], []).append(path)
    first = {folder.partition("/")[0] for folder in folders}
    decided = any(names.meaning(name) in (Meaning.GOOD, Meaning.DEFECT) for name in first if name)
    groups: dict[tuple[Meaning | None, str], list[Path]] = {}
    for folder, found in folders.items():
        groups.setdefault(_group_of(folder, names, decided), []).extend(found)
    return [Group(meaning, name, found) for (meaning, name), found in groups.items()]


def _group_of(folder: str, names: Names, decided: bool) -> tuple[Meaning | None, str]:
    """Return the group of the images in a folder.

    Args:
        folder: path of the folder below the base.
        names: meanings of names.
        decided: whether a folder of the first level is known to be good or defective; the others
            of that level are then kinds of defect.
    """
    if not folder:
        return (Meaning.GOOD if names.chosen(".") else None), ""
    parts = folder.split("/")
    meanings = [names.meaning(part) for part in parts]
    for apart in (Meaning.MASK, Meaning.OTHER):
        if apart in meanings:
            return apart, "/".join(parts[: meanings.index(apart) + 1])
    known = [place for place, meaning in enumerate(meanings) if meaning is not None]
    if not known:
        return None, parts[0]
    place = known[0]
    meaning = meanings[place]
    if place > 0 and decided:
        # The first level names kinds, but a folder of unknown kind says "good" below it.
        if meaning is Meaning.DEFECT:
            return None, parts[0]
        return Meaning.MIXED, "/".join(parts[: place + 1])
    if meaning is Meaning.GOOD:
        for later in known[1:]:
            if meanings[later] is not Meaning.GOOD:
                return Meaning.MIXED, "/".join(parts[: later + 1])
        return meaning, parts[0]
    return meaning, parts[place]


def of(groups: Sequence[Group], meaning: Meaning | None) -> list[Group]:
    """Return the groups of one meaning."""
    return [group for group in groups if group.meaning is meaning]


def paths_of(groups: Iterable[Group]) -> list[Path]:
    """Return the images of several groups."""
    return [path for group in groups for path in group.paths]


def note_left_out(groups: Sequence[Group], prefix: str = "") -> list[str]:
    """Return notes on the groups that are neither for training nor for testing."""
    notes = []
    for group in groups:
        if group.meaning is Meaning.MIXED:
            notes.append(
                f"{prefix}{group.name}: {count(len(group.paths), 'image')} left out: the "
                "folders' names say both good and defective"
            )
        elif group.meaning is Meaning.OTHER:
            notes.append(
                f"{prefix}{group.name}: {count(len(group.paths), 'image')} left out: the "
                "folder's name says that they are no photographs"
            )
    return notes


def listed(groups: Iterable[Group]) -> str:
    """Return ``monday (10 images), tuesday (12 images)``."""
    return ", ".join(
        f"{group.name or 'directly in the folder'} ({count(len(group.paths), 'image')})"
        for group in groups
    )


def bare_key(path: Path, root: Path) -> str:
    """Return the path below a root, without suffix and without folders that hold all images.

    Folders such as ``images`` and ``masks`` do not distinguish images: the mask of
    ``dent/images/0.png`` may be ``masks/dent/0.png`` or ``dent/masks/0.png``.
    """
    *folders, stem = image_key(path, root).split("/")
    kept = [folder for folder in folders if not _holds_all(folder)]
    return "/".join([*kept, stem])


def _holds_all(folder: str) -> bool:
    return folder.casefold() in _CONTAINERS or meaning_of(folder) is Meaning.MASK


_CONTAINERS = frozenset({"images", "image", "imgs", "img", "photos", "rgb"})
