"""Image-wide subspaces that grew by updates, against one fit of all features of real images.

Updates of equal size, in the order of the files, absorb the first training images of a dataset.
Compared with one fit: the principal subspace (the sine of the largest principal angle), the
spectrum (relative to the strongest singular value), the mean (largest difference), and the image
AUROC of the residual energy on the test images. Also with a small capacity, beside the bound that
`fre.subspaces.image_statistics` states, and stored in float32 after every update, as in a file.

    python benchmarks/incremental.py DATASET

Prints Markdown; exits with 1 if an update within the capacity differs by more than is allowed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from fre.backbones import DEFAULT_BACKBONE, get_backbone
from fre.datasets import open_dataset, require_test, require_train
from fre.evaluation.metrics import auroc
from fre.features.extractor import FeatureExtractor
from fre.features.layout import FeatureLayout, pool_features
from fre.subspaces.gram import Gram
from fre.subspaces.image_statistics import CAPACITY, ImageStatistics
from fre.subspaces.position import PositionStatistics
from fre.subspaces.protocols import FitOptions
from fre.subspaces.subspace import ImageSubspace
from fre.training.plan import plan_detector
from fre.types import FloatArray

ANGLE = 1e-3
"""The largest sine of a principal angle that is allowed within the capacity."""


def sine(A: NDArray[np.float64], B: NDArray[np.float64]) -> float:
    """Of the largest principal angle between the spans of two orthonormal bases."""
    return float(np.linalg.norm(A - B @ (B.T @ A), 2))


def grow(parts: list[FloatArray], capacity: int, *, store: bool) -> ImageStatistics:
    """One update a part; with ``store``, through float32 arrays after each."""
    statistics = ImageStatistics.of(parts[0], capacity=capacity)
    for part in parts[1:]:
        if store:
            statistics = ImageStatistics.from_arrays(statistics.to_arrays(np.float32))
        statistics = statistics.update(part)
    return statistics


def bound(statistics: ImageStatistics, k: int) -> str:
    """What the sine of the largest principal angle can't exceed, if that says anything."""
    energies = np.append(statistics.singular_values**2, 0.0)
    gap = energies[k - 1] - energies[k] - statistics.lost
    return f"{statistics.lost / gap:.1e}" if gap > statistics.lost else "-"


