"""Queue of long work: one job at a time, with progress, recorded in the database."""

from __future__ import annotations

import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fre.errors import FREError
from fre.serve.database import Database, now
from fre.serve.responses import Problem, conflict, not_found, problem_from, shutting_down
from fre.types import Progress

log = logging.getLogger("fre.serve")

PUBLISH_SECONDS = 0.2
SHOWN = 50


class Cancelled(BaseException):
    """Raised inside a cancelled job; not an `Exception`, so that no handler swallows it."""


@dataclass(frozen=True)
class Work:
    """The work of a job.

    Attributes:
        run: does the work; called with a progress function; returns the result.
        clean_up: called when the job has ended in any way.
    """

    run: Callable[[Progress], dict[str, Any]]
    clean_up: Callable[[], None]


class JobQueue:
    """Runs jobs one after another, on a thread of its own.

    At the next start, jobs that a crash interrupted are marked as failed.

    Args:
        database: records the jobs.
        max_waiting: number of jobs that may wait.
        publish: called with each job that changed.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_waiting: int,
        publish: Callable[[dict[str, Any]], None],
    ) -> None:
        self.database = database
        self.max_waiting = max_waiting
        self.publish = publish
        self._waiting: queue.SimpleQueue[tuple[int, Work] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._progress: dict[int, dict[str, Any]] = {}
        self._live: dict[int, tuple[str, str]] = {}
        self._to_cancel: set[int] = set()
        self._closing = False
        database.write(_mark_interrupted)
        self._thread = threading.Thread(target=self._run, name="fre-jobs", daemon=True)
        self._thread.start()

    def check_room(self) -> None:
        """Refuse a job before its upload is read.

        Raises:
            Problem: too many jobs wait.
        """
        if self._closing:
            raise shutting_down()
        if len(self._live) > self.max_waiting:
            raise Problem(
                429,
                "busy",
                f"{self.max_waiting} jobs wait already; try again later",
                retry_after=10,
            )

    def add(self, kind: str, model: str, work: Work) -> dict[str, Any]:
        """Queue a job.

        Raises:
            Problem: too many jobs wait.
        """
        with self._lock:
            self.check_room()
            created = now()

            def insert(connection: sqlite3.Connection) -> int:
                cursor = connection.execute(
                    "INSERT INTO jobs (kind, model, state, created) VALUES (?, ?, 'queued', ?)",
                    (kind, model, created),
                )
                assert cursor.lastrowid is not None
                return cursor.lastrowid

            identity = self.database.write(insert)
            self._live[identity] = (kind, model)
        self._waiting.put((identity, work))
        return self._announce(identity)

    def check_idle(self, model: str) -> None:
        """Refuse to change a model while a job waits or runs whose work would be lost.

        Raises:
            Problem: such a job waits or runs.
        """
        for identity, (kind, name) in self._live.copy().items():
            if name == model and self.get(identity)["state"] in ("queued", "running"):
                raise conflict(
                    f"job {identity} ({kind} of {model}) has not ended: wait for it or cancel it"
                )

    def get(self, identity: int) -> dict[str, Any]:
        """Return one job.

        Raises:
            Problem: no job has this id.
        """
        row = self.database.row("jobs", identity)
        if row is None:
            raise not_found(f"no job has the id {identity}")
        return self._shown(row)

    def list(self) -> list[dict[str, Any]]:
        """Return the last jobs, newest first."""
        rows = self.database.read().execute("SELECT * FROM jobs ORDER BY id DESC LIMIT ?", (SHOWN,))
        return [self._shown(row) for row in rows.fetchall()]

    def cancel(self, identity: int) -> dict[str, Any]:
        """Cancel a job; it ends at its next progress report.

        Raises:
            Problem: no job has this id, or the job has ended.
        """
        job = self.get(identity)
        if identity not in self._live:
            raise conflict(f"job {identity} has ended already: {job['state']}")
        self._to_cancel.add(identity)
        return job

    def close(self) -> None:
        """Cancel all jobs, and stop."""
        self._closing = True
        self._to_cancel |= set(self._live)
        self._waiting.put(None)
        self._thread.join()

    def unfinished(self) -> tuple[str, ...]:
        """Name the queued and running jobs, without reading the database."""
        return tuple(f"{kind} of {model}" for kind, model in self._live.copy().values())

    def _shown(self, row: sqlite3.Row) -> dict[str, Any]:
        return {
            **{key: row[key] for key in ("id", "kind", "model", "state")},
            "progress": self._progress.get(row["id"]),
            **{key: row[key] for key in ("created", "started", "finished")},
            "error": row["error"] and json.loads(row["error"]),
            # Earlier versions stored infinite numbers, which are not valid JSON.
            "result": row["result"] and json.loads(row["result"], parse_constant=lambda _: None),
        }

    def _announce(self, identity: int) -> dict[str, Any]:
        job = self.get(identity)
        self.publish(job)
        return job

    def _set(self, identity: int, **values: Any) -> None:
        columns = ", ".join(f"{column} = :{column}" for column in values)
        self.database.write(
            lambda connection: connection.execute(
                f"UPDATE jobs SET {columns} WHERE id = :id", {**values, "id": identity}
            )
        )
        self._announce(identity)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            identity, work = item
            try:
                self._do(identity, work)
            except FREError:  # the database can't be written; the next job may succeed
                log.exception("job %d", identity)
            finally:
                work.clean_up()
                self._live.pop(identity, None)
                self._to_cancel.discard(identity)
                self._progress.pop(identity, None)

    def _do(self, identity: int, work: Work) -> None:
        last = 0.0

        def progress(task: str, done: int, total: int) -> None:
            nonlocal last
            if identity in self._to_cancel:
                raise Cancelled
            self._progress[identity] = {"task": task, "done": done, "total": total}
            moment = time.monotonic()
            if moment - last >= PUBLISH_SECONDS:
                last = moment
                self._announce(identity)

        try:
            if identity in self._to_cancel:
                raise Cancelled
            self._set(identity, state="running", started=now())
            result = work.run(progress)
            self._set(identity, state="done", finished=now(), result=json.dumps(result))
        except Cancelled:
            self._set(identity, state="cancelled", finished=now())
        except Problem as problem:
            self._fail(identity, problem.code, problem.message)
        except FREError as error:
            self._fail(identity, problem_from(error).code, str(error))
        except Exception as error:  # a bug in fre must not stop the next job
            log.exception("job %d", identity)
            self._fail(identity, "internal", f"{type(error).__name__}: {error}")

    def _fail(self, identity: int, code: str, message: str) -> None:
        error = json.dumps({"code": code, "message": " ".join(message.split())})
        self._set(identity, state="failed", finished=now(), error=error)


def _mark_interrupted(connection: sqlite3.Connection) -> None:
    error = json.dumps({"code": "interrupted", "message": "the service ended before the job did"})
    connection.execute(
        "UPDATE jobs SET state = 'failed', finished = ?, error = ? "
        "WHERE state IN ('queued', 'running')",
        (now(), error),
    )
