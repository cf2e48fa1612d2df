"""Server-sent events about results, jobs and models."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from typing import Any

from fre.serve.responses import Problem, shutting_down, to_json

QUEUE = 256
HEARTBEAT = 15.0


class Listener:
    """One open event stream."""

    def __init__(self, model: str | None, source: str | None) -> None:
        self.model = model
        self.source = source
        self.queue: asyncio.Queue[str | None] = asyncio.Queue(QUEUE)
        self.lagged = False

    def wants(self, kind: str, data: dict[str, Any]) -> bool:
        """Return whether the listener asked for an event."""
        if kind not in ("result", "verdict"):
            return True
        return self.model in (None, data["model"]) and self.source in (None, data["source"])


class EventBroadcaster:
    """Sends events to all listeners; slow listeners lose events, and are told so.

    Args:
        max_listeners: number of open streams.
    """

    def __init__(self, max_listeners: int) -> None:
        self.max_listeners = max_listeners
        # Weak: a stream whose client leaves before it begins is never removed otherwise.
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the event loop of the listeners."""
        self._loop = loop

    def publish(self, kind: str, data: dict[str, Any]) -> None:
        """Send an event to all listeners; callable from any thread."""
        if self._loop is not None and self._listeners and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._spread, kind, data)

    def _spread(self, kind: str, data: dict[str, Any]) -> None:
        text = f"event: {kind}\ndata: {to_json(data)}\n\n"
        for listener in self._listeners:
            if not listener.wants(kind, data):
                continue
            try:
                listener.queue.put_nowait(text)
            except asyncio.QueueFull:
                listener.lagged = True

    def listen(self, model: str | None, source: str | None) -> Listener:
        """Open a stream.

        Args:
            model: send results of this model only; ``None`` sends all.
            source: send results of this source only; ``None`` sends all.

        Raises:
            Problem: too many streams are open, or the service is ending.
        """
        if self._closed:
            raise shutting_down()
        if len(self._listeners) >= self.max_listeners:
            raise Problem(
                503, "queue_full", f"more than {self.max_listeners} listeners", retry_after=10
            )
        listener = Listener(model, source)
        # Not when the stream begins: many clients may ask before the first stream begins.
        self._listeners.add(listener)
        return listener

    async def stream(self, listener: Listener) -> AsyncIterator[str]:
        """Yield the events of a listener as text."""
        try:
            yield "retry: 2000\n\n"
            while not self._closed:
                try:
                    text = await asyncio.wait_for(listener.queue.get(), HEARTBEAT)
                except asyncio.TimeoutError:
                    yield ": alive\n\n"
                    continue
                if text is None:
                    return
                yield text
                if listener.lagged and listener.queue.empty():
                    listener.lagged = False
                    yield "event: lagged\ndata: {}\n\n"
        finally:
            self._listeners.discard(listener)

    def close(self) -> None:
        """End all streams; called on the event loop."""
        self._closed = True
        for listener in self._listeners:
            if listener.queue.full():
                listener.queue.get_nowait()
            listener.queue.put_nowait(None)
