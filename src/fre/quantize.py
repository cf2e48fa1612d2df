"""A model in 8-bit integers: its network quantised, everything after it fitted anew."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fre.backbones.model_file import EmbeddedBackbone, embedded_backbone, quantized
from fre.datasets import require_test, training_images
from fre.datasets.samples import Dataset
from fre.detector import FRE
from fre.errors import ImageError, ModelFileError, OptionError
from fre.evaluation.evaluate import evaluate
from fre.evaluation.figures import Evaluation
from fre.features.extractor import FeatureExtractor
from fre.images.decode import read_resized
from fre.images.loading import iter_loaded
from fre.inference.predictor import OUTPUTS
from fre.model import Model
from fre.runtimes.runtime import open_runtime
from fre.scoring.calibration import Calibration
from fre.types import FloatArray, Progress

MIN_CORRELATION = 0.95
"""Of the scores of both models on the same images, for a model to count as the same detector."""

MAX_LOSS = 0.01
"""Of image AUROC, where defects are known: then this is asked for, not the correlation."""

RANGE_IMAGES = 64
"""Images that the ranges of activations are taken from."""

SPEED_IMAGES = 8
SPEED_ROUNDS = (3, 25)
SPEED_SECONDS = 4.0
SPEED_PAUSE = 0.03
"""Speed is measured on so many images, in at least and at most so many rounds, for about so many
seconds, with a pause of so many before each turn."""


@dataclass(frozen=True)
class Side:
    """One of the two models, before or after.

    Attributes:
        megabytes: of its file.
        milliseconds: median of the whole graph on one image.
        calibration: by cross-fitted scores of good images.
        evaluation: on the dataset, if one was given.
    """

    megabytes: float
    milliseconds: float
    calibration: Calibration
    evaluation: Evaluation | None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "megabytes": self.megabytes,
            "milliseconds": self.milliseconds,
            "threshold": self.calibration.threshold,
            "expected_false_alarm_rate": self.calibration.expected_rate,
            "evaluation": None if self.evaluation is None else self.evaluation.to_dict(),
        }


@dataclass(frozen=True)
class Quantization:
    """A quantised model beside the one that it was made of.

    Attributes:
        model: the quantised model.
        before: figures of the given model.
        after: figures of the quantised one.
        correlation: Spearman's, of both models' scores on the images below, in [-1, 1].
        n_images: the test images of the dataset, if one was given; else the good images.
        same_images: whether the good images are those that the given model was trained on.
    """

    model: Model
    before: Side
    after: Side
    correlation: float
    n_images: int
    same_images: bool

    @property
    def objections(self) -> tuple[str, ...]:
        """Why the model is not worth having; nothing if it is."""
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
        # Not the other way round: what is no number must not pass.
        elif loss is None and not self.correlation >= MIN_CORRELATION:
            found.append(
                f"the ranks of its scores correlate at {self.correlation:.3f} with those before, "
                f"below {MIN_CORRELATION}"
            )
        return tuple(found)

    @property
    def loss(self) -> float | None:
        """By how much image AUROC falls; ``None`` where it is not known."""
        evaluations = self.before.evaluation, self.after.evaluation
        aurocs = [None if part is None else part.image_auroc for part in evaluations]
        before, after = aurocs
        return None if before is None or after is None else before - after

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``fre quantize``, but for the name of the file."""
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
    """Quantise a model's network, fit everything after it anew, and compare the two.

    Ranges of activations are those of up to 64 of the good images. Subspaces, scales and
    calibration are then fitted to the features of the quantised network, with the parameters that
    the model was trained with, so that the threshold keeps its false-alarm rate.

    Args:
        model: trained by this version.
        good: good images, best those that the model was trained on: a folder, the root of a
            dataset, or files.
        dataset: with test images to evaluate both models on.
        runtime: what the speed is measured on.
        threads: of the runtime; 0 takes all cores.
        progress: called as the work advances.

    Raises:
        ModelFileError: the model does not say how it was trained, or is quantised already.
        DatasetError: fewer than two good images.
        ImageError: an image can't be read.
        BackboneError: ONNX Runtime can't quantise the network.
        MissingDependencyError: the model has an autoencoder, which needs ``fre[torch]`` to train.
    """
    parameters = model.metadata.get("parameters")
    if parameters is None:
        raise ModelFileError(
            "the model does not say how it was trained, as imported ones and those of older "
            "versions: train it anew with fre train"
        )
    if parameters["preset"] == "reference" and parameters["rank"] is not None:
        # Older versions kept the variance beside the rank, with which it has no effect.
        parameters = {**parameters, "variance": None}
    backbone = embedded_backbone(model.data, model.metadata)
    if backbone.precision != "float32":
        raise ModelFileError("the model is quantised already")
    rate = model.calibration.false_alarm_rate
    frozen = "learning" not in model.metadata
    detector = FRE(
        **parameters | ({} if rate is None else {"false_alarm_rate": rate}) | {"frozen": frozen}
    )
    sources = training_images(Path(good)) if isinstance(good, (str, Path)) else list(good)
    plain = _extractor(backbone, model, parameters, threads)
    integers = quantized(backbone, _inputs(plain, _spread(sources, RANGE_IMAGES)))
    extractor = _extractor(integers, model, parameters, threads)
    small = detector._fit_sources(extractor, sources, threads=threads, progress=progress)
    # A dataset's images say what its figures are made of; else there are none but the good ones.
    images = [sample.path for sample in require_test(dataset)] if dataset else sources
    milliseconds = _milliseconds(
        [model.data, small.data], _trial(plain, images), runtime=runtime, threads=threads
    )
    models = (model, small)
    evaluations: list[Evaluation | None] = [None, None]
    if dataset is None:
        scores = [_scores(one, images, progress) for one in models]
    else:
        found = [evaluate(one, dataset, progress=progress) for one in models]
        evaluations = [*found]
        scores = [np.array([row.score for row in one.images]) for one in found]
    before, after = (
        Side(len(one.data) / 1e6, time_of_one, one.calibration, evaluation)
        for one, time_of_one, evaluation in zip(models, milliseconds, evaluations, strict=True)
    )
    digests = [one.metadata["provenance"]["images_sha256"] for one in models]
    return Quantization(
        small, before, after, rank_correlation(*scores), len(images), digests[0] == digests[1]
    )


