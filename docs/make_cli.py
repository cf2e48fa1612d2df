"""Write docs/cli.md from the commands' own help; a test compares the two.

python docs/make_cli.py
"""

from __future__ import annotations

from pathlib import Path

import click

from fre.cli import cli
from fre.cli.help import ALL

FILE = Path(__file__).with_name("cli.md")
WIDTH = 96


def reference() -> str:
    """The reference of all commands as Markdown."""
    parts = [
        "# The command line\n\n"
        "Results go to stdout, progress and remarks to stderr. Exit codes: 0 done, 1 a fault of\n"
        "fre, 2 a mistake in the call or its files; an error is one line on stderr. A run that is\n"
        "interrupted leaves no partial result; work that does not stop within ten seconds is\n"
        "ended by force, in one line. Output is UTF-8 whatever the console's encoding. A byte\n"
        "`XX` of a file name that is not UTF-8 is written `\\udcXX`; in JSON, `os.fsencode`\n"
        "makes the name of it again.\n"
        "\n"
        "Environment: `FRE_CACHE` is the folder for exported networks and the decisions of\n"
        "`--runtime auto`; `FRE_DEBUG=1` shows the traceback of a fault.\n"
        "\n"
        "## What `fre predict -o` writes\n"
        "\n"
        "`predictions.jsonl`, a line for each image, and `overlays/`, `maps/` and `masks/`. A\n"
        "line names its files by the keys `overlay`, `map` and `mask`, relative to the folder.\n"
        "Their names follow the image's path below the folder that was given, or below the one\n"
        "that several have in common: `cam1/day/part.jpg` and `cam1/day/part.png` become\n"
        "`cam1/day/part.jpg.png` and `cam1/day/part.png.png`. Where that is not enough, as for\n"
        "`A.png` and `a.png`, a digest is added. Names do not depend on the order of the images.\n"
        "\n"
        "Results are built in a hidden folder inside the output folder, and put in place when\n"
        "all are there, so that it may be a mount point or a link. `--overwrite` replaces earlier\n"
        "results; other files stay. A run that is killed leaves the old or the new results; if it\n"
        "is killed between two renames, the next run there finishes them. A second run into the\n"
        "same folder at the same time is refused. Overlays, maps and masks of earlier results are\n"
        "never taken for images, and a note says so.\n"
    ]
    for name in sorted(cli.commands):
        context = click.Context(
            cli.commands[name],
            info_name=f"fre {name}",
            max_content_width=WIDTH,
            terminal_width=WIDTH,
            help_option_names=["-h", "--help"],
        )
        context.meta[ALL] = True
        parts.append(f"\n## fre {name}\n\n```text\n{cli.commands[name].get_help(context)}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    FILE.write_text(reference())
