"""Parameters of the API's operations, with their documentation."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Literal

from fastapi import Depends, Path, Query, Request
from pydantic import Field

TIME_PATTERN = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?(Z|[+-]\d\d:\d\d)$"
MOST_NAMES, LONGEST_NAME = 20, 255
"""What fits into the URL of a request, escaped, and no more."""
SOURCE_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"

Model = Annotated[str, Path(description="Name of the model.", examples=["plate"])]
Identity = Annotated[int, Path(description="Id of the result.", ge=1, examples=[1])]
JobIdentity = Annotated[int, Path(description="Id of the job.", ge=1, examples=[1])]
OneModel = Annotated[str | None, Query(description="Only results of this model.", max_length=200)]
OneSource = Annotated[str | None, Query(description="Only results of this source.", max_length=64)]
Source = Annotated[
    str,
    Query(description="Source of the images, such as a camera.", pattern=SOURCE_PATTERN),
]
Side = Annotated[
    int | None, Query(ge=32, le=2048, description="Longest side of the picture, in pixels.")
]
OfImage = Annotated[
    str | None,
    Query(
        description="First digits of 'image_sha256'. If the result is of another image, the answer "
        "is 404: the address is then that of one picture for ever, and browsers may keep it.",
        pattern="^[0-9a-f]{8,64}$",
    ),
]
Anomalous = Annotated[bool | None, Query(description="Only anomalous results, or only others.")]
Decided = Annotated[
    Literal["pass", "review", "fail"] | None,
    Query(description="Only results with this decision of a model with a review band."),
]
Digest = Annotated[
    str,
    Path(
        description="Digest of the training image.",
        pattern=r"^[0-9a-f]{16}$",
        examples=["0123456789abcdef"],
    ),
]
ModelDigest = Annotated[
    str | None,
    Query(description="SHA-256 of the file that is meant.", pattern=r"^[0-9a-f]{64}$"),
]
Version = Annotated[
    str,
    Path(
        description="SHA-256 of the version's file.",
        pattern=r"^[0-9a-f]{64}$",
        examples=["0123456789abcdef" * 4],
    ),
]
Without = Annotated[
    list[Annotated[str, Field(max_length=LONGEST_NAME)]] | None,
    Query(description="Names of images to leave out.", max_length=MOST_NAMES),
]
Named = Annotated[
    str | None,
    Query(
        description="Only results whose file name contains this text, in upper or lower case.",
        min_length=1,
        max_length=LONGEST_NAME,
    ),
]
Verdict = Annotated[
    Literal["good", "defect", "none", "any"] | None,
    Query(description="Only results with this verdict of a reviewer, without one, or with any."),
]
Wrong = Annotated[
    bool | None,
    Query(description="Only results whose verdict contradicts the decision, or only others."),
]
Since = Annotated[
    str | None,
    Query(
        description="Earliest time, RFC 3339.",
        pattern=TIME_PATTERN,
        examples=["2026-01-31T08:00:00Z"],
    ),
]
Until = Annotated[
    str | None,
    Query(
        description="Time after the latest result, RFC 3339.",
        pattern=TIME_PATTERN,
        examples=["2126-01-31T08:00:00Z"],
    ),
]
After = Annotated[int | None, Query(description="Only results with a higher id.", ge=0, lt=2**63)]


async def _caller(request: Request) -> str | None:
    """Return the address of the client, ``"local"`` for this machine."""
    if request.client is None:
        return None
    host = str(request.client.host)
    try:
        address = ip_address(host)
    except ValueError:
        return host
    mapped = getattr(address, "ipv4_mapped", None)
    return "local" if (mapped or address).is_loopback else str(mapped or address)


Caller = Annotated[str | None, Depends(_caller)]
"""Name or address of the client."""
