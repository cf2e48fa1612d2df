"""JSON responses, and the one shape of all errors."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from fre.errors import (
    DatasetError,
    FREError,
    ImageError,
    InputError,
    OptionError,
    OutputError,
)

if TYPE_CHECKING:
    from starlette.responses import Response


def to_json(content: Any) -> str:
    """Return content as JSON text that can be encoded as UTF-8.

    JSON has no NaN and no infinity: such numbers become null. A lone surrogate stands for a byte
    of a file name that is not UTF-8, and becomes its escape.

    Args:
        content: dictionaries, lists, texts, numbers, booleans and None.
    """
    try:
        text = _dumps(content)
        text.encode()
    except ValueError:  # includes UnicodeEncodeError
        return _dumps(_plain(content))
    return text


def json_response(
    content: Any, *, status_code: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return an HTTP response with a JSON body.

    Args:
        content: as for `to_json`.
        status_code: HTTP status.
        headers: additional headers.
    """
    # Imported here, because the history must be readable without fre-vision[serve].
    from starlette.responses import Response

    return Response(
        to_json(content).encode(),
        status_code=status_code,
        headers=headers,
        media_type="application/json",
    )


def _dumps(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {_plain(str(key)): _plain(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_plain(value) for value in content]
    if isinstance(content, str):
        return content.encode("utf-8", "backslashreplace").decode()
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


class Problem(Exception):  # noqa: N818  (a response, not always to a mistake)
    """An error response.

    Args:
        status: HTTP status.
        code: error code for programs.
        message: one sentence for people.
        retry_after: seconds after which the client may try again, or ``None``.
    """

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after

    def headers(self) -> dict[str, str]:
        """Return the headers that belong to this error."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        return found


def bad_request(message: str) -> Problem:
    """Return the error for a malformed request."""
    return Problem(400, "bad_request", message)


def not_found(message: str) -> Problem:
    """Return the error for a resource that does not exist."""
    return Problem(404, "not_found", message)


def conflict(message: str) -> Problem:
    """Return the error for a request that the present state does not allow."""
    return Problem(409, "conflict", message)


def invalid(message: str) -> Problem:
    """Return the error for an invalid parameter or file."""
    return Problem(422, "invalid", message)


def shutting_down() -> Problem:
    """Return the error for a request to a service that is ending."""
    return Problem(503, "shutting_down", "the service is ending", retry_after=5)


def problem_body(code: str, message: str) -> dict[str, Any]:
    """Return the body of an error response."""
    return {"error": {"code": code, "message": " ".join(message.split())}}


def problem_from(error: FREError) -> Problem:
    """Return the error response for an error of the library."""
    if isinstance(error, OutputError):
        return Problem(507, "not_written", str(error))
    if isinstance(error, ImageError):
        return Problem(422, "unreadable", str(error))
    if isinstance(error, (OptionError, DatasetError, InputError)):
        return Problem(422, "invalid", str(error))
    return Problem(500, "internal", str(error))


def internal_problem(error: Exception) -> Problem:
    """Return the error response for a bug in fre; the caller logs the error."""
    return Problem(500, "internal", f"{type(error).__name__}: a fault of fre; its log has more")


def problem_response(problem: Problem) -> Response:
    """Return an error as an HTTP response."""
    return json_response(
        problem_body(problem.code, problem.message),
        status_code=problem.status,
        headers=problem.headers(),
    )
