"""A model learns more: from uploads, and from results that were good after all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fre.errors import AnomalousError, ImageError
from fre.images.decode import read_image
from fre.images.loading import source_digest
from fre.images.near_duplicates import equal_images
from fre.inference.document import Step
from fre.model import Model, load
from fre.serve.jobs import Work
from fre.serve.problems import Problem
from fre.serve.registry import Entry, Registry
from fre.serve.run_calibration import run_calibration
from fre.serve.training import Staging, unusable
from fre.types import Progress

Images = list[tuple[Path, str]]


@dataclass(frozen=True)
class Updating:
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


def _changed(name: str) -> Problem:
    return Problem(409, "conflict", f"the model {name} has changed meanwhile; update it again")
