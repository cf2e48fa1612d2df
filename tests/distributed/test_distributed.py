"""Training and scoring on a real Ray cluster: two nodes on this machine, one core each."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fre
from conftest import texture
from fre.distributed import Cluster, RayFit
from fre.errors import MissingDependencyError, OptionError

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None,
    reason="needs fre-vision[ray]",
)
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

SECONDS = 150
"""No command may take longer."""

SIZE = 64
N = 160
SHARD = 16
OBJECTS = 100_000_000


class Nodes:
    """A cluster of two nodes."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Processes

        node = {"num_cpus": 1, "object_store_memory": OBJECTS, "include_dashboard": False}
        self._processes = Processes(initialize_head=True, head_node_args=node)
        self._processes.add_node(num_cpus=1, object_store_memory=OBJECTS)
        self.address: str = self._processes.address

    def workers(self, doing: str) -> list[int]:
        """Processes of the cluster whose title holds some words."""
        raylets = {
            started.process.pid
            for node in self._processes.list_all_nodes()
            for started in node.all_processes.get("raylet", [])
        }
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    title = (entry / "cmdline").read_bytes().decode(errors="replace")
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:  # it has ended
                    continue
                if doing in title and parent in raylets:
                    found.append(int(entry.name))
        return found

    def stop(self) -> None:
        # A graceful end takes half a minute.
        for node in [*self._processes.worker_nodes, self._processes.head_node]:
            self._processes.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        # What the nodes are started with, their workers have.
        patch.setenv("PYTHONPATH", str(Path(fre.__file__).parents[1]))
        cluster = Nodes()
        yield cluster
        cluster.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed") / "good"
    folder.mkdir()
    for seed in range(N):
        Image.fromarray(texture(seed, (128, 128))).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> fre.Model:
    return fre.FRE(preset="default", size=SIZE, memory=1e-9).fit(folder)


@pytest.fixture(scope="module")
def model_file(model: fre.Model, folder: Path) -> Path:
    return model.save(folder.parent / "model.onnx")


@pytest.fixture(scope="module")
def incoming(folder: Path) -> Path:
    """A list of the good images, and one that is none, as the last of the third shard."""
    bad = folder.parent / "bad.png"
    bad.write_bytes(b"not an image")
    paths = [str(path) for path in sorted(folder.iterdir())]
    paths.insert(3 * SHARD - 1, "bad.png")
    file = folder.parent / "incoming.txt"
    file.write_text("\n".join(paths))
    return file


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "fre", *map(str, arguments)]


def run(*arguments: object, code: int = 0) -> dict[str, Any]:
    """The JSON that the command prints."""
    done = subprocess.run(
        command(*arguments, "--json", "-"),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert ".cc:" not in done.stderr, "nobody can make anything of Ray's own doings"
    printed = done.stdout
    result: dict[str, Any] = json.loads(printed[printed.index("{") :])
    return result


def refusal(*arguments: object) -> str:
    """The error of a command that the user is to blame for."""
    done = subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 2, done.stderr
    assert ".cc:" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("fre: error:")]
    return line


class Killer:
    """Kills the first worker that is seen at some work."""

    def __init__(self, nodes: Nodes, work: str) -> None:
        self._nodes = nodes
        self._work = f"({work})).submit"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.killed: int | None = None

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            for process in self._nodes.workers(self._work):
                os.kill(process, signal.SIGKILL)
                self.killed = process
                return


