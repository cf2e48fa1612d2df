"""Comparison of two models on the same test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fre.datasets import open_dataset
from fre.datasets.samples import Dataset, Sample
from fre.drawing.notebook import table
from fre.evaluation.evaluate import Predictor, evaluate
from fre.evaluation.figures import Evaluation, ScoredImage
from fre.evaluation.metrics import percentile_interval
from fre.evaluation.metrics.ranking import tied_ranks
from fre.evaluation.wording import FIGURE_TITLES, decision_sentence
from fre.types import Progress

FIGURES = (
    "recall",
    "precision",
    "f1",
    "false_alarm_rate_observed",
    "region_f1",
    "region_iou",
    "image_auroc",
    "image_aupr",
    "image_f1",
    "pixel_auroc",
    "pixel_f1",
    "aupro",
    "aupimo",
)
"""Compared attributes of `fre.Evaluation`: decisions at each model's threshold, then ranking."""


@dataclass(frozen=True)
class Difference:
    """Difference of a figure between two models.

    Attributes:
        value: second model's figure minus the first one's, in [-1, 1].
        interval: paired bootstrap interval at 95 %, low and high.
    """

    value: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        return {"value": self.value, "interval": list(self.interval)}


@dataclass(frozen=True)
class Disagreement:
    """An image that one model calls anomalous and the other does not.

    Attributes:
        a: result of the first model.
        b: result of the second model.
        place_a: place of the image by the first model's score: 1 is the most anomalous, and equal
            scores share the mean of their places.
        place_b: place of the image by the second model's score.
    """

    a: ScoredImage
    b: ScoredImage
    place_a: float
    place_b: float

    @property
    def sample(self) -> Sample:
        """The image, and its known kind."""
        return self.a.sample

    @property
    def strength(self) -> float:
        """Ratio of the p-values of the model that calls it good and of the other model.

        Scores of two models have different units; p-values are comparable.
        """
        good, anomalous = (self.b, self.a) if self.a.anomalous else (self.a, self.b)
        return good.p_value / anomalous.p_value

    def to_dict(self) -> dict[str, Any]:
        """Return the disagreement as plain JSON values."""
        said = {
            name: {
                "score": row.score,
                "p_value": row.p_value,
                "place": place,
                "anomalous": row.anomalous,
            }
            for name, row, place in (("a", self.a, self.place_a), ("b", self.b, self.place_b))
        }
        return {"path": str(self.sample.path), "kind": self.sample.kind, **said}


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two models on the same test images.

    Attributes:
        a: figures of the first model.
        b: figures of the second model.
        differences: figure of b minus that of a, for each name in `FIGURES`; ``None`` where the
            dataset does not give the figure.
        disagreements: images that only one of the models calls anomalous, strongest first.
    """

    a: Evaluation
    b: Evaluation
    differences: dict[str, Difference | None]
    disagreements: tuple[Disagreement, ...] = field(repr=False)

    def __repr__(self) -> str:
        return f"Comparison(a={self.a!r}, b={self.b!r}, {len(self.disagreements)} disagreements)"

    def _repr_html_(self) -> str:
        rows = [
            [
                FIGURE_TITLES[name],
                f"{getattr(self.a, name):.3f}",
                f"{getattr(self.b, name):.3f}",
                f"{found.value:+.3f}",
                "{:+.3f} to {:+.3f}".format(*found.interval),
            ]
            for name, found in self.differences.items()
            if found is not None
        ]
        facts = [
            ("A", decision_sentence(self.a)),
            ("B", decision_sentence(self.b)),
            ("images that only one calls anomalous", str(len(self.disagreements))),
        ]
        return table(facts) + table(rows, ("figure", "A", "B", "B - A", "95 % interval"))

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of ``fre compare``."""
        return {
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "differences": {
                name: None if difference is None else difference.to_dict()
                for name, difference in self.differences.items()
            },
            "disagreements": [disagreement.to_dict() for disagreement in self.disagreements],
        }


def compare(
    a: Predictor,
    b: Predictor,
    dataset: Dataset | Path | str,
    *,
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Evaluate two models on the same test images.

    Figures of both models vary together with the choice of test images. So each interval is one of
    the difference, with the same images drawn for both models.

    Args:
        a: loaded model.
        b: model to compare with it.
        dataset: dataset, or its folder.
        skip_unreadable: skip test images that can't be read, instead of stopping.
        progress: called as the work advances.

    Raises:
        DatasetError: there are no test images, or a mask can't be used.
        ImageError: an image can't be read, and ``skip_unreadable`` is false.
    """
    if not isinstance(dataset, Dataset):
        dataset = open_dataset(dataset)
    options = {"skip_unreadable": skip_unreadable}
    of_a = evaluate(a, dataset, progress=_named(progress, "with A"), **options)
    # Both are evaluated on the same images, even where one model refuses an image.
    common = replace(dataset, test=tuple(row.sample for row in of_a.images))
    of_b = evaluate(b, common, progress=_named(progress, "with B"), **options)
    if of_b.unreadable:
        common = replace(dataset, test=tuple(row.sample for row in of_b.images))
        left_out = (*of_a.unreadable, *of_b.unreadable)
        of_a = evaluate(a, common, progress=_named(progress, "with A again"), **options)
        of_a = replace(of_a, unreadable=left_out)
    return Comparison(
        of_a,
        of_b,
        {name: _difference(name, of_a, of_b) for name in FIGURES},
        _disagreements(of_a.images, of_b.images),
    )


def _named(progress: Progress | None, which: str) -> Progress | None:
    """Give the work of each model a name, and so a progress bar, of its own."""
    if progress is None:
        return None
    return lambda task, done, total: progress(f"{task} {which}", done, total)


def _difference(name: str, a: Evaluation, b: Evaluation) -> Difference | None:
    of_a, of_b = getattr(a, name), getattr(b, name)
    # Without good or without defective images there are counts, but no resamples.
    if of_a is None or of_b is None or name not in a.resamples:
        return None
    # The same images are drawn for both, so that the difficulty of an image cancels.
    interval = percentile_interval(b.resamples[name] - a.resamples[name])
    return Difference(of_b - of_a, interval)


def _disagreements(a: Sequence[ScoredImage], b: Sequence[ScoredImage]) -> tuple[Disagreement, ...]:
    places = zip(_places(a), _places(b), strict=True)
    found = [
        Disagreement(of_a, of_b, float(place_a), float(place_b))
        for of_a, of_b, (place_a, place_b) in zip(a, b, places, strict=True)
        if of_a.anomalous != of_b.anomalous
    ]
    # P-values are coarse with few calibration images; places order equal ones.
    return tuple(sorted(found, key=lambda d: (-d.strength, -abs(d.place_a - d.place_b))))


def _places(rows: Sequence[ScoredImage]) -> NDArray[np.float64]:
    """Return each image's place from the highest score down, from 1."""
    return tied_ranks([-row.score for row in rows])
