"""Which faults does ``fre check`` name? Known faults among the good images of real sets.

    python benchmarks/check.py DATA [DATA ...] [--images 280]

Each dataset's good training images get ten defects of its test images, five good images of the next
dataset, three blurred good test images (Gaussian, sigma 0.8 % of the longest side) and three
over-exposed ones (times 1.6). The table goes to stdout as Markdown.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageFilter

from fre.datasets import open_dataset
from fre.datasets.samples import Dataset
from fre.training.check import check_images

KINDS = {"defect": 10, "other set": 5, "blurred": 3, "over-exposed": 3}


def mixed(dataset: Dataset, other: Dataset, images: int, folder: Path) -> list[tuple[Path, str]]:
    """Return file and kind of each image; changed images are written to a folder."""
    draw = random.Random(0)
    good = [sample.path for sample in dataset.train]
    files = [(path, "good") for path in draw.sample(good, min(images, len(good)))]
    defects = [sample.path for sample in dataset.test if not sample.good]
    files += [(path, "defect") for path in draw.sample(defects, KINDS["defect"])]
    others = [sample.path for sample in other.train]
    files += [(path, "other set") for path in draw.sample(others, KINDS["other set"])]
    tested = [sample.path for sample in dataset.test if sample.good]
    n_blurred = KINDS["blurred"]
    for place, path in enumerate(draw.sample(tested, n_blurred + KINDS["over-exposed"])):
        image = Image.open(path).convert("RGB")
        kind = "blurred" if place < n_blurred else "over-exposed"
        if kind == "blurred":
            image = image.filter(ImageFilter.GaussianBlur(0.008 * max(image.size)))
        else:
            image = image.point(lambda value: min(255, round(1.6 * value)))
        file = folder / f"{place}.png"
        image.save(file)
        files.append((file, kind))
    return files


def row(name: str, files: Sequence[tuple[Path, str]]) -> str:
    """Return the line of the table for one dataset."""
    began, worked = time.perf_counter(), time.process_time()
    names = [str(number) for number in range(len(files))]
    found = check_images([path for path, _ in files], names)
    seconds, work = time.perf_counter() - began, time.process_time() - worked
    named = {one.name for one in (*found.odd, *found.outliers)}
    counts = Counter(kind for place, (_, kind) in zip(names, files, strict=True) if place in named)
    of = Counter(kind for _, kind in files)
    cells = [f"{counts[kind]} of {of[kind]}" for kind in (*KINDS, "good")]
    return f"| {name} | {' | '.join(cells)} | {seconds:.1f} | {work:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=280)
    options = parser.parse_args()
    sets = [open_dataset(path) for path in options.data]
    print("| | defects | other set | blurred | over-exposed | good ones | seconds | CPU seconds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for place, dataset in enumerate(sets):
        other = sets[(place + 1) % len(sets)]
        with tempfile.TemporaryDirectory() as folder:
            files = mixed(dataset, other, options.images, Path(folder))
            print(row(dataset.name, files), flush=True)


if __name__ == "__main__":
    main()
