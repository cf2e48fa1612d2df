"""Roles, and which role each route needs."""

from __future__ import annotations

from typing import Literal

from fre.errors import InternalError
from fre.serve.responses import Problem

Role = Literal["operator", "engineer"]
"""Operators see, predict and review; engineers do everything."""

OPERATOR: Role = "operator"
ENGINEER: Role = "engineer"

NEEDED: dict[str, Role | None] = {
    # Without a token: the page itself, and what a load balancer asks.
    "GET /": None,
    "GET /static": None,
    "GET /healthz": None,
    "GET /readyz": None,
    "POST /v1/session": None,
    "DELETE /v1/session": None,
    # To see.
    "GET /openapi.json": OPERATOR,
    "GET /metrics": OPERATOR,
    "GET /v1/service": OPERATOR,
    "GET /v1/events": OPERATOR,
    "GET /v1/samples": OPERATOR,
    "GET /v1/samples/{sample}.png": OPERATOR,
    "GET /v1/models": OPERATOR,
    "GET /v1/models/{model}": OPERATOR,
    "GET /v1/models/{model}/calibration": OPERATOR,
    "GET /v1/models/{model}/odd": OPERATOR,
    "GET /v1/models/{model}/odd/{digest}/image": OPERATOR,
    "GET /v1/models/{model}/versions": OPERATOR,
    "GET /v1/models/{model}/preview": OPERATOR,
    "GET /v1/models/{model}/preview/{digest}/image": OPERATOR,
    "GET /v1/models/{model}/reviewed": OPERATOR,
    "GET /v1/models/{model}/rate": OPERATOR,
    "GET /v1/models/{model}/shift": OPERATOR,
    "GET /v1/models/{model}/drift": OPERATOR,
    "GET /v1/jobs": OPERATOR,
    "GET /v1/jobs/{job}": OPERATOR,
    "GET /v1/results": OPERATOR,
    "GET /v1/results.csv": OPERATOR,
    "GET /v1/results/{result}": OPERATOR,
    "GET /v1/results/{result}/image": OPERATOR,
    "GET /v1/results/{result}/overlay": OPERATOR,
    "GET /v1/results/{result}/heat": OPERATOR,
    "GET /v1/results/{result}/map": OPERATOR,
    "GET /v1/source": OPERATOR,
    # To predict and to review.
    "POST /v1/models/{model}/predict": OPERATOR,
    "PUT /v1/results/{result}/verdict": OPERATOR,
    # To choose what is inspected.
    "POST /v1/source": ENGINEER,
    "DELETE /v1/source": ENGINEER,
    # To take, change and delete models.
    "GET /v1/models/{model}/file": ENGINEER,
    "DELETE /v1/models/{model}": ENGINEER,
    "PUT /v1/models/{model}/threshold": ENGINEER,
    "PUT /v1/models/{model}/odd": ENGINEER,
    "POST /v1/check": ENGINEER,
    "POST /v1/input": ENGINEER,
    "POST /v1/train": ENGINEER,
    "POST /v1/models/{model}/train": ENGINEER,
    "POST /v1/models/{model}/update": ENGINEER,
    "POST /v1/models/{model}/preview/apply": ENGINEER,
    "DELETE /v1/models/{model}/preview": ENGINEER,
    "GET /v1/models/{model}/versions/{version}/file": ENGINEER,
    "POST /v1/models/{model}/versions/{version}/restore": ENGINEER,
    "DELETE /v1/models/{model}/versions/{version}": ENGINEER,
    "DELETE /v1/jobs/{job}": ENGINEER,
}
"""Role that each route needs at least; ``None`` needs no token."""

OPEN_PATHS = frozenset(route.split()[1] for route, role in NEEDED.items() if role is None)
"""Paths that need no token, whatever the method."""


def needed_role(method: str, path: str) -> Role | None:
    """Return the role that a route needs at least; ``None`` needs no token.

    Args:
        method: HTTP method.
        path: path of the route, with parameters.

    Raises:
        InternalError: the table has no entry for the route.
    """
    route = f"{method} {path}"
    if route not in NEEDED:
        raise InternalError(f"{route}: the table of roles has no entry; add one in serve/roles.py")
    return NEEDED[route]


def check_role(role: Role | None, needed: Role | None, operation: str) -> None:
    """Refuse a request whose role is too low.

    Args:
        role: role of the client, or ``None`` without a token.
        needed: role that the route needs.
        operation: method and path, for the message.

    Raises:
        Problem: the role is too low.
    """
    if needed is None or role in (ENGINEER, needed):
        return
    raise Problem(
        403,
        "forbidden",
        f"{operation} needs the token of an engineer; the one that was sent is an operator's",
    )
