"""What the benchmarks of speed share: isolated processes, interleaved rounds, medians, slopes.

Nothing heavy is imported here, so that a measured child process starts from a small parent.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from statistics import linear_regression, median
from typing import Any, TypeVar

Item = TypeVar("Item")

LOG_LINES = 30
GPU_PACKAGE = re.compile(r"(nvidia|cuda|triton)\b")
GPU_LIBRARY = re.compile(r"lib.*(cuda|cudnn|cublas|cusparse|nccl|nvshmem|nvrtc).*\.so")


class MeasurementError(Exception):
    """A measurement failed; the others go on."""


@dataclass(frozen=True)
class Summary:
    """Median and range of a figure over its rounds."""

    median: float
    least: float
    most: float
    n: int

    @staticmethod
    def of(values: Sequence[float]) -> Summary:
        if not values:
            raise ValueError("a summary needs a value")
        return Summary(float(median(values)), min(values), max(values), len(values))

    def text(self, digits: int = 3) -> str:
        """``12.3 (11.9–13.0)``; the median alone where there was one round."""
        middle = significant(self.median, digits)
        if self.n == 1:
            return middle
        return f"{middle} ({significant(self.least, digits)}–{significant(self.most, digits)})"


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, never in exponential form."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])
    decimals = max(0, digits - 1 - exponent)
    return f"{value:,.{decimals}f}"


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def loglog_slope(work: Sequence[float], cost: Sequence[float]) -> float:
    """Exponent b of the least-squares line log(cost) = a + b log(work).

    Raises:
        ValueError: fewer than two different amounts of work, or a value that is not positive.
    """
    if len(work) != len(cost) or len(set(work)) < 2 or min(*work, *cost) <= 0:
        raise ValueError("a slope needs two different amounts of work, and positive values")
    return linear_regression([math.log(v) for v in work], [math.log(v) for v in cost]).slope


def interleaved(rounds: Mapping[str, int]) -> list[tuple[int, str]]:
    """Rounds and names in the order A B C, A B C; a name leaves once its rounds are over."""
    return [
        (turn, name)
        for turn in range(max(rounds.values(), default=0))
        for name, wanted in rounds.items()
        if turn < wanted
    ]


def evenly(items: Sequence[Item], n: int) -> list[Item]:
    """``n`` items, evenly spread over all of them; all, if there are no more."""
    if n >= len(items):
        return list(items)
    if n == 1:
        return [items[0]]
    return [items[round(i * (len(items) - 1) / (n - 1))] for i in range(n)]


def repeated(items: Sequence[Item], n: int) -> list[Item]:
    """``n`` items, from the start again where they run out."""
    return [items[i % len(items)] for i in range(n)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def isolated(
    script: Path, task: dict[str, Any], *, name: str, source: Path | None = None
) -> dict[str, Any]:
    """Run ``script`` on a task in a process of its own and read its result.

    Args:
        script: calls `child`.
        task: plain JSON values.
        name: what is measured, for errors.
        source: folder of packages that take precedence over the installed ones.

    Raises:
        MeasurementError: the process failed; the message has the end of what it printed.
    """
    search_path = _absolute(os.environ.get("PYTHONPATH", ""))
    if source is not None:
        search_path = os.pathsep.join([str(source.resolve()), search_path])
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        question, answer, log = place / "task.json", place / "result.json", place / "log.txt"
        question.write_text(json.dumps(task))
        with log.open("w") as output:
            done = subprocess.run(
                [sys.executable, str(script), str(question), str(answer)],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=place,
                env=os.environ | {"PYTHONPATH": search_path},
                check=False,
            )
        if done.returncode or not answer.exists():
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
            raise MeasurementError(f"{name} failed with exit code {done.returncode}:\n{tail}")
        result: dict[str, Any] = json.loads(answer.read_text())
        return result


def brief(message: str) -> str:
    """The first line of what `isolated` raises, and the last; the file of figures has it all."""
    first, *others = [line.strip() for line in message.splitlines() if line.strip()]
    return f"{first} {others[-1]}" if others else first


def _absolute(search_path: str) -> str:
    return os.pathsep.join(str(Path(p).resolve()) for p in search_path.split(os.pathsep) if p)


def child(measure: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The other end of `isolated`: read the task, measure, write the result."""
    question, answer = map(Path, sys.argv[1:])
    result = measure(json.loads(question.read_text()))
    answer.write_text(json.dumps(result))


