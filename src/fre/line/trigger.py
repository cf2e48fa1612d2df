"""Triggers: what starts the inspection of a part, and which part it is."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from fre.errors import OptionError

LONGEST_TEXT = 200
"""Number of characters of a trigger's text that are kept."""
FILE_INTERVAL = 0.02
"""Seconds between two looks at a trigger file."""


@dataclass(frozen=True)
class Trigger:
    """A request to inspect the next frame.

    Attributes:
        text: name of the part, possibly empty.
        time: time of the request, in seconds since 1970.
    """

    text: str
    time: float


class TriggerSource(Protocol):
    """Waits for triggers on a thread of its own."""

    def start(self) -> None:
        """Begin to wait."""

    def close(self) -> None:
        """Stop."""


def open_trigger(text: str, pull: Callable[[str], None], last: Callable[[], None]) -> TriggerSource:
    """Return a source of triggers.

    Args:
        text: ``stdin`` for each line on stdin; ``file:PATH`` for each time that the file appears,
            which fre removes; ``http://HOST:PORT`` for each POST to ``/trigger``.
        pull: called with the text of each trigger: the line, the content of the file, or the
            parameter ``part`` of the URL.
        last: called when no trigger will come any more.

    Raises:
        OptionError: the text is none of these, or the address can't be used.
    """
    if text == "stdin":
        return _Lines(pull, last)
    if text.startswith("file:") and len(text) > 5:
        return _File(Path(text[5:]), pull)
    address = urlsplit(text)
    if address.scheme == "http" and address.hostname and not address.path.strip("/"):
        try:
            return _Endpoint(address.hostname, address.port or 0, pull)
        except (OSError, ValueError) as error:
            raise OptionError(f"--trigger: can't listen on {text}: {error}") from error
    raise OptionError(f"--trigger: expected stdin, file:PATH or http://HOST:PORT, got {text!r}")


def _clean(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()[
        :LONGEST_TEXT
    ]


class _Lines:
    def __init__(self, pull: Callable[[str], None], last: Callable[[], None]) -> None:
        self._pull = pull
        self._last = last
        self._thread = threading.Thread(target=self._run, name="fre-trigger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        # By bytes: a line that is not UTF-8 must not end the thread.
        for line in sys.stdin.buffer:
            self._pull(_clean(line.decode("utf-8", "replace")))
        self._last()

    def close(self) -> None:
        """Do nothing: the thread ends with stdin or the process."""


class _File:
    def __init__(self, path: Path, pull: Callable[[str], None]) -> None:
        if not path.absolute().parent.is_dir():
            raise OptionError(f"--trigger: {path.absolute().parent}: expected a folder")
        self._path = path
        self._pull = pull
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fre-trigger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        # Renamed first: text that is written later belongs to the next trigger.
        mine = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        while not self._stop.wait(FILE_INTERVAL):
            try:
                self._path.replace(mine)
                text = mine.read_bytes()[: 4 * LONGEST_TEXT]
                mine.unlink()
            except OSError:
                continue  # not there yet, or still open elsewhere
            self._pull(_clean(text.decode("utf-8", "replace")))

    def close(self) -> None:
        self._stop.set()


class _Endpoint:
    def __init__(self, host: str, port: int, pull: Callable[[str], None]) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = 10.0

            def do_POST(self) -> None:
                address = urlsplit(self.path)
                found = address.path == "/trigger"
                if found:
                    pull(_clean(parse_qs(address.query).get("part", [""])[0]))
                body = json.dumps({"accepted": found}).encode()
                self.send_response(202 if found else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  (as the base class has it)
                pass

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="fre-trigger", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
