"""Masks: finding an image's masks, reading them, and checking their sizes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fre.datasets._contents import count, some
from fre.datasets.samples import Dataset, Sample
from fre.errors import ImageError
from fre.images.formats import open_image, shown_size
from fre.storage.listing import find_images, image_key, relative
from fre.types import MaskArray

_MASK_WORD = "(masks?|gt|labels?|ground_?truth|seg|segmentation|annot|annotations?)"
_MASK_ENDING = re.compile(rf"[_.-]{_MASK_WORD}$", re.IGNORECASE)
_MASK_BEGINNING = re.compile(rf"(?:(?<=/)|^){_MASK_WORD}[_.-](?=[^/]+$)", re.IGNORECASE)
# A photograph has thousands of colours, a drawn mask or label map a few.
_DRAWN_COLOURS = 8
_DRAWN_SHARE = 0.97
_PROBES = 3


def strip_mask_ending(key: str) -> str:
    """Return ``scratch/000`` for ``scratch/000_mask`` or ``scratch/mask_000``."""
    return _MASK_BEGINNING.sub("", _MASK_ENDING.sub("", key))


def separate_masks(paths: Sequence[Path], root: Path) -> tuple[list[Path], list[Path]]:
    """Separate the images from the masks that lie beside their image and are named after it.

    Returns:
        The images and the masks, each in the given order.
    """
    suspects = {
        path: base for path in paths if (base := strip_mask_ending(path.stem)) != path.stem and base
    }
    if not suspects:
        return list(paths), []
    keys = {image_key(path, root) for path in paths}
    masks = {path for path in suspects if strip_mask_ending(image_key(path, root)) in keys}
    return [path for path in paths if path not in masks], [path for path in paths if path in masks]


def drawn_masks(suspects: Sequence[Path], images: Sequence[Path]) -> set[Path]:
    """Find the suspects that are masks by their content.

    Such a mask has a few colours only and the file name of another image, which has many. The
    three smallest files of a folder are read; the others only if one of these is a mask.

    Args:
        suspects: images that may be masks.
        images: all images, the suspects included.
    """
    if not suspects:
        return set()
    namesakes: dict[str, list[Path]] = {}
    for path in images:
        namesakes.setdefault(strip_mask_ending(path.stem), []).append(path)
    folders: dict[Path, list[Path]] = {}
    for path in suspects:
        if len(namesakes[strip_mask_ending(path.stem)]) > 1:
            folders.setdefault(path.parent, []).append(path)

    # For this call only: a file may change before the next one.
    colours = lru_cache(maxsize=None)(_colours)

    def is_mask(path: Path) -> bool:
        others = namesakes[strip_mask_ending(path.stem)]
        return colours(path) == _FEW and any(colours(other) == _MANY for other in others)

    found: set[Path] = set()
    for paths in folders.values():
        if any(map(is_mask, sorted(paths, key=_file_size)[:_PROBES])):
            found.update(path for path in paths if colours(path) in (_ONE, _FEW))
    return found


def note_drawn(drawn: Iterable[Path], root: Path) -> str:
    """Return the note on the masks that `drawn_masks` found."""
    paths = sorted(drawn)
    return (
        f"{count(len(paths), 'picture')} of few colours and named after other images, taken as "
        f"masks: {some(paths, root)}"
    )


_ONE, _FEW, _MANY = "one", "few", "many"


def _colours(path: Path) -> str | None:
    """Return whether an image has one, few or many colours; ``None`` if it can't be read."""
    try:
        with open_image(path) as image:
            colours = image.getcolors(_DRAWN_COLOURS)
            if colours is not None:
                return _ONE if len(colours) == 1 else _FEW
            if image.mode not in ("L", "RGB", "RGBA", "LA", "P", "CMYK", "YCbCr"):
                return _MANY
            grey = np.asarray(image.convert("L"))
            blurred = 8 if image.format == "JPEG" else 0
    except ImageError:
        return None
    low, high = int(grey.min()), int(grey.max())
    at_ends = np.mean((grey <= low + blurred) | (grey >= high - blurred))
    return _FEW if at_ends >= _DRAWN_SHARE and high > low else _MANY


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def masks_below(mask_root: Path) -> list[tuple[str, Path]]:
    """List the masks below a folder, each with its path below that folder, without suffix."""
    if not mask_root.is_dir():
        return []
    return [(image_key(path, mask_root), path) for path in find_images(mask_root)]


