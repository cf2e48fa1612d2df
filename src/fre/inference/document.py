"""The JSON document of a model file: the one module that knows its keys.

Each section is a dataclass whose fields are the keys, in the order of the file. A key is left out
of the file if its field has the default ``None``. docs/model-file.md describes every key.
`Document.from_json` refuses every value that a model of fre can't hold and names its key: later
code meets no NaN, no text in the place of a number, and no missing section.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import os
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from datetime import datetime, timezone
from typing import Any, cast

import numpy as np
from PIL import Image

from fre.errors import ImageError
from fre.images.appearance import AppearanceLimits
from fre.images.formats import open_image
from fre.images.geometry import FITS, FULL_RANGE, Fit, Geometry, Tiling
from fre.images.roi import Roi
from fre.inference.json_object import BadValueError, JsonObject
from fre.scoring.calibration import Calibration
from fre.scoring.fusion import STANDARDS, Reading, Standardise

FORMAT = 2
"""Version of the document's layout; a file of another one is refused."""
DIGEST = "digest"
"""Key of the digest, which ends the document."""
RESIZE = "bilinear, antialiased"

MAX_SIDE = 8192
"""Largest height or width of the input, in pixels."""
MAX_PIXELS = 200_000_000
"""Most pixels of a mask, and of an image that is resized before it is cut into tiles."""
MAX_TILES = 10_000
"""Most tiles of an image."""
MAX_DEPTH = 100
"""Most levels of merged models within the history of a model."""


@dataclass(frozen=True)
class BackboneSection:
    """The frozen network.

    Attributes:
        name: name of the backbone.
        layers: names of the layers that the detector reads.
        weights_sha256: digest of the weights, hexadecimal.
        precision: ``"float32"`` or ``"int8"``.
    """

    name: str
    layers: list[str]
    weights_sha256: str
    precision: str = "float32"

    @classmethod
    def from_json(cls, values: JsonObject) -> BackboneSection:
        return cls(
            values.text("name"),
            values.texts("layers"),
            values.text("weights_sha256"),
            values.maybe(values.text, "precision", ("float32", "int8")) or "float32",
        )


@dataclass(frozen=True)
class Preprocessing:
    """The way from an image to the network's input.

    Attributes:
        geometry: size of the input, fit, tiles, and range of 16-bit values.
        mean: mean of each channel, RGB, pixels in 0..255.
        std: standard deviation of each channel.
        resize: name of the resampling filter.
    """

    geometry: Geometry
    mean: list[float]
    std: list[float]
    resize: str = RESIZE

    @classmethod
    def from_json(cls, values: JsonObject) -> Preprocessing:
        size = values.size("size", MAX_SIDE)
        fit = values.text("fit", FITS) if "fit" in values.values else "stretch"
        bits = values.maybe(values.whole, "bits", 8, 16)
        mean, std = values.numbers("mean", 3), values.numbers("std", 3)
        if not all(value > 0 for value in std):
            raise values.bad("std", "three numbers above 0", str(std))
        tiling = None
        if values.has("tiling"):
            if fit != "stretch":
                raise values.bad("fit", "stretch, as there are tiles")
            tiling = _read_tiling(values.section("tiling"), size)
        training_sizes = None
        if values.has("training_sizes"):
            ends = values.section("training_sizes")
            training_sizes = ends.size("narrowest", 2**31), ends.size("widest", 2**31)
        # Files of versions before 16-bit images read the full range.
        bits = bits if "bits" in values.values else FULL_RANGE
        resize = values.values.get("resize", RESIZE)
        geometry = Geometry(size, cast(Fit, fit), tiling, bits, training_sizes)
        return cls(geometry, mean, std, resize)


def preprocessing_to_json(pixels: Preprocessing) -> dict[str, Any]:
    geometry, tiling = pixels.geometry, pixels.geometry.tiling
    ends = geometry.training_sizes
    return {
        "size": list(geometry.size),
        "fit": geometry.fit,
        "bits": geometry.bits,
        "tiling": None
        if tiling is None
        else {
            "overlap": tiling.overlap,
            "per_tile": tiling.per_tile,
            "image_size": list(tiling.image_size) if tiling.image_size else None,
        },
        "training_sizes": None
        if ends is None
        else {"narrowest": list(ends[0]), "widest": list(ends[1])},
        "resize": pixels.resize,
        "mean": list(pixels.mean),
        "std": list(pixels.std),
    }


