"""Update a model from uploads and from reviewed results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fre.errors import AnomalousError, ImageError
from fre.images.decode import read_image
from fre.images.loading import source_digest
from fre.images.near_duplicates import equal_images
from fre.inference.document import Step
from fre.inference.training_images import TrainingImages
from fre.model import Model, load
from fre.serve.jobs import Work
from fre.serve.loaded import LoadedModel
from fre.serve.odd import Images
from fre.serve.previews import Update
from fre.serve.registry import ModelRegistry, changed_meanwhile
from fre.serve.responses import Problem, conflict
from fre.serve.staging import Staging, unusable
from fre.serve.training import job_result, lost_band, with_names
from fre.training.update import some_names
from fre.types import Progress


@dataclass(frozen=True)
class ModelUpdate:
    """Parameters of an update.

    Attributes:
        name: name of the model.
        accept_anomalous: whether to fit uploads that the model calls anomalous, too.
        results: ids of results that a reviewer called good. Their images are always accepted.
        threads: number of threads of the network, 0 for all cores.
    """

    name: str
    accept_anomalous: bool
    results: tuple[int, ...]
    threads: int

    def check(self, registry: ModelRegistry) -> LoadedModel:
        """Refuse an update that can't succeed.

        Returns:
            The present model.

        Raises:
            Problem: no model has this name, or the model can't be updated.
        """
        entry = registry.get(self.name)
        entry.check_file()
        if not entry.can_update:
            raise conflict(
                f"the model {self.name} can't be updated: its file lacks the statistics for that; "
                "train it again on all good images"
            )
        return entry

    def work(
        self,
        registry: ModelRegistry,
        staging: Staging,
        uploads: Images,
        marked: Images,
        finish: Callable[[Update, Progress], dict[str, Any]],
    ) -> Work:
        """Return the work of a job that makes the update.

        Args:
            registry: models, with the one to update.
            staging: folder of the images; removed afterwards.
            uploads: path and name of each uploaded image.
            marked: path and name of each image of ``results``.
            finish: puts the update in place or shows it; returns more of the job's result.
        """

        def run(progress: Progress) -> dict[str, Any]:
            update, result = self._update(registry, uploads, marked, progress)
            return {**result, **finish(update, progress)}

        return Work(run, staging.remove)

    def _update(
        self, registry: ModelRegistry, uploads: Images, marked: Images, progress: Progress
    ) -> tuple[Update, dict[str, Any]]:
        """Return the update, and the result of its job."""
        began = time.perf_counter()
        sha256 = self.check(registry).model.sha256
        # A copy: the loaded model stays in use.
        before = load(registry.get(self.name).path, threads=self.threads)
        if before.sha256 != sha256:
            raise changed_meanwhile(self.name)
        model, learnt = before, list[tuple[Path, str]]()
        skipped: list[dict[str, str]] = []
        for images, accept in ((uploads, self.accept_anomalous), (marked, True)):
            readable = _readable(model, images, skipped, progress)
            if readable:
                model = _learn(model, readable, accept, progress)
                learnt += readable
        history = _history(model)[len(_history(before)) :]
        if not history:
            raise Problem(422, "unreadable", f"none of the {len(skipped)} files can be read")
        result = {
            **job_result(self.name, model, skipped),
            "n_added": sum(step.n_added or 0 for step in history),
            "n_accepted_anomalous": sum(step.n_accepted_anomalous or 0 for step in history),
            "seconds": time.perf_counter() - began,
            "previous_threshold": before.calibration.threshold,
            "note": lost_band(model.calibration, before.calibration),
            "near_duplicates": 0,
            "left_out": [],
        }
        return Update(self.name, before, model, learnt, self.results), result


def _history(model: Model) -> list[Step]:
    return model.document.provenance.history or []


def _readable(
    model: Model, images: Images, skipped: list[dict[str, str]], progress: Progress
) -> Images:
    """Return the images that can be decoded; note the others in ``skipped``."""
    readable = []
    for place, (path, name) in enumerate(images):
        progress("Reading", place, len(images))
        reason = unusable(path, name)
        if reason is None:
            try:
                read_image(path, model.geometry.bits)
            except ImageError as error:
                reason = error.reason
        if reason is None:
            readable.append((path, name))
        else:
            skipped.append({"name": name, "error": reason})
    return readable


def _learn(model: Model, images: Images, accept: bool, progress: Progress) -> Model:
    names = dict(images)
    digests = [source_digest(path) for path in names]
    # The model would name the files of the upload, which no client knows.
    equal = equal_images(list(names.values()), digests)
    if equal is not None:
        raise Problem(
            422,
            "invalid",
            f"some of these images are equal: {equal}; to count them twice would make the "
            "threshold too low: keep one of each",
        )
    known = model.training_images
    if again := known.shared(TrainingImages.of(list(names.values()), digests)):
        raise Problem(
            422,
            "invalid",
            f"the model was trained on {len(again)} of these images already: "
            f"{some_names(again)}; to count them twice would make the threshold too low: "
            "leave them out",
        )
    try:
        updated = model.update(list(names), accept_anomalous=accept, progress=progress)
        return with_names(updated, {path.name: name for path, name in images}, len(known))
    except AnomalousError as error:
        found = [
            names[source] if isinstance(source, Path) else str(source) for source, _ in error.found
        ]
        raise Problem(
            422,
            "anomalous",
            f"{len(found)} of {error.of} images are anomalous to the model: "
            f"{some_names(found)}; look at them, and leave out what is not good, or "
            "accept all (accept_anomalous)",
        ) from error
