"""A loaded model file, ready to predict."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from itertools import islice, repeat
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, overload

import numpy as np

from fre.errors import FREWarning, ImageError, InternalError, ModelFileError, OptionError
from fre.images.appearance import AppearanceLimits
from fre.images.arrays import ColorOrder, check_several, to_rgb
from fre.images.decode import ImageSource, file_of, find_images
from fre.images.geometry import Geometry
from fre.images.loading import LoadedImage
from fre.images.preparation import Preparation
from fre.images.roi import Roi
from fre.inference.model_file import check_digest, read_document, with_document
from fre.inference.prediction import Prediction
from fre.inference.training_images import PREFIX, OddImage, TrainingImages
from fre.onnx_tools.check import check_model
from fre.onnx_tools.initialisers import with_initialisers
from fre.onnx_tools.protobuf import with_outputs
from fre.onnx_tools.side_arrays import read_arrays, without_arrays
from fre.parallel import available_cores, forget_in_children, in_order
from fre.runtimes.fastest import AUTO, fastest_runtime
from fre.runtimes.lanes import BATCH
from fre.runtimes.runtime import RUNTIMES, Runtime, import_runtime, open_runtime
from fre.scoring.calibration import Calibration
from fre.scoring.regions import Region, find_regions, region_threshold
from fre.storage.files import read_regular, write_atomic
from fre.types import FloatArray

OUTPUTS = ("score", "anomaly_map")

P = TypeVar("P", bound="Predictor")

_Outputs: TypeAlias = tuple[float, list[FloatArray]]
"""Score of an image, then its map and the parts of the map."""


class Predictor:
    """A fitted detector that scores images; `fre.Model` adds updates.

    The runtime is opened by the first call of each kind: by `predict` for the shortest time of one
    image, by `predict_many` and for tiles for the most images per second. Scores differ by rounding
    only.

    Args:
        data: the serialised ONNX model.
        runtime: one of `fre.runtimes.runtime.RUNTIMES`; or ``"auto"``, the faster of ONNX Runtime
            and OpenVINO, measured when the model first runs on a machine.
        threads: number of threads of the network, 0 for all cores.
        many: whether many images will be scored, as for `fre.load`.
        origin: name of the model in error messages.

    Attributes:
        data: the serialised ONNX model.
        document: backbone, subspaces, calibration and provenance, as the file states them.
        calibration: scores of good images, and the thresholds.
        geometry: size of the input, fit, tiles, and range of 16-bit values.
        size: height and width of the input, in pixels.
        roi: inspected region of the images; ``None`` inspects them whole.
        preparation: how image files become inputs of the network.
        appearance: ranges of the training images' pixels; ``None`` in files of older versions.

    Raises:
        ModelFileError: the data are damaged, not ONNX, not written by fre, or of an unknown format.
    """

    def __init__(
        self,
        data: bytes,
        *,
        runtime: str = "onnxruntime",
        threads: int = 0,
        many: bool = False,
        origin: str = "model",
    ) -> None:
        if runtime not in (AUTO, *RUNTIMES):
            choices = ", ".join((AUTO, *RUNTIMES))
            raise OptionError(f"no runtime is called {runtime!r}; choose from: {choices}")
        self.data = data
        try:
            self._checked = check_model(data)
            self.document = read_document(self._checked)
        except ModelFileError as error:
            raise _no_model(origin, error) from error
        self.calibration: Calibration = self.document.calibration
        self.geometry: Geometry = self.document.geometry
        self.roi: Roi | None = self.document.roi
        self.appearance: AppearanceLimits | None = self.document.appearance
        self.preparation = Preparation(self.geometry, self.roi)
        self._layer_maps = self.document.layer_maps or {}
        self.size = self.geometry.size
        self._runtime_name = runtime
        self._threads = threads
        self._many = many
        self._warned_of_shape = False
        forget_in_children(self)

    def forget(self) -> None:
        """Drop the runtimes. A forked child calls this, and opens its own."""
        for opened in ("_for_one", "_for_many"):
            self.__dict__.pop(opened, None)

    def __reduce__(self) -> tuple[Any, ...]:
        # A child that is spawned gets the file, and opens a runtime of its own.
        return _reopened, (type(self), self.data, self._runtime_name, self._threads, self._many)

    @cached_property
    def _for_one(self) -> Runtime:
        return self._opened(many=False)

    @cached_property
    def _for_many(self) -> Runtime:
        return self._opened(many=True)

    def _opened(self, *, many: bool) -> Runtime:
        tensors = list(self._layer_maps.values())
        data = without_arrays(self.data, with_outputs(b"", tensors) if tensors else b"")
        outputs, name = [*OUTPUTS, *tensors], self._runtime_name
        threads = self._threads
        if name == AUTO and self.document.backbone.precision == "int8":
            # Runtimes round integers differently, and the model was fitted on ONNX Runtime.
            name = "onnxruntime"
        if name != AUTO:
            return open_runtime(data, outputs, runtime=name, threads=threads, many=many)
        per_tile = self.geometry.tiling is not None and self.geometry.tiling.per_tile
        n = BATCH if many else 1
        inputs = [np.full((n, *self.size, 3), 128, np.uint8)]
        trial = [*inputs, np.zeros(n, np.int64)] if per_tile else inputs
        return fastest_runtime(data, outputs, trial, digest=self.sha256, threads=threads, many=many)

    def check_digest(self) -> None:
        """Compare the data with the digest in the document, as `fre.load` does.

        Raises:
            ModelFileError: the digests differ, or the document has none.
        """
        check_digest(self.data, self._checked, self.document.digest)

    def open(self) -> None:
        """Open the runtime now, not with the first image.

        Raises:
            InternalError: the runtime refuses the model.
            MissingDependencyError: the runtime is not installed.
        """
        _ = self._runtime_for(1)

    def _runtime_for(self, images: int) -> Runtime:
        many = self._many or images > 1 or self.geometry.tiling is not None
        return self._for_many if many else self._for_one

    @property
    def metadata(self) -> dict[str, Any]:
        """The document of the file as plain JSON values; docs/model-file.md describes the keys."""
        return self.document.to_json()

    @property
    def threshold(self) -> float:
        """Score above which an image is anomalous."""
        return self.calibration.threshold

    @property
    def map_range(self) -> tuple[float, float]:
        """Fixed scale of heat maps: a typical value of good images, and one clearly above them."""
        return self.calibration.map_range

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    def predict(
        self, image: ImageSource, *, all_regions: bool = False, color: ColorOrder = "rgb"
    ) -> Prediction:
        """Score one image.

        Args:
            image: a file; a PIL image; or an array of any size, (H, W), (H, W, 1), (H, W, 3) or
                (H, W, 4), whose alpha is dropped. Arrays are uint8; uint16, read by the range of
                the training images' 16-bit values; or floats from 0 to 1.
            all_regions: whether to find regions in a good image, too.
            color: order of the channels of an array: ``"rgb"``, or ``"bgr"`` of OpenCV.

        Raises:
            ImageError: the image can't be read, an array has another form or values out of
                range, or the score is not finite.
            OptionError: ``color`` is unknown, or given for a file or a PIL image.
        """
        loaded = self.preparation.load(to_rgb(image, color))
        outputs = self._run([loaded], self._runtime_for(1))[0]
        return self._prediction(loaded, outputs, all_regions)

    @overload
    def predict_many(
        self,
        images: Path | str | Iterable[ImageSource],
        *,
        batch_size: int = ...,
        workers: int | None = ...,
        errors: Literal["raise"] = ...,
        all_regions: bool = ...,
        color: ColorOrder = ...,
    ) -> Iterator[Prediction]: ...

    @overload
    def predict_many(
        self,
        images: Path | str | Iterable[ImageSource],
        *,
        batch_size: int = ...,
        workers: int | None = ...,
        errors: Literal["return"],
        all_regions: bool = ...,
        color: ColorOrder = ...,
    ) -> Iterator[Prediction | ImageError]: ...

    def predict_many(
        self,
        images: Path | str | Iterable[ImageSource],
        *,
        batch_size: int = BATCH,
        workers: int | None = None,
        errors: Literal["raise", "return"] = "raise",
        all_regions: bool = False,
        color: ColorOrder = "rgb",
    ) -> Iterator[Prediction | ImageError]:
        """Score many images as a stream, in order, in memory that does not grow with their number.

        Args:
            images: files, PIL images and arrays; or a folder. Consumed lazily; may be endless.
            batch_size: number of images in a run of the network.
            workers: number of threads that decode; ``None`` for one per core.
            errors: ``"raise"`` stops at an image that can't be read, or whose score is not
                finite; ``"return"`` yields its error instead and goes on.
            all_regions: whether to find regions in good images, too.
            color: order of the channels of arrays, as for `predict`.

        Yields:
            A prediction, or an error, for each image.

        Raises:
            ImageError: an image can't be read, and ``errors`` is ``"raise"``.
            DatasetError: the folder holds no image.
            OptionError: ``batch_size`` or ``workers`` is below 1, or as for `predict`.
        """
        workers = available_cores() if workers is None else workers
        if batch_size < 1 or workers < 1:
            raise OptionError("batch_size and workers must be at least 1")
        check_several(images)
        sources = find_images(images) if isinstance(images, (str, Path)) else images
        # A large image that is cut into tiles is a batch by itself.
        whole = self.geometry.tiling is None
        batch_size = batch_size if whole else 1
        runtime = self._for_many
        # One large image takes memory enough, and its tiles keep all cores busy.
        at_once = runtime.at_once if whole else 1
        loaded = self.preparation.load_many(
            (to_rgb(source, color) for source in sources),
            workers=workers,
            ahead=max(2, at_once) * batch_size if whole else 1,
        )

        def run(group: list[LoadedImage] | ImageError) -> list[_Outputs]:
            return [] if isinstance(group, ImageError) else self._run(group, runtime)

        groups = self._groups(loaded, batch_size)
        for group, outputs in in_order(run, groups, workers=at_once, ahead=at_once):
            results: Iterable[Prediction | ImageError]
            if isinstance(group, ImageError):
                results = [group]
            else:
                results = map(self._outcome, group, outputs, repeat(all_regions))
            for result in results:
                if isinstance(result, ImageError) and errors == "raise":
                    raise result
                yield result

    def _groups(
        self, loaded: Iterator[LoadedImage | ImageError], size: int
    ) -> Iterator[list[LoadedImage] | ImageError]:
        """Yield batches of images; an unusable image ends its batch, and its error follows."""
        batch: list[LoadedImage] = []
        for item in loaded:
            if isinstance(item, ImageError):
                if batch:
                    yield batch
                yield item
                batch = []
                continue
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def predict_loaded(self, batch: Sequence[LoadedImage]) -> list[Prediction | ImageError]:
        """Score decoded images in one run of the network.

        Args:
            batch: images from ``preparation``.

        Returns:
            A prediction for each image, in order; or an error if its score is not finite. The
            predictions hold no image, since the decoded one need not have its original size.
        """
        images = list(batch)
        if not images:
            return []
        outputs = self._run(images, self._runtime_for(len(images)))
        return [
            found if isinstance(found, ImageError) else replace(found, source=None)
            for found in map(self._outcome, images, outputs)
        ]

    def _outcome(
        self, image: LoadedImage, outputs: _Outputs, all_regions: bool = False
    ) -> Prediction | ImageError:
        try:
            return self._prediction(image, outputs, all_regions)
        except ImageError as error:
            return error

    def _run(self, batch: list[LoadedImage], runtime: Runtime) -> list[_Outputs]:
        """Return score, map and parts of the map of each image, without padding."""
        if self.geometry.tiling is not None:
            return [self._run_tiles(image, runtime) for image in batch]
        inputs = [one.pixels for image in batch for one in self.preparation.inputs(image)]
        scores, *maps = runtime.run(np.stack(inputs))
        return [
            (
                float(score),
                [self.geometry.content([part], image.original_size) for part in parts],
            )
            for image, score, *parts in zip(batch, scores, *maps, strict=True)
        ]

    def _run_tiles(self, image: LoadedImage, runtime: Runtime) -> _Outputs:
        """Return the highest score of all tiles, and one map blended from theirs."""
        size = image.original_size
        grid = self.geometry.grid(size)
        scores: list[float] = []
        layers: list[list[FloatArray | None]] = [[] for _ in self._layer_maps]

        def maps() -> Iterator[FloatArray | None]:
            for outputs in self._tile_outputs(image, runtime):
                score, anomaly_map, *parts = outputs or [None] * (2 + len(layers))
                if score is not None:
                    scores.append(float(score))
                for kept, part in zip(layers, parts, strict=True):
                    kept.append(part)
                yield anomaly_map

        # Each map is blended as soon as it is computed: all maps would take too much memory.
        blended = grid.blend(maps())
        if self.roi is not None:
            blended *= self.roi.at_size(grid.image_size)
        parts = [self.geometry.content(kept, size) for kept in layers]
        return max(scores), [blended, *parts]

    def _tile_outputs(
        self, image: LoadedImage, runtime: Runtime
    ) -> Iterator[tuple[FloatArray, ...] | None]:
        """Yield the outputs of each tile; ``None`` for a tile without any inspected pixel."""
        inputs = self.preparation.inputs(image)
        per_tile = self.geometry.tiling is not None and self.geometry.tiling.per_tile
        tiles = head = 0
        while group := list(islice(inputs, BATCH)):
            # A tile without inspected pixels has no subspace of its own.
            heads = np.arange(head, head + len(group), dtype=np.int64) if per_tile else None
            head += len(group)
            outputs = runtime.run(np.stack([one.pixels for one in group]), heads)
            for one, row in zip(group, zip(*outputs, strict=True), strict=True):
                yield from [None] * (one.tile - tiles)
                yield row
                tiles = one.tile + 1
        yield from [None] * (self.geometry.count(image.original_size) - tiles)

    def _prediction(self, image: LoadedImage, outputs: _Outputs, all_regions: bool) -> Prediction:
        score, (anomaly_map, *layers) = outputs
        self._compare_shape(image.original_size)
        # The largest value of a map with a NaN is NaN; an infinity is largest or smallest.
        ends = float(anomaly_map.max()), float(anomaly_map.min())
        if not np.isfinite([score, *ends]).all():
            what = "score" if not np.isfinite(score) else "anomaly map"
            raise ImageError(
                _path(image.source),
                f"its {what} is not finite, so it is neither good nor anomalous: the model or its "
                "runtime is at fault; try --runtime onnxruntime, or train the model again",
            )
        reason = self._reason(image)
        judged = score if reason is None else float("inf")
        anomalous = self.calibration.anomalous(judged)
        threshold = self.calibration.pixel_threshold
        regions: tuple[Region, ...] = ()
        if anomalous:
            anomaly_map = self._without_uninspected_peak(anomaly_map)
            threshold = region_threshold(anomaly_map, threshold)
        if anomalous or all_regions:
            parts = dict(zip(self._layer_maps, layers, strict=True))
            regions = find_regions(anomaly_map, threshold, image.original_size, parts)
        return Prediction(
            path=_path(image.source),
            score=score,
            p_value=self.calibration.p_value(judged),
            anomalous=anomalous,
            regions=regions,
            image_size=image.original_size,
            input_map=anomaly_map,
            pixel_threshold=threshold,
            bits=self.geometry.bits,
            reason=reason,
            decision=self.calibration.decision(judged),
            map_range=self.map_range,
            source=image.source,
        )

    def _without_uninspected_peak(self, anomaly_map: FloatArray) -> FloatArray:
        """Return a map whose peak is inspected: uninspected pixels are 0, others may be lower."""
        if self.roi is None or anomaly_map.max() > 0:
            return anomaly_map
        inspected = self.roi.at_size((anomaly_map.shape[0], anomaly_map.shape[1]))
        return np.where(inspected, anomaly_map, anomaly_map.min())

    def _compare_shape(self, image_size: tuple[int, int]) -> None:
        """Warn once if an image is stretched much more than the training images were."""
        if self._warned_of_shape:
            return
        if (text := self.geometry.unlike_training(image_size)) is not None:
            self._warned_of_shape = True
            warnings.warn(text, FREWarning, stacklevel=4)

    def _reason(self, image: LoadedImage) -> str | None:
        """Return why the image can't show what the training images show; ``None`` if it may."""
        if self.appearance is None:
            return None
        return self.appearance.reason(self.preparation.appearance(image))

    @cached_property
    def training_images(self) -> TrainingImages:
        """Names, digests and held-out scores of the images that the model was fitted to.

        Raises:
            ModelFileError: the list is damaged.
        """
        return TrainingImages.from_arrays(read_arrays(self.data, PREFIX))

    @property
    def odd_images(self) -> list[OddImage]:
        """The training images that are set aside for the threshold, highest score first."""
        n_odd = self.calibration.n_odd
        return self.training_images.highest(n_odd) if n_odd else []

    def with_calibration(self: P, calibration: Calibration, *, chosen: str | None = None) -> P:
        """Return a model that decides by another calibration; scores stay as they are.

        Args:
            calibration: such as `Calibration.at_rate` of the model's.
            chosen: how the threshold was chosen, in words, for the file's provenance; ``None`` if
                by a false-alarm rate.
        """
        provenance = replace(self.document.provenance, threshold=chosen)
        document = replace(self.document, calibration=calibration, provenance=provenance)
        data = with_initialisers(self.data, calibration.initialisers())
        return self.with_data(with_document(data, document.to_json()))

    def with_data(self: P, data: bytes) -> P:
        """Return a model of another file's bytes, on the same runtime and threads.

        Raises:
            ModelFileError: as for the constructor.
        """
        return type(self)(data, runtime=self._runtime_name, threads=self._threads, many=self._many)

    def save(self, path: Path | str) -> Path:
        """Write the model file atomically.

        Returns:
            The path.

        Raises:
            OutputError: the file can't be written.
        """
        write_atomic(path, self.data)
        return Path(path)


