"""Does the false-alarm rate hold? Random splits of the good images, alarms on the held-out part.

    python benchmarks/false_alarms.py DATA [--preset reference] [--repeats 50] [--rate 0.01 0.05]

Features are extracted once. Each repeat fits and calibrates on a random part of all good images,
training and test, and counts the alarms on the rest. With --group-by no part is on both sides, and
the folds of the calibration are dealt once by image and once by part. The table goes to stdout as
Markdown, the plot to --plot. The reference preset is the closed form on EfficientNet-Lite0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from fre.backbones import get_backbone
from fre.calibration import Calibration
from fre.datasets import open_dataset
from fre.detector import FRE
from fre.features import FeatureExtractor, Features, pool_features
from fre.fused import fit_fused, plan_layers
from fre.grouping import group_labels
from fre.subspace.pca import Gram, Subspace, make_folds
from fre.subspace.position import PositionSubspace

CURVE = np.round(np.arange(0.01, 0.2001, 0.01), 2)
VARIANCE = 0.97
Rows = NDArray[np.intp]
Scores = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Cross-fitted scores of the images that were fitted on, and scores of the held-out ones."""


def residual_map(subspace: Subspace, X: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    residual = subspace.residual(X).reshape(len(X), channels, -1)
    return np.square(residual).sum(axis=1).astype(np.float32)


def reference(
    extractor: FeatureExtractor, X: NDArray[np.float32], folds: list[Rows], fit: Rows, rest: Rows
) -> Scores:
    channels = extractor.layout.channels
    gram = Gram(X[fit])
    own = np.empty(len(fit))
    for rows, maps in gram.cross_fit(folds, channels=channels, variance=VARIANCE):
        own[rows] = maps.sum(axis=1, dtype=np.float64)
    return own, residual_map(gram.fit(variance=VARIANCE), X[rest], channels).sum(axis=1)


def fused(
    extractor: FeatureExtractor, X: NDArray[np.float32], folds: list[Rows], fit: Rows, rest: Rows
) -> Scores:
    layers = plan_layers(extractor.backbone)
    fitted = fit_fused(
        extractor,
        Features(X[fit], ("",) * len(fit), ()),
        layers,
        folds,
        variance=VARIANCE,
    )
    (head,) = fitted.heads
    plain = {layout.layer: layout for layout in extractor.layouts}
    blocks = dict(zip(plain, extractor.split(X[rest]), strict=True))

    def energies(layout, subspace):
        block = np.ascontiguousarray(blocks[layout.layer])
        if isinstance(subspace, PositionSubspace):
            return subspace.energies(block)
        if layout.pool > 1:
            block = pool_features(block, plain[layout.layer], layout)
        return residual_map(subspace, block, layout.channels)

    parts = [energies(*part) for part in zip(head.layouts, head.subspaces, strict=True)]
    layout = head.overall[0]
    overall = energies(*head.overall).sum(axis=1, dtype=np.float64) / layout.dimension
    return fitted.scores, head.fusion.scores(parts, overall)


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson, "Probable inference", JASA 1927: the 95 % interval of a binomial share."""
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return max(0.0, centre - half), min(1.0, centre + half)


def observe(
    score: Callable[[list[Rows], Rows, Rows], Scores],
    parts: list[str],
    rates: NDArray,
    *,
    repeats: int,
    share: float,
    folds: int,
    grouped: bool,
) -> NDArray:
    """Shares of alarms, (repeats, rates), on images of parts that were not fitted on."""
    images: dict[str, list[int]] = {}
    for row, part in enumerate(parts):
        images.setdefault(part, []).append(row)
    shots = [np.array(rows, np.intp) for rows in images.values()]
    n_fit = round(share * len(shots))
    alarms = np.empty((repeats, len(rates)))
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(len(shots))
        fit = np.concatenate([shots[part] for part in order[:n_fit]])
        rest = np.concatenate([shots[part] for part in order[n_fit:]])
        groups = [parts[row] for row in fit] if grouped else None
        own, held = score(make_folds(len(fit), folds=folds, groups=groups), fit, rest)
        for column, rate in enumerate(rates):
            threshold = Calibration.fit(own, own, float(rate)).threshold
            alarms[repeat, column] = np.mean(held > threshold)
    return alarms


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
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--rate", type=float, nargs="+", default=[0.01, 0.05])
    parser.add_argument("--folds", type=int, default=5, help="of the cross-fitting")
    parser.add_argument("--share", type=float, default=0.7, help="of the images to fit on")
    parser.add_argument(
        "--group-by", help="as of fre train: split by parts, and calibrate both ways"
    )
    parser.add_argument("--plot", type=Path, help="an SVG file")
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    good = [sample.path for sample in (*dataset.train, *dataset.test) if sample.good]
    backbone = "efficientnet_lite0"
    extractor = FRE(backbone, preset=options.preset).extractor(get_backbone(backbone))
    X = extractor.extract(good).X
    score = fused if options.preset == "default" else reference

    # Unlabelled, each image is a part of its own.
    parts = group_labels(good, options.group_by) if options.group_by else [str(p) for p in good]
    rates = np.concatenate([options.rate, CURVE])
    n_parts = len(set(parts))
    print(
        f"{dataset.name}, {options.preset}: {len(good)} good images of {n_parts} parts, "
        f"{options.repeats} splits, {options.share:.0%} to fit on, {options.folds} folds\n\n"
        "| calibrated | asked for | observed | 95 % interval | over splits |\n"
        "| --- | ---: | ---: | ---: | ---: |"
    )
    for grouped in (False, True) if options.group_by else (False,):
        alarms = observe(
            lambda folds, fit, rest: score(extractor, X, folds, fit, rest),
            parts,
            rates,
            repeats=options.repeats,
            share=options.share,
            folds=options.folds,
            grouped=grouped,
        )
        # The splits share their images, so that more of them add no more evidence than there
        # are parts: the interval is that of as many trials as parts.
        mean = alarms.mean(axis=0)
        low, high = np.array([wilson(share, n_parts) for share in mean]).T
        for column in range(len(options.rate)):
            each = alarms[:, column]
            print(
                f"| {'by part' if grouped else 'by image'} | {rates[column]:.1%} | "
                f"{mean[column]:.2%} | {low[column]:.1%} to {high[column]:.1%} | "
                f"{each.min():.1%} to {each.max():.1%} |"
            )
    if options.plot:
        curve = slice(len(options.rate), None)
        title = f"{dataset.name}, {options.preset}, {options.repeats} splits"
        plot(options.plot, title, mean[curve], low[curve], high[curve])


if __name__ == "__main__":
    main()
