"""Accuracy and cost of the default preset at several pixel budgets.

    python benchmarks/input_size.py DATASET... [--budget 256 --budget 320]

Each budget becomes an input of the images' aspect, as `fre train` chooses it, and never more pixels
than the images have. Each training is a process of its own. Latencies are single calls on arrays in
memory, alternating between the budgets, so that their ratios hold on a busy machine.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click

from measuring import child, isolated, peak_bytes, table

CALLS = 30


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Train a model and save it."""
    from fre import FRE
    from fre.datasets import open_dataset, require_train

    images = [sample.path for sample in require_train(open_dataset(Path(task["dataset"])))]
    began = time.perf_counter()
    FRE(size=tuple(task["size"])).fit(images).save(task["model"])
    return {"seconds": time.perf_counter() - began, "peak": peak_bytes()}


def latencies(files: list[Path], image: Any) -> list[float]:
    """Return the median seconds of a single call of each model."""
    from fre import load

    models = [load(file) for file in files]
    seconds: list[list[float]] = [[] for _ in models]
    for turn in range(CALLS + 3):
        for model, found in zip(models, seconds, strict=True):
            began = time.perf_counter()
            model.predict(image)
            if turn >= 3:  # the first calls open the runtime
                found.append(time.perf_counter() - began)
    return [median(found) for found in seconds]


def rows(dataset: Path, budgets: tuple[int, ...]) -> list[list[str]]:
    """Return the table's rows of one dataset."""
    from fre import load
    from fre.datasets import open_dataset, require_train
    from fre.evaluation.evaluate import evaluate
    from fre.images.decode import read_image
    from fre.images.input_size import ImageSizes, choose_size

    opened = open_dataset(dataset)
    images = [sample.path for sample in require_train(opened)]
    sizes = ImageSizes.of(images)
    if sizes is None:
        raise click.ClickException(f"{dataset}: no image can be read")
    with tempfile.TemporaryDirectory() as folder:
        found: list[tuple[list[str], dict[str, Any]]] = []
        files: list[Path] = []
        for budget in budgets:
            size = choose_size(sizes.aspect, budget * budget, sizes.pixels)
            files.append(Path(folder) / f"{budget}.onnx")
            task = {"dataset": str(dataset.resolve()), "size": size, "model": str(files[-1])}
            cost = isolated(Path(__file__), task, name=f"{dataset.name} at {budget}")
            model = load(files[-1], many=True)
            figures = evaluate(model, opened).to_dict()
            names = [dataset.name, f"{budget} x {budget}", f"{size[0]} x {size[1]}"]
            found.append((names, {**cost, **figures, "bytes": files[-1].stat().st_size}))
            print(*names, figures["image_auroc"], figures["aupro"], file=sys.stderr, flush=True)
        image = read_image(opened.test[0].path)
        times = latencies(files, image)
    return [
        [
            *names,
            f"{values['image_auroc']:.4f}",
            f"{values['aupro']:.4f}",
            f"{1000 * seconds:.1f} ({seconds / times[0]:.2f} x)",
            f"{values['seconds']:.1f}",
            f"{values['peak'] / 2**20:,.0f}",
            f"{values['bytes'] / 1e6:.0f}",
        ]
        for (names, values), seconds in zip(found, times, strict=True)
    ]


@click.command()
@click.argument("datasets", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--budget", "budgets", multiple=True, type=int, default=(256, 288, 320, 384))
def main(datasets: tuple[Path, ...], budgets: tuple[int, ...]) -> None:
    """Print one table of all datasets and budgets."""
    head = [
        "set",
        "budget",
        "input (height x width)",
        "image AUROC",
        "AUPRO",
        "latency, ms",
        "training, s",
        "peak of training, MiB",
        "file, MB",
    ]
    print(table(head, [row for dataset in datasets for row in rows(dataset, budgets)]))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].endswith("task.json"):
        child(measure)
    else:
        main()
