"""The page as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import ArrayLike

from fre.errors import OptionError
from fre.evaluation.figures import Evaluation, ScoredImage
from fre.report.charts import number
from fre.report.counts import Counts, kinds
from fre.report.decision import Decision
from fre.report.facts import model_rows, run_rows
from fre.report.gallery import draw_cards, fit, grouped, ranked
from fre.report.heatmaps import Scale
from fre.report.overview import figures, verdict
from fre.report.pictures import GalleryItem, data_uri, swatches
from fre.report.plots import curves, histogram
from fre.storage.files import check_writable, write_atomic
from fre.types import Progress


def write_report(
    file: Path,
    *,
    model_info: Mapping[str, Any],
    evaluation: Evaluation,
    dataset_name: str,
    calibration_scores: ArrayLike,
    threshold: float,
    false_alarm_rate: float | None,
    threshold_chosen: str | None = None,
    scale: Scale,
    gallery: Callable[[ScoredImage], GalleryItem],
    notes: Sequence[str] = (),
    max_images: int = 200,
    max_bytes: int = 12_000_000,
    written: datetime | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the report of a model on a dataset: one HTML file, whole or not at all.

    Args:
        file: where to; a file that is there is replaced.
        model_info: what is known of the model, in plain values. ``name``, ``preset``,
            ``backbone``, ``layers``, ``input_size``, ``n_training_images``, ``digest``,
            ``created`` and ``version`` come first and under their own labels, those that are
            missing with a dash; other keys follow as they are.
        evaluation: with its rows.
        dataset_name: for the reader.
        calibration_scores: (m,), scores of the good images that set the threshold; may be empty.
        threshold: above this score the model calls an image anomalous.
        false_alarm_rate: the rate the threshold was set for, in (0, 1), or ``None`` if it was set
            in another way.
        threshold_chosen: that other way in words, as the provenance of a model has it; ``None``
            or ``"by hand"`` if somebody named the threshold.
        scale: the map values of a typical good pixel and of a clearly anomalous one; one for the
            model, not one an image.
        gallery: called once for each image that may be shown, in order of importance: missed
            defects and false alarms, close calls, then the rest. Where it raises ImageError, the
            page shows the reason in place of the image.
        notes: remarks about the dataset, a line each.
        max_images: show no more than this; the page says how many it leaves out.
        max_bytes: of images in the page; quality is reduced first, then their number.
        written: date of the report; now, if not given.
        progress: told of the images as they are drawn.

    Raises:
        OutputError: the file can't be written; found before any work is done.
        OptionError: the evaluation has no rows, or a limit is negative.
    """
    if not evaluation.images:
        raise OptionError("report: expected an evaluation with at least one image, got none")
    if max_images < 0 or max_bytes < 0:
        raise OptionError(
            f"report: expected max_images and max_bytes of at least 0, "
            f"got {max_images} and {max_bytes}"
        )
    check_writable(file)
    rows = evaluation.images
    counts = Counts.of(rows)
    calibration = np.asarray(calibration_scores, np.float64)
    decision = Decision(threshold, false_alarm_rate, threshold_chosen, calibration)
    cards = draw_cards(ranked(rows, max_images), gallery, scale, progress)
    level, cards = fit(cards, max_bytes)
    html = _template().render(
        dataset=dataset_name,
        verdict=verdict(counts),
        caution=decision.caution,
        promise=decision.sentences(counts),
        notes=notes,
        figures=figures(evaluation, counts),
        kinds=kinds(rows),
        counts=counts,
        histogram=histogram(rows, calibration, threshold),
        curves=curves(evaluation, counts, threshold),
        n_calibration=calibration.size,
        model=model_rows(model_info),
        run=run_rows(evaluation, decision),
        groups=grouped(rows, cards),
        n_images=len(rows),
        n_shown=len(cards),
        level=level,
        swatches=swatches(),
        scale=[number(value) for value in scale],
        written=written or datetime.now(timezone.utc),
    )
    write_atomic(file, html.encode("utf-8", "replace"))


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fre"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["data_uri"] = data_uri
    return environment.get_template("report.html.j2")
