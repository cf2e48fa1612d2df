"""Fit the default detector: several layers, each with a subspace of its own kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fre.backbones import Backbone
from fre.errors import OptionError
from fre.features import FeatureExtractor, Features, pool_features
from fre.fusion import Fusion, Limit, Reading
from fre.graph import FeatureLayout, LayerSubspace
from fre.learner import Part, PartStatistics, part_name
from fre.learnt import Learnt, LearntPart
from fre.presets import Configuration, Scope, resolve
from fre.roi import cells
from fre.subspace.crossfit import extrapolate
from fre.subspace.image_wide import ImageWide, fit_image_wide
from fre.subspace.patch import PatchStatistics
from fre.subspace.pca import Subspace
from fre.subspace.position import PositionStatistics
from fre.subspace.threads import on_all_cores
from fre.types import FloatArray, MaskArray, Progress

__all__ = [
    "FusedDetector",
    "FusedHead",
    "FusedPlan",
    "LayerPlan",
    "as_stored",
    "detector_of",
    "fit_fused",
    "fuse",
    "places",
    "plan_layers",
]

Statistics = TypeVar("Statistics", PositionStatistics, PatchStatistics)

RANK_LIMIT = 256
"""Of image-wide subspaces. With half of it large defects go unseen (docs/ablation.md)."""

OVERALL_POOL = 2
"""Edge of the pooling windows of the overall residual: the reference preset's."""

SEEN_ROWS = 128
"""Inputs that are scored by the final scales, to see whether the model calls them good."""

HEAT_RANGE = (0.75, 3.0)
"""Where heat maps begin and are brightest, as multiples of a good image's largest value."""


@dataclass(frozen=True)
class LayerPlan:
    """How one layer is read.

    Attributes:
        layer: its name.
        scope: of its subspaces.
        pool: edge of the pooling windows over it.
        in_score: whether it counts for the score.
        in_map: whether it counts for the map.
    """

    layer: str
    scope: Scope
    pool: int
    in_score: bool
    in_map: bool


@dataclass(frozen=True)
class FusedPlan:
    """What the default detector reads.

    Attributes:
        layers: fine to coarse.
        overall: the layer whose image-wide residual is the overall one.
    """

    layers: tuple[LayerPlan, ...]
    overall: str

    @property
    def names(self) -> list[str]:
        """The layers to extract, each once."""
        return list(dict.fromkeys([*(part.layer for part in self.layers), self.overall]))


def plan_layers(
    backbone: Backbone,
    layers: Sequence[str] | None = None,
    settings: Configuration | None = None,
) -> FusedPlan:
    """Which layers the default detector reads, and how.

    By default the layers of stride 8, 16 and 32; the middle one is the backbone's reference
    layer. Where that is a ResNet's ``layer3``, or there is no layer of stride 32, it is pooled
    in the place of the coarse one. All have a subspace per position but the last of several,
    which has one per image; of three or more the first is for the map alone, and the last for
    the score alone: a location of stride 32 smears what finer layers see (docs/ablation.md).

    Args:
        backbone: the frozen network.
        layers: names of layers instead, fine to coarse, or ``None``.
        settings: their pooling, scopes and roles, as far as they were given; ``None`` leaves
            all to the preset.

    Raises:
        BackboneError: an unknown layer.
        OptionError: no layer, or settings that do not fit the layers.
    """
    if settings is None:
        settings = resolve(preset="default", backbone=None, default_backbone=backbone.name)
    if layers is None:
        names = _default_layers(backbone)
    elif isinstance(layers, str) or not layers:
        raise OptionError(f"layers must be a list of names, not {layers!r}")
    else:
        names = [backbone.layer(name).name for name in layers]
    count = len(names)
    overall = names[max(0, count - 2)]
    repeated = [name in names[:index] for index, name in enumerate(names)]
    pools = _for_each(settings.pool, names, "pool") or [2 if again else 1 for again in repeated]
    scopes: list[Scope] = _for_each(settings.scope, names, "scope") or [
        "image" if count > 1 and index == count - 1 else "position" for index in range(count)
    ]
    in_score = _roles(settings.score_layers, names, "score") or [
        count < 3 or index > 0 for index in range(count)
    ]
    in_map = _roles(settings.map_layers, names, "map") or [
        count < 3 or index < count - 1 for index in range(count)
    ]
    return FusedPlan(
        tuple(
            LayerPlan(*part) for part in zip(names, scopes, pools, in_score, in_map, strict=True)
        ),
        overall,
    )


