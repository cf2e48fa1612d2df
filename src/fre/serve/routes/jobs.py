"""Handlers of checks, trainings, updates and jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import Depends, Query, Request, Response
from pydantic import Field

from fre.serve.bodies import RAW_TYPES, body_of, exhaust, media_type, read_files, unsupported
from fre.serve.input_view import InputWishes, input_wishes, view
from fre.serve.jobs import Work
from fre.serve.lessons import reviewed_images
from fre.serve.odd import Images, KeptTraining, leave_out
from fre.serve.parameters import Caller, JobIdentity, Model, Without
from fre.serve.previews import Update
from fre.serve.responses import Problem, invalid, json_response
from fre.serve.service import Service
from fre.serve.staging import Staging
from fre.serve.training import NAME_PATTERN, ModelTraining
from fre.serve.updating import ModelUpdate
from fre.training.check import check_images
from fre.types import Progress

ZIP_TYPES = ("application/zip", "application/x-zip-compressed")
MOST_RESULTS = 2000


Preset = Annotated[
    Literal["default", "fast", "accurate", "reference"] | None,
    Query(description="Preset, as for fre train."),
]
Wishes = Annotated[InputWishes, Depends(input_wishes)]
"""Input of the network, from the query parameters."""


@dataclass
class JobRoutes:
    """Handlers of checks, trainings, updates and jobs."""

    service: Service
    _checking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def train(
        self,
        request: Request,
        name: Annotated[
            str,
            Query(description="Name of the new model.", pattern=NAME_PATTERN, examples=["plate-2"]),
        ],
        by: Caller,
        wishes: Wishes,
        preset: Preset = None,
        false_alarm_rate: Annotated[
            float,
            Query(gt=0, lt=1, description="Accepted share of false alarms among good images."),
        ] = 0.01,
        overwrite: Annotated[
            bool, Query(description="Replace an existing model of this name.")
        ] = False,
        samples: Annotated[
            int | None,
            Query(ge=10, le=200, description="Number of good images to draw, instead of a body."),
        ] = None,
        without: Without = None,
        without_odd: Annotated[
            bool, Query(description="Train a second time, without the odd images of the first.")
        ] = False,
    ) -> Response:
        """Train a model on good images, zip files or samples, as a job."""
        service = self.service
        parameters = {**_of_preset(preset), "false_alarm_rate": false_alarm_rate}
        parameters |= await asyncio.to_thread(wishes.parameters)
        threads = service.settings.threads
        training = ModelTraining(name, overwrite, parameters, threads, without_odd, by=by)
        training.check(service.registry)
        service.jobs.check_room()
        async with self._staged(request) as staging:
            images = await asyncio.to_thread(staging.unpack, service.settings.limits)
            if samples is not None:
                if images or without:
                    raise invalid("give images or samples, not both; samples have no names")
                work = training.work_on_samples(
                    service.registry, service.trainings, staging, samples
                )
            else:
                images, left_out = leave_out(images, without or ())
                if len(images) < 3:
                    raise invalid(
                        f"training needs 3 good images or more, found {len(images)} in the request"
                    )
                work = training.work(service.registry, service.trainings, staging, images, left_out)
            job = await asyncio.to_thread(service.jobs.add, "train", name, work)
        return _accepted(job)

    async def train_again(
        self,
        model: Model,
        by: Caller,
        without: Without = None,
    ) -> Response:
        """Train a model again without its odd images, or without named ones, as a job.

        It is fitted to the images of its last training by this service, without the named ones:
        names or digests of odd images, or names of other images. If none is named, all odd images
        are left out. The new model decides like the model before: by the same false-alarm rate,
        or a threshold of the same rate.
        """
        service = self.service
        entry = service.registry.get(model)
        service.jobs.check_room()
        kept = service.trainings.take(model, entry.calibration_sha256)
        try:
            assert kept.staging is not None
            images, left_out = kept.without(without or ())
            if not left_out:
                raise invalid("no image is odd: name those to leave out (without)")
            before, chosen = entry.model.calibration, entry.model.document.provenance.threshold
            training = ModelTraining(
                model,
                True,
                kept.parameters,
                service.settings.threads,
                before=before,
                chosen=chosen,
                by=by,
            )
            training.check(service.registry)
            work = training.work(
                service.registry, service.trainings, kept.staging, images, left_out
            )
            again = Work(work.run, partial(_ended, kept, work.clean_up))
            job = await asyncio.to_thread(service.jobs.add, "train", model, again)
        except BaseException:
            kept.busy = False
            raise
        return _accepted(job)

    async def check(
        self,
        request: Request,
        false_alarm_rate: Annotated[
            float,
            Query(gt=0, lt=1, description="Accepted share of false alarms among good images."),
        ] = 0.01,
    ) -> Response:
        """Check good images or zip files before a training; nothing is kept."""
        service = self.service
        async with self._staged(request) as staging:
            images = await asyncio.to_thread(staging.unpack, service.settings.limits)
            async with self._checking:
                found = await asyncio.to_thread(
                    check_images,
                    [path for path, _ in images],
                    [name for _, name in images],
                    false_alarm_rate=false_alarm_rate,
                    threads=service.settings.threads,
                )
        await asyncio.to_thread(staging.remove)
        return json_response({**found.to_dict(), "lines": found.lines()})

    async def view_input(self, request: Request, wishes: Wishes, preset: Preset = None) -> Response:
        """Show what the network would see of an image that is the whole body."""
        service = self.service
        limits = service.settings.limits
        kind, _ = media_type(request.headers)
        if kind not in RAW_TYPES and not kind.startswith("image/"):
            raise unsupported(kind, "image/* or application/octet-stream")
        with service.budget.lease() as lease:
            body = bytearray()
            chunks = body_of(request, limits, max_bytes=limits.max_upload_bytes)
            async for chunk in lease.count(chunks):
                body += chunk
            parameters = _of_preset(preset) | await asyncio.to_thread(wishes.parameters)
            async with self._checking:
                found = await asyncio.to_thread(view, parameters, bytes(body))
        return json_response(found)

    async def update(
        self,
        request: Request,
        model: Model,
        by: Caller,
        results: Annotated[
            list[Annotated[int, Field(ge=1)]] | None,
            Query(
                description="Ids of results marked as good, whose images are added.",
                max_length=MOST_RESULTS,
            ),
        ] = None,
        accept_anomalous: Annotated[
            bool, Query(description="Also add uploads that the model calls anomalous.")
        ] = False,
        preview: Annotated[
            bool,
            Query(description="Prepare the update, show what changes, and leave the model as is."),
        ] = False,
    ) -> Response:
        """Update a model with good images, zip files or marked results, as a job."""
        service = self.service
        marked = tuple(dict.fromkeys(results or ()))
        update = ModelUpdate(model, accept_anomalous, marked, service.settings.threads)
        update.check(service.registry)
        service.jobs.check_room()
        async with self._staged(request) as staging:
            uploads = await asyncio.to_thread(staging.unpack, service.settings.limits)
            if not uploads and not marked:
                raise invalid("an update needs 1 good image or more, or ids of results")
            parts = await asyncio.to_thread(self._marked, model, marked, staging)
            finish = self._preview if preview else partial(self._apply, by)
            work = update.work(service.registry, staging, uploads, parts, finish)
            kind = "preview" if preview else "update"
            job = await asyncio.to_thread(service.jobs.add, kind, model, work)
        return _accepted(job)

    def _marked(self, model: str, results: tuple[int, ...], staging: Staging) -> Images:
        """Copy the images of results, as the stored ones may be deleted meanwhile."""
        found = []
        for identity in results:
            name, data = self.service.results.image_of_good_part(identity, model)
            path = staging.folder / f"result-{identity}"
            staging.count(len(data))
            path.write_bytes(data)
            found.append((path, name))
        return found

    def _apply(self, by: str | None, update: Update, progress: Progress) -> dict[str, Any]:
        # Last chance to cancel; and the file may have changed.
        progress("Saving", 0, 1)
        self.service.teach(
            update.name, update.after, update.results, before=update.before.sha256, by=by
        )
        return {}

    def _preview(self, update: Update, progress: Progress) -> dict[str, Any]:
        reviewed = reviewed_images(self.service.results, update.name)
        preview = update.preview(reviewed, progress)
        self.service.previews.put(preview)
        return {"preview": preview.body}

    @asynccontextmanager
    async def _staged(self, request: Request) -> AsyncIterator[Staging]:
        """Yield the files of a body, in a folder that a job will own and remove."""
        staging = await asyncio.to_thread(
            Staging.make, self.service.settings.data / "uploads", self.service.disk
        )
        try:
            await self._stage(request, staging)
            yield staging
        except BaseException:  # also if the client leaves: no job would remove the folder
            await asyncio.to_thread(staging.remove)
            raise

    async def _stage(self, request: Request, staging: Staging) -> None:
        limits = self.service.settings.limits
        chunks = body_of(request, limits, max_bytes=limits.max_train_bytes)
        kind, options = media_type(request.headers)
        if kind == "multipart/form-data":
            await read_files(
                chunks,
                options.get("boundary"),
                open_sink=staging.sink,
                max_files=limits.max_train_images,
                threaded=True,
            )
        elif kind in (*ZIP_TYPES, *RAW_TYPES):
            await self._stage_zip(chunks, staging)
        else:
            raise unsupported(kind, "multipart/form-data or application/zip")

    async def _stage_zip(self, chunks: AsyncIterator[bytes], staging: Staging) -> None:
        sink = None
        try:
            async for chunk in chunks:
                sink = sink or staging.sink("upload.zip")
                await asyncio.to_thread(sink.write, chunk)
        except Problem:
            await exhaust(chunks)
            raise
        finally:
            if sink is not None:
                sink.close()

    async def list_jobs(self) -> Response:
        """List the last jobs, newest first."""
        return json_response({"jobs": await asyncio.to_thread(self.service.jobs.list)})

    async def get_job(self, job: JobIdentity) -> Response:
        """Return the state, progress and result of a job."""
        return json_response({"job": await asyncio.to_thread(self.service.jobs.get, job)})

    async def cancel_job(self, job: JobIdentity) -> Response:
        """Cancel a job; it ends a moment later."""
        return json_response({"job": await asyncio.to_thread(self.service.jobs.cancel, job)})


def _of_preset(preset: Preset) -> dict[str, Any]:
    """Return a preset as keyword arguments of `fre.FRE`."""
    # The default network of the reference preset needs PyTorch, which a service may lack.
    backbone = {"backbone": "efficientnet_lite0"} if preset == "reference" else {}
    return {"preset": preset, **backbone}


def _ended(kept: KeptTraining, clean_up: Callable[[], None]) -> None:
    """End the use of kept images by a job."""
    kept.busy = False
    clean_up()


def _accepted(job: dict[str, Any]) -> Response:
    return json_response(
        {"job": job}, status_code=202, headers={"Location": f"/v1/jobs/{job['id']}"}
    )
