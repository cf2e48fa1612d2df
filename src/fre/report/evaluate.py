"""`fre.evaluate`: an evaluation that can write its own report."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from fre.datasets import open_dataset
from fre.datasets.samples import Dataset
from fre.evaluation.evaluate import Predictor
from fre.evaluation.evaluate import evaluate as measure
from fre.evaluation.figures import Evaluation
from fre.model import Model
from fre.report.page import report_on
from fre.types import Progress


def evaluate(
    model: Predictor,
    dataset: Dataset | Path | str,
    *,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Score the test images of a dataset, and compare with their labels and masks.

    As `fre.evaluation.evaluate.evaluate`, which says how; here `Evaluation.report` works, too.

    Args:
        model: loaded model.
        dataset: dataset, or its folder.
        skip_unreadable: skip test images that can't be read, instead of stopping.
        progress: called as the work advances.

    Raises:
        DatasetError: there are no test images that can be read, or a mask has another size than
            its image or can't be read.
        ImageError: an image can't be read, and ``skip_unreadable`` is false.
    """
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    result = measure(model, opened, skip_unreadable=skip_unreadable, progress=progress)
    if not isinstance(model, Model):
        return result
    return replace(result, reporter=partial(_write, model, opened))


def _write(model: Model, dataset: Dataset, file: Path, evaluation: Evaluation) -> None:
    report_on(file, model, dataset, evaluation, model_name="model")
