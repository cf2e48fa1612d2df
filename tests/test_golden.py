"""What fre makes of small fixed images stays what tests/golden.json says: see tests/golden.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

import golden
from golden import CASES, COMMANDS, EXPECTED

TOLERANCE = 2e-3
"""Relative. Other kernels of a linear-algebra library moved scores by up to 3e-4 of the largest."""


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return dict(json.loads(EXPECTED.read_text()))


@pytest.fixture(scope="module", autouse=True)
def _reproducible() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in golden.EPOCH.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> golden.Data:
    return golden.draw(tmp_path_factory.mktemp("golden"))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


def assert_same(name: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
    made = golden.portable(name, found)
    unlike = list(golden.differences(expected[name], made, name, tolerance=TOLERANCE))
    assert not unlike, "\n".join([*unlike[:20], "if it is meant: python tests/golden.py expect"])


QUICK = ["default", "reference", "updated", "train", "info", "predict", "evaluate"]
"""Cases and commands that each run of the tests has; the others are slow."""


def parameters(names: dict[str, Any]) -> list[Any]:
    marks = {name: [] if name in QUICK else [pytest.mark.slow] for name in names}
    return [pytest.param(name, marks=marks[name]) for name in names]


@pytest.mark.parametrize("name", parameters(CASES))
def test_models_and_predictions_stay(
    name: str, data: golden.Data, tmp_path: Path, expected: dict[str, Any]
) -> None:
    needed = CASES[name].needs
    if golden.lacking(name):
        pytest.skip(f"needs fre-vision[{needed}]")
    assert_same(name, expected, golden.run_case(name, data, tmp_path))


@pytest.fixture(scope="module")
def ran() -> dict[str, Any]:
    """The records of the commands so far."""
    return {}


@pytest.mark.parametrize("name", parameters(COMMANDS))
def test_the_json_of_commands_stays(
    name: str, data: golden.Data, out: Path, expected: dict[str, Any], ran: dict[str, Any]
) -> None:
    before = takewhile(lambda each: each != name, COMMANDS)
    for each in [*(each for each in before if not COMMANDS[each].slow), name]:
        if each not in ran:
            ran[each] = golden.run_command(each, data, out)
    assert_same(name, expected, ran[name])


def test_every_case_is_expected(expected: dict[str, Any]) -> None:
    assert list(expected) == [*CASES, *COMMANDS]


def test_differences_are_found() -> None:
    old = {"a": {"b": [1.0, 2.0]}, "n": 3, "s": "x"}
    new = {"a": {"b": [1.0, 2.1]}, "n": 4, "t": "x"}
    found = list(golden.differences(old, new, "case", tolerance=1e-3))
    assert found == [
        "case.a.b[1]: 2.0 -> 2.1",
        "case.n: 3 -> 4",
        "case.s is gone",
        "case.t is new",
    ]
    ignore = ["b", "case.n", "s", "t"]
    assert not list(golden.differences(old, new, "case", ignore=ignore))
    near = {**old, "a": {"b": [1.001, 2.0]}}
    assert not list(golden.differences(old, near, "case", tolerance=1e-3))
    assert list(golden.differences(old, near, "case"))
