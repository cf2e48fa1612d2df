"""The JSON document of a model file: checked when it is read, and written with a digest.

docs/model-file.md says what each key means. The reader refuses what a model of fre can't hold, and
names the key: later code meets no NaN, no size as a text, and no list in the place of an object.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from fre.errors import ModelFileError
from fre.images.geometry import FITS
from fre.onnx_tools.check import CheckedModel, ValueInfo
from fre.onnx_tools.protobuf import encode_field, fields

FORMAT = 1
"""Version of the document's layout; a file of another one is refused."""
METADATA_KEY = "fre"

MAX_SIDE = 8192
"""Largest height or width of the input, in pixels."""
MAX_PIXELS = 200_000_000
"""Most pixels of a mask, and of an image that is resized before it is cut into tiles."""
MAX_TILES = 10_000
"""Most tiles of an image."""
MAX_DIGITS = 24
"""Longest integer, in digits."""

DIGEST = "digest"
UNSET = "0" * 64
"""Stands for the digest while the digest is computed."""
ENDING = UNSET + '"}'
"""The document ends with its digest."""

MODEL_GRAPH, MODEL_METADATA, MODEL_TRAINING_INFO = 7, 14, 20
ENTRY_KEY, ENTRY_VALUE = 1, 2
"""Field numbers in onnx.proto: ModelProto, then StringStringEntryProto."""

IMAGES, TILE, SCORE, MAP = "images", "tile", "score", "anomaly_map"
FLOAT, UINT8, INT64 = 1, 2, 7
"""Names and element types of the graph's inputs and outputs."""


def with_document(model: bytes, document: dict[str, Any]) -> bytes:
    """Put a document into a serialised ONNX model, in place of the one that it may hold.

    Every model file is written by this function: it adds the digest, and checks the document.

    Args:
        model: serialised ONNX model, with its arrays for further training if it has any.
        document: plain JSON values; its digest, if any, is replaced.

    Returns:
        The serialised model, whose document ends with the digest.

    Raises:
        ModelFileError: a value of the document is out of range.
    """
    others = {key: value for key, value in document.items() if key != DIGEST}
    text = json.dumps({**others, DIGEST: UNSET})
    entry = encode_field(ENTRY_KEY, METADATA_KEY.encode()) + encode_field(
        ENTRY_VALUE, text.encode()
    )
    view, at = memoryview(model), 0
    kept: list[memoryview] = []
    arrays: list[memoryview] = []
    for found in fields(model):
        is_arrays = found.number == MODEL_TRAINING_INFO
        if is_arrays or (found.number == MODEL_METADATA and _key(found.content) == METADATA_KEY):
            kept.append(view[at : found.start])
            at = found.stop
            arrays += [view[found.start : found.stop]] * is_arrays
    # Arrays come last in the file: readers cut them off.
    before = b"".join([*kept, view[at:], encode_field(MODEL_METADATA, entry)])
    digest = hashlib.sha256(before)
    for part in arrays:
        digest.update(part)
    closing = ENDING.replace(UNSET, digest.hexdigest()).encode()
    return b"".join([memoryview(before)[: -len(closing)], closing, *arrays])


def _key(entry: memoryview) -> str:
    return next((bytes(f.content).decode() for f in fields(entry) if f.number == ENTRY_KEY), "")


def check_digest(data: bytes, model: CheckedModel, stated: str | None) -> None:
    """Compare a model file with the digest in its document.

    Args:
        data: serialised model.
        model: what `fre.onnx_tools.check.check_model` read of it.
        stated: the document's digest.

    Raises:
        ModelFileError: the file has no digest, or another one.
    """
    if stated is None:
        raise ModelFileError(
            "its document has no digest, so damage can't be told; train the model again"
        )
    _, stop = model.entries[METADATA_KEY]
    start = stop - len(ENDING)
    view = memoryview(data)
    digest = hashlib.sha256(view[:start])
    digest.update(ENDING.encode())
    digest.update(view[stop:])
    closing = ENDING.replace(UNSET, stated).encode()
    if data[start:stop] != closing or digest.hexdigest() != stated:
        raise ModelFileError(
            "the file is damaged or was changed: its content does not have the digest that it "
            "states; copy the file again, or train again"
        )


class _BadValueError(Exception):
    """A value of the document that is out of range: key, what was expected, what was found."""

    def __init__(self, key: str, expected: str, found: object) -> None:
        super().__init__(
            f"its metadata have a bad {key}: expected {expected}, found {_short(found)}"
        )


