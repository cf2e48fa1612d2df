"""What comes after the backbone, by itself.

    python benchmarks/head.py [MODEL ...]

First, each model file's head: the time of the whole graph beside that of its backbone alone.
Then, in how many ways the reference preset's residual can be computed, at its size: 65,536
features, of 1024 channels at 64 locations, and rank 220.

Everything runs in ONNX Runtime, on tensors that are already in memory; the contestants take
turns, and medians over the rounds are printed as Markdown. On one thread it is the processor's time
that is counted, which other programs do not lengthen by keeping the core busy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from fre import load
from fre.backbones.model_file import PREFIX
from fre.onnx_tools.builder import GraphBuilder, prune

CHANNELS, LOCATIONS, RANK = 1024, 64, 220
RESIDUAL_SHARE = 0.03
"""Of the energy of features; 3 % is what is left of good images."""
BATCHES = (1, 8)

Run = Callable[[], None]


def session(model: bytes, threads: int, **options: Any) -> ort.InferenceSession:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    return ort.InferenceSession(model, settings, providers=providers, **options)


def bound(opened: ort.InferenceSession, values: NDArray[Any]) -> Run:
    """Run without copying inputs or outputs."""
    binding = opened.io_binding()
    binding.bind_ortvalue_input(
        opened.get_inputs()[0].name, ort.OrtValue.ortvalue_from_numpy(values)
    )
    for output in opened.get_outputs():
        binding.bind_output(output.name)
    return lambda: opened.run_with_iobinding(binding)


def milliseconds(runs: Mapping[str, Run], threads: int, rounds: int) -> dict[str, float]:
    """Median time of each, in turns."""
    now = time.thread_time if threads == 1 else time.perf_counter
    measured: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            began = now()
            run()
            if turn:  # the first is for the caches
                measured[name].append((now() - began) * 1e3)
    return {name: median(values) for name, values in measured.items()}


# A model's head beside its backbone


def backbone_of(data: bytes, layers: list[str]) -> bytes:
    model = onnx.load_from_string(data)
    part = prune(model.graph, [PREFIX + layer for layer in layers])
    return helper.make_model(
        part, opset_imports=model.opset_import, ir_version=model.ir_version
    ).SerializeToString()


def head_of(file: Path, threads: int, rounds: int) -> None:
    model = load(file, threads=threads)
    backbone = backbone_of(model.data, model.metadata["backbone"]["layers"])
    opened = {"whole": session(model.data, threads), "backbone": session(backbone, threads)}
    for batch in BATCHES:
        images = np.random.default_rng(0).integers(0, 256, (batch, *model.size, 3), np.uint8)
        times = milliseconds(
            {name: bound(s, images) for name, s in opened.items()}, threads, rounds
        )
        share = times["whole"] / times["backbone"] - 1
        name = f"{model.metadata['preset']}, {model.metadata['backbone']['name']}"
        print(
            f"| {name} | {batch} | {times['backbone']:.2f} | {times['whole']:.2f} | {share:.0%} |"
        )


# Ways to compute the residual of the reference preset


def finished(build: GraphBuilder, residuals: str) -> bytes:
    """From squared residuals at each location to a model."""
    axis = build.constant("axis", np.array([1], np.int64))
    build.node("ReduceSum", residuals, axis, output="score", keepdims=0)
    return build.model(
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", CHANNELS * LOCATIONS])],
        [
            helper.make_tensor_value_info(residuals, TensorProto.FLOAT, ["N", LOCATIONS]),
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
        ],
        name="head",
    ).SerializeToString()


def two_passes(basis: NDArray[np.float64], *, half: bool = False) -> bytes:
    """|x - V V^T x|^2, as in the model file: the basis is read twice."""
    build = GraphBuilder()
    mean = build.constant("mean", np.zeros(len(basis), np.float32))
    centred = build.node("Sub", "features", mean)
    if half:
        stored = build.constant("basis", basis.astype(np.float16))
        V = build.node("Cast", stored, to=TensorProto.FLOAT)
    else:
        V = build.constant("basis", basis.astype(np.float32))
    code = build.node("MatMul", centred, V)
    residual = build.node("Gemm", code, V, centred, alpha=-1.0, transB=1)
    squared = build.node("Mul", residual, residual)
    shape = build.constant("shape", np.array([-1, CHANNELS, LOCATIONS], np.int64))
    channels = build.constant("channels", np.array([1], np.int64))
    shaped = build.node("Reshape", squared, shape)
    return finished(build, build.node("ReduceSum", shaped, channels, output="map", keepdims=0))


def one_pass(basis: NDArray[np.float64]) -> bytes:
    """|x_j|^2 - 2 z.a_j + z^T (V_j^T V_j) z with a_j = V_j^T x_j and z = sum of a_j."""
    build = GraphBuilder()
    mean = build.constant("mean", np.zeros(len(basis), np.float32))
    centred = build.node("Sub", "features", mean)
    shape = build.constant("shape", np.array([-1, CHANNELS, LOCATIONS], np.int64))
    shaped = build.node("Reshape", centred, shape)
    vectors = build.node("Transpose", shaped, perm=[2, 0, 1])  # (P, N, C)
    parts = basis.reshape(CHANNELS, LOCATIONS, RANK).transpose(1, 0, 2)
    V = build.constant("basis", parts.astype(np.float32))
    G = build.constant("gram", (parts.transpose(0, 2, 1) @ parts).astype(np.float32))
    a = build.node("MatMul", vectors, V)  # (P, N, k)
    places = build.constant("places", np.array([0], np.int64))
    last = build.constant("last", np.array([2], np.int64))
    z = build.node("ReduceSum", a, places, keepdims=1)  # (1, N, k)
    doubled = build.node("Add", a, a)
    through = build.node("Sub", build.node("MatMul", z, G), doubled)
    energy = build.node("ReduceSum", build.node("Mul", vectors, vectors), last, keepdims=0)
    taken = build.node("ReduceSum", build.node("Mul", through, z), last, keepdims=0)
    total = build.node("Add", energy, taken)  # (P, N)
    return finished(build, build.node("Transpose", total, output="map", perm=[1, 0]))


def synthetic(n: int) -> tuple[NDArray[np.float64], NDArray[np.float32], NDArray[np.float64]]:
    """An orthonormal basis, features of which it leaves a small share, and their exact maps."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(CHANNELS * LOCATIONS, RANK)))
    inside = rng.normal(size=(n, RANK)) @ basis.T
    outside = rng.normal(size=inside.shape)
    outside -= (outside @ basis) @ basis.T
    outside *= np.linalg.norm(inside) / np.linalg.norm(outside)
    share = RESIDUAL_SHARE
    X = (np.sqrt(1 - share) * inside + np.sqrt(share) * outside).astype(np.float32)
    residual = X - (X @ basis) @ basis.T
    exact = np.square(residual).reshape(n, CHANNELS, LOCATIONS).sum(axis=1)
    return basis, X, exact


