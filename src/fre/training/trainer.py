"""Good images become a model file: their features are read, held or streamed, and fitted."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fre.errors import DatasetError, ImageError, OptionError
from fre.features.extractor import FeatureExtractor, source_name
from fre.features.table import Features
from fre.images.appearance import AppearanceLimits
from fre.images.near_duplicates import near_duplicates
from fre.inference.document import Provenance
from fre.subspaces.cross_fit import cheap_folds
from fre.training.build import Decide, build_model
from fre.training.describe import Origin, provenance
from fre.training.fitted import FittedDetector, check_enough
from fre.training.folds import deal_folds, deal_streamed
from fre.training.held import HeldRows
from fre.training.pipeline import fit_detector
from fre.training.recipe import Recipe
from fre.training.sources import Sources, remarks
from fre.training.streamed import LocalPasses, StreamedRows, StreamOptions, TwoPasses
from fre.types import Progress


@dataclass(frozen=True)
class Trained:
    """A model file, and what its training has to say.

    Attributes:
        data: content of the model file.
        skipped: errors of the images that were left out.
        notes: remarks on the images, one line each.
        seconds: duration of the reading of features.
    """

    data: bytes
    skipped: list[ImageError]
    notes: list[str]
    seconds: float


@dataclass(frozen=True)
class Trainer:
    """Fits detectors to the features of an extractor.

    Attributes:
        recipe: how they are fitted.
        extractor: feature extractor, which decides on backbone, layers, pooling and input.
        progress: called as the work advances.
    """

    recipe: Recipe
    extractor: FeatureExtractor
    progress: Progress | None = None

    def fit(
        self,
        sources: Sources,
        options: StreamOptions | None = None,
        passes: TwoPasses | None = None,
    ) -> Trained:
        """Fit to good images.

        Args:
            sources: the images.
            options: how they are read; the recipe decides on copies.
            passes: go through the images in place of this process, whatever memory allows.

        Raises:
            DatasetError: fewer than three different images, or more than fit in memory where all
                must.
            ImageError: an image can't be read.
            OptionError: a rank that the images do not allow, or all images of one group.
        """
        options = replace(options or StreamOptions(), augmentation=self.recipe.augmentation)
        if self._streams(sources, always=passes is not None):
            return self._fit_streamed(sources, options, passes or LocalPasses())
        return self._fit_held(sources, options)

    def _streams(self, sources: Sources, *, always: bool) -> bool:
        """Whether the features of the images are more than may be held, or must not be held."""
        recipe = self.recipe
        rows = self.extractor.rows(sources.images, recipe.augmentation)
        needed = 4.0 * rows * self.extractor.dimension
        if not always and needed <= recipe.memory * 2**30:
            return False
        if recipe.settings.subspace != "pca" or recipe.per_tile:
            what = "per-tile models" if recipe.per_tile else "an autoencoder"
            if always:
                raise OptionError(f"{what} can't be trained on several machines")
            raise DatasetError(
                f"{what} can't be trained without holding all features, {needed / 2**30:.1f} GB, "
                f"and {recipe.memory:g} GB are allowed: give more memory, or fewer images"
            )
        return True

    def _fit_held(self, sources: Sources, options: StreamOptions) -> Trained:
        began = time.perf_counter()
        extractor = self.extractor
        features = extractor.extract(
            sources.images,
            augmentation=options.augmentation,
            skip_unreadable=options.skip_unreadable,
            progress=self.progress,
        )
        check_enough(features.sha256, len(sources.images))
        extractor.release()
        seconds = time.perf_counter() - began
        data = self.fit_features(
            features,
            groups=sources.groups_of(features.kept),
            thumbnail=sources.thumbnail(features.skipped, extractor.geometry.bits),
        )
        shapes = list(zip(features.names or (), features.sizes or (), strict=True))
        names = features.names or ("",) * features.n
        notes = remarks(shapes, extractor.geometry, names, features.sha256)
        return Trained(data, list(features.skipped), notes, seconds)

    def fit_features(
        self,
        features: Features,
        *,
        groups: Sequence[str] | None = None,
        thumbnail: str | None = None,
    ) -> bytes:
        """Return the model file of a detector that is fitted to features held in memory.

        Args:
            features: features of good images.
            groups: (n,), the part that each image shows; ``None``: each shows another one.
            thumbnail: one of the images, as the model shows it; ``None``: it shows none.
        """
        recipe, extractor = self.recipe, self.extractor
        folds = deal_folds(
            features.sha256,
            count=cheap_folds(features.n, recipe.method.folds),
            coarse=recipe.method.folds,
            seed=recipe.seed,
            groups=groups,
            single=self._single,
        )
        held = HeldRows(features, extractor.layouts)
        fitted = [
            fit_detector(rows, recipe.plan, folds, extractor.inspected, self.progress)
            for rows in (held.by_tile() if recipe.per_tile else [held])
        ]
        for one in fitted:
            one.check_variance(features.n)
        limits = None
        if features.appearance is not None:
            limits = AppearanceLimits.of(features.appearance)
        origin = self._provenance(features.sha256, groups, thumbnail)
        if groups is None and features.thumbnails is not None:
            # What looks as if there should be groups.
            alike = int(near_duplicates(features.thumbnails).sum())
            origin = replace(origin, near_duplicates=alike)
        return self._model(fitted, origin, limits)

    def _fit_streamed(self, sources: Sources, options: StreamOptions, passes: TwoPasses) -> Trained:
        """Fit to images whose features are not all held."""
        began = time.perf_counter()
        recipe, extractor = self.recipe, self.extractor
        identity: dict[str, Any] = {
            **recipe.parameters,
            "weights": extractor.backbone.weights_sha256,
            "size": extractor.geometry.size,
            "tile": extractor.geometry.tiling,
        }
        rows = StreamedRows(extractor, sources.images, passes, options, identity)
        n_rows = extractor.rows(sources.images, options.augmentation)
        folds = deal_streamed(
            sources.images,
            few=n_rows <= recipe.plan.capacity,
            coarse=recipe.method.folds,
            seed=recipe.seed,
            groups=sources.groups,
            single=self._single,
        )
        fitted = fit_detector(rows, recipe.plan, folds, extractor.inspected, self.progress)
        seconds = time.perf_counter() - began
        images = rows.images
        fitted.check_variance(len(images))
        extractor.release()
        sha256 = [image.sha256 for image in images]
        names = [source_name(sources.images[image.place]) for image in images]
        shapes = [(name, image.size) for name, image in zip(names, images, strict=True)]
        notes = remarks(shapes, extractor.geometry, names, sha256)
        thumbnail = sources.thumbnail(rows.skipped, extractor.geometry.bits)
        groups = sources.groups_of(image.place for image in images)
        origin = self._provenance(sha256, groups, thumbnail)
        origin = replace(origin, calibration_images=fitted.n)
        limits = AppearanceLimits.of([np.array(image.appearance) for image in images])
        return Trained(self._model([fitted], origin, limits), list(rows.skipped), notes, seconds)

    @property
    def _single(self) -> bool:
        """Whether each image makes one row of features: no tiles, no augmented copies."""
        return self.extractor.geometry.tiling is None and self.recipe.augmentation is None

    def _provenance(
        self, sha256: Sequence[str], groups: Sequence[str] | None, thumbnail: str | None
    ) -> Provenance:
        recipe = self.recipe
        found = provenance(sha256, seed=recipe.seed)
        found = replace(found, augmented=recipe.augment or None, thumbnail=thumbnail)
        if groups is None:
            return found
        return replace(found, group_by=recipe.group_by, n_groups=len(set(groups)))

    def _model(
        self,
        fitted: Sequence[FittedDetector],
        origin: Provenance,
        limits: AppearanceLimits | None,
    ) -> bytes:
        recipe = self.recipe
        if recipe.frozen or recipe.per_tile:
            fitted = [one.frozen() for one in fitted]
        facts = Origin(recipe.settings.preset, origin, recipe.again(), limits)
        decide = Decide(recipe.false_alarm_rate)
        return build_model(self.extractor, recipe.plan, fitted, decide, facts)
