"""Check good images before a training: in seconds, and without a model.

Thumbnails and pixel statistics find near-duplicates, blurred images and wrong exposures. Two coarse
layers of the default network at a small input find odd images and mixed products. Every finding is
advice.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fre.backbones import DEFAULT_BACKBONE, get_backbone
from fre.errors import DatasetError, ImageError
from fre.features.extractor import FeatureExtractor
from fre.images.appearance import appearance
from fre.images.decode import find_bits
from fre.images.geometry import Decoding
from fre.images.loading import iter_loaded
from fre.images.near_duplicates import duplicate_thumbnail, equal_images, near_pairs
from fre.parallel import available_cores
from fre.scoring.calibration import (
    MAD_TO_DEVIATION,
    ODD_DEVIATIONS,
    RATES,
    check_false_alarm_rate,
    count_odd,
    percent,
)
from fre.subspaces.cross_fit import make_folds
from fre.subspaces.image import fit_image_wide
from fre.subspaces.image_statistics import CAPACITY
from fre.subspaces.protocols import FitOptions
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

FROM = 10
"""Least number of images to look for outliers among."""
LEAST_DEVIATION = (4.0, 0.05, 0.1)
"""Least standard deviation of level (0..255), log contrast and log odds of fineness: smaller
differences do no harm, however alike the other images are."""

LEAST_SILHOUETTE = 0.5
"""Silhouette from which two groups are separate: one product has 0.17 to 0.33, two have 0.58 up,
measured on magnetic tiles, screws and commutators, each alone and in pairs."""
LEAST_GROUP = 0.05
"""Smallest share of the images that is a product of its own; fewer are odd images."""
DIRECTIONS = 10
"""Principal components in which groups are looked for."""

VISIBLE = 8
"""Side, in pixels of the input, of defects that the network may miss."""
SMALL = 4.0
"""Reduction from images to the input from which tiles are advised."""
SHOWN = 3
"""Pairs and examples that are named."""
LISTED = 10
"""Odd images and outliers that the text names."""


@dataclass(frozen=True)
class Finding:
    """An image that differs from the others.

    Attributes:
        name: name of the image.
        reason: difference, in words.
        deviations: size of the difference in robust standard deviations.
    """

    name: str
    reason: str
    deviations: float


@dataclass(frozen=True)
class Pair:
    """Two images that are nearly the same.

    Attributes:
        first: name of an image.
        second: name of the other image.
        distance: 1 minus the correlation of their thumbnails, 0 for the same picture.
    """

    first: str
    second: str
    distance: float


@dataclass(frozen=True)
class Group:
    """Images of one look, where there are several.

    Attributes:
        n: number of images.
        examples: names of typical images.
    """

    n: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class InputAdvice:
    """The network's input for images of some sizes.

    Attributes:
        size: height and width of the input in pixels.
        reduction: pixels of an image of median size along one pixel of the input.
        tile: side in pixels of the tiles that keep small defects; ``None``: no tiles are needed.
    """

    size: tuple[int, int]
    reduction: float
    tile: int | None


@dataclass(frozen=True)
class DataCheck:
    """Findings on good images before a training.

    Attributes:
        n_images: number of images that can be read.
        unreadable: name and reason of each image that can't be read.
        sizes: height, width and number of images of this size, the most frequent first.
        aspects: smallest, median and largest width over height.
        equal: groups of images of equal content, in words; ``None`` if all differ.
        n_near_duplicates: number of images that are nearly the same as another one.
        closest: the closest pairs of near-duplicates, at most three.
        odd: images that the quick pass finds odd, the oddest first.
        outliers: blurred, noisy, dark, bright and flat images, the farthest first.
        n_quick: number of images in the quick pass; 0 if there are fewer than ten.
        groups: two groups of images if these clearly show different products; else empty.
        false_alarm_rate: rate that was asked for.
        attainable_rate: smallest false-alarm rate that so many images can guarantee.
        input: input of the network.
    """

    n_images: int
    unreadable: tuple[tuple[str, str], ...]
    sizes: tuple[tuple[int, int, int], ...]
    aspects: tuple[float, float, float]
    equal: str | None
    n_near_duplicates: int
    closest: tuple[Pair, ...]
    odd: tuple[Finding, ...]
    outliers: tuple[Finding, ...]
    n_quick: int
    groups: tuple[Group, ...]
    false_alarm_rate: float
    attainable_rate: float
    input: InputAdvice = field(repr=False)

    @property
    def images_needed(self) -> int:
        """Smallest number of good images that can guarantee the false-alarm rate asked for."""
        return int(np.ceil(1 / self.false_alarm_rate - 1e-9)) - 1

    def next_command(self, data: str) -> str:
        """Return the command that trains on these images.

        Args:
            data: the images, as for ``fre train``.
        """
        words = ["fre", "train", shlex.quote(data), "-o", "model.onnx"]
        if self.unreadable:
            words.append("--skip-unreadable")
        rate = self.false_alarm_rate
        if rate < self.attainable_rate:
            rate = next((r for r in RATES if r >= self.attainable_rate), self.attainable_rate)
        if rate != RATES[0]:
            # Rounded up: a smaller rate could not be guaranteed.
            words += ["--false-alarm-rate", f"{np.ceil(rate * 1000 - 1e-9) / 1000:g}"]
        return " ".join(words)

    def lines(self) -> list[str]:
        """Return the check as sentences, one line each."""
        return [
            f"{self.n_images} good images"
            + (f", {len(self.unreadable)} more can't be read:") * bool(self.unreadable),
            *(f"  {name}: {reason}" for name, reason in self.unreadable[:LISTED]),
            *_more(len(self.unreadable)),
            *self._size_lines(),
            *self._copy_lines(),
            *self._odd_lines(),
            *self._group_lines(),
            self._rate_line(),
        ]

    def _size_lines(self) -> list[str]:
        shown = ", ".join(f"{w} x {h} ({n})" for h, w, n in self.sizes[:SHOWN])
        rest = f" and {len(self.sizes) - SHOWN} more" if len(self.sizes) > SHOWN else ""
        low, median, high = self.aspects
        shape = f"{median:.2f}" if low == high else f"{low:.2f} to {high:.2f}, median {median:.2f}"
        height, width = self.input.size
        seen = f"input: {width} x {height} pixels"
        if self.input.tile:
            missed = round(VISIBLE * self.input.reduction)
            seen += (
                f"; defects of about {missed} pixels and less may vanish: if yours are smaller, "
                f"train with --tile {self.input.tile}"
            )
        return [
            f"sizes, width x height (images): {shown}{rest}",
            f"aspects, width / height: {shape}",
            seen,
        ]

    def _copy_lines(self) -> list[str]:
        lines = []
        if self.equal:
            lines.append(f"equal images: {self.equal}; keep one of each")
        if not self.closest:
            return [*lines, "near-duplicates: none"]
        pairs = [
            f"  {pair.first} and {pair.second} (distance {pair.distance:.4f})"
            for pair in self.closest
        ]
        return [
            *lines,
            f"near-duplicates: {self.n_near_duplicates} images; several shots of one part make the "
            "threshold too low: group them with --group-by. The closest pairs:",
            *pairs,
        ]

    def _odd_lines(self) -> list[str]:
        if not self.n_quick:
            return [f"odd images, blur and exposure: not looked for among fewer than {FROM} images"]
        lines = []
        among = "" if self.n_quick == self.n_images else f" (looked for among {self.n_quick})"
        for title, found in ((f"odd images{among}", self.odd), ("blur, exposure", self.outliers)):
            if not found:
                lines.append(f"{title}: none")
                continue
            lines.append(f"{title}: {len(found)}; look at them, and leave wrong ones out:")
            lines += [f"  {one.name}: {one.reason}" for one in found[:LISTED]]
            lines += _more(len(found))
        return lines

    def _group_lines(self) -> list[str]:
        if not self.groups:
            return []
        shown = " and ".join(
            f"{group.n} images such as {', '.join(group.examples)}" for group in self.groups
        )
        return [f"different products? {shown}: one model for each finds more defects"]

    def _rate_line(self) -> str:
        best = (
            f"false alarms: {self.n_images} good images can guarantee "
            f"{percent(self.attainable_rate)}"
        )
        if self.attainable_rate <= self.false_alarm_rate:
            return best
        return (
            f"{best} at best; {percent(self.false_alarm_rate)} takes {self.images_needed} or more"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the check as plain JSON values."""
        values = asdict(self)
        values["unreadable"] = [{"name": n, "error": reason} for n, reason in self.unreadable]
        values["sizes"] = [{"height": h, "width": w, "n": n} for h, w, n in self.sizes]
        values["aspects"] = dict(zip(("min", "median", "max"), self.aspects, strict=True))
        values["input"]["size"] = list(self.input.size)
        for group in values["groups"]:
            group["examples"] = list(group["examples"])
        for key in ("closest", "odd", "outliers", "groups"):
            values[key] = list(values[key])
        return {**values, "images_needed": self.images_needed}


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
    """Return the input that a training uses for images of some sizes.

    Args:
        sizes: height and width of each image, in pixels.
    """
    size = get_backbone(DEFAULT_BACKBONE).default_size
    reduction = float((np.median(sizes, axis=0) / size).max())
    return InputAdvice(size, reduction, 2 * max(size) if reduction >= SMALL else None)


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
        digest=True,
        thumbnail=duplicate_thumbnail,
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
        pool=1,
        size=(QUICK_SIDE, QUICK_SIDE),
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


def _more(n: int) -> list[str]:
    return [f"  and {n - LISTED} more"] if n > LISTED else []
