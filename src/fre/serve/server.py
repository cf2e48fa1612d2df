"""How the service listens, runs and ends, and limits for its connections.

uvicorn waits for ever for the head of a first request, and for a client that does not read its
response. A thousand such connections would use up the files that a process may open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from PIL import Image
from uvicorn.protocols.http.h11_impl import H11Protocol

from fre.errors import OptionError
from fre.serve.app import create_app
from fre.serve.guard import Guard
from fre.serve.responses import problem_body, to_json
from fre.serve.service import Service
from fre.serve.settings import Settings

HEAD_SECONDS = 20.0
"""Time for the head of a request in seconds, from the connection or the head's first byte."""
READ_SECONDS = 60.0
"""Time in seconds that a client may leave a full response buffer unread."""
CLOSE_SECONDS = 10.0
"""Time in seconds for the rest of a response once the connection is being closed."""


def most_connections(wanted: int) -> int:
    """Return the allowed number of open connections: half of the files that the process may open.

    Args:
        wanted: largest number of connections.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(8, min(wanted, soft // 2))


class Connection(H11Protocol):
    """One client connection.

    Args:
        most: number of open connections. Beyond it, an idle connection is closed for a new one.
            If no connection is idle, the new one is refused.
    """

    def __init__(self, *arguments: Any, most: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.most = most
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._opened = self.loop.time()

    @property
    def is_waiting(self) -> bool:
        """Whether the connection is idle: no response is under way."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Start the timer for the first head, and make room if needed."""
        super().connection_made(transport)
        self._expect_head()
        if len(self.connections) > self.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self._head_arrived()
        self._answer_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client; more bytes do not restart the timer for a head."""
        super().data_received(data)
        if self.is_waiting:
            self._expect_head()
        else:
            self._head_arrived()

    def pause_writing(self) -> None:
        """Start the timer for reading, because the response buffer is full."""
        super().pause_writing()
        self._answer_read()
        self._read_timer = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the timer for reading."""
        super().resume_writing()
        self._answer_read()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that stayed idle."""
        super().timeout_keep_alive_handler()
        self._close()

    def _expect_head(self) -> None:
        if self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._close)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _answer_read(self) -> None:
        if self._read_timer is not None:
            self._read_timer.cancel()
            self._read_timer = None

    def _close(self) -> None:
        self.transport.close()
        # A client that does not read would keep the connection open for ever.
        self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def _make_room(self) -> None:
        waiting = [
            other
            for other in self.connections
            if isinstance(other, Connection) and other is not self and other.is_waiting
        ]
        if not waiting:
            self._refuse()
            return
        # New connections without a request close first.
        first = min(waiting, key=lambda other: (other.cycle is not None, other._opened))
        self.connections.discard(first)
        if first.cycle is None:
            first.transport.abort()
        else:
            first._close()

    def _refuse(self) -> None:
        body = to_json(
            problem_body("queue_full", f"more than {self.most} connections; try again shortly")
        ).encode()
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self._close()


log = logging.getLogger("fre.serve")

KEEP_ALIVE_SECONDS = 75
"""Longer than common clients keep a connection, so that the client closes it."""
GUARD_SECONDS = 3.0
"""Time in seconds that the guard process waits longer than the deadline thread."""
ANSWER_SHARE = 0.6
"""Share of the shutdown time for open requests; the rest is for jobs and storage."""


class _Deadline:
    """Ends the process by force if it has not ended in time.

    No Python thread can be stopped from outside. A decoder, a runtime or a training may keep its
    thread for hours, and Python waits for it.

    Args:
        seconds: time from `begin` to the end by force.
        left: returns a description of unfinished work.
    """

    def __init__(self, seconds: float, left: Callable[[], str]) -> None:
        self.seconds = seconds
        self.left = left
        self._begun = threading.Event()
        self._met = threading.Event()
        threading.Thread(target=self._run, name="fre-deadline", daemon=True).start()

    def begin(self) -> None:
        """Start the clock."""
        self._begun.set()

    def meet(self) -> None:
        """Stop the clock, because everything has ended."""
        self._met.set()
        self._begun.set()

    def _run(self) -> None:
        self._begun.wait()
        if self._met.wait(self.seconds):
            return
        try:
            left = self.left()
        except Exception as error:  # the process must end in any case
            left = f"unknown, as {type(error).__name__}: {error}"
        line = (
            f"fre: ended by force after {self.seconds:g} seconds; not finished: {left}; "
            "every result that was answered is kept\n"
        )
        # Not by print: a stuck thread may hold the locks of Python's buffers.
        os.write(2, line.encode("utf-8", "backslashreplace"))
        os._exit(1)


def _guard(seconds: float) -> Guard | None:
    if os.name != "posix":
        return None
    try:
        return Guard(seconds)
    except OSError as error:
        log.warning("the guard process that ends a stuck interpreter can't be started: %s", error)
        return None


class _Server(uvicorn.Server):
    """uvicorn's server, except that a signal is no interruption: the server drains and returns."""

    should_exit: bool

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.deadline = _Deadline(service.settings.shutdown_seconds, self._left)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Run until a signal arrives and everything has ended."""
        try:
            super().run(sockets)
        finally:
            self.deadline.meet()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        guard = _guard(self.service.settings.shutdown_seconds + GUARD_SECONDS)
        try:
            yield
        finally:
            if guard is not None:
                guard.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # A second signal changes nothing: wrappers send two, and the deadline is set already.
        if not self.should_exit:
            self.should_exit = True
            self.service.draining = True
            self.deadline.begin()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.drain()  # event streams would keep their connections open
        await super().shutdown(sockets)

    def _left(self) -> str:
        requests = len(self.server_state.tasks)
        found = [f"{requests} requests"] if requests else []
        return ", ".join([*found, *self.service.unfinished()]) or "threads of the service"


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        OptionError: the address belongs to another machine, or is in use.
    """
    bound: socket.socket | None = None
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # asyncio sets TCP_NODELAY only if the protocol is named. Without TCP_NODELAY, a response
        # waits 40 ms for the client's acknowledgement of its first packet.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
        return bound
    except OSError as error:
        if bound is not None:
            bound.close()
        raise OptionError(
            f"can't listen on {host}, port {port}: {error.strerror or error}; "
            "choose another with --host and --port"
        ) from error


def serve(settings: Settings, started: Callable[[str, Service], None]) -> None:
    """Run the service until SIGINT or SIGTERM; then finish open requests and stop.

    If that takes longer than ``settings.shutdown_seconds``, the process ends with exit code 1 and
    prints a line about unfinished work.

    Args:
        settings: settings of the service.
        started: called with the address of the page, and the service, once it listens.

    Raises:
        OptionError: the address can't be used.
        FREError: as for `Service`.
    """
    # Large images are refused anyway; Pillow's warning would be printed in addition.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with listen(settings.host, settings.port) as bound:
        service = Service(settings)
        most = most_connections(settings.limits.max_connections)
        http: Any = partial(Connection, most=most)
        config = uvicorn.Config(
            create_app(service),
            http=http,
            ws="none",
            # Bounds how many connections are accepted before one can make room.
            backlog=max(16, most // 4),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(ANSWER_SHARE * settings.shutdown_seconds)),
        )
        name = f"[{settings.host}]" if ":" in settings.host else settings.host
        started(f"http://{name}:{bound.getsockname()[1]}", service)
        _Server(config, service).run(sockets=[bound])
