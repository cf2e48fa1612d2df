"""Cross-fit a detector whose features are all held in memory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from fre.features.layout import FeatureLayout
from fre.features.table import Features
from fre.inference.training_images import TrainingImages
from fre.parallel import on_all_cores
from fre.subspaces.autoencoder import cross_fit_autoencoder
from fre.subspaces.cross_fit import CrossFit, cross_fit
from fre.subspaces.image import fit_image_wide
from fre.subspaces.position import PositionStatistics
from fre.training.fitted import FittedDetector, FittedPart
from fre.training.folds import Folds
from fre.training.parts import Part
from fre.training.plan import DetectorPlan
from fre.types import Progress


@dataclass(frozen=True)
class HeldRows:
    """Features that are held in memory: rows of `fre.training.pipeline.fit_detector`.

    Attributes:
        features: features of good images.
        layouts: layouts of the features: without pooling, or pooled as the plan's parts are.
    """

    features: Features
    layouts: tuple[FeatureLayout, ...]

    def cross_fit(
        self,
        plan: DetectorPlan,
        parts: tuple[Part, ...],
        folds: Folds,
        progress: Progress | None = None,
    ) -> FittedDetector:
        """Fit each part to all images and cross-fit it; see `fre.training.pipeline.FeatureRows`."""
        done = 0

        def fit(part: Part) -> FittedPart:
            nonlocal done
            found = self._fit(plan, part, folds, progress)
            done += 1
            if progress and plan.autoencoder is None:
                progress("Fitting", done, len(parts))
            return FittedPart.of(part, found, self.features.originals, half=plan.half)

        if progress and plan.autoencoder is None:
            progress("Fitting", 0, len(parts))
        # Fits of image-wide parts take one core each; the others spread over all of them.
        wide = sorted((part for part in parts if not part.fixed_size), key=lambda part: part.name)
        fitted = {
            part.name: found
            for part, found in zip(
                wide, on_all_cores(partial(fit, part) for part in wide), strict=True
            )
        }
        fitted |= {part.name: fit(part) for part in parts if part.fixed_size}
        features = self.features
        return FittedDetector.of(
            [fitted[part.name] for part in parts],
            features.index,
            folds.of_image,
            TrainingImages.of(features.names or ("",) * features.n, features.sha256),
        )

    def _fit(
        self, plan: DetectorPlan, part: Part, folds: Folds, progress: Progress | None
    ) -> CrossFit:
        X = part.features(self.features.X, self.layouts)
        channels, options = part.layout.channels, plan.fit
        if plan.autoencoder is not None:
            coarse = Folds(folds.of_image % folds.coarse, folds.coarse)
            rows = coarse.rows(self.features.images_of_rows, part)
            return cross_fit_autoencoder(X, channels, rows, plan.autoencoder, progress)
        if folds.leaves_one_out(part, options):
            statistics = PositionStatistics.of(X, part.layout.pooled)
            subspace, left_out = statistics.fit_left_out(options)
            return CrossFit(subspace, left_out.squared_residuals(X), statistics)
        rows = folds.rows(self.features.images_of_rows, part)
        if part.scope == "image":
            return fit_image_wide(X, channels, rows, options, plan.capacity)
        return cross_fit(X, channels, rows, part.statistics_of(plan.capacity), options)

    def by_tile(self) -> list[HeldRows]:
        """Return the rows of each tile by themselves, of images that all have the same tiles."""
        return [HeldRows(features, self.layouts) for features in self.features.by_tile()]
