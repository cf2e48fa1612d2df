"""Handlers of the service itself: page, state, metrics, sessions, samples and events."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated

from fastapi import Body, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, StreamingResponse

from fre.serve.access import COOKIE, AccessControl
from fre.serve.parameters import OneModel, OneSource
from fre.serve.responses import Problem, json_response, not_found, shutting_down
from fre.serve.schemas import LimitsBody, SessionRequest
from fre.serve.service import Service
from fre.version import __version__

PAGE = Path(__file__).parents[1] / "page"


@dataclass
class SiteRoutes:
    """Handlers of the page, the state, sessions, samples and events."""

    service: Service
    access: AccessControl

    async def page(self) -> Response:
        """The page for people."""
        index = PAGE / "index.html"
        if not index.is_file():
            raise not_found("this installation has no page; /openapi.json has more")
        return FileResponse(index, media_type="text/html", headers={"Cache-Control": "no-cache"})

    async def healthz(self) -> Response:
        """Check that the process responds."""
        return json_response({"status": "ok"})

    async def readyz(self) -> Response:
        """Check that the service accepts images."""
        service = self.service
        if service.draining:
            raise shutting_down()
        if service.registry.away is not None:
            raise Problem(
                503,
                "models_away",
                f"{service.registry.away}; {len(service.registry.names())} loaded models "
                "stay in use",
                retry_after=5,
            )
        return json_response(
            {
                "status": "ready",
                "models": len(service.registry.names()),
                "note": service.history_note,
            }
        )

    async def metrics(self) -> Response:
        """Metrics for Prometheus."""
        text = await asyncio.to_thread(self.service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def describe(self, request: Request) -> Response:
        """Version, features and limits of the service, and the role of the client."""
        service, limits = self.service, self.service.settings.limits
        source = service.source.state()
        watch = source and {
            "folder": source["source"],
            "model": source["model"],
            "error": source["error"],
        }
        return json_response(
            {
                "version": __version__,
                "role": request.state.role,
                "token_needed": bool(self.access.tokens),
                "models_folder": service.registry.is_folder,
                "can_train": service.registry.is_folder,
                "limits": {key.name: getattr(limits, key.name) for key in fields(LimitsBody)},
                "watch": watch,
                "n_results": await asyncio.to_thread(service.results.count),
                "note": service.history_note,
            }
        )

    async def open_session(
        self,
        request: Request,
        body: Annotated[SessionRequest, Body(examples=[{"token": "a token"}])],
    ) -> Response:
        """Exchange the token for a cookie, for pages."""
        role = self.access.role_of(body.token)
        if role is None:
            raise Problem(401, "unauthorized", "the token is wrong")
        response = Response(status_code=204)
        if self.access.tokens:
            response.set_cookie(
                COOKIE,
                self.access.session(role),
                httponly=True,
                samesite="strict",
                secure=request.url.scheme == "https",
            )
        return response

    async def close_session(self) -> Response:
        """Delete the cookie."""
        response = Response(status_code=204)
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response

    async def list_samples(self) -> Response:
        """List the images that the service draws."""
        return json_response({"samples": self.service.samples.list()})

    async def get_sample(
        self,
        sample: Annotated[
            str, InPath(description="Id of the sample.", max_length=64, examples=["scratch-1"])
        ],
    ) -> Response:
        """Return a drawn image."""
        data = await asyncio.to_thread(self.service.samples.png, sample)
        return Response(data, media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    async def events(self, model: OneModel = None, source: OneSource = None) -> Response:
        """Stream results, verdicts, jobs and model changes as server-sent events."""
        broadcaster = self.service.events
        listener = broadcaster.listen(model, source)
        return StreamingResponse(broadcaster.stream(listener), media_type="text/event-stream")
