"""Import the detectors of anomalib: a checkpoint of its ``Fre`` becomes a model of ours."""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from fre.appearance import AppearanceLimits
from fre.backbones import Normalisation
from fre.backbones.timm import TimmBackbone
from fre.backbones.torch_archive import Inert, Tensor, TorchArchive
from fre.calibration import HEAT_SPAN, Calibration, check_false_alarm_rate
from fre.cores import available_cores
from fre.datasets import open_dataset
from fre.errors import (
    BackboneError,
    DatasetError,
    ImageError,
    MissingDependencyError,
    ModelFileError,
)
from fre.features import FeatureExtractor
from fre.graph import MAP, SCORE, FeatureLayout, detector_model
from fre.images import ImageSource, iter_loaded
from fre.metadata import attach, describe, provenance
from fre.model import Model
from fre.runtime import open_runtime
from fre.subspace.autoencoder import LinearAutoencoder
from fre.types import FloatArray, Progress

__all__ = ["import_checkpoint"]

Parameter = TypeVar("Parameter", int, str)
Step: TypeAlias = tuple[str, dict[str, Any]]
"""Name and arguments of a transform."""

AUTOENCODER = "model.fre_model."
NETWORK = "model.feature_extractor.feature_extractor."
"""Where anomalib's state dict has the autoencoder, and timm's network."""

DEFAULT_STEPS: tuple[Step, ...] = (
    ("Resize", {"size": (256, 256)}),
    ("Normalize", {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}),
)
"""What anomalib does with an image unless told otherwise, and then does not always store."""


@dataclass(frozen=True)
class _Checkpoint:
    """What of a checkpoint of anomalib's ``Fre`` makes a detector.

    Attributes:
        network: timm's state dict of the backbone.
        weight: float32 (k, D).
        encoder_bias: float32 (k,).
        decoder_bias: float32 (D,).
        parameters: the hyper-parameters.
        steps: the pre-processing; empty if there is none.
        history: where it comes from, as plain JSON values.
    """

    network: dict[str, NDArray[Any]]
    weight: FloatArray
    encoder_bias: FloatArray
    decoder_bias: FloatArray
    parameters: dict[str, Any]
    steps: Sequence[Step]
    history: dict[str, Any]

    def parameter(self, name: str, kind: type[Parameter]) -> Parameter:
        value = self.parameters.get(name)
        if not isinstance(value, kind):
            raise ModelFileError(f"the checkpoint does not say its {name}, only {value!r}")
        return value


def _read_checkpoint(path: Path) -> _Checkpoint:
    try:
        with zipfile.ZipFile(path) as file:
            return _extract(TorchArchive(file))
    except ModelFileError:
        raise
    except OSError as error:
        raise ModelFileError(f"can't read the checkpoint: {error.strerror}") from error
    except Exception as error:  # a damaged pickle raises almost anything
        raise ModelFileError(
            f"not a checkpoint as PyTorch 1.6 or later writes it, or a damaged one: {error}"
        ) from error


def _extract(file: TorchArchive) -> _Checkpoint:
    content = file.content if isinstance(file.content, dict) else {}
    state = content.get("state_dict")
    if not isinstance(state, dict):
        raise ModelFileError(
            "holds no state_dict; expected the .ckpt that anomalib's Engine writes, not an "
            "exported model"
        )
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}

    def read(name: str) -> FloatArray:
        if AUTOENCODER + name not in tensors:
            raise ModelFileError(
                f"not a checkpoint of anomalib's Fre: it lacks the tensor {AUTOENCODER}{name}"
            )
        return np.asarray(file.values(tensors[AUTOENCODER + name]), np.float32)

    weight, encoder_bias, decoder_bias = map(read, ("weight", "encoder_bias", "decoder_bias"))
    if weight.shape != encoder_bias.shape + decoder_bias.shape:
        raise ModelFileError(
            f"the parts of its autoencoder do not fit each other: a weight of {weight.shape}, "
            f"biases of {encoder_bias.shape} and {decoder_bias.shape}"
        )
    parameters = content.get("hyper_parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    threshold = tensors.get("post_processor._image_threshold")
    return _Checkpoint(
        network={
            # timm cuts some networks into a list of their stages, which renames stages.0.
            re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name.removeprefix(NETWORK)): file.values(tensor)
            for name, tensor in sorted(tensors.items())
            if name.startswith(NETWORK) and not name.endswith(".num_batches_tracked")
        },
        weight=weight,
        encoder_bias=encoder_bias,
        decoder_bias=decoder_bias,
        parameters=parameters,
        steps=_steps(content, parameters),
        history={
            "lightning_version": _plain(content.get("pytorch-lightning_version")),
            "epoch": _plain(content.get("epoch")),
            "global_step": _plain(content.get("global_step")),
            "image_threshold": threshold and _plain(file.values(threshold).item()),
        },
    )


