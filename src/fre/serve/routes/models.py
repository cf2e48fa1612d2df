"""The models: what they are, and the threshold they decide by."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict, replace
from typing import Annotated

from fastapi import Body, Query, Response

from fre.serve.drift import SIGNIFICANCE, TEST, drift
from fre.serve.responses import Problem, json_response
from fre.serve.results import PAGE_SOURCE
from fre.serve.schemas import Model, OneSource, ThresholdRequest
from fre.serve.service import Service


class ModelRoutes:
    """Models and their calibration.

    Args:
        service: that does the work.
    """

    def __init__(self, service: Service) -> None:
        self.service = service

    async def list_models(self) -> Response:
        """All models, by name; and the files that can't be loaded, with the reasons."""
        registry = self.service.registry
        return json_response(
            {
                "models": [entry.summary() for entry in registry.entries()],
                "errors": [
                    {"name": name, "error": reason} for name, reason in registry.broken().items()
                ],
            }
        )

    async def get_model(self, model: Model) -> Response:
        """One model, and what its file says of itself."""
        entry = self.service.registry.get(model)
        metadata = {k: v for k, v in entry.model.metadata.items() if k != "calibration"}
        return json_response({"model": entry.summary(), "metadata": metadata})

    async def get_calibration(self, model: Model) -> Response:
        """Scores of good images, and the threshold that follows from them."""
        return json_response(self.service.registry.get(model).calibration())

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
        return json_response(entry.calibration())

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
        return json_response({"model": entry.name, "bucket_seconds": span, "buckets": found})

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
        return json_response(
            {"model": entry.name, "test": TEST, "significance": SIGNIFICANCE, **asdict(found)}
        )
