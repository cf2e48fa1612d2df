"""The pass over the training images beside the bare backbone, by what the files are.

    python benchmarks/features.py FOLDER [--count 200] [--repeats 5] [--side 512]

The images of FOLDER are stretched to squares and written anew as JPEG and PNG of several sizes, in
grey and in colour (green and blue are the grey image, shifted by one and two pixels), PNG also in
grey stored as RGB. `files to features` is what training does first: read, decode, resize, run the
network, keep the features and a thumbnail. `bare` is ONNX Runtime as it comes, all cores in one run
after another, on tensors that lie in memory, at the batch size that suits it best; `decoding` reads
the files on all cores and does nothing else. All take turns; printed are medians of milliseconds an
image, and the least and the most. With `--processor-time`, for a machine with other work, they are
processor time of all cores together; `bare` then runs on one thread, which waits for no other.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import onnxruntime as ort
from PIL import Image, ImageChops

from fre import FRE
from fre.backbones import get_backbone
from fre.features.extractor import FeatureExtractor
from fre.images.decode import find_images, read_image, read_resized
from fre.parallel import available_cores
from measuring import Summary, machine, machine_text, repeated, table

KINDS = (
    *(("jpg", side, mode) for mode in ("L", "RGB") for side in (256, 512, 640, 1024, 2048)),
    *(("png", side, mode) for mode in ("L", "3L", "RGB") for side in (512, 1024)),
)
COLOURS = {"L": "grey", "3L": "grey as RGB", "RGB": "colour"}
BATCHES = (1, 4, 16)
PACKAGES = ("onnxruntime", "numpy", "pillow", "kornia-rs")


def coloured(image: Image.Image, mode: str) -> Image.Image:
    grey = image.convert("L")
    if mode == "L":
        return grey
    shifts = (0, 0, 0) if mode == "3L" else (0, 1, 2)
    return Image.merge("RGB", [ImageChops.offset(grey, shift) for shift in shifts])


def written(
    images: Sequence[Image.Image], folder: Path, suffix: str, side: int, mode: str
) -> list[Path]:
    options: dict[str, Any] = {"quality": 92} if suffix == "jpg" else {}
    files = []
    for number, image in enumerate(images):
        files.append(folder / f"{mode}-{side}-{number}.{suffix}")
        coloured(image.resize((side, side)), mode).save(files[-1], **options)
    return files


def timed(work: Callable[[], object], count: int, clock: Callable[[], float]) -> float:
    began = clock()
    work()
    return (clock() - began) / count * 1e3


class Bare:
    """The backbone alone, in a session with no options but ONNX Runtime's own, and the threads."""

    def __init__(self, extractor: FeatureExtractor, count: int, threads: int) -> None:
        data, options = extractor.network.SerializeToString(), ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        shape = (max(BATCHES), 3, *extractor.geometry.size)
        self.tensor = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        self.count = count

    def run(self, batch: int) -> None:
        for start in range(0, self.count, batch):
            wanted = self.tensor[: min(batch, self.count - start)]
            self.session.run(None, {self.input: wanted})


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--count", default=200, show_default=True, help="Images; those there are, repeated.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--preset", default="reference", show_default=True)
@click.option("--size", default=256, show_default=True, help="Of the input.")
@click.option("--side", "sides", type=int, multiple=True, help="Of the files; otherwise all.")
@click.option("--format", "formats", multiple=True, help="jpg or png; otherwise both.")
@click.option("--processor-time", is_flag=True, help="Count processor time.")
def main(
    folder: Path,
    count: int,
    repeats: int,
    preset: str,
    size: int,
    sides: tuple[int, ...],
    formats: tuple[str, ...],
    processor_time: bool,
) -> None:
    """Measure on the images of FOLDER."""
    backbone = get_backbone("efficientnet_lite0")
    extractor = FRE("efficientnet_lite0", preset=preset, size=size)._extractor(backbone)
    sources = find_images(folder)
    images = [Image.fromarray(read_image(path)) for path in sources[:count]]
    bare = Bare(extractor, count, threads=int(processor_time))
    clock = time.process_time if processor_time else time.perf_counter
    print(
        f"{count} images of {folder.name}, efficientnet_lite0 at {size} x {size}, {preset} preset; "
        f"{repeats} rounds in turn, milliseconds {'of a processor ' * processor_time}an image.\n\n"
        f"{machine_text(machine(PACKAGES))}\n"
    )
    rows = []
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(available_cores()) as pool:
        for suffix, side, mode in KINDS:
            if (sides and side not in sides) or (formats and suffix not in formats):
                continue
            files = repeated(written(images, Path(scratch), suffix, side, mode), count)

            def decode(files: list[Path] = files) -> None:
                list(pool.map(lambda file: read_resized(file, extractor.geometry.target), files))

            def extract(files: list[Path] = files) -> None:
                extractor.extract(files)

            works: dict[str, Callable[[], object]] = {"decoding": decode, "features": extract}
            works |= {f"bare {n}": partial(bare.run, n) for n in BATCHES}
            for work in works.values():
                work()
            found: dict[str, list[float]] = {name: [] for name in works}
            for _ in range(repeats):
                for name, work in works.items():
                    found[name].append(timed(work, count, clock))
            best = min((f"bare {n}" for n in BATCHES), key=lambda name: median(found[name]))
            ratios = [f / b for f, b in zip(found["features"], found[best], strict=True)]
            columns = (found["decoding"], found["features"], found[best], ratios)
            name = f"{side} px {suffix.upper()}, {COLOURS[mode]}"
            rows.append([name, *(Summary.of(c).text() for c in columns)])
    print(table(["file", "decoding", "files to features", "bare", "ratio"], rows))


if __name__ == "__main__":
    main()
