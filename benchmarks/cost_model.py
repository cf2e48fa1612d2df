"""What 10 million and 1 billion images cost on n workers: measured here, and worked out from it.

Measured on this machine, one worker on one core: images a second of both passes of a training and
of scoring, bytes that each reads, sends and writes, and the seconds of a merge. Worked out from
that, and from what is assumed of network and storage (options): hours, traffic, and which of them
is the limit.

    python benchmarks/cost_model.py DATASET [--write docs/scale.md]
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from fre.backbones import get_backbone
from fre.datasets import training_images
from fre.detector import FRE
from fre.distributed.scoring import Scorer, ScoringTask
from fre.distributed.shards import Shard
from fre.distributed.training import FAN_IN, LARGEST, PIECES, SMALLEST, _packed, _unpacked
from fre.features.runner import FeatureRunner
from fre.features.stream import ImageRecord
from fre.model import Model
from fre.storage.remote import Folder
from fre.training.fold_statistics import FoldStatistics
from fre.training.plan import plan_detector
from fre.training.streamed import CALIBRATION_ROWS, StreamOptions, accumulate, held_out_residuals
from measuring import publish

FOLDS = 5


@dataclass(frozen=True)
class Measured:
    """Of one worker on one core."""

    learn_rate: float
    judge_rate: float
    score_rate: float
    image_bytes: float
    line_bytes: float
    name_bytes: float
    statistics_bytes: float
    judges_bytes: float
    merge_seconds: float
    judges_seconds: float
    driver_bytes: float


def measure(folder: Path, images: int, size: int | None) -> Measured:
    files = [Path(path) for path in islice(cycle(training_images(folder)), images)]
    detector = FRE(preset="default", size=size)
    settings = detector._configuration()
    extractor = detector._extractor(get_backbone(settings.backbone), threads=1)
    plan = plan_detector(extractor.backbone, None, settings)
    parts, options = plan.parts(extractor.layouts, extractor.inspected), StreamOptions()
    runner = FeatureRunner(
        extractor.model(), extractor.layouts, extractor.geometry, threads=1, readers=4
    )

    def empty() -> FoldStatistics:
        return FoldStatistics(
            parts,
            extractor.layouts,
            folds=FOLDS,
            capacity=plan.capacity,
            leave_one_out=[p.name for p in parts if p.leaves_one_out(len(files), plan.fit)],
        )

    fold = np.arange(len(files)) % FOLDS
    accumulate(runner, files[:32], fold[:32], empty(), options)  # the first run is slower
    one_fold = empty()
    began = time.perf_counter()
    accumulate(runner, files, np.zeros(len(files), np.intp), one_fold, options)
    one_fold.merge()
    learn_rate = len(files) / (time.perf_counter() - began)

    # What a large piece sends is full: as many directions as are kept.
    rng = np.random.default_rng(0)
    full = empty()
    for _ in range(-(-(plan.capacity + 1) // 128)):
        X = rng.normal(size=(128, extractor.dimension)).astype(np.float32)
        full.add(X, np.zeros(128, np.intp))
    stored = _packed(full.merge().to_arrays())
    began = time.perf_counter()
    other, merged = empty(), empty()
    other.restore(_unpacked(stored))
    merged.restore(_unpacked(stored))
    _packed(merged.merge(other).to_arrays())
    merge_seconds = (time.perf_counter() - began) * 2 / 3  # one of both was there already

    all_folds = empty()
    accumulate(runner, files, fold, all_folds, options)
    began = time.perf_counter()
    _, _, own = all_folds.fit(plan.fit)
    of_folds = dict(all_folds.held_out(own, plan.fit))
    judges_seconds = time.perf_counter() - began
    began = time.perf_counter()
    chosen = files[: min(len(files), 128)]
    held_out_residuals(runner, chosen, of_folds[0], options)
    judge_rate = len(chosen) / (time.perf_counter() - began)
    bases = [
        value.nbytes
        for subspace in [*own, *(others[1] for others in of_folds[0].others if others is not None)]
        for value in vars(subspace).values()
        if isinstance(value, np.ndarray)
    ]

    model = detector.fit(files[: min(len(files), 256)], threads=1)
    with tempfile.TemporaryDirectory() as output:
        task = ScoringTask(
            model=None,
            folder=Folder(Path(output)),
            form="jsonl",
            batch_size=8,
            threads=1,
            runtime="onnxruntime",
            version="",
        )
        scorer = Scorer(task)
        scorer.__dict__["_model"] = Model(model.data, threads=1)
        scorer._score(Shard(0, tuple(map(str, files[:16])), 0), "warm")
        began = time.perf_counter()
        scorer._score(Shard(1, tuple(map(str, files)), 0), "part")
        score_rate = len(files) / (time.perf_counter() - began)
        line_bytes = (Path(output) / "part").stat().st_size / len(files)
    return Measured(
        learn_rate,
        judge_rate,
        score_rate,
        float(np.mean([file.stat().st_size for file in files])),
        line_bytes,
        float(np.mean([len(str(file)) + 3 for file in files])),
        float(len(stored)),
        float(sum(bases)),
        merge_seconds,
        judges_seconds,
        _driver_bytes(),
    )


def _driver_bytes() -> float:
    """Memory of the command for each image of a training: its name, and what was seen of it."""
    n = 10_000
    nothing = np.zeros((0, 0), np.uint8)
    tracemalloc.start()
    kept = [
        (f"/data/line-3/2026-06-{i:08d}.png", ImageRecord(i, f"{i:064x}", (i, i), nothing))
        for i in range(n)
    ]
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size / len(kept)


def table(found: Measured, asked: argparse.Namespace) -> list[str]:
    lines = [
        "| measured, one worker on one core | |",
        "| --- | ---: |",
        f"| first pass of a training, images/s | {found.learn_rate:.1f} |",
        f"| second pass, images/s | {found.judge_rate:.1f} |",
        f"| scoring, images/s | {found.score_rate:.1f} |",
        f"| read for an image, kB | {found.image_bytes / 1e3:.1f} |",
        f"| written for an image (JSON line), kB | {found.line_bytes / 1e3:.2f} |",
        f"| its name in the list, bytes | {found.name_bytes:.0f} |",
        f"| statistics that a piece of a training sends, MB | {found.statistics_bytes / 1e6:.0f} |",
        f"| subspaces that a worker is sent for the second pass, MB | "
        f"{found.judges_bytes / 1e6:.0f} |",
        f"| adding one piece to another, s | {found.merge_seconds:.2f} |",
        f"| the subspaces of all folds, s | {found.judges_seconds:.1f} |",
        f"| memory of the command for a training image, bytes | {found.driver_bytes:.0f} |",
        "",
    ]
    lines += [
        "Computed, not measured, with these assumptions: "
        f"{asked.cores} workers to a machine, a network of {asked.network:g} Gbit/s to each, "
        f"a store that gives {asked.storage:g} GB/s and {asked.requests:,} requests/s in all and "
        f"lists {asked.listing:,} names/s to one reader, and a command that hands out "
        f"{asked.handouts:g} shards/s.",
        "",
        "Scoring:",
        "",
        "| images | workers | hours | images/s | read, TB | written, GB | network of a machine | "
        "limit |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for n in (10_000_000, 1_000_000_000):
        lines += [scoring_row(found, asked, n, workers) for workers in asked.workers]
    lines += [
        "",
        f"Training (the second pass looks at {CALIBRATION_ROWS:,} images, whatever their number):",
        "",
        "| images | workers | hours | pieces | statistics sent, TB | read, TB | sums after the "
        "last image, s | memory of the command, GB | limit |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for n in (10_000_000, 1_000_000_000):
        lines += [training_row(found, asked, n, workers) for workers in asked.workers]
    lines += ["", *bends(found, asked)]
    return lines


def limited(
    rate: float, workers: int, image_bytes: float, asked: argparse.Namespace
) -> dict[str, float]:
    """Images a second that each resource allows."""
    machines = -(-workers // asked.cores)
    return {
        "cores": workers * rate,
        "network": machines * asked.network * 1e9 / 8 / image_bytes,
        "bytes of the store": asked.storage * 1e9 / image_bytes,
        "requests to the store": float(asked.requests),
    }


def scoring_row(found: Measured, asked: argparse.Namespace, n: int, workers: int) -> str:
    bounds = limited(found.score_rate, workers, found.image_bytes, asked)
    bounds["listing"] = float(asked.listing)
    bounds["handing out"] = asked.handouts * asked.shard_size
    limit = min(bounds, key=lambda name: bounds[name])
    rate = bounds[limit]
    per_machine = rate / workers * min(asked.cores, workers) * found.image_bytes * 8 / 1e9
    return (
        f"| {n:,} | {workers:,} | {n / rate / 3600:,.1f} | {rate:,.0f} | "
        f"{n * found.image_bytes / 1e12:,.1f} | {n * found.line_bytes / 1e9:,.0f} | "
        f"{per_machine:.2f} Gbit/s | {limit} |"
    )


def training_row(found: Measured, asked: argparse.Namespace, n: int, workers: int) -> str:
    size = min(max(SMALLEST, -(-n // (PIECES * workers))), LARGEST)
    pieces = -(-n // size)
    per_image = found.image_bytes + found.statistics_bytes / size
    bounds = limited(found.learn_rate, workers, per_image, asked)
    # Sums have no cores of their own: they take from those of the workers.
    bounds["cores"] /= 1 + found.merge_seconds / size * found.learn_rate
    limit = min(bounds, key=lambda name: bounds[name])
    levels = max(0, int(np.ceil(np.log(pieces / FAN_IN) / np.log(FAN_IN))))
    tail = (levels + 1) * FAN_IN * found.merge_seconds + found.judges_seconds
    second = CALIBRATION_ROWS / (found.judge_rate * workers)
    hours = (n / bounds[limit] + tail + second) / 3600
    sent = pieces * found.statistics_bytes * FAN_IN / (FAN_IN - 1)
    return (
        f"| {n:,} | {workers:,} | {hours:,.1f} | {pieces:,} | {sent / 1e12:,.2f} | "
        f"{n * found.image_bytes / 1e12:,.1f} | {tail:,.0f} | "
        f"{n * found.driver_bytes / 1e9:,.0f} | {limit} |"
    )


def bends(found: Measured, asked: argparse.Namespace) -> list[str]:
    """Where each resource would be the limit of scoring, in workers."""
    rate = found.score_rate
    return [
        "Scoring takes as many workers as come, until (computed):",
        "",
        f"- {asked.requests / rate:,.0f} workers: {asked.requests:,} requests/s to the store;",
        f"- {asked.listing / rate:,.0f} workers: one reader lists {asked.listing:,} names/s;",
        f"- {asked.storage * 1e9 / found.image_bytes / rate:,.0f} workers: the store's "
        f"{asked.storage:g} GB/s;",
        f"- {asked.handouts * asked.shard_size / rate:,.0f} workers: {asked.handouts:g} shards/s "
        f"of {asked.shard_size:,} images; larger shards push it out;",
        f"- {asked.network * 1e9 / 8 / found.image_bytes / rate:,.0f} workers on one machine: "
        f"its network of {asked.network:g} Gbit/s.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--images", type=int, default=320, help="to measure with")
    parser.add_argument("--size", type=int)
    parser.add_argument("--cores", type=int, default=16, help="workers to a machine")
    parser.add_argument("--network", type=float, default=10, help="Gbit/s to a machine")
    parser.add_argument("--storage", type=float, default=10, help="GB/s of the store")
    parser.add_argument("--requests", type=int, default=5500, help="a second, of the store")
    parser.add_argument("--listing", type=int, default=5000, help="names a second")
    parser.add_argument("--handouts", type=float, default=50, help="shards a second")
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--workers", type=int, nargs="+", default=[16, 128, 1024])
    parser.add_argument("--write", type=Path, help="a page, between its two markers")
    asked = parser.parse_args()
    lines = table(measure(asked.dataset, asked.images, asked.size), asked)
    publish("\n".join(lines), asked.write, "cost model")


if __name__ == "__main__":
    main()
