"""Peak memory of training on more and more images, whose features are not all held.

    python benchmarks/streaming.py DATASET [--images 12500 50000] [--size 128]

The entries are links to the dataset's good images, over and over. Each training is a process of its
own, through the command line. Prints Markdown; exits with 1 if memory grows.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from fre.datasets import open_dataset, require_train

MEMORY = 0.25
"""Gigabytes of features that may be held."""

ALLOWED = 64
"""Megabytes that four times as many images may add: their digests, names and sizes are kept."""

PEAK = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from fre.cli import cli
from measuring import peak_bytes
cli.main(sys.argv[1:], standalone_mode=False)
print(peak_bytes(), file=sys.stderr)
"""


def peak(files: list[Path], n: int, size: int) -> tuple[float, float]:
    """Megabytes used at most, and megabytes of the model file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "good").mkdir()
        for index in range(n):
            file = files[index % len(files)]
            (folder / "good" / f"{index:06d}{file.suffix}").symlink_to(file.resolve())
        output = folder / "model.onnx"
        arguments = ["train", folder / "good", "-o", output, "--size", size, "--memory", MEMORY]
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *map(str, (Path(__file__).parent, *arguments))],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        peak_bytes = int(done.stderr.splitlines()[-1])
        return peak_bytes / 2**20, output.stat().st_size / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[12500, 50000])
    parser.add_argument("--size", type=int, default=128)
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    files = [sample.path for sample in require_train(dataset)]
    print(
        f"{len(files)} images of {dataset.name}, repeated; input {options.size} x {options.size}; "
        f"--memory {MEMORY}\n\n| images | peak memory | model file |\n| ---: | ---: | ---: |"
    )
    found = []
    for n in options.images:
        megabytes, file = peak(files, n, options.size)
        found.append(megabytes)
        print(f"| {n:,} | {megabytes:.0f} MB | {file:.1f} MB |", flush=True)
    if max(found) - found[0] > ALLOWED:
        sys.exit("memory grows with the images")


if __name__ == "__main__":
    main()
