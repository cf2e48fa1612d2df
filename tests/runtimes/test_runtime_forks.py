"""A forked child has the objects of its parent without their threads."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fre import FRE

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system can't fork")

RUNTIMES = [
    "onnxruntime",
    pytest.param(
        "openvino",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(
                importlib.util.find_spec("openvino") is None, reason="needs fre-vision[openvino]"
            ),
        ],
    ),
]

IN_CHILDREN = """
import gc, os, signal, sys
import numpy as np
from fre import load

images = [np.full((64, 64, 3), value, np.uint8) for value in range(100, 140, 5)]
model = load({path!r}, runtime={runtime!r}, threads={threads}, many={many})

def scores():
    alone = [model.predict(image).score for image in images[:2]]
    return alone + [p.score for p in model.predict_many(images)]

def equal(found, expected):
    # Sums depend in their last bits on which threads are awake.
    return np.allclose(found, expected, rtol=1e-5, atol=0)

if {used}:
    expected = scores()
for _ in range(2):
    child = os.fork()
    if not child:
        signal.alarm(60)  # ends a child that hangs
        found = scores()
        assert not {used} or equal(found, expected), (found, expected)
        del model
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
assert not {used} or equal(scores(), expected)
print("equal", flush=True)
os._exit(0)
"""


@pytest.fixture(scope="module")
def model(good_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FRE(size=64, frozen=True).fit(good_folder).save(tmp_path_factory.mktemp("m") / "m.onnx")


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("threads", "many"), [(0, True), (4, False)])
def test_forked_children_score_what_their_parent_scores(
    model: Path, runtime: str, threads: int, many: bool
) -> None:
    for used in (True, False):
        code = IN_CHILDREN.format(
            path=str(model), runtime=runtime, threads=threads, many=many, used=used
        )
        assert run(code) == "equal\n"


def test_what_can_not_go_on_in_a_child_says_what_to_do(model: Path) -> None:
    code = f"""
import os, signal, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from fre import load
from fre.parallel import in_order
from fre.runtimes.runtime import open_runtime

image = np.full((1, 64, 64, 3), 100, np.uint8)
runtime = open_runtime(load({str(model)!r}).data, ["score"], threads=2)
runtime.run(image)
pool = ThreadPoolExecutor(1)
begun = in_order(abs, range(9), workers=pool, ahead=1)
next(begun)
held = threading.Event()

def hold():  # as a worker may at the moment of the fork
    with pool._shutdown_lock:
        held.set()
        threading.Event().wait()

threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if not child:
    signal.alarm(60)
    for work in (lambda: runtime.run(image), lambda: list(begun)):
        try:
            work()
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
os._exit(0)
"""
    lines = run(code).splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("OptionError ")
        assert "get_context('spawn')" in line


def test_a_model_can_be_sent_to_a_child_that_is_spawned(model: Path, tmp_path: Path) -> None:
    script = tmp_path / "spawn.py"
    script.write_text(
        f"""
import multiprocessing
import numpy as np
from fre import load

IMAGE = np.full((64, 64, 3), 100, np.uint8)

def score(model):
    return model.predict(IMAGE).score

if __name__ == "__main__":
    model = load({str(model)!r}, threads=1)
    here = score(model)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(score, [model]) == here
    print("equal")
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.stdout == "equal\n", done.stderr
