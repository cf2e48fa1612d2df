"""Times as the service writes them."""

from __future__ import annotations

from datetime import datetime, timezone

__all__ = ["now", "parse", "stamp"]


def stamp(seconds: float) -> str:
    """Seconds since 1970 as ISO 8601, UTC, with milliseconds: sorts as text."""
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def now() -> str:
    """The present."""
    return stamp(datetime.now(timezone.utc).timestamp())


def parse(text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time; UTC where it names no zone.

    Raises:
        ValueError: it is no such time.
    """
    moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
