"""``fre`` as tests run it: within this process, or in a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest

FRE = [sys.executable, "-m", "fre"]
"""The start of a command line, for tests that need a process of their own."""


def fre(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command within this process, which saves the seconds that a start takes.

    Signal handlers stay as they are, and so do warning filters and the limit of pixels.
    """
    from fre.cli import common, main
    from fre.images import formats

    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        # Files, since programs that the command starts write to their numbers.
        out, err = (
            stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(2)
        )
        patch.setattr(sys, "argv", ["fre", *map(str, arguments)])
        patch.setattr(common.interruption, "watch", lambda: None)
        if cwd is not None:
            patch.chdir(cwd)
        stack.callback(formats.set_pixel_limit, formats.pixel_limit())
        stack.enter_context(warnings.catch_warnings())
        # As Python starts: pytest turns every warning into an error.
        warnings.simplefilter("default")
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as stopped,
        ):
            main()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
    code = stopped.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(["fre", *map(str, arguments)], code, *texts)


def refused(*arguments: object, cwd: Path | None = None) -> str:
    """Run what is a mistake of the user; the one line that says so."""
    done = fre(*arguments, cwd=cwd)
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fre: error: ")
    return lines[0]
