"""Near-duplicates among good images: copies, recompressed copies, repeated shots of one part.

They make the calibration too optimistic, so training looks for them.
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
"""Number of neighbours, by coarse thumbnails, that an image is compared with."""

COARSE_LIMIT = 0.95
"""Least correlation of the coarse thumbnails of near-duplicates."""

LIMIT = 0.005
"""Largest distance (1 - correlation) of thumbnails of near-duplicates."""

SAME = 0.0005
"""Largest distance of thumbnails of the same picture, recompressed or with some noise."""

TYPICAL = 0.25
"""Share of the typical distance of two images that near-duplicates may have: parts in one position
all correlate by their outline."""

PAIRS = 200
"""Number of random pairs for the typical distance."""

BLOCK = 1024

NAMED = 5
"""Groups of equal images that a message names."""

SUMMED = 257 * SIDE
"""Largest height, in pixels, whose cells can be summed in 16 bits."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Shares of red, green and blue in grey, as in Pillow (ITU-R BT.601)."""


def _shift_weights() -> NDArray[np.float64]:
    """Return each shift as weights of the nine shifts by -1, 0 and 1 cells: float64 (81, 9)."""
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
    """Return the thumbnail that `near_duplicates` compares: uint8 (H, W, 3) to grey (64, 64)."""
    height, width, channels = image.shape
    if height % SIDE or width % SIDE or height > SUMMED:
        # Reducing before the conversion to grey, and by whole pixels first, takes a quarter of
        # the time.
        whole = Image.fromarray(image)
        small = whole.resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=1.0)
        return np.asarray(small.convert("L"))
    # Whole cells give the same to one grey level, in a third of the time.
    down, across = height // SIDE, width // SIDE
    rows = image.reshape(SIDE, down, width * channels).sum(axis=1, dtype=np.uint16)
    cells = rows.reshape(SIDE, SIDE, across * channels).astype(np.float32)
    grey = cells @ (np.tile(LUMA, across) / (across * down))
    return np.asarray(np.rint(grey), np.uint8)


def near_duplicates(thumbnails: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Tell which images have a near-duplicate among the others.

    Two images are near-duplicates if their thumbnails correlate by more than 0.995 at the best
    shift of up to one cell (1/64 of the side), in steps of a quarter cell. Where all images are
    that alike, near-duplicates must be four times closer than two images typically are. Brightness
    and contrast do not matter. Each image is compared with the four others whose 16 x 16
    thumbnails correlate best with its own. A second photo of a part that was moved or turned is
    not found.

    Measured: 1 pair among 320 screws of MVTec AD, which is the same picture. 223 pairs among 761
    magnetic tiles, which are series of exposures. Found copies of screws / tiles: JPEG of
    quality 50 100 / 99 %, noise of 3 grey levels 100 / 100 %, 10 % brighter 100 / 97 %, moved by
    1 pixel of 256 100 / 74 %, by 6 none.

    Args:
        thumbnails: uint8 (n, 64, 64), from `duplicate_thumbnail`.

    Returns:
        bool (n,), true for near-duplicates.
    """
    found = np.zeros(len(thumbnails), bool)
    candidates = sorted(set(_candidates(thumbnails)))
    if not candidates:
        return found
    limit = _limit(thumbnails)
    for i, j in candidates:
        if not (found[i] and found[j]):
            found[[i, j]] |= _distance(thumbnails[i], thumbnails[j]) < limit
    return found


def near_pairs(thumbnails: NDArray[np.uint8]) -> list[tuple[float, int, int]]:
    """Return the pairs of near-duplicates, as `near_duplicates` decides, closest first.

    Args:
        thumbnails: uint8 (n, 64, 64), from `duplicate_thumbnail`.

    Returns:
        For each pair its distance, 1 minus the correlation (0 for the same picture), and the
        indices of the two images.
    """
    candidates = sorted(set(_candidates(thumbnails)))
    if not candidates:
        return []
    limit = _limit(thumbnails)
    pairs = ((_distance(thumbnails[i], thumbnails[j]), i, j) for i, j in candidates)
    return sorted(pair for pair in pairs if pair[0] < limit)


def _limit(thumbnails: NDArray[np.uint8]) -> float:
    """Return the distance below which two images are near-duplicates."""
    return min(LIMIT, max(TYPICAL * _typical_distance(thumbnails), SAME))


def _typical_distance(thumbnails: NDArray[np.uint8]) -> float:
    """Return the median distance of pairs of images, of random ones if there are many."""
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
    """Return rows without their mean and of length 1; all constant rows become equal."""
    centred = X - X.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    flat = length[:, 0] < 1e-3
    centred[flat], length[flat] = 1, np.sqrt(X.shape[1])
    return np.asarray(centred / length, np.float32)


def _distance(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """Return 1 minus the correlation of two thumbnails, at the best shift of either."""
    return 1 - max(_shifted_correlation(a, b), _shifted_correlation(b, a))


def _shifted_correlation(moved: NDArray[np.uint8], still: NDArray[np.uint8]) -> float:
    """Return the largest correlation over all shifts of one image.

    A shifted image is a weighted sum of nine images shifted by whole cells, so its correlation
    follows from their inner products.
    """
    inner = SIDE - 2
    offsets = [(y, x) for y in range(3) for x in range(3)]
    windows = np.array(
        [moved[y : y + inner, x : x + inner].ravel() for y, x in offsets], np.float64
    )
    target = still[1:-1, 1:-1].ravel().astype(np.float64)
    windows -= windows.mean(axis=1, keepdims=True)
    target -= target.mean()
    squares = (WEIGHTS @ (windows @ windows.T) * WEIGHTS).sum(axis=1)
    length = np.sqrt(np.maximum(squares, 0) * (target @ target))
    if not length.any():
        return float(not windows.any() and not target.any())
    products = WEIGHTS @ (windows @ target)
    return float(np.max(np.divide(products, length, out=np.zeros_like(length), where=length > 0)))
