"""8-bit models: quantise the network, refit everything after it, and compare both models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fre.backbones.model_file import EmbeddedBackbone, quantized
from fre.datasets import require_test, training_images
from fre.datasets.samples import Dataset
from fre.detector import FRE
from fre.errors import ImageError, ModelFileError, OptionError
from fre.evaluation.evaluate import evaluate
from fre.evaluation.figures import Evaluation
from fre.evaluation.metrics.ranking import tied_ranks
from fre.features.extractor import FeatureExtractor
from fre.inference.predictor import OUTPUTS
from fre.inference.rebuild import network_of
from fre.model import Model
from fre.runtimes.measure import median_milliseconds
from fre.runtimes.runtime import open_runtime
from fre.scoring.calibration import Calibration
from fre.training.sources import Sources
from fre.types import FloatArray, Progress

MIN_CORRELATION = 0.95
"""Least rank correlation of the scores of both models on the same images."""

MAX_LOSS = 0.01
"""Largest loss of image AUROC; where defects are known, it replaces the correlation."""

RANGE_IMAGES = 64
"""Number of images that give the ranges of activations."""

SPEED_IMAGES = 8
"""Number of images that the speed is measured on."""


@dataclass(frozen=True)
class Side:
    """Figures of one model, before or after quantization.

    Attributes:
        megabytes: size of the file.
        milliseconds: median time of the whole graph on one image.
        calibration: held-out scores of good images, and the threshold.
        evaluation: evaluation on the dataset, if one was given.
    """

    megabytes: float
    milliseconds: float
    calibration: Calibration
    evaluation: Evaluation | None

    @classmethod
    def of(cls, model: Model, milliseconds: float, evaluation: Evaluation | None) -> Side:
        """Return the figures of a model."""
        return cls(len(model.data) / 1e6, milliseconds, model.calibration, evaluation)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain JSON values."""
        return {
            "megabytes": self.megabytes,
            "milliseconds": self.milliseconds,
            "threshold": self.calibration.threshold,
            "expected_false_alarm_rate": self.calibration.expected_rate,
            "evaluation": None if self.evaluation is None else self.evaluation.to_dict(),
        }


@dataclass(frozen=True)
class Quantization:
    """A quantised model, compared with the original.

    Attributes:
        model: quantised model.
        before: figures of the original model.
        after: figures of the quantised model.
        correlation: Spearman's rank correlation of both models' scores, in [-1, 1].
        n_images: number of scored images: the test images of the dataset, or the good images.
        same_images: whether the good images are the original model's training images.
    """

    model: Model
    before: Side
    after: Side
    correlation: float
    n_images: int
    same_images: bool

    @property
    def objections(self) -> tuple[str, ...]:
        """Reasons against the quantised model; empty if there is none."""
        found = []
        before, after = self.before, self.after
        if after.milliseconds >= before.milliseconds:
            found.append(
                f"it is not faster, {after.milliseconds:.2f} ms an image for "
                f"{before.milliseconds:.2f} ms"
            )
        loss = self.loss
        if loss is not None and loss > MAX_LOSS:
            found.append(f"image AUROC falls by {loss:.3f}, more than {MAX_LOSS}")
        # In this form, because NaN must not pass.
        elif loss is None and not self.correlation >= MIN_CORRELATION:
            found.append(
                f"the ranks of its scores correlate at {self.correlation:.3f} with those before, "
                f"below {MIN_CORRELATION}"
            )
        return tuple(found)

    @property
    def loss(self) -> float | None:
        """Loss of image AUROC; ``None`` where it is not known."""
        evaluations = self.before.evaluation, self.after.evaluation
        aurocs = [None if part is None else part.image_auroc for part in evaluations]
        before, after = aurocs
        return None if before is None or after is None else before - after

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON of ``fre quantize``, without the name of the file."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "correlation": self.correlation,
            "n_images": self.n_images,
            "same_images": self.same_images,
            "objections": list(self.objections),
        }


