"""A model file is checked before anything runs: its document, its graph and its digest."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from conftest import texture
from fre import FRE, Model, load
from fre.errors import ModelFileError
from fre.inference.model_file import with_document
from fre.onnx_tools.check import check_model
from fre.onnx_tools.protobuf import encode_field
from fre.onnx_tools.side_arrays import read_arrays

Change = Callable[[dict[str, Any]], object]
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture(scope="module")
def model() -> Model:
    return FRE(size=64, false_alarm_rate=0.2).fit([texture(seed) for seed in range(12)])


def loaded(data: bytes, path: Path) -> Model:
    path.write_bytes(data)
    return load(path)


def document_of(data: bytes) -> str:
    (entry,) = onnx.load_from_string(data).metadata_props
    text: str = entry.value
    return text


def with_text(data: bytes, text: str) -> bytes:
    proto = onnx.load_from_string(data)
    proto.metadata_props[0].value = text
    written: bytes = proto.SerializeToString()
    return written


def put(*path: str | int, value: object) -> Change:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path
        place: Any = document
        for key in parents:
            place = place[key]
        place[last] = value

    return change


def cut(*path: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        place: Any = document
        for key in path[:-1]:
            place = place[key]
        del place[path[-1]]

    return change


BAD: list[tuple[Change, str]] = [
    (put("calibration", "threshold", value=NAN), r"bad calibration\.threshold: .*found NaN"),
    (put("calibration", "threshold", value=INFINITY), r"calibration\.threshold: .*Infinity"),
    (put("calibration", "threshold", value="7.5"), r"calibration\.threshold: .*\"7\.5\""),
    (put("calibration", "threshold", value=True), r"calibration\.threshold: .*true"),
    (put("calibration", "threshold", value=None), r"calibration\.threshold: .*null"),
    (put("calibration", "pixel_threshold", value=-INFINITY), r"calibration\.pixel_threshold"),
    (put("calibration", "scores", 3, value=NAN), r"calibration\.scores\[3\]: .*NaN"),
    (put("calibration", "scores", value=[2.0, 1.0]), r"calibration\.scores: .*ascending"),
    (put("calibration", "scores", value=["1"]), r"calibration\.scores\[0\]"),
    (put("calibration", "scores", value=[[1.0]]), r"calibration\.scores\[0\]: .*a list"),
    (put("calibration", "n_odd", value=12), r"calibration\.n_odd"),
    (put("calibration", "keep_odd", value="no"), r"calibration\.keep_odd"),
    (put("calibration", "review_threshold", value=INFINITY), r"calibration\.review_threshold"),
    (put("calibration", "map_range", value=[5.0, 1.0]), r"calibration\.map_range: .*5.* and 1"),
    (put("calibration", "map_range", value=[1.0, 1.0]), r"calibration\.map_range"),
    (put("calibration", "map_range", value=[NAN, 1.0]), r"calibration\.map_range\[0\]"),
    (put("calibration", "map_range", value=[1.0]), r"calibration\.map_range: .*2 finite"),
    (put("calibration", "false_alarm_rate", value=7), r"calibration\.false_alarm_rate"),
    (put("calibration", "false_alarm_rate", value=0), r"calibration\.false_alarm_rate"),
    (put("calibration", value=[1, 2]), r"bad calibration: expected an object, found a list"),
    (cut("calibration"), r"lack 'calibration'"),
    (cut("calibration", "threshold"), r"lack 'calibration\.threshold'"),
    (put("preprocessing", "size", value=["64", "64"]), r"preprocessing\.size"),
    (put("preprocessing", "size", value=[64.0, 64]), r"preprocessing\.size"),
    (put("preprocessing", "size", value=[64, 200_000]), r"preprocessing\.size: .*8192"),
    (put("preprocessing", "size", value=[64, 64, 3]), r"preprocessing\.size"),
    (put("preprocessing", "size", value=[96, 64]), r"other inputs .*\(N, 96, 64, 3\)"),
    (put("preprocessing", "fit", value="crop"), r"preprocessing\.fit: .*stretch, letterbox"),
    (put("preprocessing", "std", value=[1, 0, 1]), r"preprocessing\.std"),
    (put("preprocessing", "mean", value=[1, 2]), r"preprocessing\.mean: .*3 finite"),
    (put("preprocessing", "tiling", value="yes"), r"preprocessing\.tiling"),
    (put("roi", value=None), r"bad roi"),
    (put("roi", value={"size": [8, 8], "inspected": 1.0, "png": "AAAA"}), r"roi\.png: .*PNG"),
    (put("roi", value={"size": [8, 8], "inspected": 2, "png": ""}), r"roi\.inspected"),
    (put("layer_maps", value={"a": 5}), r"layer_maps\.a: .*a text"),
    (put("layer_maps", value={"a": "images"}), r"layer_maps\.a: .*graph computes"),
    (put("reading", "top", value=0), r"reading\.top"),
    (put("reading", "overall", value=1), r"reading\.overall: .*true or false"),
    (put("score_layers", value="blocks"), r"score_layers"),
    (put("backbone", value=[1]), r"bad backbone"),
    (put("backbone", "precision", value="int4"), r"backbone\.precision"),
    (put("subspaces", 0, "rank", value=-1), r"subspaces\[0\]\.rank"),
    (put("subspaces", 0, "grid", value=[0, 4]), r"subspaces\[0\]\.grid"),
    (put("subspaces", 0, "note", value=NAN), r"subspaces\[0\]\.note"),
    (put("provenance", value=[1]), r"bad provenance"),
    (put("provenance", "n_images", value=NAN), r"provenance\.n_images"),
    (put("provenance", "n_images", value=2**70), r"provenance\.n_images"),
    (put("provenance", "thumbnail", value='"><script>'), r"provenance\.thumbnail: .*a JPEG"),
    (put("provenance", "thumbnail", value="aGVsbG8="), r"provenance\.thumbnail: .*a JPEG"),
    (put("provenance", "history", value=[{"n_added": "x"}]), r"provenance\.history\[0\]\.n_added"),
    (put("learning", value=[1]), r"bad learning"),
    (put("learning", "layers", 0, "pool", value=0), r"learning\.layers\[0\]\.pool"),
    (put("format", value=True), r"say no format"),
    (put("preset", value=["x"]), r"bad preset"),
    (put("preset", value="\ud800"), r"damaged"),
]


@pytest.mark.parametrize(("change", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_values_out_of_range_are_refused_by_their_key(
    model: Model, change: Change, reason: str
) -> None:
    document = json.loads(document_of(model.data))
    change(document)
    # The digest is right: it is the value that is refused.
    with pytest.raises(ModelFileError, match=f"part 7: .*{reason}"):
        Model(with_document(model.data, document), origin="part 7")


@pytest.mark.parametrize(
    ("overlap", "image_size"),
    [
        (-5, None),
        (33, None),
        (32, [64, 50_000_000]),
        (32, [10_000, 10_000]),
        (0, [-1, -1]),
        (0.5, None),
    ],
)
def test_tiles_without_end_are_refused(
    model: Model, overlap: float, image_size: list[int] | None
) -> None:
    document = json.loads(document_of(model.data))
    tiling = {"overlap": overlap, "per_tile": False, "image_size": image_size}
    document["preprocessing"]["tiling"] = tiling
    with pytest.raises(ModelFileError, match=r"preprocessing\.tiling\.(overlap|image_size)"):
        Model(with_document(model.data, document))


def test_letterboxed_tiles_and_tiles_of_no_size_are_refused(model: Model) -> None:
    document = json.loads(document_of(model.data))
    tiling = {"overlap": 32, "per_tile": True, "image_size": None}
    document["preprocessing"] |= {"tiling": tiling}
    with pytest.raises(ModelFileError, match=r"tiling\.image_size: expected a size"):
        Model(with_document(model.data, document))
    document["preprocessing"] |= {"fit": "letterbox"}
    with pytest.raises(ModelFileError, match=r"preprocessing\.fit: expected stretch"):
        Model(with_document(model.data, document))


def test_masks_of_the_inspected_region(model: Model) -> None:
    def masked(png: bytes, size: tuple[int, int] = (8, 8)) -> Model:
        document = json.loads(document_of(model.data))
        text = base64.b64encode(png).decode()
        document["roi"] = {"size": list(size), "inspected": 0.5, "png": text}
        return Model(with_document(model.data, document))

    buffer = io.BytesIO()
    Image.new("1", (8, 8), 1).save(buffer, "PNG")
    good = buffer.getvalue()
    roi = masked(good).roi
    assert roi is not None
    assert roi.inspected.all()
    buffer = io.BytesIO()
    Image.new("1", (8, 8), 0).save(buffer, "PNG")
    at = good.index(b"IDAT")
    for png, reason in (
        (buffer.getvalue(), "an empty one"),
        (good[:at] + bytes(8) + good[at + 8 :], "readable mask"),
        (good[:40], "a whole PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "a whole PNG"),
    ):
        with pytest.raises(ModelFileError, match=f"roi.png: .*{reason}"):
            masked(png)
    with pytest.raises(ModelFileError, match=r"roi\.png: expected a mask of 30000 x 30000"):
        masked(good, (30_000, 30_000))


@pytest.mark.parametrize(
    "added",
    [
        '"x": ' + "[" * 100_000 + "]" * 100_000,
        '"x": ' + "9" * 100_000,
        '"x": 1e999',
        '"x": NaN',
        '"calibration": {}',
        '"x"',
        '"pad": "' + "x" * 17_000_000 + '"',
    ],
    ids=["deep", "long", "large", "nan", "twice", "cut", "huge"],
)
def test_hostile_json_is_nothing_but_an_error(model: Model, added: str) -> None:
    text = document_of(model.data)
    with pytest.raises(ModelFileError):
        Model(with_text(model.data, f"{text[:-1]}, {added}}}"))


@pytest.mark.parametrize("text", ["", "null", "[1]", '"x"', "3", "[" * 200_000, "{}"])
def test_documents_that_are_none(model: Model, text: str) -> None:
    with pytest.raises(ModelFileError, match="metadata 'fre' are damaged"):
        Model(with_text(model.data, text))


def test_the_digest_is_that_of_the_file(model: Model, tmp_path: Path) -> None:
    """As docs/model-file.md says how to verify it."""
    threshold = model.with_calibration(model.calibration.at_rate(0.4))
    grown = model.update([texture(seed) for seed in range(20, 24)], accept_anomalous=True)
    for each in (model, threshold, grown):
        data = each.data
        digest = json.loads(document_of(data))["digest"]
        assert hashlib.sha256(data.replace(digest.encode(), b"0" * 64)).hexdigest() == digest
        assert loaded(data, tmp_path / "m.onnx").threshold == each.threshold
    assert read_arrays(threshold.data).keys() == read_arrays(model.data).keys()


def test_a_flipped_bit_is_refused(model: Model, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = model.data
    text = data.index(b'"threshold": ') + len(b'"threshold": ') + 3
    for at in (text, len(data) - 1, *rng.integers(0, len(data), 15)):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        with pytest.raises(ModelFileError, match=r"m\.onnx: "):
            loaded(bytes(damaged), tmp_path / "m.onnx")


def test_arrays_that_were_cut_off_or_a_missing_digest_are_refused(
    model: Model, tmp_path: Path
) -> None:
    proto = onnx.load_from_string(model.data)
    del proto.training_info[:]
    with pytest.raises(ModelFileError, match="damaged or was changed"):
        loaded(proto.SerializeToString(), tmp_path / "m.onnx")
    document = json.loads(document_of(model.data))
    del document["digest"]
    with pytest.raises(ModelFileError, match="no digest"):
        loaded(with_text(model.data, json.dumps(document)), tmp_path / "m.onnx")


def graph(
    *nodes: onnx.NodeProto,
    constants: dict[str, np.ndarray] | None = None,
    outputs: tuple[str, ...] = ("y",),
) -> onnx.ModelProto:
    """A network from x, float32 (N, 3, 32, 32)."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def node(op: str, *inputs: str, output: str = "y", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [output], **attributes)


