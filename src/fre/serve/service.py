"""The parts of a running service, and how they start and end."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence

from fre.errors import OutputError
from fre.images.formats import set_pixel_limit
from fre.model import Model
from fre.serve.batching import Batcher
from fre.serve.bodies import Budget
from fre.serve.database import open_history
from fre.serve.events import EventBroadcaster
from fre.serve.gallery import Gallery
from fre.serve.jobs import JobQueue
from fre.serve.metrics import Metrics
from fre.serve.odd import KeptTrainings
from fre.serve.outcomes import Outcome
from fre.serve.pictures import Pictures
from fre.serve.previews import Previews
from fre.serve.registry import ModelRegistry
from fre.serve.results import Results
from fre.serve.samples import Samples
from fre.serve.settings import Settings
from fre.serve.sources import SourceControl
from fre.serve.staging import DiskBudget
from fre.serve.versions import Save


class Service:
    """All parts of the service except HTTP.

    Args:
        settings: settings of the service.

    Attributes:
        draining: whether the service is ending.
        history_note: sentence about lost results, or ``None``.

    Raises:
        ModelFileError: the models can't be loaded.
        InputError: the source or a receiver can't be used.
        OptionError: the model for the source is not clear.
        OutputError: the data folder can't be used, or another service uses it.
    """

    def __init__(self, settings: Settings) -> None:
        limits = settings.limits
        self.settings = settings
        self.draining = False
        set_pixel_limit(limits.max_pixels)
        self.registry = ModelRegistry(
            settings.models,
            runtime=settings.runtime,
            threads=settings.threads,
            keep_versions=settings.keep_versions,
        )
        try:
            settings.data.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{settings.data}: can't be made: {error.strerror}") from error
        self._lock = _lock(settings)
        try:
            self._open(settings)
        except BaseException:
            self._lock.close()
            raise

    def _open(self, settings: Settings) -> None:
        limits = settings.limits
        # Left by a crash; the lock shows that no other service uses it.
        shutil.rmtree(settings.data / "uploads", ignore_errors=True)
        self.database, self.history_note = open_history(settings.data)
        pictures = Pictures(settings.data / "pictures", limits.keep_bytes)
        self.results = Results(self.database, pictures)
        self.gallery = Gallery(pictures, limits.large_pixels, self.results.recount)
        self.events = EventBroadcaster(limits.max_listeners)
        self.batcher = Batcher(
            self.results,
            batch_size=settings.batch_size,
            batch_wait=settings.batch_wait,
            max_queue=limits.max_queue,
            large_pixels=limits.large_pixels,
            observer=self._scored,
        )
        self.metrics = Metrics(self.batcher.depths, self.registry.entries)
        self.budget = Budget(limits.max_buffered_bytes)
        self.trainings = KeptTrainings()
        self.previews = Previews()
        self.disk = DiskBudget(limits.max_staged_bytes, self.trainings.make_room)
        self.jobs = JobQueue(
            self.database,
            max_waiting=limits.max_jobs,
            publish=lambda job: self.events.publish("job", job),
        )
        self.samples = Samples(settings.data / "samples")
        self.registry.changed = self._models_changed
        self.source = SourceControl(settings, self.registry, self.batcher)
        if settings.line is not None:
            self.source.open(settings.line)

    def start(self) -> None:
        """Start following the model files and the source."""
        self.registry.follow(self.settings.reload_seconds)
        self.source.start()

    def drain(self) -> None:
        """Announce the end, and end event streams; called on the event loop."""
        self.draining = True
        self.events.close()

    def close(self) -> None:
        """Finish admitted images, cancel jobs, and stop."""
        self.source.close()
        self.jobs.close()
        self.gallery.close()
        self.batcher.close()
        self.registry.close()
        self.database.close()
        self._lock.close()

    def unfinished(self) -> list[str]:
        """Name unfinished work, for the message of an end by force."""
        images = {name: n for name, n in self.batcher.depths().items() if n}
        found = [f"{n} images of {name}" for name, n in images.items()]
        return [*found, *self.jobs.unfinished()]

    def teach(
        self, name: str, model: Model, results: Sequence[int], *, before: str, by: str | None
    ) -> None:
        """Put an updated model in place, and mark the results that it learnt.

        Args:
            name: name of the model.
            model: the updated model.
            results: ids of results among its new images.
            before: digest of the model that was updated.
            by: name or address of the client.

        Raises:
            Problem: no model has this name any more, or the file has changed since ``before``.
            OutputError: the file can't be written.
        """
        self.registry.replace(name, model, Save("taught", by), before=before)
        for found in self.results.set_learnt(results):
            self.events.publish("verdict", found)

    def _scored(self, model: str, outcomes: list[Outcome]) -> None:
        self.metrics.scored(model, outcomes)
        for outcome in outcomes:
            self.events.publish("result", outcome.result)

    def _models_changed(self) -> None:
        self.trainings.prune(
            {entry.name: entry.calibration_sha256 for entry in self.registry.entries()}
        )
        self.events.publish("models", {"models": self.registry.names()})


def _lock(settings: Settings) -> sqlite3.Connection:
    """Lock the data folder; the system releases the lock when the process ends in any way."""
    path = settings.data / "lock.sqlite3"
    try:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=0.5
        )
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise OutputError(
                f"{settings.data}: another fre serve uses it; give another folder with --data"
            ) from error
        raise OutputError(f"{path}: can't be used: {error}") from error
    return connection