def _plain(value: Any) -> int | float | str | None:
    """The value if JSON has its like."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (int, str)) else None


def _steps(content: dict[Any, Any], parameters: dict[Any, Any]) -> Sequence[Step]:
    """The pre-processing, wherever the version of anomalib keeps it.

    2.7 has a description of the transform. Before, the hyper-parameters had the pre-processor if
    one was passed, as an object that holds the transform; 1.x has the transform, as an object.
    """
    passed = parameters.get("pre_processor")
    match passed, content:
        case _, {"anomalib_components_enabled": {"pre_processor": False}}:
            return ()
        case False, _:
            return ()
        case _, {"anomalib_pre_processor_config": {"transform": transform}}:
            return _flatten(transform)
        case Inert(state={"_modules": {"transform": transform}}), _:
            return _flatten(transform)
        case Inert(), _:
            return ()
        case _, {"transform": transform} if transform is not None:
            return _flatten(transform)
    return DEFAULT_STEPS


def _flatten(transform: Any) -> Sequence[Step]:
    match transform:
        case None:
            return ()
        case {"class_path": str(origin), "init_args": dict(values)}:
            pass
        case Inert(origin=origin, state=dict(values)):
            pass
        case _:
            raise ModelFileError(f"its pre-processing has a step of an unknown form, {transform!r}")
    name = origin.rpartition(".")[2]
    if name != "Compose":
        return [(name, values)]
    parts = values.get("transforms")
    return [step for part in parts for step in _flatten(part)] if isinstance(parts, list) else ()


def _preprocessing(
    steps: Sequence[Step], size: tuple[int, int] | None
) -> tuple[tuple[int, int], Normalisation]:
    """Size and normalisation of the input; what fre does not do is refused, not left out.

    Args:
        steps: of the checkpoint.
        size: in the place of the checkpoint's.
    """
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    for name, values in steps:
        match name, values:
            case "Resize", {"size": [int(height), int(width)]} if _stretches(values):
                size = size or (height, width)
            case "Normalize", {"mean": [_, _, _], "std": [_, _, _]}:
                mean, std = _triple(values["mean"]), _triple(values["std"])
            case _:
                told = {key: value for key, value in values.items() if _plain(value) is not None}
                raise ModelFileError(
                    f"its pre-processing has a step that fre has not, {name} {told}: fre only "
                    "stretches to a height and a width, bilinear and antialiased, and normalises"
                )
    if size is None:
        raise ModelFileError("the checkpoint does not say the size of its input; give it")
    # torchvision normalises pixels in 0..1, our graph in 0..255.
    return size, Normalisation(_triple(255 * m for m in mean), _triple(255 * s for s in std))


def _stretches(resize: dict[str, Any]) -> bool:
    interpolation = resize.get("interpolation", "bilinear")
    if isinstance(interpolation, Inert):
        # Enumerations are pickled by value; those of Python 3.11 by name, through getattr.
        interpolation = interpolation.args[-1] if interpolation.args else None
    return (
        str(interpolation).lower() == "bilinear"
        and resize.get("antialias", True) is not False
        and resize.get("max_size") is None
    )


def _triple(values: Iterable[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


@contextmanager
def _weights_file(tensors: dict[str, NDArray[Any]], origin: Path) -> Iterator[Path]:
    """A file of the tensors for as long as it takes; errors name the file they came from."""
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise MissingDependencyError("the import of checkpoints", "torch") from error
    with tempfile.TemporaryDirectory(prefix="fre-") as folder:
        file = Path(folder) / "backbone.safetensors"
        save_file(tensors, file)
        try:
            yield file
        except BackboneError as error:
            raise BackboneError(str(error).replace(str(file), str(origin))) from error


def _check_layout(layout: FeatureLayout, size: tuple[int, int], dimension: int) -> None:
    if any(side % layout.pool for side in layout.grid):
        raise ModelFileError(
            f"its pooling windows of {layout.pool} do not fill the feature map of {layout.layer}, "
            f"{layout.grid[0]} x {layout.grid[1]}: anomalib leaves out the rest, and fre does not"
        )
    if layout.dimension != dimension:
        raise ModelFileError(
            f"its autoencoder takes {dimension} numbers, and {layout.layer} at {size[0]} x "
            f"{size[1]} pixels and pool {layout.pool} gives {layout.channels} x "
            f"{layout.pooled[0]} x {layout.pooled[1]} = {layout.dimension}; give the size that it "
            "was trained at"
        )


def _good_images(good: Path | str | Iterable[ImageSource]) -> list[ImageSource]:
    if isinstance(good, (str, Path)):
        dataset = open_dataset(good)
        if dataset.test:
            raise DatasetError(
                f"{good}: expected a folder of good images and found a dataset (layout "
                f"{dataset.layout!r}); name good images that the checkpoint was not trained on"
            )
        sources: list[ImageSource] = [sample.path for sample in dataset.train]
    else:
        sources = list(good)
    if len(sources) < 2:
        raise DatasetError(f"calibration needs 2 good images or more, found {len(sources)}")
    return sources


def import_checkpoint(
    path: Path | str,
    good: Path | str | Iterable[ImageSource] | None = None,
    *,
    backbone: str | None = None,
    size: int | tuple[int, int] | None = None,
    false_alarm_rate: float = 0.01,
    threads: int = 0,
    progress: Progress | None = None,
) -> Model:
    """Make a model of a checkpoint of anomalib's ``Fre``. Nothing in the file is run.

    Backbone, layer, pooling, autoencoder and pre-processing come from the checkpoint. Score and
    map are anomalib's, as they are before its post-processor presses them into 0..1. What is left
    of a difference comes from the resizing of the images, where fre rounds to 8 bits.

    The checkpoint's own threshold is chosen for the best F1 on images of known defects, by default
    those of the test set, so it says nothing of false alarms. With ``good`` it is only noted in
    the metadata, and the model is calibrated on the scores of those images. Images that the
    checkpoint was trained on score too low, and make for more false alarms than asked for: take
    others. Loss and kept variance of the autoencoder, in the metadata, are on ``good``, too.
    Without ``good``, the threshold is the checkpoint's, every p-value is 1, and there are no
    regions.

    Args:
        path: the ``.ckpt`` that anomalib's Engine writes, version 1 or 2.
        good: a folder of good images, files, or arrays, uint8 (H, W, 3), RGB. Two or more; or
            ``None``.
        backbone: timm's name of the network, in the place of the checkpoint's.
        size: height and width of the input, or one number for both, in the place of the
            checkpoint's.
        false_alarm_rate: share of good images that may be called anomalous, in (0, 1).
        threads: threads of the network; 0 takes all cores.
        progress: called as the work advances.

    Raises:
        ModelFileError: the file is missing, damaged, or no checkpoint of ``Fre``; fre has no
            counterpart of its pre-processing or its pooling; or it has no threshold, and there
            are no good images.
        BackboneError: an unknown network or layer, or weights that do not fit it.
        MissingDependencyError: ``fre[torch]``, which has the networks, is not installed.
        DatasetError: fewer than two good images, or a dataset instead of them.
        ImageError: an image can't be read.
        OptionError: ``false_alarm_rate`` is out of range.
    """
    check_false_alarm_rate(false_alarm_rate)
    sources = [] if good is None else _good_images(good)
    if isinstance(size, int):
        size = (size, size)
    try:
        checkpoint = _read_checkpoint(Path(path))
        size, normalisation = _preprocessing(checkpoint.steps, size)
        with _weights_file(checkpoint.network, Path(path)) as weights:
            # anomalib's names are timm's, also where we have a network of the same name.
            network = TimmBackbone(backbone or checkpoint.parameter("backbone", str), weights)
            # What the pixels were trained with, whatever timm says of the network.
            network.normalisation = normalisation
            extractor = FeatureExtractor(
                network,
                network.layer(checkpoint.parameter("layer", str)).name,
                pool=max(1, checkpoint.parameter("pooling_kernel_size", int)),
                size=size,
                threads=threads,
            )
        layout = extractor.layout
        _check_layout(layout, size, len(checkpoint.decoder_bias))
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error
    features = extractor.extract(sources, progress=progress)
    autoencoder = _autoencoder(checkpoint, features.X)
    model = detector_model(extractor.network, normalisation, layout, size, autoencoder)
    if sources:
        # By the graph itself: an image must not exceed its own score by a rounding error.
        scores, maxima = _score(model.SerializeToString(), sources, size, threads, progress)
        calibration = Calibration.fit(scores, maxima, false_alarm_rate)
    else:
        calibration = _uncalibrated(checkpoint, layout, false_alarm_rate, Path(path))
    document = describe(
        preset="reference",
        backbone=network,
        parts=[(layout, autoencoder)],
        geometry=extractor.geometry,
        calibration=calibration,
        origin=_origin(checkpoint, Path(path), features.sha256),
    )
    document["subspaces"][0].update(n=None, epochs=checkpoint.history["epoch"])
    if not sources:
        document["subspaces"][0].update(kept_variance=None)
    elif features.appearance is not None:
        document["appearance"] = AppearanceLimits.of(features.appearance).to_dict()
    return Model(attach(model, document), threads=threads)


def _origin(checkpoint: _Checkpoint, path: Path, good: Sequence[str]) -> dict[str, Any]:
    """As `fre.metadata.provenance`; what it was trained on, a checkpoint does not say."""
    calibrated = provenance(good, seed=0)
    return {
        "n_images": None,
        "images_sha256": None,
        "created": calibrated["created"],
        "seed": None,
        "calibration_images": calibrated["n_images"],
        "calibration_sha256": calibrated["images_sha256"],
        "imported": {
            "from": "anomalib Fre",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            **checkpoint.history,
        },
    }


def _uncalibrated(
    checkpoint: _Checkpoint, layout: FeatureLayout, false_alarm_rate: float, path: Path
) -> Calibration:
    """The checkpoint's threshold, and nothing that would need good images."""
    threshold = checkpoint.history["image_threshold"]
    if threshold is None:
        raise ModelFileError(
            f"{path}: holds no threshold, as nothing was validated: name good images to "
            "calibrate on (--good)"
        )
    # Heat maps still need a scale: an image at the threshold, its error spread evenly, is dark.
    even = threshold / (layout.pooled[0] * layout.pooled[1])
    unreachable = float(np.finfo(np.float32).max)
    return Calibration(
        np.empty(0), false_alarm_rate, threshold, unreachable, (even, HEAT_SPAN * even)
    )


