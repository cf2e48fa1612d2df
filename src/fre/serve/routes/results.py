"""Handlers of the history of results, their pictures and verdicts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from fastapi import Body, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse

from fre.serve.database import stamp
from fre.serve.parameters import (
    After,
    Anomalous,
    Decided,
    Identity,
    Named,
    OfImage,
    OneModel,
    OneSource,
    Side,
    Since,
    Until,
    Verdict,
    Wrong,
)
from fre.serve.pictures import PictureRequest
from fre.serve.responses import invalid, json_response
from fre.serve.result_rows import Filters
from fre.serve.schemas import VerdictRequest
from fre.serve.service import Service


async def _filters(
    model: OneModel = None,
    source: OneSource = None,
    anomalous: Anomalous = None,
    decision: Decided = None,
    verdict: Verdict = None,
    wrong: Wrong = None,
    since: Since = None,
    until: Until = None,
    after: After = None,
    name: Named = None,
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
        decision,
        name,
    )


def _moment(name: str, text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return stamp(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())
    except (ValueError, OverflowError, OSError) as error:
        raise invalid(f"{name}: {text} is not a time") from error


Filtered = Annotated[Filters, Depends(_filters)]
"""Conditions on results, from the query parameters."""


@dataclass
class ResultRoutes:
    """Handlers of the history of results."""

    service: Service

    async def list_results(
        self,
        filters: Filtered,
        order: Annotated[
            Literal["newest", "worst"], Query(description="Newest or highest score first.")
        ] = "newest",
        limit: Annotated[int, Query(ge=1, le=500, description="Number of results on a page.")] = 50,
        cursor: Annotated[
            str | None, Query(description="'next' of the previous page.", max_length=200)
        ] = None,
    ) -> Response:
        """List the results, one page at a time."""
        page = await asyncio.to_thread(
            self.service.results.page, filters, order=order, limit=limit, cursor=cursor
        )
        return json_response(page)

    async def export_results(self, filters: Filtered) -> Response:
        """Export the results as CSV, oldest first."""
        return StreamingResponse(
            self.service.results.csv(filters),
            media_type="text/csv; charset=utf-8",
            headers={"Content-Disposition": 'attachment; filename="results.csv"'},
        )

    async def get_result(self, result: Identity) -> Response:
        """Return one result."""
        return json_response({"result": await asyncio.to_thread(self.service.results.get, result)})

    async def set_verdict(
        self,
        result: Identity,
        body: Annotated[VerdictRequest, Body(examples=[{"verdict": "good"}])],
    ) -> Response:
        """Set the verdict of a reviewer on a part."""
        found = await asyncio.to_thread(self.service.results.set_verdict, result, body.verdict)
        self.service.events.publish("verdict", found)
        return json_response({"result": found})

    async def get_image(
        self, request: Request, result: Identity, size: Side = None, sha256: OfImage = None
    ) -> Response:
        """Return the image as sent if browsers show its format, or a smaller JPEG."""
        return await self._picture(request, result, PictureRequest("image", size), sha256)

    async def get_overlay(
        self, request: Request, result: Identity, size: Side = 1024, sha256: OfImage = None
    ) -> Response:
        """Return the image under its heat map."""
        return await self._picture(request, result, PictureRequest("overlay", size), sha256)

    async def get_heat(
        self, request: Request, result: Identity, sha256: OfImage = None
    ) -> Response:
        """Return the heat colours with their opacity, at the size of the model's input."""
        return await self._picture(request, result, PictureRequest("heat"), sha256)

    async def get_map(
        self,
        request: Request,
        result: Identity,
        map_format: Annotated[
            Literal["png", "npy", "tiff"],
            Query(
                alias="format",
                description="16-bit grey PNG over the model's map range, or float32.",
            ),
        ] = "png",
    ) -> Response:
        """Return the anomaly map at the size of the image."""
        return await self._picture(request, result, PictureRequest("map", map_format=map_format))

    async def _picture(
        self, request: Request, result: int, wanted: PictureRequest, sha256: str | None = None
    ) -> Response:
        async def gone() -> bool:
            # The first call consumes the end of the request, the second a disconnect.
            ended = await request.is_disconnected() or await request.is_disconnected()
            return bool(ended)

        stored = await asyncio.to_thread(self.service.results.stored, result, sha256)
        return await self.service.gallery.answer(stored, wanted, gone)
