"""Write docs/cli.md from the commands' own help; a test compares the two.

python docs/make_cli.py
"""

from __future__ import annotations

from pathlib import Path

import click

from fre.cli import cli

FILE = Path(__file__).with_name("cli.md")
WIDTH = 96


def reference() -> str:
    """The reference of all commands as Markdown."""
    parts = [
        "# The command line\n\n"
        "Results go to stdout, progress and remarks to stderr. Exit codes: 0 done, 1 a fault of\n"
        "fre, 2 a mistake in the call or its files; an error is one line on stderr. A run that is\n"
        "interrupted leaves no partial result.\n\n"
        "Environment: `FRE_CACHE` is the folder for exported networks and the decisions of\n"
        "`--runtime auto`; `FRE_DEBUG=1` shows the traceback of a fault.\n"
    ]
    for name in sorted(cli.commands):
        context = click.Context(
            cli.commands[name],
            info_name=f"fre {name}",
            max_content_width=WIDTH,
            terminal_width=WIDTH,
            help_option_names=["-h", "--help"],
        )
        parts.append(f"\n## fre {name}\n\n```text\n{cli.commands[name].get_help(context)}\n```\n")
    return "".join(parts)


if __name__ == "__main__":
    FILE.write_text(reference())
