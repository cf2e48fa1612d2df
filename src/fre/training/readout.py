"""Score and map of fitted parts: the calibrated detector."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from fre.features.extractor import FeatureExtractor
from fre.features.layout import FeatureLayout
from fre.features.table import Features
from fre.scoring.fusion import Fusion, Limit, Reading
from fre.scoring.graph import LayerSubspace
from fre.subspaces.subspace import ImageSubspace
from fre.training.fitted import FittedDetector, FittedPart
from fre.training.parts import Part, PartStatistics
from fre.training.plan import FusedPlan, places
from fre.types import FloatArray, MaskArray

SEEN_ROWS = 128
"""Inputs that are scored by the final scales, to see whether the model calls them good."""


HEAT_RANGE = (0.75, 3.0)
"""Where heat maps begin and are brightest, as multiples of a good image's largest value."""


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
        coordinates: by the name of an image-wide part, see `fre.subspaces.image.ImageWide`.
    """

    layouts: tuple[FeatureLayout, ...]
    subspaces: tuple[LayerSubspace, ...]
    overall: tuple[FeatureLayout, ImageSubspace]
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
    ) -> FittedDetector:
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
                parts[part.name] = FittedPart.trained(
                    part,
                    self.statistics[part.name],
                    energies,
                    self.coordinates.get(part.name),
                )
        return FittedDetector.of(list(parts.values()), features, folds)


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


def fuse(
    extractor: FeatureExtractor,
    plan: FusedPlan,
    parts: Sequence[tuple[FeatureLayout, LayerSubspace, FloatArray]],
    overall: tuple[FeatureLayout, ImageSubspace, FloatArray],
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


def _inspected(
    energies: FloatArray, layout: FeatureLayout, inspected: MaskArray | None
) -> FloatArray:
    """The residuals as the graph has them: 0 where nothing is looked at."""
    looked_at = places(layout, inspected)
    return energies if looked_at is None else energies * looked_at


def as_stored(subspace: ImageSubspace) -> ImageSubspace:
    """The subspace as the model file has it, so that computing with it is what the graph does."""
    return replace(subspace, basis=subspace.basis.astype(np.float16).astype(np.float64))
