"""Request bodies: read within limits, piece by piece, without trust in their content."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import Request

from fre.serve.responses import Problem, bad_request, invalid
from fre.serve.settings import Limits

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks


Receive = Callable[[], Awaitable[Any]]

MAX_HEADERS = 16
MAX_HEADER_BYTES = 4096
MAX_FIELD_BYTES = 65536
MAX_NAME = 255

SLOWEST = 1024
"""Average rate that a body must have, in bytes a second, beyond one pause."""
DISCARD_BYTES = 64 * 1024 * 1024
DISCARD_SECONDS = 5.0


class Budget:
    """Memory of all uploads at any time.

    Args:
        limit: number of bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """Yield the share of one request, and give it back at the end."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            self.used -= lease.taken


class Lease:
    """Share of one request in a budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.taken = 0

    async def count(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks of a body, and count their bytes.

        Raises:
            Problem: the budget is exhausted.
        """
        async for chunk in chunks:
            if self.budget.used + len(chunk) > self.budget.limit:
                raise Problem(
                    503, "queue_full", "too many uploads at once; try again shortly", retry_after=1
                )
            self.budget.used += len(chunk)
            self.taken += len(chunk)
            yield chunk


def media_type(headers: Any) -> tuple[str, dict[str, str]]:
    """Return the media type of a body, in lower case, and its parameters."""
    from python_multipart.multipart import parse_options_header

    kind, options = parse_options_header(headers.get("content-type", ""))
    return (
        kind.decode("latin-1").strip().lower(),
        {key.decode("latin-1"): value.decode("latin-1") for key, value in options.items()},
    )


def clean_name(name: str) -> str:
    """Return a client's file name for people to read; it is never used as a path."""
    plain = "".join(
        character if character.isprintable() and character not in "<>|" else "?"
        for character in name.replace("\\", "/")
    )
    parts = [part for part in plain.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)[-MAX_NAME:] or "image"


def declared_length(headers: Any) -> int | None:
    """Return the declared length of a body, in bytes, or ``None``.

    Raises:
        Problem: the header is not a number.
    """
    text = headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()):
        raise bad_request("Content-Length: expected a number")
    return int(text)


async def body_chunks(
    headers: Any, receive: Receive, *, limit: int, pause: float
) -> AsyncIterator[bytes]:
    """Yield the body of a request as it arrives.

    Args:
        headers: request headers.
        receive: ASGI receive function.
        limit: size of the body, in bytes.
        pause: longest time between two pieces, in seconds.

    Raises:
        Problem: the body is too large, stalls, is too slow, or ends early.
    """
    too_large = Problem(
        413, "too_large", f"the request's body exceeds the limit of {limit:,} bytes"
    )
    declared = declared_length(headers)
    if declared is not None and declared > limit:
        await _discard(receive)
        raise too_large
    total, waited = 0, 0.0
    while True:
        began = time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), pause)
        except asyncio.TimeoutError:
            raise Problem(
                408, "timeout", f"the request's body stalled for {pause:g} seconds"
            ) from None
        if message["type"] == "http.disconnect":
            raise bad_request("the request's body ended too early")
        chunk = message.get("body", b"")
        total += len(chunk)
        waited += time.monotonic() - began
        if total > limit:
            await _discard(receive)
            raise too_large
        if waited > pause + total / SLOWEST:
            raise Problem(
                408, "timeout", f"the request's body brought less than {SLOWEST:,} bytes a second"
            )
        if chunk:
            yield chunk
        if not message.get("more_body", False):
            return


async def _discard(receive: Receive) -> None:
    """Read on for a while: many clients look for a response only after their whole body."""
    end = time.monotonic() + DISCARD_SECONDS
    total = 0
    while total < DISCARD_BYTES and (left := end - time.monotonic()) > 0:
        try:
            message = await asyncio.wait_for(receive(), left)
        except asyncio.TimeoutError:
            return
        total += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return


async def exhaust(chunks: AsyncIterator[bytes]) -> None:
    """Read the rest of a refused body for a while."""
    end = time.monotonic() + DISCARD_SECONDS
    try:
        async for _ in chunks:
            if time.monotonic() > end:
                return
    except Problem:
        return


class Sink(Protocol):
    """Destination of an uploaded file."""

    def write(self, data: bytes) -> None:
        """Write a piece."""

    def close(self) -> None:
        """End the file."""


