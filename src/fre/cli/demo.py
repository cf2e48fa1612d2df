"""``fre demo``."""

from __future__ import annotations

from pathlib import Path

import click

from fre.cli.common import (
    count_option,
    emit,
    json_option,
    path_option,
    progress_bar,
)
from fre.cli.evaluate import evaluation_text


@click.command()
@path_option(
    "-o",
    "--output",
    metavar="DIR",
    help="New folder for the results.  [default: fre-demo, or fre-demo-2 and so on if it exists]",
)
@count_option("--seed", default=0, least=0, help="Seed of the drawn images.")
@json_option
def demo(output: Path | None, seed: int, json_file: str | None) -> None:
    """Train, evaluate and predict on drawn images, without downloads.

    \b
    Example: fre demo
    """
    from fre.benchmark.demo import run_demo
    from fre.storage.staged_folder import staged_folder

    folder = output or _free_folder("fre-demo")
    with staged_folder(folder) as staging, progress_bar() as progress:
        result = run_demo(staging, seed=seed, progress=progress)
    text = [
        f"Trained on {result.n_images} good images in {result.seconds['total']:.1f} s.",
        "",
        evaluation_text(result.evaluation),
        "",
        f"{folder / 'report.html'}    the report: open it in a browser",
        f"{folder / 'overview.png'}   one image of each kind, with its heat map",
        f"{folder / 'overlays'}/      all heat maps; the outline is the true defect",
        f"{folder / 'plates'}/        the drawn images",
        "",
        "Try next:",
        f"  fre predict {folder / 'plate.onnx'} {folder / 'plates/test/scratch'} -o results",
        f"  fre info {folder / 'plate.onnx'}",
        "  fre train YOUR/GOOD/IMAGES -o part.onnx",
    ]
    values = {"folder": str(folder), "seconds": result.seconds, **result.evaluation.to_dict()}
    emit(values, "\n".join(text), json_file)


def _free_folder(name: str) -> Path:
    folder, count = Path(name), 1
    while folder.exists():
        count += 1
        folder = Path(f"{name}-{count}")
    return folder
