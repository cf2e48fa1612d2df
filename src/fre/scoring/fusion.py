"""The arithmetic of the default detector: squared residuals of layers become a score and a map.

1. A subspace turns a feature x at a location into a squared residual,
   e = sum((x - m - V V^T (x - m))^2) over the channels (`fre.subspaces`).
2. `Standard`: layers and locations differ in scale, so z = (e - mean) / deviation, by the held-out
   squared residuals of good images.
3. `Fusion.raw_scores`: z of the score's layers are added, enlarged to a quarter of the input and
   smoothed (`Enlargement`). The raw score t is the mean of the largest 3 % of the pixels.
4. The score is (t - mean of good images) / their deviation, plus two terms of the overall residual
   R, the mean squared residual of an image-wide subspace: `Veto` and `Limit`.
5. `Fusion.maps`: roots of the squared residuals of the map's layers are standardised, added,
   enlarged to the input and smoothed.

The calibration computes this in NumPy; the graph computes it with the same arrays
(`fre.scoring.graph`). The reference preset's score is the plain sum of e over the locations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fre.errors import OptionError
from fre.images.roi import cells, too_small_a_region
from fre.subspaces.protocols import PRIOR_IMAGES
from fre.types import FloatArray, MaskArray

Float64: TypeAlias = NDArray[np.float64]
Value = TypeVar("Value")

Standardise: TypeAlias = Literal["position", "layer", "none"]
STANDARDS: tuple[Standardise, ...] = ("position", "layer", "none")

SIGMA = 4.0
"""Of the Gaussian that smooths maps, in pixels of the input."""
SHRINK = 4
"""The score map is smoothed and ranked at this fraction of the input's size, where both are the
same to three digits."""
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


def interpolation_matrix(source: int, target: int) -> FloatArray:
    """Bilinear interpolation along one axis, pixel centres at half-integers, edges held.

    As a matrix it is the same on every runtime, whatever each makes of ONNX's Resize.

    Returns:
        float32 (target, source): its rows sum to 1.
    """
    position = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    below = np.minimum(np.floor(position).astype(int), max(source - 2, 0))
    share = position - below
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    matrix[rows, below] = 1 - share
    if source > 1:
        matrix[rows, below + 1] = share
    return matrix


def smoothing_matrix(length: int, sigma: float) -> Float64:
    """Gaussian smoothing along one axis, cut at four deviations and at the ends.

    Returns:
        float64 (length, length): its rows sum to 1.
    """
    distance = np.subtract.outer(np.arange(length), np.arange(length))
    weights = np.exp(-0.5 * (distance / sigma) ** 2) * (np.abs(distance) <= 4 * sigma)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class Enlargement:
    """A map to another size, as a matrix for either axis.

    Attributes:
        rows: float32 (H, h).
        columns: float32 (W, w).
    """

    rows: FloatArray
    columns: FloatArray

    @classmethod
    def through(cls, *grids: tuple[int, int], sigma: float = 0.0) -> Enlargement:
        """Bilinear from grid to grid; then smoothed, if ``sigma`` is above 0."""
        axes = []
        for axis in (0, 1):
            matrix = np.eye(grids[0][axis])
            for source, target in pairwise(grids):
                matrix = interpolation_matrix(source[axis], target[axis]) @ matrix
            if sigma > 0:
                matrix = smoothing_matrix(grids[-1][axis], sigma) @ matrix
            axes.append(matrix.astype(np.float32))
        return cls(*axes)

    def apply(self, maps: FloatArray) -> FloatArray:
        """Float32 (..., h, w) to (..., H, W)."""
        return np.asarray(self.rows @ maps @ self.columns.T, np.float32)


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


def fine_grid(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which the score map is ranked."""
    return -(-size[0] // SHRINK), -(-size[1] // SHRINK)


@dataclass(frozen=True)
class Fusion:
    """How residuals of several layers become one score and one map.

    Attributes:
        grids: height and width of each layer's map.
        in_score: for each layer, whether it counts for the score.
        in_map: for each layer, whether it counts for the map.
        score_standards: scales of the squared residuals of the score's layers.
        map_standards: scales of the roots of the squared residuals of the map's layers.
        score_enlargements: to `fine_grid`, smoothed; for the layers that count for the score.
        map_alignments: to the finest grid of the map's layers, for these.
        map_enlargement: from there to the size of the input, smoothed.
        top: number of pixels whose mean is the raw score.
        inspected: bool (H, W), inspected pixels of the input; ``None`` is all.
        raw_mean: mean of the good images' raw scores.
        raw_deviation: standard deviation of these.
        veto: on the overall residual; ``None`` with few training images.
        limit: limit of the overall residual; ``None`` before the held-out scores are known.
    """

    grids: tuple[tuple[int, int], ...]
    in_score: tuple[bool, ...]
    in_map: tuple[bool, ...]
    score_standards: tuple[Standard, ...]
    map_standards: tuple[Standard, ...]
    score_enlargements: tuple[Enlargement, ...]
    map_alignments: tuple[Enlargement, ...]
    map_enlargement: Enlargement
    top: int
    raw_mean: float
    raw_deviation: float
    veto: Veto | None
    inspected: MaskArray | None = None
    standardise: Standardise = "position"
    limit: Limit | None = None

    @classmethod
    def fit(
        cls,
        energies: Sequence[FloatArray],
        overall: Float64,
        *,
        grids: Sequence[tuple[int, int]],
        in_score: Sequence[bool],
        in_map: Sequence[bool] | None = None,
        size: tuple[int, int],
        reading: Reading | None = None,
        inspected: MaskArray | None = None,
    ) -> Fusion:
        """Take the scales from cross-fitted residuals of good images.

        Args:
            energies: for each layer float32 (n, P), squared residuals summed over channels.
            overall: float64 (n,), mean residual energy of the image-wide reference subspace.
            grids: height and width of each layer's map.
            in_score: for each layer, whether it counts for the score; one does at least.
            in_map: for each layer, whether it counts for the map; all do, if ``None``.
            size: height and width of the input.
            reading: settings; ``None`` takes the defaults.
            inspected: bool (H, W), inspected pixels of the input; ``None`` is all.
        """
        reading = reading or Reading()
        scoring = [i for i, counts in enumerate(in_score) if counts]
        common = grids[scoring[0]]
        fine = fine_grid(size)
        in_map = tuple(in_map or (True,) * len(grids))
        mapped = [i for i, counts in enumerate(in_map) if counts]
        finest = max((grids[i] for i in mapped), key=lambda grid: grid[0] * grid[1])
        looked_at = [None if inspected is None else np.ravel(cells(inspected, g)) for g in grids]
        unscaled = cls(
            grids=tuple(grids),
            in_score=tuple(in_score),
            in_map=in_map,
            score_standards=tuple(
                Standard.of(
                    energies[i],
                    positional_mean=True,
                    kind=reading.standardise,
                    inspected=looked_at[i],
                )
                for i in scoring
            ),
            map_standards=tuple(
                Standard.of(
                    np.sqrt(energies[i]),
                    positional_mean=False,
                    kind=reading.standardise,
                    inspected=looked_at[i],
                )
                for i in mapped
            ),
            score_enlargements=tuple(
                Enlargement.through(grids[i], common, fine, sigma=reading.smoothing / SHRINK)
                for i in scoring
            ),
            map_alignments=tuple(Enlargement.through(grids[i], finest) for i in mapped),
            map_enlargement=Enlargement.through(finest, size, sigma=reading.smoothing),
            top=0,
            raw_mean=0.0,
            raw_deviation=1.0,
            veto=None,
            inspected=inspected,
            standardise=reading.standardise,
        )
        ranked = unscaled.ranked
        pixels = fine[0] * fine[1] if ranked is None else int(ranked.sum())
        seen = any(places is None or places.any() for places in (looked_at[i] for i in scoring))
        if pixels == 0 or not seen:
            raise OptionError(too_small_a_region(size))
        unscaled = replace(unscaled, top=max(1, round(reading.top * pixels)))
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

    @property
    def ranked(self) -> MaskArray | None:
        """Bool, the pixels of the score map that may count for the score; ``None`` is all."""
        if self.inspected is None:
            return None
        rows, columns = self.score_enlargements[0].rows, self.score_enlargements[0].columns
        return cells(self.inspected, (len(rows), len(columns)))

    def raw_scores(self, energies: Sequence[FloatArray]) -> Float64:
        """Float64 (n,): mean of the largest pixels of each score map."""
        standards = zip(self.score_standards, self._scoring(energies), strict=True)
        return self._raw_scores([standard.apply(values) for standard, values in standards])

    def _scoring(self, values: Sequence[Value]) -> list[Value]:
        """Return the values of the score's layers."""
        return [value for value, counts in zip(values, self.in_score, strict=True) if counts]

    def _mapped(self, values: Sequence[Value]) -> list[Value]:
        """Return the values of the map's layers."""
        return [value for value, counts in zip(values, self.in_map, strict=True) if counts]

    def _raw_scores(self, deviations: Sequence[FloatArray]) -> Float64:
        grids, ranked = self._scoring(self.grids), self.ranked
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
                inspected=self._places(grid),
            )
            for values, grid in zip(self._scoring(energies), self._scoring(self.grids), strict=True)
        ]
        return self._scores(self._raw_scores(deviations), overall)

    def _places(self, grid: tuple[int, int]) -> MaskArray | None:
        return None if self.inspected is None else np.ravel(cells(self.inspected, grid))

    def _scores(self, raw: Float64, overall: Float64) -> Float64:
        z = (raw - self.raw_mean) / self.raw_deviation
        for term in (self.veto, self.limit):
            if term is not None:
                z = z + term.apply(overall)
        return z

    def maps(self, energies: Sequence[FloatArray]) -> Iterator[FloatArray]:
        """For each image float32 (H, W): 0 is typical of good images."""
        standards = zip(self.map_standards, self._mapped(energies), strict=True)
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
                    inspected=self._places(grid),
                )
                for values, grid in zip(
                    self._mapped(energies), self._mapped(self.grids), strict=True
                )
            ]
        )

    def _maps(self, deviations: Sequence[FloatArray]) -> Iterator[FloatArray]:
        for row in range(len(deviations[0])):
            aligned = sum(
                alignment.apply(values[row].reshape(grid))
                for values, grid, alignment in zip(
                    deviations, self._mapped(self.grids), self.map_alignments, strict=True
                )
            )
            enlarged = self.map_enlargement.apply(np.asarray(aligned, np.float32))
            yield enlarged if self.inspected is None else enlarged * self.inspected


def _positive(deviation: float) -> float:
    return max(deviation, 1e-12)
