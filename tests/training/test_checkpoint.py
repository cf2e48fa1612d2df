"""Training whose features are not all held: the same model, in the same memory, after any kill."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import texture
from fre import FRE, Method, Model
from fre.benchmark.memory import peak_memory
from fre.errors import DatasetError, FREWarning, ImageError
from fre.subspaces.image_statistics import ImageStatistics
from fre.training.fitted import FittedDetector
from fre.training.streamed import CHUNK
from fre.training.update import Rebuilt

SIZE = 32
TINY = 1e-5
"""Gigabytes: less than the features of two images."""
N_IMAGES = 1500
"""Six chunks of 256, between which checkpoints are written."""


def detector(**parameters: Any) -> FRE:
    given = {"preset": "default", "size": SIZE, "memory": TINY} | parameters
    return FRE("efficientnet_lite0", **given)


def repeated(folder: Path, n: int) -> Path:
    """A folder of n files, of eight different images."""
    folder.mkdir(parents=True)
    for seed in range(8):
        Image.fromarray(texture(seed, (SIZE, SIZE))).save(folder / f"{seed:05d}.png")
    for index in range(8, n):
        os.link(folder / f"{index % 8:05d}.png", folder / f"{index:05d}.png")
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repeated(tmp_path_factory.mktemp("many") / "good", N_IMAGES)


def fitted(model: Model) -> FittedDetector:
    return Rebuilt.of(model, threads=1).fitted


def scores(model: Model) -> np.ndarray:
    return np.array([model.predict(texture(seed, (SIZE, SIZE))).score for seed in range(50, 56)])


# Fewer images than folds, and more.
@pytest.mark.parametrize(
    ("n", "parameters"),
    [
        *[
            (n, parameters)
            for n in (9, 24)
            for parameters in (
                {},
                {"preset": "reference"},
                {"method": Method(scope="patch")},
                {"method": Method(rank=16)},
            )
        ],
        (9, {"augment": 2}),
        (24, {"augment": 1}),
    ],
    ids=str,
)
def test_it_is_the_training_that_holds_all_features(n: int, parameters: dict[str, Any]) -> None:
    """Below the capacity, scores and thresholds are equal but for rounding."""
    images = [texture(seed, (SIZE, SIZE)) for seed in range(n)]
    streamed = detector(**parameters, memory=1e-6).fit(images)
    held = detector(**parameters, memory=2.0).fit(images)
    assert streamed.metadata["provenance"]["calibration_images"] == n
    assert "calibration_images" not in held.metadata["provenance"]
    ours, theirs = fitted(streamed), fitted(held)
    for one, other in zip(ours.parts, theirs.parts, strict=True):
        assert one.part.name == other.part.name
        a, b = one.statistics, other.statistics
        assert a is not None
        assert b is not None
        assert a.n == b.n == n * (1 + parameters.get("augment", 0))
        if isinstance(a, ImageStatistics):
            assert isinstance(b, ImageStatistics)
            k = min(a.fit().rank, b.fit().rank)
            A, B = a.basis[:, :k], b.basis[:, :k]
            assert np.linalg.norm(A - B @ (B.T @ A), 2) < 1e-3
    np.testing.assert_array_equal(ours.fold, theirs.fold)
    largest = np.abs(held.calibration.scores).max()
    close: dict[str, Any] = {"rtol": 1e-6, "atol": 1e-6 * largest}
    np.testing.assert_allclose(streamed.threshold, held.threshold, **close)
    np.testing.assert_allclose(streamed.calibration.scores, held.calibration.scores, **close)
    np.testing.assert_allclose(scores(streamed), scores(held), **close)


@pytest.mark.slow
def test_a_streamed_model_learns_more(many: Path) -> None:
    images = sorted(many.iterdir())[:20]
    model = detector().fit(images)
    grown = model.update([texture(60, (SIZE, SIZE))], accept_anomalous=True)
    assert grown.metadata["provenance"]["n_images"] == 21
    frozen = detector(frozen=True).fit(images)
    assert "learning" not in frozen.metadata
    np.testing.assert_array_equal(scores(frozen), scores(model))


def test_images_that_cannot_be_read(many: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"not an image")
    images = [*sorted(many.iterdir())[:4], broken]
    with pytest.raises(ImageError, match=r"broken\.png"):
        detector().fit(images)
    kept = detector()
    model = kept.fit(images, skip_unreadable=True)
    assert model.metadata["provenance"]["n_images"] == 4
    assert [str(error.path) for error in kept.skipped_] == [str(broken)]
    with pytest.raises(DatasetError, match="3 good images"):
        detector().fit(images[3:], skip_unreadable=True)


def test_what_must_hold_all_features_is_refused(many: Path) -> None:
    with pytest.raises(DatasetError, match="can't be trained without holding all features"):
        detector(per_tile=True, tile=32, overlap=0, size=(64, 64)).fit(many)


# Through the command line, in processes that are killed

ENVIRONMENT = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}


def command(data: Path, output: Path, *options: object) -> list[str]:
    return [
        *(sys.executable, "-m", "fre", "train", str(data), "-o", str(output)),
        *("--size", str(SIZE), "--memory", str(TINY), "--checkpoint-every", "0"),
        *map(str, options),
    ]


def run(data: Path, output: Path, *options: object) -> bytes:
    done = subprocess.run(
        command(data, output, *options),
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return output.read_bytes()


def consumed(checkpoint: Path) -> int:
    """Images that a checkpoint has absorbed."""
    if not checkpoint.exists():
        return 0
    with np.load(checkpoint, allow_pickle=False) as stored:
        count: int = json.loads(str(stored["notes"]))["consumed"]
        return count


@pytest.fixture(scope="module")
def uninterrupted(many: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return run(many, tmp_path_factory.mktemp("whole") / "m.onnx")


@pytest.mark.slow
def test_five_kills_at_random_points_change_nothing(tmp_path: Path) -> None:
    n = 6000
    many = repeated(tmp_path / "good", n)
    started = time.monotonic()
    uninterrupted = run(many, tmp_path / "whole.onnx")
    # A run that is killed is then one to three chunks further than the one before, of 24,
    # however fast the machine.
    chunk = (time.monotonic() - started) * CHUNK / n
    output = tmp_path / "killed" / "m.onnx"
    output.parent.mkdir()
    checkpoint = output.with_name("m.onnx.partial")
    rng = np.random.default_rng()
    progress = [0]
    for _ in range(5):
        process = subprocess.Popen(
            command(many, output),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        # Not before it has come further, or killing it for ever would be no test of anything.
        deadline = time.monotonic() + 120
        while consumed(checkpoint) <= progress[-1] and time.monotonic() < deadline:
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        time.sleep(float(rng.uniform(0, chunk)))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        progress.append(consumed(checkpoint))
    assert progress == sorted(set(progress)), "each run has gone on from the one before"
    assert not output.exists()
    assert run(many, output) == uninterrupted
    assert [path.name for path in output.parent.iterdir()] == ["m.onnx"]


def killed_at_the_first_checkpoint(data: Path, output: Path, *options: object) -> bytes:
    """The checkpoint that is left."""
    checkpoint = output.with_name(f"{output.name}.partial")
    process = subprocess.Popen(
        command(data, output, *options), stderr=subprocess.DEVNULL, env=ENVIRONMENT
    )
    while consumed(checkpoint) == 0:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return checkpoint.read_bytes()


def without_the_last_array(checkpoint: bytes) -> bytes:
    with np.load(io.BytesIO(checkpoint), allow_pickle=False) as stored:
        arrays = dict(stored)
    arrays.pop(next(reversed(arrays)))
    damaged = io.BytesIO()
    np.savez(damaged, **arrays)
    return damaged.getvalue()


@pytest.mark.slow
def test_a_checkpoint_that_is_damaged_or_of_another_training_is_not_used(
    many: Path, uninterrupted: bytes, tmp_path: Path
) -> None:
    output, checkpoint = tmp_path / "m.onnx", tmp_path / "m.onnx.partial"
    foreign = killed_at_the_first_checkpoint(many, output, "--seed", 7)
    assert run(many, output) == uninterrupted
    output.unlink()
    own = killed_at_the_first_checkpoint(many, output)
    half = foreign[: len(foreign) // 2]
    for damaged in (half, b"", b"something else", without_the_last_array(own)):
        checkpoint.write_bytes(damaged)
        assert run(many, output) == uninterrupted
        assert not checkpoint.exists()
        assert output.with_name("m.onnx.partial.damaged").read_bytes() == damaged


def archive(notes: object = "[" * 100_000) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, notes=np.array(notes))
    return buffer.getvalue()


def changed(data: bytes, place: int, value: int) -> bytes:
    """An archive with another byte in its only entry of the directory."""
    copy = bytearray(data)
    copy[data.rindex(b"PK\x01\x02") + place] = value
    return bytes(copy)


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(archive(), id="nested JSON"),
        pytest.param(archive({"notes": 1}), id="a pickle"),
        pytest.param(archive("[]"), id="no object"),
        pytest.param(changed(archive(), 10, 99), id="unknown compression"),
        pytest.param(changed(archive(), 10, 14), id="wrong compression"),
        pytest.param(changed(archive(), 8, 1), id="encrypted"),
    ],
)
def test_a_damaged_checkpoint_is_set_aside(damaged: bytes, tmp_path: Path) -> None:
    """Each of these raises an error of another type."""
    images = [tmp_path / f"{seed}.png" for seed in range(3)]
    for seed, path in enumerate(images):
        Image.fromarray(texture(seed, (SIZE, SIZE))).save(path)
    checkpoint = tmp_path / "partial"
    checkpoint.write_bytes(damaged)
    with pytest.warns(FREWarning, match="partial: damaged; set aside as .*partial.damaged, and"):
        model = detector().fit(images, checkpoint=checkpoint)
    assert model.metadata["provenance"]["n_images"] == 3
    assert (tmp_path / "partial.damaged").read_bytes() == damaged


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(many: Path, tmp_path: Path) -> None:
    output, checkpoint = tmp_path / "m.onnx", tmp_path / "m.onnx.partial"
    process = subprocess.Popen(
        command(many, output), stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    while consumed(checkpoint) == 0:
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 2
    assert error.splitlines() == [
        f"fre: error: interrupted; the same command resumes from {checkpoint}"
    ]


# Not by getrusage, whose peak of a child counts that of whoever it was forked from.
PEAK = """
import sys
from fre.cli import cli
from fre.benchmark.memory import peak_memory
cli.main(sys.argv[1:], standalone_mode=False)
print(peak_memory(), file=sys.stderr)
"""


def peak(data: Path, output: Path) -> int:
    """Bytes that a training has used at most."""
    if peak_memory() is None:
        pytest.skip("needs a system that says what a process has used at most")
    arguments = command(data, output)[3:]
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return int(done.stderr.splitlines()[-1])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """The features of the larger set alone would be 100 MB more."""
    few, many_more = (
        peak(repeated(tmp_path / str(n), n), tmp_path / f"{n}.onnx") for n in (1500, 6000)
    )
    assert many_more - few < 45 * 1024**2
