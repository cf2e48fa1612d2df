"""Delivery of messages: each receiver gets every message, however long it is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from fre.errors import FREError
from fre.line.journal import Journal, Message

FIRST_WAIT = 0.5
LONGEST_WAIT = 30.0
"""Seconds between two attempts to deliver: doubled at each attempt."""


class DeliveryError(Exception):
    """A receiver can't take messages at present; the text says why.

    Attributes:
        maybe: number of the last message that the receiver may have got, or ``None``.
    """

    def __init__(self, reason: str, maybe: int | None = None) -> None:
        self.maybe = maybe
        super().__init__(reason)


class Sink(Protocol):
    """A receiver of messages.

    Attributes:
        name: name for people and for the journal, without passwords.
        batch: number of messages given at once, at most. After a crash so many may be repeated.
        refused: number of messages that the receiver refused for good.
    """

    name: str
    batch: int
    refused: int

    def deliver(self, messages: Sequence[Message]) -> Iterator[int]:
        """Send messages, in order, and yield the number of each one that has arrived.

        Raises:
            DeliveryError: the receiver can't be reached; the rest must be sent again later.
        """

    def close(self) -> None:
        """Disconnect."""


class Delivery:
    """Sends the messages of a journal to one receiver, on a thread of its own.

    Args:
        sink: the receiver.
        journal: holds the messages.
        warn: called with one line of text when the receiver is away, and when it is back.

    Attributes:
        delivered: number of messages that arrived since the start.
        repeated: number of those that were marked as possibly repeated.
    """

    def __init__(self, sink: Sink, journal: Journal, warn: Callable[[str], None]) -> None:
        self.sink = sink
        self.journal = journal
        self.delivered = self.repeated = 0
        self._warn = warn
        self._away_since: float | None = None
        self._wait = FIRST_WAIT
        self._wake = threading.Event()
        self._closing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"fre-to-{sink.name}", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def wake(self) -> None:
        """Look for new messages now."""
        self._wake.set()

    def close(self, seconds: float) -> int:
        """Deliver the remaining messages, and disconnect.

        Args:
            seconds: longest time for it.

        Returns:
            Number of messages that stay in the journal.
        """
        self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(0.2)
        self.sink.close()
        return self.journal.count_pending(self.sink.name)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            closing = self._closing
            try:
                messages = self.journal.pending(self.sink.name, self.sink.batch)
                if messages:
                    self._send(messages)
                elif closing:
                    return
                else:
                    self._wake.wait()
            except FREError as error:  # the journal: its disk is full, for instance
                self._fail(str(error))
            except Exception as error:  # the thread must live, and people must know
                self._fail(f"{type(error).__name__}: {error}")

    def _send(self, messages: Sequence[Message]) -> None:
        name = self.sink.name
        self.journal.mark(name, attempted=messages[-1].n)
        repeated = {message.n for message in messages if message.repeated}
        done: int | None = None
        maybe = messages[-1].n
        try:
            for done in self.sink.deliver(messages):
                self.delivered += 1
                self.repeated += done in repeated
                if self._away_since is not None:
                    away = time.monotonic() - self._away_since
                    self._warn(f"{name}: is back after {away:.0f} s; sends the kept messages")
                    self._away_since = None
                self._wait = FIRST_WAIT
        except DeliveryError as error:
            before = messages[0].n - 1 if done is None else done
            flagged = [message.n for message in messages if message.repeated]
            maybe = max([before if error.maybe is None else error.maybe, *flagged[-1:]])
            self._fail(str(error))
        finally:
            self.journal.mark(name, delivered=done, attempted=maybe)

    def _fail(self, reason: str) -> None:
        if self._stop.is_set():
            return
        if self._away_since is None:
            self._away_since = time.monotonic()
            self._warn(f"{self.sink.name}: {reason}; messages are kept, trying again")
        self._stop.wait(self._wait)
        self._wait = min(2 * self._wait, LONGEST_WAIT)
