"""Feed mutated images and model files to fre: each must end in an answer or in one clean error.

``python tests/fuzz.py --images 2000 --requests 500 --models 300 --seed 0`` prints the outcomes,
the slowest case and the growth of the memory, and exits with 1 if anything else happened. The
mutated file of a failure is kept in the folder ``--keep``.
"""

from __future__ import annotations

import argparse
import collections
import copy
import faulthandler
import gc
import io
import json
import math
import os
import random
import re
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conftest import texture
from fre import FRE, load
from fre.errors import FREError, ImageError
from fre.inference.model_file import read_document, with_document
from fre.inference.prediction import Prediction
from fre.onnx_tools.check import check_model
from fre.onnx_tools.protobuf import DELIMITED, encode_field, walk

SECONDS = 20.0
"""Longest time that one case may take, on a machine with other work."""
HANG = 120
"""Seconds after which the process ends by itself, with the stacks of its threads."""
GROWTH = 150 * 1024**2
"""Largest growth of the memory, in bytes, after the first tenth of the cases."""
SIZE = (72, 88)


@dataclass
class Report:
    """Outcomes of one kind of cases."""

    name: str
    keep: Path | None
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    memory: list[int] = field(default_factory=list)

    def outcome(self, what: str, case: str, seconds: float) -> None:
        self.outcomes[what] += 1
        self.slowest = max(self.slowest, (seconds, case))
        if seconds > SECONDS:
            self.failures.append(f"{case}: took {seconds:.1f} s")

    def failure(self, what: str, case: str, data: bytes) -> None:
        self.outcomes["FAILED"] += 1
        self.failures.append(f"{case}: {what}")
        if self.keep is not None:
            self.keep.mkdir(parents=True, exist_ok=True)
            (self.keep / re.sub(r"[^\w.-]", "_", case)).write_bytes(data)

    def close(self) -> None:
        start, end = self.memory[max(1, len(self.memory) // 10) - 1], self.memory[-1]
        if end - start > GROWTH:
            self.failures.append(f"memory grew by {(end - start) / 1e6:.0f} MB")
        print(f"{self.name}: {sum(self.outcomes.values())} cases")
        for what, n in sorted(self.outcomes.items()):
            print(f"  {n:6d} {what}")
        print(f"  slowest {self.slowest[0]:.2f} s ({self.slowest[1]})")
        print(
            f"  memory {start / 1e6:.0f} -> {end / 1e6:.0f} MB, largest "
            f"{max(self.memory) / 1e6:.0f} MB"
        )
        for failure in self.failures[:20]:
            print(f"  FAILED {failure}")
        sys.stdout.flush()


def memory() -> int:
    """Resident bytes of this process; 0 where the system does not tell them."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


# Images --------------------------------------------------------------------------------------


ADAM7 = (
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)
)  # fmt: skip
"""Passes of an interlaced PNG: first row and column, and the steps to the next ones."""


def interlaced_png(pixels: np.ndarray) -> bytes:
    """Encode uint8 (H, W) as an interlaced PNG, which Pillow does not write."""
    rows = bytearray()
    for top, left, down, across in ADAM7:
        for row in pixels[top::down, left::across]:
            rows += b"\0" + row.tobytes()
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def originals() -> dict[str, bytes]:
    """One file of each documented format and kind, by a name with the format's suffix."""
    colour = Image.fromarray(texture(1, SIZE))
    grey = colour.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    written: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "baseline.jpg": (colour, "JPEG", {"quality": 80}),
        "progressive.jpg": (colour, "JPEG", {"progressive": True, "exif": turned}),
        "grey.jpg": (grey, "JPEG", {}),
        "cmyk.jpg": (colour.convert("CMYK"), "JPEG", {}),
        "colour.png": (colour, "PNG", {}),
        "grey.png": (grey, "PNG", {}),
        "deep.png": (deep, "PNG", {}),
        "palette.png": (colour.convert("P"), "PNG", {}),
        "alpha.png": (colour.convert("RGBA"), "PNG", {}),
        "colour.bmp": (colour, "BMP", {}),
        "palette.bmp": (colour.convert("P"), "BMP", {}),
        "plain.tif": (colour, "TIFF", {}),
        "deep.tif": (deep, "TIFF", {}),
        "lzw.tif": (colour, "TIFF", {"compression": "tiff_lzw"}),
        "deflate.tif": (grey, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "jpeg.tif": (colour, "TIFF", {"compression": "jpeg"}),
        "lossy.webp": (colour, "WEBP", {}),
        "lossless.webp": (colour, "WEBP", {"lossless": True}),
        "colour.ppm": (colour, "PPM", {}),
        "grey.pgm": (grey, "PPM", {}),
        "deep.pgm": (deep, "PPM", {}),
    }
    found = {"interlaced.png": interlaced_png(np.asarray(grey))}
    for name, (image, form, options) in written.items():
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        found[name] = buffer.getvalue()
    return found


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    # Half of them near the beginning, where the sizes are.
    span = len(data) if rng.random() < 0.5 else min(len(data), 256)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        changed[rng.randrange(span)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def swap(data: bytes, rng: random.Random) -> bytes:
    a, b, c, d = sorted(rng.randrange(len(data) + 1) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def number(data: bytes, rng: random.Random) -> bytes:
    """Write an odd number over some bytes: often a length, a size or an offset."""
    value = rng.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFF))
    form = rng.choice((">I", "<I", ">H", "<H"))
    packed = struct.pack(form, value & (0xFFFFFFFF if form[1] == "I" else 0xFFFF))
    span = max(1, min(len(data) - 4, rng.choice((64, 512, len(data)))))
    at = rng.randrange(span)
    return data[:at] + packed + data[at + len(packed) :]


def append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, 100, 100_000)))


