"""How features are computed on 1 to 64 cores: measured here, and beyond that by the model.

    python benchmarks/cores.py DATASET [--write docs/speed.md]

Measured on one core, processor time: a run of the default preset's network, a file's decoding,
and everything else that an image takes (queues, records, thumbnails), all of which is counted as
if it held the interpreter. Measured on as many cores as there are, in processes that may use so
many: images a second. For more cores: `Work`, a small model.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from measuring import child, evenly, isolated, machine, machine_text, publish, table

if TYPE_CHECKING:
    from fre.runtimes.lanes import Sharing

CORES = (1, 2, 4, 8, 16, 32, 64)
PACKAGES = ("onnxruntime", "numpy", "pillow")

SINGLE_RUNS = 300
"""Runs of one image on one thread, and as many on two, in turn; the fastest of each count."""


def extractor_of(files: list[str], threads: int) -> Any:
    from fre.backbones import get_backbone
    from fre.detector import FRE

    return FRE()._extractor_for(get_backbone(), files, threads, None)[0]


@dataclass(frozen=True)
class Work:
    """Seconds that an image takes on one core.

    Attributes:
        run: run of the network.
        decode: reading, decoding and resizing.
        interpreter: seconds that hold the interpreter, while no other thread's Python runs.
        parallel: share of a run that its threads can divide, in [0, 1].
    """

    run: float
    decode: float
    interpreter: float
    parallel: float

    def images_per_second(self, sharing: Sharing) -> float:
        """Return the rate that lanes, cores and the interpreter allow, whichever is the lowest."""
        threads = sharing.cores / sharing.lanes
        run = self.run * (1 - self.parallel + self.parallel / threads)
        return min(
            sharing.lanes / run,
            sharing.cores / (threads * run + self.decode + self.interpreter),
            1 / self.interpreter,
        )


@dataclass(frozen=True)
class NoNetwork:
    """An extractor whose network takes no time."""

    extractor: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.extractor, name)

    def run(self, images: Any, out: NDArray[np.float32]) -> NDArray[np.float32]:
        return out


def least(work: Callable[[], Any], rounds: int, clock: Callable[[], float]) -> float:
    """Return the least time of some rounds, in seconds."""
    found = []
    for _ in range(rounds):
        began = clock()
        work()
        found.append(clock() - began)
    return min(found)


def measured(task: dict[str, Any]) -> dict[str, float]:
    """Measure in a process of its own: seconds of an image on one core, or images a second."""
    from fre.features.stream import FeatureStream

    files, cores = task["files"], task["cores"]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    extractor = extractor_of(files, 0)
    out = np.empty((len(files), extractor.dimension), np.float32)

    def all_of(runner: Any, sources: list[Any]) -> None:
        for _ in FeatureStream(runner, sources, out=out):
            pass

    all_of(extractor, files[:8])
    clock, busy = (time.process_time, cores) if task["processor"] else (time.perf_counter, 1)
    rate = busy * len(files) / least(lambda: all_of(extractor, files), task["rounds"], clock)
    found = {"rate": rate}
    if cores > 1:
        return found
    height, width = extractor.geometry.size
    pixels = np.random.default_rng(0).integers(0, 256, (len(files), height, width, 3), np.uint8)
    rounds, clock, n = task["rounds"], time.process_time, len(files)
    else_ = least(lambda: all_of(NoNetwork(extractor), [*pixels]), rounds, clock) / n
    read = least(lambda: all_of(NoNetwork(extractor), files), rounds, clock) / n
    one = least(lambda: extractor.run(pixels[:8], out[:8]), rounds, clock) / 8
    return found | {"run": one, "decode": max(0.0, read - else_), "interpreter": else_}


def parallel_share(files: list[str]) -> float:
    """Return the share of a run that a second thread divides."""
    from fre.runtimes.runtime import open_runtime

    extractor = extractor_of(files, 1)
    height, width = extractor.geometry.size
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    runtimes = [open_runtime(extractor.model(), ["features"], threads=n) for n in (1, 2)]
    found: list[list[float]] = [[], []]
    for _ in range(SINGLE_RUNS):
        for runtime, seconds in zip(runtimes, found, strict=True):
            seconds.append(least(lambda r=runtime: r.run(image), 1, time.perf_counter))
    one, two = map(min, found)
    return float(np.clip(2 * (1 - two / one), 0, 1))


def table_of(work: Work, rates: dict[int, float]) -> str:
    from fre.runtimes.lanes import Sharing

    rows = []
    for cores in CORES:
        sharing = Sharing.of(cores)
        cells = [sharing.lanes, sharing.threads - 1, sharing.batches]
        rate = f"{rates[cores]:.0f}" if cores in rates else "not measured"
        modelled = f"{work.images_per_second(sharing):,.0f}"
        rows.append([str(cores), *map(str, cells), rate, modelled])
    modelled_title = f"images/s, by the model, not measured beyond {max(rates)} cores"
    head = ["cores", "lanes", "threads that help", "batches in flight"]
    return table([*head, "images/s, measured", modelled_title], rows)


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--images", default=64, show_default=True)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--processor-time", "processor", is_flag=True, help="Leave out what waits.")
@click.option("--write", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(data: Path, images: int, rounds: int, processor: bool, write: Path | None) -> None:
    """Measure on a dataset that fre can read."""
    from fre.datasets import training_images
    from fre.parallel import available_cores

    files = [str(Path(file).resolve()) for file in evenly(training_images(data), images)]
    found = {
        cores: isolated(
            Path(__file__),
            {"files": files, "cores": cores, "rounds": rounds, "processor": processor},
            name=f"features on {cores} cores",
        )
        for cores in CORES
        if cores <= available_cores()
    }
    one, share = found[1], parallel_share(files)
    work = Work(one["run"], one["decode"], one["interpreter"], share)
    text = (
        f"{data.name}, {len(files)} images, default preset: {work.run * 1e3:.2f} ms of a core for "
        f"the network, {work.decode * 1e3:.2f} ms for decoding, {work.interpreter * 1e3:.2f} ms "
        f"for everything else; a second thread divides {share:.0%} of a run. "
        f"{'Images a second of processor time. ' if processor else ''}"
        f"{machine_text(machine(PACKAGES))}.\n\n"
        f"{table_of(work, {cores: one['rate'] for cores, one in found.items()})}"
    )
    publish(text, write, "cores")


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1].endswith("task.json"):
        child(measured)
    else:
        main()
