"""Connections of HTTP within limits: their number, and how long a client may take.

uvicorn waits for ever for the head of a first request, and for a client that does not read its
answer. Some thousand such connections would use up the files that a process may open.
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
"""Time for the head of a request, from the connection or from the head's first byte."""
READ_SECONDS = 60.0
"""Time that a client may leave a full buffer of its answer unread."""
CLOSE_SECONDS = 10.0
"""Time for the rest of an answer once a connection is being closed."""


def most_connections(wanted: int) -> int:
    """Return how many connections may be open: half of the files that the process may open.

    Args:
        wanted: number of connections that is enough in any case.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return wanted
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(8, min(wanted, soft // 2))


class Connection(H11Protocol):
    """One connection of a client.

    Args:
        most: number of connections that may be open. Beyond it, a connection that waits for its
            client makes room for a new one. If all are being answered, the new one is refused.
    """

    def __init__(self, *arguments: Any, most: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.most = most
        self._head_timer: asyncio.TimerHandle | None = None
        self._read_timer: asyncio.TimerHandle | None = None
        self._opened = self.loop.time()

    @property
    def is_waiting(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Start the time for the first head, and make room where that is needed."""
        super().connection_made(transport)
        self._expect_head()
        if len(self.connections) > self.most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._head_arrived()
        self._answer_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a client. The time for a head does not start anew with each of them."""
        super().data_received(data)
        if self.is_waiting:
            self._expect_head()
        else:
            self._head_arrived()

    def pause_writing(self) -> None:
        """Start the time for reading: the buffer of the answer is full."""
        super().pause_writing()
        self._answer_read()
        self._read_timer = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the time for reading."""
        super().resume_writing()
        self._answer_read()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that was not used again."""
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
        # A client that does not read would keep it open for ever.
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
        # Clients that were answered before come last: they sent a request of their own.
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
"""Longer than common clients keep a connection, so that it is they who close it."""
GUARD_SECONDS = 3.0
"""Time by which the end by force from outside comes later than the one from inside."""
ANSWER_SHARE = 0.6
"""Share of the time for ending in which requests are answered; the rest is for the work behind."""


class _Deadline:
    """Ends the process by force if it has not ended some time after it was told to.

    No thread of Python can be stopped from outside: a decoder, a runtime or a training may keep
    its thread for hours, and Python waits for it.

    Args:
        seconds: time from `begin` to the end by force.
        left: says what is not finished.
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
        """Say that everything has ended."""
        self._met.set()
        self._begun.set()

    def _run(self) -> None:
        self._begun.wait()
        if self._met.wait(self.seconds):
            return
        try:
            left = self.left()
        except Exception as error:
            left = f"unknown, as {type(error).__name__}: {error}"
        line = (
            f"fre: ended by force after {self.seconds:g} seconds; not finished: {left}; "
            "every result that was answered is kept\n"
        )
        # Past Python's own buffers: a stuck thread may hold their locks.
        os.write(2, line.encode("utf-8", "backslashreplace"))
        os._exit(1)


def _guard(seconds: float) -> Guard | None:
    if os.name != "posix":
        return None
    try:
        return Guard(seconds)
    except OSError as error:
        log.warning(
            "no process can be started that would end this one if Python itself is stuck: %s", error
        )
        return None


class _Server(uvicorn.Server):
    """uvicorn's server, but a request to end is not an interruption: it drains and returns."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service
        self.deadline = _Deadline(service.settings.shutdown_seconds, self._left)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Run until a signal, and until everything has ended."""
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
        # A second signal changes nothing: wrappers send two, and the time is bounded anyway.
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
    """A socket that listens.

    Raises:
        OptionError: the address is not ours, or in use.
    """
    bound: socket.socket | None = None
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # asyncio sends at once (TCP_NODELAY) only where the protocol is named: without it an
        # answer waits 40 ms for the client's acknowledgement of its first packet.
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
    """Run the service until SIGINT or SIGTERM; then finish what was begun.

    If that takes longer than ``settings.shutdown_seconds``, the process ends at once with exit
    code 1 and a line that says what was left.

    Args:
        settings: what it is told.
        started: is called with the address of the page once it listens.

    Raises:
        OptionError: it can't listen there.
        FREError: as for `Service`.
    """
    # Images are refused by their size in any case; Pillow would print as well.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with listen(settings.host, settings.port) as bound:
        service = Service(settings)
        most = most_connections(settings.limits.max_connections)
        http: Any = partial(Connection, most=most)
        config = uvicorn.Config(
            create_app(service),
            http=http,
            ws="none",
            # So many are accepted before any can make room for another.
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