def quantize(
    model: Model,
    good: Path | str | Sequence[Path],
    *,
    dataset: Dataset | None = None,
    runtime: str = "onnxruntime",
    threads: int = 0,
    progress: Progress | None = None,
) -> Quantization:
    """Quantise a model's network, refit everything after it, and compare both models.

    Up to 64 good images give the ranges of activations. Subspaces, scales and calibration are then
    fitted to features of the quantised network with the model's own parameters, so that the
    threshold keeps its false-alarm rate.

    Args:
        model: model that this version trained.
        good: good images, preferably the training images: a folder, the root of a dataset, or
            files.
        dataset: dataset with test images to evaluate both models on.
        runtime: runtime whose speed is measured.
        threads: number of threads of the runtime, 0 for all cores.
        progress: called as the work advances.

    Raises:
        ModelFileError: the model does not say how it was trained, or is quantised already.
        DatasetError: fewer than two good images.
        ImageError: an image can't be read.
        BackboneError: ONNX Runtime can't quantise the network.
        MissingDependencyError: the model has an autoencoder, whose training needs
            ``fre-vision[torch]``.
    """
    parameters, backbone = _parameters(model), network_of(model)
    if backbone.precision != "float32":
        raise ModelFileError("the model is quantised already")
    sources = training_images(Path(good)) if isinstance(good, (str, Path)) else list(good)
    plain = _extractor(backbone, model, parameters, threads)
    integers = quantized(backbone, _inputs(plain, _spread(sources, RANGE_IMAGES)))
    extractor = _extractor(integers, model, parameters, threads)
    small = _refitted(extractor, parameters, sources, threads, progress)
    if model.calibration.keep_odd:
        small = small.with_calibration(small.calibration.with_odd(keep=True))
    images = [sample.path for sample in require_test(dataset)] if dataset else sources
    models = (model, small)
    opened = [open_runtime(one.data, OUTPUTS, runtime=runtime, threads=threads) for one in models]
    milliseconds = median_milliseconds(opened, _trial(plain, images))
    evaluations: list[Evaluation | None] = [None, None]
    if dataset is None:
        scores = [_scores(one, images, progress) for one in models]
    else:
        found = [evaluate(one, dataset, progress=progress) for one in models]
        evaluations = [*found]
        scores = [np.array([row.score for row in one.images]) for one in found]
    before, after = map(Side.of, models, milliseconds, evaluations)
    digests = [one.document.provenance.images_sha256 for one in models]
    return Quantization(
        small, before, after, rank_correlation(*scores), len(images), digests[0] == digests[1]
    )


def _refitted(
    extractor: FeatureExtractor,
    parameters: dict[str, Any],
    sources: Sequence[Path],
    threads: int,
    progress: Progress | None,
) -> Model:
    """Return a model of the extractor's network and input, fitted to good images."""
    detector = FRE.from_parameters(parameters)
    trainer = detector._trainer(extractor, threads=threads, progress=progress)
    return Model(trainer.fit(Sources(sources)).data, threads=threads)


def _parameters(model: Model) -> dict[str, Any]:
    """Return the parameters of `fre.FRE` that train such a model again."""
    parameters = model.document.parameters
    if parameters is None:
        raise ModelFileError(
            "the model does not say how it was trained, as imported ones and those of older "
            "versions: train it anew with fre train"
        )
    parameters = {**parameters, "frozen": not model.document.can_update}
    if parameters["preset"] == "reference" and parameters["rank"] is not None:
        # Older versions kept the variance beside the rank, with which it has no effect.
        parameters["variance"] = None
    if model.calibration.false_alarm_rate is not None:
        parameters["false_alarm_rate"] = model.calibration.false_alarm_rate
    return parameters


def _extractor(
    backbone: EmbeddedBackbone, model: Model, parameters: dict[str, Any], threads: int
) -> FeatureExtractor:
    return FeatureExtractor(
        backbone,
        [layer.name for layer in backbone.layers],
        model.preparation,
        pool=parameters["pool"] if parameters["preset"] == "reference" else 1,
        threads=threads,
    )


def _spread(sources: Sequence[Any], count: int) -> list[Any]:
    """Return up to ``count`` of the sources, spread evenly."""
    places = np.linspace(0, len(sources) - 1, min(count, len(sources))).round().astype(int)
    return [sources[place] for place in places]


def _inputs(extractor: FeatureExtractor, sources: Sequence[Path]) -> Iterator[FloatArray]:
    """Yield the normalised inputs of the network for some images: float32 (1, 3, H, W)."""
    norm, inspected = extractor.backbone.normalisation, extractor.inspected
    mean, std = (np.array(values, np.float32) for values in (norm.mean, norm.std))
    for image in extractor.preparation.load_many(sources, workers=1, ahead=1):
        if isinstance(image, ImageError):
            raise image
        for one in extractor.preparation.inputs(image):
            planes = ((one.pixels - mean) / std).transpose(2, 0, 1)
            yield planes[None] if inspected is None else (planes * inspected)[None]


def _trial(extractor: FeatureExtractor, images: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """Return inputs to measure the speed on: uint8 (1, H, W, 3) each."""
    preparation = extractor.preparation
    loaded = map(preparation.load, _spread(images, SPEED_IMAGES))
    inputs = (one.pixels for image in loaded for one in preparation.inputs(image))
    return [pixels[None] for pixels in islice(inputs, SPEED_IMAGES)]


def _scores(model: Model, images: Sequence[Path], progress: Progress | None) -> NDArray[np.float64]:
    scores = []
    for prediction in model.predict_many(images):
        scores.append(prediction.score)
        if progress:
            progress("Scoring", len(scores), len(images))
    return np.array(scores)


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Return Spearman's rank correlation; equal values share the mean of their ranks.

    Args:
        a: (n,), n >= 2.
        b: (n,).

    Returns:
        In [-1, 1]; NaN where all values of one are equal.

    Raises:
        OptionError: the lengths differ, or there are fewer than two values.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise OptionError(f"expected two rows of numbers, equally long, not {x.shape}, {y.shape}")
    x, y = (values - values.mean() for values in (tied_ranks(x), tied_ranks(y)))
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else float("nan")
