"""Do the residuals of one subspace tell by how much an image's residuals of another shrink?

    python benchmarks/kinship.py DATASET

Where features of old images are gone, their residuals are scaled as more images are learnt
(`fre.learnt`). Images that new ones are akin to should shrink more than those that stay alone, and
image-wide subspaces, whose residuals are computed anew, show which these are. Here all features are
there: for each position subspace, the true factor of each old image, beyond what each location
shrinks by on average, against that of the image-wide subspaces. Correlation and slope of their
logarithms; and how far an image's mean residual is from the truth (root mean square of the
logarithm) when all images shrink alike, and by `fre.learnt.kinship`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from fre import FRE
from fre.backbones import get_backbone
from fre.datasets import open_dataset, require_test, require_train
from fre.features import FeatureExtractor, pool_features
from fre.fused import OVERALL_POOL, RANK_LIMIT, plan_layers
from fre.learnt import kinship
from fre.subspace.crossfit import extrapolate, sums_without
from fre.subspace.image_wide import fit_image_wide
from fre.subspace.position import PositionStatistics
from fre.types import FloatArray
from measuring import table

STEPS = ((20, 20), (40, 20), (100, 20), (20, 80))
"""Old images, and new ones."""

FOLDS, CHEAP_FOLDS = 5, 20


def folds_of(n: int, count: int) -> list[NDArray[np.intp]]:
    return [np.arange(first, n, min(count, n)) for first in range(min(count, n))]


def by_position(X: FloatArray, grid: tuple[int, int]) -> FloatArray:
    """Cross-fitted residuals, as training computes them."""
    folds = folds_of(len(X), FOLDS)
    statistics = [PositionStatistics.of(X[fold], grid) for fold in folds]
    energies = statistics[0].merge(*statistics[1:]).fit().energies(X)
    for fold, rest in zip(folds, sums_without(statistics), strict=True):
        held = rest.fit().energies(X[fold])
        energies[fold] = extrapolate(held, energies[fold], fitted_on=rest.n, of=len(X))
    return energies


def by_image(X: FloatArray, channels: int) -> FloatArray:
    return fit_image_wide(
        X,
        channels,
        folds_of(len(X), CHEAP_FOLDS),
        variance=0.97,
        at_most=RANK_LIMIT,
        capacity=2 * RANK_LIMIT,
    ).energies


def error(logs: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(logs - logs.mean()))))


def rows_of(
    extractor: FeatureExtractor, X: FloatArray, seed: int, old: int, new: int
) -> list[list[str]]:
    plan = plan_layers(extractor.backbone)
    layouts = {layout.layer: layout for layout in extractor.layouts}
    names = [layout.layer for layout in extractor.layouts]
    order = np.random.default_rng(seed).permutation(len(X))[: old + new]
    blocks = dict(zip(names, map(np.ascontiguousarray, extractor.split(X[order])), strict=True))
    coarse = replace(layouts[plan.overall], pool=OVERALL_POOL)
    wide = [(pool_features(blocks[plan.overall], layouts[plan.overall], coarse), coarse.channels)]
    wide += [
        (blocks[part.layer], layouts[part.layer].channels)
        for part in plan.layers
        if part.scope == "image"
    ]
    pairs = [(by_image(X[:old], c), by_image(X, c)[:old]) for X, c in wide]
    factors = kinship(pairs)
    assert factors is not None
    sums = [np.log(after.sum(axis=1) / before.sum(axis=1)) for before, after in pairs]
    shown = np.mean(sums, axis=0)
    rows = []
    for part in plan.layers:
        if part.scope != "position":
            continue
        block, grid = blocks[part.layer], layouts[part.layer].grid
        before, after = by_position(block[:old], grid), by_position(block, grid)[:old]
        alike = before * (after.mean(axis=0) / before.mean(axis=0))
        true = np.log(after.mean(axis=1) / alike.mean(axis=1))
        rows.append(
            [
                f"{old} and {new}",
                str(seed),
                part.layer,
                f"{np.corrcoef(shown, true)[0, 1]:.2f}",
                f"{np.polyfit(shown, true, 1)[0]:.2f}",
                f"{error(true):.3f}",
                f"{error(true - np.log(factors)):.3f}",
            ]
        )
    return rows


@click.command()
@click.argument("data", type=click.Path(path_type=Path, exists=True))
@click.option("--limit", default=400, show_default=True, help="Good images, train and test.")
@click.option("--seeds", default=2, show_default=True, help="Orders of the images.")
def main(data: Path, limit: int, seeds: int) -> None:
    """Measure on the good images of DATA."""
    dataset = open_dataset(data)
    samples = [*require_train(dataset), *(s for s in require_test(dataset) if s.good)]
    extractor = FRE("efficientnet_lite0", preset="default").extractor(
        get_backbone("efficientnet_lite0")
    )
    X = extractor.extract([sample.path for sample in samples[:limit]]).X
    rows = [
        row
        for old, new in STEPS
        for seed in range(seeds)
        for row in rows_of(extractor, X, seed, old, new)
    ]
    head = ["old and new", "seed", "layer", "correlation", "slope", "error, alike", "by kinship"]
    print(f"{dataset.name}, default preset, {len(X)} good images\n")
    print(table(head, rows))


if __name__ == "__main__":
    main()
