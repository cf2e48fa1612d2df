"""The command line, one module per command; commands import heavy packages when they run.

- common: options, output, progress bar and interruption that commands share.
- help: help pages of one screen, and their full form.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click

from fre.cli.benchmark import benchmark
from fre.cli.check import check
from fre.cli.common import Interrupted, complain, interruption, note
from fre.cli.compare import compare
from fre.cli.demo import demo
from fre.cli.doctor import doctor, selftest
from fre.cli.evaluate import evaluate
from fre.cli.help import CommandGroup
from fre.cli.info import info
from fre.cli.merge import merge
from fre.cli.predict import predict
from fre.cli.quantize import quantize
from fre.cli.serve import serve
from fre.cli.threshold import threshold
from fre.cli.train import train
from fre.cli.update import update
from fre.cli.watch import watch
from fre.errors import FREError, FREWarning
from fre.version import __version__

__all__ = ["cli", "main"]


@click.group(
    cls=CommandGroup,
    titles={
        "Start": "demo check train predict evaluate",
        "Operate": "threshold update merge watch serve",
        "More": "compare benchmark quantize info doctor selftest",
    },
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="fre")
@click.pass_context
def cli(context: click.Context) -> None:
    """Find defects in images, trained on good images only.

    \b
    fre demo                                   see everything on drawn data
    fre train parts -o part.onnx               train a model on good images
    fre predict part.onnx incoming -o results  score new images
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _show(other: Callable[..., None]) -> Callable[..., None]:
    """Return a hook that prints a warning of fre as one line, and others as before."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, FREWarning):
            note(str(message))
        else:
            other(message, category, *where, **more)

    return show


def main() -> NoReturn:
    """Run the command line; exit with 0 for done, 1 for a fault of fre, 2 for a user's mistake."""
    for stream in (sys.stdout, sys.stderr):
        # Consoles may use another encoding, and file names need not be Unicode.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    # Pillow warns of damaged files with its own line numbers.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    warnings.showwarning = _show(warnings.showwarning)
    interruption.watch()
    try:
        result = cli.main(standalone_mode=False)
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except Interrupted:
        code = complain(f"interrupted; {interruption.aftermath}", 2)
    except click.UsageError as error:
        where = f" (try: {error.ctx.command_path} --help)" if error.ctx else ""
        code = complain(error.format_message() + where, 2)
    except FREError as error:
        code = complain(str(error), error.exit_code)
    except Exception as error:  # a fault of fre, in one line
        if os.environ.get("FRE_DEBUG"):
            raise
        kind = type(error).__name__
        code = complain(f"{kind}: {error} (a fault of fre; FRE_DEBUG=1 shows where)", 1)
    if interruption.arrived:
        # An interrupted import can crash the interpreter at its exit.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


for command in (
    benchmark,
    check,
    compare,
    demo,
    doctor,
    evaluate,
    info,
    merge,
    predict,
    quantize,
    selftest,
    serve,
    threshold,
    train,
    update,
    watch,
):
    cli.add_command(command)