def same_model(one: fre.Model, other: fre.Model, images: list[Path]) -> None:
    """Equal but for rounding: sums in another order, in float64, of features in float32."""
    first, second = one.metadata, other.metadata
    assert first["provenance"]["images_sha256"] == second["provenance"]["images_sha256"]
    assert first["provenance"]["n_images"] == second["provenance"]["n_images"]
    assert [part["rank"] for part in first["subspaces"]] == [
        part["rank"] for part in second["subspaces"]
    ]
    np.testing.assert_allclose(one.calibration.scores, other.calibration.scores, atol=1e-3)
    assert one.threshold == pytest.approx(other.threshold, rel=1e-4)
    for image in images:
        mine, theirs = one.predict(image), other.predict(image)
        assert mine.score == pytest.approx(theirs.score, rel=1e-4, abs=1e-4)
        np.testing.assert_allclose(mine.anomaly_map, theirs.anomaly_map, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@needs_ray
def test_the_model_is_that_of_one_process_though_a_worker_is_killed(
    nodes: Nodes, folder: Path, model: fre.Model, tmp_path: Path
) -> None:
    file = tmp_path / "m.onnx"
    with Killer(nodes, "Learning") as killer:
        result = run(
            *("train", folder, "-o", file, "--preset", "default", "--size", SIZE),
            *("--engine", "ray", "--address", nodes.address),
        )
    assert killer.killed is not None
    assert result["n_images"] == N
    same_model(fre.load(file), model, sorted(folder.iterdir())[:10])


@pytest.mark.slow
@needs_ray
def test_the_reference_is_that_of_one_process_and_unreadable_images_are_left_out(
    nodes: Nodes, folder: Path, incoming: Path, tmp_path: Path
) -> None:
    files = sorted(folder.iterdir())[:48]
    good, file = tmp_path / "good", tmp_path / "m.onnx"
    good.mkdir()
    for image in [folder.parent / "bad.png", *files]:
        (good / image.name).symlink_to(image)
    arguments = (
        *("train", good, "-o", file, "--preset", "reference", "--size", SIZE),
        *("--backbone", "efficientnet_lite0", "--subspace", "pca"),
        *("--engine", "ray", "--address", nodes.address),
    )
    with Killer(nodes, "HoldingOut") as killer:
        result = run(*arguments, "--skip-unreadable")
    assert killer.killed is not None
    assert (result["n_images"], result["n_skipped"]) == (48, 1)
    detector = fre.FRE(
        "efficientnet_lite0", preset="reference", subspace="pca", size=SIZE, memory=1e-9
    )
    alone = detector.fit(good, skip_unreadable=True)
    same_model(fre.load(file), alone, files[:5])
    assert "bad.png: not a readable image" in refusal(*arguments)


@pytest.mark.slow
@needs_ray
def test_every_image_has_one_line_though_a_worker_is_killed_and_an_image_is_bad(
    nodes: Nodes, model_file: Path, incoming: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = (
        *("predict", model_file, f"@{incoming}", "-o", output, "--shard-size", SHARD),
        *("--engine", "ray", "--address", nodes.address),
    )
    with Killer(nodes, "Scorer") as killer:
        result = run(*arguments, code=2)
    assert killer.killed is not None
    assert (result["n_images"], result["n_errors"]) == (N + 1, 1)
    assert (result["n_shards"], result["n_found"]) == (11, 0)

    wanted = one_process(model_file, incoming)
    shards = sorted(output.glob("part-*"))
    assert [shard.name for shard in shards] == [f"part-{n:07d}.jsonl" for n in range(11)]
    assert not list(output.glob(".*")), "nothing half-written is left"
    lines = [json.loads(line) for shard in shards for line in shard.read_text().splitlines()]
    assert_same_lines(lines, wanted)
    assert len(shards[2].read_text().splitlines()) == SHARD
    assert sum("error" in line for line in lines) == 1

    # Once more: what is there is kept; what is missing or cut short is done again.
    before = {shard: (shard.stat().st_mtime_ns, shard.read_bytes()) for shard in shards}
    shards[0].unlink()
    shards[4].write_bytes(before[shards[4]][1][:-100])
    result = run(*arguments, code=2)
    assert (result["n_images"], result["n_errors"], result["n_found"]) == (N + 1, 1, 9)
    for number, shard in enumerate(shards):
        assert shard.read_bytes() == before[shard][1]
        assert (shard.stat().st_mtime_ns == before[shard][0]) == (number not in (0, 4))


@pytest.mark.slow
@needs_ray
def test_a_run_that_was_killed_goes_on_with_the_list_that_it_had(
    nodes: Nodes, model_file: Path, folder: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for file in folder.iterdir():
        (images / file.name).symlink_to(file)
    output = tmp_path / "out"
    arguments = (
        *("predict", model_file, images, "-o", output, "--shard-size", SHARD),
        *("--engine", "ray", "--address", nodes.address, "--format", "parquet"),
    )
    started = subprocess.Popen(command(*arguments), stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + SECONDS
        while not list(output.glob("part-*")):
            assert time.monotonic() < until
            assert started.poll() is None
            time.sleep(0.01)
    finally:
        started.kill()
        started.wait()
    # An image more would shift all after it into other shards.
    (images / "0a.png").symlink_to(folder / "0.png")
    result = run(*arguments)
    assert result["n_images"] == N
    assert 1 <= result["n_found"] < result["n_shards"] == 10

    import pyarrow.parquet as pq

    rows = [
        row for part in sorted(output.glob("part-*")) for row in pq.read_table(part).to_pylist()
    ]
    names = [Path(row["path"]).name for row in rows]
    assert names == [f"{number}.png" for number in range(N)]
    results = list(fre.load(model_file).predict_many(folder))
    for row, wanted in zip(rows, results, strict=True):
        assert row["error"] is None
        assert row["score"] == pytest.approx(wanted.score, rel=1e-4, abs=1e-4)
        assert row["anomalous"] == wanted.anomalous
        assert len(row["regions"]) == len(wanted.regions)

    shards_of_seven = (*arguments[:5], *arguments[7:], "--shard-size", 7)
    assert "another run, whose shard_size is 16 and not 7" in refusal(*shards_of_seven)


@pytest.mark.slow
@needs_ray
def test_errors_of_workers_are_told_as_what_they_are(
    nodes: Nodes, model_file: Path, folder: Path, tmp_path: Path
) -> None:
    def predict(images: Path, address: str, *more: object) -> str:
        where = ("-o", tmp_path / "out", "--engine", "ray", "--address", address)
        return refusal("predict", model_file, images, *where, *more)

    assert predict(tmp_path / "nowhere", nodes.address).endswith("nowhere: no such file or folder")
    assert "more than the cluster's 2 cores" in predict(folder, nodes.address, "--workers", 3)
    assert "no Ray cluster at 127.0.0.1:1" in predict(folder, "127.0.0.1:1")


def one_process(model_file: Path, listed: Path) -> list[dict[str, Any]]:
    paths = [listed.parent / line for line in listed.read_text().splitlines()]
    model = fre.load(model_file)
    results = model.predict_many(paths, errors="return")
    return [
        {"path": str(path), "error": result.reason}
        if isinstance(result, fre.ImageError)
        else result.to_dict()
        for path, result in zip(paths, results, strict=True)
    ]


def assert_same_lines(lines: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert [line["path"] for line in lines] == [line["path"] for line in wanted]
    for line, other in zip(lines, wanted, strict=True):
        assert line.keys() == other.keys()
        if "error" in other:
            assert line == other
        else:
            assert line["score"] == pytest.approx(other["score"], rel=1e-4, abs=1e-4)
            assert line["p_value"] == pytest.approx(other["p_value"], abs=0.02)
            assert len(line["regions"]) == len(other["regions"])


def test_without_ray_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, good_folder: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'fre-vision\[ray\]'"):
        fre.FRE(size=SIZE).fit(good_folder, stream=RayFit(Cluster()))


def test_ray_is_not_imported_unless_it_is_asked_for() -> None:
    code = "import sys, fre.distributed, fre.cli.predict; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_options_of_ray_need_ray(good_folder: Path) -> None:
    done = subprocess.run(
        command("predict", "m.onnx", good_folder, "--shard-size", 5, "--address", "auto"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "--address and --shard-size can be given with --engine ray only" in done.stderr


def test_an_autoencoder_is_refused(good_folder: Path) -> None:
    detector = fre.FRE("efficientnet_lite0", subspace=fre.Autoencoder(), size=SIZE)
    with pytest.raises(OptionError, match="can't be trained on several machines"):
        detector.fit(good_folder, stream=RayFit(Cluster()))


@needs_ray
def test_arrays_are_refused() -> None:
    images = [texture(seed) for seed in range(3)]
    with pytest.raises(OptionError, match="needs image files, not arrays"):
        fre.FRE(size=SIZE).fit(images, stream=RayFit(Cluster()))
