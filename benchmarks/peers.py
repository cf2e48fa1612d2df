"""fre beside anomalib's Fre, PaDiM, PatchCore and DFM, AnomaVision, and the limit, in one run.

    pip install -r benchmarks/requirements-peers.txt
    pip install --no-deps anomavision==3.6.2  # with --backbone resnet18 only; see docs/speed.md
    python benchmarks/peers.py DATASET --json peers.json

Every measurement is a process of its own; the systems take turns (A B C, A B C); medians and ranges
over the rounds are printed as Markdown. A system that fails loses its own figures only; the command
then ends with exit code 1. All systems get the same image files, the same weights, the same input
size and normalisation, and all cores. Each decodes in its own way: fre as in `predict_many`,
anomalib by its `Folder` data module, trained and run by its `Engine`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import click

import peers_child
from measuring import (
    MeasurementError,
    Summary,
    brief,
    evenly,
    installed_bytes,
    interleaved,
    isolated,
    machine,
    machine_text,
    own_requirements,
    percentile,
    repeated,
    significant,
    table,
    write_between,
    write_json,
)

HERE = Path(__file__).resolve().parent
CHILD = HERE / "peers_child.py"
PACKAGES = (
    *("anomalib", "anomavision", "torch", "lightning", "timm", "onnxruntime", "openvino"),
    *("numpy", "pillow", "onnx"),
)
TRAINED = ("fre", "anomalib", "anomavision")
"""Families that are trained here, and judged."""
DOCUMENTED_EPOCHS = 220  # anomalib's examples/configs/model/fre.yaml


@dataclass(frozen=True)
class System:
    """What is measured. ``model_of`` names the system whose model file this one runs."""

    key: str
    label: str
    family: str
    preset: str | None = None
    runtime: str | None = None
    model: str | None = None
    part: str | None = None
    model_of: str | None = None
    heavy: bool = False

    @property
    def trains(self) -> bool:
        return self.family in TRAINED and self.model_of is None


def _systems() -> dict[str, System]:
    found = []
    for preset in ("reference", "default"):
        key = f"fre-{preset}"
        found += [
            System(key, f"fre, {preset}", "fre", preset, "onnxruntime"),
            System(
                f"{key}-openvino",
                f"fre, {preset}, on OpenVINO",
                "fre",
                preset,
                "openvino",
                model_of=key,
            ),
        ]
    for model, label, heavy in (
        ("fre", "anomalib Fre", True),
        ("padim", "anomalib PaDiM", False),
        ("patchcore", "anomalib PatchCore, coreset 1 %", True),
        ("dfm", "anomalib DFM", False),
    ):
        key = f"anomalib-{model}"
        found += [
            System(key, label, "anomalib", model=model, heavy=heavy),
            System(
                f"exported-{model}",
                f"{label}, exported to OpenVINO",
                "exported",
                runtime="openvino",
                model=model,
                model_of=key,
                heavy=heavy,
            ),
        ]
    found.append(System("anomavision-padim", "AnomaVision PaDiM", "anomavision"))
    for preset in ("reference", "default"):
        for part in ("backbone", "graph"):
            for runtime, name in (("onnxruntime", "ONNX Runtime"), ("openvino", "OpenVINO")):
                found.append(
                    System(
                        f"bare-{preset}-{part}-{runtime}",
                        f"bare {'whole graph' if part == 'graph' else part}, {preset}, {name}",
                        "bare",
                        preset,
                        runtime,
                        part=part,
                        model_of=f"fre-{preset}" if part == "graph" else None,
                    )
                )
    return {system.key: system for system in found}


SYSTEMS = _systems()


@dataclass(frozen=True)
class Metric:
    """A figure of the table: its key, its column, and what one unit of the column is."""

    key: str
    title: str
    unit: float = 1.0
    more_is_better: bool = False


METRICS = (
    Metric("train_seconds", "training, s"),
    Metric("latency_p50_ms", "latency p50, ms"),
    Metric("latency_p99_ms", "latency p99, ms"),
    Metric("images_per_second", "files to maps, images/s", more_is_better=True),
    Metric("train_peak_bytes", "peak memory of training, MB", 1e6),
    Metric("predict_peak_bytes", "peak memory of prediction, MB", 1e6),
    Metric("model_bytes", "model, MB", 1e6),
    Metric("import_seconds", "import, s"),
    Metric("installed_bytes", "installed, MB", 1e6),
)
LIMIT_METRICS = (METRICS[0], METRICS[1], METRICS[2], Metric(*METRICS[3].__dict__.values()))

Summaries = dict[str, dict[str, Summary]]


def extrapolate(total: float, epochs: Sequence[float], wanted: int) -> float:
    """Seconds that a training of ``wanted`` epochs takes, from one of a few.

    The epochs that were not run cost as much as the median of those after the first, which has
    the start of everything in it.
    """
    if not epochs or wanted <= len(epochs):
        return total
    later = Summary.of(epochs[1:] or epochs).median
    return total + (wanted - len(epochs)) * later


def figures_of(raw: Mapping[str, Any], wanted_epochs: int | None) -> dict[str, float]:
    """The table's figures from what one process measured."""
    known = {metric.key for metric in METRICS}
    figures = {key: float(value) for key, value in raw.items() if key in known}
    if "latencies_ms" in raw:
        figures["latency_p50_ms"] = percentile(raw["latencies_ms"], 0.50)
        figures["latency_p99_ms"] = percentile(raw["latencies_ms"], 0.99)
    if wanted_epochs and "epoch_seconds" in raw:
        total = figures["train_seconds"]
        figures["train_seconds"] = extrapolate(total, raw["epoch_seconds"], wanted_epochs)
    return figures


