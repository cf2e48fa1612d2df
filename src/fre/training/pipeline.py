"""Training: good images become a fitted detector, by one pipeline.

`fre.FRE.fit` chooses the network's input and writes a recipe (`fre.training.recipe`), and
`fre.training.trainer` follows it: it deals the images into folds, calls `fit_detector`, and turns
the result into a model file (`fre.training.build`). Features are held in memory
(`fre.training.held`), streamed from files (`fre.training.streamed`) or computed on a cluster
(`fre.distributed.training`); whichever it is, below the capacity of the image-wide statistics the
detector is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fre.features.layout import FeatureLayout
from fre.training.fitted import FittedDetector
from fre.training.folds import Folds
from fre.training.parts import Part
from fre.training.plan import DetectorPlan
from fre.types import MaskArray, Progress


class FeatureRows(Protocol):
    """Features of good images, a row for each image, tile or augmented copy."""

    @property
    def layouts(self) -> Sequence[FeatureLayout]:
        """The layouts of the features of each layer."""

    def cross_fit(
        self,
        plan: DetectorPlan,
        parts: tuple[Part, ...],
        folds: Folds,
        progress: Progress | None = None,
    ) -> FittedDetector:
        """Fit each part to all images, and to all but each fold for the held-out residuals.

        Args:
            plan: plan of the detector.
            parts: parts of the plan.
            folds: folds of the images.
            progress: called as the work advances.
        """


def fit_detector(
    rows: FeatureRows,
    plan: DetectorPlan,
    folds: Folds,
    inspected: MaskArray | None = None,
    progress: Progress | None = None,
) -> FittedDetector:
    """Fit and cross-fit every part of a plan.

    Args:
        rows: features of good images.
        plan: layers to read, and options of the fit.
        folds: folds of the images.
        inspected: bool (H, W), inspected pixels of the input; ``None`` is all.
        progress: called as the work advances.

    Raises:
        OptionError: a rank that the images do not allow, or a pool that does not fit a layer.
        ImageError: an image of streamed rows can't be read.
    """
    return rows.cross_fit(plan, plan.parts(rows.layouts, inspected), folds, progress)
