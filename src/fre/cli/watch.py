"""``fre watch``."""

from __future__ import annotations

import os
import queue
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fre.cli.common import (
    Interrupted,
    batch_size_option,
    flag_option,
    max_pixels_option,
    note,
    note_left_out,
    path_option,
    print_line,
    runtime_options,
)
from fre.errors import FREError, OptionError

if TYPE_CHECKING:
    from fre.line.journal import Journal, Line


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--on-anomalous",
    "command",
    metavar="COMMAND",
    help="Command to run for each anomalous image, without a shell. It gets the path and the score "
    "as its last two arguments and FRE_PATH, FRE_SCORE, FRE_P_VALUE and FRE_MODEL in its "
    "environment. If a run fails, fre ends with exit code 1.",
)
@click.option(
    "--command-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time after which the command is killed.",
)
@path_option(
    "--state", help="File that lists the images already scored.  [default: a hidden file in DIR]"
)
@flag_option("--skip-existing", help="At the first start, skip the images already in DIR.")
@flag_option("--once", help="End when all images in DIR are scored.")
@click.option(
    "--settle",
    type=click.FloatRange(min=0),
    default=0.5,
    show_default=True,
    metavar="SECONDS",
    help="Time without a change after which a file is complete.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Time without a change after which fre gives up an unreadable file.",
)
@batch_size_option
@runtime_options
@max_pixels_option
def watch(
    model: Path,
    folder: Path,
    command: str | None,
    command_timeout: float,
    state: Path | None,
    skip_existing: bool,
    once: bool,
    settle: float,
    patience: float,
    batch_size: int,
    runtime: str,
    threads: int,
) -> int:
    """Score every image that arrives in a folder, as lines of JSON.

    Images may be written slowly, renamed into place, or arrive in bursts, in DIR or in folders
    below it. After a crash or a restart fre resumes; no image is scored twice. A line that fre may
    have printed before a crash is printed again with "redelivered": true.

    \b
    Example: fre watch part.onnx incoming --on-anomalous './reject --station 3'
    """
    from fre.line.journal import Journal, default_state
    from fre.line.watch import WatchOptions, watch_folder
    from fre.model import load

    words = _split(command)
    loaded = load(model, runtime=runtime, threads=threads, many=True)
    if not folder.is_dir():
        raise OptionError(f"{folder}: expected a folder to watch")
    note_left_out(folder)
    journal = Journal(state or default_state(folder, model))
    runner = _Runner(words, str(model), journal, command_timeout) if words else None
    options = WatchOptions(
        settle=settle,
        patience=patience,
        batch_size=batch_size,
        command=runner is not None,
        skip_existing=skip_existing,
        once=once,
    )
    _print(watch_folder(loaded, folder, journal, options, warn=note), journal, runner)
    if runner and runner.failed:
        note(f"--on-anomalous: {runner.failed} of {runner.runs} runs of {words[0]} failed")
        return FREError.exit_code
    return 0


def _print(lines: Iterator[Line], journal: Journal, runner: _Runner | None) -> None:
    """Print the lines, run the command for anomalous images, and note the counts at the end."""
    n = anomalous = errors = 0
    try:
        if runner:
            for line in journal.uncommanded():
                runner.add(line)
        for line in lines:
            if not print_line(line.text()):
                break
            journal.printed(line.key)
            failed = "error" in line.values
            n += not (line.repeated or failed)
            errors += failed and not line.repeated
            if line.values.get("anomalous"):
                anomalous += not line.repeated
                if runner and not line.repeated:
                    runner.add(line)
        if runner:
            runner.finish()
    except Interrupted:
        # The usual end, no failure. The next start runs the commands that are still waiting.
        pass
    files = "1 file" if errors == 1 else f"{errors} files"
    more = f"; {files} could not be scored: their lines say why" if errors else ""
    note(f"{n} images scored, {anomalous} of them anomalous{more}")


def _split(command: str | None) -> list[str]:
    if command is None:
        return []
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise OptionError(f"--on-anomalous: {error}: {command}") from error
    if not words:
        raise OptionError("--on-anomalous: expected a command")
    if shutil.which(words[0]) is None:
        raise OptionError(
            f"--on-anomalous: {words[0]}: no such command, or not executable; give a program on "
            "the PATH, or the path of one"
        )
    return words


class _Runner:
    """Thread that runs the command, once at a time, while images are scored."""

    def __init__(self, words: list[str], model: str, journal: Journal, timeout: float) -> None:
        self.words = words
        self.model = model
        self.journal = journal
        self.timeout = timeout
        self.runs = self.failed = 0
        self._waiting: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def add(self, line: Line) -> None:
        self._waiting.put(line)

    def finish(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (line := self._waiting.get()) is not None:
            self.runs += 1
            reason = self._run(line)
            if reason is not None:
                self.failed += 1
                note(f"--on-anomalous: {self.words[0]}: {reason}, for {line.values['path']}")
            self.journal.commanded(line.key)

    def _run(self, line: Line) -> str | None:
        """Run the command for an image; return the reason if it failed."""
        from fre.line.follower import original_name

        path, score = original_name(line.values["path"]), repr(line.values["score"])
        environment = {
            **os.environ,
            "FRE_PATH": path,
            "FRE_SCORE": score,
            "FRE_P_VALUE": repr(line.values["p_value"]),
            "FRE_MODEL": self.model,
        }
        try:
            # The command's output goes to stderr, since stdout has the lines of JSON.
            done = subprocess.run(
                [*self.words, path, score],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr,
                timeout=self.timeout,
                check=False,
            )
        except (OSError, ValueError) as error:
            return str(error)
        except subprocess.TimeoutExpired:
            return f"killed after {self.timeout:g} s"
        return f"exit code {done.returncode}" if done.returncode else None
