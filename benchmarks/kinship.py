"""Do the residuals of one subspace tell by how much an image's residuals of another shrink?

    python benchmarks/kinship.py DATASET

Where features of old images are gone, their residuals are scaled as more images are learnt
(`fre.training.growth`). Images that new ones are akin to should shrink more than those that stay
alone, and image-wide subspaces, whose residuals are computed anew, show which these are. Here all
features are there: for each position subspace, the true factor of each old image, beyond what each
location shrinks by on average, against that of the image-wide subspaces. Correlation and slope of
their logarithms; and how far an image's mean residual is from the truth (root mean square of the
logarithm) when all images shrink alike, and by `fre.training.growth.image_shrinkage`.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from fre import FRE
from fre.backbones import get_backbone
from fre.datasets import open_dataset, require_test, require_train
from fre.features.extractor import FeatureExtractor
from fre.features.table import Features
from fre.subspaces.cross_fit import cheap_folds, make_folds
from fre.training.folds import Folds
from fre.training.growth import image_shrinkage
from fre.training.held import HeldRows
from fre.training.pipeline import fit_detector
from fre.training.plan import DetectorPlan, plan_detector
from fre.types import FloatArray
from measuring import table

STEPS = ((20, 20), (40, 20), (100, 20), (20, 80))
"""Old images, and new ones."""

FOLDS = 5


def left_out(extractor: FeatureExtractor, plan: DetectorPlan, X: FloatArray) -> list[FloatArray]:
    """Cross-fitted residuals of the plan's layers, and the overall ones, as training has them."""
    folds = make_folds(len(X), folds=cheap_folds(len(X), FOLDS))
    rows = HeldRows(Features(X, ("",) * len(X), ()), extractor.layouts)
    fitted = fit_detector(rows, plan, Folds.of(folds, FOLDS))
    by_name = {one.part.name: one.residuals for one in fitted.parts}
    return [by_name[name] for name in plan.part_names]


def error(logs: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(logs - logs.mean()))))


def rows_of(
    extractor: FeatureExtractor, X: FloatArray, seed: int, old: int, new: int
) -> list[list[str]]:
    plan = plan_detector(extractor.backbone)
    chosen = X[np.random.default_rng(seed).permutation(len(X))[: old + new]]
    before = left_out(extractor, plan, chosen[:old])
    after = [energies[:old] for energies in left_out(extractor, plan, chosen)]
    scopes = [*(part.scope for part in plan.layers), "image"]
    found = list(zip(scopes, before, after, strict=True))
    pairs = [(first, second) for scope, first, second in found if scope == "image"]
    factors = image_shrinkage(pairs)
    assert factors is not None
    shown = np.mean([np.log(b.sum(axis=1) / a.sum(axis=1)) for a, b in pairs], axis=0)
    rows = []
    for part, (scope, first, second) in zip(plan.layers, found[:-1], strict=True):
        if scope != "position":
            continue
        alike = first * (second.mean(axis=0) / first.mean(axis=0))
        true = np.log(second.mean(axis=1) / alike.mean(axis=1))
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
    extractor = FRE("efficientnet_lite0", preset="default")._extractor(
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