def compare_image_wide(
    layout: FeatureLayout,
    train: FloatArray,
    test: FloatArray,
    labels: NDArray[np.bool_],
    updates: int,
    capacity: int,
    variance: float,
) -> float:
    """Print the table of a layer; the sine of the largest angle within the capacity."""

    def area(subspace: ImageSubspace) -> float:
        return auroc(subspace.squared_residuals(test, layout.channels).sum(axis=1), labels)

    whole = Gram(train).fit(FitOptions(variance=variance))
    full = np.linalg.svd(train - train.mean(axis=0, dtype=np.float64), compute_uv=False)
    parts = np.array_split(train, updates)
    print(
        f"\n{layout.layer}, pool {layout.pool}, D = {layout.dimension}, image-wide; one fit: "
        f"k = {whole.rank}, image AUROC {area(whole):.6f}\n\n"
        "| capacity | stored as | k | sine | spectrum | mean | discarded | least possible | lost "
        "| image AUROC |\n"
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    worst = 0.0
    for limit, store in ((CAPACITY, False), (CAPACITY, True), (capacity, False), (capacity, True)):
        statistics = grow(parts, limit, store=store)
        subspace = statistics.fit(FitOptions(variance=variance))
        k = min(subspace.rank, whole.rank)
        difference = sine(whole.basis[:, :k], subspace.basis[:, :k])
        r = statistics.rank
        spectrum = float(np.abs(statistics.singular_values - full[:r]).max()) / full[0]
        mean = float(np.abs(subspace.mean - whole.mean).max())
        print(
            f"| {limit} | {'float32' if store else 'float64'} | {subspace.rank} "
            f"| {difference:.1e} | {spectrum:.1e} | {mean:.1e} "
            f"| {statistics.discarded / statistics.energy:.2%} "
            f"| {float(np.sum(full[r:] ** 2)) / statistics.energy:.2%} "
            f"| {statistics.lost / statistics.energy:.2%} | {area(subspace):.6f} |"
        )
        if limit == CAPACITY:
            worst = max(worst, difference)
    statistics = grow(parts, capacity, store=False)
    print(f"\n| strongest, of {capacity} | sine | its bound |\n| ---: | ---: | ---: |")
    for k in (1, 2, 4, 8, 16, 32):
        if k < statistics.rank:
            difference = sine(whole.basis[:, :k], statistics.basis[:, :k])
            print(f"| {k} | {difference:.1e} | {bound(statistics, k)} |")
    return worst


def compare_positions(
    layout: FeatureLayout, train: FloatArray, test: FloatArray, updates: int, variance: float
) -> None:
    """Print what updates, and storing scatter matrices in float32, do to a fit by position."""
    whole = PositionStatistics.of(train, layout.grid).fit(FitOptions(variance=variance))
    reference = whole.squared_residuals(test)
    first, *rest = np.array_split(train, updates)
    print(f"\n{layout.layer}, D = {layout.dimension}, per position, against one fit\n")
    for dtype in (np.float64, np.float32):
        statistics = PositionStatistics.of(first, layout.grid)
        for part in rest:
            arrays = statistics.to_arrays(dtype)
            statistics = PositionStatistics.from_arrays(arrays).update(part)
        subspace = statistics.fit(FitOptions(variance=variance))
        changed = int(np.count_nonzero(subspace.ranks != whole.ranks))
        same = subspace.ranks == whole.ranks
        relative = (
            np.abs(subspace.squared_residuals(test) - reference)[:, same] / reference[:, same]
        )
        print(
            f"- stored in {np.dtype(dtype).name} after every update: {changed} of "
            f"{len(whole.ranks)} ranks differ; the residual energies elsewhere by "
            f"{np.median(relative):.1e} in the median and {relative.max():.1e} at most"
        )


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--images", default=200, show_default=True, help="Training images to absorb.")
@click.option("--updates", default=10, show_default=True, help="Of equal size.")
@click.option("--capacity", default=64, show_default=True, help="The small one.")
@click.option("--variance", default=0.97, show_default=True, help="Share of the energy to keep.")
def main(data: Path, images: int, updates: int, capacity: int, variance: float) -> None:
    """Compare on the dataset DATA."""
    dataset = open_dataset(data)
    test_samples = require_test(dataset)
    labels = np.array([not sample.good for sample in test_samples])
    backbone = get_backbone(DEFAULT_BACKBONE)
    layers = plan_detector(backbone)
    size = backbone.default_size
    extractor = FeatureExtractor(backbone, layers.names, pool=1, size=size)
    paths = [sample.path for sample in require_train(dataset)][:images]
    train = extractor.split(extractor.extract(paths).X)
    test = extractor.split(extractor.extract([sample.path for sample in test_samples]).X)
    print(
        f"{dataset.name}: {len(paths)} training images in {updates} updates, {len(labels)} test "
        f"images, {backbone.name}, {size[0]} x {size[1]}, variance {variance:g}"
    )
    worst = 0.0
    for layout, X, Y in zip(extractor.layouts, train, test, strict=True):
        X, Y = np.ascontiguousarray(X), np.ascontiguousarray(Y)
        if layout.layer == layers.layers[-1].layer:
            worst = max(
                worst, compare_image_wide(layout, X, Y, labels, updates, capacity, variance)
            )
            continue
        compare_positions(layout, X, Y, updates, variance)
        if layout.layer == layers.overall:
            pooled = FeatureLayout(layout.layer, layout.channels, layout.grid, 2)
            X, Y = pool_features(X, layout, pooled), pool_features(Y, layout, pooled)
            worst = max(
                worst, compare_image_wide(pooled, X, Y, labels, updates, capacity, variance)
            )
    print(f"\nLargest sine within the capacity: {worst:.1e} (at most {ANGLE:.0e} is allowed)")
    if worst > ANGLE:
        print("Updates and one fit disagree.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
