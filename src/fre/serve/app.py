"""The FastAPI application: its routes, its error handlers, and its documentation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match
from starlette.staticfiles import StaticFiles

from fre.errors import FREError
from fre.serve import job_schemas, schemas, source_schemas, version_schemas
from fre.serve.access import AccessControl, AccessMiddleware, App
from fre.serve.responses import (
    Problem,
    internal_problem,
    json_response,
    problem_body,
    problem_from,
    problem_response,
)
from fre.serve.roles import OPEN_PATHS, check_role, needed_role
from fre.serve.routes.jobs import JobRoutes
from fre.serve.routes.models import ModelRoutes
from fre.serve.routes.predict import PredictRoutes
from fre.serve.routes.results import ResultRoutes
from fre.serve.routes.site import PAGE, SiteRoutes
from fre.serve.routes.source import SourceRoutes
from fre.serve.routes.versions import VersionRoutes
from fre.serve.service import Service
from fre.serve.shifts import ShiftBody
from fre.version import __version__

CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}
MESSAGES = {
    400: "the request is malformed",
    401: "the token is missing or wrong",
    403: "the role of the token, the page or the host name is not allowed",
    404: "the resource does not exist",
    408: "the body stalled",
    409: "the present state does not allow the request",
    413: "the body is too large, or has too many images",
    415: "the body has an unexpected media type",
    422: "a parameter is invalid, or no image can be read",
    429: "too many jobs wait",
    503: "too many requests wait, or the service is ending",
    507: "a file can't be written, or the disk space for uploads is exhausted",
}

SMALL_BODY = (408, 413)
"""Error status codes of a request with a body."""
TEXT = {"type": "string"}
BINARY = {"type": "string", "format": "binary"}
FORM = {
    "schema": {
        "type": "object",
        "properties": {"files": {"type": "array", "items": BINARY}},
        "required": ["files"],
    }
}
RAW_BODY = {"application/octet-stream": {"schema": BINARY}, "image/*": {"schema": BINARY}}
IMAGE_BODY = {"required": True, "content": {"multipart/form-data": FORM, **RAW_BODY}}
TRAIN_BODY = {
    "required": False,
    "content": {"multipart/form-data": FORM, "application/zip": {"schema": BINARY}},
}


def create_app(service: Service) -> App:
    """Return the ASGI application of a service.

    Args:
        service: service; the application starts and closes it.
    """
    settings = service.settings
    access = AccessControl(settings.tokens(), settings.host, settings.cors)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.events.bind(asyncio.get_running_loop())
        service.start()
        yield
        await asyncio.to_thread(service.close)

    api = FastAPI(
        title="fre",
        version=__version__,
        description="Visual anomaly detection from good images alone. The body of every error is "
        '{"error": {"code": ..., "message": ...}}.',
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    api.router.route_class = _GuardedRoute
    api.add_exception_handler(Problem, _on_problem)
    api.add_exception_handler(FREError, _on_error)
    api.add_exception_handler(HTTPException, _on_http)
    api.add_exception_handler(RequestValidationError, _on_invalid)
    api.add_exception_handler(Exception, _on_fault)
    for route in _routes(service, access):
        _add_route(api, route)
    api.add_api_route(
        "/", SiteRoutes(service, access).page, methods=["GET"], include_in_schema=False
    )
    if PAGE.is_dir():
        api.mount("/static", StaticFiles(directory=PAGE), name="static")
    _secure(api, bool(access.tokens))
    app: App = api
    if settings.cors:
        app = CORSMiddleware(
            api,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Location", "Retry-After"],
        )
    return AccessMiddleware(
        app,
        access=access,
        metrics=service.metrics,
        pause=settings.limits.body_seconds,
        is_upload=lambda path: (
            path in ("/v1/check", "/v1/input", "/v1/train")
            or path.endswith(("/predict", "/update"))
        ),
    )


class _GuardedRoute(APIRoute):
    """Refuses a role that is too low, before it reads the parameters and the body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        method = min(self.methods or ())  # it has one
        needed = needed_role(method, self.path)

        async def guarded(request: Request) -> Response:
            check_role(request.state.role, needed, f"{method} {self.path}")
            return await handle(request)

        return guarded


class Route(NamedTuple):
    """One operation of the API, with its documentation.

    Attributes:
        method: HTTP method.
        path: path of the URL, with parameters.
        handler: function that responds; its docstring is the summary.
        answer: dataclass of the body, or content by media type; ``None`` for an empty response.
        errors: possible error status codes beside 400, 401, 403 and 422.
        status: status of success.
        body: description of the request body, if the handler reads it itself.
    """

    method: str
    path: str
    handler: Callable[..., Any]
    answer: type[Any] | dict[str, Any] | None
    errors: tuple[int, ...] = ()
    status: int = 200
    body: dict[str, Any] | None = None


