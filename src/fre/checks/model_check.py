"""Check a model file: integrity, speed, and agreement of the runtimes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.datasets.plates import KINDS, draw_plate
from fre.images.decode import read_resized
from fre.inference.predictor import OUTPUTS
from fre.model import Model, load
from fre.runtimes.fastest import CANDIDATES
from fre.runtimes.measure import median_milliseconds
from fre.runtimes.runtime import Runtime, available_runtimes, open_runtime

TOLERANCE = 1e-4
"""Largest difference of scores, as a share of the score, and of 1 for smaller scores; of maps, as a
share of the image's largest map value, and of 1."""

IMAGES = 8
"""Number of drawn images."""


@dataclass(frozen=True)
class RuntimeCheck:
    """Figures of one runtime.

    Attributes:
        name: one of `fre.runtimes.runtime.RUNTIMES`.
        seconds_to_first: time from the bytes of the file to the first score.
        milliseconds: median time of the graph on one image.
        score_difference: largest difference from the scores of ONNX Runtime, see `TOLERANCE`.
        map_difference: largest difference from its anomaly maps.
    """

    name: str
    seconds_to_first: float
    milliseconds: float
    score_difference: float
    map_difference: float


@dataclass(frozen=True)
class ModelCheck:
    """Result of the checks of one model file.

    Attributes:
        megabytes: size of the file.
        runtimes: figures of each runtime, ONNX Runtime first.
        remarks: checks that were left out, each with the reason.
        problems: faults, one sentence each; empty if the model is sound.
    """

    megabytes: float
    runtimes: tuple[RuntimeCheck, ...]
    remarks: tuple[str, ...]
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return asdict(self)


def check_file(path: Path | str, *, threads: int = 0) -> ModelCheck:
    """Check a model file on this machine.

    Loading compares the digest and checks document and graph. Then each installed runtime for the
    processor scores drawn images, whose scores need no sense to be compared.

    Args:
        path: model file.
        threads: number of threads of the network, 0 for all cores.

    Raises:
        ModelFileError: the file is missing, damaged, or not a model of fre.
        InternalError: a runtime refuses the model.
    """
    model = load(path)
    integer = model.document.backbone.precision == "int8"
    # 8-bit models are fitted to the rounding of ONNX Runtime, see docs/runtimes.md.
    names = [name for name in CANDIDATES if name in available_runtimes()]
    remarks = [f"{name} is not installed" for name in CANDIDATES if name not in names]
    if integer and len(names) > 1:
        remarks.append("an 8-bit model: its threshold holds on onnxruntime only")
        names = names[:1]
    images = _inputs(model)
    opened, first_seconds = _opened(model, names, images[0], threads)
    answers = [[runtime.run(image, _tile()) for image in images] for runtime in opened]
    milliseconds = median_milliseconds(opened, images)
    checks = [
        RuntimeCheck(runtime.name, began, taken, *_differences(answer, answers[0]))
        for runtime, began, taken, answer in zip(
            opened, first_seconds, milliseconds, answers, strict=True
        )
    ]
    return ModelCheck(
        len(model.data) / 1e6, tuple(checks), tuple(remarks), tuple(_problems(checks))
    )


def _inputs(model: Model) -> list[NDArray[np.uint8]]:
    """Return drawn plates at the size of the network's input: uint8 (1, H, W, 3) each."""
    kinds = ["good", *KINDS]
    plates = [draw_plate(index, kind=kinds[index % len(kinds)])[0] for index in range(IMAGES)]
    return [read_resized(plate, model.size)[0][None] for plate in plates]


def _tile() -> NDArray[np.int64]:
    return np.zeros(1, np.int64)


def _opened(
    model: Model, names: list[str], image: NDArray[np.uint8], threads: int
) -> tuple[list[Runtime], list[float]]:
    """Open the runtimes, and return the seconds that each took to its first score."""
    opened, seconds = [], []
    for name in names:
        start = time.perf_counter()
        runtime = open_runtime(model.data, OUTPUTS, runtime=name, threads=threads)
        runtime.run(image, _tile())
        seconds.append(time.perf_counter() - start)
        opened.append(runtime)
    return opened, seconds


def _differences(
    answers: list[list[NDArray[np.float32]]], expected: list[list[NDArray[np.float32]]]
) -> tuple[float, float]:
    """Return the largest difference of scores and of maps; NaN if a value is not finite."""
    largest = [0.0, 0.0]
    for answer, other in zip(answers, expected, strict=True):
        for index, (a, b) in enumerate(zip(answer, other, strict=True)):
            scale = max(1.0, float(np.abs(b).max()))
            difference = float(np.abs(a.astype(np.float64) - b).max()) / scale
            largest[index] = float(np.maximum(largest[index], difference))
    return largest[0], largest[1]


def _problems(checks: list[RuntimeCheck]) -> list[str]:
    found = []
    for check in checks:
        for what, value in (("scores", check.score_difference), ("maps", check.map_difference)):
            # In this form, because NaN must not pass.
            if not value <= TOLERANCE:
                found.append(
                    f"{what} of {check.name} differ from those of {checks[0].name} by {value:.1e}, "
                    f"more than {TOLERANCE:g}; use --runtime {checks[0].name}"
                )
    return found
