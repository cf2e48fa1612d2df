"""Options, output, progress bar and interruption that the commands share."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import click

from fre.errors import ImageError, OptionError
from fre.runtimes.lanes import BATCH

if TYPE_CHECKING:
    from fre.datasets.samples import Dataset
    from fre.inference.document import SubspaceSection
    from fre.model import Model
    from fre.types import Progress

Decorator: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]

ODD_SHOWN = 10
"""Odd images that are listed."""

HEADERS_READ = 2000
"""Number of images whose headers are read after the first unreadable one, in a few seconds."""

RUNTIMES = ("auto", "onnxruntime", "openvino", "cuda", "coreml", "directml")


class Interrupted(BaseException):
    """Ctrl-C or a request to end; on a KeyboardInterrupt click would print a line of its own."""


GRACE = 10.0
"""Seconds that running work has to end after Ctrl-C or a request to end."""


class Interruption:
    """State of Ctrl-C or a request to end, which some libraries swallow while they load."""

    arrived = False
    aftermath = "no partial result is left behind"

    def watch(self) -> None:
        """Handle both signals, and end the process by force if its work does not end.

        Python runs signal handlers in the main thread only, which may wait for a worker or a call
        into other code. So another thread reads the file descriptor that the system's handler
        writes to.
        """
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.arrive)
        reading, writing = os.pipe()
        if hasattr(os, "set_blocking"):
            os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        if hasattr(os, "register_at_fork"):
            # A signal to a child process must not end its parent.
            os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
        threading.Thread(target=self._guard, args=(reading,), daemon=True).start()

    def arrive(self, *_: object) -> NoReturn:
        self.arrived = True
        raise Interrupted

    def check(self) -> None:
        if self.arrived:
            raise Interrupted

    def _guard(self, reading: int) -> None:
        # A server has its own handlers and ends in its own way.
        while signal.getsignal(os.read(reading, 1)[0]) != self.arrive:
            pass
        time.sleep(GRACE)
        after = self.aftermath
        if after == Interruption.aftermath:
            after = "the next run there removes unfinished files"
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


def decision_values(model: Model) -> dict[str, Any]:
    """Return threshold, odd images and false-alarm rates as keys of a command's JSON."""
    calibration = model.calibration
    return {
        "threshold": model.threshold,
        "odd": [{"name": image.name, "score": image.score} for image in model.odd_images],
        "false_alarms": [
            {"rate": rate, "threshold": threshold} for rate, threshold in calibration.thresholds()
        ],
        "rate_of_others": calibration.rate_of_others,
        "odd_share": calibration.odd_share,
        "expected_false_alarm_rate": calibration.expected_rate,
    }


def threshold_lines(
    model: Model, odd: Sequence[str] | None = None, advice: Sequence[str] = ()
) -> list[str]:
    """Return the odd training images of a model, and a table of its thresholds.

    Args:
        model: a model.
        odd: names of its odd images, if better ones are known than those in the file.
        advice: lines that follow the odd images, if there are any.
    """
    from fre.scoring.calibration import percent

    calibration, images = model.calibration, model.odd_images
    lines = []
    if images:
        lines = [
            f"  {len(images)} odd image{'s' if len(images) > 1 else ''}, set aside for the "
            f"threshold (the next score is {calibration.others[-1]:.3g}):"
        ]
        names = [image.name for image in images] if odd is None else odd
        lines += [
            f"    {image.score:8.3g}  {name}"
            for image, name in zip(images[:ODD_SHOWN], names, strict=False)
        ]
        if (more := len(images) - ODD_SHOWN) > 0:
            lines.append(f"    and {more} more: fre info")
        lines += advice
    lines.append("  false alarms   threshold")
    for rate, threshold in calibration.thresholds():
        mark = "  <- this model" if rate == calibration.false_alarm_rate else ""
        if rate < calibration.attainable_rate:
            mark += f"  (takes {round(1 / rate) - 1} images to promise)"
        lines.append(f"  {percent(rate):>12}  {threshold:10.4g}{mark}")
    lines.append(
        f"  anomalous above a score of {model.threshold:.6g} ({calibration.rate_in_words()})"
    )
    return lines


def note(message: str) -> None:
    print("fre:", message, file=sys.stderr)


def note_left_out(folder: Path) -> None:
    """Say how many images of a folder have a suffix that fre does not read."""
    from fre.storage.listing import left_out, left_out_note

    if text := left_out_note(left_out(folder)):
        note(f"{folder}: {text}")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show a bar on stderr for work of more than a second, if stderr is a terminal."""
    bar: Any = None

    def show(task: str, done: int, total: int) -> None:
        nonlocal bar
        interruption.check()
        if not sys.stderr.isatty():
            return
        if bar is None or bar.desc != task:
            from tqdm import tqdm

            if bar is not None:
                bar.close()
            bar = tqdm(desc=task, total=total, unit=" images", disable=None, delay=0.5)
            # tqdm adds a colon to its first description only.
            bar.desc = task
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def emit(values: dict[str, Any], text: str, json_file: str | None) -> None:
    """Write values as JSON to a file, ``-`` for stdout, and print the text."""
    if json_file:
        write_text(json_file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    if json_file != "-":
        # A reader that has gone must not stop the command before it writes its files.
        print_line(text)


def print_line(line: str) -> bool:
    """Print and flush a line; return false if the reader has gone, as ``head`` does."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        # Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def write_text(file: str, text: str) -> None:
    if file == "-":
        print_line(text.removesuffix("\n"))
        return
    from fre.storage.files import encode_text, write_atomic

    write_atomic(file, encode_text(text))