def doubled(times: int) -> list[onnx.NodeProto]:
    names = ["x", *(f"d{index}" for index in range(times - 1)), "y"]
    return [node("Concat", one, one, output=two, axis=0) for one, two in pairwise(names)]


EXPLOSIONS = [
    graph(node("ConstantOfShape", "n"), constants={"n": ints(10**9)}),
    graph(node("Expand", "c", "n"), constants={"c": np.float32([1]), "n": ints(10**5, 10**5)}),
    graph(node("Tile", "x", "n"), constants={"n": ints(1, 1, 10**5, 10**5)}),
    graph(
        node("Range", "a", "b", "c"),
        constants={k: ints(v)[0] for k, v in {"a": 0, "b": 10**12, "c": 1}.items()},
    ),
    graph(node("Pad", "x", "n"), constants={"n": ints(0, 0, 0, 0, 0, 0, 10**5, 10**5)}),
    graph(node("Resize", "x", "", "n"), constants={"n": np.float32([1, 1, 1e4, 1e4])}),
    graph(*doubled(40)),
    graph(
        node("MatMul", "a", "b"),
        constants={"a": np.zeros((10**5, 1), np.float32), "b": np.zeros((1, 10**5), np.float32)},
    ),
    graph(
        node("Add", "a", "b"),
        constants={"a": np.zeros((10**5, 1), np.float32), "b": np.zeros(10**5, np.float32)},
    ),
    graph(
        node("Gather", "a", "n"),
        constants={"a": np.zeros((1, 10**5), np.float32), "n": np.zeros(10**5, np.int64)},
    ),
    graph(
        node("Conv", "x", "w", pads=[0, 0, 10**6, 10**6]),
        constants={"w": np.zeros((1, 3, 1, 1), np.float32)},
    ),
    graph(
        node("Shape", "x", output="s"),
        node("Mul", "s", "n", output="t"),
        node("ConstantOfShape", "t"),
        constants={"n": ints(1000)},
    ),
]


