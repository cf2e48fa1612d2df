"""``fre threshold``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fre.cli.common import (
    Decorator,
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
    from fre.evaluation.thresholds import KnownScores
    from fre.model import Model
    from fre.scoring.calibration import Calibration


def _share(name: str, text: str) -> Decorator:
    return click.option(name, type=float, metavar="SHARE", help=text)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@path_option("-o", "--output", help="Model file to write.  [default: MODEL itself]")
@_share("--false-alarm-rate", "Share of good images that may be called anomalous, in 0 to 1.")
@click.option("--value", type=float, metavar="SCORE", help="The threshold itself, a score.")
@path_option(
    "--from-dataset",
    "dataset",
    metavar="DIR",
    help="Dataset with known defects: show what each threshold finds, or choose by them.",
)
@flag_option("--max-f1", help="With --from-dataset: choose the largest F1.")
@_share("--recall", "With --from-dataset: find this share of the defects.")
@_share("--max-miss-rate", "With --from-dataset: miss at most this share of the defects.")
@_share(
    "--review-rate",
    "Begin a review band at the threshold of this false-alarm rate: parts between both thresholds "
    "are for a person to decide.",
)
@click.option(
    "--review-value", type=float, metavar="SCORE", help="Begin a review band at this score."
)
@flag_option("--no-review", help="Remove the review band.")
@flag_option("--keep-odd", help="Let odd training images count for the threshold.")
@flag_option("--set-odd-aside", help="Set odd training images aside again.")
@good_option
@runtime_options
@max_pixels_option
@json_option
def threshold(
    model: Path,
    output: Path | None,
    dataset: Path | None,
    good: tuple[str, ...],
    runtime: str,
    threads: int,
    json_file: str | None,
    **choices: Any,
) -> None:
    """Show or change a model's threshold, without training it again.

    Without a choice, fre prints the thresholds of some false-alarm rates and changes nothing.
    Scores, p-values and maps always stay as they are.

    \b
    Example: fre threshold part.onnx
             fre threshold part.onnx --from-dataset parts
             fre threshold part.onnx --false-alarm-rate 0.02 --review-rate 0.1
    """
    _check(dataset, choices)
    if good and dataset is None:
        raise click.UsageError("--good goes with --from-dataset")
    from fre.model import load
    from fre.storage.files import check_writable

    target = output or model
    loaded = load(model, runtime=runtime, threads=threads)
    changes = any(choice not in (None, False) for choice in choices.values())
    if changes:
        check_writable(target)
    elif output is not None:
        raise click.UsageError("-o has no effect without a choice of the threshold")
    before = loaded.calibration
    known = None if dataset is None else _known_scores(loaded, dataset, good)
    said = loaded.document.provenance.threshold
    after, chosen, rule = _chosen(before, said, known, choices)
    after = _with_band(after, choices)
    if changes:
        lost = before.review_threshold is not None and after.review_threshold is None
        if lost and not choices["no_review"]:
            note("the review band went with the old threshold; --review-rate begins another")
        loaded.with_calibration(after, chosen=chosen).save(target)
    if caveat := after.caveat():
        note(caveat)
    values = {
        "model": str(target),
        "changed": changes,
        "threshold": after.threshold,
        "previous_threshold": before.threshold,
        **_figures(after),
        "table": _table(after, known),
        "known_defects": None if known is None else known.at(after.threshold) | rule,
    }
    emit(values, _text(values, after), json_file)


RULES = ("max_f1", "recall", "max_miss_rate")


def _check(dataset: Path | None, choices: dict[str, Any]) -> None:
    """Refuse choices that contradict one another."""
    given = {name for name, choice in choices.items() if choice not in (None, False)}
    rules = [name for name in RULES if name in given]
    if rules and dataset is None:
        raise click.UsageError(f"{_option(rules[0])} goes with --from-dataset")
    for names in (
        ("false_alarm_rate", "value", *RULES),
        ("review_rate", "review_value", "no_review"),
        ("keep_odd", "set_odd_aside"),
    ):
        if len(both := [name for name in names if name in given]) > 1:
            raise click.UsageError(f"give one of {_option(both[0])} and {_option(both[1])}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _known_scores(model: Model, folder: Path, good: tuple[str, ...]) -> KnownScores:
    from fre.datasets import require_test
    from fre.evaluation.thresholds import KnownScores

    dataset = open_noted(folder, good)
    samples = require_test(dataset)
    scores = []
    with progress_bar() as progress:
        for prediction in model.predict_many([sample.path for sample in samples]):
            scores.append(prediction.score)
            progress("Scoring", len(scores), len(samples))
    return KnownScores.of(dataset.name, scores, [not sample.good for sample in samples])


def _chosen(
    before: Calibration, said: str | None, known: KnownScores | None, choices: dict[str, Any]
) -> tuple[Calibration, str | None, dict[str, Any]]:
    """Return the calibration that was chosen, how in words, and the rule on known defects.

    Args:
        before: calibration of the model.
        said: how its threshold was chosen, in words.
        known: scores of images with known defects.
        choices: options of the command.
    """
    from fre.evaluation.thresholds import max_f1_threshold, recall_threshold

    after = before
    if choices["keep_odd"] or choices["set_odd_aside"]:
        after = before.with_odd(keep=choices["keep_odd"])
    if choices["false_alarm_rate"] is not None:
        return after.at_rate(choices["false_alarm_rate"]), None, {}
    if choices["value"] is not None:
        return after.at_threshold(choices["value"]), "by hand", {}
    recall = choices["recall"]
    if choices["max_miss_rate"] is not None:
        recall = 1 - choices["max_miss_rate"]
    if known is None or (recall is None and not choices["max_f1"]):
        return after, said, {}
    if recall is None:
        rule, (_, value) = "largest F1", max_f1_threshold(known.scores, known.labels)
    else:
        rule, (_, value) = (
            f"recall {recall:g}",
            recall_threshold(known.scores, known.labels, recall),
        )
    chosen = f"{rule} on the known defects of {known.name}"
    return after.at_threshold(value), chosen, {"rule": rule}


def _with_band(calibration: Calibration, choices: dict[str, Any]) -> Calibration:
    from fre.scoring.calibration import check_false_alarm_rate, conformal_threshold

    if choices["no_review"]:
        return calibration.with_review(None)
    if choices["review_value"] is not None:
        return calibration.with_review(choices["review_value"])
    if (rate := choices["review_rate"]) is not None:
        check_false_alarm_rate(rate)
        return calibration.with_review(conformal_threshold(calibration.others, rate))
    return calibration


def _figures(calibration: Calibration) -> dict[str, Any]:
    return {
        "review_threshold": calibration.review_threshold,
        "false_alarm_rate": calibration.false_alarm_rate,
        "rate_of_others": calibration.rate_of_others,
        "odd_share": calibration.odd_share,
        "expected_false_alarm_rate": calibration.expected_rate,
        "n_calibration": len(calibration.scores),
        "n_odd": calibration.n_odd,
        "n_above": calibration.n_above,
    }


def _table(calibration: Calibration, known: KnownScores | None) -> list[dict[str, Any]]:
    return [
        {
            "rate": rate,
            "threshold": value,
            "chosen": rate == calibration.false_alarm_rate,
            **({} if known is None else known.at(value)),
        }
        for rate, value in calibration.thresholds()
    ]


def _text(values: dict[str, Any], calibration: Calibration) -> str:
    known = values["known_defects"]
    before = f" (before: {values['previous_threshold']:.6g})" if values["changed"] else ""
    lines = [
        f"{values['model']}: anomalous above a score of {values['threshold']:.6g}{before}",
        f"  {calibration.rate_in_words()}",
    ]
    if (review := values["review_threshold"]) is not None:
        lines.append(f"  review above a score of {review:.6g}")
    lines += _table_lines(values["table"], calibration, known is not None)
    if known:
        lines.append(
            f"  at this threshold {known['found']} of {known['n_defect']} defects of "
            f"{known['dataset']} are found, with {known['false_alarms']} of {known['n_good']} "
            "false alarms"
        )
        if "rule" in known:
            lines.append("  chosen on these defects: the figures are optimistic for other ones")
    return "\n".join(lines)


def _table_lines(table: list[dict[str, Any]], calibration: Calibration, known: bool) -> list[str]:
    from fre.scoring.calibration import percent

    head = f"  {'false alarms':>12}  {'threshold':>10}"
    lines = [f"{head}  {'defects found':>20}  {'on good test images':>20}" if known else head]
    for row in table:
        line = f"  {percent(row['rate']):>12}  {row['threshold']:10.4g}"
        if known:
            found = f"{row['found']} of {row['n_defect']}"
            alarms = f"{row['false_alarms']} of {row['n_good']}"
            line += f"  {found:>20}  {alarms:>20}"
        line += "  <- this model" if row["chosen"] else ""
        if row["rate"] < calibration.attainable_rate:
            line += f"  (takes {round(1 / row['rate']) - 1} images to promise)"
        lines.append(line)
    return lines
