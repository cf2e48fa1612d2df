"""Do programs in other languages give the scores of fre, and what does an image cost them?

    python benchmarks/languages.py MODEL IMAGES [--count 50] [--turns 3]

MODEL is a model of fre, IMAGES a folder. The programs of `examples/` score the same images, saved
as PNG, and as the files they are. Printed are the largest differences from `Model.predict`, and the
milliseconds an image: (time of all images - time of the first) / (number - 1), median of turns, in
which the programs alternate; this is with decoding and resizing, on all cores. A program whose
tools are not installed is named with the reason. Then follows what a resize within a graph does to
the scores, and what it costs.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.server
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from fre.images.decode import find_images, read_image
from fre.model import Model, load

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
HEADERS = ("/usr/include", "/usr/local/include")

Answer = dict[str, Any]
Program = Callable[[Path, Sequence[Path]], list[Answer]]
"""From a model and image files to a JSON object for each image."""


class MissingToolError(Exception):
    """A program can't run here; the message says what it needs."""


def _lines(command: Sequence[object], model: Path, images: Sequence[Path]) -> list[Answer]:
    done = subprocess.run(
        [*map(str, command), str(model), *map(str, images)], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{command}: exit code {done.returncode}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _quiet(command: Sequence[object], folder: Path) -> None:
    done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} fails: {(done.stdout + done.stderr).strip()[-800:]}")


def python(_: Path) -> Program:
    """The Python program, in this interpreter."""
    return functools.partial(_lines, [sys.executable, EXAMPLES / "python" / "score.py"])


def install_javascript(folder: Path) -> Path:
    """Copy the JavaScript programs and install their packages, unless that is done."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            raise MissingToolError(f"needs {tool}: apt install nodejs npm")
    target = folder / "javascript"
    if not (target / "node_modules").exists():
        shutil.copytree(
            EXAMPLES / "javascript", target, ignore=shutil.ignore_patterns("node_modules")
        )
        # Without scripts: they fetch what only graphics cards need.
        _quiet(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], target)
    return target


def javascript(folder: Path) -> Program:
    """The program for Node.js."""
    return functools.partial(_lines, ["node", install_javascript(folder) / "score.js"])


def cpp(folder: Path) -> Program:
    """The C++ program, compiled with the headers and libraries of OpenVINO's wheel."""
    if importlib.util.find_spec("openvino") is None:
        raise MissingToolError("needs fre-vision[openvino]")
    for tool in ("cmake", "c++"):
        if shutil.which(tool) is None:
            raise MissingToolError(f"needs {tool}: apt install cmake g++ libstb-dev")
    import openvino

    build = folder / "cpp"
    config = f"-DOpenVINO_DIR={Path(openvino.__path__[0]) / 'cmake'}"
    if not any(Path(root, "stb", "stb_image.h").exists() for root in HEADERS):
        raise MissingToolError("needs stb_image.h: apt install libstb-dev")
    _quiet(["cmake", "-S", EXAMPLES / "cpp", "-B", build, config], folder)
    _quiet(["cmake", "--build", build], folder)
    return functools.partial(_lines, [build / "score"])


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def page(folder: Path) -> Iterator[Program]:
    """The page, in Chromium, served from a port of this machine."""
    if importlib.util.find_spec("playwright") is None:
        raise MissingToolError("needs fre-vision[test-page]")
    if CHROMIUM is None:
        raise MissingToolError("needs Chromium: apt install chromium")
    from playwright.sync_api import sync_playwright

    handler = functools.partial(_Quiet, directory=str(install_javascript(folder)))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            tab = browser.new_page()
            tab.set_default_timeout(300_000)

            def run(model: Path, images: Sequence[Path]) -> list[Answer]:
                tab.goto(f"http://127.0.0.1:{server.server_port}/index.html")
                tab.set_input_files("#model", model)
                tab.wait_for_function("document.querySelector('#answers').textContent.trim()")
                text = tab.inner_text("#answers").strip()
                if text != "The model is ready.":
                    raise RuntimeError(text)
                tab.set_input_files("#images", list(images))
                tab.wait_for_function(
                    "n => document.querySelector('#answers').textContent.split('\\n').length > n",
                    arg=len(images) + 1,
                )
                lines = tab.inner_text("#answers").strip().splitlines()[1:]
                return [json.loads(line) for line in lines]

            yield run
            browser.close()
    finally:
        server.shutdown()
        server.server_close()