@pytest.mark.parametrize("network", EXPLOSIONS, ids=[m.graph.node[-1].op_type for m in EXPLOSIONS])
def test_operators_that_give_too_much_are_refused(network: onnx.ModelProto) -> None:
    with pytest.raises(ModelFileError, match="too many for a network"):
        check_model(network.SerializeToString())


def test_sizes_that_follow_from_nothing_are_refused() -> None:
    network = graph(
        node("Cast", "x", output="s", to=TensorProto.INT64), node("ConstantOfShape", "s")
    )
    with pytest.raises(ModelFileError, match="ConstantOfShape gives does not follow"):
        check_model(network.SerializeToString())


@pytest.mark.parametrize(
    "op", ["Loop", "If", "Scan", "SequenceMap", "StringNormalizer", "RandomNormal", "Optional"]
)
def test_operators_that_no_network_needs_are_refused(op: str) -> None:
    with pytest.raises(ModelFileError, match=f"the operator {op}"):
        check_model(graph(node(op, "x")).SerializeToString())


def external(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def outside() -> list[onnx.ModelProto]:
    """Data of another file, at each place where a tensor may be."""
    models = [graph(node("Relu", "x"), constants={"c": np.float32([1])}) for _ in range(4)]
    external(models[0].graph.initializer[0])
    attribute = numpy_helper.from_array(np.float32([1]), "secret")
    external(attribute)
    models[1].graph.node.append(node("Constant", output="z", value=attribute))
    models[2].graph.sparse_initializer.add().values.CopyFrom(attribute)
    models[3].training_info.add().algorithm.initializer.append(attribute)
    only_listed = graph(node("Relu", "x"), constants={"c": np.float32([1])})
    only_listed.graph.initializer[0].external_data.add(key="location", value="x")
    return [*models, only_listed]


@pytest.mark.parametrize("index", range(5))
def test_data_of_another_file_are_refused(index: int) -> None:
    with pytest.raises(ModelFileError, match=r"are in another file|sparse tensors"):
        check_model(outside()[index].SerializeToString())


def test_what_else_a_graph_may_not_hold() -> None:
    good = graph(node("Relu", "x"), constants={"c": np.float32([1])})
    check_model(good.SerializeToString())
    cases: list[tuple[Callable[[onnx.ModelProto], object], str]] = [
        (lambda m: m.functions.add(name="f"), "functions"),
        (lambda m: m.ClearField("opset_import"), "which version of ONNX"),
        (lambda m: m.ClearField("ir_version"), "which version of ONNX"),
        (lambda m: setattr(m.graph.node[0], "domain", "evil"), "not of ONNX"),
        (lambda m: m.graph.node[0].attribute.add(name="g").g.node.add(), "subgraphs"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**40), "impossible shape"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, 2**30), "other than"),
        (lambda m: m.graph.initializer[0].dims.__setitem__(0, -1), "impossible shape"),
        (lambda m: setattr(m.graph.initializer[0], "data_type", 8), "element type 8"),
        (
            lambda m: setattr(m.graph.initializer[0], "raw_data", np.float32([NAN]).tobytes()),
            "not finite",
        ),
    ]
    for change, reason in cases:
        bad = onnx.ModelProto()
        bad.CopyFrom(good)
        change(bad)
        with pytest.raises(ModelFileError, match=reason):
            check_model(bad.SerializeToString())


