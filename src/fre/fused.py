"""Fit the default detector: three layers, each with a subspace of its own kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fre.backbones import Backbone
from fre.errors import OptionError
from fre.features import FeatureExtractor, Features, pool_features
from fre.fusion import Fusion
from fre.graph import FeatureLayout
from fre.subspace.crossfit import extrapolate, residual_maps
from fre.subspace.pca import Gram, Subspace
from fre.subspace.position import PositionStatistics, PositionSubspace
from fre.subspace.threads import on_all_cores
from fre.types import FloatArray, Progress

__all__ = ["FusedDetector", "FusedLayers", "choose_layers", "fit_fused"]

RANK_LIMIT = 256
"""Of image-wide subspaces. With half of it large defects go unseen (docs/ablation.md)."""

HEAT_RANGE = (0.75, 3.0)
"""Where heat maps begin and are brightest, as multiples of a good image's largest value."""


@dataclass(frozen=True)
class FusedLayers:
    """Which layers the default detector reads.

    Attributes:
        fine: a subspace per position, for the map only; ``None`` where the backbone has no layer
            of stride 8.
        middle: a subspace per position, for score and map; and, pooled, the overall residual.
        coarse: a subspace per image, for score and map.
        coarse_pool: edge of the pooling windows over it.
    """

    fine: str | None
    middle: str
    coarse: str
    coarse_pool: int

    @property
    def names(self) -> list[str]:
        """The layers to extract, each once."""
        wanted = (self.fine, self.middle, self.coarse)
        return list(dict.fromkeys(name for name in wanted if name))


def choose_layers(backbone: Backbone, layers: Sequence[str] | None, pool: int) -> FusedLayers:
    """The layers of stride 8, 16 and 32.

    The middle one is the backbone's reference layer. Where that is a ResNet's ``layer3``, or
    there is no layer of stride 32, it is pooled in the place of the coarse one.

    Args:
        backbone: the frozen network.
        layers: the names of the fine, the middle and the coarse layer instead, or ``None``.
        pool: edge of the pooling windows.

    Raises:
        BackboneError: an unknown layer.
        OptionError: other than three layers.
    """
    if layers is not None:
        if isinstance(layers, str) or len(layers) != 3:
            raise OptionError(
                "the default preset reads three layers, of about stride 8, 16 and 32, "
                f"not {layers!r}"
            )
        fine, middle, coarse = (backbone.layer(name).name for name in layers)
        return FusedLayers(fine, middle, coarse, pool if coarse == middle else 1)
    reference = backbone.layer(backbone.reference_layer)
    finer = [layer.name for layer in backbone.layers if layer.stride * 2 == reference.stride]
    coarser = [layer.name for layer in backbone.layers if layer.stride == reference.stride * 2]
    deepest_fine = finer[-1] if finer else None
    if reference.name == "layer3" or not coarser:
        return FusedLayers(deepest_fine, reference.name, reference.name, pool)
    return FusedLayers(deepest_fine, reference.name, coarser[0], 1)


@dataclass(frozen=True)
class FusedDetector:
    """The fitted parts of a default detector, and what good images score.

    Attributes:
        layouts: of each layer: fine if there is one, middle, coarse.
        subspaces: of each layer.
        overall: layout and subspace of the overall residual.
        fusion: how they become one score and one map.
        scores: float64 (n,), what each image would score had it been left out.
        map_maxima: float64 (n,), the largest value of the map that it would have.
    """

    layouts: tuple[FeatureLayout, ...]
    subspaces: tuple[Subspace | PositionSubspace, ...]
    overall: tuple[FeatureLayout, Subspace]
    fusion: Fusion
    scores: NDArray[np.float64]
    map_maxima: NDArray[np.float64]

    @property
    def map_range(self) -> tuple[float, float]:
        """The scale of heat maps, by the largest value that is typical of a good image's map."""
        typical = max(float(np.median(self.map_maxima)), 1.0)
        return HEAT_RANGE[0] * typical, HEAT_RANGE[1] * typical