def peak_bytes() -> int:
    """The largest resident size of this process, in bytes.

    Linux hands the ``ru_maxrss`` of a parent on to its children; the status file does not.
    """
    import resource

    from fre.benchmark.memory import peak_memory

    known = peak_memory()
    if known is not None:
        return known
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def closure(names: Iterable[str]) -> set[str]:
    """The installed distributions that these need, themselves included, without extras."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    found: set[str] = set()
    waiting = list(names)
    while waiting:
        requirement = Requirement(waiting.pop())
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        needed = metadata.requires(name) or []
        # A marker may ask for an extra that this requirement names.
        for extra in requirement.extras:
            for text in needed:
                inner = Requirement(text)
                if inner.marker and inner.marker.evaluate({"extra": extra}):
                    inner.marker = None
                    waiting.append(str(inner))
        waiting.extend(needed)
    return found


def installed_bytes(names: Iterable[str]) -> tuple[int, int]:
    """Size of distributions and all that they need: in all, and what of it serves GPUs only."""
    total = gpu = 0
    for name in closure(names):
        for file in metadata.files(name) or []:
            path = Path(str(file.locate()))
            if not path.is_file():
                continue
            size = path.stat().st_size
            total += size
            if GPU_PACKAGE.match(name) or GPU_LIBRARY.match(path.name):
                gpu += size
    return total, gpu


def own_requirements(pyproject: Path) -> list[str]:
    """What fre needs: from the installed package, or from its source where it is not installed."""
    try:
        needed = metadata.requires("fre-vision")
    except metadata.PackageNotFoundError:
        import tomllib

        needed = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    return [text for text in needed or [] if "extra ==" not in text]


def machine(packages: Sequence[str]) -> dict[str, Any]:
    """The processor, its cores, the system, and the versions of packages."""
    from fre.parallel import available_cores

    info: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            info.setdefault(key.strip(), value.strip())
    except OSError:
        pass
    flags = info.get("flags", "").split()
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
    return {
        "processor": info.get("model name", platform.processor()),
        "family": info.get("cpu family"),
        "model": info.get("model"),
        "instructions": [flag for flag in wanted if flag in flags],
        "cores": available_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: found for name in packages if (found := _version(name))},
    }


def machine_text(found: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    return (
        f"{found['processor']} (family {found['family']}, model {found['model']}; "
        f"{' '.join(found['instructions'])}), {found['cores']} cores, "
        f"{found['memory_bytes'] / 1e9:.0f} GB; {found['platform']}; Python {found['python']}; "
        f"{packages}"
    )


def write_json(path: Path, document: dict[str, Any]) -> None:
    def plain(value: Any) -> Any:
        return asdict(value) if isinstance(value, Summary) else str(value)

    from fre.storage.files import write_atomic

    write_atomic(path, (json.dumps(document, indent=1, default=plain) + "\n").encode())


def write_between(page: Path, name: str, text: str) -> bool:
    """Put text between a page's comments ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.

    Returns:
        Whether the page has them.
    """
    from fre.storage.files import write_atomic

    before, begins, rest = page.read_text().partition(f"<!-- {name}: begin -->\n")
    _, ends, after = rest.partition(f"<!-- {name}: end -->")
    if not begins or not ends:
        return False
    write_atomic(page, f"{before}{begins}\n{text}\n\n{ends}{after}".encode())
    return True


def publish(text: str, page: Path | None, name: str) -> None:
    """Print text, and put it between a page's comments, if there is a page.

    Raises:
        SystemExit: the page has no such comments.
    """
    print(text)
    if page is None:
        return
    if not write_between(page, name, text):
        sys.exit(f"{page} has no room: <!-- {name}: begin --> to <!-- {name}: end -->")
    print(f"written to {page}", file=sys.stderr)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
