"""`fre selftest` and `fre doctor`: pass on a sound installation, fail on another."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from commands import fre
from fre.checks import selftest
from fre.checks.selftest import SERVE_NEEDS, self_test
from fre.model import Model

HAS = {
    "openvino": importlib.util.find_spec("openvino") is not None,
    "serve": all(importlib.util.find_spec(name) for name in SERVE_NEEDS),
}


@pytest.mark.slow
def test_a_sound_installation_passes() -> None:
    done = fre("selftest", "--json", "-")
    assert done.returncode == 0, (done.stdout, done.stderr)
    outcomes = {step["name"]: step["outcome"] for step in json.loads(done.stdout)["steps"]}
    assert outcomes == {
        "draw images": "passed",
        "train": "passed",
        "find defects": "passed",
        "save and load": "passed",
        "update": "passed",
        "compare runtimes": "passed" if HAS["openvino"] else "skipped",
        "serve": "passed" if HAS["serve"] else "skipped",
    }


@pytest.mark.slow
def test_scores_that_change_fail_the_test_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runtime that computes something else after the model is loaded again."""
    true_load = selftest.load

    def load(path: Path) -> Model:
        model = true_load(path)
        model._for_one.run = (  # type: ignore[method-assign]
            lambda *given, run=model._for_one.run: [one + np.float32(1) for one in run(*given)]
        )
        return model

    monkeypatch.setattr(selftest, "load", load)
    *_, last = self_test(tmp_path)
    assert (last.name, last.outcome) == ("save and load", "failed")
    assert "scores of the saved model differ by" in last.detail
    monkeypatch.setattr(selftest, "SIZE", 64)
    done = fre("selftest")
    assert done.returncode == 1
    assert "fre: the self test failed: " in done.stderr
