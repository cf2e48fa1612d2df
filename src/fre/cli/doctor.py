"""``fre doctor`` and ``fre selftest``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fre.cli.common import flag_option, interruption, json_option, note, print_line, write_text

if TYPE_CHECKING:
    from fre.checks.selftest import Step

FAILED = 1
"""Exit code of a check that found a fault: the installation's, not the user's."""


@click.command()
@flag_option("--no-test", "Only list facts, without the self test of about 5 seconds.")
@json_option
def doctor(no_test: bool, json_file: str | None) -> int:
    """Show versions, cores, runtimes, cache, disk and cameras, and try fre for about 5 seconds.

    Exits with 1 if something is wrong.

    \b
    Example: fre doctor
    """
    from fre.checks.machine import machine_facts

    shown = json_file != "-"
    facts = []
    for fact in machine_facts():
        facts.append(fact)
        if shown:
            print_line(f"{fact.name:<14} {fact.value}")
    problems = [f"{fact.name}: {fact.value}: {fact.problem}" for fact in facts if fact.problem]
    steps = [] if no_test else _run(quick=True, shown=shown)
    problems += [f"self test: {step.name}: {step.detail}" for step in steps if _failed(step)]
    for problem in problems:
        note(problem)
    values = {
        "facts": {fact.name: fact.value for fact in facts},
        "self_test": [step._asdict() for step in steps],
        "problems": problems,
    }
    return _end(values, problems, json_file)


@click.command()
@json_option
def selftest(json_file: str | None) -> int:
    """Train, update, serve and compare scores on drawn images, in under a minute.

    Exits with 0 if every step passes or says what it needs, and with 1 if one fails. It writes to a
    temporary folder only.

    \b
    Example: fre selftest
    """
    steps = _run(quick=False, shown=json_file != "-")
    problems = [f"{step.name}: {step.detail}" for step in steps if _failed(step)]
    for problem in problems:
        note(f"the self test failed: {problem}")
    return _end({"steps": [step._asdict() for step in steps]}, problems, json_file)


def _run(*, quick: bool, shown: bool) -> list[Step]:
    """Run the self test, and print each step as it ends."""
    from fre.checks.selftest import self_test

    steps = []
    with tempfile.TemporaryDirectory(prefix="fre-selftest-") as folder:
        for step in self_test(Path(folder), quick=quick):
            interruption.check()
            steps.append(step)
            if shown:
                print_line(
                    f"{step.name:<17} {step.outcome:<7} {step.seconds:5.1f} s  {step.detail}"
                )
    return steps


def _failed(step: Step) -> bool:
    return step.outcome == "failed"


def _end(values: dict[str, Any], problems: list[str], json_file: str | None) -> int:
    """Write the JSON, and return the exit code."""
    import json

    if json_file:
        write_text(json_file, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    return FAILED if problems else 0
