"""Latency of single images that arrive at a steady rate, as from a camera, and the idle load.

    python benchmarks/cadence.py MODEL IMAGE [--rates 1 5 25] [--seconds 10] [--rounds 3]

Every subject takes images at each rate, and back to back: `Model.predict`; the same for a model
opened for many images, as `fre serve` opens it; the bare graph with ONNX Runtime's own settings;
and a loop of NumPy on one thread that fits into the processor's first caches. What slows the loop
at a rate is the machine, not fre. The subjects take turns. The image, a file, is an array of the
input's size in memory.

`idle load` is the processor time of the whole process between the end of an image and the
beginning of the next, in per cent of one core. `waited` is the time that threads were ready but had
no core, in per cent of the images' time (Linux only): above a few per cent, other programs
disturb the measurement. `--real-time` has them step aside (needs the rights of an administrator).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort

from fre import Model, load
from fre.images.decode import read_resized
from fre.inference.predictor import OUTPUTS
from measuring import machine, machine_text, percentile, table

BACK_TO_BACK = 0.0
SETTLE = 0.3
"""Seconds before each turn, in which the threads of the subject before fall asleep."""
PACKAGES = ("onnxruntime", "openvino", "numpy")


@dataclass
class Turns:
    """What was measured of one subject at one rate."""

    taken: list[float] = field(default_factory=list)
    waited: float = 0.0
    idle: float = 0.0
    idle_processor: float = 0.0

    @property
    def p50(self) -> float:
        return 1000 * median(self.taken)


def waiting() -> float:
    """Seconds that this process's threads have been ready without a core; 0 if not known."""
    total = 0
    try:
        threads = list(Path("/proc/self/task").iterdir())
    except OSError:
        return 0.0
    for thread in threads:
        try:
            total += int((thread / "schedstat").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return total / 1e9


def turn(subject: Callable[[], object], rate: float, count: int, found: Turns) -> None:
    """Give a subject ``count`` images at a rate in images per second, 0 for back to back."""
    due = time.perf_counter()
    for _ in range(count):
        idle, idle_processor = time.perf_counter(), time.process_time()
        if rate:
            due = max(due + 1 / rate, idle)
            time.sleep(due - idle)
        found.idle += time.perf_counter() - idle
        found.idle_processor += time.process_time() - idle_processor
        before = waiting()
        began = time.perf_counter()
        subject()
        found.taken.append(time.perf_counter() - began)
        found.waited += waiting() - before


def bare(model: Model, image: np.ndarray, threads: int, spin: str | None) -> Callable[[], object]:
    """Run the graph by a session of ONNX Runtime.

    Args:
        model: the model.
        image: uint8 (1, H, W, 3).
        threads: number of threads, 0 for all cores.
        spin: microseconds that idle threads poll for work; ``None`` for ONNX Runtime's default.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if spin == "0":
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    elif spin is not None:
        options.add_session_config_entry("session.intra_op.spin_duration_us", spin)
    session = ort.InferenceSession(model.data, options, providers=["CPUExecutionProvider"])
    outputs = list(OUTPUTS)
    return lambda: session.run(outputs, {"images": image})


def loop(rounds: int) -> Callable[[], object]:
    start = np.random.default_rng(0).random((64, 64)).astype(np.float32)

    def run() -> None:
        values = start
        for _ in range(rounds):
            values = np.sqrt(values * values + np.float32(1))

    return run


def subjects_of(arguments: argparse.Namespace) -> dict[str, Callable[[], object]]:
    options = {"runtime": arguments.runtime, "threads": arguments.threads}
    one = load(arguments.model, **options)
    many = load(arguments.model, many=True, **options)
    pixels = read_resized(arguments.image, one.size)[0]
    began = time.perf_counter()
    one.predict(pixels)
    print(f"The first image after loading takes {1000 * (time.perf_counter() - began):.1f} ms.")
    found: dict[str, Callable[[], object]] = {
        "predict": lambda: one.predict(pixels),
        "predict, opened for many": lambda: many.predict(pixels),
        "bare graph": bare(one, pixels[None], arguments.threads, None),
    }
    for spin in arguments.spin:
        found[f"bare graph, spins {spin} us"] = bare(one, pixels[None], arguments.threads, spin)
    found["NumPy loop"] = loop(1000)
    for subject in found.values():
        for _ in range(5):
            subject()
    return found


def measured(
    subjects: dict[str, Callable[[], object]], arguments: argparse.Namespace
) -> dict[tuple[float, str], Turns]:
    rates = [BACK_TO_BACK, *arguments.rates]
    found = {(rate, name): Turns() for rate in rates for name in subjects}
    for _ in range(arguments.rounds):
        for (rate, name), turns in found.items():
            time.sleep(SETTLE)
            count = max(2, round(rate * arguments.seconds)) if rate else arguments.count
            turn(subjects[name], rate, count, turns)
    return found


def rows_of(found: dict[tuple[float, str], Turns]) -> list[list[str]]:
    rows = []
    for (rate, name), turns in found.items():
        same, steady = found[rate, "bare graph"], found[BACK_TO_BACK, name]
        idle = f"{100 * turns.idle_processor / turns.idle:.1f}" if rate else "-"
        rows.append(
            [
                f"{name}, {f'{rate:g} a second' if rate else 'back to back'}",
                f"{turns.p50:.2f}",
                f"{1000 * percentile(turns.taken, 0.99):.2f}",
                f"{turns.p50 / steady.p50:.2f}",
                f"{turns.p50 / same.p50:.2f}",
                idle,
                f"{100 * turns.waited / sum(turns.taken):.1f}",
                f"{len(turns.taken)}",
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--rates", type=float, nargs="*", default=[25, 5, 1])
    parser.add_argument("--seconds", type=float, default=10.0, help="of a turn at a rate")
    parser.add_argument("--count", type=int, default=100, help="images of a turn back to back")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runtime", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument(
        "--spin", nargs="*", default=[], help="further bare graphs, whose threads poll so long"
    )
    parser.add_argument("--real-time", action="store_true")
    arguments = parser.parse_args()
    # It is silent about its graph optimisation from here on.
    ort.set_default_logger_severity(3)
    if arguments.real_time:
        # Before the sessions are opened: their threads take the priority of their maker.
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(10))
    subjects = subjects_of(arguments)
    found = measured(subjects, arguments)
    print(
        f"{arguments.model.name} on {arguments.runtime}, {arguments.rounds} rounds in turn"
        f"{', at real-time priority' * arguments.real_time}.\n\n{machine_text(machine(PACKAGES))}\n"
    )
    head = ["subject", "p50, ms", "p99, ms", "of back to back", "of the bare graph"]
    print(table([*head, "idle load, %", "waited, %", "images"], rows_of(found)))


if __name__ == "__main__":
    main()
