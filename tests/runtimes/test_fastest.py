"""The runtime `auto`: the faster one, found out once; and runtimes that are not there."""

from __future__ import annotations

import importlib.util
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from commands import fre
from fre import FRE, load
from fre.cli.common import RUNTIMES as CLI_RUNTIMES
from fre.errors import FREWarning, InternalError, OptionError
from fre.runtimes import fastest as choice
from fre.runtimes.lanes import Sharing
from fre.runtimes.runtime import RUNTIMES, _Lanes, available_runtimes, open_runtime


class Fake:
    """A runtime that takes as long as it is told, by a clock that it moves itself."""

    clock = 0.0

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.seconds, self.runs = name, seconds, 0

    def run(self, *_: Any) -> list[np.ndarray]:
        self.runs += 1
        Fake.clock += self.seconds
        return []


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two runtimes, whose speed a test sets; an exception in its place is raised by opening."""
    speeds: dict[str, Any] = {"onnxruntime": 0.010, "openvino": 0.008}
    opened: list[str] = []

    def open_fake(model: bytes, outputs: list[str], *, runtime: str, **_: Any) -> Fake:
        opened.append(runtime)
        if isinstance(speeds[runtime], Exception):
            raise speeds[runtime]
        return Fake(runtime, speeds[runtime])

    monkeypatch.setenv("FRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "available_runtimes", lambda: list(speeds))
    monkeypatch.setattr(choice, "open_runtime", open_fake)
    monkeypatch.setattr(choice.time, "perf_counter", lambda: Fake.clock)
    return {"speeds": speeds, "opened": opened, "cache": tmp_path / "cache" / "runtimes"}


def chosen(digest: str = "a", threads: int = 0) -> Fake:
    runtime = choice.fastest_runtime(b"", ["score"], [None], digest=digest, threads=threads)
    assert isinstance(runtime, Fake)
    return runtime


def test_the_faster_runtime_is_chosen_within_a_second(machine: dict[str, Any]) -> None:
    before = Fake.clock
    assert chosen().name == "openvino"
    assert Fake.clock - before < 0.5
    machine["speeds"]["openvino"] = 0.0099
    assert chosen("b").name == "onnxruntime", "less than the margin is no reason to leave the base"


def test_slow_models_are_run_a_few_times_only(machine: dict[str, Any]) -> None:
    machine["speeds"].update(onnxruntime=2.0, openvino=1.0)
    runtime = chosen()
    assert (runtime.name, runtime.runs) == ("openvino", 1 + choice.ROUNDS[0])


def test_a_decision_is_remembered_for_the_model_and_its_threads(machine: dict[str, Any]) -> None:
    chosen()
    machine["opened"].clear()
    runtime = chosen()
    assert (machine["opened"], runtime.runs) == (["openvino"], 0)
    chosen("other")
    chosen(threads=1)
    assert machine["opened"] == ["openvino", *["onnxruntime", "openvino"] * 2]
    assert len(list(machine["cache"].iterdir())) == 3


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"runtime": "teapot"}', b"\xff"])
def test_a_damaged_memory_is_made_anew(machine: dict[str, Any], damage: bytes) -> None:
    chosen()
    (file,) = machine["cache"].iterdir()
    file.write_bytes(damage)
    assert chosen().name == "openvino"
    assert json.loads(file.read_bytes())["runtime"] == "openvino"


def test_a_runtime_that_fails_is_left_out(machine: dict[str, Any]) -> None:
    chosen()
    machine["speeds"]["openvino"] = RuntimeError("no such instruction")
    with pytest.warns(FREWarning, match="openvino can't run .*: no such instruction"):
        assert chosen().name == "onnxruntime", "it was remembered, and does not load any more"
    machine["speeds"]["onnxruntime"] = InternalError("broken")
    with (
        pytest.warns(FREWarning, match="onnxruntime can't run this model, .*: broken"),
        pytest.raises(RuntimeError, match="no such instruction"),
    ):
        chosen("b")


def test_a_cache_that_cannot_be_written_is_no_error(machine: dict[str, Any]) -> None:
    machine["cache"].parent.write_text("a file where the folder should be")
    assert chosen().name == "openvino"


def test_nothing_is_measured_where_there_is_no_choice(machine: dict[str, Any]) -> None:
    del machine["speeds"]["openvino"]
    assert chosen().runs == 0
    assert not machine["cache"].exists()


@pytest.mark.parametrize("per_tile", [False, True])
def test_auto_scores_as_the_runtime_that_it_chooses(
    per_tile: bool, good_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRE_CACHE", str(tmp_path))
    tiles: dict[str, Any] = {"tile": 64, "overlap": 16, "per_tile": True} if per_tile else {}
    path = FRE(**(tiles or {"size": 64})).fit(good_folder).save(tmp_path / "m.onnx")
    image = next(good_folder.iterdir())
    auto = load(path, runtime="auto")
    score = auto.predict(image).score
    assert auto._runtime_for(1).name in ("onnxruntime", "openvino")
    assert score == load(path, runtime=auto._runtime_for(1).name).predict(image).score
    measured = importlib.util.find_spec("openvino") is not None
    assert len(list(tmp_path.glob("runtimes/*.json"))) == measured


def test_a_provider_that_is_not_there_is_one_error(good_folder: Path, tmp_path: Path) -> None:
    absent = [name for name in ("cuda", "coreml", "directml") if name not in available_runtimes()]
    path = FRE(size=64).fit(good_folder).save(tmp_path / "m.onnx")
    for name in absent:
        with pytest.raises(OptionError, match=f"the runtime {name} .* choose from: onnxruntime"):
            open_runtime(path.read_bytes(), ["score"], runtime=name)
    done = fre("predict", path, good_folder, "--runtime", absent[0])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"the runtime {absent[0]} is not available" in done.stderr


def test_the_command_line_offers_every_runtime(good_folder: Path, tmp_path: Path) -> None:
    assert set(CLI_RUNTIMES) == {choice.AUTO, *RUNTIMES}
    path = FRE(size=64).fit(good_folder).save(tmp_path / "m.onnx")
    done = fre("predict", path, good_folder, "--runtime", "auto")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(list(good_folder.iterdir()))


def test_the_first_call_decides_how_cores_are_used(
    good_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fre.runtimes.runtime.available_cores", lambda: 2)
    path = FRE(size=64).fit(good_folder).save(tmp_path / "m.onnx")
    files = sorted(good_folder.iterdir())
    one, many = load(path), load(path, many=True)
    scores = [[one.predict(file).score for file in files]]
    scores.append([p.score for p in many.predict_many(files, batch_size=1)])
    assert scores[0] == scores[1]
    key, duration = "session.intra_op.allow_spinning", "session.intra_op.spin_duration_us"
    settings = many._for_many.lane._session.get_session_options()
    assert settings.get_session_config_entry(key) == "0"
    assert settings.intra_op_num_threads == 1
    many.predict(files[0])
    many.predict(files[0])
    for runtime in (one._for_one, many._for_many._alone):
        settings = runtime._session.get_session_options()
        # Without a limit, idle threads would keep a core busy long after each image.
        assert 0 < int(settings.get_session_config_entry(duration)) < 1000
        with pytest.raises(RuntimeError, match=key):
            settings.get_session_config_entry(key)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("cores", "threads"), [(1, 0), (2, 0), (3, 0), (16, 0), (8, 1), (8, 3)])
def test_a_batch_is_the_same_however_it_is_divided(
    runtime: str, cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime == "openvino":
        pytest.importorskip("openvino", reason="needs fre-vision[openvino]")
    monkeypatch.setattr("fre.runtimes.runtime.available_cores", lambda: cores)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["x", "axes"], ["sum"], keepdims=0),
            helper.make_node("Add", ["sum", "tile"], ["y"]),
        ],
        "sums",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("tile", TensorProto.FLOAT, ["N"]),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N"]) for name in ("y", "sum")],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    opened = open_runtime(
        model.SerializeToString(), ["y", "sum"], runtime=runtime, threads=threads, many=True
    )
    assert opened.name == runtime
    for n in (1, 1, 2, 7, 33, 1):
        x = np.random.default_rng(n).normal(size=(n, 3)).astype(np.float32)
        tile = np.arange(n, dtype=np.float32)
        y, sums = opened.run(x, tile)
        assert sums == pytest.approx(x.sum(axis=1), abs=1e-6)
        assert y == pytest.approx(x.sum(axis=1) + tile, abs=1e-6)
        places = [np.full(n + 2, -1, np.float32)[1:-1] for _ in range(2)]
        written = opened.run(x, tile, places)
        for array, place, found in zip(written, places, (y, sums), strict=True):
            assert array is place
            assert np.array_equal(place, found)
            assert place.base is not None
            assert place.base[[0, -1]].tolist() == [-1, -1]


def test_an_error_in_one_part_of_a_batch_is_an_error() -> None:
    class Picky:
        name, lane, at_once, cores = "onnxruntime", None, 1, 1

        def run(self, images: Any, tiles: Any = None, out: Any = None) -> list[Any]:
            if images.max() > 5:
                raise ValueError("too bright")
            return [images]

    lanes = _Lanes(Sharing.of(2), Picky(), Picky)
    assert lanes.run(np.arange(6))[0].tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ValueError, match="too bright"):
        lanes.run(np.arange(7))
    assert lanes.run(np.arange(2))[0].tolist() == [0, 1]


def test_the_model_is_opened_for_single_images_once_they_recur() -> None:
    class Counted:
        name, lane, at_once, cores = "onnxruntime", None, 1, 1
        opened = 0

        def __init__(self) -> None:
            type(self).opened += 1

        def run(self, images: Any, tiles: Any = None, out: Any = None) -> list[Any]:
            return [images]

    lanes = _Lanes(Sharing.of(2), Counted(), Counted)
    image = np.zeros(1)
    for images in (np.zeros(8), image, np.zeros(8), image):
        lanes.run(images)
    assert Counted.opened == 1  # the last image of a batch is no reason
    for _ in range(3):
        lanes.run(image)
    assert Counted.opened == 2


def test_a_single_image_beside_another_run_takes_one_core() -> None:
    begun, release = threading.Event(), threading.Event()

    class Slow:
        name, lane, at_once, cores = "onnxruntime", None, 1, 1

        def run(self, images: Any, tiles: Any = None, out: Any = None) -> list[Any]:
            begun.set()
            assert len(images) == 1 or release.wait(30)
            return [images]

    class Alone(Slow):
        def run(self, images: Any, tiles: Any = None, out: Any = None) -> list[Any]:
            return ["on all cores"]

    lanes, image = _Lanes(Sharing.of(3), Slow(), Alone), np.zeros(1)
    lanes.run(image)
    assert lanes.run(image) == ["on all cores"]
    with ThreadPoolExecutor(1) as other:
        batch = other.submit(lanes.run, np.zeros(4))  # on two of the three cores
        assert begun.wait(30)
        assert lanes.run(image)[0] == image
        release.set()
        batch.result(30)
    lanes.run(image)
    assert lanes.run(image) == ["on all cores"]
