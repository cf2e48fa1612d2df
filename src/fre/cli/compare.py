"""``fre compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fre.cli.common import (
    count_option,
    emit,
    good_option,
    json_option,
    max_pixels_option,
    note_all,
    open_noted,
    reading,
    runtime_options,
    skip_unreadable_option,
)
from fre.cli.evaluate import decision_lines, tested_text
from fre.evaluation.wording import FIGURE_TITLES

if TYPE_CHECKING:
    from fre.evaluation.compare import Comparison, Difference, Disagreement


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.argument("dataset", type=click.Path(path_type=Path))
@count_option(
    "--limit", default=20, least=0, help="Number of disagreements to print; the JSON has all."
)
@good_option
@skip_unreadable_option
@runtime_options
@max_pixels_option
@json_option
def compare(
    a: Path,
    b: Path,
    dataset: Path,
    limit: int,
    good: tuple[str, ...],
    skip_unreadable: bool,
    runtime: str,
    threads: int,
    json_file: str | None,
) -> None:
    """Compare two models on the test images of a dataset.

    Found defects and false alarms are those at each model's threshold. Differences are B - A, with
    95 % intervals from a bootstrap of the test images. An interval without 0 is more than chance.
    Then follow the images that only one model calls anomalous, the strongest disagreement first.

    \b
    Example: fre compare old.onnx new.onnx parts --limit 5
    """
    from fre.evaluation.compare import compare as measure
    from fre.model import load

    models = (
        load(a, runtime=runtime, threads=threads, many=True),
        load(b, runtime=runtime, threads=threads, many=True),
    )
    opened = open_noted(dataset, good)
    with reading(sample.path for sample in opened.test) as progress:
        result = measure(*models, opened, skip_unreadable=skip_unreadable, progress=progress)
    note_all([*(f"left out: {error}" for error in result.a.unreadable), *result.a.notes])
    values = result.to_dict()
    for name, path in (("a", a), ("b", b)):
        values[name] = {"model": str(path), **values[name]}
    emit(values, comparison_text(result, a, b, opened.root, limit), json_file)


def comparison_text(result: Comparison, a: Path, b: Path, root: Path, limit: int) -> str:
    lines = []
    for name, path, figures in (("A", a, result.a), ("B", b, result.b)):
        lines += [f"{name}: {path}", *(f"  {line}" for line in decision_lines(figures))]
    lines += [tested_text(result.a), "", f"{'':25}      A      B   B - A   95% interval"]
    for name, title in FIGURE_TITLES.items():
        difference = result.differences.get(name)
        if difference is not None:
            values = f"{getattr(result.a, name):.3f}  {getattr(result.b, name):.3f}"
            lines.append(f"{title:25}  {values}  {_difference_text(difference)}")
    lines += ["", *_disagreement_lines(result.disagreements, root, limit)]
    return "\n".join(lines)


def _difference_text(difference: Difference) -> str:
    low, high = difference.interval
    return f"{difference.value:+.3f}   {low:+.3f} to {high:+.3f}"


def _disagreement_lines(found: tuple[Disagreement, ...], root: Path, limit: int) -> list[str]:
    if not found:
        return ["both call the same images anomalous"]
    right_a = sum(item.a.anomalous != item.sample.good for item in found)
    lines = [
        f"{len(found)} disagreement{'' if len(found) == 1 else 's'}: "
        f"A is right in {right_a}, B in {len(found) - right_a}"
    ]
    shown = found[:limit]
    if shown:
        lines += ["", "anomalous to   p-value A   p-value B   place A   place B   right   image"]
    for item in shown:
        caller = "A" if item.a.anomalous else "B"
        right = "A" if item.a.anomalous != item.sample.good else "B"
        path = item.sample.path
        image = path.relative_to(root) if path.is_relative_to(root) else path
        lines.append(
            f"{caller:12}   {item.a.p_value:9.4f}   {item.b.p_value:9.4f}   "
            f"{item.place_a:7g}   {item.place_b:7g}   {right:5}   {image}"
        )
    if len(found) > limit > 0:
        lines.append(f"and {len(found) - limit} more")
    return lines
