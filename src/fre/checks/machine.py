"""Facts about the machine and the installation, for `fre doctor`."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fre.errors import FREError
from fre.images.png import fast_decoder
from fre.parallel import available_cores
from fre.runtimes.measure import package_version, processor
from fre.runtimes.runtime import available_runtimes
from fre.storage.cache import cache_folder
from fre.storage.files import write_atomic
from fre.version import __version__

PACKAGES = (
    "numpy",
    "pillow",
    "onnxruntime",
    "onnx",
    "openvino",
    "kornia-rs",
    "torch",
    "fastapi",
    "uvicorn",
    "ray",
)
LEAST_FREE = 200e6
"""Bytes: a model has 30 MB, and a training keeps a checkpoint."""

MEMORY = Path("/proc/meminfo")
DEVICES = Path("/dev")


class Fact(NamedTuple):
    """One line of the report.

    Attributes:
        name: subject, such as ``"cores"``.
        value: finding, in words.
        problem: fault and remedy, in one sentence; ``None`` where all is well.
    """

    name: str
    value: str
    problem: str | None = None


def machine_facts() -> Iterator[Fact]:
    """Yield versions, processor, memory, runtimes, cache, disk and cameras."""
    yield Fact("fre", f"{__version__}, in {Path(__file__).parents[1]}")
    yield Fact("python", f"{platform.python_version()}, {sys.executable}")
    yield Fact("system", platform.platform())
    versions = [(name, package_version(name)) for name in PACKAGES]
    yield Fact("packages", ", ".join(f"{name} {version}" for name, version in versions if version))
    absent = [name for name, version in versions if version is None]
    yield Fact("not installed", ", ".join(absent) or "nothing")
    yield Fact("processor", processor())
    cores, all_cores = available_cores(), os.cpu_count() or 1
    limit = "" if cores == all_cores else f", of {all_cores} in the machine"
    yield Fact("cores", f"{cores}{limit}")
    yield Fact("memory", _memory())
    yield Fact("runtimes", ", ".join(available_runtimes()))
    yield Fact("PNG decoder", _png_decoder())
    yield _cache()
    yield _disk("disk", Path.cwd())
    yield Fact("cameras", _cameras())


def _memory() -> str:
    with suppress(OSError):
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB", MEMORY.read_text(), re.M))
        total, free = (int(found[key]) / 1e6 for key in ("MemTotal", "MemAvailable"))
        return f"{total:.1f} GB, {free:.1f} GB of it available"
    return "not known on this system"


def _png_decoder() -> str:
    if fast_decoder() is not None:
        return "kornia-rs; Pillow for PNGs that are not 8-bit grey or RGB"
    return (
        "Pillow; pip install fre-vision[fast] adds kornia-rs, which decodes the same pixels faster"
    )


def _cache() -> Fact:
    folder = cache_folder()
    probe = folder / f".doctor-{os.getpid()}"
    try:
        write_atomic(probe, b"fre", parents=True)
        probe.unlink()
    except (OSError, FREError) as error:
        return Fact("cache", str(folder), f"can't be written: {error}; set FRE_CACHE to a folder")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Fact("cache", f"{folder}, {size / 1e6:.1f} MB")


def _disk(name: str, folder: Path) -> Fact:
    free = shutil.disk_usage(folder).free
    problem = None
    if free < LEAST_FREE:
        problem = f"less than {LEAST_FREE / 1e6:.0f} MB are free; models may not fit"
    return Fact(name, f"{folder}, {free / 1e9:.1f} GB free", problem)


def _cameras() -> str:
    """Name the video devices of Linux; other systems have no list without further packages."""
    if sys.platform != "linux":
        return "not listed on this system"
    devices = sorted(DEVICES.glob("video*"))
    if not devices:
        return "no /dev/video*"
    return ", ".join(
        str(device) if os.access(device, os.R_OK) else f"{device} (no permission to read)"
        for device in devices
    )
