"""What `predict` adds to the bare graph on the images that cost it most.

    python benchmarks/worst_image.py MODEL FOLDER

Images that are anomalous everywhere (noise, black, white, half a part), and the images of FOLDER
that `predict` adds most to. All are arrays of the input's size in memory. The graph and `predict`
take turns on one thread, and the time of that thread is counted, which other programs do not
lengthen by keeping the core busy. On two cores the graph takes at least half as long, and what
`predict` adds stays on one: the last column is the most that the ratio can be there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import numpy as np
from numpy.typing import NDArray

from fre import Model, load
from fre.images.decode import find_images, read_resized
from measuring import table

ROUNDS = 3
ROUNDS_OF_WORST = 25
WORST = 5


def seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def measured(model: Model, pixels: NDArray[np.uint8], rounds: int) -> tuple[float, float]:
    """Median of the graph's time and of the ratios of `predict` to it."""
    pairs = []
    for _ in range(rounds):
        graph = seconds(lambda: model._for_one.run(pixels[None]))
        pairs.append((graph, seconds(lambda: model.predict(pixels)) / graph))
    return median(graph for graph, _ in pairs), median(ratio for _, ratio in pairs)


def made(size: tuple[int, int], good: NDArray[np.uint8]) -> dict[str, NDArray[np.uint8]]:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    half = good.copy()
    half[size[0] // 2 :] = 0
    return {
        "noise": noise,
        "black": np.zeros((*size, 3), np.uint8),
        "white": np.full((*size, 3), 255, np.uint8),
        "half a part": half,
    }


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
def main(file: Path, folder: Path) -> None:
    """Measure MODEL on made images and on those of FOLDER."""
    model = load(file, threads=1)
    files = find_images(folder)
    images = {str(path.relative_to(folder)): read_resized(path, model.size)[0] for path in files}
    model.predict(images[next(iter(images))])
    ratios = {name: measured(model, pixels, ROUNDS)[1] for name, pixels in images.items()}
    worst = sorted(ratios, key=ratios.__getitem__)[-WORST:]
    chosen = made(model.size, images[worst[-1]]) | {name: images[name] for name in worst}
    rows = []
    for name, pixels in chosen.items():
        graph, ratio = measured(model, pixels, ROUNDS_OF_WORST)
        regions = len(model.predict(pixels).regions)
        rows.append(
            [name, str(regions), f"{graph * 1e3:.2f}", f"{ratio:.3f}", f"{2 * ratio - 1:.3f}"]
        )
    print(f"{len(files)} images of {folder}, input {model.size[0]} x {model.size[1]}\n")
    print(table(["image", "regions", "graph, ms", "one core", "two cores, at most"], rows))


if __name__ == "__main__":
    main()
