"""Parameters that several routes take, with what the documentation says of them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path, Query

TIME_PATTERN = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{3}|\.\d{6})?(Z|[+-]\d\d:\d\d)$"
SOURCE_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"

Model = Annotated[str, Path(description="Name of the model.", examples=["plate"])]
Identity = Annotated[int, Path(description="Id of the result.", ge=1, examples=[1])]
JobIdentity = Annotated[int, Path(description="Id of the job.", ge=1, examples=[1])]
OneModel = Annotated[str | None, Query(description="Only of this model.", max_length=200)]
OneSource = Annotated[str | None, Query(description="Only of this source.", max_length=64)]
Source = Annotated[
    str,
    Query(description="A word that groups results, such as a camera.", pattern=SOURCE_PATTERN),
]
Side = Annotated[
    int | None, Query(ge=32, le=2048, description="The longest side at most, in pixels.")
]
Anomalous = Annotated[bool | None, Query(description="Only those that were, or were not.")]
Verdict = Annotated[
    Literal["good", "defect", "none", "any"] | None,
    Query(description="Only those with this verdict of a reviewer, with none, or with any."),
]
Wrong = Annotated[
    bool | None, Query(description="Only those whose verdict contradicts the decision, or not.")
]
Since = Annotated[
    str | None,
    Query(
        description="RFC 3339; from then on.",
        pattern=TIME_PATTERN,
        examples=["2026-01-31T08:00:00Z"],
    ),
]
Until = Annotated[
    str | None,
    Query(
        description="RFC 3339; before then.",
        pattern=TIME_PATTERN,
        examples=["2126-01-31T08:00:00Z"],
    ),
]
After = Annotated[int | None, Query(description="Only ids above this one.", ge=0, lt=2**63)]
