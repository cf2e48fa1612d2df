"""FRE, the estimator: good images in, a model out."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from fre.backbones import DEFAULT_BACKBONE, Backbone, get_backbone
from fre.datasets import training_images
from fre.errors import DatasetError, ImageError, OptionError
from fre.features.extractor import FeatureExtractor, source_name
from fre.features.table import Features
from fre.images.appearance import AppearanceLimits
from fre.images.augmentation import Augmentation
from fre.images.decode import ImageSource, check_several, find_bits, image_size
from fre.images.geometry import FULL_RANGE, Fit, Geometry, Tiling
from fre.images.near_duplicates import near_duplicates
from fre.images.roi import MaskSource, Roi
from fre.model import Model
from fre.parallel import available_cores
from fre.scoring.calibration import check_false_alarm_rate
from fre.subspaces.autoencoder import AutoencoderOptions
from fre.subspaces.cross_fit import cheap_folds, check_groups
from fre.subspaces.subspace import check_rank
from fre.training.build import Provenance, build_model
from fre.training.checkpoint import CHECKPOINT_SECONDS
from fre.training.config import Configuration, refuse_without_effect, resolve
from fre.training.describe import provenance
from fre.training.fitted import LEAST_IMAGES, FittedDetector, check_enough
from fre.training.folds import deal_folds, deal_streamed
from fre.training.grouping import group_labels
from fre.training.held import HeldRows
from fre.training.pipeline import fit_detector
from fre.training.plan import DetectorPlan, plan_detector
from fre.training.streamed import LocalPasses, StreamedRows, StreamOptions, TwoPasses
from fre.types import Progress

SHAPES_APART = 1.2
"""Proportions that differ by a larger factor are said to be stretched."""

OVERLAP = 64
"""Pixels that neighbouring tiles share."""


class FRE:
    """Feature reconstruction error: what good images' features span, and what falls outside.

    Ndiour, Ahuja, Genc and Tickoo, "FRE: A Fast Method For Anomaly Detection And Segmentation",
    BMVC 2023, with the linear autoencoder's optimum in closed form, or trained. Parameters follow
    scikit-learn's conventions: they are stored as given and checked by `fit`. Those that are
    ``None`` follow from the preset and the backbone.

    Args:
        backbone: name of the frozen network, or an ONNX file.
        preset: ``"default"`` reads several layers as one score and one map. ``"reference"`` by
            itself is FRE as documented: ResNet-50, pooling by 2, a tied autoencoder of rank 220;
            with another backbone the subspace is the closed form. Any other parameter overrides
            it. ``None`` is the reference with an autoencoder, and the default otherwise.
        weights: a file of weights to use instead of the pretrained ones.
        layers: names of the layers that are read, fine to coarse; those of stride 8, 16 and 32,
            if ``None``. The reference reads one, the backbone's reference layer.
        size: height and width of the input, or one number for both; the backbone's default, if
            ``None``. With tiles, the size that images are stretched to before they are cut;
            ``None`` leaves them as they are.
        image_fit: ``"stretch"``, or ``"letterbox"``, which keeps the aspect and pads.
        tile: height and width of tiles that large images are cut into, or one number for both.
        overlap: pixels that neighbouring tiles share; 64, if ``None``.
        per_tile: whether each place of a tile has a model of its own, for a camera and parts
            that do not move; else one is for all tiles.
        roi: a mask, a file or an array (H, W): what is not marked (non-zero) is neither learnt
            nor scored.
        ignore: a mask: what is marked is neither learnt nor scored.
        pool: edge of the average-pooling windows over the feature map; 2 for the reference. In
            the default, one for all layers or one for each; 1, if ``None``.
        subspace: ``"pca"``, the closed form; ``"tied"`` or ``"plain"``, an autoencoder that is
            trained by gradient descent (needs ``fre[torch]``).
        variance: share of the features' energy that the closed form keeps, in (0, 1]; 0.97, if
            ``None``.
        rank: a fixed number of dimensions instead; 220 for an autoencoder, if ``None``. In the
            default the limit of image-wide subspaces; 256, if ``None``.
        scope: of the default's subspaces, one for all layers or one for each: ``"position"``,
            ``"image"`` or ``"patch"``. ``None``: the last of several has one per image, all
            others one per position.
        score_layers: those of the layers that count for the default's score; ``None``: all but
            the first of three or more.
        map_layers: those that count for its map; ``None``: all but the last of three or more.
        standardise: what sets the scale of a residual: ``"position"``, ``"layer"`` or ``"none"``.
        top: share of the score map's largest pixels, whose mean is the score, in (0, 1]; 0.05,
            if ``None``.
        smoothing: standard deviation of the Gaussian that smooths maps, in pixels of the input;
            4, if ``None``.
        prior: weight of the neighbourhood in the subspace of a position, in images; 32, if
            ``None``.
        overall: whether the overall residual adds to the score; with 100 images or more, if
            ``None``. (These seven are of the default preset.)
        augment: shifted and turned copies that are made of each image, for fewer than 16 images.
        flip: whether every second copy is mirrored.
        false_alarm_rate: share of good images that may be called anomalous, in (0, 1).
        folds: for cross-fitting, at least 2; an autoencoder is trained anew for each. Image-wide
            closed forms, which cost less, have up to 20 where the images are few.
        epochs: of an autoencoder's training, like the next two; 220, if ``None``.
        learning_rate: of Adam; 0.001, if ``None``.
        batch_size: features a step; 32, if ``None``.
        group_by: which images show one part, and so belong into one fold: ``"folder"``, the name
            of an image's folder; a number, that of the folder so many levels up; or a regular
            expression whose one capture group is found in the file's name. ``None`` takes every
            image for a part of its own.
        memory: gigabytes of features that may be held at once.
        frozen: leave out of the model what `Model.update` and `fre.merge` need, which makes its
            file two to four times as large. Per-tile models and autoencoders are always frozen.
        bits: range of the values of 16-bit image files, in training and prediction: 8, 10, 12, 14
            or 16 for 0 to 2**bits - 1. ``None``: the smallest that holds the largest value of the
            training images; a model of 8-bit images alone then refuses 16-bit files.
        seed: of the folds, of copies, and of an autoencoder's training.

    Attributes:
        seconds_: after `fit`, how long it took: ``total``, ``features`` and ``fit``.
        skipped_: after `fit`, the errors of the images that were left out.
        notes_: after `fit`, what is odd about the images, a line each.
    """

    seconds_: dict[str, float]
    skipped_: list[ImageError]
    notes_: list[str]

    def __init__(
        self,
        backbone: str | None = None,
        *,
        preset: str | None = None,
        weights: Path | str | None = None,
        layers: Sequence[str] | None = None,
        size: int | tuple[int, int] | None = None,
        image_fit: Fit = "stretch",
        tile: int | tuple[int, int] | None = None,
        overlap: int | None = None,
        per_tile: bool = False,
        roi: MaskSource | None = None,
        ignore: MaskSource | None = None,
        pool: int | Sequence[int] | None = None,
        subspace: str | None = None,
        variance: float | None = None,
        rank: int | None = None,
        scope: str | Sequence[str] | None = None,
        score_layers: Sequence[str] | None = None,
        map_layers: Sequence[str] | None = None,
        standardise: str | None = None,
        top: float | None = None,
        smoothing: float | None = None,
        prior: float | None = None,
        overall: bool | None = None,
        augment: int = 0,
        flip: bool = False,
        false_alarm_rate: float = 0.01,
        folds: int = 5,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        group_by: str | int | None = None,
        memory: float = 2.0,
        frozen: bool = False,
        bits: int | None = None,
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.preset = preset
        self.weights = weights
        self.layers = layers
        self.size = size
        self.image_fit = image_fit
        self.tile = tile
        self.overlap = overlap
        self.per_tile = per_tile
        self.roi = roi
        self.ignore = ignore
        self.pool = pool
        self.subspace = subspace
        self.variance = variance
        self.rank = rank
        self.scope = scope
        self.score_layers = score_layers
        self.map_layers = map_layers
        self.standardise = standardise
        self.top = top
        self.smoothing = smoothing
        self.prior = prior
        self.overall = overall
        self.augment = augment
        self.flip = flip
        self.false_alarm_rate = false_alarm_rate
        self.folds = folds
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.group_by = group_by
        self.memory = memory
        self.frozen = frozen
        self.bits = bits
        self.seed = seed

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's parameters and their values."""
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **params: Any) -> FRE:
        """Change some of the constructor's parameters.

        Raises:
            OptionError: an unknown parameter.
        """
        for name, value in params.items():
            if name not in self._parameter_names():
                valid = ", ".join(self._parameter_names())
                raise OptionError(f"FRE has no parameter {name!r}; choose from: {valid}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        default = inspect.signature(type(self).__init__).parameters
        changed = (
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value != default[name].default
        )
        return f"FRE({', '.join(changed)})"

    def fit(
        self,
        images: Path | str | Iterable[ImageSource],
        y: None = None,
        *,
        skip_unreadable: bool = False,
        checkpoint: Path | str | None = None,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        stream: TwoPasses | None = None,
        threads: int = 0,
        progress: Progress | None = None,
    ) -> Model:
        """Learn what good images look like.

        The features of images that are more than ``memory`` allows are let go of after they were
        absorbed, and the images are read a second time to calibrate.

        Args:
            images: a folder of good images or the root of a dataset (its training split), files,
                or arrays, uint8 (H, W, 3), RGB. Three or more that differ.
            y: ignored; scikit-learn's convention.
            skip_unreadable: leave out images that can't be read, instead of stopping.
            checkpoint: a file that such a training writes now and then, and from which it goes
                on after it was stopped; to be removed once the model is saved.
            checkpoint_seconds: it is not written more often than this.
            stream: goes through the images in place of this process, whatever ``memory`` allows,
                such as `fre.distributed.RayFit`.
            threads: threads of the network; 0 takes all cores.
            progress: called as the work advances.

        Raises:
            DatasetError: fewer than three different images, or more than fit in memory where all
                must.
            ImageError: an image can't be read.
            BackboneError: an unknown backbone or layer, or unusable weights.
            MissingDependencyError: the backbone or the subspace needs an extra.
            OptionError: a parameter out of range, a rank that the images do not allow, or groups
                that do not fit the images.
        """
        began = time.perf_counter()
        settings = self._configuration()
        sources = _sources(images)
        labels = self._labels(sources)
        backbone = get_backbone(settings.backbone, weights=self.weights)
        extractor = self._extractor_for(backbone, sources, threads, progress)
        options = StreamOptions(
            skip_unreadable=skip_unreadable,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            checkpoint_seconds=checkpoint_seconds,
        )
        model = self._fit_sources(
            extractor,
            sources,
            labels,
            options=options,
            stream=stream,
            threads=threads,
            progress=progress,
        )
        self.seconds_["total"] = time.perf_counter() - began
        return model

    def _fit_sources(
        self,
        extractor: FeatureExtractor,
        sources: Sequence[ImageSource],
        labels: list[str] | None = None,
        *,
        options: StreamOptions | None = None,
        stream: TwoPasses | None = None,
        threads: int = 0,
        progress: Progress | None = None,
    ) -> Model:
        """Fit to images with an extractor that is there already."""
        began = time.perf_counter()
        settings = self._configuration()
        options = replace(options or StreamOptions(), augmentation=self._augmentation())
        if self._streams(extractor, sources, settings, always=stream is not None):
            model, extracted = self._fit_streamed(
                extractor,
                sources,
                labels,
                settings,
                options=options,
                passes=stream or LocalPasses(),
                threads=threads,
                progress=progress,
            )
        else:
            features = extractor.extract(
                sources,
                augmentation=options.augmentation,
                skip_unreadable=options.skip_unreadable,
                progress=progress,
            )
            check_enough(features.sha256, len(sources))
            extractor.release()
            extracted = time.perf_counter()
            groups = None
            if labels is not None:
                kept = range(len(labels)) if features.kept is None else features.kept
                groups = [labels[place] for place in kept]
            model = self._fit_features(
                extractor, features, groups=groups, threads=threads, progress=progress
            )
            self.skipped_ = list(features.skipped)
            shapes = zip(features.names or (), features.sizes or (), strict=True)
            self.notes_ = _shape_notes(shapes, extractor.geometry)
        self.seconds_ = {
            "total": time.perf_counter() - began,
            "features": extracted - began,
            "fit": time.perf_counter() - extracted,
        }
        return model

    def _extractor(self, backbone: Backbone, *, threads: int = 0) -> FeatureExtractor:
        """Return the extractor that `fit` uses for a backbone.

        16-bit files are read by their full range, unless ``bits`` says another.

        Raises:
            BackboneError: an unknown layer, or a size that the network can't take.
            ImageError: a mask can't be read.
            OptionError: a parameter out of range.
        """
        settings = self._configuration()
        refuse_without_effect(
            settings.preset,
            settings.subspace,
            tile=self.tile,
            overlap=self.overlap,
            per_tile=self.per_tile,
        )
        tiling, size = None, _size(self.size, backbone.default_size)
        if self.tile is not None:
            whole = None if self.size is None else size
            overlap = OVERLAP if self.overlap is None else self.overlap
            tiling = Tiling(overlap, whole, self.per_tile)
            size = _size(self.tile, backbone.default_size)
        roi = Roi.load(self.roi, self.ignore)
        if roi is not None and settings.subspace != "pca":
            raise OptionError("a region of interest needs subspaces in closed form")
        plan = self._plan(backbone, settings)
        return FeatureExtractor(
            backbone,
            plan.names,
            pool=plan.pool,
            size=size,
            fit=self.image_fit,
            tiling=tiling,
            roi=roi,
            bits=FULL_RANGE if self.bits is None else self.bits,
            threads=threads,
        )

    def _extractor_for(
        self,
        backbone: Backbone,
        sources: Sequence[ImageSource],
        threads: int,
        progress: Progress | None,
    ) -> FeatureExtractor:
        detector = self
        if self.per_tile and self.size is None:
            # Tiles with models of their own are counted: all images have the size of the first.
            detector = FRE(**{**self.get_params(), "size": image_size(sources[0])})
        extractor = detector._extractor(backbone, threads=threads)
        if self.bits is None:
            found = find_bits(sources, workers=available_cores(), progress=progress)
            extractor.geometry = replace(extractor.geometry, bits=found)
        return extractor

    def _augmentation(self) -> Augmentation | None:
        if self.augment == 0 and not self.flip:
            return None
        return Augmentation(self.augment, self.flip, self.seed)

    def _plan(self, backbone: Backbone, settings: Configuration, threads: int = 0) -> DetectorPlan:
        autoencoder = None
        if settings.subspace != "pca":
            assert settings.rank is not None
            given = {
                "epochs": self.epochs,
                "learning_rate": self.learning_rate,
                "batch_size": self.batch_size,
            }
            kept: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
            autoencoder = AutoencoderOptions(
                settings.subspace, settings.rank, **kept, seed=self.seed, threads=threads
            )
        return plan_detector(backbone, self.layers, settings, autoencoder)

    def _fit_features(
        self,
        extractor: FeatureExtractor,
        features: Features,
        *,
        groups: Sequence[str] | None = None,
        threads: int = 0,
        progress: Progress | None = None,
    ) -> Model:
        """Fit to features that are held in memory.

        Args:
            extractor: that made the features; it decides on backbone, layers, pooling and size.
            features: of good images.
            groups: (n,), the part that each image shows; ``None``: each shows another one.
            threads: of an autoencoder's training, and of the model; 0 takes all cores.
            progress: called as the work advances.
        """
        settings = self._configuration()
        plan = self._plan(extractor.backbone, settings, threads)
        n = features.n
        folds = deal_folds(
            features.sha256,
            count=cheap_folds(n, self.folds),
            coarse=self.folds,
            seed=self.seed,
            groups=groups,
        )
        held = HeldRows(features, extractor.layouts)
        fitted = [
            fit_detector(rows, plan, folds, extractor.inspected, progress)
            for rows in (held.by_tile() if self.per_tile else [held])
        ]
        for one in fitted:
            one.check_variance(n)
        limits = None
        if features.appearance is not None:
            limits = AppearanceLimits.of(features.appearance)
        origin = self._origin(features.sha256) | self._relations(features, groups)
        return self._model(extractor, plan, fitted, settings, origin, limits, threads)

    def _model(
        self,
        extractor: FeatureExtractor,
        plan: DetectorPlan,
        fitted: Sequence[FittedDetector],
        settings: Configuration,
        origin: dict[str, Any],
        limits: AppearanceLimits | None,
        threads: int,
    ) -> Model:
        if self.frozen or self.per_tile:
            fitted = [one.frozen() for one in fitted]
        parameters = self._refitting(plan, settings)
        provenance = Provenance(settings.preset, origin, parameters, limits)
        data = build_model(extractor, plan, fitted, self.false_alarm_rate, provenance)
        return Model(data, threads=threads)

    def _configuration(self) -> Configuration:
        settings = resolve(
            preset=self.preset,
            backbone=None if self.backbone is None else str(self.backbone),
            default_backbone=DEFAULT_BACKBONE,
            pool=self.pool,
            subspace=self.subspace,
            variance=self.variance,
            rank=self.rank,
            scope=self.scope,
            score_layers=self.score_layers,
            map_layers=self.map_layers,
            standardise=self.standardise,
            top=self.top,
            smoothing=self.smoothing,
            prior=self.prior,
            overall=self.overall,
        )
        refuse_without_effect(
            settings.preset,
            settings.subspace,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            augment=self.augment,
            flip=self.flip,
        )
        check_rank(settings.variance, settings.rank)
        check_false_alarm_rate(self.false_alarm_rate)
        if self.folds < 2:
            raise OptionError(f"folds must be at least 2, not {self.folds}")
        return settings

    def _origin(self, sha256: Sequence[str]) -> dict[str, Any]:
        augmented = {"augmented": self.augment} if self.augment else {}
        return {**provenance(sha256, seed=self.seed), **augmented}

    def _streams(
        self,
        extractor: FeatureExtractor,
        sources: Sequence[ImageSource],
        settings: Configuration,
        *,
        always: bool = False,
    ) -> bool:
        """Whether the features of the images are more than may be held, or must not be held."""
        rows = extractor.rows(sources, self._augmentation())
        needed = 4.0 * rows * extractor.dimension
        if not always and needed <= self.memory * 2**30:
            return False
        if settings.subspace != "pca" or self.per_tile:
            what = "per-tile models" if self.per_tile else "an autoencoder"
            if always:
                raise OptionError(f"{what} can't be trained on several machines")
            raise DatasetError(
                f"{what} can't be trained without holding all features, {needed / 2**30:.1f} GB, "
                f"and {self.memory:g} GB are allowed: give more memory, or fewer images"
            )
        return True

    def _fit_streamed(
        self,
        extractor: FeatureExtractor,
        sources: Sequence[ImageSource],
        labels: list[str] | None,
        settings: Configuration,
        *,
        options: StreamOptions,
        passes: TwoPasses,
        threads: int,
        progress: Progress | None,
    ) -> tuple[Model, float]:
        """Fit to images whose features are not all held; return the model, and when it began to."""
        plan = self._plan(extractor.backbone, settings)
        rows = StreamedRows(
            extractor,
            sources,
            passes,
            options,
            {**self.get_params(), "weights": extractor.backbone.weights_sha256},
        )
        few = extractor.rows(sources, options.augmentation) <= plan.capacity
        folds = deal_streamed(
            sources,
            few=few,
            coarse=self.folds,
            seed=self.seed,
            groups=labels,
        )
        fitted = fit_detector(rows, plan, folds, extractor.inspected, progress)
        read = time.perf_counter()
        images = rows.images
        fitted.check_variance(len(images))
        extractor.release()
        sha256 = [image.sha256 for image in images]
        self.skipped_ = list(rows.skipped)
        names = [source_name(sources[image.place]) for image in images]
        shapes = zip(names, (image.size for image in images), strict=True)
        self.notes_ = _shape_notes(shapes, extractor.geometry)
        origin = self._origin(sha256)
        origin["calibration_images"] = fitted.n
        if labels is not None:
            of_kept = {labels[image.place] for image in images}
            origin |= {"group_by": self.group_by, "n_groups": len(of_kept)}
        limits = AppearanceLimits.of([np.array(image.appearance) for image in images])
        model = self._model(extractor, plan, [fitted], settings, origin, limits, threads)
        return model, read

    def _refitting(self, plan: DetectorPlan, settings: Configuration) -> dict[str, Any]:
        """The parameters that fit the same again with such an extractor: plain JSON values."""
        kept = ["folds", "false_alarm_rate", "augment", "flip", "seed", "group_by", "per_tile"]
        found: dict[str, Any] = {
            "preset": settings.preset,
            "subspace": settings.subspace,
            "rank": settings.rank,
        }
        if settings.subspace == "pca":
            # With a fixed rank of the reference it has no effect, and would be refused.
            fixed = settings.preset == "reference" and settings.rank is not None
            found["variance"] = None if fixed else settings.variance
        else:
            assert plan.autoencoder is not None
            of_training = asdict(plan.autoencoder)
            kept_options = ("epochs", "learning_rate", "batch_size")
            found |= {name: of_training[name] for name in kept_options}
        if plan.overall is not None:
            found |= {
                "layers": [part.layer for part in plan.layers],
                "pool": [part.pool for part in plan.layers],
                "scope": [part.scope for part in plan.layers],
                **asdict(plan.reading),
            }
            if all(part.scope != "position" for part in plan.layers):
                found["prior"] = None
            kept += ["score_layers", "map_layers"]
        else:
            found |= {"layers": [plan.layers[0].layer], "pool": plan.pool}
        return found | {name: getattr(self, name) for name in kept}

    def _labels(self, sources: Sequence[ImageSource]) -> list[str] | None:
        if self.group_by is None:
            return None
        paths = [source for source in sources if isinstance(source, (str, Path))]
        if len(paths) < len(sources):
            raise OptionError("group_by needs image files, which have names; arrays have none")
        labels = group_labels(paths, self.group_by)
        check_groups(labels)
        return labels

    def _relations(self, features: Features, groups: Sequence[str] | None) -> dict[str, Any]:
        """For the provenance: the groups, or else what looks as if there should be some."""
        if groups is not None:
            return {"group_by": self.group_by, "n_groups": len(set(groups))}
        if features.thumbnails is None:
            return {}
        return {"near_duplicates": int(near_duplicates(features.thumbnails).sum())}


def _sources(images: Path | str | Iterable[ImageSource]) -> Sequence[ImageSource]:
    if isinstance(images, (str, Path)):
        sources: Sequence[ImageSource] = training_images(Path(images))
        origin = f"{images}: "
    else:
        check_several(images)
        sources, origin = list(images), ""
    if len(sources) < LEAST_IMAGES:
        raise DatasetError(
            f"{origin}training needs {LEAST_IMAGES} good images or more, found {len(sources)}"
        )
    return sources


def _shape_notes(shapes: Iterable[tuple[str, tuple[int, int]]], geometry: Geometry) -> list[str]:
    """Say that images of different proportions are stretched to one.

    Args:
        shapes: name, height and width of each image.
        geometry: how images meet the input.
    """
    stretched = geometry.size if geometry.tiling is None else geometry.tiling.image_size
    found = sorted(shapes, key=lambda image: image[1][1] / image[1][0])
    if geometry.fit != "stretch" or stretched is None or not found:
        return []
    narrow, wide = found[0], found[-1]
    ratios = [width / height for _, (height, width) in (narrow, wide)]
    if ratios[1] <= ratios[0] * SHAPES_APART:
        return []
    height, width = stretched
    shown = " to ".join(
        f"{size[1]} x {size[0]} ({name or 'an array'})" for name, size in (narrow, wide)
    )
    advice = (
        "letterbox keeps their proportions" if geometry.tiling is None else "leave out the size"
    )
    return [
        f"images of different proportions, {shown} pixels (width x height), are all stretched to "
        f"{width} x {height}: {advice}"
    ]


def _size(size: int | tuple[int, int] | None, default: tuple[int, int]) -> tuple[int, int]:
    if size is None:
        return default
    height, width = tuple(repeat(size, 2)) if isinstance(size, int) else size
    if min(height, width) < 32 or max(height, width) > 8192:
        raise OptionError(f"size must be 32 to 8192 pixels a side, not {height} x {width}")
    return height, width