def _read_tiling(values: JsonObject, size: tuple[int, int]) -> Tiling:
    overlap = values.whole("overlap", 0, min(size) // 2)
    whole = None
    if values.get("image_size") is not None:
        whole = values.size("image_size", 2**31)
        tiles = math.prod(
            max(1, -(-(side - overlap) // (edge - overlap)))
            for side, edge in zip(whole, size, strict=True)
        )
        if math.prod(whole) > MAX_PIXELS or tiles > MAX_TILES:
            expected = f"at most {MAX_PIXELS:,} pixels in {MAX_TILES:,} tiles"
            raise values.bad("image_size", expected, f"{whole[0]} x {whole[1]}, {tiles} tiles")
    per_tile = values.flag("per_tile")
    if per_tile and whole is None:
        raise values.bad("image_size", "a size, as each tile has a model of its own")
    return Tiling(overlap, whole, per_tile)


def read_roi(values: JsonObject) -> Roi:
    height, width = values.size("size", 2**31)
    values.number("inspected", 0, 1)
    try:
        png = base64.b64decode(values.text("png"), validate=True)
    except (binascii.Error, ValueError):
        raise values.bad("png", "a mask in base64", "other text") from None
    ends = png[:8] == b"\x89PNG\r\n\x1a\n" and png[-8:-4] == b"IEND"
    if not ends or png[12:16] != b"IHDR":
        raise values.bad("png", "a whole PNG", f"{len(png)} other bytes")
    # The header says how much memory decoding takes.
    found = int.from_bytes(png[20:24], "big"), int.from_bytes(png[16:20], "big")
    if found != (height, width) or height * width > MAX_PIXELS:
        expected = f"a mask of {height} x {width}, at most {MAX_PIXELS:,} pixels"
        raise values.bad("png", expected, f"{found[0]} x {found[1]}")
    try:
        with open_image(png) as image:
            mask = np.asarray(image.convert("1"))
    except ImageError as error:
        expected = "a readable mask of the inspected region"
        raise values.bad("png", expected, type(error).__name__) from error
    if not mask.any():
        raise values.bad("png", "a mask that marks the inspected region", "an empty one")
    return Roi(mask)


def roi_to_json(roi: Roi) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(roi.inspected).save(buffer, "PNG")
    return {
        "size": list(roi.inspected.shape),
        "inspected": float(roi.inspected.mean()),
        "png": base64.b64encode(buffer.getvalue()).decode(),
    }


def _read_reading(values: JsonObject) -> Reading:
    return Reading(
        cast(Standardise, values.text("standardise", STANDARDS)),
        values.share("top"),
        values.number("smoothing", 0),
        values.number("prior", 0),
        values.maybe(values.flag, "overall"),
    )


def _read_layer_maps(values: JsonObject, computed: Collection[str]) -> dict[str, str]:
    for key in values.values:
        if values.text(key) not in computed:
            raise values.bad(key, "the name of a tensor that the graph computes")
    return dict(values.values)


@dataclass(frozen=True)
class SubspaceSection:
    """A fitted subspace in numbers; the subspace itself is in the graph.

    Attributes:
        layer: name of the layer.
        scope: ``"image"``, ``"position"`` or ``"patch"``.
        kind: ``"pca"``, or the kind of autoencoder.
        channels: number of channels of the layer.
        grid: height and width of the pooled layer, in locations.
        pool: edge of the pooling windows, in locations.
        dimension: length of the feature of an image.
        rank: number of components; the largest of all positions.
        kept_variance: explained variance in [0, 1]; ``None`` if not known.
        n: number of training images.
        epochs: only of an autoencoder: number of epochs.
        loss: only of an autoencoder: last training loss.
        mean_rank: only with one subspace per position: mean number of components.
        singular_values: only of image-wide PCA: one for each component, descending.
        discarded: only of image-wide PCA: squared norm outside the subspace.
    """

    layer: str
    scope: str
    kind: str
    channels: int
    grid: tuple[int, int]
    pool: int
    dimension: int
    rank: int
    kept_variance: float | None
    n: int | None
    epochs: int | None = None
    loss: float | None = None
    mean_rank: float | None = None
    singular_values: list[float] | None = None
    discarded: float | None = None

    @classmethod
    def from_json(cls, values: JsonObject) -> SubspaceSection:
        return cls(
            layer=values.text("layer"),
            scope=values.maybe(values.text, "scope") or "image",
            kind=values.maybe(values.text, "kind") or "pca",
            channels=values.whole("channels", 1),
            grid=values.size("grid", 2**31),
            pool=values.whole("pool", 1),
            dimension=values.whole("dimension", 1),
            rank=values.whole("rank"),
            kept_variance=values.maybe(values.number, "kept_variance"),
            n=values.maybe(values.whole, "n"),
            epochs=values.maybe(values.whole, "epochs"),
            loss=values.maybe(values.number, "loss"),
            mean_rank=values.maybe(values.number, "mean_rank"),
            singular_values=values.numbers("singular_values", low=0)
            if "singular_values" in values.values
            else None,
            discarded=values.maybe(values.number, "discarded"),
        )


def read_calibration(values: JsonObject) -> Calibration:
    scores = values.numbers("scores", ascending=True)
    n_odd = values.whole("n_odd", 0, len(scores) - 1)
    threshold, pixel_threshold = values.number("threshold"), values.number("pixel_threshold")
    rate = None
    if values.get("false_alarm_rate") is not None:
        rate = values.number("false_alarm_rate")
        if not 0 < rate < 1:
            raise values.bad("false_alarm_rate", "a number above 0 and below 1, or null")
    low, high = values.numbers("map_range", 2)
    if not low < high:
        expected = "two numbers, the first below the second"
        raise values.bad("map_range", expected, f"{low} and {high}")
    return Calibration(
        np.asarray(scores, np.float64),
        rate if rate is None else float(rate),
        float(threshold),
        float(pixel_threshold),
        (float(low), float(high)),
        n_odd,
        values.flag("keep_odd"),
        values.maybe(values.number, "review_threshold"),
    )


def calibration_to_json(calibration: Calibration) -> dict[str, Any]:
    return {
        "scores": [float(score) for score in calibration.scores],
        "n_odd": calibration.n_odd,
        "keep_odd": calibration.keep_odd,
        "false_alarm_rate": calibration.false_alarm_rate,
        "threshold": calibration.threshold,
        "review_threshold": calibration.review_threshold,
        "rate_of_others": calibration.rate_of_others,
        "odd_share": calibration.odd_share,
        "expected_rate": calibration.expected_rate,
        "pixel_threshold": calibration.pixel_threshold,
        "map_range": list(calibration.map_range),
    }


@dataclass(frozen=True)
class MergedModel:
    """One of the models that a model was merged from; fields as in `Provenance`.

    Attributes:
        sha256: digest of its file, hexadecimal.
    """

    sha256: str | None = None
    n_images: int | None = None
    images_sha256: str | None = None
    created: str | None = None
    history: list[Step] | None = None

    @classmethod
    def from_json(cls, values: JsonObject, depth: int) -> MergedModel:
        return cls(
            values.maybe(values.text, "sha256"),
            values.maybe(values.whole, "n_images"),
            values.maybe(values.text, "images_sha256"),
            values.maybe(values.text, "created"),
            _read_history(values, depth + 1),
        )


@dataclass(frozen=True)
class Step:
    """An update or a merge.

    Attributes:
        date: time in UTC, ISO 8601.
        n_added: only of an update: number of new images.
        images_sha256: only of an update: digest of the set of new images.
        n_accepted_anomalous: only of an update: number of new images that the model before it
            called anomalous.
        merged: only of a merge: its models.
    """

    date: str | None = None
    n_added: int | None = None
    images_sha256: str | None = None
    n_accepted_anomalous: int | None = None
    merged: list[MergedModel] | None = None

    @classmethod
    def from_json(cls, values: JsonObject, depth: int) -> Step:
        merged = values.maybe(values.sections, "merged")
        return cls(
            values.maybe(values.text, "date"),
            values.maybe(values.whole, "n_added"),
            values.maybe(values.text, "images_sha256"),
            values.maybe(values.whole, "n_accepted_anomalous"),
            None if merged is None else [MergedModel.from_json(part, depth) for part in merged],
        )


def _read_history(values: JsonObject, depth: int) -> list[Step] | None:
    if not values.has("history"):
        return None
    if depth > MAX_DEPTH:
        expected = "fewer models within models"
        raise values.bad("history", expected, f"more than {MAX_DEPTH}")
    return [Step.from_json(part, depth) for part in values.sections("history")]


@dataclass(frozen=True)
class Provenance:
    """Training images and history of a model.

    Attributes:
        n_images: number of training images, updates and merges included.
        images_sha256: digest of the set of training images, hexadecimal.
        created: time of training in UTC, ISO 8601.
        seed: seed of the random numbers in training.
        augmented: number of altered copies of each training image.
        group_by: pattern that groups images of one part.
        n_groups: number of groups.
        near_duplicates: number of images that have a near-duplicate.
        history: updates and merges, oldest first.
        calibration_images: number of images with held-out scores, if not all.
        threshold: how the threshold was chosen, in words, if not by a false-alarm rate.
        thumbnail: JPEG of a training image, in base64, so that people recognise the part.
    """

    n_images: int
    images_sha256: str
    created: str
    seed: int | None = None
    augmented: int | None = None
    group_by: str | int | None = None
    n_groups: int | None = None
    near_duplicates: int | None = None
    history: list[Step] | None = None
    calibration_images: int | None = None
    threshold: str | None = None
    thumbnail: str | None = None

    @classmethod
    def from_json(cls, values: JsonObject) -> Provenance:
        return cls(
            n_images=values.whole("n_images"),
            images_sha256=values.text("images_sha256"),
            created=values.text("created"),
            seed=values.maybe(values.whole, "seed", -(2**63)),
            group_by=_read_group_by(values),
            n_groups=values.maybe(values.whole, "n_groups"),
            near_duplicates=values.maybe(values.whole, "near_duplicates"),
            augmented=values.maybe(values.whole, "augmented"),
            history=_read_history(values, 0),
            calibration_images=values.maybe(values.whole, "calibration_images"),
            threshold=values.maybe(values.text, "threshold"),
            thumbnail=values.maybe(values.jpeg, "thumbnail"),
        )


def _read_group_by(values: JsonObject) -> str | int | None:
    if type(values.values.get("group_by")) is int:
        return values.whole("group_by", -(2**63))
    return values.maybe(values.text, "group_by")


def read_appearance(values: JsonObject) -> AppearanceLimits:
    levels = values.get("level")
    if not isinstance(levels, list) or len(levels) != 2:
        raise values.bad("level", "two lists of 3 finite numbers")
    ends = JsonObject({str(end): level for end, level in enumerate(levels)}, f"{values.name}level.")
    contrast, fineness = values.numbers("contrast", 2), values.numbers("fineness", 2)
    low, high = (
        np.array([*ends.numbers(str(end), 3), contrast[end], fineness[end]], np.float64)
        for end in (0, 1)
    )
    if not (low <= high).all():
        raise BadValueError(values.name[:-1], "ranges of the training images' pixels", "empty ones")
    return AppearanceLimits(values.whole("n", 1), low, high)


def appearance_to_json(limits: AppearanceLimits) -> dict[str, Any]:
    return {
        "n": limits.n,
        "level": [[float(x) for x in values[:3]] for values in (limits.low, limits.high)],
        "contrast": [float(limits.low[3]), float(limits.high[3])],
        "fineness": [float(limits.low[4]), float(limits.high[4])],
    }


@dataclass(frozen=True)
class LearningLayer:
    """A layer that the default preset reads.

    Attributes:
        layer: name of the layer.
        scope: scope of its subspace: ``"image"``, ``"position"`` or ``"patch"``.
        pool: edge of the pooling windows, in locations.
        in_score: whether it counts for the score.
        in_map: whether it counts for the map.
    """

    layer: str
    scope: str
    pool: int
    in_score: bool
    in_map: bool

    @classmethod
    def from_json(cls, values: JsonObject) -> LearningLayer:
        return cls(
            values.text("layer"),
            values.text("scope", ("image", "position", "patch")),
            values.whole("pool", 1),
            values.flag("in_score"),
            values.flag("in_map"),
        )


@dataclass(frozen=True)
class Learning:
    """Settings of training that an update or a merge needs.

    Attributes:
        variance: explained variance that the components keep, in (0, 1].
        rank: fixed number of components; ``None`` if the variance decides.
        pool: reference preset: edge of the pooling windows, in locations.
        layers: default preset: the layers, fine to coarse.
        overall: default preset: layer of the overall residual.
    """

    variance: float
    rank: int | None
    pool: int | None
    layers: list[LearningLayer] | None
    overall: str | None

    @classmethod
    def from_json(cls, values: JsonObject) -> Learning:
        layers = None
        if values.get("layers") is not None:
            layers = [LearningLayer.from_json(layer) for layer in values.sections("layers")]
        return cls(
            values.share("variance"),
            values.maybe(values.whole, "rank"),
            values.maybe(values.whole, "pool"),
            layers,
            values.maybe(values.text, "overall"),
        )


@dataclass(frozen=True, kw_only=True)
class Document:
    """The document of a model file.

    Attributes:
        fre_version: version of fre that wrote the file.
        preset: name of the preset.
        backbone: the frozen network.
        preprocessing: the way from an image to the network's input.
        roi: the inspected region; ``None`` for the whole image.
        reading: default preset: how residuals become a score and a map.
        score_layers: default preset: layers that count for the score.
        map_layers: default preset: layers that count for the map.
        layer_maps: default preset: label of each layer in the map -> tensor of the graph.
        parameters: arguments of `fre.FRE` that fit the same detector again.
        subspaces: the fitted subspaces.
        calibration: scores of good images, and the thresholds.
        provenance: training images and history.
        appearance: ranges of the training images' pixels; files of older versions lack them.
        learning: settings that an update needs; ``None`` for a model that can't be updated.
        digest: digest that the file states; `fre.inference.model_file` computes it.
        others: keys that this version does not know, kept when the document is written again.
    """

    fre_version: str
    preset: str
    backbone: BackboneSection
    preprocessing: Preprocessing
    roi: Roi | None = None
    reading: Reading | None = None
    score_layers: list[str] | None = None
    map_layers: list[str] | None = None
    layer_maps: dict[str, str] | None = None
    parameters: dict[str, Any] | None = None
    subspaces: list[SubspaceSection]
    calibration: Calibration
    provenance: Provenance
    appearance: AppearanceLimits | None = None
    learning: Learning | None = None
    digest: str | None = None
    others: dict[str, Any] = field(default_factory=dict)

    @property
    def geometry(self) -> Geometry:
        """Size of the input, fit, tiles, and range of 16-bit values."""
        return self.preprocessing.geometry

    @property
    def can_update(self) -> bool:
        """Whether the file holds what `fre.Model.update` and ``fre merge`` need."""
        return self.learning is not None

    @classmethod
    def from_json(cls, values: JsonObject, computed: Collection[str]) -> Document:
        """Read the sections.

        Args:
            values: the document, whose ``format`` is `FORMAT`.
            computed: names of the tensors that the graph computes.

        Raises:
            BadValueError: a value is out of range.
            ModelFileError: a key is missing.
        """
        known = {"format", *(part.name for part in fields(cls))}
        present = values.values
        return cls(
            fre_version=values.maybe(values.text, "fre_version") or "unknown",
            digest=values.maybe(values.text, DIGEST),
            preset=values.text("preset"),
            backbone=BackboneSection.from_json(values.section("backbone")),
            calibration=read_calibration(values.section("calibration")),
            preprocessing=Preprocessing.from_json(values.section("preprocessing")),
            roi=read_roi(values.section("roi")) if "roi" in present else None,
            score_layers=values.maybe(values.texts, "score_layers"),
            map_layers=values.maybe(values.texts, "map_layers"),
            reading=_read_reading(values.section("reading")) if values.has("reading") else None,
            layer_maps=_read_layer_maps(values.section("layer_maps"), computed)
            if "layer_maps" in present
            else None,
            subspaces=[SubspaceSection.from_json(part) for part in values.sections("subspaces")],
            provenance=Provenance.from_json(values.section("provenance")),
            parameters=values.section("parameters").values if values.has("parameters") else None,
            appearance=read_appearance(values.section("appearance"))
            if "appearance" in present
            else None,
            learning=Learning.from_json(values.section("learning"))
            if values.has("learning")
            else None,
            others={key: value for key, value in present.items() if key not in known},
        )

    def to_json(self) -> dict[str, Any]:
        """Return the document as plain JSON values, without the digest."""
        values = _section_to_json(replace(self, digest=None))
        others = values.pop("others")
        return {"format": FORMAT, **values, **others}


def _section_to_json(section: Any) -> dict[str, Any]:
    return {
        part.name: to_json(value)
        for part in fields(section)
        if (value := getattr(section, part.name)) is not None or part.default is not None
    }


WRITERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    AppearanceLimits: appearance_to_json,
    Calibration: calibration_to_json,
    Preprocessing: preprocessing_to_json,
    Reading: asdict,
    Roi: roi_to_json,
}
"""Classes whose fields are not the keys of the file, or whose ``None`` is written."""


def to_json(value: Any) -> Any:
    """Return a section, or a value in it, as plain JSON values."""
    if writer := WRITERS.get(type(value)):
        return writer(value)
    if is_dataclass(value):
        return _section_to_json(value)
    return list(map(to_json, value)) if isinstance(value, (list, tuple)) else value


def now() -> str:
    """Return the time in UTC, ISO 8601; the environment variable ``SOURCE_DATE_EPOCH`` sets it."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.now(timezone.utc)
    if epoch:
        moment = datetime.fromtimestamp(int(epoch), timezone.utc)
    return moment.isoformat(timespec="seconds")
