"""How a change of light, focus or position after training moves the scores of good parts.

    python benchmarks/conditions.py DATASET... [--picture FILE]

A model of the default preset is trained on the middle of the good training images: 80 % of width
and height. The middles of the good test images are changed as a moved lamp, a lens out of focus or
a moved part would change them, and scored. Photos are larger than their middles, so shifted and
turned middles show true pixels. The table gives the median score and the share of good images that
alarm. The picture shows the changes of a good image of the first dataset, and their heat maps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageFilter

from fre import FRE
from fre.datasets import open_dataset, require_test, require_train
from fre.drawing.heatmaps import Tile, contact_sheet, overlay
from fre.images.decode import read_image
from fre.model import Model
from fre.types import ImageArray
from measuring import evenly, table

SHARE = 0.8
Change = Callable[[ImageArray], ImageArray]
"""Changes a whole photo, and returns its middle."""


def middle(image: ImageArray) -> ImageArray:
    """Return the middle 80 % of width and height."""
    height, width = (round(SHARE * side) for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width].copy()


def light(factor: float) -> Change:
    """Multiply all grey levels."""
    return lambda image: middle(np.clip(np.rint(image * factor), 0, 255).astype(np.uint8))


def blur(share: float) -> Change:
    """Blur by a Gaussian whose sigma is a share of the longer side of the middle."""

    def changed(image: ImageArray) -> ImageArray:
        sigma = share * SHARE * max(image.shape[:2])
        return middle(np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))))

    return changed


def moved(shift: float = 0.0, angle: float = 0.0) -> Change:
    """Shift by a share of the width of the middle, and turn about the centre by degrees."""

    def changed(image: ImageArray) -> ImageArray:
        pixels = round(shift * SHARE * image.shape[1])
        turned = Image.fromarray(image).rotate(
            angle, Image.Resampling.BILINEAR, translate=(pixels, 0)
        )
        return middle(np.asarray(turned))

    return changed


CHANGES: dict[str, Change] = {
    "as it was": middle,
    "light -20 %": light(0.8),
    "light -10 %": light(0.9),
    "light +10 %": light(1.1),
    "light +20 %": light(1.2),
    "blur, 1/500 of the longer side": blur(1 / 500),
    "blur, 1/200 of the longer side": blur(1 / 200),
    "shifted by 2 % of the width": moved(shift=0.02),
    "shifted by 5 % of the width": moved(shift=0.05),
    "turned by 2 degrees": moved(angle=2.0),
    "turned by 5 degrees": moved(angle=5.0),
}
DRAWN = (
    "as it was",
    "light +20 %",
    "blur, 1/200 of the longer side",
    "shifted by 5 % of the width",
    "turned by 5 degrees",
)


def scored(model: Model, photos: list[ImageArray]) -> dict[str, tuple[float, float]]:
    """Return the median score and the share of alarms under each change."""
    results: dict[str, tuple[float, float]] = {}
    for name, change in CHANGES.items():
        predictions = list(model.predict_many([change(photo) for photo in photos]))
        alarms = float(np.mean([prediction.anomalous for prediction in predictions]))
        results[name] = float(np.median([p.score for p in predictions])), alarms
    return results


def picture(model: Model, photos: list[ImageArray]) -> ImageArray:
    """Draw the photo of median score under some changes, and the heat maps below."""
    scores = [p.score for p in model.predict_many([middle(photo) for photo in photos])]
    photo = photos[int(np.argsort(scores)[len(scores) // 2])]
    above: list[Tile] = []
    below: list[Tile] = []
    for name in DRAWN:
        changed = CHANGES[name](photo)
        prediction = model.predict(changed)
        above.append((changed, name.partition(",")[0].removesuffix(" of the width")))
        heat = overlay(changed, prediction.anomaly_map, model.map_range)
        below.append((heat, f"score {round(prediction.score, 1) + 0.0:.1f}"))
    return contact_sheet([*above, *below], columns=len(DRAWN), cell=200)


@click.command()
@click.argument("datasets", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option("--count", default=40, help="Good test images of each dataset.")
@click.option(
    "--picture", "drawing", type=click.Path(path_type=Path, dir_okay=False), help="PNG to write."
)
def main(datasets: tuple[Path, ...], count: int, drawing: Path | None) -> None:
    """Print the table as Markdown."""
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for dataset in datasets:
        opened = open_dataset(dataset)
        train = [middle(read_image(sample.path)) for sample in require_train(opened)]
        model = FRE(frozen=True).fit(train)
        good = [sample.path for sample in require_test(opened) if sample.good]
        photos = [read_image(path) for path in evenly(good, count)]
        found[f"{dataset.name}, threshold {model.threshold:.1f}"] = scored(model, photos)
        if drawing is not None and dataset == datasets[0]:
            Image.fromarray(picture(model, photos)).save(drawing, optimize=True)
    rows = [
        [name, *(f"{r[name][0] + 0.0:.1f} / {r[name][1]:.0%}" for r in found.values())]
        for name in CHANGES
    ]
    click.echo(table(["", *found], rows))


if __name__ == "__main__":
    main()
