"""The HTML report of a model on a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import jinja2

from fre.datasets import load_mask
from fre.datasets.samples import Dataset
from fre.drawing.charts import number
from fre.drawing.heatmaps import Scale
from fre.drawing.notebook import data_uri
from fre.errors import OptionError
from fre.evaluation.figures import Evaluation, ScoredImage
from fre.evaluation.histogram import histogram
from fre.images.decode import read_image
from fre.model import Model
from fre.report.counts import Counts, kinds
from fre.report.decision import Decision
from fre.report.gallery import draw_cards, fit, grouped, ranked
from fre.report.overview import figures, model_rows, run_rows, verdict
from fre.report.pictures import GalleryItem, swatches
from fre.report.plots import curves
from fre.report.wording import percent
from fre.storage.files import check_writable, write_atomic
from fre.types import Progress


@dataclass(frozen=True)
class ReportedModel:
    """A model as its report shows it.

    Attributes:
        info: facts in plain values. ``name``, ``preset``, ``backbone``, ``layers``,
            ``input_size``, ``n_training_images``, ``digest``, ``created`` and ``version`` come
            first under labels of their own; other keys follow.
        decision: threshold and its origin.
        scale: map values of a typical good pixel and of a clearly anomalous one.
        draw: draws an image. It is called in order of importance: missed defects and false
            alarms, close calls, then the rest. If it raises ImageError, the page shows the reason.
    """

    info: Mapping[str, Any]
    decision: Decision
    scale: Scale
    draw: Callable[[ScoredImage], GalleryItem]

    @classmethod
    def of(cls, model: Model, name: str) -> ReportedModel:
        """Return a model under a name."""
        document, provenance = model.document, model.document.provenance
        calibration = model.calibration

        def draw(row: ScoredImage) -> GalleryItem:
            prediction = model.predict(row.sample.path)
            image = read_image(row.sample.path, prediction.bits)
            mask = load_mask(row.sample, prediction.image_size)
            return GalleryItem(image, prediction.input_map, mask)

        info = {
            "name": name,
            "preset": document.preset,
            "backbone": document.backbone.name,
            "layers": document.backbone.layers,
            "input_size": "{} x {}".format(*model.size),
            "n_training_images": provenance.n_images,
            "digest": provenance.images_sha256,
            "created": provenance.created,
            "version": document.fre_version,
        }
        decision = Decision(
            model.threshold,
            calibration.false_alarm_rate,
            provenance.threshold,
            calibration.others,
            tuple(model.odd_images),
            tuple(calibration.thresholds()),
            calibration.expected_rate,
        )
        return cls(info, decision, model.map_range, draw)


@dataclass(frozen=True)
class Limits:
    """How much a report shows.

    Attributes:
        max_images: largest number of images.
        max_bytes: largest size of all images together; their quality is reduced before their
            number.

    Raises:
        OptionError: a limit is negative.
    """

    max_images: int = 200
    max_bytes: int = 12_000_000

    def __post_init__(self) -> None:
        if self.max_images < 0 or self.max_bytes < 0:
            raise OptionError(
                f"report: expected max_images and max_bytes of at least 0, "
                f"got {self.max_images} and {self.max_bytes}"
            )


def report_on(
    file: Path,
    model: Model,
    dataset: Dataset,
    evaluation: Evaluation,
    *,
    model_name: str,
    progress: Progress | None = None,
) -> None:
    """Write the HTML report of a model on a dataset.

    Raises:
        OutputError: the file can't be written.
    """
    evaluation = replace(evaluation, notes=(*dataset.notes, *evaluation.notes))
    reported = ReportedModel.of(model, model_name)
    write_report(file, reported, dataset.name, evaluation, progress=progress)


def write_report(
    file: Path,
    model: ReportedModel,
    dataset_name: str,
    evaluation: Evaluation,
    *,
    limits: Limits | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the report of a model on a dataset: one HTML file, whole or not at all.

    Args:
        file: file to write or replace.
        model: the model.
        dataset_name: name of the dataset in the report.
        evaluation: evaluation with its images.
        limits: how much is shown; ``None`` takes the defaults.
        progress: called after each drawn image.

    Raises:
        OutputError: the file can't be written, which is checked first.
        OptionError: the evaluation has no images.
    """
    if not evaluation.images:
        raise OptionError("report: expected an evaluation with at least one image, got none")
    limits = limits or Limits()
    check_writable(file)
    rows = evaluation.images
    counts, decision = Counts.of(evaluation.confusion), model.decision
    cards = draw_cards(ranked(rows, limits.max_images), model.draw, model.scale, progress)
    level, cards = fit(cards, limits.max_bytes)
    html = template("report.html.j2").render(
        labelled=True,
        dataset=dataset_name,
        verdict=verdict(counts),
        caution=decision.caution,
        promise=decision.sentences(counts),
        notes=evaluation.notes,
        trained_on=evaluation.trained_on,
        in_review=evaluation.in_review,
        odd=decision.odd,
        trade_offs=decision.trade_offs(rows),
        figures=figures(evaluation, counts),
        kinds=kinds(evaluation),
        counts=counts,
        histogram=histogram(rows, decision.calibration, decision.threshold),
        curves=curves(evaluation, counts, decision.threshold),
        n_calibration=decision.calibration.size,
        model=model_rows(model.info),
        run=run_rows(evaluation, decision),
        groups=grouped(rows, cards),
        n_images=len(rows),
        n_shown=len(cards),
        level=level,
        swatches=swatches(),
        scale=[number(value) for value in model.scale],
        written=datetime.now(timezone.utc),
    )
    write_atomic(file, html.encode("utf-8", "replace"))


def template(name: str) -> jinja2.Template:
    """Return a template of ``fre/report/templates`` with the filters that they share."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fre.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    environment.filters["percent"] = percent
    environment.filters["data_uri"] = data_uri
    return environment.get_template(name)