def summarise(measured: Sequence[Mapping[str, Any]]) -> Summaries:
    """Median and range of every figure of every system, over the rounds."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in measured:
        for key, value in row["figures"].items():
            values.setdefault(row["system"], {}).setdefault(key, []).append(value)
    return {
        system: {key: Summary.of(found) for key, found in figures.items()}
        for system, figures in values.items()
    }


def figure_table(
    summaries: Summaries,
    systems: Sequence[System],
    metrics: Sequence[Metric],
    marks: dict[str, str],
) -> str:
    def cell(system: System, metric: Metric) -> str:
        found = summaries.get(system.key, {}).get(metric.key)
        if found is None:
            return "-"
        scaled = Summary(
            *(v / metric.unit for v in (found.median, found.least, found.most)), found.n
        )
        return scaled.text() + marks.get(f"{system.key} {metric.key}", "")

    return table(
        ["", *(metric.title for metric in metrics)],
        [[system.label, *(cell(system, metric) for metric in metrics)] for system in systems],
    )


def ratio(summaries: Summaries, system: str, base: str, metric: Metric) -> float | None:
    """How many times as costly a system is as another: of medians, above 1 is dearer."""
    mine, other = (summaries.get(key, {}).get(metric.key) for key in (system, base))
    if mine is None or other is None or not mine.median or not other.median:
        return None
    return other.median / mine.median if metric.more_is_better else mine.median / other.median


def ratio_table(
    summaries: Summaries, systems: Sequence[System], metrics: Sequence[Metric], base: System
) -> str:
    def cell(system: System, metric: Metric) -> str:
        found = ratio(summaries, system.key, base.key, metric)
        return "-" if found is None else f"{significant(found)} x"

    return table(
        [f"cost, {base.label} = 1", *(metric.title.partition(",")[0] for metric in metrics)],
        [[system.label, *(cell(system, metric) for metric in metrics)] for system in systems],
    )


def limit_ratios(summaries: Summaries, chosen: Sequence[System]) -> list[list[str]]:
    """Each of fre's systems against its own bare graph and backbone in the same runtime."""
    rows = []
    for system in (s for s in chosen if s.family == "fre"):
        for part in ("graph", "backbone"):
            limit = f"bare-{system.preset}-{part}-{system.runtime}"
            found = [ratio(summaries, system.key, limit, metric) for metric in LIMIT_METRICS]
            if any(value is not None for value in found):
                cells = ["-" if value is None else f"{value:.2f} x" for value in found]
                rows.append([f"{system.label} / {SYSTEMS[limit].label}", *cells])
    return rows


# Measuring


