"""Middleware of every request: access control, security headers, small bodies, and metrics."""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import urlsplit

from fre.serve.bodies import body_chunks
from fre.serve.metrics import Metrics
from fre.serve.responses import Problem, internal_problem, problem_response
from fre.serve.roles import ENGINEER, OPEN_PATHS, Role

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE = "fre_session"
OPEN = OPEN_PATHS | {"/favicon.ico"}
OPEN_BELOW = "/static/"
SAFE = ("GET", "HEAD", "OPTIONS")
OWN_SITES = ("same-origin", "none")
"""Values of Sec-Fetch-Site for the service's own page and for requests without a page."""
METHODS = (*SAFE, "POST", "PUT", "DELETE", "PATCH")
LOCAL = ("localhost", "127.0.0.1", "::1")
SMALL_BODY = 65536

HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' blob: data:; style-src 'self'; "
        b"object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
)

log = logging.getLogger("fre.serve")


class AccessControl:
    """Decides whether a request is allowed, and in which role.

    Without tokens, everybody is an engineer, and the service answers only to its local names. So no
    page on the web can reach it by a DNS name of its own.

    Args:
        tokens: tokens by role; clients must present one of them. Empty needs no token.
        host: bound address.
        cors: origins whose pages may call the service.
    """

    def __init__(self, tokens: Mapping[Role, str], host: str, cors: tuple[str, ...]) -> None:
        self.tokens = tokens
        self.hosts = {*LOCAL, host}
        self.cors = cors

    def session(self, role: Role) -> str:
        """Return the cookie value of a role, which proves its token without containing it."""
        return hmac.new(self.tokens[role].encode(), b"fre session", hashlib.sha256).hexdigest()

    def role_of(self, given: str) -> Role | None:
        """Return the role of a token, or ``None`` if it is wrong; compares in constant time."""
        if not self.tokens:
            return ENGINEER
        return next((role for role, token in self.tokens.items() if _equal(given, token)), None)

    def check(self, method: str, path: str, headers: dict[str, str]) -> Role | None:
        """Return the role of a request, or ``None`` if it needs no token; refuse others.

        Args:
            method: HTTP method.
            path: path of the URL.
            headers: request headers by lower-case name.

        Raises:
            Problem: the host, the origin or the token is not acceptable.
        """
        host = headers.get("host", "")
        if not self.tokens and _hostname(host) not in self.hosts:
            raise Problem(403, "forbidden", f"the service does not answer to the name {host!r}")
        origin = headers.get("origin")
        if (
            origin is not None
            and method not in SAFE
            and origin not in self.cors
            and _authority(origin) != host
        ):
            raise Problem(403, "forbidden", f"pages of {origin!r} may not change anything here")
        # Some page requests have no Origin, but browsers still send Sec-Fetch-Site. The value
        # same-site means another port of this machine, or another host of the same domain.
        site = headers.get("sec-fetch-site", "none").strip().lower()
        if site not in OWN_SITES and method not in SAFE and origin not in self.cors:
            raise Problem(403, "forbidden", "pages of other origins may not change anything here")
        if not self.tokens:
            return ENGINEER
        if path in OPEN or path.startswith(OPEN_BELOW):
            return None
        if method == "OPTIONS" and origin in self.cors:
            return None  # a preflight request has no token
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and (role := self.role_of(given.strip())):
            return role
        cookie = _cookie(headers.get("cookie", ""))
        for role in self.tokens:
            if _equal(cookie, self.session(role)):
                return role
        raise Problem(
            401, "unauthorized", "the token is missing or wrong: send Authorization: Bearer TOKEN"
        )


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(
        given.encode("utf-8", "surrogateescape"), expected.encode("utf-8", "surrogateescape")
    )


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def _cookie(header: str) -> str:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


class AccessMiddleware:
    """Wraps the application.

    Args:
        app: ASGI application.
        access: access control.
        metrics: metrics of requests.
        pause: longest pause of a body, in seconds.
        is_upload: returns whether the handler of a path limits the body itself. The middleware
            reads all other bodies, up to 64 KiB.
    """

    def __init__(
        self,
        app: App,
        *,
        access: AccessControl,
        metrics: Metrics,
        pause: float,
        is_upload: Callable[[str], bool],
    ) -> None:
        self.app = app
        self.access = access
        self.metrics = metrics
        self.pause = pause
        self.is_upload = is_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 0

        async def watched_send(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                present = {key for key, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(header for header in HEADERS if header[0] not in present),
                ]
                if b"cache-control" not in present:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        headers = {
            key.decode("latin-1").lower(): value.decode("latin-1")
            for key, value in scope["headers"]
        }
        try:
            role = self.access.check(scope["method"], scope["path"], headers)
            scope.setdefault("state", {})["role"] = role
            if scope["method"] not in SAFE and not self.is_upload(scope["path"]):
                receive = await self._small_body(headers, receive)
            await self.app(scope, receive, watched_send)
        except Problem as problem:
            if status == 0:
                await problem_response(problem)(scope, receive, watched_send)
        except Exception as error:  # a bug in fre must not affect other connections
            log.exception("%s %s", scope["method"], scope["path"])
            if status == 0:
                await problem_response(internal_problem(error))(scope, receive, watched_send)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.request(method, route, status, time.perf_counter() - began)

    async def _small_body(self, headers: dict[str, str], receive: Receive) -> Receive:
        body = bytearray()
        chunks = body_chunks(headers, receive, limit=SMALL_BODY, pause=self.pause)
        async for chunk in chunks:
            body += chunk
        sent = False

        async def replay() -> Any:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": bytes(body), "more_body": False}

        return replay
