"""Train, update, serve and compare scores on drawn images, to try an installation."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any, NamedTuple

import numpy as np

from fre.checks.model_check import TOLERANCE, check_file
from fre.datasets import open_dataset
from fre.datasets.plate_dataset import PlateSet, write_dataset
from fre.detector import FRE
from fre.evaluation.evaluate import evaluate
from fre.model import Model, load

SIZE = 128
"""Side of the drawn images and of the network's input, in pixels."""

LEAST_AUROC = 0.8
"""Images are few and small: a sound installation gives 0.84 in the quick test, else 0.89."""

START_SECONDS = 60.0
SERVE_NEEDS = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


class Step(NamedTuple):
    """Outcome of one step.

    Attributes:
        name: action of the step, in words.
        outcome: ``"passed"``, ``"failed"`` or ``"skipped"``.
        detail: figures; or why the step failed or was skipped.
        seconds: time that it took.
    """

    name: str
    outcome: str
    detail: str
    seconds: float


class _FailedError(Exception):
    """A step found something wrong."""


class _SkippedError(Exception):
    """A step can't run here."""


@dataclass
class _Run:
    """State that the steps hand on.

    Attributes:
        folder: empty folder for images and models.
        n_train: number of training images, a few of which are kept for the update.
    """

    folder: Path
    n_train: int
    models: list[Model] = field(default_factory=list)

    @property
    def plates(self) -> Path:
        return self.folder / "plates"

    @property
    def file(self) -> Path:
        return self.folder / "models" / "plate.onnx"

    @property
    def good(self) -> list[Path]:
        return [sample.path for sample in open_dataset(self.plates).train]

    @property
    def tested(self) -> list[Path]:
        return [sample.path for sample in open_dataset(self.plates).test]

    def draw(self) -> str:
        write_dataset(self.plates, PlateSet(self.n_train, n_good=8, n_defect=16, size=SIZE))
        return f"{self.n_train} good images to train on, 24 to test on"

    def train(self) -> str:
        detector = FRE(size=SIZE)
        model = detector.fit(self.good[:-4])
        self.file.parent.mkdir()
        model.save(self.file)
        self.models.append(model)
        return f"{self.n_train - 4} images in {detector.seconds_['total']:.1f} s"

    def find(self) -> str:
        found = evaluate(self.models[0], open_dataset(self.plates))
        if found.image_auroc is None or not found.image_auroc >= LEAST_AUROC:
            raise _FailedError(f"image AUROC {found.image_auroc}, expected {LEAST_AUROC} or more")
        return f"image AUROC {found.image_auroc:.3f}"

    def reload(self) -> str:
        images = self.tested[:8]
        before = [self.models[0].predict(image).score for image in images]
        after = [load(self.file).predict(image).score for image in images]
        return _compared(after, before, "the saved model")

    def update(self) -> str:
        model = self.models[0].update(self.good[-4:], accept_anomalous=True)
        count = model.document.provenance.n_images
        if count != self.n_train:
            raise _FailedError(f"{count} images after the update, expected {self.n_train}")
        model.save(self.folder / "models" / "updated.onnx")
        return f"4 more images, {count} in all"

    def compare_runtimes(self) -> str:
        found = check_file(self.file)
        if found.problems:
            raise _FailedError("; ".join(found.problems))
        if len(found.runtimes) < 2:
            raise _SkippedError("; ".join(found.remarks))
        return ", ".join(
            f"{one.name} {one.milliseconds:.1f} ms an image, largest difference "
            f"{one.score_difference:.1e}"
            for one in found.runtimes
        )

    def serve(self) -> str:
        absent = [name for name in SERVE_NEEDS if importlib.util.find_spec(name) is None]
        if absent:
            raise _SkippedError(f"{absent[0]} is not installed: pip install 'fre-vision[serve]'")
        images = self.tested[:8]
        with _Service(self.file.parent) as service:
            scores = [service.score("plate", image) for image in images]
        expected = [load(self.file).predict(image).score for image in images]
        return _compared(scores, expected, "the service")


class _Service:
    """``fre serve`` in a process of its own, on a free port of this machine."""

    def __init__(self, models: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fre", "serve", str(models), "--port", "0"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.lines: Queue[str | None] = Queue()
        self.reader = Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.put(line)
        self.lines.put(None)

    def __enter__(self) -> _Service:
        try:
            self.url = self._address()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _address(self) -> str:
        said = ""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                line = self.lines.get(timeout=max(0.1, deadline - time.monotonic()))
            except Empty:
                raise _FailedError(f"fre serve did not start in {START_SECONDS:g} s") from None
            if line is None:
                raise _FailedError(f"fre serve ended: {' '.join(said.split())}")
            said += line
            if found := re.search(r"the page is at (\S+)", line):
                return found[1].rstrip("/")

    def score(self, model: str, image: Path) -> float:
        """Return the score of an image file."""
        request = urllib.request.Request(
            f"{self.url}/v1/models/{model}/predict",
            image.read_bytes(),
            {"Content-Type": "application/octet-stream"},
        )
        # Not through a proxy: the service is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=START_SECONDS) as answer:
            body: dict[str, Any] = json.load(answer)
        return float(body["predictions"][0]["score"])

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()


def _compared(scores: list[float], expected: list[float], what: str) -> str:
    a, b = np.array(scores), np.array(expected)
    difference = float((np.abs(a - b) / np.maximum(1, np.abs(b))).max())
    if not difference <= TOLERANCE:
        raise _FailedError(f"scores of {what} differ by {difference:.1e}, more than {TOLERANCE:g}")
    return f"{len(a)} scores, largest difference {difference:.1e}"


def self_test(folder: Path, *, quick: bool = False) -> Iterator[Step]:
    """Try the installation on drawn images, and yield each step when it is over.

    Nothing follows a failed step, since later steps need its result.

    Args:
        folder: empty folder for images and models.
        quick: draw, train and find defects only, in about 5 seconds.
    """
    run = _Run(folder, 24 if quick else 40)
    steps: list[tuple[str, Callable[[], str]]] = [
        ("draw images", run.draw),
        ("train", run.train),
        ("find defects", run.find),
    ]
    if not quick:
        steps += [
            ("save and load", run.reload),
            ("update", run.update),
            ("compare runtimes", run.compare_runtimes),
            ("serve", run.serve),
        ]
    for name, work in steps:
        start = time.perf_counter()
        finished = partial(_step, name, start)
        try:
            yield finished("passed", work())
        except _SkippedError as error:
            yield finished("skipped", str(error))
        except Exception as error:  # any fault of the installation is a result
            kind = "" if isinstance(error, _FailedError) else f"{type(error).__name__}: "
            yield finished("failed", f"{kind}{error}")
            return


def _step(name: str, start: float, outcome: str, detail: str) -> Step:
    return Step(name, outcome, detail, time.perf_counter() - start)
