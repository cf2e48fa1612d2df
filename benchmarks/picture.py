"""Draw the picture of the README: real parts above, their heat maps below.

    python benchmarks/picture.py ../shared/data/magnetic_tile docs/overview.png

A model of the default preset is trained on the good training images. For good images and for each
kind of defect, the picture shows an image that the model decides rightly; a region touches the
defect. Of these images it takes the one of median score, neither the easiest nor the hardest. All
heat maps share the scale of the model, and the true defect is outlined.
"""

from __future__ import annotations

from pathlib import Path

import click
from PIL import Image

from fre import FRE
from fre.datasets import load_mask, open_dataset, require_test, require_train
from fre.datasets.samples import Sample
from fre.drawing.heatmaps import Tile, contact_sheet, outline, overlay
from fre.images.decode import read_image
from fre.inference.prediction import Prediction
from fre.model import Model

CELL = 224


def median_of_each_kind(model: Model, samples: list[Sample]) -> list[tuple[Sample, Prediction]]:
    """Return the image of median score among the right ones of each kind, good images first."""
    predictions = model.predict_many([sample.path for sample in samples])
    right: dict[str, list[tuple[Sample, Prediction]]] = {}
    for sample, prediction in zip(samples, predictions, strict=True):
        mask = load_mask(sample, prediction.image_size)
        touched = mask is None or not mask.any() or bool((prediction.mask & mask).any())
        if prediction.anomalous != sample.good and touched:
            right.setdefault(sample.kind, []).append((sample, prediction))
    chosen = [
        sorted(pairs, key=lambda pair: pair[1].score)[len(pairs) // 2] for pairs in right.values()
    ]
    return sorted(chosen, key=lambda pair: (not pair[0].good, pair[0].kind))


def tiles(model: Model, sample: Sample, prediction: Prediction) -> tuple[Tile, Tile]:
    """Return the image with its kind, and its heat map with its score."""
    image = read_image(sample.path)
    picture = overlay(image, prediction.anomaly_map, model.map_range)
    mask = load_mask(sample, prediction.image_size)
    if mask is not None and mask.any():
        picture = outline(picture, mask)
    return (image, sample.kind), (picture, f"score {round(prediction.score, 1) + 0.0:,.1f}")


@click.command()
@click.argument("dataset", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("output", type=click.Path(path_type=Path, dir_okay=False))
def main(dataset: Path, output: Path) -> None:
    """Train on a dataset and draw its test images."""
    opened = open_dataset(dataset)
    model = FRE(frozen=True).fit([sample.path for sample in require_train(opened)])
    pairs = [
        tiles(model, *chosen) for chosen in median_of_each_kind(model, list(require_test(opened)))
    ]
    shown = [above for above, _ in pairs] + [below for _, below in pairs]
    Image.fromarray(contact_sheet(shown, columns=len(pairs), cell=CELL)).save(output, optimize=True)
    for _, (_, caption) in pairs:
        click.echo(caption)
    click.echo(f"threshold {model.threshold:,.2f}")


if __name__ == "__main__":
    main()