@dataclass
class MemorySink:
    """An uploaded file in memory."""

    data: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> None:
        """Write a piece."""
        self.data += data

    def close(self) -> None:
        """Do nothing."""


@dataclass
class Part:
    """One part of a multipart body.

    Attributes:
        key: name of the form field.
        filename: client's name of the file; ``None`` for a plain field.
        sink: destination of the file.
        value: value of a plain field.
    """

    key: str
    filename: str | None
    sink: Sink | None = None
    value: bytearray = field(default_factory=bytearray)


class _Collector:
    """Callbacks of the multipart parser: collects headers, opens parts and fills them."""

    def __init__(self, open_sink: Callable[[str], Sink], max_files: int) -> None:
        self.open_sink = open_sink
        self.max_files = max_files
        self.parts: list[Part] = []
        self.ended = False
        self._files = 0
        self._current: Part | None = None
        self._name = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._current = None
        self._headers = {}

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]
        self._check_header()

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._check_header()

    def _check_header(self) -> None:
        if len(self._name) + len(self._value) > MAX_HEADER_BYTES:
            raise bad_request("a part of the form has too long a header")

    def _header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()
        if len(self._headers) > MAX_HEADERS:
            raise bad_request("a part of the form has too many headers")

    def _headers_finished(self) -> None:
        from python_multipart.multipart import parse_options_header

        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise bad_request("a part of the form lacks a name in its Content-Disposition")
        name = options[b"name"].decode("utf-8", "replace")
        if b"filename" not in options:
            if len(self.parts) - self._files >= MAX_HEADERS:
                raise bad_request("the form has too many fields")
            self._current = Part(name, None)
        else:
            self._files += 1
            if self._files > self.max_files:
                raise Problem(413, "too_many", f"more than {self.max_files} files in one request")
            filename = clean_name(options[b"filename"].decode("utf-8", "replace"))
            self._current = Part(name, filename, self.open_sink(filename))
        self.parts.append(self._current)

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._current
        if part is None:
            return
        if part.sink is not None:
            part.sink.write(data[start:end])
            return
        part.value += data[start:end]
        if len(part.value) > MAX_FIELD_BYTES:
            raise Problem(413, "too_large", f"field {part.key!r} is too long")

    def _end(self) -> None:
        if self._current is not None and self._current.sink is not None:
            self._current.sink.close()
        self._current = None

    def _finish(self) -> None:
        self.ended = True


async def read_files(
    chunks: AsyncIterator[bytes],
    boundary: str | None,
    *,
    open_sink: Callable[[str], Sink],
    max_files: int,
    threaded: bool = False,
) -> list[Part]:
    """Return the files of a multipart body.

    Args:
        chunks: body.
        boundary: boundary from the content type.
        open_sink: returns the destination of a file, given its cleaned name.
        max_files: number of files.
        threaded: whether the sinks are slow, so that parsing needs a thread.

    Raises:
        Problem: the body is damaged or incomplete, or has too many files. Also if it has no file,
            or has a plain field, which its client may believe to have an effect.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    collector = _Collector(open_sink, max_files)
    try:
        if not boundary or len(boundary) > 200:
            raise bad_request("multipart/form-data needs a boundary")
        parser = MultipartParser(boundary.encode("latin-1"), collector.callbacks())
        async for chunk in chunks:
            if threaded:
                await asyncio.to_thread(parser.write, chunk)
            else:
                parser.write(chunk)
        parser.finalize()
        if not collector.ended:
            raise bad_request("the multipart body ends before its last boundary")
    except (FormParserError, UnicodeError) as error:
        await exhaust(chunks)
        raise bad_request(f"the multipart body is damaged: {error}") from error
    except Problem:
        await exhaust(chunks)
        raise
    finally:
        for part in collector.parts:
            if part.sink is not None:
                part.sink.close()
    for part in collector.parts:
        if part.filename is None:
            raise invalid(f"field {clean_name(part.key)!r} of the form is not a file")
    if not collector.parts:
        raise invalid("the form has no files; their field is called files")
    return collector.parts


RAW_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""Media types that clients send by default."""


def body_of(request: Request, limits: Limits, *, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the body of a request as it arrives, as `body_chunks`.

    Raises:
        Problem: the body is too large, stalls, or ends early.
    """
    return body_chunks(request.headers, request.receive, limit=max_bytes, pause=limits.body_seconds)


def unsupported(kind: str, expected: str) -> Problem:
    """Return the error for a body of another media type."""
    return Problem(415, "unsupported_media_type", f"expected {expected}, not {kind}")
