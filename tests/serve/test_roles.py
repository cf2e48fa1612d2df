"""Roles: every route of the application has an entry, and an operator is refused the others."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import refused
from serving import LocalServer, needs_serve, problem

pytestmark = needs_serve
ENGINEER = "a-token-of-engineers-0123456789"
OPERATOR = "a-token-of-operators-0123456789"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    models = tmp_path_factory.mktemp("models")
    with LocalServer(models, token=ENGINEER, operator_token=OPERATOR) as running:
        yield running


def routes(server: LocalServer) -> list[str]:
    """Every route of the running application, mounts included, as ``GET /path``."""
    app: Any = server._server.config.app
    while not hasattr(app, "openapi"):
        app = app.app
    return [
        f"{method} {route.path}"
        for route in app.routes
        for method in sorted((getattr(route, "methods", None) or {"GET"}) - {"HEAD"})
    ]


def ask(server: LocalServer, route: str, token: str | None) -> Any:
    method, path = route.split()
    address = re.sub(r"\{\w+\}", "1", path)
    headers = {"Authorization": f"Bearer {token}"} if token else {"Authorization": ""}
    with server.client.stream(method, address, headers=headers) as answer:
        if answer.headers.get("content-type", "").startswith("application/json"):
            answer.read()
        return answer


def test_every_route_has_an_entry_and_no_entry_is_left_over(server: LocalServer) -> None:
    from fre.serve.roles import NEEDED

    assert sorted(routes(server)) == sorted(NEEDED)


def test_a_route_without_an_entry_can_not_be_added() -> None:
    from fre.errors import InternalError
    from fre.serve.roles import needed_role

    with pytest.raises(InternalError, match=r"POST /v1/new: the table of roles has no entry"):
        needed_role("POST", "/v1/new")


def test_each_role_reaches_its_routes_and_no_other(server: LocalServer) -> None:
    from fre.serve.roles import ENGINEER as NEEDS_ENGINEER
    from fre.serve.roles import NEEDED

    for route in routes(server):
        if route == "GET /static":
            continue  # a folder, not a page
        needed = NEEDED[route]
        if needed is not None:
            problem(ask(server, route, None), 401, "unauthorized")
            problem(ask(server, route, "x" * 20), 401, "unauthorized")
        answer = ask(server, route, OPERATOR)
        if needed == NEEDS_ENGINEER:
            said = problem(answer, 403, "forbidden")
            assert said == (
                f"{route} needs the token of an engineer; the one that was sent is an operator's"
            )
        else:
            assert answer.status_code not in (401, 403), route
        assert ask(server, route, ENGINEER).status_code not in (401, 403), route


def test_nothing_that_changes_models_is_for_operators() -> None:
    from fre.serve.roles import NEEDED

    changing = {
        route for route, role in NEEDED.items() if role == "operator" and route[:4] != "GET "
    }
    assert changing == {"POST /v1/models/{model}/predict", "PUT /v1/results/{result}/verdict"}


def test_the_cookie_keeps_the_role(server: LocalServer) -> None:
    import httpx

    for token, role in ((ENGINEER, "engineer"), (OPERATOR, "operator")):
        with httpx.Client(base_url=server.url) as page:
            assert page.post("/v1/session", json={"token": token}).status_code == 204
            assert page.get("/v1/service").json()["role"] == role
            status = page.post("/v1/check").status_code
            assert (status == 403) == (role == "operator")


def test_without_tokens_everybody_is_an_engineer(tmp_path: Path) -> None:
    with LocalServer(tmp_path) as open_server:
        assert open_server.client.get("/v1/service").json()["role"] == "engineer"
        assert open_server.client.post("/v1/check").status_code not in (401, 403)


def test_mistakes(tmp_path: Path) -> None:
    assert "needs a --token" in refused("serve", tmp_path, "--operator-token", OPERATOR)
    same = ("--token", ENGINEER, "--operator-token", ENGINEER)
    assert "is the same as --token" in refused("serve", tmp_path, *same)
    short = ("--token", ENGINEER, "--operator-token", "short")
    assert "--operator-token: expected at least 16" in refused("serve", tmp_path, *short)
