"""Near-duplicates among good images: copies, recompressed copies, repeated shots of one part.

They make a calibration optimistic without anyone noticing, so that training looks for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fre.types import FloatArray, ImageArray

SIDE = 64
COARSE = 16
CANDIDATES = 4
"""Neighbours, by their coarse thumbnails, that an image is compared with."""

COARSE_LIMIT = 0.95
"""Coarse thumbnails that correlate less are of different pictures."""

LIMIT = 0.005
"""By what the thumbnails of near-duplicates may fall short of correlating fully."""

SAME = 0.0005
"""By what those of the same picture may, compressed anew or with some noise."""

TYPICAL = 0.25
"""Parts that all lie alike correlate by their outline: only what is this many times closer than two
images typically are is a near-duplicate."""

PAIRS = 200
"""Pairs of images that say how close two of them typically are."""

BLOCK = 1024

NAMED = 5
"""Groups of equal images that a message names."""

SUMMED = 257 * SIDE
"""Pixels, the largest height whose cells can be summed in 16 bits."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of red, green and blue in grey, as in Pillow (ITU-R BT.601)."""


def _shift_weights() -> NDArray[np.float64]:
    """Float64 (81, 9): each shift as weights of the nine shifts by -1, 0 and 1 cells."""
    steps = np.linspace(-1, 1, 9)
    along = np.stack([np.maximum(-steps, 0), 1 - np.abs(steps), np.maximum(steps, 0)], axis=1)
    return np.asarray(np.einsum("iy,jx->ijyx", along, along).reshape(-1, 9))


WEIGHTS = _shift_weights()


def equal_images(names: Sequence[str], sha256: Sequence[str]) -> str | None:
    """Name the images that have the same content.

    Args:
        names: (n,), of files; "" stands for an array.
        sha256: (n,), digests of the files, or of the arrays' pixels.

    Returns:
        The first few groups of equal images, such as ``a.png = copy.png; b.png = c.png``; or
        ``None`` if all images differ.
    """
    groups: dict[str, list[str]] = {}
    for name, digest in zip(names, sha256, strict=True):
        groups.setdefault(digest, []).append(name or "an array")
    equal = sorted(sorted(group) for group in groups.values() if len(group) > 1)
    if not equal:
        return None
    shown = "; ".join(
        " = ".join([*group[:NAMED], *(["..."] if len(group) > NAMED else [])])
        for group in equal[:NAMED]
    )
    return shown + (f" and {len(equal) - NAMED} more" if len(equal) > NAMED else "")


def duplicate_thumbnail(image: ImageArray) -> NDArray[np.uint8]:
    """What `near_duplicates` compares: uint8 RGB (H, W, 3) to grey uint8 (64, 64)."""
    height, width, channels = image.shape
    if height % SIDE or width % SIDE or height > SUMMED:
        # The reduction first: the conversion to grey of a small image costs nothing. By whole
        # numbers of pixels, as far as that goes, it takes a quarter of the time.
        whole = Image.fromarray(image)
        small = whole.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=1.0)
        return np.asarray(small.convert("L"))
    # Of whole cells the same to one level, in a third of the time.
    down, across = height // SIDE, width // SIDE
    rows = image.reshape(SIDE, down, width * channels).sum(axis=1, dtype=np.uint16)
    cells = rows.reshape(SIDE, SIDE, across * channels).astype(np.float32)
    grey = cells @ (np.tile(LUMA, across) / (across * down))
    return np.asarray(np.rint(grey), np.uint8)