def _short(value: object) -> str:
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def read_document(model: CheckedModel) -> dict[str, Any]:
    """Read and check the document of a model.

    Args:
        model: what `fre.onnx_tools.check.check_model` read.

    Returns:
        The document, whose values have the types, ranges and sizes that docs/model-file.md says.

    Raises:
        ModelFileError: there is none, it is damaged, of another format, or a value is out of range;
            the message names the key.
    """
    if METADATA_KEY not in model.metadata:
        raise ModelFileError(
            f"an ONNX model, but not one of fre: it lacks the metadata {METADATA_KEY!r}"
        )
    document = _parsed(model.metadata[METADATA_KEY])
    found = document.get("format")
    if type(found) is not int:
        raise ModelFileError(f"its metadata {METADATA_KEY!r} are damaged: they say no format")
    if found != FORMAT:
        version = document.get("fre_version", "?")
        raise ModelFileError(
            f"format {found} of a model file, and this version of fre reads format {FORMAT}; "
            f"install the version that wrote it ({_short(version)})"
        )
    try:
        _check(_Object(document, ""), model)
        _check_finite(document, "")
    except _BadValueError as error:
        raise ModelFileError(str(error)) from None
    except RecursionError:
        raise ModelFileError(f"its metadata {METADATA_KEY!r} are nested too deep") from None
    return document


def _parsed(text: str) -> dict[str, Any]:
    damaged = f"its metadata {METADATA_KEY!r} are damaged"
    try:
        document = json.loads(
            text,
            parse_int=_integer,
            object_pairs_hook=_once,
        )
        if "\\ud" in text.lower():
            json.dumps(document, ensure_ascii=False).encode()
    except RecursionError:
        raise ModelFileError(f"{damaged}: nested too deep") from None
    except ValueError as error:
        raise ModelFileError(f"{damaged}: {str(error)[:120]}") from None
    if not isinstance(document, dict):
        raise ModelFileError(f"{damaged}: expected an object, found {_short(document)}")
    return document


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an object has a key twice")
    return found


class _Object:
    """An object of the document, read key by key.

    Args:
        values: the object.
        name: its key within the document, with a dot behind; empty for the document itself.
    """

    def __init__(self, values: dict[str, Any], name: str) -> None:
        self.values = values
        self.name = name

    def has(self, key: str) -> bool:
        """Whether there is a value, and it is not null."""
        return self.values.get(key) is not None

    def bad(self, key: str, expected: str, found: object = None) -> _BadValueError:
        found = self.values.get(key) if found is None else found
        return _BadValueError(self.name + key, expected, found)

    def get(self, key: str) -> Any:
        if key not in self.values:
            raise ModelFileError(f"its metadata lack {self.name + key!r}")
        return self.values[key]

    def section(self, key: str) -> _Object:
        found = self.get(key)
        if not isinstance(found, dict):
            raise self.bad(key, "an object")
        return _Object(found, f"{self.name}{key}.")

    def sections(self, key: str) -> list[_Object]:
        found = self.get(key)
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise self.bad(key, "a list of objects")
        return [_Object(item, f"{self.name}{key}[{i}].") for i, item in enumerate(found)]

    def text(self, key: str, choices: Sequence[str] = ()) -> str:
        found = self.get(key)
        if not isinstance(found, str) or (choices and found not in choices):
            raise self.bad(key, "one of " + ", ".join(choices) if choices else "a text")
        return found

    def texts(self, key: str) -> list[str]:
        found = self.get(key)
        if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
            raise self.bad(key, "a list of texts")
        return found

    def flag(self, key: str) -> bool:
        found = self.get(key)
        if not isinstance(found, bool):
            raise self.bad(key, "true or false")
        return found

    def whole(self, key: str, low: int = 0, high: int = 2**63) -> int:
        found = self.get(key)
        if type(found) is not int or not low <= found <= high:
            raise self.bad(key, _between("a whole number", low, high))
        return found

    def number(self, key: str, low: float = -math.inf, high: float = math.inf) -> float:
        found = self.get(key)
        if not _is_number(found) or not low <= found <= high:
            raise self.bad(key, _between("a finite number", low, high))
        return float(found)

    def numbers(
        self, key: str, count: int | None = None, low: float = -math.inf, *, ascending: bool = False
    ) -> list[float]:
        found = self.get(key)
        what = f"a list of {'' if count is None else f'{count} '}finite numbers"
        if not isinstance(found, list):
            raise self.bad(key, what)
        for index, value in enumerate(found):
            if not _is_number(value):
                raise _BadValueError(f"{self.name}{key}[{index}]", "a finite number", value)
        if count is not None and len(found) != count:
            raise self.bad(key, what, f"{len(found)} of them")
        if any(value < low for value in found):
            raise self.bad(key, f"{what}, {low:g} or more", min(found))
        if ascending and any(a > b for a, b in pairwise(found)):
            raise self.bad(key, "numbers in ascending order", "other numbers")
        return found

    def size(self, key: str, high: int) -> tuple[int, int]:
        """Height and width, in pixels or in locations."""
        found = self.get(key)
        fits = isinstance(found, list) and len(found) == 2
        if not fits or not all(type(side) is int and 1 <= side <= high for side in found):
            raise self.bad(key, f"height and width, whole numbers from 1 to {high}", str(found))
        return found[0], found[1]

    def optional(self, check: Callable[..., object], *keys: str, **limits: float) -> None:
        """Check some keys that may be missing or null."""
        for key in keys:
            if self.has(key):
                check(key, **limits)


