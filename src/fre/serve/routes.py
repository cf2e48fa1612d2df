"""What the service answers: thin, the work is done elsewhere."""

from __future__ import annotations

import asyncio
import base64
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Body, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import Field

from fre.errors import ImageError
from fre.output import encode_map
from fre.serve.batching import Outcome
from fre.serve.clock import stamp
from fre.serve.drift import SIGNIFICANCE, TEST, drift
from fre.serve.gate import COOKIE, Access
from fre.serve.pictures import render
from fre.serve.problems import Problem
from fre.serve.registry import Entry
from fre.serve.results import Filters
from fre.serve.schemas import SessionRequest, ThresholdRequest, VerdictRequest
from fre.serve.service import Service
from fre.serve.training import NAME_PATTERN, Staging, Training
from fre.serve.updating import Updating
from fre.serve.uploads import (
    Lease,
    MemorySink,
    Part,
    body_chunks,
    clean_name,
    media_type,
    read_multipart,
)
from fre.version import __version__

__all__ = ["PAGE", "Routes"]

PAGE = Path(__file__).with_name("page")
FOREVER = {"Cache-Control": "private, max-age=31536000, immutable"}
RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
ZIP_TYPES = ("application/zip", "application/x-zip-compressed")
MOST_RESULTS = 2000
TIME_PATTERN = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?(Z|[+-]\d\d:\d\d)$"
SOURCE_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"

Model = Annotated[str, InPath(description="Name of the model.", examples=["plate"])]
Identity = Annotated[int, InPath(description="Id of the result.", ge=1, examples=[1])]
JobIdentity = Annotated[int, InPath(description="Id of the job.", ge=1, examples=[1])]
OneModel = Annotated[str | None, Query(description="Only of this model.", max_length=200)]
OneSource = Annotated[str | None, Query(description="Only of this source.", max_length=64)]
Source = Annotated[
    str,
    Query(description="A word that groups results, such as a camera.", pattern=SOURCE_PATTERN),
]
Side = Annotated[
    int | None, Query(ge=32, le=2048, description="The longest side at most, in pixels.")
]
Anomalous = Annotated[bool | None, Query(description="Only those that were, or were not.")]
Verdict = Annotated[
    Literal["good", "defect", "none", "any"] | None,
    Query(description="Only those with this verdict of a reviewer, with none, or with any."),
]
Wrong = Annotated[
    bool | None, Query(description="Only those whose verdict contradicts the decision, or not.")
]
Since = Annotated[
    str | None,
    Query(
        description="RFC 3339; from then on.",
        pattern=TIME_PATTERN,
        examples=["2026-01-31T08:00:00Z"],
    ),
]
Until = Annotated[
    str | None,
    Query(
        description="RFC 3339; before then.",
        pattern=TIME_PATTERN,
        examples=["2126-01-31T08:00:00Z"],
    ),
]
After = Annotated[int | None, Query(description="Only ids above this one.", ge=0, lt=2**63)]


