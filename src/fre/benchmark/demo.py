"""Demonstration on drawn plates: draw, train, evaluate, show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fre.datasets import load_mask, open_dataset
from fre.datasets.plate_dataset import PlateSet, write_dataset
from fre.datasets.samples import Dataset
from fre.detector import FRE
from fre.drawing.heatmaps import Tile, contact_sheet, outline, overlay
from fre.evaluation.evaluate import evaluate
from fre.evaluation.figures import Evaluation
from fre.images.decode import read_image
from fre.model import Model
from fre.report.page import report_on
from fre.types import ImageArray, Progress


@dataclass(frozen=True)
class DemoResult:
    """Results of a demonstration.

    Attributes:
        n_images: number of training images.
        seconds: duration of the training: ``total``, ``features`` and ``fit``.
        evaluation: evaluation of the model on the test images.
    """

    n_images: int
    seconds: dict[str, float]
    evaluation: Evaluation


def run_demo(folder: Path, *, seed: int = 0, progress: Progress | None = None) -> DemoResult:
    """Draw a data set, train on it, evaluate, and write everything into a folder.

    The folder then holds ``plates/``, ``plate.onnx``, ``overlays/``, ``overview.png`` and
    ``report.html``.

    Args:
        folder: empty folder.
        seed: seed of the data set.
        progress: called as the work advances.
    """
    # Fewer than 99 good images can't guarantee the default false-alarm rate of 0.01.
    write_dataset(folder / "plates", PlateSet(n_train=100, seed=seed), progress)
    dataset = open_dataset(folder / "plates")
    detector = FRE()
    model = detector.fit([sample.path for sample in dataset.train], progress=progress)
    model.save(folder / "plate.onnx")
    evaluation = evaluate(model, dataset, progress=progress)
    tiles = _write_overlays(folder / "overlays", model, dataset)
    _save_png(contact_sheet(tiles, columns=len(tiles) // 2, cell=224), folder / "overview.png")
    report_on(
        folder / "report.html",
        model,
        dataset,
        evaluation,
        model_name="plate.onnx",
        progress=progress,
    )
    return DemoResult(len(dataset.train), detector.seconds_, evaluation)


def _write_overlays(folder: Path, model: Model, dataset: Dataset) -> list[Tile]:
    """Write the overlay of each test image, and return the tiles of the overview."""
    pictures: dict[str, Tile] = {}
    overlays: dict[str, Tile] = {}
    for sample in sorted(dataset.test, key=lambda sample: (not sample.good, sample.kind)):
        image = read_image(sample.path)
        prediction = model.predict(sample.path)
        picture = overlay(image, prediction.anomaly_map, model.map_range)
        mask = load_mask(sample, prediction.image_size)
        if mask is not None and mask.any():
            picture = outline(picture, mask)
        (folder / sample.kind).mkdir(parents=True, exist_ok=True)
        _save_png(picture, folder / sample.kind / f"{sample.path.stem}.png")
        if sample.kind not in pictures and prediction.anomalous != sample.good:
            pictures[sample.kind] = (image, sample.kind.replace("_", " "))
            overlays[sample.kind] = (picture, f"score {round(prediction.score, 1) + 0.0:,.1f}")
    return [*pictures.values(), *overlays.values()]


def _save_png(image: ImageArray, file: Path) -> None:
    from PIL import Image

    Image.fromarray(image).save(file)
