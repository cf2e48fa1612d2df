"""How runs share the cores: in numbers for many cores, and for real on one and two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fre.parallel import _quota
from fre.runtimes.lanes import BATCH, Sharing

REPORT = """
from fre.backbones import get_backbone
from fre.features.extractor import FeatureExtractor
from fre.images.geometry import Geometry
from fre.images.preparation import Preparation
runner = FeatureExtractor(get_backbone(), "blocks.2", Preparation(Geometry((32, 32))))
settings = runner._runtime.lane._session if runner.lanes > 1 else runner._runtime._session
print(runner.cores, runner.lanes, settings.get_session_options().intra_op_num_threads)
"""


@pytest.mark.parametrize(
    ("cores", "lanes", "threads", "batches"),
    [(1, 1, 1, 2), (2, 2, 1, 2), (4, 4, 1, 2), (8, 8, 1, 2), (16, 16, 1, 3), (64, 32, 33, 5)],
)
def test_cores_are_lanes_and_those_beyond_help(
    cores: int, lanes: int, threads: int, batches: int
) -> None:
    assert Sharing.of(cores) == Sharing(cores, lanes, threads, batches)


def test_cores_are_never_idle() -> None:
    for cores in range(1, 65):
        sharing = Sharing.of(cores)
        assert sharing.lanes + sharing.threads - 1 == cores
        assert sharing.batches * BATCH >= sharing.lanes + BATCH


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is of Linux")
@pytest.mark.parametrize("cores", [1, 2])
def test_the_cores_of_a_process_decide(cores: int) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < cores:
        pytest.skip(f"this machine has {len(allowed)} cores")
    mask = f"import os; os.sched_setaffinity(0, {allowed[:cores]})"
    done = subprocess.run(
        [sys.executable, "-c", f"{mask}\n{REPORT}"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(cores), str(cores), "1"]


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", sys.maxsize), ("200000 100000\n", 2), ("150000 100000\n", 2)],
)
def test_a_container_has_as_many_cores_as_its_quota(text: str, cores: int, tmp_path: Path) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(text)
    assert _quota(file) == cores
    assert _quota(tmp_path / "none") == sys.maxsize
