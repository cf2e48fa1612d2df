"""The good images of a training: where they come from, and which of them show one part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fre.datasets import training_images
from fre.errors import DatasetError, ImageError, OptionError
from fre.images.arrays import check_several
from fre.images.decode import ImageSource, read_image
from fre.images.geometry import Geometry, Size
from fre.images.input_size import shape_note
from fre.images.near_duplicates import equal_images
from fre.subspaces.cross_fit import check_groups
from fre.training.describe import shown
from fre.training.fitted import LEAST_IMAGES
from fre.training.grouping import group_labels


@dataclass(frozen=True)
class Sources:
    """Good images to train on.

    Attributes:
        images: files, or arrays, uint8 (H, W, 3).
        groups: the part that each image shows; ``None``: each shows another one.
    """

    images: Sequence[ImageSource]
    groups: Sequence[str] | None = None

    @classmethod
    def of(
        cls, images: Path | str | Iterable[ImageSource], group_by: str | int | None = None
    ) -> Sources:
        """Return the images of a folder or dataset, or those that are given.

        Args:
            images: a folder of good images or the root of a dataset, files, or arrays.
            group_by: rule that says which images show one part, as for `fre.FRE`.

        Raises:
            DatasetError: fewer than three images.
            OptionError: groups that do not fit the images.
        """
        if isinstance(images, (str, Path)):
            found: Sequence[ImageSource] = training_images(Path(images))
            origin = f"{images}: "
        else:
            check_several(images)
            found, origin = list(images), ""
        if len(found) < LEAST_IMAGES:
            raise DatasetError(
                f"{origin}training needs {LEAST_IMAGES} good images or more, found {len(found)}"
            )
        return cls(found, None if group_by is None else _labels(found, group_by))

    def groups_of(self, places: Iterable[int] | None) -> list[str] | None:
        """Return the parts that some of the images show, or with ``None`` all images."""
        if self.groups is None or places is None:
            return None if self.groups is None else [*self.groups]
        return [self.groups[place] for place in places]

    def thumbnail(self, skipped: Iterable[ImageError], bits: int | None) -> str:
        """Return the first image that could be read, as the model shows it.

        Args:
            skipped: errors of the images that could not be read.
            bits: range of the values of 16-bit files.
        """
        unread = {error.path for error in skipped}
        read = (s for s in self.images if not isinstance(s, (str, Path)) or Path(s) not in unread)
        return shown(read_image(next(read), bits))


def _labels(images: Sequence[ImageSource], group_by: str | int) -> list[str]:
    paths = [image for image in images if isinstance(image, (str, Path))]
    if len(paths) < len(images):
        raise OptionError("group_by needs image files, which have names; arrays have none")
    labels = group_labels(paths, group_by)
    check_groups(labels)
    return labels


def remarks(
    shapes: Sequence[tuple[str, Size]],
    geometry: Geometry,
    names: Sequence[str],
    sha256: Sequence[str],
) -> list[str]:
    """Name images that are stretched differently, and images that are copies of others."""
    notes = [shape_note(shapes, geometry)]
    if (equal := equal_images(names, sha256)) is not None:
        notes.append(
            f"some images are equal: {equal}; copies make the threshold too low: keep one of each"
        )
    return [note for note in notes if note is not None]
