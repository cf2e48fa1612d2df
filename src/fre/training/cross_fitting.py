"""Fit the default detector: several layers, each with a subspace of its own kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fre.features.extractor import FeatureExtractor
from fre.features.layout import FeatureLayout, pool_features
from fre.features.table import Features
from fre.parallel import on_all_cores
from fre.scoring.fusion import Reading
from fre.scoring.graph import LayerSubspace
from fre.subspaces.cross_fit import extrapolate
from fre.subspaces.image import ImageWide, fit_image_wide
from fre.subspaces.patch import PatchStatistics
from fre.subspaces.position import PositionStatistics
from fre.training.parts import PartStatistics, part_name
from fre.training.plan import OVERALL_POOL, RANK_LIMIT, FusedPlan, places
from fre.training.readout import FusedDetector, FusedHead, as_stored, detector_of, fuse
from fre.types import FloatArray, MaskArray, Progress

Statistics = TypeVar("Statistics", PositionStatistics, PatchStatistics)


def fit_fused(
    extractor: FeatureExtractor,
    features: Features,
    plan: FusedPlan,
    folds: list[NDArray[np.intp]],
    *,
    variance: float = 0.97,
    rank: int | None = None,
    reading: Reading | None = None,
    position_folds: list[NDArray[np.intp]] | None = None,
    capacity: int | None = None,
    progress: Progress | None = None,
) -> FusedDetector:
    """Fit every subspace, cross-fit their residuals, and fuse them.

    Args:
        extractor: of the plan's layers, without pooling.
        features: of good images.
        plan: what is read.
        folds: the images of each fold.
        variance: share of the energy that each subspace keeps.
        rank: limit of the image-wide subspaces' dimensions; 256, if ``None``.
        reading: how residuals become a score and a map; the preset's way, if ``None``.
        position_folds: for the subspaces per position, whose fits cost more; ``folds``, if
            ``None``.
        capacity: directions to keep in the statistics of image-wide subspaces; ``None`` keeps no
            statistics.
        progress: called after each part.

    Raises:
        OptionError: a pool that does not fit a feature map, or too small a region of interest.
    """
    geometry = extractor.geometry
    parts = [features]
    if geometry.tiling is not None and geometry.tiling.per_tile:
        parts = features.by_tile()
    steps = len(parts) * (len(plan.layers) + 1)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress:
            progress("Fitting", done, steps)

    if progress:
        progress("Fitting", 0, steps)
    heads = tuple(
        _fit_head(
            extractor,
            part,
            plan,
            folds,
            position_folds or folds,
            variance,
            rank or RANK_LIMIT,
            reading or Reading(),
            capacity,
            advance,
        )
        for part in parts
    )
    return detector_of(heads, features, extractor)


def _fit_head(
    extractor: FeatureExtractor,
    features: Features,
    plan: FusedPlan,
    folds: list[NDArray[np.intp]],
    position_folds: list[NDArray[np.intp]],
    variance: float,
    at_most: int,
    reading: Reading,
    capacity: int | None,
    advance: Callable[[], None],
) -> FusedHead:
    """`fit_fused` for one head."""
    rows, few_rows = (
        [features.rows_of(fold) for fold in images] for images in (folds, position_folds)
    )
    blocks = dict(zip(plan.names, extractor.split(features.X), strict=True))
    plain = {layout.layer: layout for layout in extractor.layouts}
    inspected = extractor.inspected

    def pooled(name: str, pool: int) -> tuple[FeatureLayout, FloatArray]:
        layout = replace(plain[name], pool=pool)
        if pool == 1:
            return layout, blocks[name]
        return layout, pool_features(blocks[name], plain[name], layout)

    overall_key = (plan.overall, OVERALL_POOL)
    keys = sorted({(p.layer, p.pool) for p in plan.layers if p.scope == "image"} | {overall_key})

    def image_wide_of(layer: str, pool: int) -> ImageWide:
        layout, X = pooled(layer, pool)
        return fit_image_wide(
            np.ascontiguousarray(X),
            layout.channels,
            rows,
            variance=variance,
            at_most=at_most,
            capacity=capacity or 2 * at_most,
        )

    fitted = on_all_cores(partial(image_wide_of, *key) for key in keys)
    image_wide = {
        # Once for each: where a layer's residual is the overall one, the file has one basis.
        key: replace(wide, subspace=as_stored(wide.subspace))
        for key, wide in zip(keys, fitted, strict=True)
    }
    statistics: dict[str, PartStatistics] = {}
    coordinates: dict[str, FloatArray | None] = {}
    for (layer, pool), wide in image_wide.items():
        name = part_name(layer, "image", pool)
        statistics[name], coordinates[name] = wide.statistics, wide.coordinates
    advance()
    parts: list[tuple[FeatureLayout, LayerSubspace, FloatArray]] = []
    for part in plan.layers:
        if part.scope == "image":
            key = (part.layer, part.pool)
            wide = image_wide[key]
            layout = replace(plain[key[0]], pool=key[1])
            parts.append((layout, wide.subspace, wide.energies))
        else:
            layout, X = pooled(part.layer, part.pool)
            fit = _fit_positions if part.scope == "position" else _fit_patches
            subspace, energies, found = fit(
                X, layout.pooled, few_rows, variance, reading.prior, places(layout, inspected)
            )
            parts.append((layout, subspace, energies))
            if capacity is not None:
                statistics[part_name(part.layer, part.scope, part.pool)] = found
        advance()
    originals = features.originals
    overall = image_wide[overall_key]
    head = fuse(
        extractor,
        plan,
        [(layout, subspace, energies[originals]) for layout, subspace, energies in parts],
        (
            replace(plain[plan.overall], pool=OVERALL_POOL),
            overall.subspace,
            overall.energies[originals],
        ),
        features.originals_of(folds),
        reading,
    )
    return replace(head, statistics=statistics, coordinates=coordinates)


Cross: TypeAlias = tuple[LayerSubspace, FloatArray, PartStatistics]
"""A subspace of all images, what each row's residual would be without its image, and what the
subspace follows from."""


def _fit_positions(
    X: FloatArray,
    grid: tuple[int, int],
    folds: list[NDArray[np.intp]],
    variance: float,
    prior: float,
    _: MaskArray | None,
) -> Cross:
    statistics = [PositionStatistics.of(X[fold], grid) for fold in folds]
    return _fit_statistics(X, statistics, folds, variance, prior)


def _fit_patches(
    X: FloatArray,
    grid: tuple[int, int],
    folds: list[NDArray[np.intp]],
    variance: float,
    prior: float,
    places: MaskArray | None,
) -> Cross:
    if places is not None and not places.any():
        places = None
    statistics = [PatchStatistics.of(X[fold], grid, places) for fold in folds]
    return _fit_statistics(X, statistics, folds, variance, prior)


def _fit_statistics(
    X: FloatArray,
    statistics: list[Statistics],
    folds: list[NDArray[np.intp]],
    variance: float,
    prior: float,
) -> Cross:
    total = statistics[0].merge(*statistics[1:])
    subspace = total.fit(variance=variance, prior=prior)
    energies = subspace.squared_residuals(X)
    for fold, held in zip(folds, statistics, strict=True):
        rest = [part for part in statistics if part is not held]
        others = rest[0].merge(*rest[1:]).fit(variance=variance, prior=prior)
        held_out = others.squared_residuals(X[fold])
        energies[fold] = extrapolate(held_out, energies[fold], fitted_on=others.n, of=len(X))
    return subspace, energies, total
