"""Mutated images and model files, in a process of its own that can't take the tests with it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from serving import needs_serve

FUZZ = Path(__file__).with_name("fuzz.py")


def fuzz(images: int, requests: int, models: int, seed: int, limit: int) -> None:
    """Run the command; a hang ends by itself, and a crash has an exit code of its own."""
    counts = ["--images", images, "--requests", requests, "--models", models, "--seed", seed]
    command = [sys.executable, "-X", "faulthandler", str(FUZZ), *map(str, counts)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    wanted = {"images": images, "requests": requests, "models": models}
    found = re.findall(r"^(\w+): (\d+) cases$", run.stdout, re.MULTILINE)
    assert {what: int(n) for what, n in found} == wanted
    assert "predicted" in run.stdout
    assert "refused" in run.stdout


@needs_serve
def test_a_few_mutated_files_end_cleanly() -> None:
    fuzz(44, 15, 12, seed=7, limit=300)


@pytest.mark.slow
@needs_serve
def test_many_mutated_files_end_cleanly() -> None:
    fuzz(2000, 500, 300, seed=0, limit=300)  # half a minute on two cores
