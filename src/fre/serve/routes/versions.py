"""Handlers of the versions of a model, and of prepared updates."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated

from fastapi import Body, Response
from fastapi.responses import FileResponse

from fre.serve.lessons import match_learnt
from fre.serve.parameters import Caller, Digest, Model, Version
from fre.serve.responses import conflict, json_response
from fre.serve.service import Service
from fre.serve.version_schemas import ApplyRequest
from fre.serve.versions import Save, versions_body


@dataclass
class VersionRoutes:
    """Handlers of versions and of prepared updates."""

    service: Service

    async def list_versions(self, model: Model) -> Response:
        """List the files of a model that are kept, the last saved first."""
        return json_response(await asyncio.to_thread(self._list, model))

    async def get_version(self, model: Model, version: Version) -> Response:
        """Return the model file of a version."""
        path = await asyncio.to_thread(self.service.registry.versions.file, model, version)
        return FileResponse(
            path,
            media_type="application/octet-stream",
            filename=f"{model}-{version[:8]}.onnx",
        )

    async def restore_version(self, model: Model, version: Version, by: Caller) -> Response:
        """Put a version in place again; the present file stays a version."""
        found = await asyncio.to_thread(self._restore, model, version, by)
        return json_response(found)

    async def delete_version(self, model: Model, version: Version) -> Response:
        """Delete a version that is not in use."""
        await asyncio.to_thread(self._delete, model, version)
        return Response(status_code=204)

    def _list(self, name: str) -> dict[str, object]:
        registry = self.service.registry
        current = registry.find(name)
        found = versions_body(name, registry.versions, current)
        if current is None and not found["versions"]:
            registry.get(name)  # says why there is no such model
        return found

    def _restore(self, name: str, version: str, by: str | None) -> dict[str, object]:
        service, registry = self.service, self.service.registry
        if registry.versions.keep == 0:
            raise conflict("the service keeps no versions: start it with --keep-versions 1 or more")
        current = registry.find(name)
        if current is None and not registry.is_folder:
            registry.get(name)
        if current is not None and current.error is None and current.model.sha256 == version:
            raise conflict(f"this version of {name} is in use already")
        service.jobs.check_idle(name)
        model = registry.versions.load(name, version)
        registry.save(name, model, Save("restored", by))
        for result in match_learnt(service.results, name, model.training_images):
            service.events.publish("verdict", result)
        return self._list(name)

    def _delete(self, name: str, version: str) -> None:
        current = self.service.registry.find(name)
        if current is not None and current.model.sha256 == version:
            raise conflict(f"this version of {name} is in use")
        self.service.registry.versions.delete(name, version)

    async def get_preview(self, model: Model) -> Response:
        """Return what would change with the prepared update of a model."""
        return json_response(self.service.previews.get(model).body)

    async def get_preview_image(self, model: Model, digest: Digest) -> Response:
        """Return a small picture of an image that the prepared update learns."""
        return Response(self.service.previews.picture(model, digest), media_type="image/jpeg")

    async def apply_preview(
        self,
        model: Model,
        body: Annotated[ApplyRequest, Body(examples=[{"sha256": "0123456789abcdef" * 4}])],
        by: Caller,
    ) -> Response:
        """Put the prepared update of a model in place."""
        return json_response(await asyncio.to_thread(self._apply, model, body.sha256, by))

    def _apply(self, name: str, sha256: str | None, by: str | None) -> dict[str, object]:
        service = self.service
        preview = service.previews.get(name, sha256)
        service.jobs.check_idle(name)
        service.teach(name, preview.model, preview.results, before=preview.before, by=by)
        service.previews.drop(preview)
        return self._list(name)

    async def discard_preview(self, model: Model) -> Response:
        """Discard the prepared update of a model."""
        self.service.previews.drop(self.service.previews.get(model))
        return Response(status_code=204)
