"""Connections of HTTP within limits: their number, and how long a client may take.

uvicorn waits for ever for the head of a first request, and for a client that does not read its
answer. Some thousand such connections would use up the files that a process may open.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from fre.serve.answers import to_json
from fre.serve.problems import problem_body

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
