"""``fre evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fre.cli.common import (
    FIGURE_TITLES,
    emit,
    good_option,
    json_option,
    max_pixels_option,
    note_all,
    open_noted,
    path_option,
    progress_bar,
    reading,
    runtime_options,
    skip_unreadable_option,
)

if TYPE_CHECKING:
    from fre.evaluation.figures import Evaluation


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("dataset", type=click.Path(path_type=Path))
@path_option("--report", help="Write an HTML report to FILE.")
@good_option
@skip_unreadable_option
@runtime_options
@max_pixels_option
@json_option
def evaluate(
    model: Path,
    dataset: Path,
    report: Path | None,
    good: tuple[str, ...],
    skip_unreadable: bool,
    runtime: str,
    threads: int,
    json_file: str | None,
) -> None:
    """Measure a model on the test images of a dataset.

    The 95 % intervals cover the choice of test images, not of training images. images/s is the
    speed of this run. A figure that can't be computed is shown as - with the reason, and is null
    in the JSON.

    \b
    Example: fre evaluate part.onnx parts --report part.html
    """
    from fre.evaluation.evaluate import evaluate as measure
    from fre.model import load
    from fre.report.page import report_on
    from fre.storage.files import check_writable

    if report:
        check_writable(report)
    loaded = load(model, runtime=runtime, threads=threads, many=True)
    opened = open_noted(dataset, good)
    with reading(sample.path for sample in opened.test) as progress:
        result = measure(loaded, opened, skip_unreadable=skip_unreadable, progress=progress)
    note_all([*(f"left out: {error}" for error in result.unreadable), *result.notes])
    # Printed first, so that a failing report does not lose the figures.
    emit(result.to_dict(), evaluation_text(result), json_file)
    if report:
        with progress_bar() as progress:
            report_on(report, loaded, opened, result, model_name=model.name, progress=progress)


def evaluation_text(result: Evaluation) -> str:
    lines = [
        f"{tested_text(result)}, {result.images_per_second:.1f} images/s",
        "",
        f"{'':25}  figure   95% interval",
    ]
    titles = {**FIGURE_TITLES, "false_alarm_rate_observed": "false-alarm rate observed"}
    for name, title in titles.items():
        value = getattr(result, name)
        line = f"{title:25}  {'-' if value is None else f'{value:.3f}':>6}"
        if value is None:
            line += f"   {result.reasons.get(name, '')}"
        if name in result.intervals:
            low, high = result.intervals[name]
            line += f"   {low:.3f} to {high:.3f}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def tested_text(result: Evaluation) -> str:
    """Return the numbers of scored images by kind."""
    kinds = ", ".join(f"{kind} {number}" for kind, number in result.kinds.items())
    n_masks = sum(len(row.sample.masks) for row in result.images)
    text = f"{result.n_good} good and {result.n_defect} defective images"
    text += f" ({kinds})" if kinds else ""
    text += f", {n_masks} masks" if n_masks else ""
    return text + (f", {len(result.unreadable)} unreadable" if result.unreadable else "")
