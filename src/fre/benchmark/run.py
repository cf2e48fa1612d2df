"""Every category of a dataset by every backbone: train, evaluate, keep, and tabulate.

Each cell of the tables is kept in a file of its own as soon as it is done, so that a run that is
stopped continues where it was.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fre.backbones import Backbone, get_backbone
from fre.benchmark.memory import peak_memory, reset_peak_memory
from fre.datasets import open_datasets, require_test, require_train
from fre.datasets.samples import Dataset
from fre.detector import FRE
from fre.errors import OptionError, OutputError
from fre.evaluation.evaluate import evaluate
from fre.features.extractor import FeatureExtractor
from fre.features.layout import pool_features
from fre.features.table import Features
from fre.images.input_size import ImageSizes
from fre.inference.document import to_json
from fre.model import Model
from fre.parallel import available_cores
from fre.runtimes.measure import package_version, processor
from fre.storage.files import write_atomic
from fre.training.config import OF_AUTOENCODER, OF_METHOD, Method, flatten_parameters
from fre.types import Progress
from fre.version import __version__

REFERENCE_POOL = 2
PACKAGES = ("numpy", "pillow", "onnxruntime", "onnx", "torch", "timm")


@dataclass(frozen=True)
class Variant:
    """A row of the tables: a backbone and a detector on its features.

    Attributes:
        backbone: name of the backbone.
        weights: file of weights, or ``None``.
        preset: ``"default"``, ``"fast"``, ``"accurate"`` or ``"reference"``.
        pool: side of the pooling windows; ``None`` takes the preset's.
        subspace: ``"pca"``, ``"tied"`` or ``"plain"``.
    """

    backbone: str
    weights: Path | None
    preset: str
    pool: int | None
    subspace: str

    @property
    def label(self) -> str:
        """Name of the row in the tables."""
        pool = "" if self.pool is None else f", pool {self.pool}"
        kind = f", {self.subspace}" if self.preset == "reference" else ""
        return f"{Path(self.backbone).name}, {self.preset}{pool}{kind}"


@dataclass(frozen=True)
class Study:
    """The rows of a benchmark, and the settings that they share.

    Attributes:
        variants: rows of the tables.
        parameters: further parameters of `fre.FRE`.
        seed: seed of each training.
        threads: number of threads of the networks, 0 for all cores.
    """

    variants: Sequence[Variant]
    parameters: dict[str, Any]
    seed: int = 42
    threads: int = 0

    def by_features(self) -> Iterator[list[Variant]]:
        """Yield the variants that share their features, together."""
        of_key: dict[tuple[str, str], list[Variant]] = {}
        for variant in self.variants:
            of_key.setdefault((variant.backbone, variant.preset), []).append(variant)
        yield from of_key.values()


def make_variant(
    backbone: str, weights: Path | None, preset: str, pool: int | None, subspace: str
) -> Variant:
    """Return a row of the tables; autoencoders take the reference preset, which pools by 2."""
    if subspace != "pca":
        preset = "reference"
    if preset == "reference" and pool is None:
        pool = REFERENCE_POOL
    return Variant(backbone, weights, preset, pool, subspace)


def assign_weights(backbones: Sequence[str], weights: Sequence[str]) -> dict[str, Path]:
    """Assign files of weights to backbones.

    Args:
        backbones: names of backbones.
        weights: ``NAME=FILE``, or ``FILE`` alone for the only backbone without bundled weights.

    Raises:
        OptionError: a name is not among the backbones, or a file may belong to several.
    """
    from fre.backbones.efficientnet_lite import EFFICIENTNET_LITE

    assigned: dict[str, Path] = {}
    bare: list[Path] = []
    for item in weights:
        name, equals, file = item.partition("=")
        if equals and name in backbones:
            assigned[name] = Path(file)
        elif equals and not Path(item).exists():
            raise OptionError(f"--weights {item}: {name!r} is not among the backbones")
        else:
            bare.append(Path(item))
    open_names = [
        name
        for name in backbones
        if name not in assigned and name not in EFFICIENTNET_LITE and not name.endswith(".onnx")
    ]
    if len(bare) > 1 or (bare and len(open_names) != 1):
        raise OptionError(
            f"--weights {bare[0]}: say which backbone it is for, as in "
            f"--weights {backbones[0]}={bare[0]}"
        )
    return assigned | dict(zip(open_names, bare, strict=False))


def run_benchmark(
    datasets: Sequence[Dataset],
    folder: Path,
    study: Study,
    progress: Progress | None = None,
    report: Callable[[dict[str, Any], bool], None] | None = None,
) -> list[dict[str, Any]]:
    """Train and evaluate every category with every variant.

    Args:
        datasets: the categories, from `open_categories`.
        folder: folder that keeps finished cells, for a resumed run.
        study: rows of the tables, and their settings.
        progress: called as the work advances.
        report: called with each cell, and whether an earlier run finished it.

    Returns:
        The cells, category by category.

    Raises:
        OutputError: the folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't be written: {error.strerror}") from error
    cells: list[dict[str, Any]] = []
    opened: dict[str, Backbone] = {}
    for dataset in datasets:
        listing = _listing(dataset)
        for group in study.by_features():
            source = _Source(dataset, group, study, opened, progress)
            for variant in group:
                wanted = _identity(dataset, variant, study, listing)
                file = folder / _file_name(dataset.name, variant)
                cell = _finished(file, wanted)
                known = cell is not None
                if cell is None:
                    cell = {"identity": wanted, **_measure(source, variant)}
                    write_atomic(file, json.dumps(cell, indent=2).encode())
                cells.append(cell)
                if report:
                    report(cell, known)
    return cells


