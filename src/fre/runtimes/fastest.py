"""The runtime ``auto``: the faster one for a model on this machine, measured once."""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fre.errors import FREError, FREWarning, OutputError
from fre.parallel import available_cores
from fre.runtimes.measure import package_version, processor, rounds
from fre.runtimes.runtime import Runtime, available_runtimes, open_runtime
from fre.storage.cache import cache_folder
from fre.storage.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Sequence


AUTO = "auto"
CANDIDATES = ("onnxruntime", "openvino")
"""Runtimes that compute the same on any processor; the first is the base."""

MARGIN = 0.95
"""Another runtime is chosen if it takes at most this share of the base's time; a smaller difference
may be chance."""

ROUNDS = (3, 20)
"""Smallest and largest number of runs of each runtime."""

SECONDS = 0.25
"""Time for the runs of all runtimes together."""


def fastest_runtime(
    model: bytes,
    outputs: Sequence[str],
    inputs: Sequence[Any],
    *,
    digest: str,
    threads: int = 0,
    many: bool = False,
) -> Runtime:
    """Open a model on the runtime that runs it in the shortest time.

    If several runtimes are installed, each does a few runs. The cache folder keeps the decision for
    this model, processor, number of cores and threads, and versions. A runtime that can't run the
    model is left out, with a warning.

    Args:
        model: a serialised ONNX model.
        outputs: names of the outputs to return.
        inputs: arguments of `Runtime.run` for the trial runs.
        digest: digest of the model, for the cache.
        threads: number of threads of the network, 0 for all cores.
        many: as for `open_runtime`.

    Raises:
        FREError: as for `open_runtime`, if no runtime can run the model.
    """

    def opened(name: str) -> Runtime:
        return open_runtime(model, outputs, runtime=name, threads=threads, many=many)

    def tried(name: str) -> Runtime:
        runtime = opened(name)
        runtime.run(*inputs)
        return runtime

    installed = available_runtimes()
    names = [name for name in CANDIDATES if name in installed]
    if len(names) == 1:
        return opened(names[0])
    file = _file(digest, threads, many)
    remembered = _remembered(file)
    if remembered in names:
        with suppress(FREError, RuntimeError):
            return opened(remembered)
    runtimes: list[Runtime] = []
    for name in names:
        try:
            runtimes.append(tried(name))
        except Exception as error:  # runtimes raise errors of their own types
            if name == names[-1] and not runtimes:
                raise
            text = f"the runtime {name} can't run this model, and is left out: {error}"
            warnings.warn(" ".join(text.split()), FREWarning, stacklevel=2)
    seconds = _measure(runtimes, inputs)
    best = min(runtimes, key=lambda runtime: seconds[runtime.name])
    if seconds[best.name] > MARGIN * seconds[runtimes[0].name]:
        best = runtimes[0]
    _remember(file, best.name, seconds)
    return best


def _measure(runtimes: Sequence[Runtime], inputs: Sequence[Any]) -> dict[str, float]:
    """Return the seconds of the fastest run of each runtime, by name."""
    best = {runtime.name: float("inf") for runtime in runtimes}
    if len(runtimes) == 1:
        return best
    for _ in rounds(*ROUNDS, SECONDS):
        for runtime in runtimes:
            start = time.perf_counter()
            runtime.run(*inputs)
            best[runtime.name] = min(best[runtime.name], time.perf_counter() - start)
    return best


def _file(digest: str, threads: int, many: bool) -> Path:
    versions = [package_version(name) for name in CANDIDATES]
    key = repr((digest, versions, processor(), available_cores(), threads, many))
    return cache_folder() / "runtimes" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


def _remembered(file: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        return str(json.loads(file.read_bytes())["runtime"])
    return None


def _remember(file: Path, name: str, seconds: dict[str, float]) -> None:
    # A cache that can't be written is no error: the runtimes are measured again next time.
    with suppress(OSError, OutputError):
        document = {"runtime": name, "seconds": seconds}
        write_atomic(file, json.dumps(document).encode(), parents=True)
