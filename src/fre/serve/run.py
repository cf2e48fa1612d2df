"""Run the service until it is told to end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import warnings
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from PIL import Image

from fre.errors import OptionError
from fre.serve.app import create_app
from fre.serve.service import Service
from fre.serve.settings import Settings

__all__ = ["serve"]

GRACE_SECONDS = 60
KEEP_ALIVE_SECONDS = 75
"""Longer than common clients keep a connection, so that it is they who close it."""


class _Server(uvicorn.Server):
    """uvicorn's server, but a request to end is not an interruption: it drains and returns."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self.service.draining = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.service.drain()  # event streams would keep their connections open
        await super().shutdown(sockets)


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
        config = uvicorn.Config(
            create_app(service),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="on",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        name = f"[{settings.host}]" if ":" in settings.host else settings.host
        started(f"http://{name}:{bound.getsockname()[1]}", service)
        _Server(config, service).run(sockets=[bound])
