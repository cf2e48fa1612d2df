"""What a client is told when something is wrong: one shape for every error."""

from __future__ import annotations

from typing import Any

from fre.errors import (
    DatasetError,
    FREError,
    ImageError,
    InputError,
    OptionError,
    OutputError,
)


class Problem(Exception):  # noqa: N818  (an answer, and not always to a mistake)
    """An answer that is not the one asked for.

    Args:
        status: of HTTP.
        code: a word for machines.
        message: a sentence for people.
        retry_after: seconds after which to try again, if that makes sense.
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
        """Headers of the answer that follow from the problem."""
        found = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.status == 401:
            found["WWW-Authenticate"] = "Bearer"
        return found


def problem_body(code: str, message: str) -> dict[str, Any]:
    """The body of every error."""
    return {"error": {"code": code, "message": " ".join(message.split())}}


def from_error(error: FREError) -> Problem:
    """An error of the library as an answer."""
    if isinstance(error, OutputError):
        return Problem(500, "internal", str(error))
    if isinstance(error, ImageError):
        return Problem(422, "unreadable", str(error))
    if isinstance(error, (OptionError, DatasetError, InputError)):
        return Problem(422, "invalid", str(error))
    return Problem(500, "internal", str(error))


def fault(error: Exception) -> Problem:
    """What a client is told of a mistake of ours; whoever calls logs it."""
    return Problem(500, "internal", f"{type(error).__name__}: a fault of fre; its log has more")
