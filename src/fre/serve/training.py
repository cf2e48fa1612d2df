"""Train a model from uploads, or update one from uploads and from reviewed results."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fre.detector import FRE
from fre.errors import AnomalousError, DatasetError, ImageError
from fre.images.decode import read_image
from fre.images.loading import source_digest
from fre.images.near_duplicates import equal_images
from fre.inference.document import Step
from fre.model import Model, load
from fre.serve.jobs import Work
from fre.serve.registry import LoadedModel, ModelRegistry, changed_meanwhile
from fre.serve.responses import Problem, conflict, invalid
from fre.serve.samples import draw_good
from fre.serve.staging import Staging, unusable
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
    """

    name: str
    overwrite: bool
    parameters: dict[str, Any]
    threads: int

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
        staging: Staging,
        images: list[tuple[Path, str]],
        samples: int,
    ) -> Work:
        """Return the work of the job.

        Args:
            registry: models, which the new model joins.
            staging: folder of the images; removed afterwards.
            images: path and name of each image.
            samples: number of good plates to draw if there are no images.
        """

        def run(progress: Progress) -> dict[str, Any]:
            found = images or draw_good(staging.folder, samples, progress)
            return self._train(registry, found, progress)

        return Work(run, staging.remove)

    def _train(
        self, registry: ModelRegistry, images: list[tuple[Path, str]], progress: Progress
    ) -> dict[str, Any]:
        usable, skipped = [], []
        for path, name in images:
            reason = unusable(path, name)
            if reason is None:
                usable.append(path)
            else:
                skipped.append({"name": name, "error": reason})
        if len(usable) < 3:
            raise DatasetError(
                f"training needs 3 good images or more; {len(usable)} of {len(images)} files "
                "could be read"
            )
        names = dict(images)
        detector = FRE(**self.parameters)
        model = detector.fit(usable, skip_unreadable=True, threads=self.threads, progress=progress)
        skipped += [
            {"name": names[left_out.path] if left_out.path else "image", "error": left_out.reason}
            for left_out in detector.skipped_
        ]
        # Last chance to cancel; and another job may have taken the name.
        progress("Saving", 0, 1)
        self.check(registry)
        model.save(registry.path(self.name))
        registry.refresh()
        provenance = model.document.provenance
        return {
            "model": self.name,
            "n_images": provenance.n_images,
            "seconds": detector.seconds_["total"],
            "threshold": model.threshold,
            "skipped": skipped,
            "caveat": model.calibration.caveat(),
            "near_duplicates": provenance.near_duplicates or 0,
            "calibration": run_calibration(model),
        }


Images = list[tuple[Path, str]]


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
        if entry.error is not None:
            raise conflict(f"the file of {self.name} can't be read: {entry.error}")
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
        learnt: Callable[[Sequence[int]], None],
    ) -> Work:
        """Return the work of the job.

        Args:
            registry: models, with the one to update.
            staging: folder of the images; removed afterwards.
            uploads: path and name of each uploaded image.
            marked: path and name of each image of ``results``.
            learnt: called with ``results`` once the model is saved.
        """

        def run(progress: Progress) -> dict[str, Any]:
            result = self._update(registry, uploads, marked, progress)
            learnt(self.results)
            return result

        return Work(run, staging.remove)

    def _update(
        self, registry: ModelRegistry, uploads: Images, marked: Images, progress: Progress
    ) -> dict[str, Any]:
        began = time.perf_counter()
        before = self.check(registry).model.sha256
        # A copy: the loaded model stays in use.
        model = load(registry.get(self.name).path, threads=self.threads)
        if model.sha256 != before:
            raise changed_meanwhile(self.name)
        threshold, steps = model.threshold, len(_history(model))
        skipped: list[dict[str, str]] = []
        for images, accept in ((uploads, self.accept_anomalous), (marked, True)):
            readable = _readable(model, images, skipped, progress)
            if readable:
                model = _learn(model, readable, accept, progress)
        history = _history(model)[steps:]
        if not history:
            raise Problem(422, "unreadable", f"none of the {len(skipped)} files can be read")
        # Last chance to cancel; and the file may have changed.
        progress("Saving", 0, 1)
        registry.replace(self.name, model, before=before)
        return {
            "model": self.name,
            "n_images": model.document.provenance.n_images,
            "n_added": sum(step.n_added or 0 for step in history),
            "n_accepted_anomalous": sum(step.n_accepted_anomalous or 0 for step in history),
            "seconds": time.perf_counter() - began,
            "threshold": model.threshold,
            "previous_threshold": threshold,
            "skipped": skipped,
            "caveat": model.calibration.caveat(),
            "near_duplicates": 0,
            "calibration": run_calibration(model),
        }


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
    # The model would name the files of the upload, which no client knows.
    equal = equal_images(list(names.values()), [source_digest(path) for path in names])
    if equal is not None:
        raise Problem(
            422,
            "invalid",
            f"some of these images are equal: {equal}; to count them twice would make the "
            "threshold too low: keep one of each",
        )
    try:
        return model.update(list(names), accept_anomalous=accept, progress=progress)
    except AnomalousError as error:
        found = [
            names[source] if isinstance(source, Path) else str(source) for source, _ in error.found
        ]
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise Problem(
            422,
            "anomalous",
            f"{len(found)} of {error.of} images are anomalous to the model: "
            f"{', '.join(found[:3])}{more}; look at them, and leave out what is not good, or "
            "accept all (accept_anomalous)",
        ) from error


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
        "pixel_threshold": calibration.pixel_threshold,
        "map_range": list(calibration.map_range),
    }
