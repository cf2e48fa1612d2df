"""The closed form against scikit-learn's PCA, on the same features of real images.

A linear autoencoder has its optimum where PCA is (Baldi and Hornik, 1989), and PCA is the earlier
form of FRE (Ndiour, Ahuja and Tickoo, "Subspace Modeling for Fast Out-Of-Distribution and Anomaly
Detection", ICIP 2022). In scikit-learn's words: ``PCA(n_components=0.97, svd_solver="full")``, and
the energy of ``x - inverse_transform(transform(x))`` as the score. fre finds the same subspace
from a Gram matrix.

    python benchmarks/parity_pca.py DATASET

Needs ``fre-vision[test]``. Prints Markdown; exits with 1 if the two disagree.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from fre.backbones import DEFAULT_BACKBONE, get_backbone
from fre.datasets import open_dataset, require_test, require_train
from fre.datasets.samples import Sample
from fre.evaluation.metrics import auroc
from fre.features.extractor import FeatureExtractor
from fre.images.geometry import Geometry
from fre.images.preparation import Preparation
from fre.subspaces.gram import Gram
from fre.subspaces.protocols import FitOptions

TOLERANCE = 1e-4


def thin_out(samples: Sequence[Sample], limit: int | None) -> list[Path]:
    """At most ``limit`` of the files, evenly spread over their order."""
    paths = [sample.path for sample in samples]
    if limit is None or limit >= len(paths):
        return paths
    return [paths[index] for index in np.linspace(0, len(paths) - 1, limit).round().astype(int)]


def scikit_learn_scores(
    train: NDArray[np.float64], test: NDArray[np.float64], variance: float
) -> tuple[int, NDArray[np.float64], float]:
    """Rank, score of each test feature, and the seconds that the fit took."""
    began = time.perf_counter()
    pca = PCA(n_components=variance, svd_solver="full").fit(train)
    seconds = time.perf_counter() - began
    residual = test - pca.inverse_transform(pca.transform(test))
    return int(pca.n_components_), np.square(residual).sum(axis=1), seconds


def closed_form_scores(
    train: NDArray[np.floating], test: NDArray[np.floating], variance: float
) -> tuple[int, NDArray[np.float64], float]:
    """Rank, score of each test feature, and the seconds that the fit took."""
    began = time.perf_counter()
    subspace = Gram(train).fit(FitOptions(variance=variance))
    seconds = time.perf_counter() - began
    return subspace.rank, np.square(subspace.residual(test)).sum(axis=1), seconds


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--backbone", default=DEFAULT_BACKBONE, show_default=True)
@click.option("--weights", type=click.Path(path_type=Path), help="A file of weights for it.")
@click.option("--layer", help="[default: the backbone's reference layer]")
@click.option("--size", default=256, show_default=True, help="Edge of the input, in pixels.")
@click.option("--pool", default=2, show_default=True, help="Edge of the pooling windows.")
@click.option("--variance", default=0.97, show_default=True, help="Share of the energy to keep.")
@click.option("--limit", type=click.IntRange(min=2), help="At most this many training images.")
def main(
    data: Path,
    backbone: str,
    weights: Path | None,
    layer: str | None,
    size: int,
    pool: int,
    variance: float,
    limit: int | None,
) -> None:
    """Compare on the dataset DATA: fit on its training images, score its test images."""
    dataset = open_dataset(data)
    test_samples = require_test(dataset)
    labels = np.array([not sample.good for sample in test_samples])
    network = get_backbone(backbone, weights=weights)
    extractor = FeatureExtractor(
        network, layer or network.reference_layer, Preparation(Geometry((size, size))), pool=pool
    )
    train = extractor.extract(thin_out(require_train(dataset), limit)).X
    test = extractor.extract([sample.path for sample in test_samples]).X

    # scikit-learn computes in the precision it is given. Doubles make it the reference.
    rank, scores, seconds = scikit_learn_scores(
        train.astype(np.float64), test.astype(np.float64), variance
    )
    our_rank, our_scores, our_seconds = closed_form_scores(train, test, variance)
    difference = float(np.max(np.abs(our_scores - scores) / scores))

    both = 0 < labels.sum() < len(labels)
    aurocs = [f"{auroc(s, labels):.6f}" if both else "-" for s in (scores, our_scores)]
    print(
        f"{dataset.name}: {len(train)} training and {len(test)} test images, {network.name} "
        f"{extractor.layout.layer}, pool {pool}, {size} x {size}, "
        f"D = {extractor.layout.dimension}, variance {variance:g}\n\n"
        "| | scikit-learn PCA | fre closed form |\n"
        "| --- | --- | --- |\n"
        f"| rank | {rank} | {our_rank} |\n"
        f"| image AUROC | {aurocs[0]} | {aurocs[1]} |\n"
        f"| fit, seconds | {seconds:.2f} | {our_seconds:.2f} |\n\n"
        f"Largest relative difference of the scores: {difference:.1e} "
        f"(at most {TOLERANCE:.0e} is allowed)"
    )
    if rank != our_rank or not difference <= TOLERANCE:
        print("The closed form and scikit-learn's PCA disagree.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
