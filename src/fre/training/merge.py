"""Merge models that were trained apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError
from fre.features.layout import combined_digest
from fre.inference.document import now
from fre.inference.predictor import P, Predictor
from fre.scoring.graph import LayerSubspace
from fre.training.fitted import FittedPart, image_shrinkage
from fre.training.parts import PartStatistics
from fre.training.training_images import TrainingImages
from fre.training.update import (
    Rebuilt,
    _batches,
    _before_and_after,
    _check_not_frozen,
    _fitted_again,
    _some,
)


def merge_models(*models: P, threads: int = 0) -> P:
    """One model of models that were trained apart, on different good images.

    It has learnt what one training on all images would have: docs/updates.md says how close it
    comes. It decides by the false-alarm rate of the first.

    Args:
        models: two or more, of the same backbone, layers, pooling, scopes, geometry, region of
            interest and reading.
        threads: of the network; 0 takes all cores.

    Raises:
        FrozenModelError: a model lacks what a merge needs.
        OptionError: fewer than two models, models of the same images, or models that differ; the
            message says in what.
    """
    if len(models) < 2:
        raise OptionError(f"a merge needs 2 models or more, found {len(models)}")
    for model in models:
        _check_not_frozen(model)
    for first, other in combinations(models, 2):
        if found := _differences(first, other):
            raise OptionError(f"these models can't be merged, they differ in {'; '.join(found)}")
    batches = [_batches(model.metadata["provenance"]) for model in models]
    if len(set().union(*batches)) < sum(map(len, batches)):
        raise OptionError(
            "these models have learnt the same images; to count them twice would make the "
            "threshold too low"
        )
    workshops = [Rebuilt.of(model, threads) for model in models]
    workshop = workshops[0]
    _check_apart([shop.learnt.images for shop in workshops])
    # A model of 8-bit images alone reads 16-bit files as the others do, once they are one.
    ranges = [model.geometry.bits for model in models if model.geometry.bits is not None]
    geometry = workshop.extractor.geometry
    workshop.extractor.geometry = replace(geometry, bits=ranges[0] if ranges else None)
    learnt = workshop.learnt
    for joining in workshops[1:]:
        learnt = learnt.beside(joining.learnt, ())
    folds = learnt.folds_of_rows
    again: dict[int, tuple[FittedPart, LayerSubspace]] = {}
    total = sum(shop.learnt.parts[0].statistics.n for shop in workshops)
    for index in range(len(workshop.parts)):
        of_each = [shop.learnt.parts[index] for shop in workshops]
        known = [
            features
            for part in of_each
            if (features := part.features(total - part.statistics.n)) is not None
        ]
        if len(known) == len(of_each):
            again[index] = _fitted_again(workshop, of_each[0].part, known, folds)
    first_rows = np.cumsum([0, *(len(shop.learnt.image) for shop in workshops)])
    akin = [
        image_shrinkage(
            [
                _before_and_after(shop.learnt, index, part, start)
                for index, (part, _) in again.items()
            ]
        )
        for shop, start in zip(workshops, first_rows, strict=False)
    ]
    made = [
        again.get(index)
        or _merged_part(workshop, [shop.learnt.parts[index] for shop in workshops], akin)
        for index in range(len(workshop.parts))
    ]
    subspaces = [subspace for _, subspace in made]
    learnt = replace(learnt, parts=tuple(part for part, _ in made))
    origins = [model.metadata["provenance"] for model in models]
    kept = ("n_images", "images_sha256", "created", "history")
    origin = {
        **origins[0],
        "n_images": sum(origin["n_images"] for origin in origins),
        "images_sha256": combined_digest([origin["images_sha256"] for origin in origins]),
        "history": [
            {
                "date": now(),
                "merged": [
                    {"sha256": model.sha256} | {key: origin[key] for key in kept if key in origin}
                    for model, origin in zip(models, origins, strict=True)
                ],
            }
        ],
    }
    limits_of = [model.appearance for model in models if model.appearance is not None]
    # Without those of one model its images might be outside the ranges of the others.
    limits = limits_of[0].merge(*limits_of[1:]) if len(limits_of) == len(models) else None
    return workshop.assemble(learnt.limited(), subspaces, models[0], origin, limits)


def _check_apart(images: Sequence[TrainingImages]) -> None:
    """Refuse models that have learnt some of the same images.

    Raises:
        OptionError: they have; the message names the images.
    """
    known = TrainingImages()
    for place, each in enumerate(images):
        if again := known.shared(each):
            raise OptionError(
                f"model {place + 1} has learnt {len(again)} of the same images as those before "
                f"it: {_some(again)}; to count them twice would make the threshold too low: train "
                "the models on different images, or update one with the images of the other that "
                "it lacks"
            )
        known = known.beside(each)


def _merged_part(
    workshop: Rebuilt,
    of_each: Sequence[FittedPart],
    akin: Sequence[NDArray[np.float64] | None],
) -> tuple[FittedPart, LayerSubspace]:
    """One part of several, where the features of their images are gone."""
    merged = _merged([part.statistics for part in of_each])
    subspace = workshop.fit(merged)
    energies = []
    for part, factors in zip(of_each, akin, strict=True):
        apart: LayerSubspace | None = None
        if merged.n > 2 * part.statistics.n:
            rest = [one.statistics for one in of_each if one is not part]
            apart = workshop.fit(_merged(rest))
        energies.append(part.scaled(part.shares(subspace, merged.n, apart), factors))
    return FittedPart(of_each[0].part, merged, np.concatenate(energies)), subspace


def _merged(statistics: Sequence[PartStatistics]) -> PartStatistics:
    first: Any = statistics[0]
    merged: PartStatistics = first.merge(*statistics[1:]) if len(statistics) > 1 else first
    return merged


COMPARED = {
    "preset": "preset",
    "backbone weights": "backbone.weights_sha256",
    "layers": "backbone.layers",
    "size": "preprocessing.size",
    "fit": "preprocessing.fit",
    "tiles": "preprocessing.tiling",
    "mean of pixels": "preprocessing.mean",
    "deviation of pixels": "preprocessing.std",
    "region of interest": "roi",
    "pooling": "learning.pool",
    "scopes, pooling and score layers": "learning.layers",
    "layer of the overall residual": "learning.overall",
    "variance": "learning.variance",
    "rank": "learning.rank",
    "reading": "reading",
}
"""What models must have in common to be merged, and where it is in their metadata."""


def _differences(first: Predictor, other: Predictor) -> list[str]:
    found = []
    bits = [model.geometry.bits for model in (first, other)]
    if None not in bits and bits[0] != bits[1]:
        found.append(f"range of 16-bit values ({bits[0]} and {bits[1]} bits)")
    for name, path in COMPARED.items():
        values = [_at(model.metadata, path) for model in (first, other)]
        if values[0] == values[1]:
            continue
        shown = [_short(value) for value in values]
        found.append(name if None in shown else f"{name} ({shown[0]} and {shown[1]})")
        if name == "preset":
            break  # of which all else follows
    return found


def _at(metadata: dict[str, Any], path: str) -> Any:
    value: Any = metadata
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _short(value: Any) -> str | None:
    """A value in a few words; ``None`` if it takes more."""
    if isinstance(value, (bool, int, float)):
        return str(value)
    if isinstance(value, str):
        return value[:12]
    if isinstance(value, list) and all(isinstance(part, (int, str, float)) for part in value):
        return " x ".join(map(str, value)) if len(value) == 2 else ", ".join(map(str, value))
    return None
