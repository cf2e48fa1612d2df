"""A fitted detector: one ONNX file, loaded and ready to predict."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from fre.calibration import Calibration
from fre.cores import available_cores
from fre.errors import ImageError, ModelFileError, OptionError
from fre.files import write_atomic
from fre.images import ImageSource, LoadedImage, find_images, iter_loaded, read_resized
from fre.regions import find_regions
from fre.runtime import RUNTIMES, Runtime, open_runtime, read_metadata
from fre.types import Prediction

__all__ = ["FORMAT", "METADATA_KEY", "Model", "load"]

FORMAT = 1
"""The version of the metadata's layout; a file of another one is refused."""

METADATA_KEY = "fre"
OUTPUTS = ("score", "anomaly_map")


def _parse_metadata(data: bytes, origin: str) -> dict[str, Any]:
    try:
        properties = read_metadata(data)
    except ModelFileError as error:
        raise ModelFileError(f"{origin}: {error}; expected a model written by fre train") from error
    if METADATA_KEY not in properties:
        raise ModelFileError(
            f"{origin}: an ONNX model, but not one of fre: it lacks the metadata {METADATA_KEY!r}; "
            "expected a model written by fre train"
        )
    try:
        metadata = json.loads(properties[METADATA_KEY])
        found = metadata["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{origin}: its metadata {METADATA_KEY!r} is damaged") from error
    if found != FORMAT:
        raise ModelFileError(
            f"{origin}: format {found} of a model file, and this version of fre reads format "
            f"{FORMAT}; install the version that wrote it ({metadata.get('fre_version', '?')})"
        )
    return dict(metadata)


