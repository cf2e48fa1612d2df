"""Ctrl-C and requests to end are met in bounded time, whatever the work does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of other systems differ")

STUCK = """
import hashlib, sys, threading
import click
from fre import cli
from fre.cli import common

common.GRACE = 0.5
common.interruption.aftermath = {aftermath}

def for_ever():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)  # minutes that no handler of Python cuts short

@cli.cli.command()
def stuck():
    threading.Timer(0.5, print, ["begun"], {{"flush": True}}).start()  # when it is stuck
    if {on_a_worker}:
        done = threading.Event()
        threading.Thread(target=lambda: (for_ever(), done.set())).start()
        try:
            done.wait()
        finally:
            done.wait()
    for_ever()

sys.argv = ["fre", "stuck"]
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("on_a_worker", [False, True])
def test_work_that_does_not_stop_is_ended_by_force(number: int, on_a_worker: bool) -> None:
    aftermath = "'the same command goes on'" if on_a_worker else "common.interruption.aftermath"
    code = STUCK.format(on_a_worker=on_a_worker, aftermath=aftermath)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    (line,) = errors.splitlines()
    assert line.startswith("fre: error: interrupted; work that did not stop within 0.5 s was ended")
    assert line.endswith("the same command goes on" if on_a_worker else "removes unfinished files")


def test_a_signal_of_a_forked_child_does_not_end_its_parent() -> None:
    code = """
import os, signal, sys, time
from fre import cli
from fre.cli import common

common.GRACE = 0.1

@cli.cli.command()
def forking():
    child = os.fork()
    if not child:
        try:
            time.sleep(60)
        finally:
            os._exit(0)
    time.sleep(0.3)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
    time.sleep(0.5)
    print("alive")

sys.argv = ["fre", "forking"]
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "alive\n", "")
