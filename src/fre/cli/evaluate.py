"""``fre evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fre.cli.common import (
    emit,
    good_option,
    json_option,
    max_pixels_option,
    note,
    note_all,
    open_noted,
    path_option,
    progress_bar,
    reading,
    runtime_options,
    skip_unreadable_option,
)
from fre.evaluation.wording import (
    DECISION_TITLES,
    RANKING_TITLES,
    decision_sentence,
    whole_percent,
)

if TYPE_CHECKING:
    from fre.evaluation.figures import Evaluation

NAMED = 5
"""Images that a message lists by name."""


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

    Found defects and false alarms at the model's threshold come first; a test image that the model
    was trained on is named before them. Figures marked "best" are the largest over all thresholds
    on these very images. In the JSON, "confusion" counts tp (defects found), fp (false alarms), fn
    (defects missed) and tn.

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
    if json_file == "-" and result.trained_on:
        note(trained_on_text(result))
    # Printed first, so that a failing report does not lose the figures.
    emit(result.to_dict(), evaluation_text(result), json_file)
    if report:
        with progress_bar() as progress:
            report_on(report, loaded, opened, result, model_name=model.name, progress=progress)


def evaluation_text(result: Evaluation) -> str:
    lines = [*decision_lines(result), ""]
    lines += [f"{tested_text(result)}, {result.images_per_second:.1f} images/s", ""]
    for head, titles in (
        ("at the model's threshold", DECISION_TITLES),
        ("over all thresholds", RANKING_TITLES),
    ):
        lines.append(f"{head:25}  figure   95% interval")
        lines += [_figure_line(result, name, title) for name, title in titles.items()]
    lines.append("best: the largest over all thresholds on these very images")
    return "\n".join(lines)


def decision_lines(result: Evaluation) -> list[str]:
    """Return found defects and false alarms, by kind of defect; first any image trained on."""
    counts = result.confusion
    lines = [bold(trained_on_text(result))] if result.trained_on else []
    lines.append(decision_sentence(result))
    width = max(map(len, result.kinds), default=0)
    for kind, total in result.kinds.items():
        part = result.found_by_kind[kind]
        lines.append(f"  {kind:{width}}  {part} of {total} ({whole_percent(part, total)})")
    if (band := result.in_review) is not None:
        lines.append(
            f"in the review band: {band['defect']} of the other {counts.fn} defects, "
            f"{band['good']} of the other {counts.tn} good images"
        )
    return lines


def trained_on_text(result: Evaluation) -> str:
    """Return which test images the model was trained on."""
    names = result.trained_on
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"TRAINED ON {len(names)} of these {len(result.images)} test images, so the figures are "
        f"too good: {', '.join(names[:NAMED])}{more}; train without them"
    )


def bold(text: str) -> str:
    return click.style(text, bold=True) if sys.stdout.isatty() else text


def _figure_line(result: Evaluation, name: str, title: str) -> str:
    value = getattr(result, name)
    line = f"{title:25}  {'-' if value is None else f'{value:.3f}':>6}"
    if value is None:
        line += f"   {result.reasons.get(name, '')}"
    if name in result.intervals:
        low, high = result.intervals[name]
        line += f"   {low:.3f} to {high:.3f}"
    return line.rstrip()


def tested_text(result: Evaluation) -> str:
    """Return the numbers of scored images by kind."""
    kinds = ", ".join(f"{kind} {number}" for kind, number in result.kinds.items())
    n_masks = sum(len(row.sample.masks) for row in result.images)
    text = f"{result.n_good} good and {result.n_defect} defective images"
    text += f" ({kinds})" if kinds else ""
    text += f", {n_masks} masks" if n_masks else ""
    return text + (f", {len(result.unreadable)} unreadable" if result.unreadable else "")
