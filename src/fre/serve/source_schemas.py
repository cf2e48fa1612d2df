"""Bodies of the API's operations on the source that the service follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass
class SourceRequest:
    """A source to follow: a folder, ``camera:0``, a stream, ``genicam:FILE.cti`` or a video file.

    Of its frames every ``every``-th is scored, at most ``rate`` per second; ``buffer`` frames wait.
    ``model`` may be left out if there is only one.
    """

    source: Annotated[str, Field(min_length=1, max_length=2048)]
    model: Annotated[str, Field(max_length=200)] | None = None
    every: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 1
    rate: Annotated[float, Field(strict=True, gt=0, le=1000)] | None = None
    buffer: Annotated[int, Field(strict=True, ge=1, le=64)] = 4


@dataclass
class SourceState:
    """State of the source, and counts since it was started.

    ``source`` has no password. ``error`` is the trouble at present, ``message`` the last line that
    was said. Of the ``taken`` frames some were ``skipped`` as asked, ``dropped`` because newer ones
    arrived before they were scored, or ``damaged`` on the way; ``unreadable`` ones have no score.
    ``waiting``: its model is not loaded. A source that is ``reconnecting`` is tried again.
    """

    source: str
    model: str | None
    state: Literal["connecting", "running", "reconnecting", "waiting", "ended", "failed", "stopped"]
    error: str | None
    message: str | None
    since: str
    every: int
    rate: float | None
    buffer: int
    taken: int
    skipped: int
    dropped: int
    damaged: int
    reconnects: int
    scored: int
    anomalous: int
    unreadable: int


@dataclass
class SourceBody:
    """The source, null if none is followed, and the folders that a client may choose from.

    ``n_receivers`` get the results of any source, as ``fre serve --to`` names them.
    """

    source: SourceState | None
    roots: list[str]
    n_receivers: int
