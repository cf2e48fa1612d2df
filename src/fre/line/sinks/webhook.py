"""Messages as POST requests."""

from __future__ import annotations

import http.client
import os
import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from urllib.parse import unquote, urlsplit

from fre.line.delivery import DeliveryError
from fre.line.journal import Message
from fre.line.video import without_password
from fre.version import __version__

SECONDS = 10.0
"""Time for an answer."""
REFUSALS = (400, 413, 422)
"""Status codes by which the receiver refuses this one message; others may pass."""


class Webhook:
    """Posts each message as JSON, over one connection.

    Args:
        url: address, ``http://`` or ``https://``. User and password become basic authentication.
            The environment variable ``FRE_WEBHOOK_TOKEN``, if set, becomes a bearer token.
        warn: called with one line of text for each refused message.
    """

    batch = 16

    def __init__(self, url: str, warn: Callable[[str], None]) -> None:
        parts = urlsplit(url)
        self.name = without_password(url)
        self.refused = 0
        self._warn = warn
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": f"fre/{__version__}",
        }
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers["Authorization"] = f"Basic {b64encode(user).decode()}"
        elif token := os.environ.get("FRE_WEBHOOK_TOKEN"):
            self._headers["Authorization"] = f"Bearer {token}"
        host = parts.hostname or ""
        self._connection = (
            http.client.HTTPSConnection(
                host, parts.port, timeout=SECONDS, context=ssl.create_default_context()
            )
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, parts.port, timeout=SECONDS)
        )

    def deliver(self, messages: Sequence[Message]) -> Iterator[int]:
        """Post messages; see `fre.line.delivery.Sink`."""
        for message in messages:
            status, answer = self._post(message)
            if 200 <= status < 300:
                yield message.n
            elif status in REFUSALS:
                self.refused += 1
                self._warn(f"{self.name}: refuses {message.values['id']}: {status} {answer}")
                yield message.n
            else:
                moved = "; give the address that it names" if 300 <= status < 400 else ""
                raise DeliveryError(f"answers {status} {answer}{moved}")

    def _post(self, message: Message) -> tuple[int, str]:
        body = message.text().encode("utf-8", "backslashreplace")
        headers = {**self._headers, "Idempotency-Key": message.values["id"]}
        try:
            if self._connection.sock is None:
                self._connection.connect()
        except OSError as error:
            raise DeliveryError(f"can't be reached: {error.strerror or error}") from error
        try:
            self._connection.request("POST", self._target, body, headers)
            response = self._connection.getresponse()
            text = response.read(65536)
            if response.read(1):
                self._connection.close()  # an answer without end
            location = response.headers.get("Location")
            return response.status, location or _line(text)
        except (OSError, http.client.HTTPException) as error:
            # The receiver may have taken the message before the connection broke.
            self._connection.close()
            reason = str(error) or type(error).__name__
            raise DeliveryError(f"gives no answer: {reason}", message.n) from error

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _line(text: bytes) -> str:
    return " ".join(text.decode("utf-8", "replace").split())[:100]
