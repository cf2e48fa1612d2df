"""What fre costs against the work it does, and the exponents of that.

    python benchmarks/scaling.py DATASET --json scaling.json

One factor varies at a time: images, input size, rank, batch, threads. Each point is measured in
processes of its own; the points take turns (A B C, A B C). The exponent b of cost ~ work^b is the
slope of a line through the logarithms of the medians: 1 is linear, 0 is constant. A point that
fails loses its own figures only; the command then ends with exit code 1.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from measuring import (
    MeasurementError,
    Summary,
    brief,
    evenly,
    interleaved,
    isolated,
    loglog_slope,
    machine,
    machine_text,
    percentile,
    repeated,
    table,
    write_json,
)

CHILD = Path(__file__).resolve().parent / "peers_child.py"
PACKAGES = ("onnxruntime", "openvino", "numpy", "pillow", "onnx")


@dataclass(frozen=True)
class Figure:
    key: str
    title: str
    unit: float = 1.0


TRAIN = Figure("train_seconds", "training, s")
FEATURES = Figure("features_seconds", "of that features, s")
FIT = Figure("fit_seconds", "of that fit, s")
TRAIN_PEAK = Figure("train_peak_bytes", "peak memory of training, MB", 1e6)
MODEL = Figure("model_bytes", "model, MB", 1e6)
LATENCY = Figure("latency_p50_ms", "latency p50, ms")
PER_IMAGE = Figure("ms_per_image", "files to maps, ms an image")
PREDICT_PEAK = Figure("predict_peak_bytes", "peak memory of prediction, MB", 1e6)


@dataclass(frozen=True)
class Point:
    """One amount of work: what the factor is set to, and the images, options and threads of it."""

    factor: str
    value: int
    images: int
    size: int
    rank: int | None = None
    batch: int = 8
    threads: int = 0

    @property
    def key(self) -> str:
        return f"{self.factor}-{self.value}"


@dataclass(frozen=True)
class Factor:
    """What varies, over which the slope is taken, and what of the cost is shown."""

    title: str
    figures: tuple[Figure, ...]
    power: int = 1  # the work is the value to this power


FACTORS = {
    "images": Factor("images", (TRAIN, FEATURES, FIT, TRAIN_PEAK, MODEL)),
    "size": Factor(
        "side of the input, px (slope over pixels)",
        (TRAIN, TRAIN_PEAK, MODEL, LATENCY, PER_IMAGE),
        2,
    ),
    "rank": Factor("rank", (FIT, MODEL, LATENCY, PER_IMAGE)),
    "batch": Factor("batch", (PER_IMAGE, PREDICT_PEAK)),
    "threads": Factor("threads of the network", (TRAIN, LATENCY, PER_IMAGE)),
}


def points(factor: str, values: Sequence[int], *, images: int, size: int) -> list[Point]:
    """The points of one factor; everything else stays as it is by default."""
    usual = {"images": images, "size": size}
    return [Point(factor, value, **(usual | {factor: value})) for value in values]


def measure_point(point: Point, task: dict[str, Any], train: Sequence[str]) -> dict[str, float]:
    """Train at a point and, where prediction is looked at, predict: the figures of both."""
    wanted = {figure.key for figure in FACTORS[point.factor].figures}
    parameters = {} if point.rank is None else {"rank": point.rank}
    common = {
        **task,
        "size": [point.size, point.size],
        "threads": point.threads,
        "batch": point.batch,
        "parameters": parameters,
    }
    raw = isolated(
        CHILD,
        {**common, "stage": "train", "files": repeated(train, point.images)},
        name=f"training at {point.key}",
    )
    figures = {
        "train_seconds": raw["train_seconds"],
        "features_seconds": raw["parts"]["features"],
        "fit_seconds": raw["parts"]["fit"],
        "train_peak_bytes": raw["train_peak_bytes"],
        "model_bytes": raw["model_bytes"],
    }
    if wanted - figures.keys():
        raw = isolated(CHILD, {**common, "stage": "predict"}, name=f"prediction at {point.key}")
        figures |= {
            "latency_p50_ms": percentile(raw["latencies_ms"], 0.5),
            "ms_per_image": 1e3 / raw["images_per_second"],
            "predict_peak_bytes": raw["predict_peak_bytes"],
        }
    return {key: figures[key] for key in figures if key in wanted}


def summarise(
    chosen: Sequence[Point], measured: Sequence[Mapping[str, Any]]
) -> dict[str, dict[int, dict[str, Summary]]]:
    """Medians and ranges by factor, value and figure; of the points that were measured."""
    found: dict[str, dict[int, dict[str, Summary]]] = {}
    for point in chosen:
        at = (point.factor, point.value)
        rows = [row["figures"] for row in measured if (row["factor"], row["value"]) == at]
        if rows:
            found.setdefault(point.factor, {})[point.value] = {
                key: Summary.of([row[key] for row in rows]) for key in rows[0]
            }
    return found


def factor_table(name: str, found: Mapping[int, Mapping[str, Summary]]) -> str:
    """Costs at each value of a factor, and the exponents in the last line."""
    factor = FACTORS[name]
    rows = []
    for value, summaries in found.items():
        cells = []
        for figure in factor.figures:
            s = summaries[figure.key]
            scaled = (v / figure.unit for v in (s.median, s.least, s.most))
            cells.append(Summary(*scaled, s.n).text())
        rows.append([f"{value:,}", *cells])
    if len(found) > 1:
        slopes = exponents(name, found)
        rows.append(["**exponent**", *(f"**{slopes[f.key]:.2f}**" for f in factor.figures)])
    return table([factor.title, *(figure.title for figure in factor.figures)], rows)


def exponents(name: str, found: Mapping[int, Mapping[str, Summary]]) -> dict[str, float]:
    factor = FACTORS[name]
    work = [float(value) ** factor.power for value in found]
    return {
        figure.key: loglog_slope(work, [s[figure.key].median for s in found.values()])
        for figure in factor.figures
    }


class Numbers(click.ParamType):
    """Whole numbers with commas."""

    name = "numbers"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        try:
            numbers = sorted({int(part) for part in value.split(",") if part})
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers, such as 100,1000", param, ctx)
        if any(number < 1 for number in numbers):
            self.fail(f"{value!r}: each number must be 1 or more", param, ctx)
        return numbers


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--images", type=Numbers(), default="100,316,1000,3162,10000", show_default=True)
@click.option("--size", type=Numbers(), default="224,256,320,384,448,512", show_default=True)
@click.option("--rank", type=Numbers(), default="8,16,32,64,128,220", show_default=True)
@click.option("--batch", type=Numbers(), default="1,2,4,8,16,32", show_default=True)
@click.option("--threads", type=Numbers(), default="1,2", show_default=True)
@click.option("--base-images", default=300, show_default=True, help="Where another factor varies.")
@click.option("--base-size", default=256, show_default=True, help="Where another factor varies.")
@click.option(
    "--files", default=200, show_default=True, help="Files to predict; test images recur."
)
@click.option("--latencies", default=200, show_default=True, help="Single calls a round.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--rounds-heavy", default=1, show_default=True, help="Of 3,000 images or more.")
@click.option("--preset", default="reference", type=click.Choice(["reference", "default"]))
@click.option("--runtime", default="onnxruntime", type=click.Choice(["onnxruntime", "openvino"]))
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
@click.option("--weights", type=click.Path(exists=True, path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Raw figures.")
def main(
    data: Path,
    images: list[int],
    size: list[int],
    rank: list[int],
    batch: list[int],
    threads: list[int],
    base_images: int,
    base_size: int,
    files: int,
    latencies: int,
    rounds: int,
    rounds_heavy: int,
    preset: str,
    runtime: str,
    backbone: str,
    weights: Path | None,
    json_file: Path | None,
) -> None:
    """Measure on a dataset that fre can read. An empty list leaves a factor out."""
    from fre.datasets import open_dataset

    dataset = open_dataset(data)
    train = [str(sample.path.resolve()) for sample in dataset.train]
    test = [str(sample.path.resolve()) for sample in evenly(dataset.test, files)]
    varied = {"images": images, "size": size, "rank": rank, "batch": batch, "threads": threads}
    chosen = [
        point
        for name, values in varied.items()
        for point in points(name, values, images=base_images, size=base_size)
    ]
    by_key = {point.key: point for point in chosen}
    turns = {p.key: min(rounds, rounds_heavy) if p.images >= 3000 else rounds for p in chosen}
    for file in (*train, *test):
        Path(file).read_bytes()
    here = machine(PACKAGES)
    measured: list[dict[str, Any]] = []
    failures: dict[str, str] = {}

    def keep() -> None:
        if json_file is None:
            return
        found = summarise(chosen, measured)
        document = {
            "command": sys.argv,
            "machine": here,
            "measured": measured,
            "failures": failures,
            "summaries": found,
            "exponents": {
                name: exponents(name, values) for name, values in found.items() if len(values) > 1
            },
        }
        write_json(json_file, document)

    with tempfile.TemporaryDirectory() as folder:
        task = {
            "system": {"family": "fre", "preset": preset, "runtime": runtime},
            "backbone": backbone,
            "weights": None if weights is None else str(weights.resolve()),
            "model": str(Path(folder) / "scaling.onnx"),
            "files": repeated(test, files),
            "latencies": latencies,
        }
        try:
            measure_point(Point("images", 8, images=8, size=base_size), task, train)
        except MeasurementError as error:
            # The points themselves will say whether it matters.
            click.echo(f"warm-up: {error}", err=True)
        for turn, key in interleaved(turns):
            if key in failures:
                continue
            point, began = by_key[key], time.perf_counter()
            place = f"round {turn + 1} of {turns[key]}: {key}"
            try:
                figures = measure_point(point, task, train)
            except MeasurementError as error:
                failures[key] = str(error)
                click.echo(f"{place}: failed", err=True)
            else:
                measured.append({"round": turn, **asdict(point), "figures": figures})
                click.echo(f"{place}, {time.perf_counter() - began:.0f} s", err=True)
            keep()
    print(
        f"{dataset.name}, {len(train)} training images (repeated where more are trained on), "
        f"{files} files to predict; {backbone}, preset {preset}, {runtime}; where not varied, "
        f"{base_images} images of {base_size} x {base_size}, batch 8, all cores. {rounds} "
        f"rounds in turn ({min(rounds, rounds_heavy)} from 3,000 images on): median, in brackets "
        f"least and most; exponents of the medians.\n\n{machine_text(here)}."
    )
    for name, values in summarise(chosen, measured).items():
        print(f"\n{factor_table(name, values)}")
    if failures:
        print("\nFailed:\n")
        for key, message in failures.items():
            print(f"- {key}: {brief(message)}")
        raise SystemExit(1)


if __name__ == "__main__":
    main()
