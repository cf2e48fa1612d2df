"""Check good images before a training: in seconds, and without a model.

Thumbnails and pixel statistics find near-duplicates, blurred images and wrong exposures. Two coarse
layers of the default network at a small input find odd images and mixed products. Every finding is
advice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fre.backbones import DEFAULT_BACKBONE, get_backbone
from fre.errors import DatasetError, ImageError
from fre.features.extractor import FeatureExtractor
from fre.images.appearance import appearance
from fre.images.decode import find_bits
from fre.images.geometry import Decoding, Geometry
from fre.images.input_size import ImageSizes, InputOptions, choose_input
from fre.images.loading import iter_loaded
from fre.images.near_duplicates import equal_images, near_pairs
from fre.images.preparation import Preparation
from fre.parallel import available_cores
from fre.scoring.calibration import (
    MAD_TO_DEVIATION,
    ODD_DEVIATIONS,
    RATES,
    check_false_alarm_rate,
    count_odd,
)
from fre.subspaces.cross_fit import make_folds
from fre.subspaces.image import fit_image_wide
from fre.subspaces.image_statistics import CAPACITY
from fre.subspaces.protocols import FitOptions
from fre.training.config import BUDGETS
from fre.training.findings import FROM, SHOWN, DataCheck, Finding, Group, InputAdvice, Pair
from fre.training.fitted import LEAST_IMAGES
from fre.types import FloatArray, ImageArray, Progress

LARGEST_SIDE = 512
"""Longest side, in pixels, at which images are measured."""
QUICK_SIDE = 128
"""Height and width, in pixels, at which the network sees images."""
QUICK_LAYERS = ("blocks.4", "blocks.6")
"""Layers of the default backbone, of stride 16 and 32."""
MOST_QUICK = 2000
"""Number of images that the network sees; of more it sees as many, spread evenly."""

LEAST_DEVIATION = (4.0, 0.05, 0.1)
"""Least standard deviation of level (0..255), log contrast and log odds of fineness: smaller
differences do no harm, however alike the other images are."""

LEAST_SILHOUETTE = 0.5
"""Mean silhouette from which two groups are separate: a split of one cloud of points stays well
below it."""
LEAST_GROUP = 0.05
"""Smallest share of the images that is a product of its own; fewer are odd images."""
DIRECTIONS = 10
"""Principal components in which groups are looked for."""


def check_images(
    files: Sequence[Path],
    names: Sequence[str],
    *,
    false_alarm_rate: float = RATES[0],
    threads: int = 0,
    progress: Progress | None = None,
) -> DataCheck:
    """Check good images before a training.

    Args:
        files: good images.
        names: (n,), name of each file in the findings.
        false_alarm_rate: rate that the model should have, in (0, 1).
        threads: number of threads, 0 for all cores.
        progress: called as the work advances.

    Raises:
        DatasetError: fewer than three images can be read.
        OptionError: the rate is out of range.
    """
    check_false_alarm_rate(false_alarm_rate)
    measured, unreadable = _measure(files, names, threads, progress)
    n = len(measured.names)
    if n < LEAST_IMAGES:
        first = "; ".join(f"{name}: {reason}" for name, reason in unreadable[:SHOWN])
        raise DatasetError(
            f"training needs {LEAST_IMAGES} good images or more, {n} of {len(files)} can be read"
            + f" ({first})" * bool(first)
        )
    pairs = near_pairs(np.stack(measured.thumbnails))
    odd: list[Finding] = []
    groups: list[Group] = []
    if n >= FROM:
        odd, groups = _quick_pass(measured, threads, progress)
    shapes = np.array(measured.sizes)
    aspects = shapes[:, 1] / shapes[:, 0]
    return DataCheck(
        n_images=n,
        unreadable=tuple(unreadable),
        sizes=tuple((h, w, m) for (h, w), m in Counter(measured.sizes).most_common()),
        aspects=(float(aspects.min()), float(np.median(aspects)), float(aspects.max())),
        equal=equal_images(measured.names, measured.sha256),
        n_near_duplicates=len({index for _, *both in pairs for index in both}),
        closest=tuple(
            Pair(measured.names[i], measured.names[j], max(0.0, distance))
            for distance, i, j in pairs[:SHOWN]
        ),
        odd=tuple(odd),
        outliers=tuple(_outliers(measured)),
        n_quick=len(measured.small) if n >= FROM else 0,
        groups=tuple(groups),
        false_alarm_rate=false_alarm_rate,
        attainable_rate=1 / (n + 1),
        input=recommended_input(measured.sizes),
    )


def recommended_input(sizes: Sequence[tuple[int, int]]) -> InputAdvice:
    """Return the input that a training by the default preset uses for images of some sizes.

    Args:
        sizes: height and width of each image, in pixels.
    """
    default = get_backbone(DEFAULT_BACKBONE).default_size
    images = ImageSizes.from_sizes(sizes)
    choice = choose_input(InputOptions(), images, default, BUDGETS["default"])
    assert choice.visible is not None
    return InputAdvice(choice.geometry.size, choice.visible, choice.notes[0])


@dataclass
class _Measured:
    """Measurements of readable images; ``small`` holds pixels of those in the quick pass."""

    names: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    sha256: list[str] = field(default_factory=list)
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)
    statistics: list[NDArray[np.float64]] = field(default_factory=list)
    small: dict[int, ImageArray] = field(default_factory=dict)


def _measure(
    files: Sequence[Path], names: Sequence[str], threads: int, progress: Progress | None
) -> tuple[_Measured, list[tuple[str, str]]]:
    """Read each image once, at a small size; return also name and reason of unreadable ones."""
    found, unreadable = _Measured(), []
    workers = threads or available_cores()
    bits = find_bits(files, workers=workers, progress=progress)
    loaded = iter_loaded(
        files,
        Decoding(_at_most, bits),
        workers=workers,
        ahead=2 * workers,
        identify=True,
    )
    chosen = set(np.linspace(0, len(files) - 1, min(len(files), MOST_QUICK)).astype(int).tolist())
    for place, (name, image) in enumerate(zip(names, loaded, strict=True)):
        if progress:
            progress("Reading", place + 1, len(files))
        if isinstance(image, ImageError):
            unreadable.append((name, image.reason))
            continue
        assert image.thumbnail is not None
        if place in chosen:
            small = Image.fromarray(image.pixels).resize(
                (QUICK_SIDE, QUICK_SIDE), Image.Resampling.BILINEAR
            )
            found.small[len(found.names)] = np.asarray(small)
        found.names.append(name)
        found.sizes.append(image.original_size)
        found.sha256.append(image.sha256)
        found.thumbnails.append(image.thumbnail)
        found.statistics.append(appearance(image.pixels))
    return found, unreadable


def _at_most(size: tuple[int, int]) -> tuple[int, int] | None:
    scale = LARGEST_SIDE / max(size)
    if scale >= 1:
        return None
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _deviations(values: NDArray[np.floating], least: float = 0.0) -> NDArray[np.float64]:
    """Return robust standard deviations from the median: (n,) to float64 (n,)."""
    centred = np.asarray(values, np.float64) - np.median(values)
    deviation = max(MAD_TO_DEVIATION * float(np.median(np.abs(centred))), least)
    return centred / deviation if deviation > 0 else np.zeros(len(centred))


def _outliers(measured: _Measured) -> list[Finding]:
    """Return images whose level, contrast or fineness is far from the others'."""
    if len(measured.names) < FROM:
        return []
    values = np.stack(measured.statistics)
    level, contrast = values[:, :3].mean(axis=1), values[:, 3]
    fineness = np.clip(values[:, 4], 1e-5, 1 - 1e-5)
    of_level, of_contrast, of_fineness = (
        _deviations(x, least)
        for x, least in zip(
            (level, np.log(contrast + 1), np.log(fineness / (1 - fineness))),
            LEAST_DEVIATION,
            strict=True,
        )
    )
    found = []
    for i, name in enumerate(measured.names):
        far = {
            f"dark: mean level {level[i]:.0f}, usually {np.median(level):.0f}": -of_level[i],
            f"bright: mean level {level[i]:.0f}, usually {np.median(level):.0f}": of_level[i],
            f"flat: contrast {contrast[i]:.1f} grey levels, usually "
            f"{np.median(contrast):.1f}": -of_contrast[i],
            f"blurred: {values[i, 4]:.2%} of the contrast is between neighbouring pixels, usually "
            f"{np.median(values[:, 4]):.2%}": -of_fineness[i],
            f"noisy or too sharp: {values[i, 4]:.2%} of the contrast is between neighbouring "
            f"pixels, usually {np.median(values[:, 4]):.2%}": of_fineness[i],
        }
        reasons = {reason: by for reason, by in far.items() if by > ODD_DEVIATIONS}
        if reasons:
            found.append(Finding(name, "; ".join(reasons), float(max(reasons.values()))))
    return sorted(found, key=lambda one: -one.deviations)