def _content(*types: str, schema: dict[str, Any] = BINARY) -> dict[str, Any]:
    return {kind: {"schema": schema} for kind in types}


def _routes(service: Service, access: AccessControl) -> Iterator[Route]:
    yield from _site_routes(SiteRoutes(service, access))
    yield from _model_routes(ModelRoutes(service), PredictRoutes(service))
    yield from _source_routes(SourceRoutes(service))
    yield from _version_routes(VersionRoutes(service))
    yield from _job_routes(JobRoutes(service))
    yield from _result_routes(ResultRoutes(service))


def _site_routes(site: SiteRoutes) -> Iterator[Route]:
    yield Route("GET", "/healthz", site.healthz, schemas.StatusBody)
    yield Route("GET", "/readyz", site.readyz, schemas.StatusBody, (503,))
    yield Route("GET", "/metrics", site.metrics, _content("text/plain", schema=TEXT))
    yield Route("GET", "/v1/service", site.describe, schemas.ServiceBody)
    yield Route("POST", "/v1/session", site.open_session, None, SMALL_BODY, 204)
    yield Route("DELETE", "/v1/session", site.close_session, None, SMALL_BODY, 204)
    yield Route("GET", "/v1/samples", site.list_samples, schemas.SamplesBody)
    yield Route("GET", "/v1/samples/{sample}.png", site.get_sample, _content("image/png"), (404,))
    stream = _content("text/event-stream", schema=TEXT)
    yield Route("GET", "/v1/events", site.events, stream, (503,))


def _model_routes(models: ModelRoutes, predict: PredictRoutes) -> Iterator[Route]:
    path = "/v1/models/{model}"
    calibration = schemas.CalibrationBody
    changed, received = (404, 409, *SMALL_BODY), (404, 415, 503, *SMALL_BODY)
    yield Route("GET", "/v1/models", models.list_models, schemas.ModelsBody)
    yield Route("GET", path, models.get_model, schemas.ModelBody, (404,))
    yield Route("DELETE", path, models.delete_model, None, changed, 204)
    file = _content("application/octet-stream")
    yield Route("GET", f"{path}/file", models.get_model_file, file, (404,))
    yield Route("GET", f"{path}/calibration", models.get_calibration, calibration, (404,))
    yield Route("PUT", f"{path}/threshold", models.set_threshold, calibration, (507, *changed))
    yield Route(
        "POST",
        f"{path}/predict",
        predict.predict,
        schemas.PredictBody,
        received,
        body=IMAGE_BODY,
    )
    yield Route("GET", f"{path}/odd", models.list_odd, schemas.OddBody, (404,))
    yield Route("PUT", f"{path}/odd", models.keep_odd, calibration, changed)
    picture = _content("image/jpeg")
    yield Route("GET", f"{path}/odd/{{digest}}/image", models.get_odd_image, picture, (404,))
    yield Route("GET", f"{path}/reviewed", models.get_reviewed, schemas.ReviewedBody, (404,))
    yield Route("GET", f"{path}/rate", models.get_rate, schemas.RateBody, (404,))
    yield Route("GET", f"{path}/shift", models.get_shift, ShiftBody, (404,))
    yield Route("GET", f"{path}/drift", models.get_drift, schemas.DriftBody, (404,))


def _source_routes(source: SourceRoutes) -> Iterator[Route]:
    path, body, changed = "/v1/source", source_schemas.SourceBody, (404, 409, *SMALL_BODY)
    yield Route("GET", path, source.get_source, body)
    yield Route("POST", path, source.start_source, body, (503, *changed))
    yield Route("DELETE", path, source.stop_source, body, changed)


def _version_routes(versions: VersionRoutes) -> Iterator[Route]:
    path, body = "/v1/models/{model}/versions", version_schemas.VersionsBody
    version, preview = f"{path}/{{version}}", "/v1/models/{model}/preview"
    changed, shown = (404, 409, *SMALL_BODY), version_schemas.PreviewBody
    file, picture = _content("application/octet-stream"), _content("image/jpeg")
    written = (507, *changed)
    yield Route("GET", path, versions.list_versions, body, (404,))
    yield Route("GET", f"{version}/file", versions.get_version, file, (404,))
    yield Route("POST", f"{version}/restore", versions.restore_version, body, written)
    yield Route("DELETE", version, versions.delete_version, None, changed, 204)
    yield Route("GET", preview, versions.get_preview, shown, (404,))
    image = f"{preview}/{{digest}}/image"
    yield Route("GET", image, versions.get_preview_image, picture, (404,))
    yield Route("POST", f"{preview}/apply", versions.apply_preview, body, written)
    yield Route("DELETE", preview, versions.discard_preview, None, (404, *SMALL_BODY), 204)


