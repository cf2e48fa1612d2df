"""Training from uploads: files into a folder of ours, then a model beside the others."""

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
from fre.model import Model, load
from fre.serve.jobs import Work
from fre.serve.registry import Entry, Registry
from fre.serve.responses import Problem
from fre.serve.samples import draw_good
from fre.serve.staging import Staging, unusable
from fre.types import Progress

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


@dataclass(frozen=True)
class ModelTraining:
    """What is to be trained.

    Attributes:
        name: of the model.
        overwrite: whether one of that name may be replaced.
        parameters: of `fre.FRE`.
        threads: of the network; 0 takes all cores.
    """

    name: str
    overwrite: bool
    parameters: dict[str, Any]
    threads: int

    def check(self, registry: Registry) -> None:
        """Refuse what can't end well.

        Raises:
            Problem: the name is not acceptable or taken, or no model can be added.
        """
        if not re.match(NAME_PATTERN, self.name):
            raise Problem(
                422,
                "invalid",
                "name: expected 1 to 64 letters, digits, dots, dashes or underscores, the first "
                f"a letter or digit, not {self.name!r}",
            )
        if not registry.is_folder:
            raise Problem(
                409,
                "conflict",
                "the service was started with one model file; start it with a folder to train",
            )
        if not self.overwrite and registry.path(self.name).exists():
            raise Problem(
                409, "conflict", f"a model called {self.name} exists; choose another name"
            )

    def work(
        self,
        registry: Registry,
        staging: Staging,
        images: list[tuple[Path, str]],
        samples: int,
    ) -> Work:
        """The job.

        Args:
            registry: that the model joins.
            staging: holds the images, and is removed afterwards.
            images: files and their names.
            samples: good plates to draw, if there are no images.
        """

        def run(progress: Progress) -> dict[str, Any]:
            found = images or draw_good(staging.folder, samples, progress)
            return self._train(registry, found, progress)

        return Work(run, staging.remove)

    def _train(
        self, registry: Registry, images: list[tuple[Path, str]], progress: Progress
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
        # The last chance to cancel, and to find that somebody else took the name.
        progress("Saving", 0, 1)
        self.check(registry)
        model.save(registry.path(self.name))
        registry.refresh()
        provenance = model.metadata["provenance"]
        return {
            "model": self.name,
            "n_images": provenance["n_images"],
            "seconds": detector.seconds_["total"],
            "threshold": model.threshold,
            "skipped": skipped,
            "caveat": model.calibration.caveat(),
            "near_duplicates": provenance.get("near_duplicates", 0),
            "calibration": run_calibration(model),
        }


Images = list[tuple[Path, str]]


@dataclass(frozen=True)
class ModelUpdate:
    """What is to be learnt.

    Attributes:
        name: of the model.
        accept_anomalous: learn from uploads that the model calls anomalous, too.
        results: ids of results that were good after all, whose images are learnt whatever the
            model says of them: somebody has looked at them.
        threads: of the network; 0 takes all cores.
    """

    name: str
    accept_anomalous: bool
    results: tuple[int, ...]
    threads: int

    def check(self, registry: Registry) -> Entry:
        """Refuse what can't end well.

        Returns:
            The model as it is.

        Raises:
            Problem: there is no such model, or it can't learn more.
        """
        entry = registry.get(self.name)
        if entry.error is not None:
            raise Problem(409, "conflict", f"the file of {self.name} can't be read: {entry.error}")
        if not entry.can_update:
            raise Problem(
                409,
                "conflict",
                f"the model {self.name} can't learn more: it was trained without what that needs; "
                "train it again on all good images",
            )
        return entry

    def work(
        self,
        registry: Registry,
        staging: Staging,
        uploads: Images,
        marked: Images,
        learnt: Callable[[Sequence[int]], None],
    ) -> Work:
        """The job.

        Args:
            registry: that has the model.
            staging: holds the images, and is removed afterwards.
            uploads: files and their names.
            marked: those of the results.
            learnt: is told the results once the model is saved.
        """

        def run(progress: Progress) -> dict[str, Any]:
            result = self._update(registry, uploads, marked, progress)
            learnt(self.results)
            return result

        return Work(run, staging.remove)

    def _update(
        self, registry: Registry, uploads: Images, marked: Images, progress: Progress
    ) -> dict[str, Any]:
        began = time.perf_counter()
        before = self.check(registry).model.sha256
        # A copy of its own: the one that serves goes on doing so.
        model = load(registry.get(self.name).path, threads=self.threads)
        if model.sha256 != before:
            raise _changed(self.name)
        threshold, steps = model.threshold, len(_history(model))
        skipped: list[dict[str, str]] = []
        for images, accept in ((uploads, self.accept_anomalous), (marked, True)):
            readable = _readable(model, images, skipped, progress)
            if readable:
                model = _learn(model, readable, accept, progress)
        history = _history(model)[steps:]
        if not history:
            raise Problem(422, "unreadable", f"none of the {len(skipped)} files can be read")
        # The last chance to cancel, and to find that the file has changed meanwhile.
        progress("Saving", 0, 1)
        registry.replace(self.name, model, before=before)
        return {
            "model": self.name,
            "n_images": model.metadata["provenance"]["n_images"],
            "n_added": sum(step["n_added"] for step in history),
            "n_accepted_anomalous": sum(step["n_accepted_anomalous"] for step in history),
            "seconds": time.perf_counter() - began,
            "threshold": model.threshold,
            "previous_threshold": threshold,
            "skipped": skipped,
            "caveat": model.calibration.caveat(),
            "near_duplicates": 0,
            "calibration": run_calibration(model),
        }


def _history(model: Model) -> list[dict[str, Any]]:
    history: list[dict[str, Any]] = model.metadata["provenance"].get("history", [])
    return history


def _readable(
    model: Model, images: Images, skipped: list[dict[str, str]], progress: Progress
) -> Images:
    """The images that can be read to their end; the others are noted."""
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


def _changed(name: str) -> Problem:
    return Problem(409, "conflict", f"the model {name} has changed meanwhile; update it again")


MAX_SCORES = 200


def run_calibration(model: Model) -> dict[str, Any]:
    """Return the calibration of a model as it is now, to be kept with the run that made it.

    The model's file may get another threshold, or be replaced; the record of the run stays.

    Args:
        model: as it was saved.

    Returns:
        Digest of the model, thresholds, range of the map, number of calibration scores, and the
        scores in ascending order; of more than 200 only as many quantiles.
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
