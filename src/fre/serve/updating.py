"""Update a model from uploads and from reviewed results."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fre.errors import AnomalousError, DatasetError, ImageError
from fre.images.loading import source_digest
from fre.inference.document import Step
from fre.model import Model, load
from fre.serve.jobs import Work
from fre.serve.loaded import LoadedModel
from fre.serve.odd import Images
from fre.serve.previews import Update
from fre.serve.registry import ModelRegistry, changed_meanwhile
from fre.serve.responses import Problem, conflict
from fre.serve.staging import Staging, usable_images
from fre.serve.training import job_result, lost_band, with_names
from fre.training.update import check_new, some_names, update_model
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
            usable, refused = usable_images(images)
            skipped += refused
            if usable:
                model, unread = self._learn(model, usable, accept, progress)
                failed = {error.path: error.reason for error in unread}
                skipped += [
                    {"name": name, "error": failed[path]} for path, name in usable if path in failed
                ]
                learnt += [(path, name) for path, name in usable if path not in failed]
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

    def _learn(
        self, model: Model, images: Images, accept: bool, progress: Progress
    ) -> tuple[Model, list[ImageError]]:
        """Return the model after an update, and the errors of the images that can't be read.

        Raises:
            Problem: some of the images are anomalous.
            DatasetError: the model has learnt some of the images, or some are equal.
        """
        names = dict(images)
        known, unread = model.training_images, list[ImageError]()
        # The update would name the files of the upload, which no client knows.
        check_new(known, list(names.values()), [source_digest(path) for path in names])
        try:
            updated = update_model(
                model,
                list(names),
                accept_anomalous=accept,
                skipped=unread,
                threads=self.threads,
                progress=progress,
            )
        except AnomalousError as error:
            found = [
                names[source] if isinstance(source, Path) else str(source)
                for source, _ in error.found
            ]
            raise Problem(
                422,
                "anomalous",
                f"{len(found)} of {error.of} images are anomalous to the model: "
                f"{some_names(found)}; look at them, and leave out what is not good, or "
                "accept all (accept_anomalous)",
            ) from error
        except DatasetError:
            if len(unread) < len(images):
                raise
            return model, unread
        renamed = {path.name: name for path, name in images}
        return with_names(updated, renamed, len(known)), unread


def _history(model: Model) -> list[Step]:
    return model.document.provenance.history or []