@dataclass(frozen=True)
class Plan:
    """The settings of a run."""

    backbone: str
    weights: str | None
    size: tuple[int, int]
    rounds: int
    rounds_heavy: int
    epochs: int
    latencies: int
    workers: int
    seed: int
    minutes: float | None = None


def link(files: Sequence[Path], folder: Path) -> list[str]:
    """Links to files, named by their place, so that every system finds them in one order."""
    folder.mkdir()
    links = []
    for index, file in enumerate(files):
        name = folder / f"{index:05d}{file.suffix}"
        name.symlink_to(file.resolve())
        links.append(str(name))
    return links


@dataclass
class Found:
    """What was measured until now, and what failed: the message, by the system's key.

    ``stopped`` says what was not begun any more, once the minutes were over.
    """

    measured: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    quality: dict[str, dict[str, Any]] = field(default_factory=dict)
    installed: dict[str, dict[str, int]] = field(default_factory=dict)
    stopped: str | None = None


@dataclass(frozen=True)
class Work:
    """The images, and the folder that holds links to them and the models."""

    folder: Path
    dataset: Any
    train: list[str]
    test: list[str]

    @property
    def judged(self) -> int:
        return len(self.dataset.test)


def measure(
    plan: Plan,
    chosen: Sequence[System],
    work: Work,
    found: Found,
    keep: Callable[[], None],
    over: Callable[[], bool],
) -> None:
    """Measure in turns, calling ``keep`` after each measurement; a system that fails drops out.

    Once it is ``over``, no system's turn begins any more.
    """
    modelless: set[str] = set()
    for turn, key in turns(chosen, plan.rounds):
        system = SYSTEMS[key]
        if key in found.failures:
            continue
        if over():
            found.stopped = f"before {system.label} in round {turn + 1}"
            return
        if system.model_of in modelless:
            found.failures[key] = f"there is no model of {SYSTEMS[system.model_of].label} to run"
            keep()
            continue
        for stage in stages_of(system, turn, plan):
            began = time.perf_counter()
            place = f"round {turn + 1} of {plan.rounds}: {stage} of {system.label}"
            try:
                measure_stage(plan, system, turn, stage, work, found)
            except MeasurementError as error:
                found.failures[key] = str(error)
                if stage == "train" and turn == 0:
                    modelless.add(key)
                click.echo(f"{place}: failed", err=True)
                break
            else:
                click.echo(f"{place}, {time.perf_counter() - began:.0f} s", err=True)
            finally:
                keep()


def turns(chosen: Sequence[System], rounds: int) -> list[tuple[int, str]]:
    """Rounds and keys. In each round those that take long come last, where minutes may run out."""
    order = sorted(chosen, key=lambda system: system.heavy)
    return interleaved({system.key: rounds for system in order})


def stages_of(system: System, turn: int, plan: Plan) -> list[str]:
    stages = ["predict"]
    if system.trains and turn < (plan.rounds_heavy if system.heavy else plan.rounds):
        stages.insert(0, "train")
    if system.family == "exported" and turn == 0:
        stages.insert(0, "export")
    return stages


def measure_stage(
    plan: Plan, system: System, turn: int, stage: str, work: Work, found: Found
) -> None:
    results = work.folder / f"{system.key}.npz"
    judges = stage == "predict" and turn == 0 and system.family in TRAINED
    task = {
        **asdict(plan),
        "system": asdict(system),
        "stage": stage,
        "files": work.train if stage == "train" else work.test,
        "model": str(work.folder / f"{system.model_of or system.key}.model"),
        "data": str(work.folder / "data"),
        "work": str(work.folder),
        "exported": str(work.folder / f"{system.key}.exported"),
        "n_train": len(work.train),
        "results": str(results) if judges else None,
        "judged": work.judged,
    }
    raw = isolated(CHILD, task, name=f"{stage} of {system.label}")
    figures = figures_of(raw, DOCUMENTED_EPOCHS if system.key == "anomalib-fre" else None)
    found.measured.append(
        {"round": turn, "system": system.key, "stage": stage, "figures": figures, "raw": raw}
    )
    if judges:
        found.quality[system.key] = quality(work.dataset, results, system)


