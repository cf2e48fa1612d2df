"""What a detector reads, and how it is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fre.backbones import Backbone
from fre.errors import OptionError
from fre.features.extractor import FeatureExtractor
from fre.features.layout import FeatureLayout
from fre.images.augmentation import Augmentation
from fre.images.roi import cells
from fre.training.config import Configuration, resolve
from fre.training.parts import Part, Scope
from fre.types import MaskArray

RANK_LIMIT = 256
"""Of image-wide subspaces. With half of it large defects go unseen (docs/ablation.md)."""


OVERALL_POOL = 2
"""Edge of the pooling windows of the overall residual: the reference preset's."""


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


def places(layout: FeatureLayout, inspected: MaskArray | None) -> MaskArray | None:
    """Bool (P,), the locations of a layer that are looked at; ``None`` is all."""
    return None if inspected is None else np.ravel(cells(inspected, layout.pooled))


CHECKPOINT_SECONDS = 60.0
"""A checkpoint is not written more often than this."""


CAPACITY = 1024
"""Directions that are kept of the reference's subspace while it grows."""


@dataclass(frozen=True)
class StreamOptions:
    """How images become statistics, and those subspaces.

    Attributes:
        variance: share of the energy that a subspace keeps.
        rank: a fixed number of dimensions of an image-wide subspace instead.
        at_most: their limit.
        prior: weight of the neighbourhood of a position, in images.
        capacity: directions that are kept of an image-wide subspace while it grows.
        half: whether bases will be stored in half precision.
        augmentation: makes further rows of each image; ``None`` makes none.
        skip_unreadable: leave out images that can't be read, instead of stopping.
        checkpoint: the file that lets a stopped training go on; ``None`` writes none.
        checkpoint_seconds: it is not written more often than this.
    """

    variance: float
    rank: int | None
    at_most: int | None
    prior: float
    capacity: int
    half: bool
    augmentation: Augmentation | None = None
    skip_unreadable: bool = False
    checkpoint: Path | None = None
    checkpoint_seconds: float = CHECKPOINT_SECONDS


def stream_plan(
    extractor: FeatureExtractor,
    plan: FusedPlan | None,
    settings: Configuration,
    *,
    augmentation: Augmentation | None = None,
    skip_unreadable: bool = False,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> tuple[list[Part], StreamOptions]:
    """What a training has to fit, and how.

    Args:
        extractor: of the layers.
        plan: what the default preset reads; ``None`` for the reference.
        settings: of the training.
        augmentation: makes further rows of each image; ``None`` makes none.
        skip_unreadable: leave out images that can't be read, instead of stopping.
        checkpoint: the file that lets a stopped training go on; ``None`` writes none.
        checkpoint_seconds: it is not written more often than this.
    """
    if plan is None:
        parts = [Part(extractor.layout, "image")]
        at_most, half = None, False
    else:
        plain = {layout.layer: layout for layout in extractor.layouts}
        wanted = [(part.layer, part.scope, part.pool) for part in plan.layers]
        wanted.append((plan.overall, "image", OVERALL_POOL))
        parts = [
            Part(layout, scope, places(layout, extractor.inspected))
            for name, scope, pool in dict.fromkeys(wanted)
            for layout in [replace(plain[name], pool=pool)]
        ]
        at_most, half = settings.rank or RANK_LIMIT, True
    options = StreamOptions(
        variance=settings.variance,
        rank=settings.rank if plan is None else None,
        at_most=at_most,
        prior=settings.reading.prior,
        capacity=capacity_of(settings),
        half=half,
        augmentation=augmentation,
        skip_unreadable=skip_unreadable,
        checkpoint=checkpoint,
        checkpoint_seconds=checkpoint_seconds,
    )
    return parts, options


def capacity_of(settings: Configuration) -> int:
    """Directions that are kept of an image-wide subspace, of which fewer are used."""
    if settings.preset == "reference":
        return max(CAPACITY, settings.rank or 0)
    return 2 * (settings.rank or RANK_LIMIT)
