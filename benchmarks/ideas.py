"""Ideas that the default preset does not use, and the one that it came to use.

Each is measured as one change of the preset as it was before that: with the coarse layer in its
map.

    python benchmarks/ideas.py ideas DATASET...    # smoothing, scopes, features, scores
    python benchmarks/ideas.py layers DATASET...   # other layers than the default's
    python benchmarks/ideas.py inputs DATASET...   # sizes of the input, other backbones
    python benchmarks/ideas.py copies DATASET...   # shifted and turned copies of all good images

Features are extracted once for each dataset, backbone and size. Prints Markdown: a line of figures
for the default, and for every idea the differences from it. AUPRO is at the input's size.

`ideas` and `layers` also measure on few of the good images (``--images``). `ideas` prints what the
good images alone say of each idea: the AUROC between them and synthetic defects on them, and the
coefficient of variation of their scores; both are cross-fitted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ablation import POOL, Energies, Residuals, aupro, by_layer, folds_of, masks_at
from fre.backbones import DEFAULT_BACKBONE, get_backbone
from fre.datasets import open_dataset, require_test, require_train
from fre.datasets.samples import Sample
from fre.evaluation.metrics import auroc
from fre.features.extractor import FeatureExtractor
from fre.images.decode import read_resized
from fre.quantize import rank_correlation
from fre.scoring.fusion import (
    SHRINK,
    SIGMA,
    TOP_SHARE,
    VETO_DEVIATIONS,
    VETO_IMAGES,
    Enlargement,
    Standard,
    fine_grid,
    smoothing_matrix,
)
from fre.subspaces.cross_fit import make_folds
from fre.subspaces.position import PositionStatistics
from fre.subspaces.protocols import PRIOR_IMAGES, FitOptions
from fre.training.plan import RANK_LIMIT, plan_detector
from fre.types import FloatArray, ImageArray

HELD = 200
"""Good images of a dataset that get a synthetic defect, at most."""
GUIDE_RADIUS = 8
LEAST = 1e-12
"""Deviations are not below it: good images may be all alike."""
SPOILINGS = ("paste", "scar", "noise", "blur", "shade")


# --- what an idea is -----------------------------------------------------------------------


@dataclass(frozen=True)
class Smoothing:
    """How an enlarged map is smoothed.

    Attributes:
        kernels: kind and width in pixels of the input: a Gaussian's deviation or a box's edge.
        largest: whether the largest of the kernels' maps counts, each over its deviation on good
            images; or else their mean.
        before: a filter over 3 x 3 locations of the feature map, or 5 x 5, before enlarging.
        guide: regularisation of a guided filter that follows the edges of the grey image (He, Sun
            and Tang, 2010), for values in [0, 1]; ``None`` is without.
    """

    kernels: tuple[tuple[Literal["gaussian", "box"], float], ...] = (("gaussian", SIGMA),)
    largest: bool = False
    before: Literal["median", "bilateral"] | None = None
    guide: float | None = None


def gaussians(*sigmas: float, **changes: Any) -> Smoothing:
    return Smoothing(tuple(("gaussian", sigma) for sigma in sigmas), **changes)


@dataclass(frozen=True)
class Recipe:
    """How residuals become a score and a map.

    As it stands, the default preset with the coarse layer in its map.

    Attributes:
        score: the layers and scopes whose maps are added to the score map.
        map: those that are added to the map. A scope is ``position``, ``image`` (a number after
            it limits the rank), ``patch`` (one subspace for all positions), ``pooled`` (per
            position, of features that are averaged over 3 x 3 locations), ``shifted`` (per
            position, the prior counts its neighbours' means, too), ``whitened`` (the Mahalanobis
            distance at each position).
        prior: weight of the neighbourhood at a position, in images.
        ridge: of ``whitened``: added to each covariance, as a share of its mean variance.
        score_power: of the squared residuals; 0 is the logarithm.
        map_power: the same for the map.
        map_means: whether the map's locations differ in what is normal.
        score_smoothing: of the score map.
        map_smoothing: of the map.
        pooling: shares of the score map's pixels, the largest ones, whose mean is a raw score.
            Several are standardised on good images, and the larger counts.
        veto: how the overall residual enters.
        veto_deviations: where it begins, as a hinge.
        veto_images: with fewer good images it does not.
        copies: the name of the altered copies that the subspaces per position are fitted on, too.
        weighed: whether each layer counts as much as the share of the good images' energy that
            its subspaces explain, cross-fitted; or else all alike. Only for ``position`` and
            ``image``.
    """

    score: tuple[str, ...] = ("middle/position", "coarse/image")
    map: tuple[str, ...] = ("fine/position", "middle/position", "coarse/image")
    prior: float = PRIOR_IMAGES
    ridge: float = 0.1
    score_power: float = 1.0
    map_power: float = 0.5
    map_means: bool = False
    score_smoothing: Smoothing = Smoothing()
    map_smoothing: Smoothing = Smoothing()
    pooling: tuple[float, ...] = (TOP_SHARE,)
    veto: Literal["hinge", "none", "sum", "larger", "hypot"] = "hinge"
    veto_deviations: float = VETO_DEVIATIONS
    veto_images: int = VETO_IMAGES
    copies: str | None = None
    weighed: bool = False


def both(smoothing: Smoothing) -> dict[str, Any]:
    return {"score_smoothing": smoothing, "map_smoothing": smoothing}


def scopes(fine: str, middle: str, coarse: str, *, fine_in_score: bool = False) -> dict[str, Any]:
    maps = (f"fine/{fine}", f"middle/{middle}", f"coarse/{coarse}")
    return {"score": maps if fine_in_score else maps[1:], "map": maps}


DEFAULT = "coarse layer in the map, too"

SMOOTHINGS: dict[str, dict[str, Any]] = {
    "Gaussian, 2 px": both(gaussians(2)),
    "Gaussian, 3 px": both(gaussians(3)),
    "Gaussian, 6 px": both(gaussians(6)),
    "Gaussian, 8 px": both(gaussians(8)),
    "box, 9 px": both(Smoothing((("box", 9),))),
    "box, 17 px": both(Smoothing((("box", 17),))),
    "median of 3 x 3 locations, then the Gaussian": both(gaussians(SIGMA, before="median")),
    "bilateral over 5 x 5 locations, then the Gaussian": both(gaussians(SIGMA, before="bilateral")),
    "mean of Gaussians, 2 and 8 px": both(gaussians(2, 8)),
    "largest of Gaussians, 2, 4 and 8 px": both(gaussians(2, 4, 8, largest=True)),
    "guided by the grey image, 0.001": {"map_smoothing": gaussians(SIGMA, guide=0.001)},
    "guided by the grey image, 0.01": {"map_smoothing": gaussians(SIGMA, guide=0.01)},
}

SCOPES: dict[str, dict[str, Any]] = {
    "all per patch": scopes("patch", "patch", "patch"),
    "all per image": scopes("image", "image", "image"),
    "middle layer per patch": scopes("position", "patch", "image"),
    "middle layer per image": scopes("position", "image", "image"),
    "coarse layer per position": scopes("position", "position", "position"),
    "coarse layer per patch": scopes("position", "position", "patch"),
    "fine layer per patch": scopes("patch", "position", "image"),
    "fine layer per image": scopes("image", "position", "image"),
    "fine layer in the score, too": scopes("position", "position", "image", fine_in_score=True),
    "middle layer per position and per patch": {
        "score": ("middle/position", "middle/patch", "coarse/image"),
        "map": ("fine/position", "middle/position", "middle/patch", "coarse/image"),
    },
    "score without the coarse layer": {"score": ("middle/position",)},
    "map without the fine layer": {"map": ("middle/position", "coarse/image")},
    "map without the coarse layer": {"map": ("fine/position", "middle/position")},
}

FEATURES: dict[str, dict[str, Any]] = {
    "middle layer averaged over 3 x 3": scopes("position", "pooled", "image"),
    "fine layer averaged over 3 x 3": scopes("pooled", "position", "image"),
    "prior counts the neighbours' means": scopes("shifted", "shifted", "image"),
    "Mahalanobis distance, middle layer, ridge 0.03": scopes("position", "whitened", "image")
    | {"ridge": 0.03},
    "Mahalanobis distance, middle layer, ridge 0.3": scopes("position", "whitened", "image")
    | {"ridge": 0.3},
    "Mahalanobis distance, fine and middle layer, ridge 0.3": scopes(
        "whitened", "whitened", "image"
    )
    | {"ridge": 0.3},
}

SCORES: dict[str, dict[str, Any]] = {
    "mean of the whole score map": {"pooling": (1.0,)},
    "top 1 %": {"pooling": (0.01,)},
    "top 20 %": {"pooling": (0.2,)},
    "larger of top 5 % and mean": {"pooling": (TOP_SHARE, 1.0)},
    "larger of top 1 %, 5 % and 20 %": {"pooling": (0.01, TOP_SHARE, 0.2)},
    "score of roots": {"score_power": 0.5},
    "score of logarithms": {"score_power": 0},
    "map of squares": {"map_power": 1.0},
    "map of logarithms": {"map_power": 0},
    "map's means per location": {"map_means": True},
    "no veto": {"veto": "none"},
    "veto from 1 deviation": {"veto_deviations": 1.0},
    "veto from 3 deviations": {"veto_deviations": 3.0},
    "overall residual added": {"veto": "sum"},
    "larger of score and overall residual": {"veto": "larger"},
    "root of the sum of both squares": {"veto": "hypot"},
    "veto with any number of images": {"veto_images": 0},
}

MIDDLE_TWICE = ("middle/position", "middle/image")

WITHOUT_COARSE: dict[str, dict[str, Any]] = {
    "no coarse layer": {
        "score": ("middle/position",),
        "map": ("fine/position", "middle/position"),
    },
    "no coarse layer, Gaussian, 3 px": {
        "score": ("middle/position",),
        "map": ("fine/position", "middle/position"),
        **both(gaussians(3)),
    },
    "no coarse layer, fine layer per image": {
        "score": ("middle/position",),
        "map": ("fine/image", "middle/position"),
    },
    "no coarse layer, both others per position and per image": {
        "score": MIDDLE_TWICE,
        "map": ("fine/position", "fine/image", *MIDDLE_TWICE),
    },
    "no coarse layer, middle layer per position and per image": {
        "score": MIDDLE_TWICE,
        "map": ("fine/position", *MIDDLE_TWICE),
    },
    "no coarse layer, score per image, map per position": {
        "score": ("middle/image",),
        "map": ("fine/position", "middle/position"),
    },
    "coarse layer's rank at most 64": {
        "score": ("middle/position", "coarse/image64"),
        "map": ("fine/position", "middle/position", "coarse/image64"),
    },
    "coarse layer in the score only, map smoothed by 3 px": {
        "map": ("fine/position", "middle/position"),
        "map_smoothing": gaussians(3),
    },
}

LAYERS: dict[str, dict[str, Any]] = {
    "no coarse layer": WITHOUT_COARSE["no coarse layer"],
    "lower layer for the coarse one": {
        "score": ("middle/position", "lower/position"),
        "map": ("fine/position", "middle/position", "lower/position"),
    },
    "lower layer for the coarse one, in the map only": {
        "score": ("middle/position",),
        "map": ("fine/position", "middle/position", "lower/position"),
    },
    "lower layer for the coarse one, in the score only": {
        "score": ("middle/position", "lower/position"),
        "map": ("fine/position", "middle/position"),
    },
    "lower layer for the coarse one, per image": {
        "score": ("middle/position", "lower/image"),
        "map": ("fine/position", "middle/position", "lower/image"),
    },
    "lower layer alone with the fine one": {
        "score": ("lower/position",),
        "map": ("fine/position", "lower/position"),
    },
    "no coarse layer, prior counts the neighbours' means": {
        "score": ("middle/shifted",),
        "map": ("fine/shifted", "middle/shifted"),
    },
    "no coarse layer, larger of top 1 %, 5 % and 20 %": {
        "score": ("middle/position",),
        "map": ("fine/position", "middle/position"),
        "pooling": (0.01, TOP_SHARE, 0.2),
    },
    "no coarse layer, prior of 64 images": {
        "score": ("middle/position",),
        "map": ("fine/position", "middle/position"),
        "prior": 64,
    },
    "no coarse layer, prior of 16 images": {
        "score": ("middle/position",),
        "map": ("fine/position", "middle/position"),
        "prior": 16,
    },
    "map without the coarse layer": {"map": ("fine/position", "middle/position")},
    "map of logarithms without the coarse layer": {
        "map": ("fine/position", "middle/position"),
        "map_power": 0,
    },
    "each layer by the share it explains": {"weighed": True},
    "each layer by the share it explains, map without the coarse layer": {
        "map": ("fine/position", "middle/position"),
        "weighed": True,
    },
    "middle layer per position and per image, by the shares they explain": {
        "score": MIDDLE_TWICE,
        "map": ("fine/position", *MIDDLE_TWICE),
        "weighed": True,
    },
    "all layers, middle layer per position and per image, by the shares": {
        "score": (*MIDDLE_TWICE, "coarse/image"),
        "map": ("fine/position", *MIDDLE_TWICE),
        "weighed": True,
    },
    "all layers, middle layer per position and per image": {
        "score": (*MIDDLE_TWICE, "coarse/image"),
        "map": ("fine/position", *MIDDLE_TWICE),
    },
    "all layers per position, coarse layer per image, too": {
        "score": ("middle/position", "coarse/position", "coarse/image"),
        "map": ("fine/position", "middle/position"),
    },
}
"""Changes of the layers; the lower layer is another one of the middle layer's stride, before it."""

