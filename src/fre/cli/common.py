"""What the commands share: options, output, progress, interruption."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from fre.errors import ImageError

if TYPE_CHECKING:
    from fre.types import Progress

Command = TypeVar("Command", bound=Callable[..., Any])

FIGURE_TITLES = {
    "image_auroc": "image AUROC",
    "image_aupr": "image AUPR",
    "image_f1": "image F1",
    "pixel_auroc": "pixel AUROC",
    "pixel_f1": "pixel F1",
    "aupro": "AUPRO",
    "aupimo": "AUPIMO",
}
"""Names of the figures of an evaluation, in the order in which they are printed."""


HEADERS_READ = 2000
"""Further images that are looked at after the first unreadable one: a few seconds' work."""

RUNTIMES = ("auto", "onnxruntime", "openvino", "cuda", "coreml", "directml")


class Interrupted(BaseException):
    """What Ctrl-C raises here: click would print a line of its own on a KeyboardInterrupt."""


GRACE = 10.0
"""Seconds for running work to end after Ctrl-C or a request to end."""


class Interruption:
    """Ctrl-C or a request to end, which some libraries swallow when it comes as they load."""

    arrived = False
    aftermath = "no partial result is left behind"

    def watch(self) -> None:
        """Handle both signals, and end the process by force where its work does not end.

        The main thread may wait for a worker, or for a call into other code, which Python's
        handlers wait for; so another thread learns of the signal from the file descriptor that
        the system's handler writes to.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.arrive)
        reading, writing = os.pipe()
        if hasattr(os, "set_blocking"):
            os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        if hasattr(os, "register_at_fork"):
            # Signals of a child would end its parent.
            os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        threading.Thread(target=self._guard, args=(reading,), daemon=True).start()

    def arrive(self, *_: object) -> NoReturn:
        self.arrived = True
        raise Interrupted

    def check(self) -> None:
        if self.arrived:
            raise Interrupted

    def _guard(self, reading: int) -> None:
        # A server has handlers of its own, and ends in its own way.
        while signal.getsignal(os.read(reading, 1)[0]) != self.arrive:
            pass
        time.sleep(GRACE)
        after = self.aftermath
        if after == Interruption.aftermath:
            after = "the next run there removes what was left unfinished"
        line = (
            f"fre: error: interrupted; work that did not stop within {GRACE:g} s was ended by "
            f"force; {after}\n"
        )
        # Not through sys.stderr, whose lock the main thread may hold.
        os.write(2, line.encode())
        os._exit(2)


interruption = Interruption()


def complain(message: str, code: int) -> int:
    print("fre: error:", " ".join(message.split()), file=sys.stderr)
    return code


def note(message: str) -> None:
    print("fre:", message, file=sys.stderr)


def note_left_out(folder: Path) -> None:
    """Say how many images of a folder have a suffix that fre does not read."""
    from fre.storage.listing import left_out, left_out_note

    if text := left_out_note(left_out(folder)):
        note(f"{folder}: {text}")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr for whatever takes over a second; nothing where that is no terminal."""
    from tqdm import tqdm

    bar: Any = None

    def show(task: str, done: int, total: int) -> None:
        nonlocal bar
        interruption.check()
        if bar is None or bar.desc != task:
            if bar is not None:
                bar.close()
            bar = tqdm(desc=task, total=total, unit=" images", disable=None, delay=0.5)
            # tqdm adds a colon to what it is told at the start, and not to what it is told later
            bar.desc = task
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def emit(values: dict[str, Any], text: str, json_file: str | None) -> None:
    """Write the JSON to the file that was named, ``-`` is stdout, and print the text."""
    if json_file:
        write_text(json_file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    if json_file != "-":
        # What is still to be written must not be lost because nobody reads the text to its end.
        print_line(text)


def print_line(line: str) -> bool:
    """Print at once; false if whoever read our output has gone, as ``head`` does."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def write_text(file: str, text: str) -> None:
    if file == "-":
        print_line(text.removesuffix("\n"))
        return
    from fre.storage.files import encode_text, write_atomic

    write_atomic(file, encode_text(text))


def describe_rank(subspace: dict[str, Any]) -> str:
    """How large a subspace of the metadata is, in words."""
    if subspace["scope"] == "patch":
        size = f"{subspace['rank']} of {subspace['channels']} dimensions for all positions"
    elif subspace["scope"] == "position":
        size = f"up to {subspace['rank']} of {subspace['channels']} dimensions at each position"
    else:
        size = f"{subspace['rank']} of {subspace['dimension']:,} dimensions"
    kept = subspace["kept_variance"]
    return size if kept is None else f"{size} keep {kept:.1%} of the variance"


def parse_size(_: click.Context, __: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    sides = value.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise click.BadParameter(f"expected 256 or HxW such as 192x320, not {value!r}")
    return (int(sides[0]), int(sides[-1]))


def parse_names(_: click.Context, __: click.Parameter, value: str | None) -> Any:
    return None if value is None else [name.strip() for name in value.split(",")]


def set_pixel_limit(_: click.Context, __: click.Parameter, value: int | None) -> None:
    if value is not None:
        from fre.images.formats import set_pixel_limit

        set_pixel_limit(value)


json_option = click.option(
    "--json", "json_file", metavar="FILE", help="Write the result as JSON to FILE; - is stdout."
)

output_option = click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Model file to write.",
)

max_pixels_option = click.option(
    "--max-pixels",
    type=click.IntRange(min=1),
    expose_value=False,
    callback=set_pixel_limit,
    metavar="N",
    help="Refuse images of more pixels than this.  [default: about 89 million]",
)

good_option = click.option(
    "--good",
    multiple=True,
    metavar="NAME",
    help="Name of a folder of good images, or a pattern such as '2024-*'; . stands for the images "
    "directly in the folder; repeatable.  [default: names that mean good]",
)

skip_unreadable_option = click.option(
    "--skip-unreadable", is_flag=True, help="Leave out images that can't be read, and name them."
)

threads_option = click.option(
    "--threads",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Number of threads; 0 takes all cores.  [default: 0]",
)

batch_size_option = click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Images that the network takes at once.",
)

set_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting of the method, such as top=0.1; repeatable. docs/default.md explains: "
    "variance, rank, pool, scope, score_layers, map_layers, standardise, top, smoothing, prior, "
    "overall, folds, flip; of an autoencoder: rank, epochs, learning_rate, batch_size.",
)


def suggest_skipping(error: ImageError, sources: Iterable[Path]) -> ImageError:
    """Return the error of an image with a few more that can't be read, and what to do.

    Args:
        error: of the first image that could not be read.
        sources: all images of the command, in order; the headers of those behind are read.
    """
    from itertools import islice

    from fre.datasets import unreadable_among

    waiting = iter(sources)
    if error.path is None or not any(path == error.path for path in waiting):
        return error
    others = unreadable_among(islice(waiting, HEADERS_READ))
    more = f"; {' and '.join(map(str, others))} can't be read, either" if others else ""
    return ImageError(
        error.path, f"{error.reason}{more}; leave such images out with --skip-unreadable"
    )


def runtime_options(command: Command) -> Command:
    """Add the options that say what runs a model."""
    return click.option(
        "--runtime",
        type=click.Choice(RUNTIMES),
        metavar="NAME",
        default="onnxruntime",
        help="Runtime of the model: onnxruntime, openvino, cuda, coreml, directml, or auto, the "
        "faster of the first two as measured once.  [default: onnxruntime]",
    )(threads_option(command))


def ray_options(command: Command) -> Command:
    """Add the options that say which machines do the work."""
    for add in (
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            metavar="N",
            help="Number of processes on the Ray cluster.  [default: as many as it has cores for]",
        ),
        click.option(
            "--address",
            metavar="ADDR",
            help="Address of a Ray cluster.  [default: this machine alone]",
        ),
        click.option(
            "--engine",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="ray works on many machines; it needs fre[ray].",
        ),
    ):
        command = add(command)
    return command


def refuse_without_ray(engine: str, options: dict[str, Any]) -> None:
    """Refuse options that only Ray has.

    Raises:
        OptionError: one of them was given, and the engine is another.
    """
    from fre.errors import OptionError

    given = [name for name, value in options.items() if value is not None]
    if engine != "ray" and given:
        raise OptionError(f"{' and '.join(given)} can be given with --engine ray only")
