"""Facts and rules of speed measurements: processor, package versions, number of rounds."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fre.runtimes.runtime import Runtime

ROUNDS = (3, 25)
SECONDS = 4.0
PAUSE = 0.03
"""Of `median_milliseconds`: least and largest number of rounds, seconds in all, and seconds of
pause before each turn."""


def rounds(at_least: int, at_most: int, seconds: float) -> Iterator[None]:
    """Yield once for each round of a measurement that compares several candidates.

    Measure every candidate once in each round, so that other load on the machine slows all alike.

    Args:
        at_least: smallest number of rounds.
        at_most: largest number of rounds.
        seconds: time after which no further round begins.
    """
    began = time.perf_counter()
    for done in range(at_most):
        if done >= at_least and time.perf_counter() - began > seconds:
            return
        yield


def package_version(package: str) -> str | None:
    """Return the version of an installed package; ``None`` if it is not installed by this name."""
    from importlib.metadata import PackageNotFoundError, version

    with suppress(PackageNotFoundError):
        return version(package)
    return None


def processor() -> str:
    """Return the model name of the processor, or less if the system does not state it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"{platform.machine()} {platform.processor()}"


def median_milliseconds(
    opened: Sequence[Runtime], images: Sequence[NDArray[np.uint8]]
) -> list[float]:
    """Return the median time of each runtime on one image, measured in turns.

    Turns expose all runtimes to the same load of the machine. Before each turn, of all images, the
    threads of the other runtimes have time to stop waiting for work.

    Args:
        opened: models that are ready to run, on any runtime.
        images: inputs, uint8 (1, H, W, 3) each.
    """
    first = np.zeros(1, np.int64)
    for one in opened:
        one.run(images[0], first)
    taken: list[list[float]] = [[] for _ in opened]
    for _ in rounds(*ROUNDS, SECONDS):
        for one, seconds in zip(opened, taken, strict=True):
            time.sleep(PAUSE)
            for image in images:
                start = time.perf_counter()
                one.run(image, first)
                seconds.append(time.perf_counter() - start)
    return [1000 * float(np.median(seconds)) for seconds in taken]
