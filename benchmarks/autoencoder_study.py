"""How near the trained autoencoder of FRE comes to its closed form, on real images.

    python benchmarks/autoencoder_study.py DATA [--backbone resnet18 --weights FILE] [--rank 220]

Both are fitted to the same features, extracted once; the autoencoder is looked at in the course
of its training. Columns:

- MSE ratio: the training features' squared residual, over that of the closed form, which is the
  least that any linear autoencoder of that rank can have;
- angles, in degrees: principal angles between the space that the decoder spans and the closed
  form's; "top half" has the closed form's leading k/2 directions only, against all of the
  decoder's;
- image AUROC: on the test split, of the sum of the squared residual;
- seconds: of the fit alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fre.backbones import DEFAULT_BACKBONE, get_backbone
from fre.datasets import open_dataset, require_test, require_train
from fre.errors import FREError
from fre.evaluation.metrics import auroc
from fre.features.extractor import FeatureExtractor
from fre.images.geometry import Geometry
from fre.images.preparation import Preparation
from fre.subspaces.autoencoder import AutoencoderOptions, LinearAutoencoder, train_autoencoder
from fre.subspaces.gram import Gram
from fre.subspaces.protocols import FitOptions
from fre.subspaces.subspace import ImageSubspace
from fre.types import FloatArray, Progress

SNAPSHOTS = (1, 3, 10, 30, 50, 100, 220)


@dataclass(frozen=True)
class Row:
    """One line of the table; ``epochs`` is ``None`` for the closed form."""

    epochs: int | None
    mse_ratio: float
    kept_variance: float
    angle_max: float
    angle_mean: float
    top_half_angle_max: float
    top_half_angle_mean: float
    image_auroc: float
    seconds: float


def principal_angles(A: NDArray[np.floating], B: NDArray[np.floating]) -> NDArray[np.float64]:
    """Angles between the column spaces of two matrices, in degrees, ascending."""
    Q = np.linalg.qr(A.astype(np.float64))[0]
    R = np.linalg.qr(B.astype(np.float64))[0]
    cosines = np.linalg.svd(Q.T @ R, compute_uv=False)
    return np.degrees(np.arccos(np.minimum(cosines, 1)))


def describe(
    fitted: ImageSubspace | LinearAutoencoder,
    optimum: ImageSubspace,
    test: FloatArray,
    defective: NDArray[np.bool_],
    seconds: float,
) -> Row:
    epochs: int | None
    spanned: NDArray[np.floating]
    if isinstance(fitted, LinearAutoencoder):
        epochs, spanned, energy = fitted.epochs, fitted.decoder, fitted.residual_energy
    else:
        epochs, spanned, energy = None, fitted.basis, fitted.discarded
    angles = principal_angles(spanned, optimum.basis)
    top_half = principal_angles(spanned, optimum.basis[:, : max(1, optimum.rank // 2)])
    return Row(
        epochs=epochs,
        mse_ratio=energy / optimum.discarded,
        kept_variance=fitted.kept_variance,
        angle_max=float(angles.max()),
        angle_mean=float(angles.mean()),
        top_half_angle_max=float(top_half.max()),
        top_half_angle_mean=float(top_half.mean()),
        image_auroc=auroc(np.square(fitted.residual(test)).sum(axis=1), defective),
        seconds=seconds,
    )


def markdown(rows: list[Row]) -> str:
    lines = [
        "| fit | MSE ratio | kept variance | angle max | mean | top half max | mean "
        "| image AUROC | seconds |",
        "| --- " * 9 + "|",
    ]
    for row in rows:
        name = "closed form" if row.epochs is None else f"autoencoder, {row.epochs} epochs"
        lines.append(
            f"| {name} | {row.mse_ratio:.3f} | {row.kept_variance:.4f} | {row.angle_max:.1f} "
            f"| {row.angle_mean:.1f} | {row.top_half_angle_max:.1f} "
            f"| {row.top_half_angle_mean:.1f} | {row.image_auroc:.4f} | {row.seconds:.2f} |"
        )
    return "\n".join(lines)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A bar on stderr for each task; nothing where that is no terminal."""
    bars: dict[str, Any] = {}

    def show(task: str, done: int, total: int) -> None:
        if task not in bars:
            bars[task] = tqdm(desc=task, total=total, disable=None)
        bars[task].update(done - bars[task].n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


def study(
    train: FloatArray,
    test: FloatArray,
    defective: NDArray[np.bool_],
    *,
    rank: int,
    kind: Any,
    epochs: int,
    learning_rate: float,
    seed: int,
    threads: int,
    progress: Progress,
) -> list[Row]:
    """Fit both; the closed form's row comes last."""
    began = time.perf_counter()
    optimum = Gram(train).fit(FitOptions(rank=rank))
    closed_form = describe(optimum, optimum, test, defective, time.perf_counter() - began)
    rows: list[Row] = []
    looked_at = {epoch for epoch in SNAPSHOTS if epoch < epochs} | {epochs}
    began = time.perf_counter()

    def look(epoch: int, snapshot: Callable[[], LinearAutoencoder]) -> None:
        nonlocal began
        paused = time.perf_counter()
        if epoch in looked_at:
            rows.append(describe(snapshot(), optimum, test, defective, paused - began))
        began += time.perf_counter() - paused

    options = AutoencoderOptions(
        rank, kind, epochs, learning_rate=learning_rate, seed=seed, threads=threads
    )
    train_autoencoder(train, options, progress=progress, on_epoch=look)
    return [*rows, closed_form]


@click.command(help=__doc__.split("\n\n")[0] if __doc__ else None)
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--backbone", default=DEFAULT_BACKBONE, show_default=True)
@click.option("--weights", type=click.Path(exists=True, path_type=Path))
@click.option("--layer", help="the backbone's reference layer, if not given")
@click.option("--pool", default=2, show_default=True)
@click.option("--size", default=256, show_default=True)
@click.option("--rank", default=220, show_default=True)
@click.option("--kind", type=click.Choice(["tied", "plain"]), default="tied", show_default=True)
@click.option("--epochs", default=220, show_default=True)
@click.option("--learning-rate", default=1e-3, show_default=True)
@click.option("--seed", default=42, show_default=True)
@click.option("--threads", default=0, help="of PyTorch; 0 leaves their number to it")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="write the rows here")
def main(
    data: Path,
    backbone: str,
    weights: Path | None,
    layer: str | None,
    pool: int,
    size: int,
    json_file: Path | None,
    **training: Any,
) -> None:
    try:
        dataset = open_dataset(data)
        require_train(dataset)
        require_test(dataset)
        network = get_backbone(backbone, weights=weights)
        extractor = FeatureExtractor(
            network,
            layer or network.reference_layer,
            Preparation(Geometry((size, size))),
            pool=pool,
        )
        with progress_bars() as progress:
            train, test = (
                extractor.extract([sample.path for sample in samples], progress=progress).X
                for samples in (dataset.train, dataset.test)
            )
            defective = np.array([not sample.good for sample in dataset.test])
            rows = study(train, test, defective, progress=progress, **training)
    except FREError as error:
        raise click.ClickException(str(error)) from error
    setting = {
        "dataset": dataset.name,
        "backbone": backbone,
        "layer": extractor.layout.layer,
        "pool": pool,
        "size": size,
        "n": len(train),
        "dimension": extractor.layout.dimension,
        **training,
    }
    print(", ".join(f"{name} {value}" for name, value in setting.items()), end="\n\n")
    print(markdown(rows))
    if json_file:
        result = {**setting, "rows": [asdict(row) for row in rows]}
        json_file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