class Routes:
    """The handlers of one service.

    Args:
        service: that does the work.
        access: who may ask.
    """

    def __init__(self, service: Service, access: Access) -> None:
        self.service = service
        self.access = access

    # --- the service ---------------------------------------------------------------------------

    async def page(self) -> Response:
        """The page for people."""
        index = PAGE / "index.html"
        if not index.is_file():
            raise Problem(404, "not_found", "this installation has no page; /openapi.json has more")
        return FileResponse(index, media_type="text/html", headers={"Cache-Control": "no-cache"})

    async def healthz(self) -> Response:
        """Whether the process answers."""
        return JSONResponse({"status": "ok"})

    async def readyz(self) -> Response:
        """Whether it is worth sending images."""
        service = self.service
        if service.draining:
            raise Problem(503, "shutting_down", "the service is ending", retry_after=5)
        return JSONResponse({"status": "ready", "models": len(service.registry.names())})

    async def metrics(self) -> Response:
        """Figures for Prometheus."""
        text = await asyncio.to_thread(self.service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def describe(self) -> Response:
        """What the service is and can."""
        service, limits = self.service, self.service.settings.limits
        watch = None
        if service.settings.watch is not None:
            entry = service.watch_entry()
            watch = {
                "folder": str(service.settings.watch),
                "model": entry.name if entry else service.settings.watch_model,
            }
        return JSONResponse(
            {
                "version": __version__,
                "models_folder": service.registry.is_folder,
                "can_train": service.registry.is_folder,
                "limits": {
                    "max_upload_bytes": limits.max_upload_bytes,
                    "max_train_bytes": limits.max_train_bytes,
                    "max_pixels": limits.max_pixels,
                    "max_batch": limits.max_batch,
                    "max_queue": limits.max_queue,
                },
                "watch": watch,
                "n_results": await asyncio.to_thread(service.results.count),
            }
        )

    async def open_session(
        self,
        request: Request,
        body: Annotated[SessionRequest, Body(examples=[{"token": "a token"}])],
    ) -> Response:
        """Exchange the token for a cookie, for pages."""
        if not self.access.is_token(body.token):
            raise Problem(401, "unauthorized", "the token is wrong")
        response = Response(status_code=204)
        if self.access.token is not None:
            response.set_cookie(
                COOKIE,
                self.access.session(),
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
            )
        return response

    async def close_session(self) -> Response:
        """Forget the cookie."""
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    # --- models --------------------------------------------------------------------------------

    async def list_models(self) -> Response:
        """All models, by name."""
        entries = self.service.registry.entries()
        return JSONResponse({"models": [entry.summary() for entry in entries]})

    async def get_model(self, model: Model) -> Response:
        """One model, and what its file says of itself."""
        entry = self.service.registry.get(model)
        metadata = {k: v for k, v in entry.model.metadata.items() if k != "calibration"}
        return JSONResponse({"model": entry.summary(), "metadata": metadata})

    async def get_calibration(self, model: Model) -> Response:
        """Scores of good images, and the threshold that follows from them."""
        return JSONResponse(self.service.registry.get(model).calibration())

    async def set_threshold(
        self,
        model: Model,
        body: Annotated[ThresholdRequest, Body(examples=[{"false_alarm_rate": 0.05}])],
    ) -> Response:
        """Decide by another threshold from now on; it is written into the model's file."""
        self.service.registry.get(model)
        if (body.threshold is None) == (body.false_alarm_rate is None):
            raise Problem(422, "invalid", "give one of threshold and false_alarm_rate")
        entry = await asyncio.to_thread(
            self.service.registry.set_threshold,
            model,
            threshold=body.threshold,
            false_alarm_rate=body.false_alarm_rate,
            sha256=body.sha256,
        )
        return JSONResponse(entry.calibration())

    async def predict(
        self,
        request: Request,
        model: Model,
        map: Annotated[  # noqa: A002
            Literal["none", "png", "npy"],
            Query(description="Whether to give the anomaly map, and how: 16-bit grey or float32."),
        ] = "none",
        source: Source = "api",
        name: Annotated[
            str, Query(description="What to call an image that is sent by itself.", max_length=1024)
        ] = "image",
    ) -> Response:
        """Judge images: several as a form, or one as it is."""
        service = self.service
        entry = service.registry.get(model)
        with service.budget.lease() as lease:
            images = await self._images(request, name, lease)
            if not images:
                raise Problem(
                    422, "invalid", "no image in the request: send files of a form, or one image"
                )
            futures = service.batcher.admit(entry, images, source=source)
            outcomes = await asyncio.gather(
                *(asyncio.wrap_future(future) for future in futures), return_exceptions=True
            )
        items = [
            await self._item(entry, image_name, outcome, map)
            for (image_name, _), outcome in zip(images, outcomes, strict=True)
        ]
        errors = [item["error"] for item in items if "error" in item]
        if errors:
            service.metrics.unreadable.labels(entry.name).inc(len(errors))
        if len(errors) == len(items):
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            raise Problem(422, "unreadable", f"{images[0][0]}: {errors[0]}{more}")
        return JSONResponse(
            {"model": entry.name, "model_sha256": entry.model.sha256, "predictions": items}
        )

    async def _images(self, request: Request, name: str, lease: Lease) -> list[tuple[str, bytes]]:
        """Names and files of the images in a body."""
        limits = self.service.settings.limits
        chunks = lease.count(
            body_chunks(
                request.headers,
                request.receive,
                limit=limits.max_upload_bytes,
                pause=limits.body_seconds,
            )
        )
        kind, options = media_type(request.headers)
        if kind == "multipart/form-data":
            parts = await read_multipart(
                chunks,
                options.get("boundary"),
                open_sink=lambda _: MemorySink(),
                max_files=limits.max_batch,
            )
            _only_files(parts)
            return [
                (part.filename, bytes(part.sink.data))
                for part in parts
                if part.filename is not None and isinstance(part.sink, MemorySink)
            ]
        if kind in RAW_TYPES or kind.startswith("image/"):
            body = bytearray()
            async for chunk in chunks:
                body += chunk
            return [(clean_name(name), bytes(body))] if body else []
        raise Problem(
            415,
            "unsupported_media_type",
            f"expected multipart/form-data, image/* or application/octet-stream, not {kind}",
        )

    async def _item(
        self, entry: Entry, name: str, outcome: Outcome | BaseException, form: str
    ) -> dict[str, Any]:
        if isinstance(outcome, ImageError):
            return {"name": name, "error": outcome.reason}
        if isinstance(outcome, BaseException):
            raise outcome
        result = outcome.result
        item = {
            key: result[key]
            for key in (
                "id",
                "name",
                "score",
                "p_value",
                "anomalous",
                "regions",
                "image_sha256",
                "image_size",
                "threshold",
                "created",
            )
        }
        if form != "none":
            scale = entry.model.map_range
            data = await asyncio.to_thread(
                lambda: encode_map(outcome.prediction.anomaly_map, form, scale)
            )
            text = base64.b64encode(data).decode()
            item["map"] = {"format": form, "data": text, "range": list(scale)}
        return item

    async def get_rate(
        self,
        model: Model,
        seconds: Annotated[
            int, Query(ge=1, le=31_622_400, description="How far back, in seconds.")
        ] = 3600,
        buckets: Annotated[int, Query(ge=1, le=1000, description="Spans to divide it into.")] = 60,
        source: OneSource = None,
    ) -> Response:
        """Anomalous rate over time."""
        entry = self.service.registry.get(model)
        span = max(1, math.ceil(seconds / buckets))
        found = await asyncio.to_thread(
            self.service.results.rate,
            entry.name,
            source,
            end=time.time(),
            seconds=span,
            buckets=buckets,
        )
        return JSONResponse({"model": entry.name, "bucket_seconds": span, "buckets": found})

    async def get_drift(
        self,
        model: Model,
        n: Annotated[int, Query(ge=30, le=10_000, description="Recent parts to look at.")] = 200,
        source: OneSource = None,
    ) -> Response:
        """Whether recent parts still look like the good ones of the calibration."""
        entry = self.service.registry.get(model)
        p_values = await asyncio.to_thread(
            self.service.results.recent_p_values,
            entry.name,
            entry.calibration_sha256,
            source,
            n,
        )
        found = drift(p_values, len(entry.model.calibration.scores))
        return JSONResponse(
            {"model": entry.name, "test": TEST, "significance": SIGNIFICANCE, **asdict(found)}
        )

    # --- training ------------------------------------------------------------------------------

    async def train(
        self,
        request: Request,
        name: Annotated[
            str,
            Query(description="Of the model.", pattern=NAME_PATTERN, examples=["plate-2"]),
        ],
        preset: Annotated[
            Literal["default", "reference"] | None, Query(description="As for fre train.")
        ] = None,
        false_alarm_rate: Annotated[
            float, Query(gt=0, lt=1, description="Share of good images that may be anomalous.")
        ] = 0.01,
        size: Annotated[
            int | None, Query(ge=32, le=1024, description="Of the input, in pixels.")
        ] = None,
        overwrite: Annotated[bool, Query(description="Replace a model of that name.")] = False,
        samples: Annotated[
            int | None,
            Query(ge=10, le=200, description="Draw so many good images, instead of a body."),
        ] = None,
    ) -> Response:
        """Learn what good parts look like, from images, zip files or samples: makes a job."""
        service = self.service
        parameters: dict[str, Any] = {"preset": preset, "false_alarm_rate": false_alarm_rate}
        # The reference by itself is another network, which needs PyTorch: as fre train has it.
        if preset == "reference":
            parameters["backbone"] = "efficientnet_lite0"
        if size is not None:
            parameters["size"] = size
        training = Training(name, overwrite, parameters, service.settings.threads)
        training.check(service.registry)
        service.jobs.check_room()
        staging = await asyncio.to_thread(Staging.make, service.settings.data / "uploads")
        try:
            await self._stage(request, staging)
            images = await asyncio.to_thread(staging.unpack, service.settings.limits)
            if samples is not None and images:
                raise Problem(422, "invalid", "give images or samples, not both")
            if samples is None and len(images) < 2:
                raise Problem(
                    422,
                    "invalid",
                    f"training needs 2 good images or more, found {len(images)} in the request",
                )
            work = training.work(service.registry, staging, images, samples or 0)
            job = await asyncio.to_thread(service.jobs.add, "train", name, work)
        except BaseException:
            await asyncio.to_thread(staging.remove)
            raise
        return JSONResponse(
            {"job": job}, status_code=202, headers={"Location": f"/v1/jobs/{job['id']}"}
        )

    async def update(
        self,
        request: Request,
        model: Model,
        results: Annotated[
            list[Annotated[int, Field(ge=1)]] | None,
            Query(
                description="Ids of results that are marked as good; their images are learnt.",
                max_length=MOST_RESULTS,
            ),
        ] = None,
        accept_anomalous: Annotated[
            bool, Query(description="Learn from uploads that the model calls anomalous, too.")
        ] = False,
    ) -> Response:
        """Learn from more good images, zip files, or marked results: makes a job."""
        service = self.service
        marked = tuple(dict.fromkeys(results or ()))
        updating = Updating(model, accept_anomalous, marked, service.settings.threads)
        updating.check(service.registry)
        service.jobs.check_room()
        staging = await asyncio.to_thread(Staging.make, service.settings.data / "uploads")
        try:
            await self._stage(request, staging)
            uploads = await asyncio.to_thread(staging.unpack, service.settings.limits)
            if not uploads and not marked:
                raise Problem(
                    422, "invalid", "an update needs 1 good image or more, or ids of results"
                )
            parts = await asyncio.to_thread(self._marked, model, marked, staging.folder)
            work = updating.work(service.registry, staging, uploads, parts, self._learnt)
            job = await asyncio.to_thread(service.jobs.add, "update", model, work)
        except BaseException:
            await asyncio.to_thread(staging.remove)
            raise
        return JSONResponse(
            {"job": job}, status_code=202, headers={"Location": f"/v1/jobs/{job['id']}"}
        )

    def _marked(self, model: str, results: tuple[int, ...], folder: Path) -> list[tuple[Path, str]]:
        """Copies of the images of results: those that are kept may be dropped meanwhile."""
        found = []
        for identity in results:
            name, data = self.service.results.image_of_good_part(identity, model)
            path = folder / f"result-{identity}"
            path.write_bytes(data)
            found.append((path, name))
        return found

    def _learnt(self, results: Sequence[int]) -> None:
        for found in self.service.results.set_learnt(results):
            self.service.hub.publish("verdict", found)

    async def _stage(self, request: Request, staging: Staging) -> None:
        limits = self.service.settings.limits
        chunks = body_chunks(
            request.headers,
            request.receive,
            limit=limits.max_train_bytes,
            pause=limits.body_seconds,
        )
        kind, options = media_type(request.headers)
        if kind == "multipart/form-data":
            parts = await read_multipart(
                chunks,
                options.get("boundary"),
                open_sink=staging.sink,
                max_files=limits.max_train_images,
                threaded=True,
            )
            _only_files(parts)
        elif kind in (*ZIP_TYPES, *RAW_TYPES):
            sink = None
            async for chunk in chunks:
                sink = sink or staging.sink("upload.zip")
                await asyncio.to_thread(sink.write, chunk)
            if sink is not None:
                sink.close()
        else:
            raise Problem(
                415,
                "unsupported_media_type",
                f"expected multipart/form-data or application/zip, not {kind}",
            )

    async def list_jobs(self) -> Response:
        """The last jobs, newest first."""
        return JSONResponse({"jobs": await asyncio.to_thread(self.service.jobs.list)})

    async def get_job(self, job: JobIdentity) -> Response:
        """One job: its state, its progress, its result."""
        return JSONResponse({"job": await asyncio.to_thread(self.service.jobs.get, job)})

    async def cancel_job(self, job: JobIdentity) -> Response:
        """End a job; it ends a moment later."""
        return JSONResponse({"job": await asyncio.to_thread(self.service.jobs.cancel, job)})

    # --- results -------------------------------------------------------------------------------

    async def list_results(
        self,
        model: OneModel = None,
        source: OneSource = None,
        anomalous: Anomalous = None,
        verdict: Verdict = None,
        wrong: Wrong = None,
        since: Since = None,
        until: Until = None,
        after: After = None,
        order: Annotated[
            Literal["newest", "worst"], Query(description="Newest, or highest score, first.")
        ] = "newest",
        limit: Annotated[int, Query(ge=1, le=500, description="Results to a page.")] = 50,
        cursor: Annotated[
            str | None, Query(description="'next' of the page before.", max_length=200)
        ] = None,
    ) -> Response:
        """The history, a page at a time."""
        filters = _filters(model, source, anomalous, verdict, wrong, since, until, after)
        page = await asyncio.to_thread(
            self.service.results.page, filters, order=order, limit=limit, cursor=cursor
        )
        return JSONResponse(page)

    async def export_results(
        self,
        model: OneModel = None,
        source: OneSource = None,
        anomalous: Anomalous = None,
        verdict: Verdict = None,
        wrong: Wrong = None,
        since: Since = None,
        until: Until = None,
        after: After = None,
    ) -> Response:
        """The history as CSV, oldest first."""
        filters = _filters(model, source, anomalous, verdict, wrong, since, until, after)
        return StreamingResponse(
            self.service.results.csv(filters),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="results.csv"'},
        )

    async def get_result(self, result: Identity) -> Response:
        """One result."""
        return JSONResponse({"result": await asyncio.to_thread(self.service.results.get, result)})

    async def set_verdict(
        self,
        result: Identity,
        body: Annotated[VerdictRequest, Body(examples=[{"verdict": "good"}])],
    ) -> Response:
        """Keep what a reviewer says of a part."""
        found = await asyncio.to_thread(self.service.results.set_verdict, result, body.verdict)
        self.service.hub.publish("verdict", found)
        return JSONResponse({"result": found})

    async def get_image(self, result: Identity, size: Side = None) -> Response:
        """The image, as it was sent where browsers show that, or smaller as JPEG."""
        return await self._picture(result, "image", size=size)

    async def get_overlay(self, result: Identity, size: Side = 1024) -> Response:
        """The image under its heat map."""
        return await self._picture(result, "overlay", size=size)

    async def get_heat(self, result: Identity) -> Response:
        """The heat colours with their opacity, at the size of the model's input."""
        return await self._picture(result, "heat")

    async def get_map(
        self,
        result: Identity,
        format: Annotated[  # noqa: A002
            Literal["png", "npy", "tiff"],
            Query(description="16-bit grey on the model's range of the map, or float32."),
        ] = "png",
    ) -> Response:
        """The anomaly map at the size of the image."""
        return await self._picture(result, "map", map_format=format)

    async def _picture(self, result: int, kind: str, **options: Any) -> Response:
        def make() -> tuple[bytes, str]:
            data, form, anomaly_map, scale = self.service.results.picture(result)
            return render(kind, data, form, anomaly_map, scale, **options)

        data, media = await asyncio.to_thread(make)
        return Response(data, media_type=media, headers=FOREVER)

    # --- samples and events --------------------------------------------------------------------

    async def list_samples(self) -> Response:
        """Images that the service draws itself."""
        return JSONResponse({"samples": self.service.samples.list()})

    async def get_sample(
        self,
        sample: Annotated[
            str, InPath(description="Id of the sample.", max_length=64, examples=["scratch-1"])
        ],
    ) -> Response:
        """A drawn image."""
        data = await asyncio.to_thread(self.service.samples.png, sample)
        return Response(data, media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    async def events(self, model: OneModel = None, source: OneSource = None) -> Response:
        """What happens, as it happens: server-sent events."""
        hub = self.service.hub
        listener = hub.listen(model, source)
        return StreamingResponse(hub.stream(listener), media_type="text/event-stream")


def _only_files(parts: list[Part]) -> None:
    """Refuse a form with anything but files, which somebody may believe to have an effect."""
    for part in parts:
        if part.filename is None:
            raise Problem(
                422, "invalid", f"field {clean_name(part.key)!r} of the form is not a file"
            )
    if not parts:
        raise Problem(422, "invalid", "the form has no files; their field is called files")


def _filters(
    model: str | None,
    source: str | None,
    anomalous: bool | None,
    verdict: str | None,
    wrong: bool | None,
    since: str | None,
    until: str | None,
    after: int | None,
) -> Filters:
    return Filters(
        model,
        source,
        anomalous,
        verdict,
        wrong,
        _moment("since", since),
        _moment("until", until),
        after,
    )


def _moment(name: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return stamp(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())
    except (ValueError, OverflowError, OSError) as error:
        raise Problem(422, "invalid", f"{name}: {text} is not a time") from error
