"""``fre serve``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fre.cli.common import note, runtime_options
from fre.errors import MissingDependencyError, OptionError

if TYPE_CHECKING:
    from fre.serve.service import Service

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
MIB = 1024 * 1024
SHORTEST_TOKEN = 16


def _number(
    name: str, default: int, help_text: str, *, least: int = 1
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option for a whole number that is not below a bound."""
    return click.option(
        name, type=click.IntRange(least), default=default, show_default=True, help=help_text
    )


@click.command()
@click.argument("models", type=click.Path(path_type=Path))
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on; any but this machine's own needs --token.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--token",
    envvar="FRE_TOKEN",
    show_envvar=True,
    help="What clients must present. On a command line others on this machine can read it.",
)
@click.option(
    "--cors",
    metavar="ORIGIN",
    multiple=True,
    help="Let pages of this origin call the service, such as https://line.example; repeatable.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder for results and pictures.  [default: .fre-serve beside the models]",
)
@click.option("--watch", type=click.Path(path_type=Path), help="Judge what arrives in this folder.")
@click.option("--watch-model", metavar="NAME", help="The model that judges it, if there are more.")
@_number("--max-upload", 64, "MiB.")
@_number("--max-train-upload", 2048, "MiB, of images to train on, packed or unpacked.")
@click.option(
    "--max-train-disk",
    type=click.IntRange(1),
    help="MiB of disk for all uploads to train on that arrive, wait or are used, packed and "
    "unpacked.  [default: twice --max-train-upload]",
)
@_number("--max-pixels", 89_478_485, "Of one image.")
@_number("--max-batch", 64, "Images a request.")
@_number("--max-queue", 256, "Images that may wait for a model; at least --max-batch.")
@_number(
    "--keep",
    2048,
    "MiB of pictures to keep on disk; the oldest go first. Results themselves stay.",
    least=0,
)
@_number("--batch-size", 8, "Images of concurrent requests to a run of the network.")
@_number(
    "--shutdown-seconds",
    20,
    "Time to finish what was begun when the service is told to end; then it ends by force.",
)
@runtime_options
def serve(
    models: Path,
    host: str,
    port: int,
    token: str | None,
    cors: tuple[str, ...],
    data: Path | None,
    watch: Path | None,
    watch_model: str | None,
    max_upload: int,
    max_train_upload: int,
    max_train_disk: int | None,
    max_pixels: int,
    max_batch: int,
    max_queue: int,
    keep: int,
    batch_size: int,
    shutdown_seconds: int,
    runtime: str,
    threads: int,
) -> None:
    """Offer models over HTTP, with a page for people.

    MODELS is a model file, or a folder of them: one for each product or camera, by the name of
    its file. A file that changes is loaded anew without a pause. Models can be trained from the
    page if MODELS is a folder; it may be empty.

    \b
    Example: fre serve models
    """
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in NEEDED):
        raise MissingDependencyError("fre serve", "serve")
    _check_token(host, token)
    if max_queue < max_batch:
        raise OptionError(f"--max-queue must be at least --max-batch, {max_batch}")
    max_train_disk = max_train_disk or 2 * max_train_upload
    if max_train_disk < max_train_upload:
        raise OptionError(
            f"--max-train-disk must be at least --max-train-upload, {max_train_upload}"
        )
    from fre.serve.server import serve as run
    from fre.serve.settings import Limits, Settings

    limits = Limits(
        max_upload_bytes=max_upload * MIB,
        max_train_bytes=max_train_upload * MIB,
        max_staged_bytes=max_train_disk * MIB,
        max_pixels=max_pixels,
        max_batch=max_batch,
        max_queue=max_queue,
        keep_bytes=keep * MIB,
    )
    folder = models if models.is_dir() else models.parent
    settings = Settings(
        models=models,
        data=data or folder / ".fre-serve",
        host=host,
        port=port,
        token=token or None,
        cors=cors,
        limits=limits,
        watch=watch,
        watch_model=watch_model,
        runtime=runtime,
        threads=threads,
        batch_size=batch_size,
        shutdown_seconds=shutdown_seconds,
    )
    run(settings, _say)
    note("ended; everything that was acknowledged is kept")


def _say(address: str, service: Service) -> None:
    names = service.registry.names()
    shown = ", ".join(names) if names else "no models yet"
    if service.history_note:
        note(f"{service.settings.data}: {service.history_note}")
    note(f"{shown}; the page is at {address}")
    for reason in service.registry.broken().values():
        note(f"left out: {reason}")


def _check_token(host: str, token: str | None) -> None:
    if token and len(token) < SHORTEST_TOKEN:
        raise OptionError(f"--token: expected at least {SHORTEST_TOKEN} characters")
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise OptionError("--token: expected printable ASCII characters without spaces")
    if not token and not _is_local(host):
        raise OptionError(
            f"--host {host} lets other machines in: give --token, or set FRE_TOKEN, for "
            'instance to the output of: python -c "import secrets; print(secrets.token_urlsafe())"'
        )


def _is_local(host: str) -> bool:
    import ipaddress

    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
