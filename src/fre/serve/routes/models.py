"""Handlers of models: calibration, threshold, anomalous rate and drift."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Annotated
from urllib.parse import quote

from fastapi import Body, Query, Response

from fre.serve.drift import MIN_CALIBRATION, MIN_RESULTS, SIGNIFICANCE, TEST, drift
from fre.serve.odd import odd_body, picture_of
from fre.serve.parameters import Caller, Digest, Model, ModelDigest, OneSource
from fre.serve.responses import conflict, json_response
from fre.serve.results import PAGE_SOURCE
from fre.serve.reviewed import reviewed_body
from fre.serve.schemas import OddRequest, ThresholdRequest
from fre.serve.service import Service
from fre.serve.shifts import count_shift
from fre.serve.thresholds import Change, OddChoice, ThresholdChoice


@dataclass
class ModelRoutes:
    """Handlers of models and their calibration."""

    service: Service

    async def list_models(self) -> Response:
        """List all models by name, and the files that can't be loaded."""
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
        """Return a model and the metadata of its file."""
        entry = self.service.registry.get(model)
        metadata = {k: v for k, v in entry.model.metadata.items() if k != "calibration"}
        return json_response({"model": entry.summary(), "metadata": metadata})

    async def get_model_file(self, model: Model) -> Response:
        """Download the model file that serves."""
        entry = self.service.registry.get(model)
        name = f"{quote(entry.name)}.onnx"
        return Response(
            bytes(entry.model.data),
            media_type="application/octet-stream",
            headers={"Content-Disposition": f"attachment; filename*=UTF-8''{name}"},
        )

    async def delete_model(self, model: Model, sha256: ModelDigest = None) -> Response:
        """Delete a model file and its versions; its results stay in the history."""
        service = self.service
        service.registry.get(model)
        source = service.source.state()
        if source is not None and source["model"] == model:
            raise conflict(f"{model} scores {source['source']}; stop that source first")
        await asyncio.to_thread(service.registry.delete, model, sha256=sha256)
        return Response(status_code=204)

    async def get_calibration(self, model: Model) -> Response:
        """Return the scores of good images, and the thresholds that follow from them."""
        return json_response(self.service.registry.get(model).calibration())

    async def set_threshold(
        self,
        model: Model,
        body: Annotated[ThresholdRequest, Body(examples=[{"false_alarm_rate": 0.05}])],
        by: Caller,
    ) -> Response:
        """Set another threshold or review band, and write it into the model file."""
        self.service.registry.get(model)
        choice = ThresholdChoice(
            body.threshold,
            body.false_alarm_rate,
            body.review_threshold,
            body.review_rate,
            body.no_review,
        )
        choice.check()
        return await self._recalibrate(model, choice.apply, by, body.sha256)

    async def _recalibrate(
        self, model: str, change: Change, by: str | None, sha256: str | None
    ) -> Response:
        entry = await asyncio.to_thread(
            self.service.registry.recalibrate, model, change, by=by, sha256=sha256
        )
        return json_response(entry.calibration())

    async def list_odd(self, model: Model) -> Response:
        """List the odd training images, which are set aside for the threshold."""
        entry = self.service.registry.get(model)
        kept = self.service.trainings.get(model, entry.calibration_sha256)
        return json_response(await asyncio.to_thread(odd_body, model, entry.model, kept))

    async def keep_odd(
        self,
        model: Model,
        body: Annotated[OddRequest, Body(examples=[{"keep": True}])],
        by: Caller,
    ) -> Response:
        """Keep odd training images as good ones, or set them aside again."""
        self.service.registry.get(model)
        return await self._recalibrate(model, OddChoice(body.keep).apply, by, body.sha256)

    async def get_odd_image(self, model: Model, digest: Digest) -> Response:
        """Return a small picture of an odd training image."""
        entry = self.service.registry.get(model)
        kept = self.service.trainings.get(model, entry.calibration_sha256)
        return Response(picture_of(kept, digest), media_type="image/jpeg")

    async def get_reviewed(self, model: Model) -> Response:
        """Return found defects and false alarms among the reviewed results."""
        entry = self.service.registry.get(model)
        rows = await asyncio.to_thread(self.service.results.reviewed, entry.name)
        return json_response(
            reviewed_body(entry.name, entry.model, entry.calibration_sha256, map(dict, rows))
        )

    async def get_rate(
        self,
        model: Model,
        seconds: Annotated[
            int, Query(ge=1, le=31_622_400, description="Length of the whole period, in seconds.")
        ] = 3600,
        buckets: Annotated[
            int, Query(ge=1, le=1000, description="Number of time spans in the period.")
        ] = 60,
        source: OneSource = None,
    ) -> Response:
        """Return the anomalous rate over time."""
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

    async def get_shift(
        self,
        model: Model,
        after: Annotated[
            int, Query(ge=0, lt=2**63, description="Id of the last result before the shift.")
        ] = 0,
    ) -> Response:
        """Count the parts of a shift."""
        name = self.service.registry.get(model).name
        counts = await asyncio.to_thread(count_shift, self.service.database, name, after)
        return json_response(asdict(counts))

    async def get_drift(
        self,
        model: Model,
        n: Annotated[
            int, Query(ge=30, le=10_000, description="Number of recent parts to test.")
        ] = 200,
        source: OneSource = None,
    ) -> Response:
        """Test whether recent parts still look like the good images of the calibration."""
        entry = self.service.registry.get(model)
        p_values = await asyncio.to_thread(
            self.service.results.recent_p_values,
            entry.name,
            entry.calibration_sha256,
            source,
            n,
        )
        found = drift(p_values, len(entry.model.calibration.others))
        if source == PAGE_SOURCE:
            found = replace(found, message="Images uploaded on the page do not count.")
        return json_response(
            {
                "model": entry.name,
                "test": TEST,
                "significance": SIGNIFICANCE,
                "min_parts": MIN_RESULTS,
                "min_calibration": MIN_CALIBRATION,
                **asdict(found),
            }
        )
