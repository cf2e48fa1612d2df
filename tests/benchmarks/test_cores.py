"""The model of cores: more of them are never slower, and no other sharing is faster."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fre.runtimes.lanes import MOST_LANES, Sharing

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def work() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        cores = importlib.import_module("cores")
        yield cores.Work(run=9e-3, decode=1e-3, interpreter=3e-4, parallel=0.9)


def test_more_cores_are_never_slower(work: Any) -> None:
    rates = [work.images_per_second(Sharing.of(cores)) for cores in range(1, 65)]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(1 / (9e-3 + 1e-3 + 3e-4))
    assert rates[7] == pytest.approx(8 * rates[0])
    assert max(rates) <= 1 / work.interpreter


def test_a_lane_for_each_core_is_as_fast_as_any_other_sharing(work: Any) -> None:
    for cores in (2, 4, 8, 16, MOST_LANES):
        best = work.images_per_second(Sharing.of(cores))
        for lanes in range(1, cores):
            other = Sharing(cores, lanes, 1 + cores - lanes, 2)
            assert work.images_per_second(other) <= best * (1 + 1e-9)
