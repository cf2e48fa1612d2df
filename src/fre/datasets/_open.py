"""Opening datasets: what the other modules of fre and its users call."""

from __future__ import annotations

from pathlib import Path

from fre.datasets._layouts import Layout, locate, shape_of
from fre.errors import DatasetError
from fre.folders import SUFFIXES
from fre.types import Dataset, Sample


def open_dataset(
    root: Path | str, *, layout: str | None = None, category: str | None = None
) -> Dataset:
    """Open a dataset: its images to train on and to test on, without reading them.

    The layout is recognised from what is in the folder. What is odd about it, such as a mask
    without an image, is in the dataset's ``notes``; a dataset may lack a split, see
    ``require_train`` and ``require_test``.

    Args:
        root: a dataset's folder, one category of it, a plain folder of images, or a list of
            images (``.csv``, ``.jsonl``).
        layout: one of ``LAYOUTS``, in the place of the recognised one.
        category: which category, where the root holds several.

    Raises:
        DatasetError: there are no images, or several categories and none was chosen.
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
    return _read(found_layout, places[category], category)


def open_datasets(root: Path | str, *, layout: str | None = None) -> list[Dataset]:
    """Open every category of a dataset; a folder without categories is one dataset.

    Raises:
        DatasetError, ImageError, OptionError: as ``open_dataset``.
    """
    found_layout, places = locate(Path(root), layout)
    return [_read(found_layout, place, name) for name, place in places.items()]


def categories(root: Path | str, *, layout: str | None = None) -> list[str]:
    """The categories of a dataset, which ``open_dataset(root, category=...)`` takes.

    A folder without categories is the only category of itself.
    """
    return list(locate(Path(root), layout)[1])


def detect_layout(root: Path | str) -> str:
    """The layout that a folder or a list is recognised as: one of ``LAYOUTS``.

    A folder that is nothing in particular is a ``"folder"``. No image is opened.

    Raises:
        DatasetError: there is no such folder or list.
    """
    return locate(Path(root), None)[0].name


def training_images(data: Path | str) -> list[Path]:
    """The good images to train on.

    Args:
        data: a folder of good images, flat or nested; a dataset, of which the training split
            is taken; or a list of images (``.csv``, ``.jsonl``).

    Raises:
        DatasetError: there are none, or ``data`` holds several categories.
    """
    return [sample.path for sample in require_train(open_dataset(data))]


def require_train(dataset: Dataset) -> tuple[Sample, ...]:
    """The samples to train on.

    Raises:
        DatasetError: there are none.
    """
    if not dataset.train:
        raise _lacking(dataset, "training images", "good images")
    return dataset.train


def require_test(dataset: Dataset) -> tuple[Sample, ...]:
    """The samples to test on.

    Raises:
        DatasetError: there are none.
    """
    if not dataset.test:
        raise _lacking(dataset, "test images", "good and defective images")
    return dataset.test


def _lacking(dataset: Dataset, what: str, expected: str) -> DatasetError:
    return DatasetError(
        f"{dataset.root}: no {what} (layout {dataset.layout!r}); expected {expected} in "
        f"{shape_of(dataset.layout)}"
    )


def _read(layout: Layout, place: Path, category: str) -> Dataset:
    contents = layout.read(place, category)
    if not contents.train and not contents.test:
        notes = "".join(f"; {note}" for note in contents.notes[:1])
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
    )