class Model:
    """A detector: images in, scores and anomaly maps out.

    `load` opens one from a file, and `fre.FRE.fit` makes one.

    Args:
        data: the serialised ONNX model.
        runtime: ``"onnxruntime"`` or ``"openvino"``.
        threads: threads for one run; 0 takes all cores.
        origin: what to call it in errors.

    Attributes:
        data: the serialised ONNX model.
        metadata: what the file says of itself: backbone, subspaces, calibration, provenance.
        calibration: scores of good images, and the thresholds that follow from them.
        size: height and width of the input, in pixels.

    Raises:
        ModelFileError: the data are damaged, not ONNX, not ours, or of an unknown format.
    """

    def __init__(
        self,
        data: bytes,
        *,
        runtime: str = "onnxruntime",
        threads: int = 0,
        origin: str = "model",
    ) -> None:
        if runtime not in RUNTIMES:
            raise OptionError(f"no runtime is called {runtime!r}; choose from: {list(RUNTIMES)}")
        self.data = data
        self.metadata = _parse_metadata(data, origin)
        try:
            self.calibration = Calibration.from_dict(self.metadata["calibration"])
            height, width = self.metadata["preprocessing"]["size"]
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{origin}: its metadata lack {error}") from error
        self.size = (int(height), int(width))
        self._runtime_name = runtime
        self._threads = threads

    @cached_property
    def _runtime(self) -> Runtime:
        return open_runtime(self.data, OUTPUTS, runtime=self._runtime_name, threads=self._threads)

    @property
    def threshold(self) -> float:
        """An image whose score is above it is anomalous."""
        return self.calibration.threshold

    @property
    def map_range(self) -> tuple[float, float]:
        """The fixed scale of heat maps: typical of good images, and clearly above them."""
        return self.calibration.map_range

    @cached_property
    def sha256(self) -> str:
        """Digest of the file, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    def predict(self, image: ImageSource) -> Prediction:
        """Score one image.

        Args:
            image: a file, or uint8 (H, W, 3), RGB, of any size.

        Raises:
            ImageError: the image can't be read.
        """
        pixels, original = read_resized(image, self.size)
        return self._predict_batch([LoadedImage(image, pixels, original)])[0]

    @overload
    def predict_many(
        self,
        images: Path | str | Iterable[ImageSource],
        *,
        batch_size: int = ...,
        workers: int | None = ...,
        errors: Literal["raise"] = ...,
    ) -> Iterator[Prediction]: ...

    @overload
    def predict_many(
        self,
        images: Path | str | Iterable[ImageSource],
        *,
        batch_size: int = ...,
        workers: int | None = ...,
        errors: Literal["return"],
    ) -> Iterator[Prediction | ImageError]: ...

    def predict_many(
        self,
        images: Path | str | Iterable[ImageSource],
        *,
        batch_size: int = 8,
        workers: int | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[Prediction | ImageError]:
        """Score many images: a stream, in order, in memory that does not grow with their number.

        Args:
            images: files and arrays, or a folder. Consumed lazily; may be endless.
            batch_size: images to a run of the network.
            workers: threads that decode; the number of cores, if ``None``.
            errors: ``"raise"`` stops at an image that can't be read; ``"return"`` yields its
                error in its place and goes on.

        Yields:
            A prediction, or an error, for each image.

        Raises:
            ImageError: an image can't be read, and ``errors`` is ``"raise"``.
            DatasetError: the folder holds no image.
            OptionError: ``batch_size`` or ``workers`` is below 1.
        """
        workers = available_cores() if workers is None else workers
        if batch_size < 1 or workers < 1:
            raise OptionError("batch_size and workers must be at least 1")
        sources = find_images(images) if isinstance(images, (str, Path)) else images
        loaded = iter_loaded(sources, self.size, workers=workers, ahead=2 * batch_size)
        batch: list[LoadedImage] = []
        for item in loaded:
            if isinstance(item, ImageError):
                if errors == "raise":
                    raise item
                yield from chain(self._predict_batch(batch), [item])
                batch = []
                continue
            batch.append(item)
            if len(batch) == batch_size:
                yield from self._predict_batch(batch)
                batch = []
        yield from self._predict_batch(batch)

    def warm_up(self) -> None:
        """Make the network ready to run, which the first prediction would do otherwise.

        Raises:
            MissingDependencyError: the runtime is not installed.
            InternalError: the runtime refuses the model.
        """
        _ = self._runtime

    def predict_loaded(self, batch: Sequence[LoadedImage]) -> list[Prediction]:
        """Score images that are decoded already, in one run of the network.

        Args:
            batch: images at the model's size.

        Returns:
            A prediction for each, in order.
        """
        return self._predict_batch(list(batch))

    def _predict_batch(self, batch: list[LoadedImage]) -> list[Prediction]:
        if not batch:
            return []
        scores, maps = self._runtime.run(np.stack([image.pixels for image in batch]))
        return [
            Prediction(
                path=None if isinstance(image.source, np.ndarray) else Path(image.source),
                score=float(score),
                p_value=self.calibration.p_value(float(score)),
                anomalous=float(score) > self.threshold,
                regions=find_regions(
                    anomaly_map, self.calibration.pixel_threshold, image.original_size
                ),
                image_size=image.original_size,
                input_map=anomaly_map,
            )
            for image, score, anomaly_map in zip(batch, scores, maps, strict=True)
        ]

    def with_data(self, data: bytes) -> Model:
        """A model of other data, on the same runtime and threads.

        Raises:
            ModelFileError: as for the constructor.
        """
        return Model(data, runtime=self._runtime_name, threads=self._threads)

    def save(self, path: Path | str) -> Path:
        """Write the model file, whole or not at all.

        Returns:
            The path.

        Raises:
            OutputError: the place can't be written.
        """
        write_atomic(path, self.data)
        return Path(path)


def load(path: Path | str, *, runtime: str = "onnxruntime", threads: int = 0) -> Model:
    """Open a model file. Nothing in it is run but the network itself.

    Args:
        path: a file written by `Model.save` or ``fre train``.
        runtime: ``"onnxruntime"``, or ``"openvino"`` if it is installed.
        threads: threads for one run; 0 takes all cores.

    Raises:
        ModelFileError: the file is missing, damaged, not ONNX, not ours, or of another format.
        MissingDependencyError: the runtime is not installed.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: can't read the model: {error.strerror}") from error
    return Model(data, runtime=runtime, threads=threads, origin=str(path))