def _default_layers(backbone: Backbone) -> list[str]:
    reference = backbone.layer(backbone.reference_layer)
    finer = [layer.name for layer in backbone.layers if layer.stride * 2 == reference.stride]
    coarser = [layer.name for layer in backbone.layers if layer.stride == reference.stride * 2]
    deep = reference.name if reference.name == "layer3" or not coarser else coarser[0]
    return [*finer[-1:], reference.name, deep]


def _roles(chosen: Sequence[str] | None, names: Sequence[str], what: str) -> list[bool]:
    """For each layer whether it was chosen; nothing if none was given."""
    if chosen is None:
        return []
    if unknown := [name for name in chosen if name not in names]:
        raise OptionError(
            f"{unknown[0]!r} can't count for the {what}: it is not one of the layers that are "
            f"read, {', '.join(names)}"
        )
    if not chosen:
        raise OptionError(f"one layer at least has to count for the {what}")
    return [name in chosen for name in names]


def _for_each(given: tuple[Any, ...] | None, names: Sequence[str], what: str) -> list[Any]:
    """One setting for all layers, or one for each; nothing if none was given."""
    if given is None:
        return []
    if len(given) not in (1, len(names)):
        raise OptionError(
            f"{what} takes one value, or one for each of the {len(names)} layers "
            f"({', '.join(names)}), not {len(given)}"
        )
    return list(given) * (len(names) if len(given) == 1 else 1)


@dataclass(frozen=True)
class FusedHead:
    """Everything after the backbone, and what it was calibrated on.

    Attributes:
        layouts: of each layer that is read.
        subspaces: of each layer.
        overall: layout and subspace of the overall residual.
        fusion: how they become one score and one map.
        energies: of each layer, float32 (r, P), what the residuals of the good images would be
            if each had been left out.
        overall_energies: float32 (r, P), those of the overall residual, likewise.
        folds: the rows of each fold.
        statistics: by the name of a part, what it was fitted to; of image-wide parts alone if the
            others were not wanted.
        coordinates: by the name of an image-wide part, see `fre.subspace.image_wide.ImageWide`.
    """

    layouts: tuple[FeatureLayout, ...]
    subspaces: tuple[LayerSubspace, ...]
    overall: tuple[FeatureLayout, Subspace]
    fusion: Fusion
    energies: tuple[FloatArray, ...]
    overall_energies: FloatArray
    folds: list[NDArray[np.intp]]
    statistics: Mapping[str, PartStatistics] = field(default_factory=dict)
    coordinates: Mapping[str, FloatArray | None] = field(default_factory=dict)

    @property
    def mean_energy(self) -> NDArray[np.float64]:
        """Float64 (r,), the mean residual of each image, if it had been left out."""
        return _mean_energy(self.overall_energies, self.overall[0])

    @property
    def scores(self) -> NDArray[np.float64]:
        """Float64 (r,), what each image would score if it had been left out."""
        return self.fusion.left_out_scores(self.energies, self.mean_energy, self.folds)

    def maps(self) -> Iterator[FloatArray]:
        """Float32 (H, W) each, the maps that they would have."""
        return self.fusion.left_out_maps(self.energies, self.folds)

    def learnt(
        self,
        extractor: FeatureExtractor,
        plan: FusedPlan,
        features: Features,
        folds: Sequence[NDArray[np.intp]],
    ) -> Learnt:
        """What a model of this head can learn more from.

        Args:
            extractor: of the layers.
            plan: what is read.
            features: that the head was fitted to.
            folds: the images of each fold.
        """
        scopes = [part.scope for part in plan.layers]
        found = [
            *zip(self.layouts, scopes, self.energies, strict=True),
            (self.overall[0], "image", self.overall_energies),
        ]
        parts = {}
        for layout, scope, energies in found:
            part = Part(layout, scope, places(layout, extractor.inspected))
            if part.name not in parts:
                parts[part.name] = LearntPart.trained(
                    part,
                    self.statistics[part.name],
                    energies,
                    self.coordinates.get(part.name),
                )
        return Learnt.of(list(parts.values()), features, folds)


@dataclass(frozen=True)
class FusedDetector:
    """A fitted default detector, and what good images score.

    Attributes:
        heads: one; or one for each tile of an image that shows something inspected.
        scores: float64 (n,), what each image would score if it had been left out.
        map_maxima: float64 (n,), the largest value of the map that it would have.
        seen_scores: float64 (r,), what some inputs score by the scales of all images.
    """

    heads: tuple[FusedHead, ...]
    scores: NDArray[np.float64]
    map_maxima: NDArray[np.float64]
    seen_scores: NDArray[np.float64]

    @property
    def map_range(self) -> tuple[float, float]:
        """The scale of heat maps, by the largest value that is typical of a good image's map."""
        typical = max(float(np.median(self.map_maxima)), 1.0)
        return HEAT_RANGE[0] * typical, HEAT_RANGE[1] * typical


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