def _quick_pass(
    measured: _Measured, threads: int, progress: Progress | None
) -> tuple[list[Finding], list[Group]]:
    """Return odd images, and groups of different products, by two coarse layers."""
    places = list(measured.small)
    if len(places) < FROM:
        return [], []
    extractor = FeatureExtractor(
        get_backbone(DEFAULT_BACKBONE),
        QUICK_LAYERS,
        Preparation(Geometry((QUICK_SIDE, QUICK_SIDE))),
        threads=threads,
    )
    X = extractor.extract([*measured.small.values()], progress=progress).X
    folds, start, scores = make_folds(len(X)), 0, []
    for layout in extractor.layouts:
        layer = X[:, start : start + layout.dimension]
        start += layout.dimension
        fitted = fit_image_wide(layer, layout.channels, folds, FitOptions(), CAPACITY)
        scores.append(_deviations(fitted.residuals.mean(axis=1)))
    score = np.max(scores, axis=0)
    oddest = np.argsort(-score, kind="stable")[: count_odd(score)]
    odd = [
        Finding(
            measured.names[places[i]],
            f"{score[i]:.0f} deviations from the usual look",
            float(score[i]),
        )
        for i in oddest
    ]
    look = layer.reshape(len(X), layout.channels, -1).mean(axis=2)
    names = [measured.names[place] for place in places]
    return odd, [
        Group(len(group), tuple(names[i] for i in group[:SHOWN])) for group in separate_groups(look)
    ]


