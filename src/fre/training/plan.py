"""The plan of a detector: which layers it reads, and how their subspaces are fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fre.backbones import Backbone
from fre.errors import OptionError
from fre.features.layout import FeatureLayout
from fre.images.roi import cells
from fre.scoring.fusion import Reading
from fre.subspaces.autoencoder import AutoencoderOptions
from fre.subspaces.protocols import FitOptions, Scope
from fre.training.config import Configuration, resolve
from fre.training.parts import Part, part_name
from fre.types import MaskArray

RANK_LIMIT = 256
"""Largest rank of the default preset's image-wide subspaces. With half of it, large defects go
unseen (docs/ablation.md)."""

CAPACITY = 1024
"""Directions that the statistics of the reference preset's subspace keep."""

OVERALL_POOL = 2
"""Edge of the pooling windows of the overall residual: the reference preset's."""

MIDDLE = (0.55, 0.7)
"""First and last of the middle layers of a vision transformer, as shares of its depth."""


@dataclass(frozen=True)
class LayerPlan:
    """How a detector reads one layer.

    Attributes:
        layer: name of the layer.
        scope: scope of its subspaces.
        pool: edge of the pooling windows, in locations of the feature map.
        in_score: whether the layer counts for the score.
        in_map: whether the layer counts for the map.
    """

    layer: str
    scope: Scope
    pool: int
    in_score: bool
    in_map: bool


@dataclass(frozen=True)
class DetectorPlan:
    """The layers of a detector, and how its parts are fitted.

    Attributes:
        layers: that it reads, fine to coarse.
        overall: name of the layer whose image-wide residual is the overall one. ``None``: the
            score is the sum of the squared residuals of the one layer (the reference preset).
        variance: share of the variance that each subspace keeps, in (0, 1].
        rank: fixed rank of the reference's subspace; limit of the default's image-wide ones.
        reading: how squared residuals become a score and a map; not for a sum.
        autoencoder: trains the one part as an autoencoder instead of a PCA.
    """

    layers: tuple[LayerPlan, ...]
    overall: str | None
    variance: float = 0.97
    rank: int | None = None
    reading: Reading = field(default_factory=Reading)
    autoencoder: AutoencoderOptions | None = None

    @property
    def fit(self) -> FitOptions:
        """Options of the fit of each part."""
        if self.overall is None:
            return FitOptions(self.variance, self.rank)
        at_most = self.rank or RANK_LIMIT
        return FitOptions(self.variance, at_most=at_most, prior=self.reading.prior)

    @property
    def capacity(self) -> int:
        """Directions that image-wide statistics keep, of which subspaces use fewer."""
        if self.overall is None:
            return max(CAPACITY, self.rank or 0)
        return 2 * (self.rank or RANK_LIMIT)

    @property
    def names(self) -> list[str]:
        """The layers to extract, each once."""
        overall = [] if self.overall is None else [self.overall]
        return list(dict.fromkeys([*(layer.layer for layer in self.layers), *overall]))

    @property
    def pool(self) -> int:
        """Pooling windows of the extracted features: 1 where parts are pooled afterwards."""
        return self.layers[0].pool if self.overall is None else 1

    @property
    def half(self) -> bool:
        """Whether the graph stores subspaces in half precision."""
        return self.overall is not None

    @property
    def part_names(self) -> list[str]:
        """The name of each layer's part, and last the name of the overall residual's part.

        One part may serve a layer and the overall residual.
        """
        found = [part_name(one.layer, one.scope, one.pool) for one in self.layers]
        if self.overall is not None:
            found.append(part_name(self.overall, "image", OVERALL_POOL))
        return found

    def parts(
        self, layouts: Sequence[FeatureLayout], inspected: MaskArray | None
    ) -> tuple[Part, ...]:
        """Return the parts to fit, each once.

        Args:
            layouts: layouts of the extracted layers.
            inspected: bool (H, W), inspected pixels of the input; ``None`` is all.
        """
        by_layer = {layout.layer: layout for layout in layouts}
        wanted = [(one.layer, one.scope, one.pool) for one in self.layers]
        if self.overall is not None:
            wanted.append((self.overall, "image", OVERALL_POOL))
        return tuple(
            Part(layout, scope, inspected_locations(layout, inspected))
            for name, scope, pool in dict.fromkeys(wanted)
            for layout in [replace(by_layer[name], pool=pool)]
        )


