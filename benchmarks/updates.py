"""Models that grew by updates or merges, against one training on all of their images.

A model of the first images is updated with parts of equal size, in a random order, through files,
as ``fre update`` does; and models of such parts are merged. Compared with a training on all of the
images: the image-wide subspaces (the sine of the largest principal angle), the residuals of good
images that scales and thresholds are made of, the figures on the test images, and the observed
false-alarm rate of the threshold on good test images.

    python benchmarks/updates.py DATASET

With ``--deals N`` only the false-alarm rates are looked at, over N random deals of all good images,
those of the test set included: some are learnt, in one training and by updates, and all the others
are held out. One threshold's rate is that of a few calibration scores, here of two, and varies by
more than the binomial interval of the held-out images says; the mean over deals does not.

Prints Markdown; exits with 1 if a subspace differs by more than is allowed.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student_t

from fre import FRE, Model, load, merge_models
from fre.datasets import open_dataset, require_test, require_train
from fre.evaluation.metrics import auroc, wilson_interval
from fre.onnx_tools.side_arrays import without_arrays
from fre.subspaces.image_statistics import ImageStatistics
from fre.subspaces.protocols import FitOptions
from fre.training.fitted import FittedDetector
from fre.training.update import Rebuilt
from measuring import table

SIZE = 256
"""Side of the input, in pixels."""

RATES = (0.01, 0.05, 0.1)
"""False-alarm rates whose thresholds are tried on the good test images."""


@dataclass(frozen=True)
class Scored:
    """A model and what it says of the test images."""

    name: str
    model: Model
    fitted: FittedDetector
    scores: NDArray[np.float64]

    @classmethod
    def of(cls, name: str, model: Model, paths: list[Path]) -> Scored:
        scores = [prediction.score for prediction in model.predict_many(paths)]
        return cls(name, model, Rebuilt.of(model, threads=0).fitted, np.array(scores))


ANGLE = 2e-3
"""Largest sine of a principal angle that is allowed within the capacity: nine updates through files
whose statistics have 16 bits. Residuals change by its square."""


def sine(A: NDArray[np.float64], B: NDArray[np.float64]) -> float:
    """Return the sine of the largest principal angle between two orthonormal bases."""
    return float(np.linalg.norm(A - B @ (B.T @ A), 2))


def grown(parts: list[list[Path]], make: FRE) -> Model:
    """A model of the first part, updated with the others; through a file after each."""
    with tempfile.TemporaryDirectory() as folder:
        file = make.fit(parts[0]).save(Path(folder) / "model.onnx")
        for number, part in enumerate(parts[1:], start=1):
            # All of them are known to be good, whatever the model thinks.
            load(file).update(part, accept_anomalous=True).save(file)
            print(f"{number} of {len(parts) - 1} updates", file=sys.stderr)
        return load(file)


def show_subspaces(whole: Scored, others: list[Scored], variance: float) -> float:
    """Print the image-wide subspaces; the largest sine."""
    print(
        "\n| image-wide subspace | k of one training | | k | sine |\n"
        "| --- | ---: | --- | ---: | ---: |"
    )
    worst = 0.0
    for index, part in enumerate(whole.fitted.parts):
        if not isinstance(part.statistics, ImageStatistics):
            continue
        reference = part.statistics.fit(FitOptions(variance=variance))
        for other in others:
            statistics = other.fitted.parts[index].statistics
            assert isinstance(statistics, ImageStatistics)
            subspace = statistics.fit(FitOptions(variance=variance))
            k = min(subspace.rank, reference.rank)
            angle = sine(reference.basis[:, :k], subspace.basis[:, :k])
            worst = max(worst, angle)
            print(
                f"| {part.part.name} | {reference.rank} | {other.name} | {subspace.rank} "
                f"| {angle:.1e} |"
            )
    return worst


def show_residuals(whole: Scored, others: list[Scored]) -> None:
    names = " | ".join(other.name for other in others)
    print(f"\n| mean left-out residual, of that of one training | {names} |")
    print("| --- |" + " ---: |" * len(others))
    for index, part in enumerate(whole.fitted.parts):
        shares = [
            float(other.fitted.parts[index].residuals.mean() / part.residuals.mean())
            for other in others
        ]
        print(f"| {part.part.name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")


def show_figures(scored: list[Scored], labels: NDArray[np.bool_]) -> None:
    n_good = int((~labels).sum())
    rates = " | ".join(f"alarms at {rate:g}" for rate in RATES)
    print(
        f"\nAlarms: of {n_good} good test images, with their 95 % interval.\n\n"
        f"| | images | file | frozen | image AUROC | threshold | {rates} |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |" + " ---: |" * len(RATES)
    )
    for row in scored:
        model, good = row.model, row.scores[~labels]
        alarms = []
        for rate in RATES:
            count = int((good > model.calibration.at_rate(rate).threshold).sum())
            low, high = wilson_interval(count, n_good)
            alarms.append(f"{count / n_good:.3f} ({low:.3f} to {high:.3f})")
        print(
            f"| {row.name} | {model.metadata['provenance']['n_images']} "
            f"| {len(model.data) / 1e6:.1f} MB | {len(without_arrays(model.data)) / 1e6:.1f} MB "
            f"| {auroc(row.scores, labels):.4f} | {model.threshold:.4g} | {' | '.join(alarms)} |"
        )


def show_deals(
    good: list[Path], images: int, parts: int, deals: int, make: Callable[[], FRE]
) -> None:
    """Print false-alarm rates of one training and of updates, over random deals."""
    rates: dict[str, list[list[float]]] = {"one training": [], "updates": []}
    for deal in range(deals):
        order = np.random.default_rng(deal).permutation(len(good))
        chosen = [[good[i] for i in part] for part in np.array_split(order[:images], parts)]
        held_out = [good[i] for i in order[images:]]
        models = {
            "one training": make().fit([path for part in chosen for path in part]),
            "updates": grown(chosen, make()),
        }
        for name, model in models.items():
            scores = np.array([prediction.score for prediction in model.predict_many(held_out)])
            found = [(scores > model.calibration.at_rate(rate).threshold).mean() for rate in RATES]
            rates[name].append([float(share) for share in found])
    head = ["", *(f"alarms at {rate:g}" for rate in RATES)]
    rows = [
        [name, *(_mean_text([deal[i] for deal in found]) for i in range(len(RATES)))]
        for name, found in rates.items()
    ]
    differences = np.subtract(rates["updates"], rates["one training"]).T
    rows.append(["updates less one training", *(_mean_text(list(row)) for row in differences)])
    print(
        f"\nMean over {deals} deals and its 95 % interval, {len(good) - images} held out in each.\n"
    )
    print(table(head, rows))


def _mean_text(values: list[float]) -> str:
    """Mean and the interval of Student's t."""
    mean, half = float(np.mean(values)), float("nan")
    if len(values) > 1:
        quantile = student_t.ppf(0.975, len(values) - 1)
        half = float(quantile * np.std(values, ddof=1) / np.sqrt(len(values)))
    return f"{mean:.4f} ({mean - half:.4f} to {mean + half:.4f})"


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--images", default=200, show_default=True, help="Training images to learn.")
@click.option("--parts", default=10, show_default=True, help="Of equal size.")
@click.option("--preset", default="default", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the order.")
@click.option("--deals", default=0, help="Random deals of all good images instead.")
def main(data: Path, images: int, parts: int, preset: str, seed: int, deals: int) -> None:
    """Compare on the dataset DATA."""
    dataset = open_dataset(data)
    paths = [sample.path for sample in require_train(dataset)]
    order = np.random.default_rng(seed).permutation(len(paths))[:images]
    chosen = [[paths[index] for index in part] for part in np.array_split(order, parts)]
    samples = require_test(dataset)
    labels = np.array([not sample.good for sample in samples])
    test = [sample.path for sample in samples]

    def make() -> FRE:
        # One size: of few images of many aspects, fre would choose another for each model.
        return FRE("efficientnet_lite0", preset=preset, size=SIZE)

    if deals:
        good = [*paths, *(path for path, bad in zip(test, labels, strict=True) if not bad)]
        print(f"{dataset.name}, {preset} preset: {images} of {len(good)} good images learnt")
        show_deals(good, images, parts, deals, make)
        return
    print(
        f"{dataset.name}, {preset} preset, seed {seed}: {len(order)} training images in {parts} "
        f"parts, {len(test)} test images"
    )
    whole = Scored.of("one training", make().fit([paths[i] for i in order]), test)
    # How much figures differ by the folds alone.
    other = FRE(**{**make().get_params(), "seed": 1})
    dealt = Scored.of("other folds", other.fit([paths[i] for i in order]), test)
    updated = Scored.of("updates", grown(chosen, make()), test)
    each = [make().fit(part) for part in chosen]
    merged = Scored.of("merge", merge_models(*each), test)
    middle = parts // 2
    halves = [
        make().fit([path for part in half for path in part])
        for half in (chosen[:middle], chosen[middle:])
    ]
    joined = Scored.of("merge of halves", merge_models(*halves), test)
    first = Scored.of("the first part", each[0], test)
    worst = show_subspaces(whole, [updated, merged, joined], 0.97)
    show_residuals(whole, [first, dealt, updated, merged, joined])
    show_figures([whole, dealt, first, updated, merged, joined], labels)
    print(f"\nLargest sine: {worst:.1e} (at most {ANGLE:.0e} is allowed)")
    if worst > ANGLE:
        print("Updates and one training disagree.", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