def open_categories(
    root: Path | str, categories: Sequence[str] = (), layout: str | None = None
) -> list[Dataset]:
    """Open a dataset: a folder of categories, or one category.

    Args:
        root: its folder.
        categories: names of categories; all, if empty.
        layout: layout of the dataset; ``None`` recognises it.

    Raises:
        DatasetError: a category without training or test images.
        OptionError: a category that is not there.
    """
    datasets = open_datasets(root, layout=layout)
    names = [dataset.name for dataset in datasets]
    for category in categories:
        if category not in names:
            raise OptionError(f"no category is called {category!r}; there are {', '.join(names)}")
    chosen = [dataset for dataset in datasets if not categories or dataset.name in categories]
    for dataset in chosen:
        require_train(dataset)
        require_test(dataset)
    return chosen


class _Source:
    """The features of one category by one backbone: extracted when first needed, and once."""

    def __init__(
        self,
        dataset: Dataset,
        variants: Sequence[Variant],
        study: Study,
        opened: dict[str, Backbone],
        progress: Progress | None,
    ) -> None:
        self.dataset = dataset
        self.study = study
        self.progress = progress
        self._opened = opened
        # Pools that are compared are all made from the feature map as it is.
        pools = {variant.pool for variant in variants}
        self._pool = pools.pop() if len(pools) == 1 else 1
        self._base: tuple[FeatureExtractor, Features] | None = None
        self._sizes: ImageSizes | None = None

    def detector(self, variant: Variant) -> FRE:
        parameters = self.study.parameters
        if variant.subspace == "pca":
            # The autoencoders that are compared with PCA have these settings.
            own = {*OF_AUTOENCODER} - {*OF_METHOD}
            parameters = {name: parameters[name] for name in parameters if name not in own}
        return FRE.from_parameters(
            {
                "backbone": variant.backbone,
                "weights": variant.weights,
                "preset": variant.preset,
                "pool": variant.pool,
                "subspace": variant.subspace,
                "seed": self.study.seed,
                **parameters,
            }
        )

    def features(self, variant: Variant, detector: FRE) -> tuple[FeatureExtractor, Features]:
        if self._base is None:
            backbone = self._opened.get(variant.backbone)
            if backbone is None:
                backbone = get_backbone(variant.backbone, weights=variant.weights)
                self._opened[variant.backbone] = backbone
            method = replace(detector.method or Method(), pool=self._pool)
            detector = FRE(**{**detector.get_params(), "method": method})
            paths = [sample.path for sample in self.dataset.train]
            self._sizes = ImageSizes.of(paths)
            base = detector._extractor(backbone, self._sizes, threads=self.study.threads)
            self._base = base, base.extract(paths, progress=self.progress)
        extractor, features = self._base
        if variant.preset != "reference" or variant.pool == self._pool:
            # The default preset pools what it has extracted without pooling.
            return extractor, features
        pooled = detector._extractor(extractor.backbone, self._sizes, threads=self.study.threads)
        X = pool_features(features.X, extractor.layout, pooled.layout)
        return pooled, replace(features, X=X)


