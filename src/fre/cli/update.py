"""``fre update``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fre.cli.common import (
    decision_values,
    emit,
    flag_option,
    good_option,
    json_option,
    max_pixels_option,
    note,
    note_all,
    output_option,
    reading,
    skip_unreadable_option,
    threads_option,
    threshold_lines,
)

if TYPE_CHECKING:
    from fre.model import Model


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("data", metavar="GOOD", type=click.Path(path_type=Path))
@output_option
@flag_option("--accept-anomalous", help="Also use images that MODEL calls anomalous.")
@good_option
@skip_unreadable_option
@threads_option
@max_pixels_option
@json_option
def update(
    model: Path,
    data: Path,
    output: Path,
    accept_anomalous: bool,
    good: tuple[str, ...],
    skip_unreadable: bool,
    threads: int,
    json_file: str | None,
) -> None:
    """Update a model with more good images; the earlier ones are not needed.

    GOOD is a folder of good images, or the root of a dataset, whose training split is taken. If
    MODEL calls some of them anomalous, fre lists these and writes nothing. Look at them: if they
    are good, accept them with --accept-anomalous. Leaving them out makes the threshold too low.

    \b
    Example: fre update part.onnx parts/good-new -o part-2.onnx
    """
    from fre.datasets import open_dataset, require_train
    from fre.errors import AnomalousError
    from fre.model import load
    from fre.storage.files import check_writable

    began = time.perf_counter()
    loaded = load(model, threads=threads)
    check_writable(output)
    opened = open_dataset(data, good=good)
    images = [sample.path for sample in require_train(opened)]
    note_all(opened.notes)
    try:
        with reading(images) as progress:
            updated = loaded.update(
                images,
                accept_anomalous=accept_anomalous,
                skip_unreadable=skip_unreadable,
                progress=progress,
            )
    except AnomalousError as error:
        for source, score in error.found:
            note(f"anomalous: {source} (score {score:.6g}, threshold {error.threshold:.6g})")
        raise
    updated.save(output)
    if caveat := updated.calibration.caveat():
        note(caveat)
    values = _values(output, loaded, updated, time.perf_counter() - began)
    accepted = values["n_accepted_anomalous"]
    text = (
        f"{output}: {values['n_added']} more good images, {values['n_images']} in all"
        f"{f', {accepted} of them anomalous to {model}' if accepted else ''}"
    )
    text = "\n".join(
        [text, *threshold_lines(updated), f"  threshold before: {loaded.threshold:.6g}"]
    )
    emit(values, text, json_file)


def _values(output: Path, before: Model, after: Model, seconds: float) -> dict[str, Any]:
    provenance = after.document.provenance
    added = (provenance.history or [])[-1]
    return {
        "model": str(output),
        "n_added": added.n_added,
        "n_images": provenance.n_images,
        "n_accepted_anomalous": added.n_accepted_anomalous,
        "seconds": seconds,
        **decision_values(after),
        "previous_threshold": before.threshold,
    }