def fit_fused(
    extractor: FeatureExtractor,
    features: Features,
    layers: FusedLayers,
    folds: list[NDArray[np.intp]],
    *,
    pool: int,
    variance: float,
    rank: int | None,
    position_folds: list[NDArray[np.intp]] | None = None,
    progress: Progress | None = None,
) -> FusedDetector:
    """Fit every subspace, cross-fit their residuals, and fuse them.

    Args:
        extractor: of the layers, without pooling.
        features: of good images.
        layers: their parts.
        folds: the rows of each fold.
        pool: edge of the pooling windows of the overall residual.
        variance: share of the energy that each subspace keeps.
        rank: limit of the image-wide subspaces' dimensions; 256, if ``None``.
        position_folds: for the subspaces per position, whose fits cost more; ``folds``, if
            ``None``.
        progress: called after each part.
    """
    blocks = dict(zip(layers.names, extractor.split(features.X), strict=True))
    plain = {layout.layer: layout for layout in extractor.layouts}
    layouts: list[FeatureLayout] = []
    subspaces: list[Subspace | PositionSubspace] = []
    energies: list[FloatArray] = []

    def step(done: int) -> None:
        if progress:
            progress("Fitting", done, 4)

    step(0)
    for name in filter(None, (layers.fine, layers.middle)):
        subspace, residuals = _fit_positions(
            blocks[name], plain[name].grid, position_folds or folds, variance
        )
        layouts.append(plain[name])
        subspaces.append(subspace)
        energies.append(residuals)
        step(len(layouts))
    middle = _pooled(features, blocks[layers.middle], plain[layers.middle], pool)
    tasks = [partial(_fit_image, *middle, folds, variance, rank or RANK_LIMIT)]
    coarsest = middle
    if (layers.coarse, layers.coarse_pool) != (layers.middle, pool):
        coarsest = _pooled(
            features, blocks[layers.coarse], plain[layers.coarse], layers.coarse_pool
        )
        tasks.append(partial(_fit_image, *coarsest, folds, variance, rank or RANK_LIMIT))
    fitted = on_all_cores(tasks)
    overall, overall_maps = fitted[0]
    coarse, coarse_maps = fitted[-1]
    step(3)
    layouts.append(coarsest[0])
    subspaces.append(coarse)
    energies.append(coarse_maps)
    mean_energy = overall_maps.sum(axis=1, dtype=np.float64) / middle[0].dimension
    fusion = Fusion.fit(
        energies,
        mean_energy,
        grids=[layout.pooled for layout in layouts],
        in_score=[name != layers.fine for name in (layout.layer for layout in layouts)],
        size=extractor.size,
    )
    step(4)
    return FusedDetector(
        tuple(layouts),
        tuple(subspaces),
        (middle[0], overall),
        fusion,
        fusion.left_out_scores(energies, mean_energy, folds),
        np.array([float(values.max()) for values in fusion.left_out_maps(energies, folds)]),
    )


def _pooled(
    features: Features, X: FloatArray, layout: FeatureLayout, pool: int
) -> tuple[FeatureLayout, FloatArray]:
    if pool == 1:
        return layout, np.ascontiguousarray(X)
    coarse = FeatureLayout(layout.layer, layout.channels, layout.grid, pool)
    return coarse, pool_features(X, layout, coarse)


def _fit_positions(
    X: FloatArray, grid: tuple[int, int], folds: list[NDArray[np.intp]], variance: float
) -> tuple[PositionSubspace, FloatArray]:
    """The subspaces of all images, and what each image's residual would be without the image."""
    parts = [PositionStatistics.of(X[fold], grid) for fold in folds]
    subspace = parts[0].merge(*parts[1:]).fit(variance=variance)
    energies = subspace.energies(X)
    for fold, held in zip(folds, parts, strict=True):
        first, *rest = (part for part in parts if part is not held)
        others = first.merge(*rest).fit(variance=variance)
        energies[fold] = extrapolate(
            others.energies(X[fold]), energies[fold], fitted_on=others.n, of=len(X)
        )
    return subspace, energies


def _fit_image(
    layout: FeatureLayout,
    X: FloatArray,
    folds: list[NDArray[np.intp]],
    variance: float,
    at_most: int,
) -> tuple[Subspace, FloatArray]:
    gram = Gram(X)
    subspace = gram.fit(variance=variance, at_most=at_most)
    maps = residual_maps(subspace, X, channels=layout.channels)
    for rows, residuals in gram.cross_fit(
        folds, channels=layout.channels, variance=variance, at_most=at_most
    ):
        maps[rows] = extrapolate(residuals, maps[rows], fitted_on=len(X) - len(rows), of=len(X))
    # As the model file stores it, so that whoever computes with it computes what the graph does.
    rounded = subspace.basis.astype(np.float16).astype(np.float64)
    return replace(subspace, basis=rounded), maps
