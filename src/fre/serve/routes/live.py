"""What happens now: events, the anomalous rate, drift."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict, replace
from typing import Annotated

from fastapi import Query, Response
from fastapi.responses import StreamingResponse

from fre.serve.answers import answer
from fre.serve.drift import SIGNIFICANCE, TEST, drift
from fre.serve.results import PAGE_SOURCE
from fre.serve.routes.parameters import Model, OneModel, OneSource
from fre.serve.service import Service


class LiveRoutes:
    """Parts as they come.

    Args:
        service: that does the work.
    """

    def __init__(self, service: Service) -> None:
        self.service = service

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
        return answer({"model": entry.name, "bucket_seconds": span, "buckets": found})

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
        if source == PAGE_SOURCE:
            found = replace(found, message="Images that are uploaded on the page do not count.")
        return answer(
            {"model": entry.name, "test": TEST, "significance": SIGNIFICANCE, **asdict(found)}
        )

    async def events(self, model: OneModel = None, source: OneSource = None) -> Response:
        """What happens, as it happens: server-sent events."""
        hub = self.service.hub
        listener = hub.listen(model, source)
        return StreamingResponse(hub.stream(listener), media_type="text/event-stream")
