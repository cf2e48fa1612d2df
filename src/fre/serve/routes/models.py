"""The models: what they are, and the threshold they decide by."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Body, Response

from fre.serve.answers import answer
from fre.serve.problems import Problem
from fre.serve.routes.parameters import Model
from fre.serve.schemas import ThresholdRequest
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
        return answer(
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
        return answer({"model": entry.summary(), "metadata": metadata})

    async def get_calibration(self, model: Model) -> Response:
        """Scores of good images, and the threshold that follows from them."""
        return answer(self.service.registry.get(model).calibration())

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
        return answer(entry.calibration())
