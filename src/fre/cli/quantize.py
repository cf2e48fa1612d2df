"""``fre quantize``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fre.cli.common import (
    emit,
    flag_option,
    json_option,
    max_pixels_option,
    note,
    open_noted,
    output_option,
    path_option,
    progress_bar,
    runtime_options,
)
from fre.errors import OptionError
from fre.evaluation.wording import FIGURE_TITLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from fre.quantize import Quantization, Side


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("good", type=click.Path(path_type=Path))
@output_option
@path_option(
    "--dataset",
    "tested",
    metavar="DIR",
    help="Dataset whose test images both models are evaluated on.",
)
@flag_option("--force", help="Write the model even if it is slower or finds less.")
@runtime_options
@max_pixels_option
@json_option
def quantize(
    model: Path,
    good: Path,
    output: Path,
    tested: Path | None,
    force: bool,
    runtime: str,
    threads: int,
    json_file: str | None,
) -> None:
    """Make a smaller, faster model in 8-bit integers.

    GOOD are good images, best those that MODEL was trained on. They set the integer ranges of the
    network, and the subspaces, scales and threshold are fitted to them again.

    Nothing is written if the result is not faster than MODEL on this machine, one image at a time;
    if image AUROC on the dataset falls by more than 0.01; or, without a dataset, if the scores of
    both models on the good images have a rank correlation (Spearman) below 0.95.

    \b
    Example: fre quantize part.onnx parts -o part8.onnx --dataset parts
    """
    from fre.model import load
    from fre.quantize import quantize as make
    from fre.storage.files import check_writable

    check_writable(output)
    loaded = load(model, threads=threads)
    dataset = None if tested is None else open_noted(tested)
    with progress_bar() as progress:
        result = make(
            loaded, good, dataset=dataset, runtime=runtime, threads=threads, progress=progress
        )
    written = force or not result.objections
    if written:
        result.model.save(output)
    values = {"model": str(output) if written else None, **result.to_dict()}
    emit(values, _text(result), json_file)
    if not result.same_images:
        note("the model was trained on other images, so differences may come from the images")
    if caveat := result.model.calibration.caveat():
        note(caveat)
    if not written:
        instead = "" if dataset else ", and --dataset compares on known defects instead"
        raise OptionError(
            f"{output}: not written: {'; '.join(result.objections)}; "
            f"--force writes it anyway{instead}"
        )


def _text(result: Quantization) -> str:
    sides = result.before, result.after
    lines = [
        f"{'':25}  {'before':>9}  {'after':>9}",
        _row("file, MB", sides, lambda side: f"{side.megabytes:.1f}"),
        _row("one image, ms", sides, lambda side: f"{side.milliseconds:.2f}"),
        _row("threshold", sides, lambda side: f"{side.calibration.threshold:.4g}"),
        _row("expected false-alarm rate", sides, _expected),
    ]
    if result.before.evaluation is not None:
        lines += [
            _row(title, sides, partial(_evaluated, name)) for name, title in FIGURE_TITLES.items()
        ]
    which = "good" if result.before.evaluation is None else "test"
    lines.append(
        f"rank correlation of the scores on {result.n_images} {which} images: "
        f"{result.correlation:.3f}"
    )
    return "\n".join(lines)


def _row(title: str, sides: tuple[Side, Side], show: Callable[[Side], str]) -> str:
    before, after = map(show, sides)
    return f"{title:25}  {before:>9}  {after:>9}"


def _expected(side: Side) -> str:
    return _figure(side.calibration.expected_rate)


def _evaluated(name: str, side: Side) -> str:
    value: Any = getattr(side.evaluation, name)
    return _figure(value)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
