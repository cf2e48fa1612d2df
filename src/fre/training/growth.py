"""Grow a fitted detector: by the features of new images, or by other detectors.

Statistics add up, but held-out residuals belong to a fit of n images. With N images they are
smaller, and the features of the old images are not kept. Three cases:

- While there are no more images than image-wide statistics have room for, their features follow
  from the statistics, and the part is fitted and cross-fitted again, as in training.
- Else two points of the learning curve are known for the old images (see
  `fre.subspaces.cross_fit`): the residual under a subspace that has not seen them, which is the
  held-out residual, or the mean residual under the N - n other images, whichever is larger; and
  the mean residual under the subspace of all N. The held-out residual with N images lies on the
  line between the two.
- New images are held out of the fit that has them: from the subspace before. If their residuals
  under an image-wide subspace fall more slowly than by that line, as while its rank still grows,
  the held-out residuals of the old images fall as slowly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fre.features.layout import FeatureLayout
from fre.features.table import Features
from fre.inference.training_images import TrainingImages
from fre.subspaces.cross_fit import extrapolate, merged
from fre.subspaces.image import fit_image_wide
from fre.subspaces.protocols import Statistics, Subspace
from fre.training.fitted import FittedDetector, FittedPart
from fre.training.parts import Part
from fre.training.plan import DetectorPlan
from fre.types import FloatArray


def with_features(
    fitted: FittedDetector,
    features: Features,
    layouts: Sequence[FeatureLayout],
    plan: DetectorPlan,
) -> FittedDetector:
    """Return a detector of its own images and of new ones.

    Args:
        fitted: the detector.
        features: features of the new images, without augmented copies.
        layouts: layouts of the features.
        plan: plan of the detector.
    """
    added = _without_residuals(fitted, features)
    folds = fitted.beside(added, ()).folds_of_rows
    blocks = [one.part.features(features.X, layouts) for one in fitted.parts]
    parts = [
        _with_rows(one, X, plan)
        if (known := one.features(len(X))) is None
        else _fitted_again(one.part, [known, X], folds, plan)
        for one, X in zip(fitted.parts, blocks, strict=True)
    ]
    return fitted.beside(added, parts).limited()


def merge_detectors(fitted: Sequence[FittedDetector], plan: DetectorPlan) -> FittedDetector:
    """Return one detector of the images of all.

    Args:
        fitted: two detectors or more, of different images.
        plan: plan of all of them.
    """
    joined = fitted[0]
    for other in fitted[1:]:
        joined = joined.beside(other, ())
    folds = joined.folds_of_rows
    total = sum(one.parts[0].known.n for one in fitted)
    by_part = [*zip(*(one.parts for one in fitted), strict=True)]
    parts = []
    for of_each in by_part:
        known = [X for one in of_each if (X := one.features(total - one.known.n)) is not None]
        if len(known) == len(of_each):
            parts.append(_fitted_again(of_each[0].part, known, folds, plan))
        else:
            parts.append(_merged_part(of_each, plan))
    return replace(joined, parts=tuple(parts)).limited()


def _without_residuals(fitted: FittedDetector, features: Features) -> FittedDetector:
    """New images, dealt into the folds of the old ones."""
    folds = max(2, len(np.unique(fitted.fold)))
    return FittedDetector.of(
        (),
        features.index,
        np.arange(features.n) % folds,
        TrainingImages.of(features.names or ("",) * features.n, features.sha256),
    )


def _fitted_again(
    part: Part,
    features: Sequence[FloatArray],
    folds: list[NDArray[np.intp]],
    plan: DetectorPlan,
) -> FittedPart:
    """Fit an image-wide part to features that are all known, as in training."""
    X = np.concatenate(features)
    fit = fit_image_wide(X, part.layout.channels, folds, plan.fit, plan.capacity)
    return FittedPart.of(part, fit, half=plan.half)


def _fit(statistics: Statistics, plan: DetectorPlan) -> Subspace:
    """Fit a subspace as the graph has it, so that the graph gives the same residuals."""
    subspace = statistics.fit(plan.fit)
    return subspace.stored() if plan.half else subspace


def _with_rows(old: FittedPart, X: FloatArray, plan: DetectorPlan) -> FittedPart:
    """Add new features to a part whose old features are not known."""
    statistics = old.known.update(X)
    after = _fit(statistics, plan)
    held_out, own = (
        subspace.squared_residuals(X, old.part.layout.channels)
        for subspace in (old.subspace, after)
    )
    new = extrapolate(held_out, own, fitted_on=old.subspace.n, of=after.n)
    shares = _shares(old, after, after.n)
    if old.part.scope == "image":
        shown = float(new.sum()) / max(float(held_out.sum()), 1e-12)
        shares = np.maximum(shares, min(shown, 1.0))
    residuals = np.concatenate([_scaled(old.residuals, shares), new])
    return FittedPart(old.part, after, statistics, residuals)


def _merged_part(of_each: Sequence[FittedPart], plan: DetectorPlan) -> FittedPart:
    """Merge a part of several detectors, where the features of their images are not known."""
    total = merged([one.known for one in of_each])
    subspace = _fit(total, plan)
    residuals = []
    for one in of_each:
        others: Subspace | None = None
        if total.n > 2 * one.known.n:
            others = _fit(merged([other.known for other in of_each if other is not one]), plan)
        shares = _shares(one, subspace, total.n, others)
        residuals.append(_scaled(one.residuals, shares))
    return FittedPart(of_each[0].part, subspace, total, np.concatenate(residuals))


def _shares(
    old: FittedPart, subspace: Subspace, n: int, others: Subspace | None = None
) -> NDArray[np.float64]:
    """Return what held-out residuals shrink by, on average, in a fit of more images.

    Args:
        old: part of some images.
        subspace: subspace fitted to these images and others.
        n: rows that it was fitted to.
        others: subspace of the other images alone; ``None``, where they are fewer than these.

    Returns:
        float64 (P,), or (1,) for a subspace of all locations.
    """
    statistics, channels = old.known, old.part.layout.channels
    before = statistics.n
    mean = statistics.mean_of(old.residuals)
    held, fitted_on = mean, before
    if others is not None and n > 2 * before:
        held, fitted_on = statistics.mean_squared_residuals(others, channels), n - before
    own = statistics.mean_squared_residuals(subspace, channels)
    share = (n - fitted_on) / (n + fitted_on)
    wanted = (1 - share) * held + share * own
    shares = np.divide(wanted, mean, out=np.ones_like(own), where=mean > 0)
    # Images of another kind make for a large residual; they don't make it larger than it was.
    most = np.divide(own, mean, out=np.ones_like(own), where=mean > 0)
    return np.asarray(np.minimum(shares, np.maximum(most, 1.0)))


def _scaled(residuals: FloatArray, shares: NDArray[np.float64]) -> FloatArray:
    """Return residuals times a factor for each location.

    Args:
        residuals: float32 (r, P).
        shares: float64 (P,), or (1,).
    """
    return np.asarray(residuals * shares, np.float32)
