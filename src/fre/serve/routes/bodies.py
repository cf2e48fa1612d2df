"""Bodies with files, as predictions and training take them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from fastapi import Request

from fre.serve.problems import Problem
from fre.serve.settings import Limits
from fre.serve.uploads import Part, Sink, body_chunks, clean_name, read_multipart

RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""Types that clients name when they know nothing of what they send."""


def body_of(request: Request, limits: Limits, *, max_bytes: int) -> AsyncIterator[bytes]:
    """The body of a request, as it comes.

    Raises:
        Problem: it is too large, or stalls, or ends before its end.
    """
    return body_chunks(request.headers, request.receive, limit=max_bytes, pause=limits.body_seconds)


async def read_files(
    chunks: AsyncIterator[bytes],
    boundary: str | None,
    *,
    open_sink: Callable[[str], Sink],
    max_files: int,
    threaded: bool = False,
) -> list[Part]:
    """The files of a form, as `read_multipart`.

    Raises:
        Problem: also if there is anything but files, which somebody may believe to have an effect,
            or nothing.
    """
    parts = await read_multipart(
        chunks, boundary, open_sink=open_sink, max_files=max_files, threaded=threaded
    )
    for part in parts:
        if part.filename is None:
            raise Problem(
                422, "invalid", f"field {clean_name(part.key)!r} of the form is not a file"
            )
    if not parts:
        raise Problem(422, "invalid", "the form has no files; their field is called files")
    return parts


def unsupported(kind: str, expected: str) -> Problem:
    """The answer to a body of another type."""
    return Problem(415, "unsupported_media_type", f"expected {expected}, not {kind}")