def spread(folder: Path, count: int) -> list[Path]:
    """Return up to ``count`` images of a folder, spread evenly."""
    files = find_images(folder)
    count = min(count, len(files))
    return [files[i * len(files) // count] for i in range(count)]


def as_png(files: Sequence[Path], folder: Path) -> list[Path]:
    """Save images as PNG, whose pixels every decoder reads alike."""
    folder.mkdir()
    saved = [folder / f"{index:03d}.png" for index in range(len(files))]
    for file, place in zip(files, saved, strict=True):
        Image.fromarray(read_image(file)).save(place)
    return saved


def differences(scores: Sequence[float], expected: Sequence[float]) -> tuple[float, float]:
    """Return the largest absolute and relative difference; scores below 1 count as 1."""
    a, b = np.asarray(scores, np.float64), np.asarray(expected, np.float64)
    far = np.abs(a - b)
    return float(far.max()), float((far / np.maximum(1, np.abs(b))).max())


def _programs(stack: contextlib.ExitStack, folder: Path) -> dict[str, Program]:
    makers: dict[str, Callable[[], Program]] = {
        "Python, ONNX Runtime": lambda: python(folder),
        "JavaScript, onnxruntime-node": lambda: javascript(folder),
        "JavaScript in Chromium, onnxruntime-web": lambda: stack.enter_context(page(folder)),
        "C++, OpenVINO": lambda: cpp(folder),
    }
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except MissingToolError as error:
            print(f"{name}: not run: {error}")
    return found


def _seconds(program: Program, model: Path, images: Sequence[Path]) -> float:
    start = time.perf_counter()
    program(model, images)
    return time.perf_counter() - start


def compare(model: Path, files: Sequence[Path], turns: int) -> None:
    """Print the table of languages."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        programs = _programs(stack, folder)
        sets = {"PNG": as_png(files, folder / "png"), "files": list(files)}
        fre = load(model)
        expected = {
            name: [fre.predict(path).score for path in images] for name, images in sets.items()
        }
        scores = {
            (name, kind): [answer["score"] for answer in program(model, images)]
            for name, program in programs.items()
            for kind, images in sets.items()
        }
        taken: dict[str, list[float]] = {name: [] for name in programs}
        images = sets["PNG"]
        for _ in range(turns):
            for name, program in programs.items():
                alone = _seconds(program, model, images[:1])
                all_of_them = _seconds(program, model, images)
                taken[name].append(1000 * (all_of_them - alone) / (len(images) - 1))
    print("| program | largest difference | relative | of the files as they are | ms an image |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in programs:
        far, relative = differences(scores[name, "PNG"], expected["PNG"])
        of_files = differences(scores[name, "files"], expected["files"])[0]
        print(
            f"| {name} | {far:.1e} | {relative:.1e} | {of_files:.1e} | {median(taken[name]):.1f} |"
        )


def onnx_resize(size: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """Return ONNX's own antialiased Resize, as ONNX Runtime computes it."""
    import onnxruntime
    from onnx import TensorProto, helper

    sizes = helper.make_tensor("sizes", TensorProto.INT64, [4], [1, *size, 3])
    node = helper.make_node(
        "Resize",
        ["image", "", "", "sizes"],
        ["images"],
        mode="linear",
        antialias=1,
        exclude_outside=1,
    )
    given = helper.make_tensor_value_info("image", TensorProto.UINT8, [1, "h", "w", 3])
    out = helper.make_tensor_value_info("images", TensorProto.UINT8, [1, *size, 3])
    graph = helper.make_graph([node], "resize", [given], [out], [sizes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda pixels: session.run(None, {"image": pixels[None]})[0][0]


def openvino_resize(size: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """Return OpenVINO's preprocessing RESIZE_BILINEAR_PILLOW, in uint8."""
    import openvino as ov
    from openvino import opset13 as ops
    from openvino.preprocess import PrePostProcessor, ResizeAlgorithm

    parameter = ops.parameter([1, *size, 3], np.uint8)
    steps = PrePostProcessor(ov.Model([ops.convert(parameter, "u8")], [parameter]))
    steps.input().tensor().set_layout(ov.Layout("NHWC")).set_spatial_dynamic_shape()
    steps.input().model().set_layout(ov.Layout("NHWC"))
    steps.input().preprocess().resize(ResizeAlgorithm.RESIZE_BILINEAR_PILLOW)
    compiled = ov.Core().compile_model(steps.build(), "CPU")
    return lambda pixels: np.array(compiled([pixels[None]])[0][0])


def resizes(model: Model, files: Sequence[Path], turns: int) -> None:
    """Print what resizing within a graph does to the scores."""

    def by_pillow(pixels: np.ndarray) -> np.ndarray:
        image = Image.fromarray(pixels).resize((model.size[1], len(pixels)), 2)
        return np.asarray(image.resize((model.size[1], model.size[0]), 2))

    ways = {"Pillow, by width, then by height": by_pillow}
    ways["ONNX Resize, antialias, on ONNX Runtime"] = onnx_resize(model.size)
    if importlib.util.find_spec("openvino") is not None:
        ways["OpenVINO, RESIZE_BILINEAR_PILLOW"] = openvino_resize(model.size)
    pixels = [read_image(file) for file in files]
    expected = [model.predict(image).score for image in pixels]
    print("\n| resize | largest difference | relative | pixels that differ | ms an image |")
    print("| --- | ---: | ---: | ---: | ---: |")
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name, way in ways.items():
            for image in pixels:
                start = time.perf_counter()
                way(image)
                taken[name].append(1000 * (time.perf_counter() - start))
    for name, way in ways.items():
        small = [way(image) for image in pixels]
        far, relative = differences([model.predict(image).score for image in small], expected)
        pairs = zip(small, map(by_pillow, pixels), strict=True)
        other = np.mean([np.mean(a != b) for a, b in pairs])
        print(f"| {name} | {far:.1e} | {relative:.1e} | {other:.2%} | {median(taken[name]):.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--turns", type=int, default=3)
    given = parser.parse_args()
    files = spread(given.images, given.count)
    compare(given.model, files, given.turns)
    resizes(load(given.model), files, given.turns)


if __name__ == "__main__":
    main()