def warm_up(plan: Plan, chosen: Sequence[System], work: Work) -> None:
    """Fill the caches of the system and of fre: read all files, import all packages once."""
    for file in (*work.train, *work.test):
        Path(file).read_bytes()
    for family in dict.fromkeys(system.family for system in chosen if system.trains):
        system = next(s for s in chosen if s.trains and s.family == family)
        task = {
            **asdict(plan),
            "epochs": 1,
            "system": asdict(system) | ({"model": "dfm"} if family == "anomalib" else {}),
            "stage": "train",
            "files": work.train[:8],
            "model": str(work.folder / f"warm-{family}.model"),
            "data": str(work.folder / "warm"),
            "work": str(work.folder),
        }
        try:
            isolated(CHILD, task, name=f"warm-up of {family}")
        except MeasurementError as error:
            # Its own measurements will say whether it matters.
            click.echo(str(error), err=True)


class Kept:
    """Scores and maps of a process that has ended, as what `fre.evaluate` can judge."""

    def __init__(self, file: Path) -> None:
        import numpy as np

        with np.load(file) as kept:
            self._scores, self._maps = kept["scores"], kept["maps"]
        self._next = 0

    def predict_many(self, images: Sequence[Path], *, errors: str = "raise") -> Iterator[Any]:
        from fre.images.decode import image_size
        from fre.inference.prediction import Prediction

        for path in images:
            index, self._next = self._next, self._next + 1
            score = float(self._scores[index])
            yield Prediction(path, score, 1.0, False, (), image_size(path), self._maps[index])


def quality(dataset: Any, results: Path, system: System) -> dict[str, Any]:
    """Accuracy on the test images, by fre's metrics on everybody's scores and maps.

    Raises:
        MeasurementError: the scores or maps can't be judged.
    """
    from fre import evaluate
    from fre.errors import FREError

    try:
        result = evaluate(Kept(results), dataset)
    except FREError as error:
        raise MeasurementError(f"judging {system.label} failed: {error}") from error
    return {key: getattr(result, key) for key in ("image_auroc", "pixel_auroc", "aupro")}