def _reopened(kind: type[P], data: bytes, runtime: str, threads: int, many: bool) -> P:
    return kind(data, runtime=runtime, threads=threads, many=many)


def _path(source: ImageSource) -> Path | None:
    return None if (file := file_of(source)) is None else Path(file)


def _no_model(origin: str, error: BaseException) -> ModelFileError:
    return ModelFileError(f"{origin}: {error}; expected a model written by fre train")


def load_predictor(
    kind: type[P],
    path: Path | str,
    *,
    runtime: str = "onnxruntime",
    threads: int = 0,
    many: bool = False,
) -> P:
    """Open a model file; see `fre.load`.

    Args:
        kind: class of the result.
        path: a model file.
        runtime: name of the runtime.
        threads: number of threads of the network, 0 for all cores.
        many: whether many images will be scored.

    Raises:
        ModelFileError: the file is missing, damaged, not ONNX, not written by fre, or of another
            format.
        MissingDependencyError: the runtime is not installed.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="fre-load") as pool:
        # Another core imports the runtime while the file is read, and computes the digest while
        # the runtime opens the model.
        pool.submit(import_runtime, runtime)
        try:
            data = read_regular(path)
        except IsADirectoryError:
            raise ModelFileError(f"{path}: a folder, where a model file was expected") from None
        except OSError as error:
            raise ModelFileError(f"{path}: can't read the model: {error.strerror}") from error
        model = kind(data, runtime=runtime, threads=threads, many=many, origin=str(path))
        intact = pool.submit(model.check_digest)
        try:
            model.open()
        except InternalError as error:
            # Damage is the better reason.
            failure = intact.exception() or error
            raise _no_model(str(path), failure) from failure
    try:
        intact.result()
    except ModelFileError as error:
        raise _no_model(str(path), error) from error
    return model