def detector_of(
    heads: Sequence[FusedHead], features: Features, extractor: FeatureExtractor
) -> FusedDetector:
    """The calibrated detector of some heads.

    Args:
        heads: one, or one for each tile.
        features: whose rows the heads were calibrated on.
        extractor: that made them.
    """
    # In the order of the rows: the tiles of the first image, then those of the second.
    scores = np.ravel(np.stack([head.scores for head in heads], axis=1))
    maps = chain.from_iterable(zip(*(head.maps() for head in heads), strict=True))
    maxima = features.map_maxima(maps, extractor.geometry, extractor.roi)
    limited = tuple(
        replace(
            head,
            fusion=replace(head.fusion, limit=Limit.of(head.mean_energy, scores, features.n)),
        )
        for head in heads
    )
    own = np.ravel(np.stack([_seen_scores(head) for head in limited], axis=1))
    return FusedDetector(limited, features.largest(scores), maxima, own)


def _seen_scores(head: FusedHead) -> NDArray[np.float64]:
    """Scores of some of the rows by the final scales: those of the model, or a little larger."""
    rows = np.unique(np.linspace(0, len(head.overall_energies) - 1, SEEN_ROWS).astype(np.intp))
    return head.fusion.scores([values[rows] for values in head.energies], head.mean_energy[rows])


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


def fuse(
    extractor: FeatureExtractor,
    plan: FusedPlan,
    parts: Sequence[tuple[FeatureLayout, LayerSubspace, FloatArray]],
    overall: tuple[FeatureLayout, Subspace, FloatArray],
    folds: list[NDArray[np.intp]],
    reading: Reading,
) -> FusedHead:
    """Make one score and one map of the residuals of several layers.

    Args:
        extractor: of the layers.
        plan: what is read.
        parts: for each layer of the plan its layout, the subspace of all images, and float32
            (r, P), the residuals of good images as if each had been left out.
        overall: the same of the overall residual.
        folds: the rows of each fold.
        reading: how residuals become a score and a map.

    Raises:
        OptionError: too small a region of interest.
    """
    inspected = extractor.inspected
    energies = [_inspected(values, layout, inspected) for layout, _, values in parts]
    overall_layout, overall_subspace, overall_maps = overall
    fusion = Fusion.fit(
        energies,
        _mean_energy(overall_maps, overall_layout),
        grids=[layout.pooled for layout, _, _ in parts],
        in_score=[part.in_score for part in plan.layers],
        in_map=[part.in_map for part in plan.layers],
        size=extractor.geometry.size,
        reading=reading,
        inspected=inspected,
    )
    return FusedHead(
        tuple(layout for layout, _, _ in parts),
        tuple(subspace for _, subspace, _ in parts),
        (overall_layout, overall_subspace),
        fusion,
        tuple(energies),
        overall_maps,
        folds,
    )


def _mean_energy(energies: FloatArray, layout: FeatureLayout) -> NDArray[np.float64]:
    return np.asarray(energies.sum(axis=1, dtype=np.float64) / layout.dimension)


def places(layout: FeatureLayout, inspected: MaskArray | None) -> MaskArray | None:
    """Bool (P,), the locations of a layer that are looked at; ``None`` is all."""
    return None if inspected is None else np.ravel(cells(inspected, layout.pooled))


def _inspected(
    energies: FloatArray, layout: FeatureLayout, inspected: MaskArray | None
) -> FloatArray:
    """The residuals as the graph has them: 0 where nothing is looked at."""
    looked_at = places(layout, inspected)
    return energies if looked_at is None else energies * looked_at


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
    energies = subspace.energies(X)
    for fold, held in zip(folds, statistics, strict=True):
        rest = [part for part in statistics if part is not held]
        others = rest[0].merge(*rest[1:]).fit(variance=variance, prior=prior)
        held_out = others.energies(X[fold])
        energies[fold] = extrapolate(held_out, energies[fold], fitted_on=others.n, of=len(X))
    return subspace, energies, total


def as_stored(subspace: Subspace) -> Subspace:
    """The subspace as the model file has it, so that computing with it is what the graph does."""
    return replace(subspace, basis=subspace.basis.astype(np.float16).astype(np.float64))
