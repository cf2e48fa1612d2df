"""The arithmetic of the default detector: squared residuals of layers become a score and a map.

1. A subspace turns a feature x at a location into a squared residual,
   e = sum((x - m - V V^T (x - m))^2) over the channels (`fre.subspaces`).
2. `Standard`: layers and locations differ in scale, so z = (e - mean) / deviation, by the held-out
   squared residuals of good images.
3. `Fusion.raw_scores`: z of the score's layers are added, enlarged to a quarter of the input and
   smoothed (`fre.scoring.maps`). The raw score t is the mean of the largest 3 % of the pixels.
4. The score is (t - mean of good images) / their deviation, plus two terms of the overall residual
   R, the mean squared residual of an image-wide subspace: `Veto` and `Limit`.
5. `Fusion.maps`: roots of the squared residuals of the map's layers are standardised, added,
   enlarged to the input and smoothed.

The calibration computes this in NumPy; the graph computes it with the same arrays
(`fre.scoring.graph`). The reference preset's score is the plain sum of e over the locations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError
from fre.scoring.maps import SHRINK, Enlargement, LayerMaps, fine_grid
from fre.subspaces.protocols import PRIOR_IMAGES
from fre.types import FloatArray, MaskArray

Float64: TypeAlias = NDArray[np.float64]

Standardise: TypeAlias = Literal["position", "layer", "none"]
STANDARDS: tuple[Standardise, ...] = ("position", "layer", "none")

SIGMA = 4.0
"""Of the Gaussian that smooths maps, in pixels of the input."""
TOP_SHARE = 0.03
"""The score is the mean of this share of the score map's pixels, the largest ones. Most
defects cover less of their image; a larger share dilutes them."""
VETO_DEVIATIONS = 2.0
"""An image whose overall residual is further from the normal ones than this adds to its score."""
VETO_IMAGES = 100
"""Fewer training images say too little of the overall residual."""

FAR = 1.25
"""An overall residual beyond this multiple of the good images' largest one is far outside, whatever
their number."""
FAR_OF_FEW = 1.7
"""Added to it, divided by the root of the number of images: the largest residual of few images says
less of the next one. Further good images of tiles, screw and KolektorSDD had 1.84 / 1.58 / 1.59 /
1.09 times the largest residual of 5 / 12 / 60 / 150 good ones at most."""
LIFTED_AT = 0.1
"""An image that is beyond the limit by this share scores more than all good images."""
LEAST_SCORE = 3.0
"""Deviations that an image's score may be below those of the good images before it is lifted."""


