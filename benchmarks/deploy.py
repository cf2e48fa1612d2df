"""How large is an installation of the service, and how soon does it give its first score?

    python benchmarks/deploy.py MODEL IMAGE [--turns 5]

Installs `.[serve]` into a fresh environment as deploy/Dockerfile does, without pip and without the
tests that packages bring along, and prints its size on disk. Then, from this environment and in
turns: seconds from the start of the process to the first score, of `fre predict` and of `fre serve`
with one request.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]


def megabytes(folder: Path) -> float:
    """Return the disk space of a folder, in MB, as the blocks of its files."""
    return sum(512 * file.lstat().st_blocks for file in folder.rglob("*")) / 1e6


def install(folder: Path) -> Path:
    """Install the service into a fresh environment, and return its folder."""
    environment = folder / "fre"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "-q", f"{ROOT}[serve]"]
    subprocess.run(command, check=True)
    for pattern in ("**/tests", "**/onnx/backend/test"):
        for tests in list(environment.glob(pattern)):
            shutil.rmtree(tests)
    return environment


def predict(environment: Path, model: Path, image: Path) -> float:
    """Return the seconds that `fre predict` takes for one image."""
    start = time.perf_counter()
    command = [environment / "bin" / "fre", "predict", model, image]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def serve(environment: Path, models: Path, image: Path) -> float:
    """Return the seconds from the start of `fre serve` to the score of its first request."""
    start = time.perf_counter()
    command = [environment / "bin" / "fre", "serve", models, "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"the page is at (\S+?)/?\s", line):
                break
        else:
            raise RuntimeError("fre serve ended")
        url = f"{found[1]}/v1/models/part/predict"
        request = urllib.request.Request(
            url, image.read_bytes(), {"Content-Type": "application/octet-stream"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
        return time.perf_counter() - start
    finally:
        process.terminate()
        process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("image", type=Path)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    os.environ.pop("FRE_TOKEN", None)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = install(folder)
        print(f"installed: {megabytes(environment):.0f} MB")
        models = folder / "models"
        models.mkdir()
        shutil.copy(given.model, models / "part.onnx")
        taken: dict[str, list[float]] = {"fre predict": [], "fre serve": []}
        for _ in range(given.turns):
            taken["fre predict"].append(predict(environment, models / "part.onnx", given.image))
            taken["fre serve"].append(serve(environment, models, given.image))
        for name, seconds in taken.items():
            print(
                f"{name}: {median(seconds):.2f} s to the first score "
                f"({min(seconds):.2f} to {max(seconds):.2f})"
            )


if __name__ == "__main__":
    main()
