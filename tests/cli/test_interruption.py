"""Ctrl-C and requests to end are met in bounded time, whatever the work does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from commands import FRE
from conftest import texture

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of other systems differ")

STUCK = """
import hashlib, sys, threading
import click
from fre import cli
from fre.cli import common

common.GRACE = 0.2
common.interruption.aftermath = {aftermath}

def for_ever():
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**30)  # minutes that no handler of Python cuts short

@cli.cli.command()
def stuck():
    threading.Timer(0.3, print, ["begun"], {{"flush": True}}).start()  # when it is stuck
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
    assert line.startswith("fre: error: interrupted; work that did not stop within 0.2 s was ended")
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


def wait_until_it_works(process: subprocess.Popen[str]) -> None:
    """Until the network is loaded, on any machine; and then a moment into the images."""
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "onnxruntime" not in maps.read_text():
        time.sleep(0.1)
    time.sleep(1)
    assert process.poll() is None, "done before it could be interrupted"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["train", "predict"])
def test_interruption_leaves_nothing(
    model: Path, dataset: Path, tmp_path: Path, command: str, sent: signal.Signals
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    source = Image.fromarray(texture(0)).resize((1500, 1500))
    source.save(many / "0.png")
    for index in range(1, 300):
        os.link(many / "0.png", many / f"{index}.png")
    out = tmp_path / "out"
    out.mkdir()
    arguments = (
        ["train", many, "-o", out / "m.onnx"]
        if command == "train"
        else ["predict", model, many, "-o", out / "results"]
    )
    process = subprocess.Popen(
        [*FRE, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_until_it_works(process)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 2
    assert stderr.splitlines() == ["fre: error: interrupted; no partial result is left behind"]
    assert not list(out.iterdir())
