"""A command that runs for each anomalous image."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

from fre.errors import OptionError
from fre.line.follower import original_name
from fre.line.journal import Message


def split_command(command: str) -> list[str]:
    """Return the words of a command line.

    Raises:
        OptionError: the text is no command line, or the program can't be found.
    """
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


class Command:
    """Runs a command for each anomalous image, one after another, without a shell.

    A command that fails is reported and counted, and not run again.

    Args:
        words: program and arguments; path and score follow them.
        model: path of the model, for the command.
        timeout: seconds after which the command is killed.
        warn: called with one line of text for each run that failed.

    Attributes:
        runs: number of runs.
        failed: number of runs that failed.
    """

    name = "on-anomalous"
    batch = 1
    refused = 0

    def __init__(
        self, words: list[str], model: str, timeout: float, warn: Callable[[str], None]
    ) -> None:
        self.words = words
        self.model = model
        self.timeout = timeout
        self.runs = self.failed = 0
        self._warn = warn

    def deliver(self, messages: Sequence[Message]) -> Iterator[int]:
        """Run the command for anomalous images; see `fre.line.delivery.Sink`."""
        for message in messages:
            if message.values.get("anomalous"):
                self.runs += 1
                reason = self._run(message)
                if reason is not None:
                    self.failed += 1
                    path = message.values["path"]
                    self._warn(f"--on-anomalous: {self.words[0]}: {reason}, for {path}")
            yield message.n

    def _run(self, message: Message) -> str | None:
        """Run the command for an image; return the reason if it failed."""
        values = message.values
        path, score = original_name(values["path"]), repr(values["score"])
        environment = {
            **os.environ,
            "FRE_PATH": path,
            "FRE_SCORE": score,
            "FRE_P_VALUE": repr(values["p_value"]),
            "FRE_MODEL": self.model,
            "FRE_ID": values["id"],
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

    def close(self) -> None:
        """Do nothing: a running command ends by itself."""