def near_duplicates(thumbnails: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which images have a near-duplicate among the others.

    It finds copies, not every second shot of one part: turned or moved by more, a part looks as
    another one does.

    Two images are near-duplicates if their thumbnails correlate by more than 0.995 at the best
    shift of up to one cell, 1/64 of the side, in quarters of a cell, interpolated linearly; and,
    where all images are that alike, as parts in one position are, if they are four times closer
    than two images typically are. Brightness and contrast do not matter. Each image is compared
    with the four others whose 16 x 16 thumbnails correlate best with its own.

    On the 320 training images of MVTec AD's screw: one pair, which is the same picture; the next
    most alike reach 0.9945. On the 761 of the magnetic tiles, which are up to six exposures of
    each tile in turn: 236 images in 223 pairs, 221 of them within 150 frames of one sequence. Of
    copies made of every eighth image of screw / tiles it finds: JPEG of quality 50 100 / 99 %, of
    quality 20 100 / 70 %; noise of 3 grey levels 100 / 100 %; 10 % brighter 100 / 97 %; moved at
    256 x 256 by 1 pixel 100 / 74 %, by 2 95 / 27 %, by 4 93 / 87 %, by 6 none.

    Args:
        thumbnails: uint8 (n, 64, 64), of `duplicate_thumbnail`.

    Returns:
        bool (n,).
    """
    found = np.zeros(len(thumbnails), bool)
    candidates = sorted(set(_candidates(thumbnails)))
    if not candidates:
        return found
    limit = min(LIMIT, max(TYPICAL * _typical_distance(thumbnails), SAME))
    for i, j in candidates:
        if not (found[i] and found[j]):
            found[[i, j]] |= _distance(thumbnails[i], thumbnails[j]) < limit
    return found


def _typical_distance(thumbnails: NDArray[np.uint8]) -> float:
    """The median over pairs of images, drawn at random if there are many."""
    first, second = np.triu_indices(len(thumbnails), 1)
    if len(first) > PAIRS:
        drawn = np.random.default_rng(0).choice(len(first), PAIRS, replace=False)
        first, second = first[drawn], second[drawn]
    pairs = zip(first, second, strict=True)
    return float(np.median([_distance(thumbnails[i], thumbnails[j]) for i, j in pairs]))


def _candidates(thumbnails: NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
    n, cell = len(thumbnails), SIDE // COARSE
    cells = thumbnails.reshape(n, COARSE, cell, COARSE, cell).mean(axis=(2, 4), dtype=np.float32)
    flat = _standardised(cells.reshape(n, -1))
    for start in range(0, n, BLOCK):
        alike = flat[start : start + BLOCK] @ flat.T
        rows = np.arange(len(alike))
        alike[rows, start + rows] = -np.inf
        kept = min(CANDIDATES, n - 1)
        nearest = np.argpartition(-alike, kept - 1, axis=1)[:, :kept]
        for row, column in zip(
            *np.nonzero(np.take_along_axis(alike, nearest, 1) > COARSE_LIMIT), strict=True
        ):
            i, j = start + int(row), int(nearest[row, column])
            yield min(i, j), max(i, j)


def _standardised(X: FloatArray) -> FloatArray:
    """Rows without their mean and of length 1; a constant row is that of any other constant one."""
    centred = X - X.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    flat = length[:, 0] < 1e-3
    centred[flat], length[flat] = 1, np.sqrt(X.shape[1])
    return np.asarray(centred / length, np.float32)


def _distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """By what two thumbnails fall short of correlating fully, at the best shift of either."""
    return 1 - max(_shifted_correlation(a, b), _shifted_correlation(b, a))


def _shifted_correlation(moved: NDArray[np.uint8], still: NDArray[np.uint8]) -> float:
    """The largest correlation over the shifts of the one image.

    A shifted image is a weighted sum of nine images shifted by whole cells; so its correlation
    follows from the inner products of those.
    """
    inner = SIDE - 2
    offsets = [(y, x) for y in range(3) for x in range(3)]
    windows = np.array(
        [moved[y : y + inner, x : x + inner].ravel() for y, x in offsets], np.float64
    )
    target = still[1:-1, 1:-1].ravel().astype(np.float64)
    windows -= windows.mean(axis=1, keepdims=True)
    target -= target.mean()
    energy = (WEIGHTS @ (windows @ windows.T) * WEIGHTS).sum(axis=1)
    length = np.sqrt(np.maximum(energy, 0) * (target @ target))
    if not length.any():
        return float(not windows.any() and not target.any())
    products = WEIGHTS @ (windows @ target)
    return float(np.max(np.divide(products, length, out=np.zeros_like(length), where=length > 0)))
