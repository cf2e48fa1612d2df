"""FRE, the estimator: good images in, a model out."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fre.backbones import DEFAULT_BACKBONE, Backbone, get_backbone
from fre.errors import ImageError, OptionError
from fre.features.extractor import FeatureExtractor
from fre.images.decode import ImageSource, find_bits
from fre.images.geometry import FULL_RANGE, Fit
from fre.images.input_size import ImageSizes, InputChoice, InputOptions, choose_input
from fre.images.preparation import Preparation
from fre.images.roi import MaskSource, Roi
from fre.model import Model
from fre.parallel import available_cores
from fre.scoring.calibration import check_false_alarm_rate
from fre.subspaces.autoencoder import AutoencoderOptions
from fre.training.checkpoint import CHECKPOINT_SECONDS
from fre.training.config import (
    Autoencoder,
    Configuration,
    Method,
    group_parameters,
    refuse_without_effect,
    resolve,
)
from fre.training.plan import DetectorPlan, plan_detector
from fre.training.recipe import Recipe
from fre.training.sources import Sources
from fre.training.streamed import StreamOptions, TwoPasses
from fre.training.trainer import Trainer
from fre.types import Progress


class FRE:
    """Detector by feature reconstruction error: PCA on the features of good images.

    The method is Ndiour, Ahuja, Genc and Tickoo, "FRE: A Fast Method For Anomaly Detection And
    Segmentation", BMVC 2023. The optimum of its linear autoencoder is found by PCA, or by training.
    Parameters follow scikit-learn's conventions: they are stored as given and checked by `fit`.

    Args:
        backbone: name of the frozen network, or path of an ONNX file. ``None``:
            ``"efficientnet_lite0"``.
        preset: ``"default"`` reads several layers as one score and one map, of an input of about
            320 x 320 pixels; ``"fast"`` and ``"accurate"`` do the same at 256 x 256 and 384 x 384.
            ``"reference"`` alone
            is FRE as documented: ResNet-50, pooling by 2, a tied autoencoder of rank 220; with
            another backbone the subspace is PCA. ``None``: the reference with an autoencoder, else
            the default.
        weights: file of weights for the backbone. ``None``: the pretrained weights.
        layers: names of the layers to read, fine to coarse. ``None``: the layers of stride 8, 16
            and 32; the reference preset reads the backbone's reference layer.
        size: height and width of the network's input in pixels, or one number for both. ``None``:
            the aspect of the training images, at the preset's number of pixels, and never more
            than the images have; the reference preset, and networks with a fixed input, keep
            their own size. With tiles: the size that images are resized to before they are cut;
            ``None`` keeps their own.
        defect_size: width of the smallest defect to find, in pixels of the images: chooses a
            larger input, or tiles, in place of ``size`` and ``tile``.
        image_fit: how images meet that size: ``"stretch"``, or ``"letterbox"``, which keeps the
            aspect and pads.
        tile: height and width of the tiles that large images are cut into, in pixels, or one
            number for both. ``None``: no tiles.
        overlap: width of the strip that neighbouring tiles share, in pixels. ``None``: 64.
        per_tile: whether each tile position has a model of its own, for a camera and parts that
            do not move; else all tiles share one.
        roi: region of interest as a mask, a file or an array (H, W): only non-zero pixels are
            fitted and scored.
        ignore: mask, a file or an array (H, W), whose non-zero pixels are neither fitted nor
            scored.
        subspace: ``"pca"``, or an `Autoencoder`, which needs ``fre-vision[torch]``. ``None``: the
            preset's.
        method: inner settings of the method. ``None``: the defaults of `Method`.
        augment: number of shifted and turned copies of each image, for fewer than 16 images.
        false_alarm_rate: share of good images that may be called anomalous, above 0 and below 1.
        group_by: rule that says which images show one part and so belong in one fold:
            ``"folder"``, the name of an image's folder; a number, the folder so many levels up; or
            a regular expression whose one capture group is found in the file's name. ``None``:
            each image shows a part of its own.
        memory: gigabytes of features to hold at once.
        frozen: leave out of the model what `Model.update` and `fre.merge_models` need, which makes
            its file two to four times as large. Per-tile models and autoencoders are always
            frozen.
        bits: range of the values of 16-bit image files, 0 to 2**bits - 1, in training and
            prediction: 8, 10, 12, 14 or 16. ``None``: the smallest that holds the largest value of
            the training images; a model of 8-bit images alone then refuses 16-bit files.
        seed: seed of the folds, of copies, and of an autoencoder's training.

    Attributes:
        seconds_: duration of `fit` in seconds: ``total``, ``features`` and ``fit``.
        skipped_: errors of the images that `fit` left out.
        notes_: remarks on the images, one line each.
        input_: the input of the network that `fit` chose.
    """

    seconds_: dict[str, float]
    skipped_: list[ImageError]
    notes_: list[str]
    input_: InputChoice

    def __init__(
        self,
        backbone: str | None = None,
        *,
        preset: str | None = None,
        weights: Path | str | None = None,
        layers: Sequence[str] | None = None,
        size: int | tuple[int, int] | None = None,
        defect_size: float | None = None,
        image_fit: Fit = "stretch",
        tile: int | tuple[int, int] | None = None,
        overlap: int | None = None,
        per_tile: bool = False,
        roi: MaskSource | None = None,
        ignore: MaskSource | None = None,
        subspace: str | Autoencoder | None = None,
        method: Method | None = None,
        augment: int = 0,
        false_alarm_rate: float = 0.01,
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
        self.defect_size = defect_size
        self.image_fit = image_fit
        self.tile = tile
        self.overlap = overlap
        self.per_tile = per_tile
        self.roi = roi
        self.ignore = ignore
        self.subspace = subspace
        self.method = method
        self.augment = augment
        self.false_alarm_rate = false_alarm_rate
        self.group_by = group_by
        self.memory = memory
        self.frozen = frozen
        self.bits = bits
        self.seed = seed

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return [name for name in inspect.signature(cls.__init__).parameters if name != "self"]

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> FRE:
        """Return a detector with flat parameters, such as a model's metadata ``parameters``.

        Args:
            parameters: values by name: parameters of `FRE`, settings of `Method`, and settings of
                `Autoencoder` where ``"subspace"`` is its kind. ``None`` stands for the default.

        Raises:
            OptionError: a value is out of range, or a setting has no effect.
        """
        return cls(**group_parameters(parameters))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the values of the constructor's parameters by name."""
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **params: Any) -> FRE:
        """Change some of the constructor's parameters.

        Raises:
            OptionError: FRE has no such parameter.
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
        """Fit a detector to good images.

        Features that need more than ``memory`` are not kept: a first pass over the images
        accumulates statistics, and a second pass calibrates.

        Args:
            images: a folder of good images or the root of a dataset (its training split), files,
                or arrays, uint8 (H, W, 3), RGB. Three or more that differ.
            y: ignored; scikit-learn's convention.
            skip_unreadable: leave out images that can't be read, instead of stopping.
            checkpoint: a file that such a training writes now and then. An interrupted training
                resumes from it. Remove it once the model is saved.
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
        sources = Sources.of(images, self.group_by)
        backbone = get_backbone(settings.backbone, weights=self.weights)
        extractor, choice = self._extractor_for(backbone, sources.images, threads, progress)
        file = None if checkpoint is None else Path(checkpoint)
        options = StreamOptions(
            skip_unreadable=skip_unreadable, checkpoint=file, checkpoint_seconds=checkpoint_seconds
        )
        prepared = time.perf_counter()
        trainer = self._trainer(extractor, threads=threads, progress=progress)
        trained = trainer.fit(sources, options, stream)
        model = Model(trained.data, threads=threads)
        ended = time.perf_counter()
        self.input_, self.skipped_, self.notes_ = choice, trained.skipped, trained.notes
        self.seconds_ = {
            "total": ended - began,
            "features": trained.seconds,
            "fit": ended - prepared - trained.seconds,
        }
        return model

    def _trainer(
        self, extractor: FeatureExtractor, *, threads: int = 0, progress: Progress | None = None
    ) -> Trainer:
        """Return what fits detectors by these parameters to features of an extractor.

        Args:
            extractor: feature extractor. It decides on backbone, layers, pooling and size.
            threads: number of threads of an autoencoder's training, 0 for all cores.
            progress: called as the work advances.
        """
        settings = self._configuration()
        recipe = Recipe(
            settings,
            self._plan(extractor.backbone, settings, threads),
            self._method,
            augment=self.augment,
            false_alarm_rate=self.false_alarm_rate,
            group_by=self.group_by,
            per_tile=self.per_tile,
            memory=self.memory,
            frozen=self.frozen,
            seed=self.seed,
            parameters=self.get_params(),
        )
        return Trainer(recipe, extractor, progress)

    def _extractor(
        self, backbone: Backbone, images: ImageSizes | None = None, *, threads: int = 0
    ) -> FeatureExtractor:
        """Return the extractor that `fit` uses for a backbone.

        16-bit files are read by their full range, unless ``bits`` says another.

        Args:
            backbone: the network.
            images: sizes of the training images, which the input follows; ``None``: the network's
                own input, unless ``size`` or ``tile`` says another.
            threads: number of threads of the network, 0 for all cores.

        Raises:
            BackboneError: an unknown layer, or a size that the network can't take.
            ImageError: a mask can't be read.
            OptionError: a parameter out of range.
        """
        settings = self._configuration()
        of_tiles = {"overlap": self.overlap is not None, "per_tile": self.per_tile}
        refuse_without_effect(
            [name for name, given in of_tiles.items() if given],
            preset=settings.preset,
            kind=settings.subspace,
            tiles=self.tile is not None,
        )
        preparation = self._preparation(backbone, settings, images)
        plan = self._plan(backbone, settings)
        return FeatureExtractor(backbone, plan.names, preparation, pool=plan.pool, threads=threads)

    def preparation(self, images: Sequence[ImageSource]) -> tuple[Preparation, InputChoice]:
        """Return how `fit` would prepare images, and what it would say about the input.

        Args:
            images: training images: files, or arrays, uint8 (H, W, 3), RGB.

        Raises:
            BackboneError: an unknown backbone, or unusable weights.
            ImageError: a mask can't be read.
            OptionError: a parameter out of range.
        """
        settings = self._configuration()
        backbone = get_backbone(settings.backbone, weights=self.weights)
        sizes = ImageSizes.of(images)
        found = self._preparation(backbone, settings, sizes)
        if self.bits is None:
            bits = find_bits(images, workers=available_cores())
            found = replace(found, geometry=replace(found.geometry, bits=bits))
        return found, self._input(backbone, settings, sizes)

    def _preparation(
        self, backbone: Backbone, settings: Configuration, images: ImageSizes | None
    ) -> Preparation:
        """Return how images of some sizes are prepared; 16-bit values by ``bits``, or in full."""
        geometry = self._input(backbone, settings, images).geometry
        roi = Roi.load(self.roi, self.ignore)
        if roi is not None and settings.subspace != "pca":
            raise OptionError("a region of interest needs subspaces in closed form")
        bits = FULL_RANGE if self.bits is None else self.bits
        return Preparation(replace(geometry, bits=bits), roi)

    def _input(
        self, backbone: Backbone, settings: Configuration, images: ImageSizes | None
    ) -> InputChoice:
        """Choose the input of the network for images of some sizes; ``None``: not known."""
        options = InputOptions(
            self.size, self.image_fit, self.tile, self.overlap, self.per_tile, self.defect_size
        )
        budget = settings.budget if backbone.any_size else None
        return choose_input(options, images, backbone.default_size, budget)

    def _extractor_for(
        self,
        backbone: Backbone,
        sources: Sequence[ImageSource],
        threads: int,
        progress: Progress | None,
    ) -> tuple[FeatureExtractor, InputChoice]:
        """Return the extractor for some images, and the choice of its input."""
        images = ImageSizes.of(sources)
        extractor = self._extractor(backbone, images, threads=threads)
        if self.bits is None:
            found = find_bits(sources, workers=available_cores(), progress=progress)
            extractor.geometry = replace(extractor.geometry, bits=found)
        return extractor, self._input(backbone, self._configuration(), images)

    def _plan(self, backbone: Backbone, settings: Configuration, threads: int = 0) -> DetectorPlan:
        options = None
        if (chosen := settings.autoencoder) is not None:
            options = AutoencoderOptions(**asdict(chosen), seed=self.seed, threads=threads)
        return plan_detector(backbone, self.layers, settings, options)

    @property
    def _method(self) -> Method:
        return self.method or Method()

    def _configuration(self) -> Configuration:
        settings = resolve(
            preset=self.preset,
            backbone=None if self.backbone is None else str(self.backbone),
            default_backbone=DEFAULT_BACKBONE,
            subspace=self.subspace,
            method=self.method,
        )
        refuse_without_effect(
            self._method.changed,
            preset=settings.preset,
            kind=settings.subspace,
            copies=self.augment != 0,
        )
        check_false_alarm_rate(self.false_alarm_rate)
        return settings
