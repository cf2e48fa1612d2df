"""The command line: it calls the library, and imports what is heavy inside the commands."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import click

from fre.cli.benchmark import benchmark
from fre.cli.common import Interrupted, complain, interruption, note
from fre.cli.compare import compare
from fre.cli.demo import demo
from fre.cli.evaluate import evaluate
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
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="fre")
@click.pass_context
def cli(context: click.Context) -> None:
    """Find defects having seen only good images.

    \b
    fre demo                                   the whole product on data of its own
    fre train parts/good -o part.onnx          learn what good parts look like
    fre predict part.onnx incoming -o results  judge new images
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _show(other: Callable[..., None]) -> Callable[..., None]:
    """Print remarks of fre as one line, and leave other warnings as they are."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, FREWarning):
            note(str(message))
        else:
            other(message, category, *where, **more)

    return show


def main() -> NoReturn:
    """Run the command line; exit with 0 if it is done, 1 if fre failed, 2 if the user erred."""
    for stream in (sys.stdout, sys.stderr):
        # Whatever the console's encoding, and with names of files that are not Unicode.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    # Of damaged files, in words and with line numbers of the image library's own.
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
    except Exception as error:  # the last resort: a fault of ours, in one line
        if os.environ.get("FRE_DEBUG"):
            raise
        kind = type(error).__name__
        code = complain(f"{kind}: {error} (a fault of fre; FRE_DEBUG=1 shows where)", 1)
    if interruption.arrived:
        # An import that was cut short can crash the interpreter while it tidies up.
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


for command in (
    benchmark,
    compare,
    demo,
    evaluate,
    info,
    merge,
    predict,
    quantize,
    serve,
    threshold,
    train,
    update,
    watch,
):
    cli.add_command(command)
