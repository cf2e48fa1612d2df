"""The report of a model on a dataset: what `fre.report` needs, gathered."""

from __future__ import annotations

from pathlib import Path

from fre.datasets import load_mask
from fre.datasets.samples import Dataset
from fre.evaluation.figures import Evaluation, ScoredImage
from fre.images.decode import read_image
from fre.model import Model
from fre.report.decision import Decision
from fre.report.page import write_report
from fre.report.pictures import GalleryItem
from fre.types import Progress


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

    def gallery(row: ScoredImage) -> GalleryItem:
        prediction = model.predict(row.sample.path)
        mask = load_mask(row.sample, prediction.image_size)
        return GalleryItem(read_image(row.sample.path, prediction.bits), prediction.input_map, mask)

    document, provenance = model.document, model.document.provenance
    write_report(
        file,
        model_info={
            "name": model_name,
            "preset": document.preset,
            "backbone": document.backbone.name,
            "layers": document.backbone.layers,
            "input_size": "{} x {}".format(*model.size),
            "n_training_images": provenance.n_images,
            "digest": provenance.images_sha256,
            "created": provenance.created,
            "version": document.fre_version,
        },
        evaluation=evaluation,
        dataset_name=dataset.name,
        decision=Decision(
            model.threshold,
            model.calibration.false_alarm_rate,
            provenance.threshold,
            model.calibration.others,
            tuple(model.odd_images),
            tuple(model.calibration.thresholds()),
            model.calibration.expected_rate,
        ),
        scale=model.map_range,
        gallery=gallery,
        notes=[*dataset.notes, *evaluation.notes],
        progress=progress,
    )
