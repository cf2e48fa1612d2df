"""From held-out residuals to scales, score, map and thresholds: the readout of fitted detectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.errors import DatasetError
from fre.features.extractor import FeatureExtractor
from fre.features.layout import FeatureLayout
from fre.features.table import RowIndex
from fre.scoring.calibration import Calibration, count_odd
from fre.scoring.fusion import Fusion, Limit
from fre.scoring.graph import Head
from fre.scoring.maps import LayerMaps
from fre.subspaces.subspace import ImageSubspace
from fre.training.fitted import FittedDetector, FittedPart
from fre.training.plan import DetectorPlan
from fre.types import FloatArray, MaskArray

SCORED_ROWS = 128
"""Training inputs that are scored by the final scales, to see whether the model calls them good."""

HEAT_RANGE = (0.5, 10.0)
"""Ends of the colour scale of heat maps, as multiples of the pixel threshold. Below the low end are
nine in ten pixels of good images; between the ends are most peaks of real defects
(docs/thresholds.md)."""

PIXEL_RATE = 0.002
"""Share of the pixels of good images' maps above the pixel threshold. Of 0.0005, 0.001, 0.002 and
0.005 it was, at 256 x 256 pixels, the smallest whose regions touch nine in ten of the found defects
of magnetic tiles, screw and KolektorSDD (docs/thresholds.md); larger ones give wider regions."""

PIXEL_STEP = 17
"""One of so many pixels of a map is counted: maps are smooth, and the step must not divide their
width."""


@dataclass(frozen=True)
class Readout:
    """Held-out scores and maps of good images, from which the thresholds follow.

    Attributes:
        scores: float64 (n,), held-out score of each image.
        image: (r,), the image that each row of pixels is of, ascending.
        pixels: float32 (r, P), some inspected pixels of the held-out map of each image or tile.
        own_scores: float64 (s,), scores of some inputs by the scales of all images, if they may
            differ much from held-out ones.
        own_images: (s,), the image of each of these inputs.
    """

    scores: NDArray[np.float64]
    image: NDArray[np.intp]
    pixels: FloatArray
    own_scores: NDArray[np.float64]
    own_images: NDArray[np.intp]

    @property
    def _ordinary(self) -> MaskArray:
        """Bool (n,): the images that are not odd."""
        ordered = np.sort(self.scores)
        highest = ordered[len(ordered) - 1 - count_odd(ordered)]
        return np.asarray(self.scores <= highest, bool)

    def calibrate(self, false_alarm_rate: float) -> Calibration:
        """Return the calibration of the scores.

        The pixel threshold is exceeded by `PIXEL_RATE` of the pixels of images that are not odd.

        Raises:
            DatasetError: scores or maps are not finite; or the detector calls more of its own
                training images anomalous than the false-alarm rate, and more than one.
        """
        if not (np.isfinite(self.scores).all() and np.isfinite(self.pixels).all()):
            raise DatasetError(
                "scores of the training images are not finite: the network or its weights give no "
                "usable features for them"
            )
        pixel = self.pixel_threshold(PIXEL_RATE)
        calibration = Calibration.fit(
            self.scores,
            false_alarm_rate,
            pixel_threshold=pixel,
            map_range=(HEAT_RANGE[0] * pixel, HEAT_RANGE[1] * pixel),
        )
        own = self.own_scores[self._ordinary[self.own_images]]
        anomalous = int(np.count_nonzero(own > calibration.threshold))
        expected = calibration.rate_of_others * len(own)
        # Some of many rows are scored, and may by chance hold more of the highest scores.
        chance = 3 * np.sqrt(expected * max(0.0, 1 - len(own) / len(self.image)))
        if anomalous > max(1, np.ceil(expected + chance)):
            raise DatasetError(
                f"{anomalous} of {len(own)} training images would be anomalous to the model: "
                "their differences are too unlike one another to tell good from anomalous; "
                "remove copies and images of other parts, or give more images"
            )
        return calibration

    def pixel_threshold(self, rate: float) -> float:
        """Return the map value that a share of the pixels of images that are not odd exceed."""
        counted = self.pixels[self._ordinary[self.image]]
        pixel = float(np.float32(np.quantile(counted, 1 - rate)))
        # Maps of constant images are 0: any difference at all is then a region.
        return max(pixel, float(np.finfo(np.float32).tiny))


def read_sum(fitted: FittedDetector) -> Readout:
    """Return the scores of a detector of one part, whose score is the sum of its residuals."""
    (part,) = fitted.parts
    locations = part.part.locations
    pixels = part.residuals if locations is None else part.residuals[:, locations]
    scores = fitted.index.largest(part.residuals.sum(axis=1, dtype=np.float64))
    return Readout(scores, fitted.image, pixels, np.zeros(0), np.zeros(0, np.intp))


def read_out(
    fitted: Sequence[FittedDetector], plan: DetectorPlan, extractor: FeatureExtractor
) -> tuple[tuple[Head, ...], Readout]:
    """Take scales from held-out residuals, and score good images by them.

    Args:
        fitted: one detector; or one for each tile.
        plan: plan of the detectors.
        extractor: feature extractor of the layers.

    Returns:
        One head, or one for each tile that shows something inspected; and scores and maps.

    Raises:
        OptionError: too small a region of interest.
    """
    found = [_Fused.of(one, plan, extractor) for one in fitted]
    # In the order of the rows: the tiles of the first image, then those of the second.
    scores = _interleaved([one.scores for one in found])
    index = RowIndex(
        _interleaved([one.image for one in fitted]),
        _interleaved([one.tile for one in fitted]),
        fitted[0].n,
        fitted[0].index.sizes,
    )
    limited = [one.limited(scores, fitted[0].n) for one in found]
    rows = np.unique(np.linspace(0, len(fitted[0].image) - 1, SCORED_ROWS).astype(np.intp))
    own = _interleaved([one.own_scores(rows) for one in limited])
    own_images = _interleaved([one.image[rows] for one in fitted])
    heads = tuple(one.head for one in limited)
    maps = chain.from_iterable(zip(*(one.maps() for one in found), strict=True))
    height, width = extractor.geometry.size
    everywhere = np.ones((height, width), bool)
    looked_at = everywhere if extractor.inspected is None else extractor.inspected
    counted = np.flatnonzero(looked_at)[::PIXEL_STEP]
    pixels = np.stack([np.ravel(values)[counted] for values in maps])
    return heads, Readout(index.largest(scores), index.image, pixels, own, own_images)


def _interleaved(columns: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.ravel(np.stack(columns, axis=1))


@dataclass(frozen=True)
class _Fused:
    """A head, and the held-out residuals that its scales come from.

    Attributes:
        head: subspaces and fusion.
        residuals: for each layer float32 (r, P), 0 where nothing is inspected.
        overall: float64 (r,), held-out mean squared residual of the overall part.
        folds: rows of each fold.
    """

    head: Head
    residuals: list[FloatArray]
    overall: NDArray[np.float64]
    folds: list[NDArray[np.intp]]

    @classmethod
    def of(cls, fitted: FittedDetector, plan: DetectorPlan, extractor: FeatureExtractor) -> _Fused:
        by_name = {one.part.name: one for one in fitted.parts}
        *layers, last = (by_name[name] for name in plan.part_names)
        residuals = [_inspected(one) for one in layers]
        overall = _mean_residual(last.residuals, last.part.layout)
        maps = LayerMaps(
            extractor.geometry.size,
            tuple(one.part.layout.pooled for one in layers),
            tuple(layer.in_score for layer in plan.layers),
            tuple(layer.in_map for layer in plan.layers),
            extractor.inspected,
        )
        fusion = Fusion.fit(residuals, overall, maps, plan.reading)
        assert isinstance(last.subspace, ImageSubspace)
        head = Head(
            tuple(one.part.layout for one in layers),
            tuple(one.subspace for one in layers),
            (last.part.layout, last.subspace),
            fusion,
        )
        return cls(head, residuals, overall, fitted.folds_of_rows)

    @property
    def scores(self) -> NDArray[np.float64]:
        """Held-out score of each row: float64 (r,)."""
        return self.head.fusion.left_out_scores(self.residuals, self.overall, self.folds)

    def maps(self) -> Iterator[FloatArray]:
        """Held-out map of each row: float32 (H, W)."""
        return self.head.fusion.left_out_maps(self.residuals, self.folds)

    def limited(self, scores: NDArray[np.float64], n: int) -> _Fused:
        """Return the head with the limit of the overall residual, which follows from scores."""
        limit = Limit.of(self.overall, scores, n)
        return replace(self, head=replace(self.head, fusion=replace(self.head.fusion, limit=limit)))

    def own_scores(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        """Score some rows by the final scales: as the model does, or a little higher."""
        residuals = [values[rows] for values in self.residuals]
        return self.head.fusion.scores(residuals, self.overall[rows])


def _mean_residual(residuals: FloatArray, layout: FeatureLayout) -> NDArray[np.float64]:
    return np.asarray(residuals.sum(axis=1, dtype=np.float64) / layout.dimension)


def _inspected(one: FittedPart) -> FloatArray:
    """The residuals as the graph has them: 0 where nothing is inspected."""
    locations = one.part.locations
    return one.residuals if locations is None else one.residuals * locations
