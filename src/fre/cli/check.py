"""``fre check``."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from fre.cli.common import (
    emit,
    good_option,
    json_option,
    max_pixels_option,
    open_noted,
    progress_bar,
    threads_option,
)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--false-alarm-rate",
    default=0.01,
    show_default=True,
    metavar="SHARE",
    help="Share of good images that may alarm, in 0 to 1.",
)
@good_option
@threads_option
@max_pixels_option
@json_option
def check(
    data: Path,
    false_alarm_rate: float,
    good: tuple[str, ...],
    threads: int,
    json_file: str | None,
) -> None:
    """Check good images before a training, in seconds.

    DATA is as for fre train; of a dataset, the good training images are checked. The check names
    near-duplicates, odd images, blur, wrong exposure and mixed products, and says which
    false-alarm rate the images can guarantee. Findings are advice: the exit code is 0.

    \b
    Example: fre check parts
    """
    from fre.datasets import require_train
    from fre.storage.listing import relative
    from fre.training.check import check_images

    opened = open_noted(data, good)
    files = [sample.path for sample in require_train(opened)]
    with progress_bar() as progress:
        found = check_images(
            files,
            [relative(path, opened.root) for path in files],
            false_alarm_rate=false_alarm_rate,
            threads=threads,
            progress=progress,
        )
    command = " ".join(
        [found.next_command(str(data)), *(f"--good {shlex.quote(name)}" for name in good)]
    )
    text = "\n".join([f"{data}:", *(f"  {line}" for line in found.lines()), f"next: {command}"])
    emit({"data": str(data), **found.to_dict(), "next": command}, text, json_file)