def forms(threads: int, rounds: int) -> None:
    basis, X, exact = synthetic(max(BATCHES))
    twice, half = two_passes(basis), two_passes(basis, half=True)
    opened = {
        "two passes": session(twice, threads),
        "two passes, stored in half precision": session(half, threads),
        "two passes, converted from half at each run": session(
            half, threads, disabled_optimizers=["ConstantFolding"]
        ),
        "one pass": session(one_pass(basis), threads),
    }
    errors = {
        name: float(np.max(np.abs(s.run(["map"], {"features": X})[0] / exact - 1)))
        for name, s in opened.items()
    }
    times = {
        batch: milliseconds(
            {name: bound(s, X[:batch]) for name, s in opened.items()}, threads, rounds
        )
        for batch in BATCHES
    }
    columns = [f"{batch} image{'s' * (batch > 1)}, ms" for batch in BATCHES]
    print(f"\n| residual | {' | '.join(columns)} | ratio | largest relative error of a map |")
    print(f"| --- |{' ---: |' * (len(BATCHES) + 2)}")
    base = times[1]["two passes"]
    for name, error in errors.items():
        cells = " | ".join(f"{times[batch][name]:.2f}" for batch in BATCHES)
        print(f"| {name} | {cells} | {times[1][name] / base:.2f} | {error:.1e} |")


@click.command()
@click.argument("models", type=click.Path(path_type=Path, exists=True), nargs=-1)
@click.option("--rounds", default=30, show_default=True)
@click.option("--threads", default=0, show_default=True, help="0: all cores.")
def main(models: tuple[Path, ...], rounds: int, threads: int) -> None:
    """Measure the heads of MODELS, and the ways to compute a residual."""
    print(f"ONNX Runtime {ort.__version__}, {threads or 'all'} threads, {rounds} rounds, medians")
    if models:
        print("\n| model | images | backbone, ms | whole graph, ms | head |")
        print("| --- | ---: | ---: | ---: | ---: |")
    for model in models:
        head_of(model, threads, rounds)
    forms(threads, rounds)


if __name__ == "__main__":
    main()