def repeat(data: bytes, rng: random.Random) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    return data[:b] + data[a:b] * rng.choice((1, 3, 50)) + data[b:]


MUTATIONS = (flip, cut, swap, number, append, repeat)


def mutated_images(n: int, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of mutated files; each format comes equally often."""
    files = list(originals().items())
    for index in range(n):
        name, data = files[index % len(files)]
        mutations = [rng.choice(MUTATIONS) for _ in range(rng.choice((1, 1, 1, 2)))]
        for mutate in mutations:
            data = mutate(data, rng) if len(data) > 8 else data
        kinds = "+".join(mutate.__name__ for mutate in mutations)
        yield f"{index:05d}-{kinds}-{name}", data


def finite(prediction: Prediction) -> bool:
    map_is_finite = bool(np.isfinite(prediction.input_map).all())
    return map_is_finite and all(map(math.isfinite, (prediction.score, prediction.p_value)))


def fuzz_images(n: int, seed: int, model: Path, report: Report) -> None:
    """Files through `Model.predict_many`."""
    rng = random.Random(seed)
    detector = load(model)
    contents: dict[str, bytes] = {}

    def files() -> Iterator[Path]:
        for name, data in mutated_images(n, rng):
            contents[name] = data
            path = model.with_name(name)
            path.write_bytes(data)
            yield path

    results = detector.predict_many(files(), errors="return")
    while True:
        faulthandler.dump_traceback_later(HANG, exit=True)
        began = time.perf_counter()
        try:
            result = next(results, None)
        except Exception as error:
            report.failure(f"raised {error!r}", f"after {report.slowest[1]}", b"")
            break
        if result is None:
            break
        assert result.path is not None
        name, seconds = result.path.name, time.perf_counter() - began
        data = contents.pop(name)
        if isinstance(result, ImageError):
            clean = name in str(result) and "\n" not in str(result)
            what = "refused" if clean else None
        else:
            what = "predicted" if finite(result) else None
        if what is None:
            report.failure(f"{result!r}"[:300], name, data)
        else:
            report.outcome(what, name, seconds)
        report.memory.append(memory())
        result.path.unlink()
    faulthandler.cancel_dump_traceback_later()
    done = sum(report.outcomes.values())
    if done != n:
        report.failures.append(f"{n - done} results are missing")


# Requests ------------------------------------------------------------------------------------


def no_constant(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def fuzz_requests(n: int, seed: int, model: Path, report: Report) -> None:
    """Images through HTTP, to a service in a process of its own."""
    from serving import Server

    rng = random.Random(seed + 1)
    with Server(model) as server:
        for name, data in mutated_images(n, rng):
            faulthandler.dump_traceback_later(HANG, exit=True)
            url = f"/v1/models/{model.stem}/predict"
            began = time.perf_counter()
            if rng.random() < 0.5:
                answer = server.client.post(url, files=[("files", (name, data))])
            else:
                kind = {"Content-Type": "application/octet-stream"}
                answer = server.client.post(url, content=data, params={"name": name}, headers=kind)
            seconds = time.perf_counter() - began
            try:
                content = json.loads(answer.text, parse_constant=no_constant)
                said = content["error"]["message"] if answer.is_error else content["predictions"]
            except (KeyError, ValueError, RecursionError) as error:
                report.failure(f"{answer.status_code}: {error!r}", name, data)
                continue
            if answer.status_code >= 500 or not said:
                report.failure(f"{answer.status_code}: {said}"[:300], name, data)
            else:
                report.outcome(f"HTTP {answer.status_code}", name, seconds)
            if sys.platform == "linux":
                report.memory.append(server.memory())
        faulthandler.cancel_dump_traceback_later()
        listed = server.client.get("/v1/results", params={"limit": 1})
        if listed.status_code != 200:
            report.failures.append(f"the history answers {listed.status_code}")
        code = server.stop()
        if code or any("Traceback" in line for line in server.log):
            report.failures.append(f"the service ended with {code}: {''.join(server.log)[-2000:]}")
    report.memory = report.memory or [0]


# Model files ---------------------------------------------------------------------------------

ODD: tuple[Any, ...] = (
    math.nan, math.inf, -math.inf, 0, -1, 1, 2**31, 2**63, 10**400, 1e308, -1e-300, 0.5, True, None,
    "", "x", "NaN", "\udcff", "\0", [], [1], [[1]], {}, {"a": 1}, [math.nan] * 3, "x" * 100_000,
)  # fmt: skip


def edited(document: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """Change, remove or add one value somewhere in a document."""
    changed = copy.deepcopy(document)
    place: Any = changed
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = rng.choice(keys)
        inner = place[key]
        if not (isinstance(inner, (dict, list)) and inner) or rng.random() < 0.15:
            break
        place = inner
    action = rng.random()
    if action < 0.15:
        del place[key]
    elif action < 0.25 and isinstance(place, dict):
        place[f"{key}x"] = place.pop(key)
    elif action < 0.35 and isinstance(place, list):
        place.append(rng.choice(place))
    elif action < 0.5 and isinstance(inner, (int, float)):
        place[key] = rng.choice((-inner, inner * 2, inner + 1, inner / 3, inner * 1e9))
    else:
        place[key] = rng.choice(ODD)
    return changed


def restructured(message: bytes, rng: random.Random, depth: int = 0) -> bytes:
    """Repeat, remove, move or renumber one field of a Protocol Buffers message or of one in it."""
    parts, at = [], 0
    for number_, kind, start, stop in walk(message, 0, len(message)):
        parts.append((number_, kind, message[at:stop], message[start:stop]))
        at = stop
    if not parts:
        return message
    place = rng.randrange(len(parts))
    number_, kind, whole, content = parts[place]  # the content of bytes; of a number, nothing
    pieces = [part[2] for part in parts]
    if kind == DELIMITED and depth < 5 and rng.random() < 0.7:
        try:
            pieces[place] = encode_field(number_, restructured(content, rng, depth + 1))
        except (ValueError, IndexError):  # a text or numbers, and no message
            pieces[place] = encode_field(number_, flip(content, rng) if content else b"\1")
        return b"".join(pieces)
    action = rng.randrange(4)
    if action == 0:
        pieces[place] = whole * rng.choice((2, 3, 1000 if len(whole) < 1000 else 2))
    elif action == 1:
        pieces[place] = b""
    elif action == 2:
        other = rng.randrange(len(pieces))
        pieces[place], pieces[other] = pieces[other], pieces[place]
    elif kind == DELIMITED:
        pieces[place] = encode_field(rng.randrange(1, 30), content)
    else:
        pieces[place] = bytes([whole[0]]) + rng.choice((b"\0", b"\1", b"\xff\xff\xff\xff\x7f"))
    return b"".join(pieces)


def mutated_models(n: int, rng: random.Random, whole: bytes) -> Iterator[tuple[str, bool, bytes]]:
    """Yield a name, whether the digest is right again, and the content of each mutated file."""
    document = read_document(check_model(whole)).to_json()

    def signed(data: bytes) -> tuple[bool, bytes]:
        try:
            return True, with_document(data, document)
        except (FREError, ValueError, IndexError):
            return False, data  # it is no message any more

    kinds: dict[str, Callable[[], tuple[bool, bytes]]] = {
        "flip": lambda: (False, flip(whole, rng)),
        "cut": lambda: (False, cut(whole, rng)),
        "append": lambda: (False, append(whole, rng)),
        "document": lambda: (True, with_document(whole, edited(document, rng))),
        "structure": lambda: signed(restructured(whole, rng)),
        "signed-flip": lambda: signed(flip(whole, rng)),
    }
    for index in range(n):
        name = list(kinds)[index % len(kinds)]
        yield f"{index:05d}-{name}.onnx", *kinds[name]()


def fuzz_models(n: int, seed: int, model: Path, report: Report) -> None:
    """Model files through `load`; those that load judge an image."""
    rng = random.Random(seed + 2)
    whole = model.read_bytes()
    image = texture(5, SIZE)
    path = model.with_name("mutated.onnx")
    for name, right_digest, data in mutated_models(n, rng, whole):
        faulthandler.dump_traceback_later(HANG, exit=True)
        path.write_bytes(data)
        kind = name.split("-", 1)[1].removesuffix(".onnx")
        began = time.perf_counter()
        try:
            loaded = load(path, threads=1)
            if data == whole:
                what = "unchanged"
            elif not right_digest:
                report.failure("a damaged file was loaded", name, data)
                continue
            else:
                what = "predicted" if finite(loaded.predict(image)) else ""
                # What it says of itself is JSON that every client reads.
                json.dumps(loaded.metadata, allow_nan=False)
        except FREError as error:
            what = "refused" if "\n" not in str(error) else ""
            if error.exit_code == 1:
                what = ""
            said: object = error
        except Exception as error:
            what, said = "", error
        if not what:
            report.failure(f"{said!r}"[:300], name, data)
        else:
            report.outcome(f"{kind}: {what}", name, time.perf_counter() - began)
        gc.collect()
        report.memory.append(memory())
    faulthandler.cancel_dump_traceback_later()
    path.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000, help="files through predict_many")
    parser.add_argument("--requests", type=int, default=500, help="files through HTTP")
    parser.add_argument("--models", type=int, default=300, help="model files through load")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files of failures")
    options = parser.parse_args()
    faulthandler.enable()
    # As the command line does: decoders remark on what they skip.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    reports = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = FRE(size=64).fit([texture(seed, SIZE) for seed in range(12)])
        file = model.save(folder / "part.onnx")
        del model
        for what, n, fuzz in (
            ("images", options.images, fuzz_images),
            ("requests", options.requests, fuzz_requests),
            ("models", options.models, fuzz_models),
        ):
            if n == 0:
                continue
            report = Report(what, options.keep)
            fuzz(n, options.seed, file, report)
            report.close()
            reports.append(report)
    failed = sum(len(report.failures) for report in reports)
    print(f"{failed} failures with seed {options.seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