def describe_rank(subspace: SubspaceSection) -> str:
    """Return the rank of a subspace in words."""
    if subspace.scope == "patch":
        size = f"{subspace.rank} of {subspace.channels} dimensions for all positions"
    elif subspace.scope == "position":
        size = f"up to {subspace.rank} of {subspace.channels} dimensions at each position"
    else:
        size = f"{subspace.rank} of {subspace.dimension:,} dimensions"
    kept = subspace.kept_variance
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


def path_option(*names: str, metavar: str = "FILE", **more: Any) -> Decorator:
    return click.option(*names, type=click.Path(path_type=Path), metavar=metavar, **more)


def count_option(*names: str, least: int = 1, metavar: str = "N", **more: Any) -> Decorator:
    """Return an option for a whole number with a lower bound."""
    kind = click.IntRange(least)
    return click.option(*names, type=kind, metavar=metavar, show_default="default" in more, **more)


def flag_option(name: str, help: str) -> Decorator:  # noqa: A002  (as click calls it)
    return click.option(name, is_flag=True, help=help)


json_option = click.option(
    "--json", "json_file", metavar="FILE", help="Write the result as JSON to FILE; - is stdout."
)

output_option = path_option("-o", "--output", required=True, help="Model file to write.")

max_pixels_option = count_option(
    "--max-pixels",
    expose_value=False,
    callback=set_pixel_limit,
    help="Refuse images of more pixels than this.  [default: about 89 million]",
)

good_option = click.option(
    "--good",
    multiple=True,
    metavar="NAME",
    help="Name of a folder of good images, or a pattern such as '2024-*'; . stands for the images "
    "directly in the folder; repeatable.  [default: names that mean good]",
)

skip_unreadable_option = flag_option(
    "--skip-unreadable", help="Leave out images that can't be read, and name them."
)

threads_option = count_option(
    "--threads", default=0, least=0, help="Number of threads; 0 takes all cores."
)

batch_size_option = count_option(
    "--batch-size", default=BATCH, help="Images that the network takes at once."
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
    """Return the error of an unreadable image with a few more such images, and what to do.

    Args:
        error: error of the first unreadable image.
        sources: all images of the command, in order; the headers of later ones are read.
    """
    from itertools import islice

    from fre.datasets import unreadable_among
    from fre.features.stream import FeatureError

    waiting = iter(sources)
    if isinstance(error, FeatureError):
        return error  # it can be read
    if error.path is None or not any(path == error.path for path in waiting):
        return error
    others = unreadable_among(islice(waiting, HEADERS_READ))
    more = f"; {' and '.join(map(str, others))} can't be read, either" if others else ""
    return ImageError(
        error.path, f"{error.reason}{more}; leave such images out with --skip-unreadable"
    )


def runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the runtime of a model and its threads."""
    return click.option(
        "--runtime",
        type=click.Choice(RUNTIMES),
        metavar="NAME",
        default="onnxruntime",
        help="Runtime of the model: onnxruntime, openvino, cuda, coreml, directml, or auto, the "
        "faster of the first two as measured once.  [default: onnxruntime]",
    )(threads_option(command))


def ray_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for working on a Ray cluster."""
    for add in (
        count_option(
            "--workers",
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
            help="ray works on many machines: fre-vision[ray].",
        ),
    ):
        command = add(command)
    return command


def note_all(remarks: Iterable[object]) -> None:
    for remark in remarks:
        note(str(remark))


def open_noted(path: Path, good: tuple[str, ...] = ()) -> Dataset:
    """Open a dataset, and print the remarks on it."""
    from fre.datasets import open_dataset

    opened = open_dataset(path, good=good)
    note_all(opened.notes)
    return opened


@contextmanager
def reading(sources: Iterable[Path]) -> Iterator[Progress]:
    """Show a progress bar, and advise --skip-unreadable if an image can't be read.

    Args:
        sources: all images of the command, in order.

    Raises:
        ImageError: an image can't be read.
    """
    try:
        with progress_bar() as progress:
            yield progress
    except ImageError as error:
        raise suggest_skipping(error, sources) from error


def refuse_without_ray(engine: str, options: dict[str, Any]) -> None:
    """Refuse options that only Ray has.

    Args:
        engine: ``"local"`` or ``"ray"``.
        options: values of Ray's options by name; ``None`` for those not given.

    Raises:
        OptionError: one of them was given with another engine.
    """
    given = [name for name, value in options.items() if value is not None]
    if engine != "ray" and given:
        raise OptionError(f"{' and '.join(given)} can be given with --engine ray only")