def _autoencoder(checkpoint: _Checkpoint, X: FloatArray) -> LinearAutoencoder:
    """The autoencoder, with its figures on some features in the place of the unknown ones.

    Without features there are none: its energies are not a number.
    """
    basis = np.ascontiguousarray(checkpoint.weight.T)
    autoencoder = LinearAutoencoder(
        kind="tied",
        encoder=basis,
        encoder_bias=checkpoint.encoder_bias,
        decoder=basis,
        decoder_bias=checkpoint.decoder_bias,
        n=len(X),
        energy=math.nan,
        residual_energy=math.nan,
        losses=(),
    )
    if len(X) == 0:
        return autoencoder
    residual_energy = float(np.square(autoencoder.residual(X)).sum())
    return replace(
        autoencoder,
        energy=float(np.square(X - X.mean(axis=0, dtype=np.float64)).sum()),
        residual_energy=residual_energy,
        losses=(residual_energy / X.size,),
    )


def _score(
    model: bytes,
    sources: Sequence[ImageSource],
    size: tuple[int, int],
    threads: int,
    progress: Progress | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score and largest value of the map of each image."""
    runtime = open_runtime(model, [SCORE, MAP], threads=threads)
    scores, maxima = np.empty((2, len(sources)))
    loaded = iter_loaded(sources, size, workers=available_cores(), ahead=16)
    for index, image in enumerate(loaded):
        if isinstance(image, ImageError):
            raise image
        score, anomaly_map = runtime.run(image.pixels[None])
        scores[index], maxima[index] = score[0], anomaly_map.max()
        if progress:
            progress("Calibrating", index + 1, len(sources))
    return scores, maxima
