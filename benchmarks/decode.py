"""Pillow, fre and OpenCV: what they read, and how fast they decode and downscale.

    pip install -r benchmarks/requirements-decode.txt
    python benchmarks/decode.py FOLDER_OF_IMAGES

All read the same files and give uint8 RGB at 256 x 256, on one thread, in turns; printed are
medians of the processor time of that thread, and ratios of pairs. fre decodes plain PNG files by
kornia-rs (`fre-vision[fast]`), all others by Pillow. Then each gets files that are damaged or
unusual.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import click
import cv2
import numpy as np
import PIL
from PIL import Image

from fre.errors import ImageError
from fre.images import decode
from fre.images.decode import find_images, read_image, read_resized

SIDE = 256
ROUNDS = 3


def small_with_fre(file: Path) -> np.ndarray:
    return read_resized(file, (SIDE, SIDE))[0]


def small_with_pillow(file: Path) -> np.ndarray:
    with patch.object(decode, "png_pixels", lambda file: None):
        return small_with_fre(file)


def small_with_opencv(file: Path) -> np.ndarray:
    small = cv2.resize(whole_with_opencv(file), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_BGR2RGB)


def whole_with_opencv(file: Path) -> np.ndarray:
    image = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError(file, "no image")
    return image


READERS = (small_with_pillow, small_with_fre, small_with_opencv)


def milliseconds(read: Callable[[Path], np.ndarray], file: Path) -> float:
    began = time.thread_time()
    read(file)
    return (time.thread_time() - began) * 1e3


def save(image: Image.Image, file: Path, **options: Any) -> Path:
    image.save(file, **options)
    return file


def speed(images: list[Image.Image], folder: Path) -> None:
    print(f"\n| file | Pillow {PIL.__version__} | fre | OpenCV {cv2.__version__} | fre / Pillow |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for mode, name in (("L", "grey"), ("RGB", "colour")):
        for suffix, options in (("jpg", {"quality": 92}), ("png", {}), ("bmp", {})):
            for side in (256, 512, 1024, 2048):
                size = (side, side)
                files = [
                    save(image.convert(mode).resize(size), folder / f"{i}.{suffix}", **options)
                    for i, image in enumerate(images)
                ]
                turns = [
                    [milliseconds(read, file) for read in READERS]
                    for _ in range(ROUNDS)
                    for file in files
                ]
                cells = [f"{median(column):.2f} ms" for column in zip(*turns, strict=True)]
                ratio = median(fre / pillow for pillow, fre, _ in turns)
                print(f"| {name} {suffix}, {side} px | {' | '.join(cells)} | {ratio:.2f} |")


def oddities(image: Image.Image, folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "palette PNG": save(image.convert("P"), folder / "palette.png"),
        "TIFF, to be turned": save(image.resize((64, 32)), folder / "turned.tif", exif=exif),
    }
    for suffix in ("jpg", "png", "webp", "bmp"):
        file = save(image, folder / f"half.{suffix}")
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        files[f"first half of a {suffix}"] = file
    print("\n| file | Pillow | OpenCV |")
    print("| --- | --- | --- |")
    for name, file in files.items():
        print(f"| {name} | {outcome(read_image, file)} | {outcome(whole_with_opencv, file)} |")


def outcome(read: Callable[[Path], np.ndarray], file: Path) -> str:
    try:
        image = read(file)
    except ImageError:
        return "refused"
    return "{} x {} pixels, no error".format(*image.shape)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--limit", default=20, show_default=True, help="Images to use.")
def main(folder: Path, limit: int) -> None:
    """Compare the decoders on the images of FOLDER, re-encoded at several sizes."""
    cv2.setNumThreads(1)
    images = [Image.fromarray(read_image(path)) for path in find_images(folder)[:limit]]
    print(f"{len(images)} images of {folder.name}, {ROUNDS} rounds, median")
    with tempfile.TemporaryDirectory() as scratch:
        speed(images, Path(scratch))
        oddities(images[0], Path(scratch))


if __name__ == "__main__":
    main()
