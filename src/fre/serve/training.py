"""Train a model from uploads, or train one again without some of its images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fre.detector import FRE
from fre.errors import DatasetError
from fre.inference.model_file import with_document
from fre.model import Model
from fre.onnx_tools.side_arrays import read_arrays, with_arrays, without_arrays
from fre.scoring.calibration import LOST_BAND, Calibration
from fre.serve.jobs import Work
from fre.serve.loaded import calibration_digest
from fre.serve.odd import Images, KeptTraining, KeptTrainings, draw_small
from fre.serve.registry import ModelRegistry
from fre.serve.responses import conflict, invalid
from fre.serve.samples import draw_good
from fre.serve.staging import Staging, usable_images
from fre.serve.thresholds import rates
from fre.serve.versions import Save
from fre.training.odd import odd_files
from fre.types import Progress

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


@dataclass(frozen=True)
class ModelTraining:
    """Parameters of a training.

    Attributes:
        name: name of the model.
        overwrite: whether the training may replace a model of that name.
        parameters: keyword arguments of `fre.FRE`.
        threads: number of threads of the network, 0 for all cores.
        without_odd: whether to train a second time, without the odd images of the first.
        before: calibration of the model that is trained again; the new one decides like it.
        chosen: how the threshold of ``before`` was chosen, in words.
        by: name or address of the client.
    """

    name: str
    overwrite: bool
    parameters: dict[str, Any]
    threads: int
    without_odd: bool = False
    before: Calibration | None = None
    chosen: str | None = None
    by: str | None = None

    def check(self, registry: ModelRegistry) -> None:
        """Refuse a training that can't succeed.

        Raises:
            Problem: the name is not acceptable or is taken, or no model can be added.
        """
        if not re.match(NAME_PATTERN, self.name):
            raise invalid(
                "name: expected 1 to 64 letters, digits, dots, dashes or underscores, the first "
                f"a letter or digit, not {self.name!r}"
            )
        if not registry.is_folder:
            raise conflict(
                "the service was started with one model file; start it with a folder to train"
            )
        if not self.overwrite and registry.path(self.name).exists():
            raise conflict(f"a model called {self.name} exists; choose another name")

    def work(
        self,
        registry: ModelRegistry,
        trainings: KeptTrainings,
        staging: Staging,
        images: Images,
        left_out: list[str],
    ) -> Work:
        """Return the work of the job.

        Args:
            registry: models, which the new model joins.
            trainings: keeps the images if some are odd.
            staging: folder of the images; removed afterwards if they are not kept.
            images: path and name of each image.
            left_out: names of images that are left out already.
        """

        def run(progress: Progress) -> dict[str, Any]:
            return self._train(registry, trainings, staging, images, left_out, progress)

        return Work(run, lambda: trainings.remove(staging))

    def work_on_samples(
        self, registry: ModelRegistry, trainings: KeptTrainings, staging: Staging, samples: int
    ) -> Work:
        """Return the work of the job, on ``samples`` good plates that it draws."""

        def run(progress: Progress) -> dict[str, Any]:
            images = draw_good(staging.folder, samples, progress)
            return self._train(registry, trainings, staging, images, [], progress)

        return Work(run, lambda: trainings.remove(staging))

    def _train(
        self,
        registry: ModelRegistry,
        trainings: KeptTrainings,
        staging: Staging,
        images: Images,
        left_out: list[str],
        progress: Progress,
    ) -> dict[str, Any]:
        named, skipped = usable_images(images)
        if len(named) < 3:
            raise DatasetError(
                f"training needs 3 good images or more; {len(named)} of {len(images)} files "
                "could be read"
            )
        names, usable = dict(images), [path for path, _ in named]
        detector = FRE(**self.parameters)

        def fit(paths: list[Path]) -> tuple[Model, dict[str, Path]]:
            model = detector.fit(
                paths, skip_unreadable=True, threads=self.threads, progress=progress
            )
            files = odd_files(model.odd_images, paths)
            digests = [image.digest for image in model.odd_images]
            return model, dict(zip(digests, files, strict=True))

        model, odd = fit(usable)
        if self.without_odd and odd:
            left_out = left_out + [names[path] for path in odd.values()]
            usable = [path for path in usable if path not in odd.values()]
            model, odd = fit(usable)
        skipped += [
            {"name": names[one.path] if one.path else "image", "error": one.reason}
            for one in detector.skipped_
        ]
        note = None
        if self.before is not None:
            model, note = _decides_like(model, self.before, self.chosen)
        model = with_names(model, {path.name: name for path, name in images})
        pictures = draw_small(odd, model.geometry.bits, progress, "Drawing odd images")
        # Last chance to cancel; and another job may have taken the name.
        progress("Saving", 0, 1)
        self.check(registry)
        registry.save(self.name, model, Save("trained", self.by))
        kept = [(path, names[path]) for path in usable]
        digest = calibration_digest(model.calibration)
        trainings.keep(
            self.name,
            KeptTraining(digest, self.parameters, kept, odd, pictures, staging) if odd else None,
        )
        return {
            **job_result(self.name, model, skipped),
            "seconds": detector.seconds_["total"],
            "note": note,
            "near_duplicates": model.document.provenance.near_duplicates or 0,
            "left_out": left_out,
        }


def _decides_like(
    model: Model, before: Calibration, chosen: str | None
) -> tuple[Model, str | None]:
    """Return a model that decides as an earlier one did, and a note if its review band is lost."""
    after = model.calibration.like(before)
    return model.with_calibration(after, chosen=chosen), lost_band(after, before)


def lost_band(after: Calibration, before: Calibration) -> str | None:
    """Return a note if a new calibration lacks the review band of an earlier one."""
    if before.review_threshold is None or after.review_threshold is not None:
        return None
    return LOST_BAND


def job_result(name: str, model: Model, skipped: list[dict[str, str]]) -> dict[str, Any]:
    """Return the part of a job's result that trainings and updates share."""
    calibration = model.calibration
    return {
        "model": name,
        "n_images": model.document.provenance.n_images,
        "threshold": model.threshold,
        "review_threshold": calibration.review_threshold,
        "odd": [{"name": image.name, "score": image.score} for image in model.odd_images],
        "skipped": skipped,
        "caveat": calibration.caveat(),
        "calibration": run_calibration(model),
    }


