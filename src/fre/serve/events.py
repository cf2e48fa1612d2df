"""What happens, for whoever listens: server-sent events."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from typing import Any

from fre.serve.responses import Problem, to_json

QUEUE = 256
HEARTBEAT = 15.0


class Listener:
    """One open stream of events."""

    def __init__(self, model: str | None, source: str | None) -> None:
        self.model = model
        self.source = source
        self.queue: asyncio.Queue[str | None] = asyncio.Queue(QUEUE)
        self.lagged = False

    def wants(self, kind: str, data: dict[str, Any]) -> bool:
        """Whether an event is for this listener."""
        if kind not in ("result", "verdict"):
            return True
        return self.model in (None, data["model"]) and self.source in (None, data["source"])


class EventBroadcaster:
    """Passes events on to all listeners; slow ones lose events, and are told so.

    Args:
        max_listeners: open streams that are allowed.
    """

    def __init__(self, max_listeners: int) -> None:
        self.max_listeners = max_listeners
        # Weak: a stream whose client has gone before it began is never taken off the list.
        self._listeners: weakref.WeakSet[Listener] = weakref.WeakSet()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Say on which event loop the listeners are."""
        self._loop = loop

    def publish(self, kind: str, data: dict[str, Any]) -> None:
        """Tell all listeners; from any thread."""
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

        Raises:
            Problem: there are too many, or the service ends.
        """
        if self._closed:
            raise Problem(503, "shutting_down", "the service is ending", retry_after=5)
        if len(self._listeners) >= self.max_listeners:
            raise Problem(
                503, "queue_full", f"more than {self.max_listeners} listeners", retry_after=10
            )
        listener = Listener(model, source)
        # Here, not when the stream begins: many may ask before the first one does.
        self._listeners.add(listener)
        return listener

    async def stream(self, listener: Listener) -> AsyncIterator[str]:
        """The events of a listener as text."""
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
        """End all streams; on the event loop."""
        self._closed = True
        for listener in self._listeners:
            if listener.queue.full():
                listener.queue.get_nowait()
            listener.queue.put_nowait(None)