IDEAS = {**SMOOTHINGS, **SCOPES, **WITHOUT_COARSE, **FEATURES, **SCORES}
"""Each is one change of the default."""

CHOICES = {
    "scope": [
        "all per patch",
        "coarse layer per position",
        "all per image",
        "middle layer per patch",
        "no coarse layer",
    ],
    "aggregation": ["mean of the whole score map", "top 1 %", "top 20 %"],
}
"""Between the default and what it would be useful to choose by the good images alone."""

COPIES: dict[str, tuple[int, float, float]] = {
    "2 copies, 2 px": (2, 2, 0),
    "2 copies, 4 px, 2 degrees": (2, 4, 2),
}
"""Number of copies of each good image, largest shift in pixels, largest rotation in degrees."""

INPUTS: tuple[tuple[str, int], ...] = (
    (DEFAULT_BACKBONE, 256),
    (DEFAULT_BACKBONE, 224),
    (DEFAULT_BACKBONE, 288),
    (DEFAULT_BACKBONE, 320),
    (DEFAULT_BACKBONE, 384),
    ("efficientnet_lite1", 256),
    ("efficientnet_lite2", 256),
)


# --- images --------------------------------------------------------------------------------


def moved(image: ImageArray, shift: tuple[float, float], degrees: float) -> ImageArray:
    """An image, turned about its centre and then shifted by (x, y) pixels; edges are held."""
    height, width = image.shape[:2]
    border = int(np.ceil(np.hypot(height, width) * abs(np.sin(np.radians(degrees))))) + 1
    border += int(np.ceil(max(abs(value) for value in shift)))
    padded = Image.fromarray(np.pad(image, ((border, border), (border, border), (0, 0)), "edge"))
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    x0, y0 = padded.width / 2, padded.height / 2
    x1, y1 = x0 + shift[0], y0 + shift[1]
    # Where each pixel of the result comes from.
    matrix = (cos, -sin, x0 - cos * x1 + sin * y1, sin, cos, y0 - sin * x1 - cos * y1)
    turned = padded.transform(padded.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(turned)[border : border + height, border : border + width]


def altered(
    image: ImageArray, pixels: float, degrees: float, rng: np.random.Generator
) -> ImageArray:
    """An image, shifted and turned by random amounts up to those."""
    x, y = rng.uniform(-pixels, pixels, 2)
    return moved(image, (float(x), float(y)), float(rng.uniform(-degrees, degrees)))


def with_their_copies(
    folds: Sequence[NDArray[np.intp]], n: int, count: int
) -> list[NDArray[np.intp]]:
    """The folds of n images and then ``count`` times their copies: each copy with its image."""
    return [np.concatenate([fold + i * n for i in range(count + 1)]) for fold in folds]


def spoilt(image: ImageArray, other: ImageArray, kind: str, rng: np.random.Generator) -> ImageArray:
    """A good image with a synthetic defect on an ellipse of 0.3 to 5 % of its area.

    Args:
        image: uint8 (H, W, 3).
        other: another good image of that shape, of which ``paste`` takes a piece.
        kind: one of `SPOILINGS`.
        rng: of place, size and strength.
    """
    height, width = image.shape[:2]
    slender = 8.0 if kind == "scar" else float(rng.uniform(1, 2.5))
    area = float(np.exp(rng.uniform(np.log(0.003), np.log(0.05)))) * height * width
    long = np.sqrt(area * slender / np.pi)
    y0, x0 = rng.uniform(0.25, 0.75, 2) * (height, width)
    y, x = np.mgrid[:height, :width]
    angle = rng.uniform(0, np.pi)
    along = (x - x0) * np.cos(angle) + (y - y0) * np.sin(angle)
    across = (y - y0) * np.cos(angle) - (x - x0) * np.sin(angle)
    inside = np.hypot(along / long, across * slender / long)
    mask = np.clip((1 - inside) * 4, 0, 1)[:, :, None]
    shade = float(rng.choice([-1, 1]) * rng.uniform(15, 60))
    if kind == "paste":
        shift = rng.integers(height // 8, height // 2, 2)
        filling = np.roll(other, tuple(shift), axis=(0, 1)).astype(float)
    elif kind == "noise":
        filling = image + rng.normal(0, rng.uniform(10, 40), image.shape)
    elif kind == "blur":
        radius = float(rng.uniform(2, 5))
        filling = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)), float)
    else:
        filling = image + shade
    mixed = np.rint(image * (1 - mask) + filling * mask)
    return np.asarray(np.clip(mixed, 0, 255), np.uint8)


