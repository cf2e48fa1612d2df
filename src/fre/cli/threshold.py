"""``fre threshold``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fre.cli.common import (
    emit,
    flag_option,
    good_option,
    json_option,
    max_pixels_option,
    note,
    open_noted,
    path_option,
    progress_bar,
    runtime_options,
)

if TYPE_CHECKING:
    from fre.model import Model
    from fre.scoring.calibration import Calibration


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@path_option("-o", "--output", help="Model file to write.  [default: MODEL itself]")
@click.option(
    "--false-alarm-rate",
    type=float,
    metavar="SHARE",
    help="Share of good images that may be called anomalous, in 0 to 1.",
)
@click.option("--value", type=float, metavar="SCORE", help="The threshold itself, a score.")
@path_option(
    "--from-dataset",
    "dataset",
    metavar="DIR",
    help="Dataset whose test images, with known defects, choose the threshold.",
)
@flag_option("--max-f1", help="With --from-dataset: choose the largest F1.")
@click.option(
    "--recall",
    type=float,
    metavar="SHARE",
    help="With --from-dataset: find this share of the defects.",
)
@good_option
@runtime_options
@max_pixels_option
@json_option
def threshold(
    model: Path,
    output: Path | None,
    false_alarm_rate: float | None,
    value: float | None,
    dataset: Path | None,
    max_f1: bool,
    recall: float | None,
    good: tuple[str, ...],
    runtime: str,
    threads: int,
    json_file: str | None,
) -> None:
    """Change a model's threshold without training it again.

    Scores, p-values and maps stay as they are. A false-alarm rate also moves the pixel threshold.
    fre prints the share of good images to expect above the threshold: (1 + scores above it) /
    (scores + 1), from the cross-fitted scores in the model.

    \b
    Example: fre threshold part.onnx --false-alarm-rate 0.02
    """
    _check_choice(false_alarm_rate, value, dataset, max_f1, recall)
    if good and dataset is None:
        raise click.UsageError("--good goes with --from-dataset")
    from fre.evaluation.thresholds import with_calibration
    from fre.model import load
    from fre.storage.files import check_writable

    target = output or model
    loaded = load(model, runtime=runtime, threads=threads)
    check_writable(target)
    before, known, chosen = loaded.calibration, None, None
    if false_alarm_rate is not None:
        after = before.at_rate(false_alarm_rate)
        if before.map_maxima is None:
            note("the model lacks the map maxima of its training images: the pixel threshold stays")
    elif value is not None:
        after, chosen = before.at_threshold(value), "by hand"
    else:
        assert dataset is not None
        known = _from_known_defects(loaded, dataset, recall, good)
        after = before.at_threshold(known.pop("threshold"))
        chosen = f"{known['rule']} on the known defects of {known['dataset']}"
    with_calibration(loaded, after, chosen=chosen).save(target)
    if caveat := after.caveat():
        note(caveat)
    values = {
        "model": str(target),
        "threshold": after.threshold,
        "previous_threshold": before.threshold,
        "pixel_threshold": after.pixel_threshold,
        "previous_pixel_threshold": before.pixel_threshold,
        "false_alarm_rate": after.false_alarm_rate,
        "expected_false_alarm_rate": after.expected_rate,
        "n_calibration": len(after.scores),
        "n_above": after.n_above,
        "known_defects": known,
    }
    emit(values, _text(values, after), json_file)


def _check_choice(
    false_alarm_rate: float | None,
    value: float | None,
    dataset: Path | None,
    max_f1: bool,
    recall: float | None,
) -> None:
    if sum(choice is not None for choice in (false_alarm_rate, value, dataset)) != 1:
        raise click.UsageError("give one of --false-alarm-rate, --value and --from-dataset")
    rules = int(max_f1) + (recall is not None)
    if rules != (dataset is not None):
        raise click.UsageError("--from-dataset goes with one of --max-f1 and --recall")


def _from_known_defects(
    model: Model, folder: Path, recall: float | None, good: tuple[str, ...]
) -> dict[str, Any]:
    from fre.datasets import require_test
    from fre.evaluation.thresholds import max_f1_threshold, recall_threshold

    dataset = open_noted(folder, good)
    samples = require_test(dataset)
    labels = [not sample.good for sample in samples]
    scores = []
    with progress_bar() as progress:
        for prediction in model.predict_many([sample.path for sample in samples]):
            scores.append(prediction.score)
            progress("Scoring", len(scores), len(samples))
    if recall is None:
        rule, (figure, chosen) = "largest F1", max_f1_threshold(scores, labels)
    else:
        rule, (figure, chosen) = f"recall {recall:g}", recall_threshold(scores, labels, recall)
    return {
        "threshold": chosen,
        "dataset": dataset.name,
        "rule": rule,
        "f1" if recall is None else "recall": figure,
        "n_good": labels.count(False),
        "n_defect": labels.count(True),
        "n_good_above": sum(
            score > chosen and not defect for score, defect in zip(scores, labels, strict=True)
        ),
    }


def _text(values: dict[str, Any], calibration: Calibration) -> str:
    lines = [
        f"{values['model']}: anomalous above a score of {values['threshold']:.6g} "
        f"(before: {values['previous_threshold']:.6g})"
    ]
    if calibration.expected_rate is None:
        lines.append("  expected false-alarm rate unknown: the model has no scores of good images")
    else:
        lines.append(
            f"  expected false-alarm rate {calibration.expected_rate:.3g}: {values['n_above']} of "
            f"{values['n_calibration']} good images score above it"
        )
    if values["pixel_threshold"] == values["previous_pixel_threshold"]:
        lines.append(f"  pixel threshold {values['pixel_threshold']:.6g}, as before")
    else:
        lines.append(
            f"  pixel threshold {values['pixel_threshold']:.6g} "
            f"(before: {values['previous_pixel_threshold']:.6g})"
        )
    if known := values["known_defects"]:
        figure = f"F1 {known['f1']:.3f}" if "f1" in known else f"recall {known['recall']:.3f}"
        lines.append(
            f"  chosen on known defects ({known['dataset']}: {known['n_good']} good, "
            f"{known['n_defect']} defective; {figure}, {known['n_good_above']} false alarms): "
            "these figures are optimistic, other defects may be missed"
        )
    return "\n".join(lines)
