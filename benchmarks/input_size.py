"""Accuracy and cost of the default preset at several inputs: pixel budgets, larger inputs, tiles.

    python benchmarks/input_size.py DATASET... [--budget 256 --budget 320]
    python benchmarks/input_size.py DATASET --train "--size 512" --train "--tile 256 --overlap 64"

Each budget becomes an input of the images' aspect, as `fre train` chooses it, and never more pixels
than the images have; a budget that gives the same input as a smaller one is left out. --train gives
options of `fre train` instead. Each training is a process of its own. Latencies are single calls on
arrays in memory, alternating between the models, so that their ratios hold on a busy machine. For
the same reason training is given in seconds of one core, of all threads together.
"""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click

from measuring import child, isolated, peak_bytes, table

CALLS = 30
HEAD = (
    "set",
    "options",
    "input (height x width)",
    "image AUROC",
    "AUPRO",
    "latency, ms",
    "training, core s",
    "peak of training, MiB",
    "file, MB",
)


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Train a model by the command line's function, and save it."""
    from fre.cli import cli

    arguments = ["train", task["dataset"], "-o", task["model"], *task["options"]]
    began = time.process_time()
    cli.main(arguments, standalone_mode=False)
    return {"seconds": time.process_time() - began, "peak": peak_bytes()}


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


def options_of(dataset: Path, budgets: tuple[int, ...]) -> dict[str, list[str]]:
    """Return options of `fre train` for each budget, by the budget in words."""
    from fre.datasets import open_dataset, require_train
    from fre.images.input_size import ImageSizes, choose_size

    sizes = ImageSizes.of([sample.path for sample in require_train(open_dataset(dataset))])
    if sizes is None:
        raise click.ClickException(f"{dataset}: no image can be read")
    found: dict[tuple[int, int], str] = {}
    for budget in budgets:
        size = choose_size(sizes.aspect, budget * budget, sizes.pixels)
        found.setdefault(size, f"{budget} x {budget}")
    return {name: ["--size", f"{size[0]}x{size[1]}"] for size, name in found.items()}


def rows(dataset: Path, options: dict[str, list[str]]) -> list[list[str]]:
    """Return the table's rows of one dataset.

    Args:
        dataset: folder of the dataset.
        options: options of `fre train`, by their name in the table.
    """
    from fre import load
    from fre.datasets import open_dataset
    from fre.evaluation.evaluate import evaluate
    from fre.images.decode import read_image

    opened = open_dataset(dataset)
    with tempfile.TemporaryDirectory() as folder:
        found: list[tuple[list[str], dict[str, Any]]] = []
        files: list[Path] = []
        for name, chosen in options.items():
            files.append(Path(folder) / f"{len(files)}.onnx")
            task = {
                "dataset": str(dataset.resolve()),
                "options": chosen,
                "model": str(files[-1]),
            }
            cost = isolated(Path(__file__), task, name=f"{dataset.name}, {name}")
            model = load(files[-1], many=True)
            figures = evaluate(model, opened).to_dict()
            names = [dataset.name, name, "{} x {}".format(*model.size)]
            found.append((names, {**cost, **figures, "bytes": files[-1].stat().st_size}))
            print(*names, figures["image_auroc"], figures["aupro"], file=sys.stderr, flush=True)
        times = latencies(files, read_image(opened.test[0].path))
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
@click.option("--train", "given", multiple=True, metavar="OPTIONS")
def main(datasets: tuple[Path, ...], budgets: tuple[int, ...], given: tuple[str, ...]) -> None:
    """Print one table of all datasets and inputs."""
    found: list[list[str]] = []
    for dataset in datasets:
        named = {text: shlex.split(text) for text in given} or options_of(dataset, budgets)
        found += rows(dataset, named)
    print(table(HEAD, found))


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].endswith("task.json"):
        child(measure)
    else:
        main()
