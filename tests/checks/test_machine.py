"""`fre doctor`: facts about the machine, and what is wrong with it."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import onnxruntime
import pytest

from commands import fre
from fre.checks import machine
from fre.parallel import available_cores


def facts() -> dict[str, machine.Fact]:
    return {fact.name: fact for fact in machine.machine_facts()}


def test_the_facts_are_those_of_this_machine() -> None:
    found = facts()
    assert f"onnxruntime {onnxruntime.__version__}" in found["packages"].value
    assert found["cores"].value.split(",")[0] == str(available_cores())
    assert found["runtimes"].value.startswith("onnxruntime")
    installed = find_spec("kornia_rs") is not None
    assert found["PNG decoder"].value.startswith("kornia-rs" if installed else "Pillow")
    assert not any(fact.problem for fact in found.values())


def test_a_cache_that_cannot_be_written_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FRE_CACHE", str(tmp_path / "file" / "cache"))
    problem = facts()["cache"].problem
    assert problem is not None
    assert "set FRE_CACHE" in problem
    done = fre("doctor", "--no-test")
    assert done.returncode == 1
    assert "fre: cache: " in done.stderr


def test_a_full_disk_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LEAST_FREE", 1e18)
    assert "are free" in str(facts()["disk"].problem)


def test_cameras_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DEVICES", tmp_path)
    monkeypatch.setattr(machine.sys, "platform", "linux")
    assert facts()["cameras"].value == "no /dev/video*"
    (tmp_path / "video0").write_text("")
    assert facts()["cameras"].value == str(tmp_path / "video0")


def test_doctor_without_a_test_writes_json() -> None:
    done = fre("doctor", "--no-test", "--json", "-")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["problems"] == found["self_test"] == []
    assert "fre" in found["facts"]


@pytest.mark.slow
def test_doctor_tries_fre() -> None:
    done = fre("doctor")
    assert done.returncode == 0, (done.stdout, done.stderr)
    steps = [line.split()[:3] for line in done.stdout.splitlines()[-3:]]
    assert [" ".join(step) for step in steps] == [
        "draw images passed",
        "train passed " + steps[1][2],
        "find defects passed",
    ]
