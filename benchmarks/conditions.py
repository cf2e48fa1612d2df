"""How a change of light, focus or position after training moves the scores of good parts.

    python benchmarks/conditions.py MODEL DATASET [MODEL DATASET ...] [--picture FILE]

The good test images of a dataset are changed as a moved lamp, a lens out of focus or a shifted part
would change them, and scored by the model. The table gives the median score and the share of good
images that alarm. A shifted or turned image is filled with the pixels of its border. The picture
shows the changes of a good image of the first dataset, and their heat maps.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageFilter

from fre import load
from fre.datasets import open_dataset, require_test
from fre.images.decode import read_image
from fre.report.heatmaps import Tile, contact_sheet, overlay
from fre.types import ImageArray
from measuring import evenly, table

Change = Callable[[ImageArray], ImageArray]


def light(factor: float) -> Change:
    """Multiply all grey levels."""
    return lambda image: np.clip(np.rint(image * factor), 0, 255).astype(np.uint8)


def blur(share: float) -> Change:
    """Blur by a Gaussian whose sigma is a share of the longer side."""

    def changed(image: ImageArray) -> ImageArray:
        sigma = share * max(image.shape[:2])
        return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))

    return changed


def moved(shift: float = 0.0, angle: float = 0.0) -> Change:
    """Shift by a share of the width, and turn about the centre by degrees."""

    def changed(image: ImageArray) -> ImageArray:
        height, width = image.shape[:2]
        margin = max(height, width) // 2
        wide = np.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        turned = Image.fromarray(wide).rotate(
            angle, Image.Resampling.BILINEAR, translate=(round(shift * width), 0)
        )
        return np.asarray(turned)[margin : margin + height, margin : margin + width].copy()

    return changed


CHANGES: dict[str, Change] = {
    "as it was": lambda image: image,
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


def scored(model_file: Path, dataset: Path, count: int) -> dict[str, tuple[float, float]]:
    """Return the median score and the share of alarms under each change."""
    model = load(model_file)
    good = [sample.path for sample in require_test(open_dataset(dataset)) if sample.good]
    images = [read_image(path) for path in evenly(good, count)]
    results: dict[str, tuple[float, float]] = {}
    for name, change in CHANGES.items():
        predictions = list(model.predict_many([change(image) for image in images]))
        alarms = float(np.mean([prediction.anomalous for prediction in predictions]))
        results[name] = float(np.median([p.score for p in predictions])), alarms
    return results


def picture(model_file: Path, dataset: Path) -> ImageArray:
    """Draw a good test image of median score under some changes, and the heat maps below."""
    model = load(model_file)
    good = [sample.path for sample in require_test(open_dataset(dataset)) if sample.good]
    by_score = sorted(model.predict_many(evenly(good, 21)), key=lambda p: p.score)
    path = by_score[len(by_score) // 2].path
    assert path is not None
    image = read_image(path)
    above: list[Tile] = []
    below: list[Tile] = []
    for name in DRAWN:
        changed = CHANGES[name](image)
        prediction = model.predict(changed)
        above.append((changed, name.partition(",")[0].removesuffix(" of the width")))
        heat = overlay(changed, prediction.anomaly_map, model.map_range)
        below.append((heat, f"score {round(prediction.score, 1) + 0.0:.1f}"))
    return contact_sheet([*above, *below], columns=len(DRAWN), cell=200)


@click.command()
@click.argument("pairs", type=click.Path(path_type=Path, exists=True), nargs=-1, required=True)
@click.option("--count", default=40, help="Good test images of each dataset.")
@click.option(
    "--picture", "drawing", type=click.Path(path_type=Path, dir_okay=False), help="PNG to write."
)
def main(pairs: tuple[Path, ...], count: int, drawing: Path | None) -> None:
    """Print the table as Markdown."""
    if len(pairs) % 2:
        raise click.UsageError("expected pairs of a model file and its dataset")
    found = {
        data.name: scored(model, data, count)
        for model, data in zip(pairs[::2], pairs[1::2], strict=True)
    }
    rows = [
        [name, *(f"{r[name][0] + 0.0:.1f} / {r[name][1]:.0%}" for r in found.values())]
        for name in CHANGES
    ]
    click.echo(table(["", *found], rows))
    if drawing is not None:
        Image.fromarray(picture(*pairs[:2])).save(drawing, optimize=True)


if __name__ == "__main__":
    main()
