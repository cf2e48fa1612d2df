"""Does the false-alarm rate hold? Random splits of the good images, alarms on the held-out part.

    python benchmarks/false_alarms.py DATA [--preset reference] [--images 50 200] [--repeats 50]

Features are extracted once. Each repeat fits and calibrates on a random part of all good images,
training and test, and counts the alarms on the others: images above the threshold, and images with
any pixel above the pixel threshold. With --group-by no part is on both sides, and the folds of the
calibration are dealt once by image and once by part. The recall is that of all defective images.
The table goes to stdout as Markdown, the plot to --plot. The reference preset is the closed form on
EfficientNet-Lite0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from fre.backbones import get_backbone
from fre.datasets import open_dataset
from fre.detector import FRE
from fre.evaluation.metrics import wilson_interval
from fre.features.extractor import FeatureExtractor
from fre.features.table import Features
from fre.scoring.calibration import Calibration
from fre.subspaces.cross_fit import cheap_folds, extrapolate, make_folds
from fre.subspaces.gram import Gram
from fre.subspaces.protocols import FitOptions
from fre.training.config import resolve
from fre.training.folds import Folds
from fre.training.grouping import group_labels
from fre.training.held import HeldRows
from fre.training.pipeline import fit_detector
from fre.training.plan import plan_detector
from fre.training.readout import read_out

CURVE = np.round(np.arange(0.01, 0.2001, 0.01), 2)
VARIANCE = 0.97
HELD_OUT = 300
"""At most, of each split: more would cost time and add little, as the splits share them."""
Rows = NDArray[np.intp]
Values = NDArray[np.float64]


class Scored(NamedTuple):
    """Scores, and largest values of maps, of the images that were fitted on and of new ones."""

    own: Values
    own_maxima: Values
    good: Values
    good_maxima: Values
    defects: Values


def reference(
    extractor: FeatureExtractor,
    X: NDArray[np.float32],
    folds: list[Rows],
    coarse: int,
    good: NDArray[np.float32],
    defects: NDArray[np.float32],
) -> Scored:
    channels = extractor.layout.channels
    gram = Gram(X)
    subspace = gram.fit(FitOptions(variance=VARIANCE))
    own = subspace.squared_residuals(X, channels)
    for rows, maps in gram.cross_fit(folds, channels, FitOptions(variance=VARIANCE)):
        own[rows] = extrapolate(maps, own[rows], fitted_on=len(X) - len(rows), of=len(X))
    new, bad = (subspace.squared_residuals(block, channels) for block in (good, defects))
    return Scored(
        own.sum(axis=1, dtype=np.float64),
        own.max(axis=1),
        new.sum(axis=1, dtype=np.float64),
        new.max(axis=1),
        bad.sum(axis=1, dtype=np.float64),
    )


def fused(
    extractor: FeatureExtractor,
    X: NDArray[np.float32],
    folds: list[Rows],
    coarse: int,
    good: NDArray[np.float32],
    defects: NDArray[np.float32],
) -> Scored:
    settings = resolve(
        preset="default",
        backbone=None,
        default_backbone=extractor.backbone.name,
        variance=VARIANCE,
    )
    plan = plan_detector(extractor.backbone, None, settings)
    rows = HeldRows(Features(X, ("",) * len(X), ()), extractor.layouts)
    fitted = fit_detector(rows, plan, Folds.of(folds, coarse))
    readout = read_out([fitted], plan, extractor)
    (head,) = readout.heads
    by_name = {one.part.name: one.part for one in fitted.parts}

    def scores(new: NDArray[np.float32]):
        *parts, overall = (
            subspace.squared_residuals(
                by_name[name].features(new, extractor.layouts), layout.channels
            )
            for name, layout, subspace in zip(
                plan.part_names,
                [*head.layouts, head.overall[0]],
                [*head.subspaces, head.overall[1]],
                strict=True,
            )
        )
        mean = overall.sum(axis=1, dtype=np.float64) / head.overall[0].dimension
        return head.fusion.scores(parts, mean), parts

    new, parts = scores(good)
    maxima = np.array([anomaly_map.max() for anomaly_map in head.fusion.maps(parts)])
    return Scored(readout.scores, readout.map_maxima, new, maxima, scores(defects)[0])


class Observed(NamedTuple):
    """Of every repeat and rate: what was promised, and the shares of images that were called."""

    promised: Values
    alarms: Values
    pixel_alarms: Values
    recall: Values


def observe(
    score: Callable[..., Scored],
    X: NDArray[np.float32],
    defects: NDArray[np.float32],
    parts: Sequence[str],
    rates: NDArray,
    *,
    n: int,
    repeats: int,
    folds: int,
    grouped: bool,
) -> Observed:
    """Shares, (repeats, rates) each, of images of parts that were not fitted on."""
    labels = np.array(parts)
    result = Observed(*np.zeros((4, repeats, len(rates))))
    for repeat in range(repeats):
        rng = np.random.default_rng(repeat)
        place = {part: at for at, part in enumerate(rng.permutation(np.unique(labels)))}
        order = np.argsort([place[part] for part in parts], kind="stable")
        fit = order[:n]
        rest = rng.permutation(order[~np.isin(labels[order], labels[fit])])[:HELD_OUT]
        groups = list(labels[fit]) if grouped else None
        dealt = make_folds(n, folds=cheap_folds(n, folds), groups=groups)
        scored = score(X[fit], dealt, folds, X[rest], defects)
        for column, rate in enumerate(rates):
            calibration = Calibration.fit(scored.own, scored.own_maxima, float(rate))
            result.promised[repeat, column] = calibration.expected_rate
            for shares, values, threshold in (
                (result.alarms, scored.good, calibration.threshold),
                (result.pixel_alarms, scored.good_maxima, calibration.pixel_threshold),
                (result.recall, scored.defects, calibration.threshold),
            ):
                shares[repeat, column] = np.mean(values > threshold)
    return result


def plot(file: Path, title: str, mean: NDArray, low: NDArray, high: NDArray) -> None:
    """Observed over promised, with the interval as a band; the diagonal is the promise."""
    left, top, side = 56, 34, 300
    limit = max(0.25, float(high.max()))

    def at(x: float, y: float) -> str:
        return f"{left + side * x / limit:.1f},{top + side * (1 - y / limit):.1f}"

    def points(values: NDArray) -> list[str]:
        return [at(x, y) for x, y in zip(CURVE, values, strict=True)]

    marks = []
    for tick in np.arange(0, limit + 1e-9, 0.05):
        (x, y), (_, bottom) = (at(tick, tick).split(","), at(tick, 0).split(","))
        marks.append(f'<path d="M{left} {y}h{side}M{x} {top}v{side}" stroke="#ddd"/>')
        marks.append(
            f'<text x="{x}" y="{float(bottom) + 16}" text-anchor="middle">{tick:.0%}</text>'
        )
        marks.append(f'<text x="{left - 6}" y="{float(y) + 4}" text-anchor="end">{tick:.0%}</text>')
    band = " ".join([*points(low), *reversed(points(high))])
    middle = left + side / 2
    file.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 0 {left + side + 24} {top + side + 44}" '
        'width="380" font-family="sans-serif" font-size="11" fill="#333">\n'
        '<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="{middle}" y="20" text-anchor="middle" font-size="13">{escape(title)}</text>\n'
        + "\n".join(marks)
        + f'\n<polygon points="{band}" fill="#2a6fb0" fill-opacity="0.2"/>\n'
        f'<polyline points="{at(0, 0)} {at(limit, limit)}" fill="none" stroke="#888" '
        'stroke-dasharray="4 3"/>\n'
        f'<polyline points="{" ".join(points(mean))}" fill="none" stroke="#2a6fb0" '
        'stroke-width="2"/>\n'
        f'<text x="{middle}" y="{top + side + 36}" text-anchor="middle">promised</text>\n'
        f'<text transform="rotate(-90 14 {top + side / 2})" x="14" y="{top + side / 2}" '
        'text-anchor="middle">observed false-alarm rate</text>\n</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", choices=["reference", "default"], default="reference")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rate", type=float, nargs="+", default=[0.01, 0.05])
    parser.add_argument("--folds", type=int, default=5, help="of the cross-fitting")
    parser.add_argument("--images", type=int, nargs="+", help="to fit on; 70 % of the good ones")
    parser.add_argument(
        "--group-by", help="as of fre train: split by parts, and calibrate both ways"
    )
    parser.add_argument("--plot", type=Path, help="an SVG file")
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    samples = [*dataset.train, *dataset.test]
    good = [sample.path for sample in samples if sample.good]
    backbone = "efficientnet_lite0"
    extractor = FRE(backbone, preset=options.preset)._extractor(get_backbone(backbone))
    X = extractor.extract(good).X
    defects = extractor.extract([sample.path for sample in samples if not sample.good]).X

    # Unlabelled, each image is a part of its own.
    parts = group_labels(good, options.group_by) if options.group_by else [str(p) for p in good]
    rates = np.concatenate([options.rate, CURVE])
    n_parts = len(set(parts))
    print(
        f"{dataset.name}, {options.preset}: {len(good)} good images of {n_parts} parts, "
        f"{options.repeats} splits, {options.folds} folds\n\n"
        "| images | folds | asked | promised | observed | 95 % interval | over splits "
        "| with any pixel | 95 % interval | recall |\n"
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        flush=True,
    )

    def interval(share: float) -> str:
        # The splits share their images, so that more of them add no more evidence than there
        # are parts: the interval is that of as many trials as parts.
        low, high = wilson_interval(share * n_parts, n_parts)
        return f"{low:.1%} to {high:.1%}"

    score = fused if options.preset == "default" else reference
    for n in options.images or [round(0.7 * len(good))]:
        for grouped in (False, True) if options.group_by else (False,):
            observed = observe(
                lambda *blocks: score(extractor, *blocks),
                X,
                defects,
                parts,
                rates,
                n=n,
                repeats=options.repeats,
                folds=options.folds,
                grouped=grouped,
            )
            for column in range(len(options.rate)):
                promised, alarms, pixel_alarms, recall = (values[:, column] for values in observed)
                print(
                    f"| {n} | {'by part' if grouped else 'by image'} | {rates[column]:.1%} | "
                    f"{promised.mean():.2%} | {alarms.mean():.2%} | {interval(alarms.mean())} | "
                    f"{alarms.min():.1%} to {alarms.max():.1%} | {pixel_alarms.mean():.2%} | "
                    f"{interval(pixel_alarms.mean())} | {recall.mean():.1%} |",
                    flush=True,
                )
    if options.plot:
        mean = observed.alarms.mean(axis=0)[len(options.rate) :]
        low, high = np.array([wilson_interval(share * n_parts, n_parts) for share in mean]).T
        title = f"{dataset.name}, {options.preset}, {n} images, {options.repeats} splits"
        plot(options.plot, title, mean, low, high)


if __name__ == "__main__":
    main()