@dataclass(frozen=True)
class Reading:
    """How the residuals of several layers are read: as one score and one map.

    Attributes:
        standardise: scale of a residual. ``"position"``: half from its location and half from its
            layer; ``"layer"``: from its layer; ``"none"``: residuals are added as they are.
        top: share of the score map's pixels whose mean is the score, in (0, 1]: the largest ones.
        smoothing: standard deviation of the Gaussian that smooths maps, in pixels of the input;
            0 does without.
        prior: weight of the neighbourhood in the subspace of a position, in images.
        overall: whether the overall residual adds to the score; ``None``: from 100 images on.
    """

    standardise: Standardise = "position"
    top: float = TOP_SHARE
    smoothing: float = SIGMA
    prior: float = PRIOR_IMAGES
    overall: bool | None = None

    def __post_init__(self) -> None:
        if not 0 < self.top <= 1:
            raise OptionError(f"top must be above 0 and at most 1, not {self.top}")
        for name in ("smoothing", "prior"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise OptionError(f"{name} must be 0 or more, not {getattr(self, name)}")


@dataclass(frozen=True)
class Standard:
    """Mean and standard deviation of a map at each location, from good images.

    Attributes:
        mean: float64 (P,).
        deviation: float64 (P,), above 0.
    """

    mean: Float64
    deviation: Float64

    @classmethod
    def of(
        cls,
        values: FloatArray,
        *,
        positional_mean: bool,
        kind: Standardise = "position",
        inspected: MaskArray | None = None,
    ) -> Standard:
        """Statistics of good images' maps.

        Each location's deviation is averaged half-and-half with that of all locations: by itself
        it is an estimate from few values. So is its mean, or else the mean of all locations is
        taken for it.

        Args:
            values: float32 (n, P).
            positional_mean: whether locations differ in what is normal.
            kind: as for `Reading`.
            inspected: bool (P,), inspected locations; elsewhere ``apply`` maps 0 to 0. ``None``
                is all.
        """
        places = values.shape[1]
        if inspected is not None and not inspected.all():
            mean, deviation = np.zeros(places), np.ones(places)
            if inspected.any():
                part = cls.of(values[:, inspected], positional_mean=positional_mean, kind=kind)
                mean[inspected], deviation[inspected] = part.mean, part.deviation
            return cls(mean, deviation)
        if kind == "none":
            return cls(np.zeros(places), np.ones(places))
        mean = np.full(places, values.mean(dtype=np.float64))
        overall = float(values.std(dtype=np.float64))
        deviation = np.full(places, overall)
        if kind == "position":
            deviation = (values.std(axis=0, dtype=np.float64) + overall) / 2
            if positional_mean:
                mean = (mean + values.mean(axis=0, dtype=np.float64)) / 2
        # Constant images have no deviation: then any difference at all is a large one.
        least = max(1e-6 * float(np.abs(values).max(initial=0)), 1e-12)
        return cls(mean, np.maximum(deviation, least))

    def apply(self, values: FloatArray) -> FloatArray:
        """Float32 (n, P) to the same in normal deviations."""
        return np.asarray((values - self.mean) / self.deviation, np.float32)

    @classmethod
    def left_out(
        cls,
        values: FloatArray,
        folds: list[NDArray[np.intp]],
        *,
        positional_mean: bool,
        kind: Standardise = "position",
        inspected: MaskArray | None = None,
    ) -> FloatArray:
        """Each fold in normal deviations of the other folds.

        In deviations to which an image has contributed itself it is less extraordinary than it
        would be if it were new.

        Args:
            values: float32 (n, P), of good images.
            folds: the rows of each fold; two folds or more.
            positional_mean: as for `of`, like all that follow.
            kind: as for `of`.
            inspected: as for `of`.

        Returns:
            float32 (n, P).
        """
        deviations = np.empty_like(values)
        for fold in folds:
            others = np.delete(values, fold, axis=0)
            standard = cls.of(
                others, positional_mean=positional_mean, kind=kind, inspected=inspected
            )
            deviations[fold] = standard.apply(values[fold])
        return deviations


@dataclass(frozen=True)
class Veto:
    """The overall residual of an image, which sees large and diffuse defects.

    Attributes:
        mean: mean of the good images' mean squared residuals.
        deviation: their standard deviation.
    """

    mean: float
    deviation: float

    def apply(self, energy: Float64) -> Float64:
        """Float64 (n,): how far beyond two deviations each mean residual energy is, or 0."""
        z = (energy - self.mean) / self.deviation
        return np.asarray(np.maximum(z - VETO_DEVIATIONS, 0))


@dataclass(frozen=True)
class Limit:
    """The overall residual beyond which an image is unlike anything that was fitted.

    Maps are ranked by their largest values: a picture of nothing may have none, though all of it is
    foreign. So it counts at any number of images.

    Attributes:
        energy: largest mean squared residual of a good image, with a margin.
        lift: added to the score of an image with twice that mean squared residual.
    """

    energy: float
    lift: float

    @classmethod
    def of(cls, overall: Float64, scores: Float64, n: int) -> Limit:
        """Return the limit that follows from good images.

        Args:
            overall: float64 (r,), held-out mean residual energies.
            scores: float64 (r,), held-out scores.
            n: number of images.
        """
        energy = (FAR + FAR_OF_FEW / np.sqrt(n)) * float(overall.max())
        span = float(scores.max() - scores.min()) + LEAST_SCORE
        return cls(_positive(energy), span / LIFTED_AT)

    def apply(self, energy: Float64) -> Float64:
        """Return what is added to the scores, float64 (n,): 0 for energies within the limit."""
        return np.asarray(np.maximum(energy / self.energy - 1, 0) * self.lift)


@dataclass(frozen=True)
class Fusion:
    """How residuals of several layers become one score and one map.

    Attributes:
        layers: maps of the layers.
        score_standards: scales of the squared residuals of the score's layers.
        map_standards: scales of the roots of the squared residuals of the map's layers.
        score_enlargements: to `fine_grid`, smoothed; for the layers that count for the score.
        map_alignments: to the finest grid of the map's layers, for these.
        map_enlargement: from there to the size of the input, smoothed.
        top: number of pixels whose mean is the raw score.
        standardise: as for `Reading`.
        raw_mean: mean of the good images' raw scores.
        raw_deviation: standard deviation of these.
        veto: on the overall residual; ``None`` with few training images.
        limit: limit of the overall residual; ``None`` before the held-out scores are known.
    """

    layers: LayerMaps
    score_standards: tuple[Standard, ...]
    map_standards: tuple[Standard, ...]
    score_enlargements: tuple[Enlargement, ...]
    map_alignments: tuple[Enlargement, ...]
    map_enlargement: Enlargement
    top: int
    standardise: Standardise = "position"
    raw_mean: float = 0.0
    raw_deviation: float = 1.0
    veto: Veto | None = None
    limit: Limit | None = None

    @classmethod
    def fit(
        cls,
        energies: Sequence[FloatArray],
        overall: Float64,
        layers: LayerMaps,
        reading: Reading | None = None,
    ) -> Fusion:
        """Take the scales from cross-fitted residuals of good images.

        Args:
            energies: for each layer float32 (n, P), squared residuals summed over channels.
            overall: float64 (n,), mean residual energy of the image-wide reference subspace.
            layers: maps of the layers.
            reading: settings; ``None`` takes the defaults.

        Raises:
            OptionError: too small an inspected region.
        """
        reading = reading or Reading()
        top = max(1, round(reading.top * layers.count_ranked()))
        unscaled = cls._unscaled(energies, layers, reading, top)
        raw = unscaled.raw_scores(energies)
        veto = None
        wanted = len(raw) >= VETO_IMAGES if reading.overall is None else reading.overall
        if wanted:
            veto = Veto(float(overall.mean()), _positive(float(overall.std())))
        return replace(
            unscaled,
            raw_mean=float(raw.mean()),
            raw_deviation=_positive(float(raw.std())),
            veto=veto,
        )

    @classmethod
    def _unscaled(
        cls, energies: Sequence[FloatArray], layers: LayerMaps, reading: Reading, top: int
    ) -> Fusion:
        """Return the fusion before the scale of its scores is known."""
        scoring, mapped = layers.scoring(layers.grids), layers.mapped(layers.grids)
        finest = max(mapped, key=math.prod)

        def standard(values: FloatArray, grid: tuple[int, int], positional_mean: bool) -> Standard:
            return Standard.of(
                values,
                positional_mean=positional_mean,
                kind=reading.standardise,
                inspected=layers.locations(grid),
            )

        return cls(
            layers,
            tuple(map(standard, layers.scoring(energies), scoring, repeat(True))),
            tuple(map(standard, map(np.sqrt, layers.mapped(energies)), mapped, repeat(False))),
            tuple(
                Enlargement.through(
                    grid, scoring[0], fine_grid(layers.size), sigma=reading.smoothing / SHRINK
                )
                for grid in scoring
            ),
            tuple(Enlargement.through(grid, finest) for grid in mapped),
            Enlargement.through(finest, layers.size, sigma=reading.smoothing),
            top,
            reading.standardise,
        )

    def raw_scores(self, energies: Sequence[FloatArray]) -> Float64:
        """Float64 (n,): mean of the largest pixels of each score map."""
        standards = zip(self.score_standards, self.layers.scoring(energies), strict=True)
        return self._raw_scores([standard.apply(values) for standard, values in standards])

    def _raw_scores(self, deviations: Sequence[FloatArray]) -> Float64:
        grids, ranked = self.layers.scoring(self.layers.grids), self.layers.ranked
        raw = np.empty(len(deviations[0]))
        # One image at a time: all maps at once would be larger than all features.
        for row in range(len(raw)):
            terms = (
                enlargement.apply(values[row].reshape(grid))
                for values, grid, enlargement in zip(
                    deviations, grids, self.score_enlargements, strict=True
                )
            )
            score_map = np.asarray(sum(terms))
            flat = np.ravel(score_map if ranked is None else score_map[ranked])
            raw[row] = np.partition(flat, flat.size - self.top)[flat.size - self.top :].mean()
        return raw

    def scores(self, energies: Sequence[FloatArray], overall: Float64) -> Float64:
        """Float64 (n,): in standard deviations of a normal image."""
        return self._scores(self.raw_scores(energies), overall)

    def left_out_scores(
        self, energies: Sequence[FloatArray], overall: Float64, folds: list[NDArray[np.intp]]
    ) -> Float64:
        """Scores of the images that were fitted on, by what is normal in the other folds."""
        deviations = [
            Standard.left_out(
                values,
                folds,
                positional_mean=True,
                kind=self.standardise,
                inspected=self.layers.locations(grid),
            )
            for values, grid in zip(
                self.layers.scoring(energies), self.layers.scoring(self.layers.grids), strict=True
            )
        ]
        return self._scores(self._raw_scores(deviations), overall)

    def _scores(self, raw: Float64, overall: Float64) -> Float64:
        z = (raw - self.raw_mean) / self.raw_deviation
        for term in (self.veto, self.limit):
            if term is not None:
                z = z + term.apply(overall)
        return z

    def maps(self, energies: Sequence[FloatArray]) -> Iterator[FloatArray]:
        """For each image float32 (H, W): 0 is typical of good images."""
        standards = zip(self.map_standards, self.layers.mapped(energies), strict=True)
        return self._maps([standard.apply(np.sqrt(values)) for standard, values in standards])

    def left_out_maps(
        self, energies: Sequence[FloatArray], folds: list[NDArray[np.intp]]
    ) -> Iterator[FloatArray]:
        """Maps of the images that were fitted on, by what is normal in the other folds."""
        return self._maps(
            [
                Standard.left_out(
                    np.sqrt(values),
                    folds,
                    positional_mean=False,
                    kind=self.standardise,
                    inspected=self.layers.locations(grid),
                )
                for values, grid in zip(
                    self.layers.mapped(energies), self.layers.mapped(self.layers.grids), strict=True
                )
            ]
        )

    def _maps(self, deviations: Sequence[FloatArray]) -> Iterator[FloatArray]:
        for row in range(len(deviations[0])):
            aligned = sum(
                alignment.apply(values[row].reshape(grid))
                for values, grid, alignment in zip(
                    deviations,
                    self.layers.mapped(self.layers.grids),
                    self.map_alignments,
                    strict=True,
                )
            )
            enlarged = self.map_enlargement.apply(np.asarray(aligned, np.float32))
            yield enlarged if self.layers.inspected is None else enlarged * self.layers.inspected


def _positive(deviation: float) -> float:
    return max(deviation, 1e-12)