def separate_groups(look: FloatArray) -> list[NDArray[np.intp]]:
    """Return two groups of images if these are clearly separate, else none.

    Two-means in the first principal components; the groups are separate if their mean silhouette
    (Rousseeuw, "Silhouettes", Journal of Computational and Applied Mathematics, 1987) is large and
    neither is small.

    Args:
        look: float32 (n, C), features of each image.

    Returns:
        Indices of each group, the larger group first, the most typical image first.
    """
    n = len(look)
    centred = look.astype(np.float64) - look.mean(axis=0)
    U, s, _ = np.linalg.svd(centred, full_matrices=False)
    points = U[:, :DIRECTIONS] * s[:DIRECTIONS]
    centres = points[[points[:, 0].argmin(), points[:, 0].argmax()]]
    label = np.zeros(n, int)
    for _ in range(100):
        before = label
        label = np.square(points[:, None] - centres).sum(axis=2).argmin(axis=1)
        if np.bincount(label, minlength=2).min() < max(FROM // 2, LEAST_GROUP * n):
            return []
        if np.array_equal(label, before):
            break
        centres = np.stack([points[label == group].mean(axis=0) for group in (0, 1)])
    squares = np.square(points).sum(axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0))
    counts = np.bincount(label)
    sums = np.stack([apart[:, label == group].sum(axis=1) for group in (0, 1)], axis=1)
    rows = np.arange(n)
    own = sums[rows, label] / (counts[label] - 1)
    other = sums[rows, 1 - label] / counts[1 - label]
    largest = np.maximum(own, other)
    silhouette = np.divide(other - own, largest, out=np.zeros(n), where=largest > 0)
    if silhouette.mean() < LEAST_SILHOUETTE:
        return []
    groups = [np.flatnonzero(label == group) for group in (0, 1)]
    return sorted(
        (group[np.argsort(own[group])] for group in groups), key=lambda group: -len(group)
    )
