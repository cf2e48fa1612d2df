"""``fre evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fre.cli.common import (
    FIGURE_TITLES,
    emit,
    json_option,
    max_pixels_option,
    note,
    progress_bar,
    runtime_options,
)

if TYPE_CHECKING:
    from fre.types import Evaluation


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("dataset", type=click.Path(path_type=Path))
@click.option(
    "--report", type=click.Path(path_type=Path), help="Write an HTML report to this file."
)
@runtime_options
@max_pixels_option
@json_option
def evaluate(
    model: Path,
    dataset: Path,
    report: Path | None,
    runtime: str,
    threads: int,
    json_file: str | None,
) -> None:
    """Measure a model on the test images of a dataset.

    The 95 % intervals are by the choice of test images, not of training images; images/s is of
    this one run.

    \b
    Example: fre evaluate part.onnx parts --report part.html
    """
    from fre.datasets import open_dataset
    from fre.evaluation import evaluate as measure
    from fre.files import check_writable
    from fre.model import load
    from fre.model_report import report_on

    if report:
        check_writable(report)
    loaded = load(model, runtime=runtime, threads=threads)
    opened = open_dataset(dataset)
    for remark in opened.notes:
        note(remark)
    with progress_bar() as progress:
        result = measure(loaded, opened, progress=progress)
    # Before the report: should that fail, the figures are not lost.
    emit(result.to_dict(), evaluation_text(result), json_file)
    if report:
        with progress_bar() as progress:
            report_on(report, loaded, opened, result, model_name=model.name, progress=progress)


def evaluation_text(result: Evaluation) -> str:
    lines = [
        f"{result.n_good} good and {result.n_defect} defective images, "
        f"{result.images_per_second:.1f} images/s",
        "",
        f"{'':25}  figure   95% interval",
    ]
    titles = {**FIGURE_TITLES, "false_alarm_rate_observed": "false-alarm rate observed"}
    for name, title in titles.items():
        value = getattr(result, name)
        line = f"{title:25}  {'-' if value is None else f'{value:.3f}':>6}"
        if name in result.intervals:
            low, high = result.intervals[name]
            line += f"   {low:.3f} to {high:.3f}"
        lines.append(line)
    return "\n".join(lines)