def test_parsing_is_bounded() -> None:
    good = graph(node("Relu", "x")).SerializeToString()
    entry = encode_field(14, encode_field(1, b"k"))
    for added in (
        encode_field(20, b"") * 1_000_000,
        entry * 2,
        b"".join(encode_field(14, encode_field(1, bytes([97 + i]))) for i in range(26)) * 3,
        encode_field(7, b"") * 2,
        b"\x00" * 50,
        b"plain text",
        b"\x3a" + b"\xff" * 9 + b"\x01",
        # A tag beyond 32 bits is another field for readers that cut it.
        b"\xba\x80\x80\x80\x10\x00",
    ):
        with pytest.raises(ModelFileError):
            check_model(good + added)
    inner = b""
    for _ in range(5000):
        inner = encode_field(1, encode_field(5, encode_field(6, inner)))
    with pytest.raises(ModelFileError):
        check_model(encode_field(7, inner))


def test_swapped_outputs_are_refused(model: Model) -> None:
    proto = onnx.load_from_string(model.data)
    first, second, *_ = proto.graph.output
    first.name, second.name = second.name, first.name
    with pytest.raises(ModelFileError, match=r"other outputs .*expected score float32 \(N\)"):
        Model(proto.SerializeToString())
    del proto.graph.output[:]
    with pytest.raises(ModelFileError, match="other outputs"):
        Model(proto.SerializeToString())
