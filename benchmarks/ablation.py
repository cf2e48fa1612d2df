"""What each part of the default preset buys, one after the other.

The first row reads its features as the reference preset does; every row below changes one more
thing, down to the default preset. A second table changes single settings of the default.

    python benchmarks/ablation.py DATASET...

The features are extracted once for each dataset; whatever can be is computed once. AUROC has a
95 % bootstrap interval over the test images. AUPRO is at the input's size, not at the images'.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fre.backbones import DEFAULT_BACKBONE, get_backbone
from fre.datasets import load_mask, open_dataset, require_test, require_train
from fre.datasets.samples import Sample
from fre.evaluation.metrics import PixelMetrics, auroc, bootstrap_resamples, percentile_interval
from fre.features.extractor import FeatureExtractor
from fre.features.layout import FeatureLayout, pool_features
from fre.images.geometry import Geometry
from fre.images.preparation import Preparation
from fre.scoring.fusion import SIGMA, TOP_SHARE, Fusion, Limit, Standard
from fre.scoring.maps import Enlargement, LayerMaps
from fre.subspaces.cross_fit import cheap_folds, extrapolate, make_folds
from fre.subspaces.gram import Gram
from fre.subspaces.position import PositionStatistics
from fre.subspaces.protocols import PRIOR_IMAGES, FitOptions
from fre.training.plan import RANK_LIMIT, plan_detector
from fre.types import FloatArray

POOL = 2
FOLDS = 5


@dataclass(frozen=True)
class Reading:
    """How features become a score and a map.

    Attributes:
        pool: edge of the pooling windows over the middle layer.
        scope: of the middle layer's subspaces.
        coarse: whether the coarse layer is read, too.
        top: share of the smoothed map's pixels whose mean is the score; ``None``: their sum,
            without smoothing.
        standardised: whether each place has a scale.
        prior: weight of the neighbourhood at a position, in images.
        veto: whether the overall residual can add to the score.
        own_map: whether the map is another than the score's, and reads the fine layer, too.
        coarse_map: whether it reads the coarse layer.
        variance: share of the energy that subspaces keep.
        coarse_rank: limit of the coarse layer's subspace.
        overall_rank: limit of the overall subspace.
    """

    pool: int = POOL
    scope: Literal["image", "position"] = "image"
    coarse: bool = False
    top: float | None = None
    standardised: bool = False
    prior: float = 0
    veto: bool = False
    own_map: bool = False
    coarse_map: bool = True
    variance: float = 0.97
    coarse_rank: int = RANK_LIMIT
    overall_rank: int = RANK_LIMIT


STEPS = {
    "reference: middle layer, pooled, sum": {},
    "+ mean of the smoothed map's top 5 %": {"top": TOP_SHARE},
    "+ no pooling": {"pool": 1},
    "+ standardised by cross-fitted residuals": {"standardised": True},
    "+ coarse layer": {"coarse": True},
    "+ middle layer: a subspace per position": {"scope": "position"},
    "+ prior from the neighbourhood": {"prior": PRIOR_IMAGES},
    "+ veto of the overall residual": {"veto": True},
    "+ a map of its own": {"own_map": True},
    "+ which leaves out the coarse layer (the default preset)": {"coarse_map": False},
}
"""Each changes something of the reading above it."""

VARIANTS = {
    "95 % of the variance": {"variance": 0.95},
    "99 % of the variance": {"variance": 0.99},
    "prior of 16 images": {"prior": 16},
    "prior of 64 images": {"prior": 64},
    "top 3 %": {"top": 0.03},
    "top 10 %": {"top": 0.10},
    "coarse rank at most 64": {"coarse_rank": 64},
    "coarse rank at most 128": {"coarse_rank": 128},
    "overall rank at most 128": {"overall_rank": 128},
}
"""Each changes something of the default."""


class Energies(NamedTuple):
    """Squared residuals of a layer, float32 (images, locations).

    Attributes:
        layout: of the layer.
        good: of the good images, cross-fitted.
        test: of the test images.
        held: of further images, each under the subspaces of the folds that it does not belong to.
    """

    layout: FeatureLayout
    good: FloatArray
    test: FloatArray
    held: FloatArray


class Residuals:
    """Squared residuals of a dataset's images: of good ones cross-fitted, and of test images.

    Args:
        layouts: of each layer, without pooling.
        train: for each layer, features of the good images.
        test: those of the test images.
        folds: the rows of each fold of the good images.
        held: features of images that are never fitted.
        held_folds: (images,), the fold of each of them.
    """

    def __init__(
        self,
        layouts: dict[str, FeatureLayout],
        train: dict[str, FloatArray],
        test: dict[str, FloatArray],
        folds: list[NDArray[np.intp]],
        *,
        held: dict[str, FloatArray] | None = None,
        held_folds: NDArray[np.intp] | None = None,
    ) -> None:
        self.layouts, self.train, self.test, self.folds = layouts, train, test, folds
        kept = min(FOLDS, len(folds))
        self.position_folds = [np.sort(np.concatenate(folds[i::kept])) for i in range(kept)]
        self.held = held or {name: X[:0] for name, X in test.items()}
        self.held_folds = np.empty(0, np.intp) if held_folds is None else held_folds
        self.positions = cache(self._positions)
        self.image = cache(self._image)
        self.statistics = cache(self._compute_statistics)

    @classmethod
    def extract(
        cls, extractor: FeatureExtractor, train: Sequence[Path], test: Sequence[Path]
    ) -> Residuals:
        """Of image files, by an extractor of the layers without pooling."""
        features = extractor.extract(train)
        return cls(
            {layout.layer: layout for layout in extractor.layouts},
            by_layer(extractor, features.X),
            by_layer(extractor, extractor.extract(test).X),
            folds_of(features.sha256),
        )

    def _compute_statistics(self, name: str) -> list[PositionStatistics]:
        X, grid = self.train[name], self.layouts[name].grid
        return [PositionStatistics.of(X[fold], grid) for fold in self.position_folds]

    def cross_fit_positions(
        self, name: str, fit: Callable[[PositionStatistics], Callable[[FloatArray], FloatArray]]
    ) -> Energies:
        """The residuals under a subspace per position, or whatever follows from its statistics.

        Args:
            name: the layer.
            fit: statistics of some images to what gives the squared residuals of features.
        """
        layout, X, parts = self.layouts[name], self.train[name], self.statistics(name)
        whole = fit(parts[0].merge(*parts[1:]))
        good = whole(X)
        held = np.empty((len(self.held_folds), good.shape[1]), np.float32)
        for index, fold in enumerate(self.position_folds):
            first, *rest = (part for part in parts if part is not parts[index])
            statistics = first.merge(*rest)
            others = fit(statistics)
            good[fold] = extrapolate(others(X[fold]), good[fold], fitted_on=statistics.n, of=len(X))
            rows = self.held_folds % len(parts) == index
            if rows.any():
                held[rows] = others(self.held[name][rows])
        return Energies(layout, good, whole(self.test[name]), held)

    def _positions(self, name: str, variance: float, prior: float) -> Energies:
        """With a subspace per position."""
        return self.cross_fit_positions(
            name,
            lambda statistics: (
                statistics.fit(FitOptions(variance=variance, prior=prior)).squared_residuals
            ),
        )

    def _image(self, name: str, pool: int, variance: float, at_most: int | None) -> Energies:
        """The same, with a subspace per image."""
        plain = self.layouts[name]
        layout = FeatureLayout(name, plain.channels, plain.grid, pool)
        X, test, held = (
            pool_features(features, plain, layout)
            if pool > 1 and len(features)
            else np.ascontiguousarray(features)
            for features in (self.train[name], self.test[name], self.held[name])
        )
        gram = Gram(X)
        subspace = gram.fit(FitOptions(variance=variance, at_most=at_most))
        energies = subspace.squared_residuals(X, layout.channels)
        for rows, maps in gram.cross_fit(
            self.folds, layout.channels, FitOptions(variance=variance, at_most=at_most)
        ):
            energies[rows] = extrapolate(
                maps, energies[rows], fitted_on=len(X) - len(rows), of=len(X)
            )
        apart = np.empty((len(held), energies.shape[1]), np.float32)
        for index in np.unique(self.held_folds):
            rest = np.delete(X, self.folds[index], axis=0)
            others = Gram(rest).fit(FitOptions(variance=variance, at_most=at_most))
            rows = self.held_folds == index
            apart[rows] = others.squared_residuals(held[rows], layout.channels)
        return Energies(layout, energies, subspace.squared_residuals(test, layout.channels), apart)


def by_layer(extractor: FeatureExtractor, X: FloatArray) -> dict[str, FloatArray]:
    names = [layout.layer for layout in extractor.layouts]
    return dict(zip(names, extractor.split(X), strict=True))


def folds_of(digests: Sequence[str]) -> list[NDArray[np.intp]]:
    """The folds of some images, dealt in the order of the digests, as in training."""
    order = np.argsort(np.array(digests), kind="stable")
    n = len(order)
    return [order[fold] for fold in make_folds(n, folds=cheap_folds(n, FOLDS))]


def read(
    residuals: Residuals,
    reading: Reading,
    names: tuple[str | None, str, str],
    size: tuple[int, int],
) -> tuple[NDArray[np.float64], Iterator[FloatArray]]:
    """Scores and maps of the test images."""
    fine, middle, coarse = names
    if reading.scope == "position":
        layers = [residuals.positions(middle, reading.variance, reading.prior)]
    else:
        layers = [residuals.image(middle, reading.pool, reading.variance, None)]
    if reading.coarse:
        layers.append(residuals.image(coarse, 1, reading.variance, reading.coarse_rank))
    in_score = [True] * len(layers)
    if reading.own_map and fine:
        layers.insert(0, residuals.positions(fine, reading.variance, reading.prior))
        in_score.insert(0, False)
    whole = residuals.image(middle, POOL, reading.variance, reading.overall_rank)
    overall, test_overall = (
        values.sum(axis=1, dtype=np.float64) / whole.layout.dimension
        for values in (whole.good, whole.test)
    )
    train = [layer.good for layer in layers]
    test = [layer.test for layer in layers]
    grids = tuple(layer.layout.pooled for layer in layers)
    in_map = (*([True] * (len(layers) - 1)), reading.coarse_map)
    fusion = Fusion.fit(train, overall, LayerMaps(size, grids, tuple(in_score), in_map))
    if not reading.veto:
        fusion = replace(fusion, veto=None)
    if not reading.standardised:
        plain = (Standard(np.zeros(1), np.ones(1)),) * sum(in_score)
        fusion = replace(fusion, score_standards=plain)
    if reading.top is None:
        (energies,) = test
        return energies.sum(axis=1, dtype=np.float64), score_maps(fusion, test, size, sigma=0)
    fusion = replace(
        fusion,
        top=max(1, round(fusion.top * reading.top / TOP_SHARE)),
        raw_mean=0.0,
        raw_deviation=1.0,
    )
    raw = fusion.raw_scores(train)
    fusion = replace(fusion, raw_mean=float(raw.mean()), raw_deviation=float(raw.std()))
    if reading.veto:
        held_out = fusion.left_out_scores(train, overall, residuals.folds)
        fusion = replace(fusion, limit=Limit.of(overall, held_out, len(overall)))
    maps = fusion.maps(test) if reading.own_map else score_maps(fusion, test, size, sigma=SIGMA)
    return fusion.scores(test, test_overall), maps


def score_maps(
    fusion: Fusion, energies: Sequence[FloatArray], size: tuple[int, int], *, sigma: float
) -> Iterator[FloatArray]:
    """The maps of which the scores are made, at the input's size."""
    enlargements = [
        Enlargement.through(grid, fusion.layers.grids[0], size, sigma=sigma)
        for grid in fusion.layers.grids
    ]
    for row in range(len(energies[0])):
        yield sum(
            enlargement.apply(standard.apply(values[row : row + 1]).reshape(grid))
            for values, standard, enlargement, grid in zip(
                energies, fusion.score_standards, enlargements, fusion.layers.grids, strict=True
            )
        )


