"""``fre watch``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fre.cli.common import (
    Interrupted,
    batch_size_option,
    count_option,
    flag_option,
    max_pixels_option,
    note,
    note_all,
    note_left_out,
    path_option,
    print_line,
    runtime_options,
)
from fre.cli.help import LongCommand
from fre.errors import FREError

if TYPE_CHECKING:
    from fre.line.frame import Source
    from fre.line.journal import Journal
    from fre.line.sinks import Receivers
    from fre.line.sinks.command import Command
    from fre.line.watch import Inspection

LAST_SECONDS = 5.0
"""Time to deliver the last messages after Ctrl-C or a request to end."""
ONCE_SECONDS = 60.0
"""Time to deliver the last messages after the end of the source."""


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for the frames of a source and the receivers of messages."""
    for add in (
        click.option(
            "--to",
            "targets",
            metavar="URL",
            multiple=True,
            help="Receiver of the results: mqtt://HOST/TOPIC, https://HOST/PATH, "
            "opcua://ADDR:PORT, a file .csv or .jsonl, or pictures:DIR for images of anomalous "
            "parts; repeatable. docs/line.md describes the options of each.",
        ),
        click.option(
            "--trigger",
            metavar="WHAT",
            help="Score the next frame after a trigger: stdin (a line), file:PATH (the file "
            "appears) or http://HOST:PORT (POST to /trigger).  [default: score all frames]",
        ),
        count_option(
            "--buffer",
            default=4,
            help="Frames that wait for scoring; a newer one drops the oldest. A video file waits.",
        ),
        click.option(
            "--rate",
            type=click.FloatRange(min=0, min_open=True),
            metavar="FPS",
            help="Largest number of frames to score per second.",
        ),
        count_option("--every", default=1, help="Score every n-th frame."),
    ):
        command = add(command)
    return command


@click.command(
    cls=LongCommand,
    groups={
        "Frames": "--every --rate --buffer --trigger",
        "Folders": "--skip-existing --once --settle --patience",
        "Command": "--on-anomalous --command-timeout",
        "Speed": "--batch-size --runtime --threads --max-pixels",
    },
    details="""
    SOURCE is a folder, camera:0, an rtsp:// or http:// stream, a video file, or
    genicam:PRODUCER.cti.

    Images in a folder may be written slowly, renamed into place, or arrive in bursts. After a crash
    or a restart fre resumes; no image of a folder is scored twice.

    Every receiver gets every message. Messages wait in a file while a receiver is away, even over a
    restart. A message that a receiver may have got before has "redelivered": true and its old id.
    """,
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("source", metavar="SOURCE")
@source_options
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
    "--state",
    help="File for images already scored and messages that wait.  [default: a hidden file in the "
    "folder, or beside the model]",
)
@flag_option("--skip-existing", help="At the first start, skip the images already in the folder.")
@flag_option("--once", help="End when all images in the folder are scored.")
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
    source: str,
    targets: tuple[str, ...],
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
    **frames: Any,
) -> int:
    """Score images as they arrive, as lines of JSON.

    \b
    Example: fre watch part.onnx incoming --on-anomalous './reject --station 3'
    """
    from fre.line.folder import FolderOptions
    from fre.line.frame import SourceOptions
    from fre.line.sinks import open_sinks
    from fre.line.sinks.command import Command, split_command
    from fre.line.sinks.files import Stdout
    from fre.line.sources import open_source
    from fre.line.watch import Inspection, ModelScorer
    from fre.model import load

    words = split_command(command) if command is not None else None
    loaded = load(model, runtime=runtime, threads=threads, many=True)
    opened = open_source(
        source,
        SourceOptions(**frames),
        FolderOptions(settle, patience, skip_existing=skip_existing, once=once),
        warn=note,
    )
    ended: list[bool] = []
    try:
        journal = _open_journal(opened, source, model, state)
        receivers = open_sinks(targets, warn=note)
    except BaseException:
        opened.close()
        raise
    receivers.sinks.insert(0, Stdout(print_line, lambda: ended.append(True)))
    runner = None
    if words is not None:
        runner = Command(words, str(model), command_timeout, note)
        receivers.sinks.append(runner)
    scorer = ModelScorer(model.stem, loaded)
    inspection = Inspection(opened, scorer, journal, receivers, batch_size=batch_size, warn=note)
    whole = _run(inspection, lambda: bool(ended))
    journal.close()
    failures = _failures(receivers, runner)
    note_all(failures)
    return 0 if whole and not failures else FREError.exit_code


def _failures(receivers: Receivers, runner: Command | None) -> list[str]:
    sinks, pictures = receivers
    failures = [
        *(
            f"{at.folder}: {at.failed} pictures could not be written"
            for at in pictures
            if at.failed
        ),
        *(f"{sink.name}: refused {sink.refused} messages" for sink in sinks if sink.refused),
    ]
    if runner and runner.failed:
        failures.append(
            f"--on-anomalous: {runner.failed} of {runner.runs} runs of {runner.words[0]} failed"
        )
    return failures


def _open_journal(opened: Source, source: str, model: Path, state: Path | None) -> Journal:
    from fre.line.folder import FolderSource
    from fre.line.journal import Journal, default_state

    if not isinstance(opened, FolderSource):
        # Beside the model, since a camera has no folder.
        name = f"{model.stem}-{sha256(opened.name.encode()).hexdigest()[:8]}"
        return Journal(state or default_state(model.parent, Path(name)))
    note_left_out(Path(source))
    journal = Journal(state or default_state(Path(source), model))
    if opened.options.skip_existing and not journal.keys():
        journal.skip(opened.present())
    return journal


def _run(inspection: Inspection, stopped: Callable[[], bool]) -> bool:
    """Inspect until the end, and note the counts; return whether all messages were delivered."""
    seconds = ONCE_SECONDS
    left: Iterable[tuple[str, int]] = ()
    interrupted = False
    try:
        inspection.start()
        inspection.run(stopped)
    except Interrupted:
        # The usual end, no failure. The next start sends the messages that are still waiting.
        seconds, interrupted = LAST_SECONDS, True
    finally:
        left = inspection.close(LAST_SECONDS if stopped() else seconds)
    errors = inspection.errors
    files = "1 image" if errors == 1 else f"{errors} images"
    more = f"; {files} could not be scored: their lines say why" if errors else ""
    note(f"{inspection.scored} images scored, {inspection.anomalous} of them anomalous{more}")
    if inspection.source.counts.taken > inspection.scored + errors:
        note(f"{inspection.source.name}: {inspection.source.counts.text()}")
    for name, n in left:
        if not (name == "stdout" and stopped()):
            note(
                f"{n} messages for {name} are kept in {inspection.journal.path}; the next start "
                "sends them"
            )
    return interrupted or stopped() or not left