def _measure(source: _Source, variant: Variant) -> dict[str, Any]:
    resettable = reset_peak_memory()
    began = time.perf_counter()
    detector = source.detector(variant)
    extractor, features = source.features(variant, detector)
    extracted = time.perf_counter()
    threads = source.study.threads
    trainer = detector._trainer(extractor, threads=threads, progress=source.progress)
    model = Model(trainer.fit_features(features), threads=threads)
    trained = time.perf_counter()
    result = evaluate(model, source.dataset, progress=source.progress)
    document = model.document
    return {
        "category": source.dataset.name,
        "label": variant.label,
        "figures": result.to_dict(),
        "cost": {
            "features_seconds": extracted - began,
            "fit_seconds": trained - extracted,
            "images_per_second": result.images_per_second,
            "model_bytes": len(model.data),
            "peak_memory_bytes": peak_memory() if resettable else None,
        },
        "training": {
            "parameters": _plain(flatten_parameters(detector.get_params())),
            "backbone": to_json(document.backbone),
            "preprocessing": to_json(document.preprocessing),
            "rank": document.subspaces[0].rank,
            "dimension": document.subspaces[0].dimension,
            **to_json(document.provenance),
        },
        "environment": _environment(),
    }


def _plain(parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        name: str(value) if isinstance(value, Path) else value for name, value in parameters.items()
    }


def _environment() -> dict[str, Any]:
    return {
        "fre": __version__,
        "python": platform.python_version(),
        "packages": {name: found for name in PACKAGES if (found := package_version(name))},
        "platform": platform.platform(),
        "processor": processor(),
        "cores": available_cores(),
        "command": sys.argv,
    }


def _listing(dataset: Dataset) -> str:
    """Return a digest of the names and sizes of a dataset's files."""
    digest = hashlib.sha256()
    for sample in (*dataset.train, *dataset.test):
        for path in (sample.path, *sample.masks):
            digest.update(f"{path.name}\t{path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _identity(dataset: Dataset, variant: Variant, study: Study, listing: str) -> dict[str, Any]:
    """Return the JSON values that must agree for a finished cell to count."""
    weights = variant.weights
    state = weights.name if weights else None
    if weights and weights.is_file():
        state = f"{weights.name}, {weights.stat().st_size} bytes"
    identity = {
        "fre": __version__,
        "category": dataset.name,
        "listing_sha256": listing,
        "backbone": variant.backbone,
        "weights": state,
        "preset": variant.preset,
        "pool": variant.pool,
        "subspace": variant.subspace,
        "seed": study.seed,
        "parameters": _plain(study.parameters),
    }
    return dict(json.loads(json.dumps(identity)))


def _file_name(category: str, variant: Variant) -> str:
    pool = "" if variant.pool is None else f"--pool{variant.pool}"
    name = Path(variant.backbone).name
    return f"{category}--{name}--{variant.preset}{pool}--{variant.subspace}.json"


def _finished(file: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    try:
        cell = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return dict(cell) if cell.get("identity") == identity else None
