"""Handler of predictions."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from fastapi import Query, Request, Response

from fre.errors import ImageError
from fre.report.prediction_files import encode_map
from fre.serve.bodies import (
    RAW_TYPES,
    Lease,
    MemorySink,
    body_of,
    clean_name,
    media_type,
    read_files,
    unsupported,
)
from fre.serve.loaded import LoadedModel
from fre.serve.outcomes import Outcome, UnjudgedError
from fre.serve.parameters import Model, Source
from fre.serve.responses import Problem, invalid, json_response
from fre.serve.schemas import PredictionItem
from fre.serve.service import Service

OPTIONAL_KEYS = ("decision", "reason")
"""Keys of a stored result that a response repeats unless they are null."""
ITEM_KEYS = [key.name for key in fields(PredictionItem) if key.name not in (*OPTIONAL_KEYS, "map")]
"""Keys of a stored result that a response repeats."""


@dataclass
class PredictRoutes:
    """Handler of predictions."""

    service: Service

    async def predict(
        self,
        request: Request,
        model: Model,
        map_format: Annotated[
            Literal["none", "png", "npy"],
            Query(
                alias="map",
                description="Format of the anomaly map: none, 16-bit grey PNG, or float32 npy.",
            ),
        ] = "none",
        source: Source = "api",
        name: Annotated[
            str, Query(description="Name of an image that is the whole body.", max_length=1024)
        ] = "image",
    ) -> Response:
        """Score images: several in a form, or one as the whole body."""
        service = self.service
        entry = service.registry.get(model)
        with service.budget.lease() as lease:
            images = await self._images(request, name, lease)
            if not images:
                raise invalid("no image in the request: send files of a form, or one image")
            futures = service.batcher.admit(entry, images, source=source)
            outcomes = await asyncio.gather(
                *(asyncio.wrap_future(future) for future in futures), return_exceptions=True
            )
        items = [
            await self._item(entry, image_name, outcome, map_format)
            for (image_name, _), outcome in zip(images, outcomes, strict=True)
        ]
        errors = [item["error"] for item in items if "error" in item]
        unjudged = sum(isinstance(outcome, UnjudgedError) for outcome in outcomes)
        if errors:
            service.metrics.unreadable.labels(entry.name).inc(len(errors) - unjudged)
            service.metrics.unjudged.labels(entry.name).inc(unjudged)
        if len(errors) == len(items):
            more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
            status, code = (500, "not_judged") if unjudged else (422, "unreadable")
            raise Problem(status, code, f"{images[0][0]}: {errors[0]}{more}")
        return json_response(
            {"model": entry.name, "model_sha256": entry.model.sha256, "predictions": items}
        )

    async def _images(self, request: Request, name: str, lease: Lease) -> list[tuple[str, bytes]]:
        """Return names and file contents of the images in a body."""
        limits = self.service.settings.limits
        chunks = lease.count(body_of(request, limits, max_bytes=limits.max_upload_bytes))
        kind, options = media_type(request.headers)
        if kind == "multipart/form-data":
            parts = await read_files(
                chunks,
                options.get("boundary"),
                open_sink=lambda _: MemorySink(),
                max_files=limits.max_batch,
            )
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
        raise unsupported(kind, "multipart/form-data, image/* or application/octet-stream")

    async def _item(
        self, entry: LoadedModel, name: str, outcome: Outcome | BaseException, form: str
    ) -> dict[str, Any]:
        if isinstance(outcome, (ImageError, UnjudgedError)):
            return {"name": name, "error": outcome.reason}
        if isinstance(outcome, BaseException):
            raise outcome
        result = outcome.result
        item = {key: result[key] for key in ITEM_KEYS}
        item |= {key: result[key] for key in OPTIONAL_KEYS if result[key] is not None}
        if form != "none":
            scale = entry.model.map_range
            data = await asyncio.to_thread(
                lambda: encode_map(outcome.prediction.anomaly_map, form, scale)
            )
            text = base64.b64encode(data).decode()
            item["map"] = {"format": form, "data": text, "range": list(scale)}
        return item