def plan_detector(
    backbone: Backbone,
    layers: Sequence[str] | None = None,
    settings: Configuration | None = None,
    autoencoder: AutoencoderOptions | None = None,
) -> DetectorPlan:
    """Return the plan of a preset.

    The reference preset reads one layer, the backbone's reference layer, by one image-wide part.

    The default preset reads the layers of stride 8, 16 and 32; the middle one is the backbone's
    reference layer. Where that is a ResNet's ``layer3``, or there is no layer of stride 32, the
    reference layer pooled by 2 takes the place of the coarse one. Where all layers have one stride,
    as in vision transformers, it reads the mean of some middle layers, with one subspace for all
    positions (`middle_layers`). The last of several layers has a subspace per image, all others one
    per position. Of three or more, the first counts for the map alone, and the last for the score
    alone: a location of stride 32 smears what finer layers see (docs/ablation.md).

    Args:
        backbone: the frozen network.
        layers: names of layers to read instead, fine to coarse, or ``None``.
        settings: settings of the training; ``None``: the default preset's.
        autoencoder: how the reference's autoencoder is trained, if it has one.

    Raises:
        BackboneError: an unknown layer.
        OptionError: no layer, or settings that do not fit the layers.
    """
    if settings is None:
        settings = resolve(preset="default", backbone=None, default_backbone=backbone.name)
    if settings.preset == "reference":
        plan = reference_plan(_one_layer(layers, backbone), (settings.pool or (OVERALL_POOL,))[0])
        return replace(
            plan, variance=settings.variance, rank=settings.rank, autoencoder=autoencoder
        )
    middle = middle_layers(backbone) if layers is None else None
    names = _names(layers, backbone) if middle is None else [middle]
    return DetectorPlan(
        _layer_plans(names, settings, alone="position" if middle is None else "patch"),
        names[max(0, len(names) - 2)],
        settings.variance,
        settings.rank,
        settings.reading,
    )


def _names(layers: Sequence[str] | None, backbone: Backbone) -> list[str]:
    if layers is None:
        return _default_layers(backbone)
    if isinstance(layers, str) or not layers:
        raise OptionError(f"layers must be a list of names, not {layers!r}")
    return [backbone.layer(name).name for name in layers]


def _layer_plans(
    names: Sequence[str], settings: Configuration, alone: Scope
) -> tuple[LayerPlan, ...]:
    """Plan each layer as the settings say, or else by its place; ``alone``: scope of a lone one."""
    count = len(names)
    repeated = [name in names[:index] for index, name in enumerate(names)]
    pools = _for_each(settings.pool, names, "pool") or [2 if again else 1 for again in repeated]
    by_place = [alone] if count == 1 else ["position"] * (count - 1) + ["image"]
    scopes = _for_each(settings.scope, names, "scope") or by_place
    in_score = _roles(settings.score_layers, names, "score") or [
        count < 3 or index > 0 for index in range(count)
    ]
    in_map = _roles(settings.map_layers, names, "map") or [
        count < 3 or index < count - 1 for index in range(count)
    ]
    return tuple(map(LayerPlan, names, scopes, pools, in_score, in_map))


def reference_plan(layer: str, pool: int) -> DetectorPlan:
    """Return the reference preset's plan: one image-wide part, whose residuals are summed."""
    return DetectorPlan((LayerPlan(layer, "image", pool, in_score=True, in_map=True),), None)


def _one_layer(layers: Sequence[str] | None, backbone: Backbone) -> str:
    names = [backbone.reference_layer] if layers is None else list(layers)
    if isinstance(layers, str) or len(names) != 1:
        raise OptionError(f"layers must be a list of one layer, not {layers!r}")
    return backbone.layer(names[0]).name


def middle_layers(backbone: Backbone) -> str | None:
    """Return the mean of the middle layers of a network of one stride; ``None`` for others.

    The tokens of a vision transformer see the whole image, so that all positions share a subspace,
    and its middle layers tell textures and parts best: layers 22 to 28 of the 40 of DINOv2-G in
    "SubspaceAD" (2026), the same share of the depth here. Where so few layers are listed that none
    is in between, it is the reference layer.
    """
    count = len(backbone.layers)
    if len({layer.stride for layer in backbone.layers}) > 1 or count == 1:
        return None
    first, last = (round(share * count) for share in MIDDLE)
    chosen = [layer.name for layer in backbone.layers[first - 1 : last]]
    return "+".join(chosen) or backbone.reference_layer


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


def inspected_locations(layout: FeatureLayout, inspected: MaskArray | None) -> MaskArray | None:
    """Return the inspected locations of a layer, bool (P,); ``None`` is all."""
    return None if inspected is None else np.ravel(cells(inspected, layout.pooled))