def _extractor(
    backbone: EmbeddedBackbone, model: Model, parameters: dict[str, Any], threads: int
) -> FeatureExtractor:
    reference = parameters["preset"] == "reference"
    geometry = model.geometry
    return FeatureExtractor(
        backbone,
        [layer.name for layer in backbone.layers],
        pool=parameters["pool"] if reference else 1,
        size=geometry.size,
        fit=geometry.fit,
        tiling=geometry.tiling,
        bits=geometry.bits,
        roi=model.roi,
        threads=threads,
    )


def _spread(sources: Sequence[Any], count: int) -> list[Any]:
    """Some of many, spread evenly over all."""
    places = np.linspace(0, len(sources) - 1, min(count, len(sources))).round().astype(int)
    return [sources[place] for place in places]


def _inputs(extractor: FeatureExtractor, sources: Sequence[Path]) -> Iterator[FloatArray]:
    """What the network is given of some images: float32 (1, 3, H, W), normalised."""
    norm, inspected = extractor.backbone.normalisation, extractor.inspected
    mean, std = (np.array(values, np.float32) for values in (norm.mean, norm.std))
    for image in iter_loaded(sources, extractor.geometry.preparation, workers=1, ahead=1):
        if isinstance(image, ImageError):
            raise image
        extractor.check(image)
        for _, _, pixels in extractor.inputs(image, None):
            planes = ((pixels - mean) / std).transpose(2, 0, 1)
            yield planes[None] if inspected is None else (planes * inspected)[None]


def _trial(extractor: FeatureExtractor, images: Sequence[Path]) -> list[NDArray[np.uint8]]:
    """Inputs to measure the speed on: uint8 (1, H, W, 3) each."""
    geometry = extractor.geometry
    read = (read_resized(path, geometry.preparation) for path in _spread(images, SPEED_IMAGES))
    inputs = (part for pixels, size in read for part in geometry.inputs(pixels, size))
    return [part[None] for part in islice(inputs, SPEED_IMAGES)]


def _milliseconds(
    models: Sequence[bytes], images: Sequence[NDArray[np.uint8]], *, runtime: str, threads: int
) -> list[float]:
    """Median of each on one image, in turns: what else goes on strikes all alike.

    A turn is all images, after a pause in which the threads of the other model stop turning in a
    loop for more work, so that few runs share caches and cores with it.
    """
    opened = [open_runtime(data, OUTPUTS, runtime=runtime, threads=threads) for data in models]
    first = np.zeros(1, np.int64)
    for one in opened:
        one.run(images[0], first)
    taken: list[list[float]] = [[] for _ in opened]
    began = time.perf_counter()
    for done in range(SPEED_ROUNDS[1]):
        if done >= SPEED_ROUNDS[0] and time.perf_counter() - began > SPEED_SECONDS:
            break
        for one, seconds in zip(opened, taken, strict=True):
            time.sleep(SPEED_PAUSE)
            for image in images:
                start = time.perf_counter()
                one.run(image, first)
                seconds.append(time.perf_counter() - start)
    return [1000 * float(np.median(seconds)) for seconds in taken]


def _scores(model: Model, images: Sequence[Path], progress: Progress | None) -> NDArray[np.float64]:
    scores = []
    for prediction in model.predict_many(images):
        scores.append(prediction.score)
        if progress:
            progress("Scoring", len(scores), len(images))
    return np.array(scores)


def rank_correlation(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation; equal values share the mean of their ranks.

    Args:
        a: (n,), n >= 2.
        b: (n,).

    Returns:
        In [-1, 1]; NaN where all values of one are equal.

    Raises:
        OptionError: of different lengths, or fewer than two.
    """
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise OptionError(f"expected two rows of numbers, equally long, not {x.shape}, {y.shape}")
    x, y = (values - values.mean() for values in (_ranks(x), _ranks(y)))
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else float("nan")


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks
