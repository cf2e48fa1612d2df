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
from fre.scoring.calibration import Calibration
from fre.scoring.fusion import Fusion, Limit
from fre.scoring.graph import Head
from fre.subspaces.subspace import ImageSubspace
from fre.training.fitted import FittedDetector, FittedPart
from fre.training.plan import DetectorPlan
from fre.types import FloatArray

SCORED_ROWS = 128
"""Training inputs that are scored by the final scales, to see whether the model calls them good."""

HEAT_RANGE = (0.75, 3.0)
"""Where heat maps begin and are brightest, as multiples of a good image's largest value."""


def calibrate_sum(fitted: FittedDetector, false_alarm_rate: float) -> Calibration:
    """Return the calibration of a score that is the sum of the squared residuals.

    Args:
        fitted: detector of one part.
        false_alarm_rate: in (0, 1).
    """
    (part,) = fitted.parts
    index = fitted.index
    return Calibration.fit(
        index.largest(part.residuals.sum(axis=1, dtype=np.float64)),
        index.largest(part.residuals.max(axis=1)),
        false_alarm_rate,
    )


@dataclass(frozen=True)
class FusedReadout:
    """One or several heads, and the scores of good images by them.

    Attributes:
        heads: one; or one for each tile that shows something inspected.
        scores: float64 (n,), held-out score of each image.
        map_maxima: float64 (n,), largest value of each image's held-out map.
        own_scores: float64 (r,), scores of some inputs by the scales of all images.
    """

    heads: tuple[Head, ...]
    scores: NDArray[np.float64]
    map_maxima: NDArray[np.float64]
    own_scores: NDArray[np.float64]

    def calibrate(self, false_alarm_rate: float) -> Calibration:
        """Return the calibration of the scores.

        Raises:
            DatasetError: the detector calls more of its own training images anomalous than the
                false-alarm rate, and more than one.
        """
        # The scale of heat maps goes by the largest value that is typical of a good image's map.
        typical = max(float(np.median(self.map_maxima)), 1.0)
        calibration = Calibration.fit(
            self.scores,
            self.map_maxima,
            false_alarm_rate,
            map_range=(HEAT_RANGE[0] * typical, HEAT_RANGE[1] * typical),
        )
        rate, own = calibration.false_alarm_rate or 0.0, self.own_scores
        anomalous = int(np.count_nonzero(own > calibration.threshold))
        if anomalous > max(1, np.ceil(rate * len(own))):
            raise DatasetError(
                f"{anomalous} of {len(own)} training images would be anomalous to the model: "
                "their differences are too unlike one another to tell good from anomalous; "
                "remove copies and images of other parts, or give more images"
            )
        return calibration


def read_out(
    fitted: Sequence[FittedDetector], plan: DetectorPlan, extractor: FeatureExtractor
) -> FusedReadout:
    """Take scales from held-out residuals, and score good images by them.

    Args:
        fitted: one detector; or one for each tile.
        plan: plan of the detectors.
        extractor: feature extractor of the layers.

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
    maps = chain.from_iterable(zip(*(one.maps() for one in found), strict=True))
    maxima = index.map_maxima(maps, extractor.geometry, extractor.roi)
    limited = [one.limited(scores, fitted[0].n) for one in found]
    own = _interleaved([one.own_scores() for one in limited])
    heads = tuple(one.head for one in limited)
    return FusedReadout(heads, index.largest(scores), maxima, own)


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
        fusion = Fusion.fit(
            residuals,
            overall,
            grids=[one.part.layout.pooled for one in layers],
            in_score=[layer.in_score for layer in plan.layers],
            in_map=[layer.in_map for layer in plan.layers],
            size=extractor.geometry.size,
            reading=plan.reading,
            inspected=extractor.inspected,
        )
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

    def own_scores(self) -> NDArray[np.float64]:
        """Score some rows by the final scales: as the model does, or a little higher."""
        rows = np.unique(np.linspace(0, len(self.overall) - 1, SCORED_ROWS).astype(np.intp))
        residuals = [values[rows] for values in self.residuals]
        return self.head.fusion.scores(residuals, self.overall[rows])


def _mean_residual(residuals: FloatArray, layout: FeatureLayout) -> NDArray[np.float64]:
    return np.asarray(residuals.sum(axis=1, dtype=np.float64) / layout.dimension)


def _inspected(one: FittedPart) -> FloatArray:
    """The residuals as the graph has them: 0 where nothing is inspected."""
    locations = one.part.locations
    return one.residuals if locations is None else one.residuals * locations