# --- residuals -----------------------------------------------------------------------------


def around(grid: tuple[int, int]) -> NDArray[np.float64]:
    """Float64 (P, P): what gives the mean over the 3 x 3 locations around each, cut at borders."""
    axes = []
    for length in grid:
        index = np.arange(length)
        near = (np.abs(np.subtract.outer(index, index)) <= 1).astype(float)
        axes.append(near / near.sum(axis=1, keepdims=True))
    return np.kron(*axes)


def blended(
    statistics: PositionStatistics, prior: float, *, means: bool = False
) -> NDArray[np.float64]:
    """Float64 (P, C, C): each location's covariance with its neighbourhood as a prior.

    Args:
        statistics: of some images.
        prior: the weight of the neighbourhood, in images.
        means: whether the neighbourhood's covariance counts how its means differ from the
            location's, as if the images were shifted by a location.
    """
    own = statistics.scatter / statistics.n
    positions = len(statistics.mean)
    mix = around(statistics.grid)

    def near(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((mix @ values.reshape(positions, -1)).reshape(values.shape))

    neighbourhood = near(own)
    if means:
        mean = statistics.mean
        outer = mean[:, :, None] * mean[:, None, :]
        cross = mean[:, :, None] * near(mean)[:, None, :]
        neighbourhood += near(outer) + outer - cross - cross.transpose(0, 2, 1)
    return np.asarray((statistics.n * own + prior * neighbourhood) / (statistics.n + prior))


def shifted(
    statistics: PositionStatistics, variance: float, prior: float
) -> Callable[[FloatArray], FloatArray]:
    scatter = statistics.n * blended(statistics, prior, means=True)
    return (
        replace(statistics, scatter=scatter)
        .fit(FitOptions(variance=variance, prior=0))
        .squared_residuals
    )


def whitened(
    statistics: PositionStatistics, prior: float, ridge: float
) -> Callable[[FloatArray], FloatArray]:
    """Squared Mahalanobis distances at each location."""
    covariance = blended(statistics, prior)
    positions, channels = statistics.mean.shape
    mean_variance = np.trace(covariance, axis1=1, axis2=2) / channels
    covariance += ridge * mean_variance[:, None, None] * np.eye(channels)
    inverse = np.linalg.inv(covariance).astype(np.float32)
    mean = statistics.mean.astype(np.float32)

    def distances(X: FloatArray) -> FloatArray:
        vectors = X.reshape(len(X), channels, positions)
        values = np.empty((len(X), positions), np.float32)
        for position in range(positions):
            centred = vectors[:, :, position] - mean[position]
            values[:, position] = ((centred @ inverse[position]) * centred).sum(axis=1)
        return values

    return distances


class Material:
    """The residuals of a dataset, as recipes ask for them, and what they are judged by.

    Args:
        residuals: of its images.
        names: of the fine, the middle and the coarse layer.
        size: of the input.
        samples: the test images.
        masks: of them, at the input's size.
        guides: float32 (n, H, W), the grey test images, in [0, 1]; for guided filters.
        copies: for each name of altered copies, residuals whose first good images are these and
            the others their copies.
        originals: how many of the good images are no copies, the first ones; ``None`` is all.
    """

    def __init__(
        self,
        residuals: Residuals,
        names: dict[str, str],
        size: tuple[int, int],
        samples: Sequence[Sample],
        masks: Sequence[NDArray[np.bool_] | None],
        *,
        guides: FloatArray | None = None,
        copies: dict[str, Residuals] | None = None,
        originals: int | None = None,
    ) -> None:
        self.residuals, self.names, self.size = residuals, names, size
        self.n_good = originals or sum(len(fold) for fold in residuals.folds)
        self.samples, self.masks, self.guides = samples, masks, guides
        self.copies = copies or {}
        self.defective = np.array([not sample.good for sample in samples])
        self._energies: dict[tuple[object, ...], Energies] = {}
        self._aupro: dict[tuple[object, ...], float] = {}

    def subset(self, rows: NDArray[np.intp]) -> Material:
        """The same with some of the good images, and without synthetic defects."""
        source = self.residuals
        train = {name: X[rows] for name, X in source.train.items()}
        residuals = Residuals(source.layouts, train, source.test, make_folds(len(rows)))
        return Material(
            residuals, self.names, self.size, self.samples, self.masks, guides=self.guides
        )

    def energies(self, part: str, recipe: Recipe) -> Energies:
        """Of a layer under a scope, such as ``middle/position``."""
        key = (part, recipe.prior, recipe.ridge, recipe.copies)
        if key not in self._energies:
            role, scope = part.split("/")
            found = self._compute(self.names[role], scope, recipe)
            self._energies[key] = found._replace(good=found.good[: self.n_good])
        return self._energies[key]

    def weights(self, parts: Sequence[str], recipe: Recipe) -> list[float]:
        """Of the layers' maps; their squares sum to the number of layers."""
        if not recipe.weighed:
            return [1.0] * len(parts)
        shares = []
        for part in parts:
            X = self.residuals.train[self.names[part.split("/")[0]]]
            n = len(X)
            # What an image is off the mean of the others, on average.
            off = float(X.var(axis=0, dtype=np.float64).sum()) * (n + 1) / (n - 1)
            left = float(self.energies(part, recipe).good.sum(axis=1, dtype=np.float64).mean())
            shares.append(max(1 - left / off, 0.0))
        norm = np.sqrt(np.mean(np.square(shares)))
        return [float(share / norm) if norm else 1.0 for share in shares]

    def overall(self) -> Energies:
        """Of the middle layer, pooled, under one subspace for the image."""
        found = self.residuals.image(self.names["middle"], POOL, 0.97, RANK_LIMIT)
        return found._replace(good=found.good[: self.n_good])

    def _compute(self, name: str, scope: str, recipe: Recipe) -> Energies:
        source, prior, variance = self.residuals, float(recipe.prior), 0.97
        if scope.startswith("image"):
            limit = scope.removeprefix("image")
            return source.image(name, 1, variance, int(limit) if limit else RANK_LIMIT)
        if scope == "patch":
            return self._patch(name, variance)
        if scope == "pooled":
            return averaged(source, name).positions(name, variance, prior)
        if recipe.copies:
            return self.copies[recipe.copies].positions(name, variance, prior)
        if scope == "shifted":
            return source.cross_fit_positions(name, lambda s: shifted(s, variance, prior))
        if scope == "whitened":
            return source.cross_fit_positions(name, lambda s: whitened(s, prior, recipe.ridge))
        assert scope == "position", scope
        return source.positions(name, variance, prior)

    def _patch(self, name: str, variance: float) -> Energies:
        """One subspace for all locations: each location is an image of one location."""
        source, plain = self.residuals, self.residuals.layouts[name]
        count = plain.grid[0] * plain.grid[1]

        def flat(X: FloatArray) -> FloatArray:
            vectors = X.reshape(len(X), plain.channels, count)
            return np.ascontiguousarray(vectors.transpose(0, 2, 1)).reshape(-1, plain.channels)

        locations = Residuals(
            {name: replace(plain, grid=(1, 1))},
            {name: flat(source.train[name])},
            {name: flat(source.test[name])},
            [(fold[:, None] * count + np.arange(count)).ravel() for fold in source.folds],
            held={name: flat(source.held[name])},
            held_folds=np.repeat(source.held_folds, count),
        )
        _, *rest = locations.positions(name, variance, 0)
        return Energies(plain, *(values.reshape(-1, count) for values in rest))


def averaged(source: Residuals, name: str) -> Residuals:
    """Residuals of a layer whose features are averaged over 3 x 3 locations."""
    layout = source.layouts[name]
    mix = around(layout.grid).T.astype(np.float32)

    def average(X: FloatArray) -> FloatArray:
        return np.asarray((X.reshape(-1, mix.shape[0]) @ mix).reshape(X.shape), np.float32)

    return Residuals(
        {name: layout},
        {name: average(source.train[name])},
        {name: average(source.test[name])},
        source.folds,
        held={name: average(source.held[name])},
        held_folds=source.held_folds,
    )


# --- from residuals to figures ---------------------------------------------------------------


def powered(values: FloatArray, power: float) -> FloatArray:
    if power == 0:
        return np.asarray(np.log(values + 1e-6), np.float32)
    return values if power == 1 else np.asarray(values**power, np.float32)


def kernel_matrix(kind: str, width: float, length: int) -> NDArray[np.float64]:
    if kind == "gaussian":
        return smoothing_matrix(length, width)
    index = np.arange(length)
    near = (np.abs(np.subtract.outer(index, index)) <= (width - 1) / 2).astype(float)
    return np.asarray(near / near.sum(axis=1, keepdims=True))


def windows(maps: FloatArray, edge: int) -> FloatArray:
    """Float32 (edge * edge, n, h, w): the values around each location, edges held."""
    reach = edge // 2
    padded = np.pad(maps, ((0, 0), (reach, reach), (reach, reach)), "edge")
    height, width = maps.shape[1:]
    return np.stack(
        [padded[:, y : y + height, x : x + width] for y in range(edge) for x in range(edge)]
    )


def median_filter(maps: FloatArray) -> FloatArray:
    return np.asarray(np.median(windows(maps, 3), axis=0), np.float32)


def bilateral_filter(maps: FloatArray, deviation: float) -> FloatArray:
    """Gaussian weights by distance (1 location) and by difference in value (two deviations)."""
    near = windows(maps, 5)
    y, x = np.divmod(np.arange(25), 5)
    place = np.exp(-0.5 * ((y - 2) ** 2 + (x - 2) ** 2))[:, None, None, None]
    weights = place * np.exp(-0.5 * ((near - maps) / (2 * deviation)) ** 2)
    return np.asarray((weights * near).sum(axis=0) / weights.sum(axis=0), np.float32)


def guided_filter(values: FloatArray, guide: FloatArray, regularisation: float) -> FloatArray:
    """Locally an affine function of the guide, both (H, W)."""
    rows, columns = (kernel_matrix("box", 2 * GUIDE_RADIUS + 1, n) for n in values.shape)

    def mean(x: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        return np.asarray(rows @ x @ columns.T)

    guide_mean, values_mean = mean(guide), mean(values)
    slope = (mean(guide * values) - guide_mean * values_mean) / (
        mean(guide * guide) - guide_mean**2 + regularisation
    )
    return np.asarray(mean(slope) * guide + mean(values_mean - slope * guide_mean), np.float32)


class Smoother:
    """Aligned maps to smoothed maps of another size.

    Args:
        smoothing: how.
        through: from the grid of the maps, by bilinear interpolation from grid to grid.
        scale: pixels of the input per location of the last grid.
        good: float32 (n, h, w), aligned maps of good images, for scales.
    """

    def __init__(
        self,
        smoothing: Smoothing,
        through: Sequence[tuple[int, int]],
        scale: float,
        good: FloatArray,
    ) -> None:
        self.smoothing = smoothing
        self.deviation = float(good.std())
        plain = Enlargement.through(*through)
        self.enlargements = [
            Enlargement(
                *(
                    (kernel_matrix(kind, width / scale, len(matrix)) @ matrix).astype(np.float32)
                    for matrix in (plain.rows, plain.columns)
                )
            )
            for kind, width in smoothing.kernels
        ]
        self.spreads = [1.0] * len(self.enlargements)
        if smoothing.largest:
            some = self._before(good[:100])
            self.spreads = [float(each.apply(some).std()) for each in self.enlargements]

    def _before(self, maps: FloatArray) -> FloatArray:
        if self.smoothing.before == "median":
            return median_filter(maps)
        if self.smoothing.before == "bilateral":
            return bilateral_filter(maps, self.deviation)
        return maps

    def apply(self, maps: FloatArray) -> FloatArray:
        maps = self._before(maps)
        scales = [
            each.apply(maps) / np.float32(spread)
            for each, spread in zip(self.enlargements, self.spreads, strict=True)
        ]
        if self.smoothing.largest:
            return np.asarray(np.maximum.reduce(scales), np.float32)
        return np.asarray(sum(scales[1:], scales[0]) / np.float32(len(scales)))


def aligned(
    layers: Sequence[Energies],
    which: Literal["good", "test", "held"],
    standards: Sequence[Standard],
    power: float,
    grid: tuple[int, int],
    weights: Sequence[float],
) -> FloatArray:
    """Float32 (n, *grid): the weighted sum of the standardised maps of all layers."""
    total: FloatArray | None = None
    for layer, standard, weight in zip(layers, standards, weights, strict=True):
        values = standard.apply(powered(getattr(layer, which), power)) * np.float32(weight)
        enlarged = Enlargement.through(layer.layout.pooled, grid).apply(
            values.reshape(-1, *layer.layout.pooled)
        )
        total = enlarged if total is None else total + enlarged
    assert total is not None
    return total


def top_means(maps: FloatArray, share: float) -> NDArray[np.float64]:
    flat = maps.reshape(len(maps), maps.shape[1] * maps.shape[2])
    top = max(1, round(share * flat.shape[1]))
    if top == flat.shape[1]:
        return np.asarray(flat.mean(axis=1, dtype=np.float64))
    return np.asarray(
        np.partition(flat, flat.shape[1] - top, axis=1)[:, -top:].mean(axis=1, dtype=np.float64)
    )


class Scores(NamedTuple):
    """Float64 each; ``variation`` is the coefficient of variation of the good images' scores."""

    good: NDArray[np.float64]
    test: NDArray[np.float64]
    held: NDArray[np.float64]
    variation: float


def scores(material: Material, recipe: Recipe) -> Scores:
    """In standard deviations of the good images."""
    layers = [material.energies(part, recipe) for part in recipe.score]
    weights = material.weights(recipe.score, recipe)
    common = layers[0].layout.pooled
    good = [powered(layer.good, recipe.score_power) for layer in layers]
    standards = [Standard.of(values, positional_mean=True) for values in good]
    maps = aligned(layers, "good", standards, recipe.score_power, common, weights)
    through = (common, fine_grid(material.size))
    smoother = Smoother(recipe.score_smoothing, through, SHRINK, maps)
    overall = material.overall()
    typical = overall.good.sum(axis=1, dtype=np.float64)
    spread = max(float(typical.std()), LEAST)
    raw: dict[str, NDArray[np.float64]] = {}
    for which in ("good", "test", "held"):
        smooth = smoother.apply(
            aligned(layers, which, standards, recipe.score_power, common, weights)
        )
        raw[which] = np.stack([top_means(smooth, share) for share in recipe.pooling])
    centre = raw["good"].mean(axis=1, keepdims=True)
    deviation = np.maximum(raw["good"].std(axis=1, keepdims=True), LEAST)
    result = {}
    for which, values in raw.items():
        z = np.max((values - centre) / deviation, axis=0)
        energy = getattr(overall, which).sum(axis=1, dtype=np.float64)
        result[which] = with_veto(z, (energy - typical.mean()) / spread, recipe, len(typical))
    # Deviations alone: the mean of standardised maps is 0, and no share of it could be taken.
    uncentred = [replace(standard, mean=np.zeros(1)) for standard in standards]
    plain = smoother.apply(aligned(layers, "good", uncentred, recipe.score_power, common, weights))
    pooled = top_means(plain, recipe.pooling[0])
    return Scores(**result, variation=float(pooled.std() / max(float(abs(pooled.mean())), LEAST)))


def with_veto(
    z: NDArray[np.float64], v: NDArray[np.float64], recipe: Recipe, n_good: int
) -> NDArray[np.float64]:
    if recipe.veto == "none" or n_good < recipe.veto_images:
        return z
    if recipe.veto == "sum":
        return z + v
    if recipe.veto == "larger":
        return np.maximum(z, v)
    if recipe.veto == "hypot":
        return np.hypot(np.maximum(z, 0), np.maximum(v, 0)) + np.minimum(z, 0)
    return np.asarray(z + np.maximum(v - recipe.veto_deviations, 0))


def maps_of(material: Material, recipe: Recipe) -> Iterator[FloatArray]:
    """The test images' maps, float32 (H, W)."""
    layers = [material.energies(part, recipe) for part in recipe.map]
    weights = material.weights(recipe.map, recipe)
    finest = max((layer.layout.pooled for layer in layers), key=lambda grid: grid[0] * grid[1])
    standards = [
        Standard.of(powered(layer.good, recipe.map_power), positional_mean=recipe.map_means)
        for layer in layers
    ]
    good = aligned(layers, "good", standards, recipe.map_power, finest, weights)
    smoother = Smoother(recipe.map_smoothing, (finest, material.size), 1, good)
    maps = aligned(layers, "test", standards, recipe.map_power, finest, weights)
    for row in range(len(maps)):
        smooth = smoother.apply(maps[row : row + 1])[0]
        if recipe.map_smoothing.guide is not None:
            assert material.guides is not None
            smooth = guided_filter(smooth, material.guides[row], recipe.map_smoothing.guide)
        yield smooth


def measure(material: Material, recipe: Recipe) -> dict[str, float]:
    """Image AUROC and AUPRO; and, of the good images alone, ``evidence`` and ``variation``."""
    of_images = scores(material, recipe)
    ridge = recipe.ridge if any(part.endswith("whitened") for part in recipe.map) else 0
    key = (
        *(recipe.map, recipe.map_power, recipe.map_means, recipe.map_smoothing),
        *(recipe.prior, ridge, recipe.copies, recipe.weighed),
    )
    # Many recipes share their maps.
    if key not in material._aupro:
        material._aupro[key] = aupro(maps_of(material, recipe), material.samples, material.masks)
    result = {
        "auroc": auroc(of_images.test, material.defective),
        "aupro": material._aupro[key],
        "variation": of_images.variation,
    }
    if len(of_images.held):
        labels = np.repeat([False, True], [len(of_images.good), len(of_images.held)])
        result["evidence"] = auroc(np.concatenate([of_images.good, of_images.held]), labels)
    return result


# --- datasets --------------------------------------------------------------------------------


@dataclass
class Dataset:
    """A dataset's features under one backbone and size, and whatever else is read of it."""

    folder: Path
    backbone: str = DEFAULT_BACKBONE
    edge: int = 256
    names: dict[str, str] = field(default_factory=dict)

    def material(
        self,
        *,
        held: bool = False,
        guides: bool = False,
        lower: bool = False,
        copies: dict[str, tuple[int, float, float]] | None = None,
    ) -> Material:
        """Extract everything.

        Args:
            held: whether good images get synthetic defects.
            guides: whether the grey test images are needed.
            lower: whether the layer before the middle one is needed.
            copies: number of altered copies, pixels and degrees, by name.
        """
        network = get_backbone(self.backbone)
        chosen = plan_detector(network)
        fine, middle, coarse = (part.layer for part in chosen.layers)
        names = {"fine": fine, "middle": middle, "coarse": coarse}
        size = (self.edge, self.edge)
        dataset = open_dataset(self.folder)
        samples, good = require_test(dataset), [one.path for one in require_train(dataset)]
        if lower:
            stride = network.layer(middle).stride
            same = [layer.name for layer in network.layers if layer.stride == stride]
            names["lower"] = same[same.index(middle) - 1]
        layers = list(dict.fromkeys(names.values()))
        extractor = FeatureExtractor(network, layers, pool=1, size=size)
        features = extractor.extract(good)
        test = by_layer(extractor, extractor.extract([sample.path for sample in samples]).X)
        folds = folds_of(features.sha256)
        fold_of = np.empty(len(good), np.intp)
        for index, fold in enumerate(folds):
            fold_of[fold] = index
        rng = np.random.default_rng(0)
        images = [read_resized(path, size)[0] for path in good] if held or copies else []
        spoilt_rows = np.empty(0, np.intp)
        spoilt_X = features.X[:0]
        if held:
            spoilt_rows = np.sort(rng.permutation(len(good))[:HELD])
            others = rng.permutation(len(good))
            spoilt_X = extractor.extract(
                [
                    spoilt(images[row], images[others[row]], SPOILINGS[i % len(SPOILINGS)], rng)
                    for i, row in enumerate(spoilt_rows)
                ]
            ).X
        layouts = {layout.layer: layout for layout in extractor.layouts}
        train = by_layer(extractor, features.X)
        residuals = Residuals(
            layouts,
            train,
            test,
            folds,
            held=by_layer(extractor, spoilt_X),
            held_folds=fold_of[spoilt_rows],
        )
        with_copies = {}
        for name, (count, pixels, degrees) in (copies or {}).items():
            more = extractor.extract(
                [altered(image, pixels, degrees, rng) for _ in range(count) for image in images]
            ).X
            with_copies[name] = Residuals(
                layouts,
                by_layer(extractor, np.concatenate([features.X, more])),
                test,
                with_their_copies(folds, len(good), count),
            )
        grey = None
        if guides:
            grey = np.stack(
                [
                    read_resized(sample.path, size)[0].mean(axis=2, dtype=np.float32) / 255
                    for sample in samples
                ]
            )
        return Material(
            residuals,
            names,
            size,
            samples,
            masks_at(samples, size),
            guides=grey,
            copies=with_copies,
        )


Figures = dict[str, dict[str, dict[str, float]]]
"""By column (a dataset, or some images of it), row and figure."""


def note(column: str, row: str, figures: dict[str, float]) -> dict[str, float]:
    rounded = {key: round(value, 4) for key, value in figures.items()}
    print(column, row, rounded, file=sys.stderr, flush=True)
    return figures


def differences(results: Figures, rows: Iterable[str], default: str = DEFAULT) -> str:
    """Markdown: the default's figures, and each row's differences from it."""
    heads = [f"{column}: AUROC | AUPRO" for column in results]
    lines = [f"| | {' | '.join(heads)} |", "| --- |" + " ---: | ---: |" * len(heads)]
    for row in (default, *rows):
        cells = []
        for of_rows in results.values():
            for figure in ("auroc", "aupro"):
                value, base = of_rows[row][figure], of_rows[default][figure]
                cells.append(f"{value:.4f}" if row == default else f"{value - base:+.4f}")
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def evidence_table(results: Figures) -> str:
    """Markdown: what the good images alone say of the choices, beside what the test says."""
    columns = {name: rows for name, rows in results.items() if "evidence" in rows[DEFAULT]}
    heads = [f"{column}: synthetic | variation | AUROC" for column in columns]
    lines = [f"| | {' | '.join(heads)} |", "| --- |" + " ---: | ---: | ---: |" * len(heads)]
    for choice, labels in CHOICES.items():
        for row in (DEFAULT, *labels):
            cells = [
                f"{rows[row]['evidence']:.4f} | {rows[row]['variation']:.3f} | "
                f"{rows[row]['auroc']:.4f}"
                for rows in columns.values()
            ]
            lines.append(f"| {choice}: {row} | {' | '.join(cells)} |")
    return "\n".join(lines)


def agreement(results: Figures) -> str:
    """Markdown: rank correlations between evidence and test AUROC over all ideas."""
    lines = ["| | synthetic defects | variation |", "| --- | ---: | ---: |"]
    for column, rows in results.items():
        if "evidence" in rows[DEFAULT]:
            truth = [row["auroc"] for row in rows.values()]
            synthetic = [row["evidence"] for row in rows.values()]
            variation = [-row["variation"] for row in rows.values()]
            cells = [
                f"{rank_correlation(truth, other):+.2f}" if np.ptp(truth) and np.ptp(other) else ""
                for other in (synthetic, variation)
            ]
            lines.append(f"| {column} | {' | '.join(cells)} |")
    return "\n".join(lines)


# --- the command -----------------------------------------------------------------------------

DATA = click.argument("data", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
JSON = click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write figures.")
SIZE = click.option("--size", type=int, default=256, show_default=True, help="Edge of the input.")


@click.group()
def main() -> None:
    """Measure ideas that the default preset does not use."""


def figures_of(
    data: Sequence[Path],
    size: int,
    images: Sequence[int],
    changes: dict[str, dict[str, Any]],
    *,
    guides: bool = False,
    lower: bool = False,
) -> Figures:
    """The default's figures and those of each change of it, on all good images and on few."""
    results: Figures = {}
    for folder in data:
        whole = Dataset(folder, edge=size).material(held=True, guides=guides, lower=lower)
        columns = {folder.name: whole}
        for count in images:
            if count < whole.n_good:
                rows = np.sort(np.random.default_rng(count).permutation(whole.n_good)[:count])
                columns[f"{folder.name}, {count}"] = whole.subset(rows)
        for column, material in columns.items():
            results[column] = {
                row: note(column, row, measure(material, replace(Recipe(), **change)))
                for row, change in {DEFAULT: {}, **changes}.items()
            }
    return results


IMAGES = click.option(
    "--images", type=int, multiple=True, help="Measure on this many good images, too."
)


@main.command()
@DATA
@SIZE
@IMAGES
@JSON
def ideas(
    data: tuple[Path, ...], size: int, images: tuple[int, ...], json_file: Path | None
) -> None:
    """Smoothing, scopes, features and scores."""
    results = figures_of(data, size, images, IDEAS, guides=True)
    for group in (SMOOTHINGS, SCOPES, WITHOUT_COARSE, FEATURES, SCORES):
        print(differences(results, group), end="\n\n")
    print(evidence_table(results), agreement(results), sep="\n\n")
    write(json_file, results, {row: asdict(replace(Recipe(), **c)) for row, c in IDEAS.items()})


@main.command()
@DATA
@SIZE
@IMAGES
@JSON
def layers(
    data: tuple[Path, ...], size: int, images: tuple[int, ...], json_file: Path | None
) -> None:
    """Another layer in the place of the coarse one, or none."""
    results = figures_of(data, size, images, LAYERS, lower=True)
    print(differences(results, LAYERS))
    write(json_file, results, {row: asdict(replace(Recipe(), **c)) for row, c in LAYERS.items()})


@main.command()
@DATA
@click.option("--input", "chosen", type=(str, int), multiple=True, help="Backbone and edge.")
@JSON
def inputs(
    data: tuple[Path, ...], chosen: tuple[tuple[str, int], ...], json_file: Path | None
) -> None:
    """Sizes of the input and other backbones; smoothing in pixels, and as a share of the size."""
    results: Figures = {}
    default, *others = chosen or INPUTS
    labels: dict[str, None] = {}
    for folder in data:
        results[folder.name] = {}
        for backbone, edge in (default, *others):
            material = Dataset(folder, backbone, edge).material()
            recipes = {f"{backbone}, {edge} px": Recipe()}
            if edge != default[1]:
                scaled = both(gaussians(SIGMA * edge / default[1]))
                recipes[f"{backbone}, {edge} px, Gaussian in proportion"] = Recipe(**scaled)
            for row, recipe in recipes.items():
                figures = note(folder.name, row, measure(material, recipe))
                results[folder.name][row] = figures
                labels[row] = None
    first, *rest = labels
    print(differences(results, rest, first))
    write(json_file, results, [list(each) for each in (default, *others)])


@main.command()
@DATA
@SIZE
@JSON
def copies(data: tuple[Path, ...], size: int, json_file: Path | None) -> None:
    """Shifted and turned copies of all good images for the subspaces per position."""
    results: Figures = {}
    for folder in data:
        material = Dataset(folder, edge=size).material(copies=COPIES)
        recipes = {DEFAULT: Recipe(), **{name: Recipe(copies=name) for name in COPIES}}
        results[folder.name] = {
            row: note(folder.name, row, measure(material, recipe))
            for row, recipe in recipes.items()
        }
    print(differences(results, COPIES))
    write(json_file, results, COPIES)


def write(json_file: Path | None, results: Figures, settings: object) -> None:
    if json_file:
        document = {"settings": settings, "results": results}
        json_file.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
