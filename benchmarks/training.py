"""How long training takes: features, fit, processor time and memory; and beside an earlier fre.

    python benchmarks/training.py DATASET [DATASET ...] [--before SRC] [--rounds 5]

Each training is a process of its own. With ``--before``, the ``src`` folder of a checkout of an
earlier commit, both versions take turns (A B, A B) with the same packages, so that other work on
the machine slows both. Processor time counts all threads of the process, and waits for nobody.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from measuring import (
    Summary,
    evenly,
    interleaved,
    isolated,
    machine,
    machine_text,
    publish,
    table,
)

CHILD = Path(__file__).resolve().parent / "peers_child.py"
PACKAGES = ("onnxruntime", "numpy", "pillow", "onnx")
FIGURES = {
    "seconds": "training, s",
    "features": "of that features, s",
    "fit": "of that fit, s",
    "processor": "processor time, s",
    "peak": "peak memory, MB",
}


def train(source: Path, files: list[str], preset: str, size: list[int] | None) -> dict[str, float]:
    """Train with the fre of a source folder, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        task = {
            "system": {"family": "fre", "preset": preset},
            "stage": "train",
            "backbone": "efficientnet_lite0",
            "weights": None,
            "model": str(Path(folder) / "training.onnx"),
            "files": files,
            "size": size,
        }
        raw = isolated(CHILD, task, name=f"training with {source}", source=source)
    return {
        "seconds": raw["train_seconds"],
        "features": raw["parts"]["features"],
        "fit": raw["parts"]["fit"],
        "processor": raw["train_processor_seconds"],
        "peak": raw["train_peak_bytes"] / 1e6,
    }


@click.command()
@click.argument(
    "data", type=click.Path(exists=True, file_okay=False, path_type=Path), nargs=-1, required=True
)
@click.option("--before", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", default=200, show_default=True, help="Training images, evenly spread.")
@click.option("--size", type=int, help="Side of the input; fre's own choice if not given.")
@click.option("--preset", default="default", type=click.Choice(["reference", "default"]))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--write", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(
    data: tuple[Path, ...],
    before: Path | None,
    images: int,
    size: int | None,
    preset: str,
    rounds: int,
    write: Path | None,
) -> None:
    """Measure training on datasets that fre can read."""
    from fre.datasets import training_images

    now = Path(__file__).resolve().parents[1] / "src"
    sources = {"now": now} if before is None else {"before": before.resolve(), "now": now}
    rows = []
    for folder in data:
        files = [str(Path(file).resolve()) for file in evenly(training_images(folder), images)]
        for file in files:
            Path(file).read_bytes()
        found: dict[str, list[dict[str, float]]] = {name: [] for name in sources}
        for turn, name in interleaved(dict.fromkeys(sources, rounds)):
            square = None if size is None else [size, size]
            found[name].append(train(sources[name], files, preset, square))
            click.echo(f"{folder.name}, round {turn + 1} of {rounds}: {name}", err=True)
        rows += [
            [f"{folder.name}, {len(files)} images, {name}"]
            + [Summary.of([one[key] for one in measured]).text() for key in FIGURES]
            for name, measured in found.items()
        ]
    given = "fre's choice of input" if size is None else f"{size} x {size} pixels"
    text = (
        f"Preset {preset}, {given}; {rounds} rounds in turn: median, in brackets least "
        f"and most.\n\n"
        f"{machine_text(machine(PACKAGES))}.\n\n{table(['', *FIGURES.values()], rows)}"
    )
    publish(text, write, "training")


if __name__ == "__main__":
    main()
