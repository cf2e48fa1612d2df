"""Facts and rules of speed measurements: processor, package versions, number of rounds."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


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
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def processor() -> str:
    """Return the model name of the processor, or less if the system does not state it."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return f"{platform.machine()} {platform.processor()}"
