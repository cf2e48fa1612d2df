"""Which of the given images are the odd ones of a model."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from fre.errors import OptionError
from fre.images.loading import source_digest
from fre.inference.training_images import DIGEST_BYTES, OddImage


def odd_files(odd: Sequence[OddImage], files: Sequence[Path]) -> list[Path]:
    """Return the file of each odd image, in the order of ``odd``.

    Args:
        odd: odd images of a model.
        files: images that the model was trained on.
    """
    names = {image.name for image in odd}
    found: dict[str, Path] = {}
    for file in files:
        # Folders may hold files of the same name: the content decides.
        if file.name in names and (digest := source_digest(file)):
            found.setdefault(digest[: 2 * DIGEST_BYTES], file)
    return [found[image.digest] for image in odd if image.digest in found]


def left_out(names: Sequence[str], images: Sequence[Path], root: Path) -> list[Path]:
    """Return the images that are named, to be left out of a training.

    Args:
        names: file names, or paths below the root or from here.
        images: images of the training.
        root: folder of the data.

    Raises:
        OptionError: no image, or several images, have such a name.
    """
    found: list[Path] = []
    for name in names:
        asked = Path(name)
        exact = [image for image in images if image in (asked, root / asked)]
        same = exact or [image for image in images if image.name == name]
        if not same:
            close = get_close_matches(name, [image.name for image in images], n=3)
            hint = f"; close: {', '.join(close)}" if close else ""
            raise OptionError(f"--without {name}: no training image of {root} has this name{hint}")
        if len(same) > 1:
            raise OptionError(
                f"--without {name}: {len(same)} training images of {root} have this name, such as "
                f"{same[0]} and {same[1]}; give the path of the one to leave out"
            )
        found += same
    return found