def attach_masks(
    samples: Sequence[Sample],
    key: Callable[[Sample], str],
    masks: Iterable[tuple[str, Path]],
    root: Path,
) -> tuple[list[Sample], list[str]]:
    """Add to each defective sample the masks that are named after it.

    The mask of ``scratch/000`` is ``scratch/000_mask.png`` or ``scratch/000.png``, or every
    image in the folder ``scratch/000/``. A mask that lies in no folder for its kind belongs to
    the defective image of its name, if only one has that name.

    Args:
        samples: good and defective samples; a good one takes no mask.
        key: returns a sample's path without suffix, such as ``scratch/000``.
        masks: the masks, each with its own path in the same form.
        root: the folder below which the notes name files.

    Returns:
        The samples in their order, and notes on what has no partner.
    """
    masks = list(masks)
    if not masks:
        return list(samples), note_unpaired(samples, root)
    keyed = [(key(sample), sample) for sample in samples]
    found, orphans, ambiguous = _pair(keyed, masks)
    paired = [
        sample if sample.good else replace(sample, masks=(*sample.masks, *found.get(own, ())))
        for own, sample in keyed
    ]
    notes = note_unpaired(paired, root)
    if orphans:
        notes.append(
            f"{count(len(orphans), 'mask')} without an image of the same name, left out: "
            f"{some(orphans, root)}"
        )
    if ambiguous:
        name, path = next(iter(ambiguous.items()))
        folder = relative(path.parent, root)
        notes.append(
            f"{count(len(ambiguous), 'name')} shared by several kinds of defect, without masks: "
            f"{name}; sort the masks into {folder}/<kind>/"
        )
    return paired, notes


def _pair(
    keyed: Sequence[tuple[str, Sample]], masks: Sequence[tuple[str, Path]]
) -> tuple[dict[str, list[Path]], list[Path], dict[str, Path]]:
    """Find the image of each mask.

    Returns:
        The masks by the key of their image, the masks without an image, and the names that
        several defective images have, each with its last mask.
    """
    keys = {own for own, _ in keyed}
    by_stem = {own.rpartition("/")[2]: own for own, sample in keyed if not sample.good}
    stems = Counter(own.rpartition("/")[2] for own, sample in keyed if not sample.good)
    good_stems = {own.rpartition("/")[2] for own, sample in keyed if sample.good}
    found: dict[str, list[Path]] = {}
    orphans: list[Path] = []
    ambiguous: dict[str, Path] = {}
    for own, path in masks:
        bare = strip_mask_ending(own)
        partner = next((n for n in (own, bare, own.rpartition("/")[0]) if n in keys), None)
        if partner is None and "/" not in own:
            partner = by_stem.get(bare) if stems[bare] == 1 else None
            if stems[bare] > 1:
                ambiguous[bare] = path
        if partner is not None:
            found.setdefault(partner, []).append(path)
        elif "/" in own or bare not in good_stems or bare in ambiguous:
            orphans.append(path)
    return found, orphans, ambiguous


def note_unpaired(samples: Iterable[Sample], root: Path) -> list[str]:
    """Return a note on defective samples without a mask, where others have one."""
    defects = [sample for sample in samples if not sample.good]
    bare = [sample.path for sample in defects if not sample.masks]
    if not bare or len(bare) == len(defects):
        return []
    return [
        f"{len(bare)} of {count(len(defects), 'defective image')} without a mask, left out of "
        f"the pixel figures: {some(bare, root)}"
    ]