def masks_at(samples: Iterable[Sample], size: tuple[int, int]) -> list[NDArray[np.bool_] | None]:
    """The masks at the input's size; ``None`` for images without one."""
    masks: list[NDArray[np.bool_] | None] = []
    for sample in samples:
        with Image.open(sample.path) as image:
            mask = load_mask(sample, (image.height, image.width))
        if mask is not None:
            resized = Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST)
            mask = np.asarray(resized)
        masks.append(mask)
    return masks


def aupro(
    maps: Iterable[FloatArray], samples: Sequence[Sample], masks: Sequence[NDArray[np.bool_] | None]
) -> float:
    pixels = PixelMetrics()
    for anomaly_map, sample, mask in zip(maps, samples, masks, strict=True):
        if sample.good:
            pixels.add(anomaly_map, None)
        elif mask is not None:
            pixels.add(anomaly_map, mask)
    return pixels.compute().aupro


def rows() -> Iterator[tuple[str, Reading]]:
    reading = Reading()
    for label, change in STEPS.items():
        reading = replace(reading, **change)
        yield label, reading
    for label, change in VARIANTS.items():
        yield label, replace(reading, **change)


def table(labels: Iterable[str], results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown: a line for each label, two columns for each dataset."""
    heads = [f"{name}: AUROC | AUPRO" for name in results]
    lines = [f"| | {' | '.join(heads)} |", "| --- |" + " --- | ---: |" * len(heads)]
    for label in labels:
        cells = [
            f"{row['auroc']:.4f} ({row['low']:.3f} to {row['high']:.3f}) | {row['aupro']:.4f}"
            for row in (result[label] for result in results.values())
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option("--backbone", default=DEFAULT_BACKBONE, show_default=True)
@click.option("--size", type=int, help="Edge of the input, in pixels. [default: the backbone's]")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all figures.")
def main(data: tuple[Path, ...], backbone: str, size: int | None, json_file: Path | None) -> None:
    """Print what each part of the default preset buys on some datasets."""
    network = get_backbone(backbone)
    layers = plan_detector(network)
    names = tuple(part.layer for part in layers.layers)
    shape = (size, size) if size else network.default_size
    results: dict[str, dict[str, dict[str, float]]] = {}
    for folder in data:
        dataset = open_dataset(folder)
        samples = require_test(dataset)
        extractor = FeatureExtractor(network, layers.names, Preparation(Geometry(shape)))
        residuals = Residuals.extract(
            extractor,
            [sample.path for sample in require_train(dataset)],
            [sample.path for sample in samples],
        )
        masks = masks_at(samples, shape)
        defective = np.array([not sample.good for sample in samples])
        results[folder.name] = {}
        for label, reading in rows():
            scores, maps = read(residuals, reading, names, shape)
            low, high = percentile_interval(bootstrap_resamples(auroc, scores, defective))
            results[folder.name][label] = {
                "auroc": auroc(scores, defective),
                "low": low,
                "high": high,
                "aupro": aupro(maps, samples, masks),
            }
            print(folder.name, label, results[folder.name][label], file=sys.stderr)
    print(table(STEPS, results), table(VARIANTS, results), sep="\n\n")
    if json_file:
        settings = {label: asdict(reading) for label, reading in rows()}
        document = {"backbone": backbone, "size": shape, "settings": settings, "results": results}
        json_file.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
