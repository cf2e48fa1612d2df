"""``fre`` as tests run it: within this process, or in a process of its own."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
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

    out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fre", *map(str, arguments)])
        patch.setattr(common.interruption, "watch", lambda: None)
        if cwd is not None:
            patch.chdir(cwd)
        stack.callback(formats.set_pixel_limit, formats.pixel_limit())
        stack.enter_context(warnings.catch_warnings())
        # As Python starts: pytest turns every warning into an error.
        warnings.simplefilter("default")
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stopped = stack.enter_context(pytest.raises(SystemExit))
        main()
    code = stopped.value.code
    assert isinstance(code, int)
    return subprocess.CompletedProcess(["fre", *map(str, arguments)], code, text(out), text(err))


def text(stream: io.TextIOWrapper) -> str:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode()


def refused(*arguments: object, cwd: Path | None = None) -> str:
    """Run what is a mistake of the user; the one line that says so."""
    done = fre(*arguments, cwd=cwd)
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fre: error: ")
    return lines[0]
