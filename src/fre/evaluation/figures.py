"""Figures of a model on a dataset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fre.datasets.samples import Sample
from fre.drawing.notebook import Chart, table
from fre.errors import ImageError, MissingDependencyError, OptionError
from fre.evaluation.histogram import histogram
from fre.evaluation.wording import FIGURE_TITLES, decision_sentence
from fre.inference.prediction import Prediction
from fre.scoring.calibration import Decision

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ScoredImage:
    """A test image with the model's result."""

    sample: Sample
    score: float
    p_value: float
    anomalous: bool
    decision: Decision | None = None

    @classmethod
    def of(cls, sample: Sample, found: Prediction) -> ScoredImage:
        """Return the image of a sample with its prediction."""
        return cls(sample, found.score, found.p_value, found.anomalous, found.decision)


@dataclass(frozen=True)
class Confusion:
    """Counts of decisions at the model's threshold; positive is anomalous.

    Attributes:
        tp: true positives, defective images called anomalous: defects found.
        fp: false positives, good images called anomalous: false alarms.
        fn: false negatives, defective images called good: defects missed.
        tn: true negatives, good images called good.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, rows: Iterable[ScoredImage]) -> Confusion:
        """Count the decisions on some images."""
        cells = Counter((row.sample.good, row.anomalous) for row in rows)
        return cls(cells[False, True], cells[True, True], cells[False, False], cells[True, False])

    @property
    def recall(self) -> float | None:
        """Share of the defective images called anomalous; ``None`` without any."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else None

    @property
    def precision(self) -> float | None:
        """Share of the images called anomalous that are defective.

        ``None`` without good or without defective images, or where none is called anomalous.
        """
        return self.tp / (self.tp + self.fp) if self._both and self.tp + self.fp else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of recall and precision; ``None`` without good or defective images."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn) if self._both else None

    @property
    def _both(self) -> bool:
        return self.tp + self.fn > 0 and self.fp + self.tn > 0


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Figures of a model on a dataset. Every figure but counts and speed is in [0, 1].

    Attributes:
        image_auroc: area under the ROC curve of the image scores.
        image_aupr: average precision of the image scores.
        image_f1: the largest F1 over all thresholds on the image scores. ``f1`` belongs to the
            model's threshold.
        pixel_auroc: area under the ROC curve of the anomaly maps' pixels.
        pixel_f1: the largest F1 over all thresholds on the pixels.
        aupro: area under the per-region-overlap curve up to a false-positive rate of 0.3.
        n_good: good images that were scored.
        n_defect: defective images that were scored.
        false_alarm_rate_observed: share of the good images that the model calls anomalous.
        images_per_second: from file to score and map.
        aupimo: mean over the defective images of the area under the per-image overlap curve,
            between false-positive rates of 1e-5 and 1e-4 on good images.
        region_f1: F1 of the pixels of the predicted regions, at the model's thresholds.
        region_iou: intersection over union of the predicted regions and the masks, over the pixels
            of all images.
        region_touch_rate: share of the defective images called anomalous, and with a mask, where a
            predicted region touches the mask.
        threshold: score above which the model calls an image anomalous; ``None`` if not known.
        false_alarm_rate: rate that the threshold was set for; ``None`` for another origin.
        images: results of the images, in the order of the dataset.
        trained_on: test images that the model was trained on, by the digests of their files: paths
            below the dataset's folder. Figures with such images are too good.
        intervals: 95 % interval (low, high) of each figure, by name, for the choice of test
            images, not of training images. Wilson's for ``false_alarm_rate_observed``, ``recall``,
            ``precision`` and ``region_touch_rate``, bootstrap percentiles of whole images for the
            others. Speed, of one run, has none.
        resamples: values of each figure in the bootstrap resamples, float64 (n,), by name.
            Evaluations of the same test images have the same draws, in order.
        reasons: why a figure is ``None``, by its name.
        notes: oddities of the masks, one line each.
        unreadable: errors of the test images that can't be read, which were left out.
        reporter: writes the report of an evaluation to a file; `fre.evaluate` sets it.

    The pixel figures are ``None`` where there are no masks; a figure that needs both good and
    defective images is ``None`` where there is only one kind.
    """

    image_auroc: float | None
    image_aupr: float | None
    image_f1: float | None
    pixel_auroc: float | None
    pixel_f1: float | None
    aupro: float | None
    n_good: int
    n_defect: int
    false_alarm_rate_observed: float | None
    images_per_second: float
    aupimo: float | None = None
    region_f1: float | None = None
    region_iou: float | None = None
    region_touch_rate: float | None = None
    threshold: float | None = None
    false_alarm_rate: float | None = None
    images: tuple[ScoredImage, ...] = field(repr=False, default=())
    trained_on: tuple[str, ...] = ()
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    resamples: dict[str, NDArray[np.float64]] = field(
        repr=False, compare=False, default_factory=dict
    )
    reasons: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    unreadable: tuple[ImageError, ...] = field(compare=False, default=())
    reporter: Callable[[Path, Evaluation], None] | None = field(compare=False, default=None)

    def __repr__(self) -> str:
        auroc = "-" if self.image_auroc is None else f"{self.image_auroc:.3f}"
        return f"Evaluation({decision_sentence(self)}; image AUROC {auroc})"

    @property
    def confusion(self) -> Confusion:
        """Counts of the decisions at the model's threshold."""
        return Confusion.of(self.images)

    @property
    def recall(self) -> float | None:
        """Share of the defective images found at the model's threshold."""
        return self.confusion.recall

    @property
    def precision(self) -> float | None:
        """Share of the images called anomalous that are defective: see `Confusion.precision`."""
        return self.confusion.precision

    @property
    def f1(self) -> float | None:
        """F1 of the images at the model's threshold: see `Confusion.f1`."""
        return self.confusion.f1

    @property
    def kinds(self) -> dict[str, int]:
        """Number of scored images of each kind of defect."""
        return dict(Counter(row.sample.kind for row in self.images if not row.sample.good))

    @property
    def found_by_kind(self) -> dict[str, int]:
        """Number of images of each kind of defect found at the model's threshold."""
        found = Counter(row.sample.kind for row in self.images if row.anomalous)
        return {kind: found[kind] for kind in self.kinds}

    @property
    def recall_by_kind(self) -> dict[str, float]:
        """Recall of each kind of defect at the model's threshold."""
        found = self.found_by_kind
        return {kind: found[kind] / n for kind, n in self.kinds.items()}

    @property
    def in_review(self) -> dict[str, int] | None:
        """Number of defective (``defect``) and ``good`` images in the model's review band.

        ``None`` if the model has no band.
        """
        if all(row.decision is None for row in self.images):
            return None
        band = [row.sample.good for row in self.images if row.decision == "review"]
        return {"defect": band.count(False), "good": band.count(True)}

    def to_frame(self) -> pandas.DataFrame:
        """Return the results as a table of pandas, a row for each image.

        Columns: ``path``, ``kind``, ``good``, ``score``, ``p_value``, ``anomalous``, and
        ``decision`` if the model has a review band.

        Raises:
            MissingDependencyError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise MissingDependencyError("a table of pandas", "notebook") from None
        frame = pandas.DataFrame(
            {
                "path": [str(row.sample.path) for row in self.images],
                "kind": [row.sample.kind for row in self.images],
                "good": [row.sample.good for row in self.images],
                "score": [row.score for row in self.images],
                "p_value": [row.p_value for row in self.images],
                "anomalous": [row.anomalous for row in self.images],
            }
        )
        if self.in_review is not None:
            frame["decision"] = [row.decision for row in self.images]
        return frame

    def plot(self) -> Chart:
        """Return a chart of the scores of good and of defective images, and the threshold.

        Raises:
            OptionError: the evaluation has no images, or no threshold.
        """
        if self.threshold is None or not self.images:
            raise OptionError("a chart of the scores needs images and the model's threshold")
        return Chart.of(histogram(self.images, [], self.threshold))

    def report(self, path: Path | str) -> Path:
        """Write the HTML report of ``fre evaluate --report``. It scores the shown images again.

        Returns:
            The path.

        Raises:
            OptionError: the evaluation is not one of `fre.evaluate` with a `fre.Model`.
            OutputError: the file can't be written.
        """
        if self.reporter is None:
            raise OptionError("a report needs the model: evaluate a fre.Model by fre.evaluate")
        self.reporter(Path(path), self)
        return Path(path)

    def _repr_html_(self) -> str:
        rows = [
            [title, "-" if value is None else f"{value:.3f}", self._interval_text(name)]
            for name, title in FIGURE_TITLES.items()
            for value in [getattr(self, name)]
        ]
        head = f"<p><strong>{escape(decision_sentence(self))}</strong></p>"
        if self.trained_on:
            head += (
                f"<p><strong>Trained on {len(self.trained_on)} of these {len(self.images)} test "
                "images, so the figures are too good.</strong></p>"
            )
        return head + table(rows, ("figure", "value", "95 % interval"))

    def _interval_text(self, name: str) -> str:
        if name not in self.intervals:
            return self.reasons.get(name, "")
        low, high = self.intervals[name]
        return f"{low:.3f} to {high:.3f}"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of ``fre evaluate``: the figures, without the images."""
        return {
            "image_auroc": self.image_auroc,
            "image_aupr": self.image_aupr,
            "image_f1": self.image_f1,
            "f1": self.f1,
            "recall": self.recall,
            "precision": self.precision,
            "confusion": vars(self.confusion),
            "recall_by_kind": self.recall_by_kind,
            "pixel_auroc": self.pixel_auroc,
            "pixel_f1": self.pixel_f1,
            "aupro": self.aupro,
            "n_good": self.n_good,
            "n_defect": self.n_defect,
            "false_alarm_rate_observed": self.false_alarm_rate_observed,
            "images_per_second": self.images_per_second,
            "aupimo": self.aupimo,
            "region_f1": self.region_f1,
            "region_iou": self.region_iou,
            "region_touch_rate": self.region_touch_rate,
            "threshold": self.threshold,
            "false_alarm_rate": self.false_alarm_rate,
            "in_review": self.in_review,
            "trained_on": list(self.trained_on),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "kinds": self.kinds,
            "n_masks": sum(len(row.sample.masks) for row in self.images),
            "n_unreadable": len(self.unreadable),
            "unreadable": [str(error) for error in self.unreadable],
            "reasons": self.reasons,
            "notes": list(self.notes),
        }
