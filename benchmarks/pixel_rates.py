"""How many pixels of good images may exceed the pixel threshold? Regions at several shares.

    python benchmarks/pixel_rates.py MODEL DATASET [MODEL DATASET ...]

For each share of the pixels of held-out maps of good images: the pixel threshold, and F1, IoU and
touch rate of the regions of the test images (see `fre.evaluation.regions`), beside the best F1 over
all thresholds. Then quantiles of the map, in multiples of the model's pixel threshold: of pixels
of good test images, of defective pixels, and of the peaks of defective images. They show what a
colour scale has to cover. Markdown on stdout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from fre import load
from fre.datasets import load_mask, open_dataset
from fre.evaluation.metrics import PixelMetrics
from fre.evaluation.regions import RegionCounts
from fre.images.resize import resize_map
from fre.model import Model
from fre.scoring.regions import region_threshold
from fre.training.readout import read_out
from fre.training.update import Rebuilt

RATES = (0.0005, 0.001, 0.002, 0.005)
QUANTILES = (0.5, 0.9, 0.99, 0.999)


def thresholds(model: Model) -> list[float]:
    """Return the pixel threshold of each rate, from the statistics in the model file."""
    rebuilt = Rebuilt.of(model, 0)
    _, readout = read_out([rebuilt.fitted], rebuilt.plan, rebuilt.extractor)
    return [readout.pixel_threshold(rate) for rate in RATES]


def measure(model: Model, folder: Path) -> tuple[list[str], list[str]]:
    """Return the rows of both tables of a model."""
    dataset = open_dataset(folder)
    levels = thresholds(model)
    counts = [RegionCounts() for _ in levels]
    metrics = PixelMetrics()
    shipped = model.calibration.pixel_threshold
    values: dict[str, list[np.ndarray]] = {"good pixels": [], "defective pixels": [], "peaks": []}
    for sample, found in zip(
        dataset.test, model.predict_many([one.path for one in dataset.test]), strict=True
    ):
        mask = None if sample.good else load_mask(sample, found.image_size)
        if not sample.good and (mask is None or not mask.any()):
            continue
        anomaly_map = resize_map(found.input_map, found.image_size)
        metrics.add(anomaly_map, mask)
        for level, counted in zip(levels, counts, strict=True):
            regions = np.zeros(found.image_size, bool)
            if found.anomalous:
                regions = anomaly_map >= region_threshold(found.input_map, level)
            counted.add(regions, mask, anomalous=found.anomalous)
        if mask is None:
            values["good pixels"].append(anomaly_map.ravel()[::17] / shipped)
        else:
            values["defective pixels"].append(anomaly_map[mask][::3] / shipped)
            values["peaks"].append(np.array([anomaly_map.max() / shipped]))
    best = metrics.compute()
    rows = [
        f"| {dataset.name} | best | {best.f1_threshold:.2f} | {best.f1:.3f} "
        f"| {best.f1 / (2 - best.f1):.3f} | |"
    ]
    for rate, level, counted in zip(RATES, levels, counts, strict=True):
        figures = counted.figures()
        rows.append(
            f"| {dataset.name} | {100 * rate:g} % | {level:.2f} | {figures['region_f1']:.3f} "
            f"| {figures['region_iou']:.3f} | {figures['region_touch_rate']:.3f} |"
        )
    scales = []
    for name, parts in values.items():
        found = np.quantile(np.concatenate(parts), QUANTILES)
        scales.append(f"| {dataset.name} | {name} | {' | '.join(f'{x:.2f}' for x in found)} |")
    return rows, scales


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", nargs="+", type=Path, metavar="MODEL DATASET")
    pairs = parser.parse_args().pairs
    if len(pairs) % 2:
        parser.error("give a dataset after each model")
    found = [
        measure(load(model, many=True), data)
        for model, data in zip(pairs[::2], pairs[1::2], strict=True)
    ]
    print("| data | share of good pixels | pixel threshold | F1 | IoU | touch rate |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for rows, _ in found:
        print("\n".join(rows))
    print("\n| data | of | " + " | ".join(f"{quantile:.1%}" for quantile in QUANTILES) + " |")
    print("| --- | --- |" + " ---: |" * len(QUANTILES))
    for _, scales in found:
        print("\n".join(scales))


if __name__ == "__main__":
    main()
