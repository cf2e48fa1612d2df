"""``fre serve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fre.cli.common import (
    count_option,
    note,
    path_option,
    runtime_options,
)
from fre.cli.help import LongCommand
from fre.cli.watch import source_options
from fre.errors import MissingDependencyError, OptionError
from fre.runtimes.lanes import BATCH

if TYPE_CHECKING:
    from fre.serve.service import Service

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
MIB = 1024 * 1024
SHORTEST_TOKEN = 16
SOURCE_FIELDS = ("every", "rate", "buffer", "trigger")


@click.command(
    cls=LongCommand,
    groups={
        "Limits": "--max-upload --max-train-upload --max-train-disk --max-pixels --max-batch "
        "--max-queue --keep --keep-versions",
        "Frames": "--every --rate --buffer --trigger",
        "Speed and end": "--batch-size --shutdown-seconds --runtime --threads",
    },
    details="""
    MODELS is a model file, or a folder of them: one for each product or camera, named by its file.
    A file that changes is reloaded without a pause. If MODELS is a folder, which may be empty, the
    page can train models.
    """,
)
@click.argument("models", type=click.Path(path_type=Path))
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDR",
    help="Address to listen on; other machines need a --token.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="N",
    default=8000,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--token",
    envvar="FRE_TOKEN",
    show_envvar=True,
    metavar="TEXT",
    help="Secret that clients must send to do everything. Other users of this machine can read it "
    "on a command line.",
)
@click.option(
    "--operator-token",
    envvar="FRE_OPERATOR_TOKEN",
    show_envvar=True,
    metavar="TEXT",
    help="Second secret, for people who only see, predict and review results.",
)
@click.option(
    "--cors",
    metavar="ORIGIN",
    multiple=True,
    help="Origin whose pages may call the service, such as https://line.example; repeatable.",
)
@path_option(
    "--data",
    metavar="DIR",
    help="Folder for results and pictures.  [default: .fre-serve beside the models]",
)
@click.option(
    "--source",
    "--watch",
    "source",
    metavar="SOURCE",
    help="Folder, camera:0, rtsp:// or http:// stream, or video whose new images are scored.",
)
@click.option(
    "--source-model",
    "--watch-model",
    "source_model",
    metavar="NAME",
    help="Model that scores the images of the source, if there are several.",
)
@click.option(
    "--source-root",
    "source_roots",
    type=click.Path(path_type=Path),
    metavar="DIR",
    multiple=True,
    help="Folder below which the page may choose a folder or a video as the source; repeatable.",
)
@source_options
@count_option("--max-upload", default=64, help="Largest request, in MiB.")
@count_option(
    "--max-train-upload",
    default=2048,
    help="Largest set of training images, in MiB, packed or unpacked.",
)
@count_option(
    "--max-train-disk",
    help="Disk space for all uploaded training images together, in MiB, packed and unpacked.  "
    "[default: twice --max-train-upload]",
)
@count_option("--max-pixels", default=89_478_485, help="Largest number of pixels of an image.")
@count_option("--max-batch", default=64, help="Largest number of images in a request.")
@count_option(
    "--max-queue",
    default=256,
    help="Largest number of images that wait for a model, --max-batch or more.",
)
@count_option(
    "--keep",
    default=2048,
    least=0,
    help="Pictures to keep on disk, in MiB; the oldest are deleted first, results never.",
)
@count_option(
    "--keep-versions",
    default=10,
    least=0,
    help="Earlier files of each model to keep, to undo a change; 0 keeps none.",
)
@count_option(
    "--batch-size",
    default=BATCH,
    help="Images of concurrent requests that the network takes at once.",
)
@count_option(
    "--shutdown-seconds",
    default=20,
    help="Seconds to finish running work when the service must end; then it ends by force.",
)
@runtime_options
def serve(
    models: Path,
    data: Path | None,
    max_upload: int,
    max_train_upload: int,
    max_train_disk: int | None,
    max_pixels: int,
    max_batch: int,
    max_queue: int,
    keep: int,
    **settings: Any,
) -> None:
    """Serve models over HTTP, with a web page.

    \b
    Example: fre serve models
    """
    _check_extra()
    _check_tokens(settings)
    if max_queue < max_batch:
        raise OptionError(f"--max-queue must be at least --max-batch, {max_batch}")
    max_train_disk = max_train_disk or 2 * max_train_upload
    if max_train_disk < max_train_upload:
        raise OptionError(
            f"--max-train-disk must be at least --max-train-upload, {max_train_upload}"
        )
    from fre.serve.server import serve as run
    from fre.serve.settings import Limits, Settings

    _take_source(settings)
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
    run(
        Settings(
            models=models,
            data=data or folder / ".fre-serve",
            limits=limits,
            **settings,
        ),
        _say,
    )
    note("ended; all acknowledged results are kept")


def _take_source(settings: dict[str, Any]) -> None:
    """Turn the options of the source into ``line`` of `Settings`; refuse those without effect."""
    from fre.line.frame import SourceOptions
    from fre.serve.settings import LineSettings

    frames = SourceOptions(*(settings.pop(name) for name in SOURCE_FIELDS))
    source, model = settings.pop("source"), settings.pop("source_model")
    roots = settings["source_roots"]
    if source is None and (model or frames != SourceOptions()):
        raise OptionError("--source-model, --every, --rate, --buffer and --trigger need a --source")
    for root in roots:
        if not root.is_dir():
            raise OptionError(f"--source-root {root}: expected a folder")
    if settings["targets"] and source is None and not roots:
        raise OptionError("--to needs a --source, or a --source-root from which the page takes one")
    settings["line"] = source and LineSettings(source, frames, model)


def _check_extra() -> None:
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in NEEDED):
        raise MissingDependencyError("fre serve", "serve")


def _say(address: str, service: Service) -> None:
    names = service.registry.names()
    shown = ", ".join(names) if names else "no models yet"
    if service.history_note:
        note(f"{service.settings.data}: {service.history_note}")
    note(f"{shown}; the page is at {address}")
    for reason in service.registry.broken().values():
        note(f"left out: {reason}")


def _check_tokens(settings: dict[str, Any]) -> None:
    """Refuse tokens that protect nothing; an empty one becomes ``None``."""
    host = settings["host"]
    for name in ("token", "operator_token"):
        token = settings[name] = settings[name] or None
        option = f"--{name.replace('_', '-')}"
        if token and len(token) < SHORTEST_TOKEN:
            raise OptionError(f"{option}: expected at least {SHORTEST_TOKEN} characters")
        if token and not (token.isascii() and token.isprintable() and " " not in token):
            raise OptionError(f"{option}: expected printable ASCII characters without spaces")
    if settings["operator_token"] and not settings["token"]:
        raise OptionError("--operator-token needs a --token, or FRE_TOKEN, for engineers")
    if settings["operator_token"] and settings["operator_token"] == settings["token"]:
        raise OptionError("--operator-token is the same as --token; give operators another one")
    if not settings["token"] and not _is_local(host):
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