def _is_number(value: object) -> bool:
    # True is a number for Python, and a large integer is no double.
    if type(value) is float:
        return math.isfinite(value)
    return type(value) is int and abs(value) < 2**63


def _check_finite(value: object, key: str) -> None:
    """Refuse NaN and infinity in the keys that no other check reads: JSON does not know them."""
    if isinstance(value, dict):
        for name, part in value.items():
            _check_finite(part, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for index, part in enumerate(value):
            _check_finite(part, f"{key}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise _BadValueError(key, "a finite number", value)


def _between(what: str, low: float, high: float) -> str:
    if high >= 2**63:
        return what if low == -math.inf else f"{what}, {low:g} or more"
    return f"{what} from {low:g} to {high:g}"


def _check(document: _Object, model: CheckedModel) -> None:
    document.optional(document.text, "fre_version", DIGEST)
    document.text("preset")
    backbone = document.section("backbone")
    backbone.text("name")
    backbone.texts("layers")
    backbone.text("weights_sha256")
    if backbone.has("precision"):
        backbone.text("precision", ("float32", "int8"))
    _check_calibration(document.section("calibration"))
    size, per_tile = _check_preprocessing(document.section("preprocessing"))
    if "roi" in document.values:
        _check_roi(document.section("roi"))
    _check_layers(document, model)
    for subspace in document.sections("subspaces"):
        _check_subspace(subspace)
    _check_provenance(document.section("provenance"))
    document.optional(document.section, "parameters")
    if document.has("learning"):
        _check_learning(document.section("learning"))
    _check_graph(model, size, per_tile=per_tile)


def _check_calibration(calibration: _Object) -> None:
    calibration.numbers("scores", ascending=True)
    if calibration.has("map_maxima"):
        calibration.numbers("map_maxima", ascending=True)
    calibration.number("threshold")
    calibration.number("pixel_threshold")
    if calibration.get("false_alarm_rate") is not None:
        rate = calibration.number("false_alarm_rate")
        if not 0 < rate < 1:
            raise calibration.bad("false_alarm_rate", "a number above 0 and below 1, or null")
    low, high = calibration.numbers("map_range", 2)
    if not low < high:
        raise calibration.bad(
            "map_range", "two numbers, the first below the second", f"{low} and {high}"
        )


def _check_preprocessing(pixels: _Object) -> tuple[tuple[int, int], bool]:
    """The input's height and width, and whether it has a model for each tile."""
    size = pixels.size("size", MAX_SIDE)
    if "fit" in pixels.values:
        pixels.text("fit", FITS)
    if pixels.has("bits"):
        pixels.whole("bits", 8, 16)
    pixels.numbers("mean", 3)
    if not all(value > 0 for value in pixels.numbers("std", 3)):
        raise pixels.bad("std", "three numbers above 0", str(pixels.values["std"]))
    if not pixels.has("tiling"):
        return size, False
    tiling = pixels.section("tiling")
    if pixels.values.get("fit", "stretch") != "stretch":
        raise pixels.bad("fit", "stretch, as there are tiles")
    overlap = tiling.whole("overlap", 0, min(size) // 2)
    if tiling.get("image_size") is not None:
        whole = tiling.size("image_size", 2**31)
        tiles = math.prod(
            max(1, -(-(side - overlap) // (edge - overlap)))
            for side, edge in zip(whole, size, strict=True)
        )
        if math.prod(whole) > MAX_PIXELS or tiles > MAX_TILES:
            expected = f"at most {MAX_PIXELS:,} pixels in {MAX_TILES:,} tiles"
            raise tiling.bad("image_size", expected, f"{whole[0]} x {whole[1]}, {tiles} tiles")
    per_tile = tiling.flag("per_tile")
    if per_tile and tiling.values["image_size"] is None:
        raise tiling.bad("image_size", "a size, as each tile has a model of its own")
    return size, per_tile


def _check_roi(roi: _Object) -> None:
    height, width = roi.size("size", 2**31)
    roi.number("inspected", 0, 1)
    try:
        png = base64.b64decode(roi.text("png"), validate=True)
    except (binascii.Error, ValueError):
        raise roi.bad("png", "a mask in base64", "other text") from None
    ends = png[:8] == b"\x89PNG\r\n\x1a\n" and png[-8:-4] == b"IEND"
    if not ends or png[12:16] != b"IHDR":
        raise roi.bad("png", "a whole PNG", f"{len(png)} other bytes")
    # The header says how much memory decoding takes.
    found = int.from_bytes(png[20:24], "big"), int.from_bytes(png[16:20], "big")
    if found != (height, width) or height * width > MAX_PIXELS:
        expected = f"a mask of {height} x {width}, at most {MAX_PIXELS:,} pixels"
        raise roi.bad("png", expected, f"{found[0]} x {found[1]}")


def _check_layers(document: _Object, model: CheckedModel) -> None:
    document.optional(document.texts, "score_layers", "map_layers")
    if document.has("reading"):
        reading = document.section("reading")
        reading.text("standardise", ("position", "layer", "none"))
        if not 0 < reading.number("top") <= 1:
            raise reading.bad("top", "a number above 0 and at most 1")
        reading.number("smoothing", 0)
        reading.number("prior", 0)
        reading.optional(reading.flag, "overall")
    if "layer_maps" in document.values:
        maps = document.section("layer_maps")
        for key in maps.values:
            if maps.text(key) not in model.computed:
                raise maps.bad(key, "the name of a tensor that the graph computes")


def _check_subspace(subspace: _Object) -> None:
    subspace.text("layer")
    subspace.optional(subspace.text, "scope", "kind")
    subspace.whole("channels", 1)
    subspace.size("grid", 2**31)
    for key in ("pool", "dimension"):
        subspace.whole(key, 1)
    subspace.whole("rank")
    subspace.optional(subspace.whole, "n", "epochs")
    subspace.optional(subspace.number, "kept_variance", "mean_rank", "discarded", "loss")
    if "singular_values" in subspace.values:
        subspace.numbers("singular_values", low=0)


COUNTS = ("n_images", "n_groups", "near_duplicates", "augmented", "calibration_images", "n_added")
TEXTS = ("images_sha256", "created", "threshold", "date", "sha256", "calibration_sha256")


def _check_provenance(provenance: _Object, depth: int = 0) -> None:
    if depth == 0:
        for key in ("n_images", "images_sha256", "created"):
            provenance.get(key)
    if depth > 100:
        raise provenance.bad("history", "fewer models within models", "more than 100")
    provenance.optional(provenance.whole, *COUNTS, "n_accepted_anomalous")
    provenance.optional(provenance.text, *TEXTS)
    if provenance.has("seed"):
        provenance.whole("seed", -(2**63))
    for key in ("history", "merged"):
        if provenance.has(key):
            for part in provenance.sections(key):
                _check_provenance(part, depth + 1)


def _check_learning(learning: _Object) -> None:
    if not 0 < learning.number("variance") <= 1:
        raise learning.bad("variance", "a number above 0 and at most 1")
    learning.optional(learning.whole, "rank", "pool")
    learning.optional(learning.text, "overall")
    if learning.get("layers") is None:
        return
    for layer in learning.sections("layers"):
        layer.text("layer")
        layer.text("scope", ("image", "position", "patch"))
        layer.whole("pool", 1)
        layer.flag("in_score")
        layer.flag("in_map")


def _check_graph(model: CheckedModel, size: tuple[int, int], *, per_tile: bool) -> None:
    """Compare inputs and outputs of the graph with those that the document means."""
    inputs = {IMAGES: ValueInfo(UINT8, (None, *size, 3))}
    if per_tile:
        inputs[TILE] = ValueInfo(INT64, (None,))
    outputs = {SCORE: ValueInfo(FLOAT, (None,)), MAP: ValueInfo(FLOAT, (None, *size))}
    for kind, wanted, found in (
        ("inputs", inputs, model.inputs),
        ("outputs", outputs, model.outputs),
    ):
        if list(found.items()) != list(wanted.items()):
            raise ModelFileError(
                f"its graph has other {kind} than its metadata mean: expected {_listed(wanted)}, "
                f"found {_listed(found)}"
            )


def _listed(values: dict[str, ValueInfo]) -> str:
    names = {FLOAT: "float32", UINT8: "uint8", INT64: "int64"}
    return "; ".join(
        f"{name[:40]} {names.get(info.element, f'type {info.element}')} "
        f"({', '.join('N' if side is None else str(side) for side in info.shape)})"
        for name, info in list(values.items())[:4]
    )


def now() -> str:
    """The time, as `provenance` has it."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    moment = datetime.now(timezone.utc)
    if epoch:
        moment = datetime.fromtimestamp(int(epoch), timezone.utc)
    return moment.isoformat(timespec="seconds")
