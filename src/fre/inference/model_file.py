"""The document within the bytes of a model file: read, written, and protected by a digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from fre.errors import ModelFileError
from fre.inference.document import DIGEST, FORMAT, Document
from fre.inference.json_object import (
    BadValueError,
    JsonObject,
    check_finite,
    parse_json,
    shortened,
)
from fre.onnx_tools.check import CheckedModel, ValueInfo
from fre.onnx_tools.protobuf import encode_field, fields

METADATA_KEY = "fre"

UNSET = "0" * 64
"""Stands for the digest while the digest is computed."""
ENDING = UNSET + '"}'
"""The document ends with its digest."""

MODEL_GRAPH, MODEL_METADATA, MODEL_TRAINING_INFO = 7, 14, 20
ENTRY_KEY, ENTRY_VALUE = 1, 2
"""Field numbers in onnx.proto: ModelProto, then StringStringEntryProto."""

IMAGES, TILE, SCORE, MAP = "images", "tile", "score", "anomaly_map"
P_VALUE, ANOMALOUS = "p_value", "anomalous"
FLOAT, UINT8, INT64, BOOL = 1, 2, 7, 9
"""Names and element types of the graph's inputs and outputs."""


def with_document(model: bytes, document: dict[str, Any]) -> bytes:
    """Put a document into a serialised ONNX model, instead of the one that it may hold.

    Every model file is written by this function, which adds the digest.

    Args:
        model: serialised ONNX model, with its arrays for further training if it has any.
        document: plain JSON values, from `Document.to_json`; a digest in it is replaced.

    Returns:
        The serialised model, whose document ends with the digest.
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
        model: result of `fre.onnx_tools.check.check_model` for the data.
        stated: digest in the document, 64 hexadecimal digits; ``None`` if it has none.

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


def read_document(model: CheckedModel) -> Document:
    """Read and check the document of a model.

    Args:
        model: result of `fre.onnx_tools.check.check_model`.

    Raises:
        ModelFileError: the document is missing, damaged or of another format, a value is out of
            range (the message names the key), or the graph has other inputs or outputs.
    """
    if METADATA_KEY not in model.metadata:
        raise ModelFileError(
            f"an ONNX model, but not one of fre: it lacks the metadata {METADATA_KEY!r}"
        )
    values = _parsed(model.metadata[METADATA_KEY])
    found = values.get("format")
    if type(found) is not int:
        raise ModelFileError(f"its metadata {METADATA_KEY!r} are damaged: they say no format")
    if found != FORMAT:
        version = values.get("fre_version", "?")
        raise ModelFileError(
            f"format {found} of a model file, and this version of fre reads format {FORMAT}; "
            f"install the version that wrote it ({shortened(version)})"
        )
    try:
        check_finite(values)
        document = Document.from_json(JsonObject(values), model.computed)
    except BadValueError as error:
        raise ModelFileError(str(error)) from None
    except RecursionError:
        raise ModelFileError(f"its metadata {METADATA_KEY!r} are nested too deep") from None
    _check_graph(model, document)
    return document


def _parsed(text: str) -> dict[str, Any]:
    damaged = f"its metadata {METADATA_KEY!r} are damaged"
    try:
        values = parse_json(text)
    except RecursionError:
        raise ModelFileError(f"{damaged}: nested too deep") from None
    except ValueError as error:
        raise ModelFileError(f"{damaged}: {str(error)[:120]}") from None
    if not isinstance(values, dict):
        raise ModelFileError(f"{damaged}: expected an object, found {shortened(values)}")
    return values


def _check_graph(model: CheckedModel, document: Document) -> None:
    """Compare inputs and outputs of the graph with those that the document implies."""
    size, tiling = document.geometry.size, document.geometry.tiling
    inputs = {IMAGES: ValueInfo(UINT8, (None, *size, 3))}
    if tiling is not None and tiling.per_tile:
        inputs[TILE] = ValueInfo(INT64, (None,))
    outputs = {
        SCORE: ValueInfo(FLOAT, (None,)),
        MAP: ValueInfo(FLOAT, (None, *size)),
        P_VALUE: ValueInfo(FLOAT, (None,)),
        ANOMALOUS: ValueInfo(BOOL, (None,)),
    }
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
    names = {FLOAT: "float32", UINT8: "uint8", INT64: "int64", BOOL: "bool"}
    return "; ".join(
        f"{name[:40]} {names.get(info.element, f'type {info.element}')} "
        f"({', '.join('N' if side is None else str(side) for side in info.shape)})"
        for name, info in list(values.items())[:4]
    )