def with_names(model: Model, names: Mapping[str, str], first: int = 0) -> Model:
    """Return a model that knows its training images by the clients' names of their files.

    Args:
        model: model that knows them by the names of uploads.
        names: client's name by the name of an upload.
        first: place of the first image to rename, of those that the model was trained on.
    """
    images = model.training_images
    renamed = tuple(
        names.get(name, name).rsplit("/", 1)[-1] if place >= first else name
        for place, name in enumerate(images.names)
    )
    arrays = read_arrays(model.data) | replace(images, names=renamed).to_arrays()
    data = with_arrays(without_arrays(model.data), arrays)
    return model.with_data(with_document(data, model.document.to_json()))


MAX_SCORES = 200


def run_calibration(model: Model) -> dict[str, Any]:
    """Return the calibration of a model for the record of the job that made it.

    The model file may get another threshold or be replaced later; the record stays.

    Args:
        model: model as saved.

    Returns:
        Digest of the model, thresholds, map range, number of calibration scores, and the scores in
        ascending order; at most 200 quantiles of the scores.
    """
    calibration = model.calibration
    scores = np.sort(np.asarray(calibration.scores, np.float64))
    shown = scores
    if len(scores) > MAX_SCORES:
        shown = np.quantile(scores, np.linspace(0, 1, MAX_SCORES))
    return {
        "sha256": model.sha256,
        "n_scores": len(scores),
        "scores": shown.tolist(),
        "threshold": calibration.threshold,
        "review_threshold": calibration.review_threshold,
        "pixel_threshold": calibration.pixel_threshold,
        "false_alarm_rate": calibration.false_alarm_rate,
        "attainable_false_alarm_rate": calibration.attainable_rate,
        **rates(calibration),
        "map_range": list(calibration.map_range),
    }
