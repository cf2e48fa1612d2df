"""Does the false-alarm rate hold, and what do defects among the training images cost?

    python benchmarks/false_alarms.py DATA [--preset reference] [--images 50 200] [--repeats 50]
    python benchmarks/false_alarms.py DATA --images 200 --mixed 0 0.02 0.05 0.1

Features are extracted once. Each repeat fits and calibrates on a random part of all good images,
training and test, some of them replaced by defective images (--mixed), and counts the alarms on the
other good images, and the defects found among the others. *Printed* is the false-alarm rate that
fre train prints. *Named* is the share of the mixed-in defects that are set aside as odd, and the
mean number of good images that are. *Without odd* is a second training without them. With
--group-by no part is on both sides, and the folds of the calibration are dealt once by image and
once by part. The table goes to stdout as Markdown, the plot to --plot. The reference preset is the
closed form on EfficientNet-Lite0.
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
from fre.scoring.calibration import count_odd
from fre.subspaces.cross_fit import cheap_folds, make_folds
from fre.training.config import resolve
from fre.training.folds import Folds
from fre.training.grouping import group_labels
from fre.training.held import HeldRows
from fre.training.pipeline import fit_detector
from fre.training.plan import plan_detector
from fre.training.readout import Readout, read_out, read_sum

CURVE = np.round(np.arange(0.01, 0.2001, 0.01), 2)
HELD_OUT = 300
"""At most, of each split: more would cost time and add little, as the splits share them."""
Rows = NDArray[np.intp]
Values = NDArray[np.float64]


class Detector(NamedTuple):
    """A fitted detector: held-out scores of its images, and scores of new ones."""

    readout: Readout
    scores: Callable[[Rows], Values]


def fit(
    extractor: FeatureExtractor, X: NDArray[np.float32], rows: Rows, folds: Folds, preset: str
) -> Detector:
    """Fit a detector to some rows of features, and return how it scores others."""
    settings = resolve(
        preset=preset, backbone=None, default_backbone=extractor.backbone.name, subspace="pca"
    )
    plan = plan_detector(extractor.backbone, None, settings)
    held = HeldRows(Features(X[rows], ("00" * 8,) * len(rows), ()), extractor.layouts)
    fitted = fit_detector(held, plan, folds)
    if plan.overall is None:
        (one,) = fitted.parts
        channels = one.part.layout.channels

        def summed(new: Rows) -> Values:
            residuals = one.subspace.squared_residuals(X[new], channels)
            return residuals.sum(axis=1, dtype=np.float64)

        return Detector(read_sum(fitted), summed)
    (head,), readout = read_out([fitted], plan, extractor)
    by_name = {one.part.name: one.part for one in fitted.parts}
    layouts = [*head.layouts, head.overall[0]]
    subspaces = [*head.subspaces, head.overall[1]]

    def fused(new: Rows) -> Values:
        *parts, overall = (
            subspace.squared_residuals(
                by_name[name].features(X[new], extractor.layouts), layout.channels
            )
            for name, layout, subspace in zip(plan.part_names, layouts, subspaces, strict=True)
        )
        mean = overall.sum(axis=1, dtype=np.float64) / head.overall[0].dimension
        return head.fusion.scores(parts, mean)

    return Detector(readout, fused)


class Study(NamedTuple):
    """Features of a dataset, and how they are split.

    Attributes:
        extractor: feature extractor of the preset.
        preset: name of the preset.
        X: float32 (n, D), features of the good images, then of the defective ones.
        parts: the part that each good image shows.
        folds: least number of folds.
        grouped: whether images of one part share a fold.
    """

    extractor: FeatureExtractor
    preset: str
    X: NDArray[np.float32]
    parts: NDArray[np.str_]
    folds: int
    grouped: bool

    def split(self, repeat: int, n: int) -> tuple[Rows, Rows, np.random.Generator]:
        """Good images to fit to, and others of other parts, at random."""
        rng = np.random.default_rng(repeat)
        place = {part: at for at, part in enumerate(rng.permutation(np.unique(self.parts)))}
        order = np.argsort([place[part] for part in self.parts], kind="stable")
        apart = ~np.isin(self.parts[order], self.parts[order[:n]])
        return order[:n], rng.permutation(order[apart])[:HELD_OUT], rng

    def fit(self, rows: Rows) -> Detector:
        n = len(rows)
        names = [self.parts[row] if row < len(self.parts) else f"defect {row}" for row in rows]
        groups = names if self.grouped else None
        dealt = make_folds(n, folds=cheap_folds(n, self.folds), groups=groups)
        folds = Folds.of(dealt, self.folds, single=not self.grouped)
        return fit(self.extractor, self.X, rows, folds, self.preset)


class Observed(NamedTuple):
    """What was asked, printed and observed in one split, at one rate."""

    n: int
    mixed: float
    rate: float
    printed: float
    alarms: float
    recall: float
    named: float
    good_named: float
    cleaned_alarms: float
    cleaned_recall: float


def observe(
    study: Study, n: int, mixed: float, repeat: int, rates: Sequence[float]
) -> list[Observed]:
    """Fit to n images, of which a share are defective, and look at all others."""
    good, rest, rng = study.split(repeat, n)
    defects = len(study.parts) + rng.permutation(len(study.X) - len(study.parts))
    n_mixed = round(mixed * n)
    bad, other = defects[:n_mixed], defects[n_mixed:]
    rows = np.concatenate([good[: n - n_mixed], bad])
    detector = study.fit(rows)
    scores, new, found = detector.readout.scores, detector.scores(rest), detector.scores(other)
    odd = np.argsort(-scores, kind="stable")[: count_odd(scores)]
    is_bad = rows >= len(study.parts)
    named = is_bad[odd].sum() / n_mixed if n_mixed else np.nan
    cleaned = study.fit(np.delete(rows, odd)) if n_mixed and len(odd) else detector
    new_again, found_again = cleaned.scores(rest), cleaned.scores(other)
    result = []
    for rate in rates:
        before, after = (each.readout.calibrate(rate) for each in (detector, cleaned))
        result.append(
            Observed(
                n,
                mixed,
                rate,
                before.expected_rate,
                np.mean(new > before.threshold),
                np.mean(found > before.threshold),
                named,
                int((~is_bad[odd]).sum()),
                np.mean(new_again > after.threshold),
                np.mean(found_again > after.threshold),
            )
        )
    return result


def plot(
    file: Path, title: str, printed: NDArray, mean: NDArray, low: NDArray, high: NDArray
) -> None:
    """Observed over printed, with the interval as a band; the diagonal is the promise."""
    left, top, side = 56, 34, 300
    limit = max(0.25, float(high.max()), float(printed.max()))

    def at(x: float, y: float) -> str:
        return f"{left + side * x / limit:.1f},{top + side * (1 - y / limit):.1f}"

    def points(values: NDArray) -> list[str]:
        return [at(x, y) for x, y in zip(printed, values, strict=True)]

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
        f'<text x="{middle}" y="{top + side + 36}" text-anchor="middle">printed</text>\n'
        f'<text transform="rotate(-90 14 {top + side / 2})" x="14" y="{top + side / 2}" '
        'text-anchor="middle">observed false-alarm rate</text>\n</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--preset", choices=["reference", "default"], default="default")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--rate", type=float, nargs="+", default=[0.01, 0.05])
    parser.add_argument("--mixed", type=float, nargs="+", default=[0.0], help="shares of defects")
    parser.add_argument("--folds", type=int, default=5, help="of the cross-fitting")
    parser.add_argument("--images", type=int, nargs="+", help="to fit on; 70 %% of the good ones")
    parser.add_argument(
        "--group-by", help="as of fre train: split by parts, and calibrate both ways"
    )
    parser.add_argument("--plot", type=Path, help="an SVG file")
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    samples = [*dataset.train, *dataset.test]
    good = [sample.path for sample in samples if sample.good]
    bad = [sample.path for sample in samples if not sample.good]
    backbone = "efficientnet_lite0"
    # Squares of one size, as shapes of the input are another question.
    detector = FRE(backbone, preset=options.preset, size=256)
    extractor = detector._extractor(get_backbone(backbone))
    X = extractor.extract([*good, *bad]).X
    # Unlabelled, each image is a part of its own.
    parts = group_labels(good, options.group_by) if options.group_by else [str(p) for p in good]
    n_parts = len(set(parts))
    print(
        f"{dataset.name}, {options.preset}: {len(good)} good images of {n_parts} parts, "
        f"{options.repeats} splits, {options.folds} folds\n\n"
        "| images | folds | mixed in | asked | printed | observed | 95 % interval | over splits "
        "| recall | defects named | good named | recall without odd | alarms without odd |\n"
        "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: "
        "| ---: |",
        flush=True,
    )
    rates = [*options.rate, *(CURVE if options.plot else ())]
    for n in options.images or [round(0.7 * len(good))]:
        for grouped in (False, True) if options.group_by else (False,):
            study = Study(extractor, options.preset, X, np.array(parts), options.folds, grouped)
            for mixed in options.mixed:
                splits = [
                    observe(study, n, mixed, repeat, rates) for repeat in range(options.repeats)
                ]
                by_rate = [*zip(*splits, strict=True)]
                for rows in by_rate[: len(options.rate)]:
                    print(line(rows, n_parts, grouped), flush=True)
    if options.plot:
        curve = by_rate[len(options.rate) :]
        mean = np.array([np.mean([row.alarms for row in rows]) for rows in curve])
        printed = np.array([np.mean([row.printed for row in rows]) for rows in curve])
        low, high = np.array([wilson_interval(share * n_parts, n_parts) for share in mean]).T
        title = f"{dataset.name}, {options.preset}, {n} images, {options.repeats} splits"
        plot(options.plot, title, printed, mean, low, high)


def line(rows: Sequence[Observed], n_parts: int, grouped: bool) -> str:
    """A line of the table: means over the splits."""
    first = rows[0]
    mean = Observed(*(float(np.mean(values)) for values in zip(*rows, strict=True)))
    alarms = [row.alarms for row in rows]
    # The splits share their images, so that more of them add no more evidence than there
    # are parts: the interval is that of as many trials as parts.
    low, high = wilson_interval(mean.alarms * n_parts, n_parts)
    mixed = first.mixed > 0
    cells = [
        f"{first.n}",
        "by part" if grouped else "by image",
        f"{first.mixed:.0%}",
        f"{first.rate:.1%}",
        f"{mean.printed:.2%}",
        f"{mean.alarms:.2%}",
        f"{low:.1%} to {high:.1%}",
        f"{min(alarms):.1%} to {max(alarms):.1%}",
        f"{mean.recall:.1%}",
        f"{mean.named:.0%}" if mixed else "-",
        f"{mean.good_named:.1f}",
        f"{mean.cleaned_recall:.1%}" if mixed else "-",
        f"{mean.cleaned_alarms:.2%}" if mixed else "-",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