def load_mask(sample: Sample, size: tuple[int, int]) -> MaskArray | None:
    """Return the union of a sample's masks.

    Any colour but black counts as a defect, whatever its value: some datasets number their
    kinds of defect 1, 2, 3. Transparent pixels do not count. Where the colour is black all over,
    what is opaque counts, or any index of the palette but 0. In a JPEG, whose compression leaves
    specks, a pixel counts if it is brighter than half of the brightest.

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


def marked_images(masks: Iterable[tuple[str, Path]], keys: Container[str]) -> set[str]:
    """Return the keys of images whose own mask marks something, or can't be read.

    Args:
        masks: masks with their keys, as for ``attach_masks``.
        keys: keys of the images in question; only their masks are read.
    """
    return {bare for own, path in masks if (bare := strip_mask_ending(own)) in keys and marks(path)}


def marks(mask: Path) -> bool:
    """Return whether a mask marks something, or can't be read."""
    try:
        return not mask_is_empty(mask)
    except ImageError:
        # An image with an unreadable mask may have a defect: it is not trained on.
        return True


def mask_is_empty(path: Path) -> bool:
    """Return whether a mask marks no defect at all.

    Raises:
        ImageError: the mask can't be read.
    """
    return not _read_mask(path).any()


def check_masks(dataset: Dataset) -> list[str]:
    """Return what is wrong with the masks of a dataset, one line each.

    The headers of the test images that have masks and of those masks are read, no pixels.
    """
    found = (_mask_problem(mask, sample) for sample in dataset.test for mask in sample.masks)
    return [problem for problem in found if problem is not None]


def unreadable_among(paths: Iterable[Path], limit: int = 2) -> list[Path]:
    """Return the first images whose header can't be read, at most ``limit`` of them."""
    return list(islice((path for path in paths if not _has_header(path)), limit))


def _has_header(path: Path) -> bool:
    try:
        _header_size(path)
    except ImageError:
        return False
    return True


def _header_size(path: Path, *, late_tags: bool = False) -> tuple[int, int]:
    """Return height and width of an image as it is shown, from its header.

    Args:
        path: the file.
        late_tags: also find an orientation that a PNG file states behind its pixels, which takes
            decoding the whole file.

    Raises:
        ImageError: the file can't be read as an image.
    """
    with open_image(path) as image:
        if image.format == "PNG" and "exif" not in image.info and not late_tags:
            return image.height, image.width
        return shown_size(image)


def _mask_problem(mask: Path, sample: Sample) -> str | None:
    try:
        image_size = _header_size(sample.path)
    except ImageError:
        # The image itself is the problem, and is named when it is scored.
        return None
    try:
        if _header_size(mask) != image_size:
            image_size = _header_size(sample.path, late_tags=True)
            _check_size(mask, _header_size(mask, late_tags=True), sample.path, image_size)
    except ImageError as error:
        return str(error)
    return None


def _read_mask(
    path: Path, size: tuple[int, int] | None = None, image_path: Path | None = None
) -> MaskArray:
    with open_image(path) as image:
        if size is not None and image_path is not None:
            _check_size(path, shown_size(image), image_path, size)
        is_jpeg = image.format == "JPEG"
        upright = ImageOps.exif_transpose(image)
        upright.load()
        return _marked(upright, is_jpeg=is_jpeg)


def _marked(mask: Image.Image, *, is_jpeg: bool) -> MaskArray:
    """Return the marked pixels of a mask: bool (H, W)."""
    opaque: MaskArray | None = None
    indices = np.asarray(mask) if mask.mode == "P" else None
    if mask.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in mask.info:
        mask = mask.convert("RGBA")
        opaque = np.asarray(mask)[:, :, 3] > 0
        if opaque.all() or not opaque.any():
            opaque = None
    if mask.mode not in ("1", "L", "I", "F") and not mask.mode.startswith("I;16"):
        mask = mask.convert("RGB")
    pixels = np.asarray(mask)
    # The specks of a JPEG are small beside its marks, whether these are 1, 128 or 255.
    marked: MaskArray = pixels > (pixels.max() / 2 if is_jpeg and pixels.size else 0)
    if marked.ndim == 3:
        marked = np.logical_or.reduce(marked, axis=2)
    if opaque is not None:
        visible = marked & opaque
        return visible if visible.any() else opaque
    if not marked.any() and indices is not None:
        return np.asarray(indices > 0)
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
