"""``fre import``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fre.cli.common import emit, json_option, max_pixels_option, note, parse_size, progress_bar


@click.command(name="import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The model file."
)
@click.option(
    "--good",
    type=click.Path(path_type=Path),
    help="Good images to calibrate on, best ones it was not trained on.  [default: none; the "
    "threshold is the checkpoint's own]",
)
@click.option("--backbone", help="timm's name of the network.  [default: the checkpoint's]")
@click.option("--size", callback=parse_size, help="256, or HxW.  [default: the checkpoint's]")
@click.option(
    "--false-alarm-rate",
    default=0.01,
    show_default=True,
    help="Share of good images that may be called anomalous.",
)
@click.option("--threads", type=click.IntRange(min=0), default=0, help="0 takes all cores.")
@max_pixels_option
@json_option
def import_(checkpoint: Path, output: Path, json_file: str | None, **options: Any) -> None:
    """Make a model of a checkpoint of anomalib's Fre.

    It then runs without PyTorch, with p-values from good images.

    \b
    Example: fre import model.ckpt --good parts/good-new -o part.onnx
    """
    from fre.checkpoint import import_checkpoint
    from fre.files import check_writable

    check_writable(output)
    with progress_bar() as progress:
        model = import_checkpoint(checkpoint, progress=progress, **options)
    model.save(output)
    if caveat := model.calibration.caveat():
        note(caveat)
    n = len(model.calibration.scores)
    emit(
        {"model": str(output), "n_calibration": n, "threshold": model.threshold},
        f"{output}: imported, calibrated on {n} good images; anomalous above a score of "
        f"{model.threshold:.6g}",
        json_file,
    )