def _job_routes(jobs: JobRoutes) -> Iterator[Route]:
    update, body = "/v1/models/{model}/update", job_schemas.JobBody
    again = "/v1/models/{model}/train"
    received = (409, 415, 429, 503, 507, *SMALL_BODY)
    checked = (415, 503, 507, *SMALL_BODY)
    yield Route("POST", "/v1/check", jobs.check, job_schemas.CheckBody, checked, 200, TRAIN_BODY)
    seen = (415, 503, *SMALL_BODY)
    image = {"required": True, "content": RAW_BODY}
    yield Route("POST", "/v1/input", jobs.view_input, job_schemas.InputViewBody, seen, 200, image)
    yield Route("POST", "/v1/train", jobs.train, body, received, 202, TRAIN_BODY)
    yield Route("POST", update, jobs.update, body, (404, *received), 202, TRAIN_BODY)
    refused = (404, 409, 429, 503, *SMALL_BODY)
    yield Route("POST", again, jobs.train_again, body, refused, 202)
    yield Route("GET", "/v1/jobs", jobs.list_jobs, job_schemas.JobsBody)
    yield Route("GET", "/v1/jobs/{job}", jobs.get_job, body, (404,))
    yield Route("DELETE", "/v1/jobs/{job}", jobs.cancel_job, body, (404, 409, *SMALL_BODY))


def _result_routes(results: ResultRoutes) -> Iterator[Route]:
    path, body, lacking = "/v1/results/{result}", schemas.ResultBody, (404, 503)
    shown = _content("image/jpeg", "image/png", "image/webp", "image/bmp")
    maps = _content("image/png", "image/tiff", "application/octet-stream")
    table = _content("text/csv", schema=TEXT)
    yield Route("GET", "/v1/results", results.list_results, schemas.ResultsBody)
    yield Route("GET", "/v1/results.csv", results.export_results, table)
    yield Route("GET", path, results.get_result, body, (404,))
    yield Route("PUT", f"{path}/verdict", results.set_verdict, body, (404, *SMALL_BODY))
    yield Route("GET", f"{path}/image", results.get_image, shown, lacking)
    yield Route("GET", f"{path}/overlay", results.get_overlay, _content("image/jpeg"), lacking)
    yield Route("GET", f"{path}/heat", results.get_heat, _content("image/png"), lacking)
    yield Route("GET", f"{path}/map", results.get_map, maps, lacking)


def _add_route(api: FastAPI, route: Route) -> None:
    responses: dict[int | str, dict[str, Any]] = {
        code: {"model": schemas.ErrorBody, "description": MESSAGES[code]}
        for code in sorted({400, 401, 403, 422, *route.errors})
    }
    if route.answer is not None:
        kind = "content" if isinstance(route.answer, dict) else "model"
        responses[route.status] = {kind: route.answer, "description": "Success."}
    api.add_api_route(
        route.path,
        route.handler,
        methods=[route.method],
        response_class=Response if route.answer is None else JSONResponse,
        response_model=None,
        status_code=route.status,
        responses=responses,
        operation_id=route.handler.__name__,
        summary=(route.handler.__doc__ or "").strip().splitlines()[0],
        openapi_extra=None if route.body is None else {"requestBody": route.body},
    )


def _secure(api: FastAPI, needed: bool) -> None:
    """Document the bearer token in the OpenAPI schema."""
    make = api.openapi

    def openapi() -> dict[str, Any]:
        document: dict[str, Any] = make()
        if needed:
            document.setdefault("components", {})["securitySchemes"] = {
                "token": {"type": "http", "scheme": "bearer"}
            }
            document["security"] = [{"token": []}]
            for path in OPEN_PATHS & set(document["paths"]):
                for operation in document["paths"][path].values():
                    operation["security"] = []
        return document

    setattr(api, "openapi", openapi)  # noqa: B010  (as FastAPI documents it)


async def _on_problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _on_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, FREError)
    return problem_response(problem_from(error))


async def _on_fault(_: Request, error: Exception) -> Response:
    # Starlette raises the error again, and the middleware logs it. Without this handler, Starlette
    # would respond in plain text.
    return problem_response(internal_problem(error))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: f"nothing is at {request.url.path}",
        405: f"{request.method} is not what {request.url.path} is for",
    }.get(error.status_code, str(error.detail))
    code = CODES.get(error.status_code, "bad_request")
    response = json_response(problem_body(code, message), status_code=error.status_code)
    for key, value in (error.headers or {}).items():
        response.headers[key] = value
    if error.status_code == 405:
        response.headers["Allow"] = ", ".join(_allowed(request))
    return response


def _allowed(request: Request) -> list[str]:
    """Return all methods of a path, each of which is a route of its own."""
    methods: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return sorted(methods)


async def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return json_response(problem_body("invalid", f"{where}: {first['msg']}"), status_code=422)