def quality_table(found: dict[str, dict[str, Any]], labels: Mapping[str, str]) -> str:
    def cell(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    return table(
        ["accuracy", "image AUROC", "pixel AUROC", "AUPRO"],
        [[labels[key], *(cell(value) for value in row.values())] for key, row in found.items()],
    )


def installed(chosen: Sequence[System], found: Found) -> None:
    """Bytes on the disk of what each system needs: in all, and what of it serves GPUs only."""
    ours = own_requirements(HERE.parent / "pyproject.toml")
    source = sum(f.stat().st_size for f in (HERE.parent / "src").rglob("*") if f.suffix != ".pyc")
    for system in chosen:
        if system.family in ("bare", "anomavision"):  # the latter lies here without its needs
            continue
        runtime = ["openvino"] if system.runtime == "openvino" else []
        if system.family == "fre":
            needs, own = [*ours, *runtime], source
        else:
            needs, own = ["anomalib", "torch", "torchvision", *runtime], 0
        try:
            total, gpu = installed_bytes(needs)
        except PackageNotFoundError as error:
            found.failures[system.key] = f"{error.name} is not installed"
            continue
        found.installed[system.key] = {"total": total + own, "gpu": gpu}
        figures = {"installed_bytes": total + own - gpu}
        row = {"round": 0, "system": system.key, "stage": "installed", "figures": figures}
        found.measured.append(row)


# Printing


def notes(plan: Plan, chosen: Sequence[System], sizes: Mapping[str, Mapping[str, int]]) -> str:
    layers = peers_child.LAYERS[plan.backbone]
    lines = [
        f"Rounds: {plan.rounds}, the systems in turn; median, and in brackets least and most. Each "
        "training and each prediction is a process of its own. Before, all files were read and "
        "all packages imported once. All systems use all cores, batch sizes are their defaults.",
        "training: from the files to the saved model; fre's has the cross-fitted calibration of "
        "its threshold in it, anomalib's neither validation nor threshold (it takes those from "
        "validation images). Imports come on top.",
        f"latency: {plan.latencies} single calls a round on arrays in memory of the input's size, "
        "to score and map; fre adds p-value, decision and regions.",
        "files to maps: decoding, resizing, score and map of all files, second pass. anomalib: "
        f"Engine.predict, {plan.workers} loading workers, batch {peers_child.ANOMALIB_BATCH}. fre: "
        f"predict_many, batch {peers_child.FRE_BATCH}.",
        "peak memory: the largest resident size of the process; anomalib's loading workers, "
        "processes of their own, are not counted.",
        "model: fre's file is the whole detector with its network; of anomalib, the state dict.",
        f"Layers: fre's reference, anomalib's Fre and DFM {layers['single']}, pooled by "
        f"{peers_child.POOL}; fre's default three layers; PaDiM {', '.join(layers['padim'])}, "
        f"{peers_child.PADIM_FEATURES} features; PatchCore {', '.join(layers['patchcore'])}, "
        f"coreset {peers_child.CORESET:.0%}; Fre's latent dimension {peers_child.LATENT}.",
    ]
    if any(system.family == "anomavision" for system in chosen):
        lines.append(
            "AnomaVision: its PaDiM's defaults, layer1 and layer2 with 50 features; "
            f"{plan.workers} loading workers, batch {peers_child.ANOMAVISION_BATCH}; without the "
            "blur that its commands apply to maps. Its file has the network in it, as fre's has."
        )
    if any(system.family == "exported" for system in chosen):
        lines.append(
            "exported to OpenVINO: by anomalib's to_openvino at batch 1 and the input size, run by "
            "its OpenVINOInferencer, which takes one image at a time and does not resize it; so "
            "there are no figures from files. On the first images each export scored as PyTorch "
            f"does, within {peers_child.EXPORT_TOLERANCE:.0%}."
        )
    gpu = next((size["gpu"] for size in sizes.values() if size["gpu"]), 0)
    if gpu:
        lines.append(
            f"installed: all packages that are needed, without {gpu / 1e6:,.0f} MB that serve GPUs "
            "only (PyTorch's usual packages for Linux bring them; a build without them may also "
            "import faster)."
        )
    heavy = [system.label for system in chosen if system.heavy and system.trains]
    if heavy and plan.rounds_heavy < plan.rounds:
        names = " and ".join(heavy)
        lines.append(f"{names} were trained in {plan.rounds_heavy} of {plan.rounds} rounds only.")
    if any(system.key == "anomalib-fre" for system in chosen) and plan.epochs < DOCUMENTED_EPOCHS:
        lines.append(
            f"\\* extrapolated: anomalib's Fre was trained for {plan.epochs} epochs, and its "
            f"training to the documented {DOCUMENTED_EPOCHS} is that of {plan.epochs} and "
            f"{DOCUMENTED_EPOCHS - plan.epochs} times the median of the later epochs. Its accuracy "
            f"is that after {plan.epochs} epochs."
        )
    return "\n".join(f"- {line}" for line in lines)


def report(document: Mapping[str, Any], plan: Plan, chosen: Sequence[System]) -> str:
    summaries: Summaries = document["summaries"]
    extrapolated = plan.epochs < DOCUMENTED_EPOCHS
    marks = {"anomalib-fre train_seconds": " \\*"} if extrapolated else {}
    rows = [system for system in chosen if system.family != "bare"]
    limits = [system for system in chosen if system.family == "bare"]
    images = document["images"]
    backbone = f"{plan.backbone} at {plan.size[0]} x {plan.size[1]}"
    parts = [
        f"{images['dataset']}: {images['train']} training images, {images['files']} files to "
        f"predict, {images['judged']} of them judged; {backbone}.\n\n"
        f"{machine_text(document['machine'])}.",
    ]
    if rows:
        parts += [
            figure_table(summaries, rows, METRICS, marks),
            ratio_table(summaries, rows, METRICS, rows[0]),
        ]
    if limits:
        parts += [
            "The limit, on tensors in the runtime's memory: batch 1; batch "
            f"{peers_child.FRE_BATCH}; and the training images through the backbone in batches of "
            f"{peers_child.FEATURE_BATCH}.",
            figure_table(summaries, limits, LIMIT_METRICS, {}),
        ]
    against = limit_ratios(summaries, chosen)
    if against:
        head = ["fre / limit", *(m.title.partition(",")[0] for m in LIMIT_METRICS)]
        parts.append(table(head, against))
    if document["quality"]:
        labels = {s.key: s.label + marks.get(f"{s.key} train_seconds", "") for s in chosen}
        parts.append(quality_table(document["quality"], labels))
    parts.append(notes(plan, chosen, document["installed"]))
    if document["stopped"]:
        parts.append(f"Stopped after {plan.minutes:g} minutes, {document['stopped']}.")
    if document["failures"]:
        told = (
            f"- {SYSTEMS[key].label}: {brief(message)}"
            for key, message in document["failures"].items()
        )
        parts.append("Failed:\n\n" + "\n".join(told))
    return "\n\n".join(parts)


def summary(document: Mapping[str, Any], plan: Plan) -> str:
    """The figures that a user asks for first, in one table."""
    summaries: Summaries = document["summaries"]
    rows = []
    for key, judged in document["quality"].items():
        found = summaries[key]
        mark = " \\*" if key == "anomalib-fre" and plan.epochs < DOCUMENTED_EPOCHS else ""

        def cell(name: str, unit: float = 1.0, of: Mapping[str, Summary] = found) -> str:
            return significant(of[name].median / unit) if name in of else "-"

        rows.append(
            [
                SYSTEMS[key].label,
                cell("train_seconds") + mark,
                cell("latency_p50_ms"),
                cell("images_per_second"),
                cell("train_peak_bytes", 1e6),
                cell("installed_bytes", 1e6),
                f"{judged['image_auroc']:.3f}{mark}",
                f"{judged['aupro']:.3f}{mark}",
            ]
        )
    images = document["images"]
    head = [
        f"{images['train']} training images",
        "training, s",
        "one image, ms",
        "files to maps, images/s",
        "memory of training, MB",
        "installed, MB",
        "image AUROC",
        "AUPRO",
    ]
    named = f"{images['dataset']}, {plan.backbone} at {plan.size[0]} x {plan.size[1]}; "
    told = f"{table(head, rows)}\n\n{named}{machine_text(document['machine'])}."
    if "anomalib-fre" in document["quality"] and plan.epochs < DOCUMENTED_EPOCHS:
        told += (
            f"\n\n\\* after {plan.epochs} epochs; the time is extrapolated to the documented "
            f"{DOCUMENTED_EPOCHS}."
        )
    return told


def kept_run(file: Path) -> tuple[dict[str, Any], Plan, list[System]]:
    """A document that was kept with ``--json``, its settings, and the systems that it has."""
    document = json.loads(file.read_text())
    document["summaries"] = summarise(document["measured"])
    plan = Plan(**{**document["settings"], "size": tuple(document["settings"]["size"])})
    measured = {*document["summaries"], *document["failures"]}
    return document, plan, [system for key, system in SYSTEMS.items() if key in measured]


def tell(
    document: Mapping[str, Any], plan: Plan, chosen: Sequence[System], pages: Sequence[Path]
) -> None:
    """Print the report; and carry it, or its summary, to where pages have room for it."""
    text = report(document, plan, chosen)
    print(text)
    for page in pages:
        written = [
            write_between(page, "peers", text),
            write_between(page, "peers, summary", summary(document, plan)),
        ]
        if not any(written):
            raise click.UsageError(
                f"{page} has no room: <!-- peers: begin --> to <!-- peers: end -->"
            )
        click.echo(f"written to {page}", err=True)


def choose(names: str | None, backbone: str = "efficientnet_lite0") -> list[System]:
    """Systems by their keys, or by the start of them, in the table's order.

    AnomaVision has ResNets only: with another backbone it is left out, or refused if named.
    """
    wanted = [name.strip() for name in names.split(",")] if names else [""]
    for name in wanted:
        if not any(key.startswith(name) for key in SYSTEMS):
            raise click.BadParameter(f"no system is called {name!r}; choose from {list(SYSTEMS)}")
    chosen = [s for key, s in SYSTEMS.items() if any(key.startswith(name) for name in wanted)]
    if backbone != "resnet18":
        if any(name.startswith("anomavision") for name in wanted):
            raise click.BadParameter("AnomaVision needs --backbone resnet18")
        chosen = [s for s in chosen if s.family != "anomavision"]
    lacking = {s.model_of for s in chosen if s.model_of} - {s.key for s in chosen}
    return [s for key, s in SYSTEMS.items() if s in chosen or key in lacking]


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--train", "n_train", default=200, show_default=True, help="Training images.")
@click.option("--test", "n_test", default=100, show_default=True, help="Test images to judge by.")
@click.option(
    "--files", default=200, show_default=True, help="Files to predict; test images recur."
)
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--rounds-heavy",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Rounds in which anomalib's PatchCore and Fre are trained.",
)
@click.option("--epochs", default=3, show_default=True, help="Of anomalib's Fre.")
@click.option("--latencies", default=200, show_default=True, help="Single calls a round.")
@click.option("--size", default=256, show_default=True)
@click.option(
    "--backbone",
    default="efficientnet_lite0",
    show_default=True,
    type=click.Choice(list(peers_child.LAYERS)),
)
@click.option("--weights", type=click.Path(exists=True, path_type=Path), help="For resnet18.")
@click.option("--workers", type=int, help="anomalib's loading workers; one a core by default.")
@click.option("--systems", help="Keys, or starts of keys, with commas: fre,anomalib-padim,bare")
@click.option("--seed", default=42, show_default=True)
@click.option("--minutes", type=float, help="Begin no system's turn after so many minutes.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Raw figures.")
@click.option(
    "--write",
    "pages",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="Carry the tables to a page that has room for them, between two comments.",
)
def main(
    data: Path,
    n_train: int,
    n_test: int,
    files: int,
    rounds: int,
    rounds_heavy: int,
    epochs: int,
    latencies: int,
    size: int,
    backbone: str,
    weights: Path | None,
    workers: int,
    systems: str | None,
    seed: int,
    minutes: float | None,
    json_file: Path | None,
    pages: tuple[Path, ...],
) -> None:
    """Measure on a dataset that fre can read: its good training images, and its test images.

    With the file of an earlier --json in the place of the dataset, its figures are told again.
    """
    if data.is_file():
        tell(*kept_run(data), pages)
        return
    from fre.datasets import open_dataset
    from fre.parallel import available_cores

    chosen = choose(systems, backbone)
    workers = available_cores() if workers is None else workers
    path = None if weights is None else str(weights.resolve())
    if backbone == "resnet18" and path is None:
        raise click.BadParameter("resnet18 needs --weights, a .safetensors file")
    plan = Plan(
        backbone,
        path,
        (size, size),
        rounds,
        min(rounds, rounds_heavy),
        epochs,
        latencies,
        workers,
        seed,
        minutes,
    )
    whole = open_dataset(data)
    train = [sample.path for sample in evenly(whole.train, n_train)]
    judged = evenly(whole.test, n_test)
    began = time.perf_counter()
    here = machine(PACKAGES)
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        predicted = repeated([sample.path for sample in judged], max(files, len(judged)))
        (place / "data").mkdir()
        work = Work(
            place,
            replace(whole, test=tuple(judged)),
            link(train, place / "data" / "train"),
            link(predicted, place / "data" / "files"),
        )
        (place / "warm").mkdir()
        link(train[:8], place / "warm" / "train")
        link(predicted[:8], place / "warm" / "files")

        def document() -> dict[str, Any]:
            return {
                "command": sys.argv,
                "machine": here,
                "settings": asdict(plan),
                "images": {
                    "dataset": whole.name,
                    "train": len(work.train),
                    "files": len(work.test),
                    "judged": work.judged,
                },
                **asdict(found),
                "summaries": summarise(found.measured),
                "minutes": (time.perf_counter() - began) / 60,
            }

        def keep() -> None:
            if json_file:
                write_json(json_file, document())

        def over() -> bool:
            return minutes is not None and time.perf_counter() - began > minutes * 60

        installed(chosen, found)
        keep()
        warm_up(plan, chosen, work)
        measure(plan, chosen, work, found, keep, over)
        keep()
    tell(document(), plan, chosen, pages)
    if found.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
