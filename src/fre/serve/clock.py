"""Times as the service writes them."""

from __future__ import annotations

from datetime import datetime, timezone


def stamp(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601, UTC, with milliseconds: sorts as text."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def now() -> str:
    """The present."""
    return stamp(datetime.now(timezone.utc).timestamp())
