"""Merge models that were trained apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from operator import attrgetter
from typing import Any

from fre.errors import OptionError
from fre.features.layout import combined_digest
from fre.inference.document import MergedModel, Step, now, to_json
from fre.inference.predictor import P, Predictor
from fre.inference.training_images import TrainingImages
from fre.training.growth import merge_detectors
from fre.training.update import Rebuilt, check_not_frozen, some_names


def merge_models(*models: P, threads: int = 0) -> P:
    """One model of models that were trained apart, on different good images.

    It has learnt what one training on all images would have: docs/updates.md says how close it
    comes. It decides by the false-alarm rate of the first.

    Args:
        models: two or more, of the same backbone, layers, pooling, scopes, geometry, region of
            interest and reading.
        threads: number of threads of the network; 0 takes all cores.

    Raises:
        FrozenModelError: a model lacks what a merge needs.
        OptionError: fewer than two models, models of the same images, or models that differ; the
            message says in what.
    """
    if len(models) < 2:
        raise OptionError(f"a merge needs 2 models or more, found {len(models)}")
    for model in models:
        check_not_frozen(model)
    for one, other in combinations(models, 2):
        if found := _differences(one, other):
            raise OptionError(f"these models can't be merged, they differ in {'; '.join(found)}")
    each = [Rebuilt.of(model, threads) for model in models]
    _check_apart([rebuilt.fitted.images for rebuilt in each])
    first = each[0]
    # A model of 8-bit images alone reads 16-bit files as the others do, once they are one.
    ranges = [model.geometry.bits for model in models if model.geometry.bits is not None]
    ends = [model.geometry.training_sizes for model in models]
    known = [size for pair in ends if pair is not None for size in pair]
    geometry = first.extractor.geometry.with_training_sizes(known)
    geometry = replace(geometry, bits=ranges[0] if ranges else None)
    if None in ends:
        geometry = replace(geometry, training_sizes=None)
    first.extractor.geometry = geometry
    fitted = merge_detectors([rebuilt.fitted for rebuilt in each], first.plan)
    origins = [model.document.provenance for model in models]
    merged = [
        MergedModel(
            model.sha256, origin.n_images, origin.images_sha256, origin.created, origin.history
        )
        for model, origin in zip(models, origins, strict=True)
    ]
    origin = replace(
        origins[0],
        n_images=sum(origin.n_images for origin in origins),
        images_sha256=combined_digest([origin.images_sha256 for origin in origins]),
        history=[Step(now(), merged=merged)],
    )
    limits_of = [model.appearance for model in models if model.appearance is not None]
    # Without those of one model its images might be outside the ranges of the others.
    limits = limits_of[0].merge(*limits_of[1:]) if len(limits_of) == len(models) else None
    return first.model(fitted, models[0], origin, limits)


def _check_apart(images: Sequence[TrainingImages]) -> None:
    """Refuse models that have learnt some of the same images.

    Raises:
        OptionError: they have; the message names the images.
    """
    known, *others = images
    for place, each in enumerate(others, start=1):
        if again := known.shared(each):
            raise OptionError(
                f"model {place + 1} has learnt {len(again)} of the same images as those before "
                f"it: {some_names(again)}; to count them twice would make the threshold too low: "
                "train the models on different images, or update one with the images of the other "
                "that it lacks"
            )
        known = known.beside(each)


COMPARED = {
    "preset": "preset",
    "backbone weights": "backbone.weights_sha256",
    "layers": "backbone.layers",
    "size": "geometry.size",
    "fit": "geometry.fit",
    "tiles": "geometry.tiling",
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
"""What models must have in common to be merged: attributes of their documents."""


def _differences(first: Predictor, other: Predictor) -> list[str]:
    found = []
    bits = [model.geometry.bits for model in (first, other)]
    if None not in bits and bits[0] != bits[1]:
        found.append(f"range of 16-bit values ({bits[0]} and {bits[1]} bits)")
    for name, path in COMPARED.items():
        values = [to_json(attrgetter(path)(model.document)) for model in (first, other)]
        if values[0] == values[1]:
            continue
        shown = [_short(value) for value in values]
        found.append(name if None in shown else f"{name} ({shown[0]} and {shown[1]})")
        if name == "preset":
            break  # of which all else follows
    return found


def _short(value: Any) -> str | None:
    """A value in a few words; ``None`` if it takes more."""
    if isinstance(value, (bool, int, float)):
        return str(value)
    if isinstance(value, str):
        return value[:12]
    if isinstance(value, list) and all(isinstance(part, (int, str, float)) for part in value):
        return " x ".join(map(str, value)) if len(value) == 2 else ", ".join(map(str, value))
    return None
