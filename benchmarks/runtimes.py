"""What pays on a runtime, and how far runtimes agree.

    python benchmarks/runtimes.py MODEL IMAGES [--seconds 60] [--count 96]

MODEL is a model of fre, IMAGES a folder. Every setting runs in turns, so that what else goes on
strikes all alike; printed are medians, and the fastest and slowest turn. `resident` is the graph on
tensors in memory, `files` is `Model.predict_many`, with decoding on other threads; `divided` is
what fre opens for many images, a run of one thread on each core. Then follow the differences
between the scores and maps of ONNX Runtime and OpenVINO, if it is installed.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from fre.images.decode import find_images, read_resized
from fre.inference.predictor import OUTPUTS
from fre.model import Model, load
from fre.onnx_tools.protobuf import with_outputs
from fre.parallel import available_cores
from fre.runtimes.runtime import available_runtimes, open_runtime

ROWS = 32


class Session:
    """ONNX Runtime with settings of its session."""

    at_once = 1

    def __init__(self, data: bytes, outputs: list[str], threads: int, **settings: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        for key, value in settings.items():
            options.add_session_config_entry(f"session.{key}".replace("__", "."), value)
        self.session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = outputs

    def run(self, images: Any, tiles: Any = None) -> list[Any]:
        feed = dict(zip(self.inputs, (images, tiles), strict=False))
        return self.session.run(self.outputs, feed)


class OpenVINO:
    """OpenVINO with a hint, and requests that overlap."""

    at_once = 1

    def __init__(self, data: bytes, outputs: list[str], hint: str) -> None:
        import openvino as ov

        core = ov.Core()
        config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": hint}
        compiled = core.compile_model(core.read_model(data, b""), "CPU", config)
        self.outputs = outputs
        self.request = compiled.create_infer_request()
        self.queue = ov.AsyncInferQueue(compiled, available_cores())
        self.queue.set_callback(lambda request, _: self.copied(request))

    def copied(self, request: Any) -> list[Any]:
        return [request.get_tensor(name).data.copy() for name in self.outputs]

    def run(self, images: Any, _: Any = None) -> list[Any]:
        self.request.infer([images])
        return self.copied(self.request)

    def overlapped(self, images: Any, batch: int) -> None:
        for start in range(0, len(images), batch):
            self.queue.start_async({0: images[start : start + batch]})
        self.queue.wait_all()


def batches(runtime: Any, images: Any, batch: int) -> Callable[[], Any]:
    return lambda: [runtime.run(images[i : i + batch]) for i in range(0, len(images), batch)]


def concurrent(runtimes: list[Any], images: Any, batch: int) -> Callable[[], Any]:
    pool = ThreadPoolExecutor(available_cores())

    def run(start: int) -> Any:
        return runtimes[start // batch % len(runtimes)].run(images[start : start + batch])

    return lambda: list(pool.map(run, range(0, len(images), batch)))


def settings(model: Model, images: Any, files: list[Path]) -> dict[str, tuple[int, Any]]:
    """By name: images, and what runs them."""
    tensors = list(model.metadata.get("layer_maps", {}).values())
    data, outputs = with_outputs(model.data, tensors), [*OUTPUTS, *tensors]
    cores = available_cores()
    sessions = {
        "spinning": Session(data, outputs, cores),
        "no spinning": Session(data, outputs, cores, intra_op__allow_spinning="0"),
        "spinning ends with a run": Session(data, outputs, cores, force_spinning_stop="1"),
    }
    single = [Session(data, outputs, 1) for _ in range(cores)]
    first = images[:8]
    found: dict[str, tuple[int, Any]] = {}
    for name, session in sessions.items():
        found[f"resident, 1 image: ONNX Runtime, {name}"] = 8, batches(session, first, 1)
        found[f"resident, batch 8: ONNX Runtime, {name}"] = ROWS, batches(session, images, 8)
    found["resident, 1 image: ONNX Runtime, 1 thread"] = 8, batches(single[0], first, 1)
    for batch in (1, 4, 16):
        found[f"resident, batch {batch}: ONNX Runtime, spinning"] = (
            ROWS,
            batches(sessions["spinning"], images, batch),
        )
    for batch in (1, 4, 8):
        name = f"resident, batch {batch}: ONNX Runtime, a session of 1 thread a core"
        found[name] = ROWS, concurrent(single, images, batch)
    runtimes: dict[str, Any] = {f"ONNX Runtime, {name}": s for name, s in sessions.items()}
    try:
        hints = {hint: OpenVINO(data, outputs, hint) for hint in ("LATENCY", "THROUGHPUT")}
    except ImportError:
        print("OpenVINO is not installed: left out")
    else:
        runtimes["OpenVINO, LATENCY"] = hints["LATENCY"]
        for hint, opened in hints.items():
            found[f"resident, 1 image: OpenVINO, {hint}"] = 8, batches(opened, first, 1)
            found[f"resident, batch 8: OpenVINO, {hint}"] = ROWS, batches(opened, images, 8)
            for batch in (1, 8):
                found[f"resident, batch {batch}: OpenVINO, {hint}, overlapped requests"] = (
                    ROWS,
                    lambda opened=opened, batch=batch: opened.overlapped(images, batch),
                )

    for opened in [name for name in ("onnxruntime", "openvino") if name in available_runtimes()]:
        divided = open_runtime(data, outputs, runtime=opened, many=True)
        runtimes[f"{opened}, divided"] = divided
        found[f"resident, batch 8: {opened}, divided"] = ROWS, batches(divided, images, 8)

    def predict(runtime: Any, batch: int) -> Any:
        model.__dict__["_for_many"] = runtime
        return list(model.predict_many(files, batch_size=batch))

    for name, opened in runtimes.items():
        for batch in (1, 8, 16):
            found[f"files, batch {batch}: {name}"] = (
                len(files),
                lambda opened=opened, batch=batch: predict(opened, batch),
            )
    return found


def measure(found: dict[str, tuple[int, Any]], seconds: float) -> None:
    taken: dict[str, list[float]] = {name: [] for name in found}
    for _, run in found.values():
        run()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        for name, (count, run) in found.items():
            start = time.perf_counter()
            run()
            taken[name].append(1000 * (time.perf_counter() - start) / count)
    print(f"\n{'ms an image':66}  median     min     max  turns")
    for name, values in sorted(taken.items()):
        print(
            f"{name:66}  {np.median(values):6.2f}  {min(values):6.2f}  {max(values):6.2f}  "
            f"{len(values):5}"
        )


def agreement(file: Path, files: list[Path]) -> None:
    ours = list(load(file).predict_many(files))
    theirs = list(load(file, runtime="openvino").predict_many(files))
    scores = np.array([[p.score for p in side] for side in (ours, theirs)])
    apart = np.abs(scores[0] - scores[1])
    maps = [np.abs(a.input_map - b.input_map).max() for a, b in zip(ours, theirs, strict=True)]
    size = [np.abs(p.input_map).max() for p in ours]
    print(f"\nONNX Runtime and OpenVINO on {len(files)} images")
    low, high = scores[0].min(), scores[0].max()
    print(f"scores, {low:.4g} to {high:.4g}: apart by {apart.max():.2g} at most")
    print(f"  relative to their size: {(apart / np.abs(scores[0])).max():.2g} at most")
    print(
        f"maps: apart by {max(maps):.2g} at most, by {np.max(np.divide(maps, size)):.2g} of an "
        "image's largest value"
    )
    decided = sum(a.anomalous != b.anomalous for a, b in zip(ours, theirs, strict=True))
    print(f"images that only one of them calls anomalous: {decided}")


def first_decision(file: Path) -> None:
    """What ``auto`` costs: the first time, once it is remembered, and without it."""
    image = np.full((*load(file).size, 3), 128, np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FRE_CACHE"] = folder
        for name in ("onnxruntime", "openvino", "auto", "auto", "onnxruntime", "auto"):
            model = load(file, runtime=name)
            start = time.perf_counter()
            model.predict(image)
            taken = time.perf_counter() - start
            print(f"load and first prediction, {name}: {taken:.3f} s ({model._for_one.name})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--count", type=int, default=96)
    arguments = parser.parse_args()
    # It is silent about its graph optimisation from here on.
    ort.set_default_logger_severity(3)
    model = load(arguments.model)
    every = find_images(arguments.images)
    files = every[:: max(1, len(every) // arguments.count)][: arguments.count]
    few = [read_resized(path, model.size)[0] for path in files[:8]]
    images = np.stack([few[row % len(few)] for row in range(ROWS)])
    if arguments.seconds:
        measure(settings(model, images, files), arguments.seconds)
    try:
        first_decision(arguments.model)
        agreement(arguments.model, files)
    except ImportError as error:
        print(error)


if __name__ == "__main__":
    main()
