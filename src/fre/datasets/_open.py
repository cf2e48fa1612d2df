"""Opening datasets: what the other modules of fre and its users call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fre.datasets._contents import count
from fre.datasets._layouts import Layout, locate, shape_of
from fre.datasets._names import Names
from fre.datasets.samples import Dataset, Sample
from fre.errors import DatasetError, OptionError
from fre.storage.listing import (
    SUFFIXES,
    find_images,
    folder_name,
    left_out,
    left_out_note,
    relative,
)


def open_dataset(
    root: Path | str,
    *,
    layout: str | None = None,
    category: str | None = None,
    good: Sequence[str] = (),
) -> Dataset:
    """Open a dataset: its images to train on and to test on, without reading them.

    The content of the folder tells the layout. The dataset's ``notes`` name oddities, such as a
    mask without an image. A dataset may lack a split: see ``require_train`` and ``require_test``.

    Args:
        root: a dataset's folder, one category of it, a plain folder of images, or a list of
            images (``.csv``, ``.jsonl``).
        layout: one of ``LAYOUTS``, in the place of the recognised one.
        category: which category, where the root holds several.
        good: names of folders whose images are good, in addition to names that mean good, such
            as ``monday``, or patterns such as ``2024-*``; ``.`` is the root's own images.

    Raises:
        DatasetError: there are no images, several categories and none was chosen, or nothing
            tells which images are good.
        ImageError: a label image of KolektorSDD can't be read.
        OptionError: an unknown layout.

    Example:
        >>> dataset = open_dataset("mvtec", category="screw")  # doctest: +SKIP
        >>> len(dataset.train), len(dataset.test)  # doctest: +SKIP
        (320, 160)
    """
    root = Path(root)
    found_layout, places = locate(root, layout)
    names = list(places)
    if category is None:
        if len(names) > 1:
            raise DatasetError(
                f"{root}: holds {len(names)} categories: choose one, such as "
                f"{places[names[0]]}; there are {', '.join(names)}"
            )
        category = names[0]
    elif category not in places:
        raise DatasetError(f"{root}: no category {category!r}; there are {', '.join(names)}")
    return _read(found_layout, places[category], category, good)


def open_datasets(root: Path | str, *, layout: str | None = None) -> list[Dataset]:
    """Open every category of a dataset; a folder without categories is one dataset.

    Raises:
        DatasetError, ImageError, OptionError: as ``open_dataset``.
    """
    found_layout, places = locate(Path(root), layout)
    return [_read(found_layout, place, name) for name, place in places.items()]


def categories(root: Path | str, *, layout: str | None = None) -> list[str]:
    """Return the categories of a dataset, which ``open_dataset(root, category=...)`` takes.

    A folder without categories is the only category of itself.
    """
    return list(locate(Path(root), layout)[1])


def training_images(data: Path | str) -> list[Path]:
    """Return the good images to train on.

    Args:
        data: a folder of good images, flat or nested; a dataset, of which the training split
            is taken; or a list of images (``.csv``, ``.jsonl``).

    Raises:
        DatasetError: there are none, or ``data`` holds several categories.
    """
    return [sample.path for sample in require_train(open_dataset(data))]


def require_train(dataset: Dataset) -> tuple[Sample, ...]:
    """Return the samples to train on.

    Raises:
        DatasetError: there are none.
    """
    if not dataset.train:
        hint = "; call a folder of good images good, or name it with --good NAME"
        raise _lacking(dataset, "training images", "good images", hint)
    return dataset.train


def require_test(dataset: Dataset) -> tuple[Sample, ...]:
    """Return the samples to test on.

    Raises:
        DatasetError: there are none.
    """
    if not dataset.test:
        raise _lacking(dataset, "test images", "good and defective images")
    return dataset.test


def _lacking(dataset: Dataset, what: str, expected: str, hint: str = "") -> DatasetError:
    notes = "".join(f"; {note}" for note in dataset.notes[:_NOTES_IN_ERROR])
    return DatasetError(
        f"{dataset.source or dataset.root}: no {what} (layout {dataset.layout!r}); expected "
        f"{expected} in {shape_of(dataset.layout)}; found {describe(dataset)}{notes}{hint}"
    )


def describe(dataset: Dataset) -> str:
    """Return the numbers of images by kind, in one line for people."""
    counts = count_kinds(dataset)
    kinds = ", ".join(f"{kind} {number}" for kind, number in counts["kinds"].items())
    parts = [f"{count(counts['n_train'], 'good image')} to train on"]
    if dataset.test:
        parts.append(
            f"to test on {counts['n_test_good']} good and {counts['n_test_defect']} defective"
            + (f" ({kinds})" if kinds else "")
        )
    if counts["n_masks"]:
        parts.append(count(counts["n_masks"], "mask"))
    return ", ".join(parts)


def count_kinds(dataset: Dataset) -> dict[str, Any]:
    """Return the numbers of images by kind as plain JSON values.

    Returns:
        ``n_train``, ``n_test_good``, ``n_test_defect``, ``n_masks`` and ``kinds``, the number of
        test images of each kind of defect.
    """
    kinds = Counter(sample.kind for sample in dataset.test if not sample.good)
    return {
        "n_train": len(dataset.train),
        "n_test_good": len(dataset.test) - kinds.total(),
        "n_test_defect": kinds.total(),
        "kinds": dict(kinds),
        "n_masks": sum(len(sample.masks) for sample in dataset.test),
    }


_NOTES_IN_ERROR = 5


def _read(layout: Layout, place: Path, category: str, good: Sequence[str] = ()) -> Dataset:
    if good and not layout.takes_good:
        raise OptionError(
            f"{place}: the layout {layout.name!r} says itself which images are good; leave out "
            "the names of folders (--good)"
        )
    _check_chosen(place, good)
    contents = layout.read(place, category, good) if good else layout.read(place, category)
    if note := left_out_note(left_out(place)):
        contents.notes.append(note)
    if not contents.train and not contents.test:
        notes = "".join(f"; {note}" for note in contents.notes[:_NOTES_IN_ERROR])
        raise DatasetError(
            f"{place}: no images found (layout {layout.name!r}: {layout.shape}; files "
            f"{', '.join(SUFFIXES)}){notes}"
        )
    return Dataset(
        name=category,
        root=place if place.is_dir() else place.parent,
        layout=layout.name,
        train=tuple(contents.train),
        test=tuple(contents.test),
        notes=tuple(contents.notes),
        source=place,
    )


def _check_chosen(place: Path, good: Sequence[str]) -> None:
    """Refuse a name of a folder of good images that no folder has.

    Raises:
        DatasetError: with the folders that are there.
    """
    if not good:
        return
    found = {relative(path.parent, place) for path in find_images(place) if path.parent != place}
    parts = {part for folder in found for part in folder.split("/")} | {folder_name(place), "."}
    for name in good:
        if not any(Names([name]).chosen(part) for part in parts):
            there = ", ".join(sorted({folder.partition("/")[0] for folder in found})[:10])
            raise DatasetError(
                f"{place}: no folder of images is called {name!r} (--good); there are "
                f"{there or 'no subfolders with images'}"
            )
