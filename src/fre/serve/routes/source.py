"""Handlers of the source that the service follows."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Body, Response

from fre.errors import OutputError
from fre.line.frame import SourceOptions
from fre.serve.responses import conflict, json_response
from fre.serve.service import Service
from fre.serve.settings import LineSettings
from fre.serve.source_schemas import SourceRequest
from fre.serve.sources import allowed_source


@dataclass
class SourceRoutes:
    """Handlers of the source that the service follows."""

    service: Service

    async def get_source(self) -> Response:
        """Return the source that the service follows, and its counts."""
        return self._answer(self.service.source.state())

    async def start_source(
        self,
        body: Annotated[SourceRequest, Body(examples=[{"source": "camera:0", "rate": 5.0}])],
    ) -> Response:
        """Follow a folder, camera, stream or video, until it is stopped or the service ends."""
        settings = self.service.settings
        if body.model is not None:
            self.service.registry.get(body.model)
        line = LineSettings(
            allowed_source(body.source, settings.source_roots),
            SourceOptions(every=body.every, rate=body.rate, buffer=body.buffer),
            body.model,
        )
        try:
            state = await asyncio.to_thread(self.service.source.follow, line)
        except OutputError as error:  # another watcher has the folder, for instance
            raise conflict(str(error)) from error
        return self._answer(state)

    async def stop_source(self) -> Response:
        """Follow the source no more; return its counts at the end."""
        return self._answer(await asyncio.to_thread(self.service.source.stop))

    def _answer(self, state: dict[str, Any] | None) -> Response:
        settings = self.service.settings
        return json_response(
            {
                "source": state,
                "roots": [str(root) for root in settings.source_roots],
                "n_receivers": len(settings.targets),
            }
        )
