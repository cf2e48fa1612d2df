"""A frozen network in an ONNX file as a backbone, with layers named by its tensors."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, helper, version_converter

from fre.backbones.base import Backbone, Layer, Normalisation
from fre.errors import BackboneError, ModelFileError
from fre.onnx_tools.builder import OPSET
from fre.onnx_tools.check import check_model
from fre.onnx_tools.surgery import adopt, first_line, run
from fre.storage.files import read_regular
from fre.types import FloatArray

NORMALISATION_KEY = "fre.normalisation"
IMAGENET = Normalisation(
    (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)
)
FREE_SIDE = 256
"""Default height and width of the input, in pixels, if the file does not fix them."""
LISTED = 24
"""Number of inner tensors that an error lists; networks have hundreds."""
TOLERANCE = 1e-4


class OnnxFileBackbone(Backbone):
    """A network in an ONNX file: one input, float32 (N, 3, H, W), and feature maps within.

    **Layers** are tensors of the graph, by their names: its outputs, and the outputs of its inner
    nodes. `layers` lists the feature maps, float32 (N, channels, h, w). A trained model leaves out
    the network after the deepest layer in use.

    **The reference layer** is the deepest output of stride 16 or less that is a feature map.

    **The size** is the file's if the file fixes it; else 256 x 256 by default. A fixed batch size
    is freed if the network allows it.

    **The normalisation** does not follow from a network. The default is ImageNet's mean and
    standard deviation, as for nearly every network of torchvision and timm. The file's metadata can
    set it under ``fre.normalisation``: JSON, per channel of RGB, for pixels in 0..255.
    For a network that takes pixels in 0..1::

        onnx.helper.set_model_props(
            model, {"fre.normalisation": '{"mean": [0, 0, 0], "std": [255, 255, 255]}'}
        )

    and with a ``std`` of 1 for one that takes 0..255. An older operator set is converted to that
    of fre, and the result compared with the original.

    Args:
        path: the file. It must hold all weights, and only the operators that `fre.onnx_tools.sizes`
            lists: no control flow, no functions, no custom domains.

    Attributes:
        name: the file's name without its folders.
        weights_sha256: digest of the file.

    Raises:
        BackboneError: the file is missing, damaged, not ONNX, or not such a network.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        self._model, self.weights_sha256 = _read(path)
        source = _image_input(path, self._model)
        batch, _, *sides = (dim.dim_value for dim in _dims(source))
        self._batch = batch or 1
        self._fixed = tuple(sides) if all(sides) else None
        self.any_size = not any(sides)
        self.default_size = (sides[0] or FREE_SIDE, sides[1] or FREE_SIDE)
        self.normalisation = _normalisation(path, self._model)
        self._outputs = [value.name for value in self._model.graph.output]
        _free_batch(self._model, source)
        self._modernise()
        self._shapes = self._probe(self._tensors(), self.default_size)
        self.layers = tuple(
            Layer(name, max(1, round(self.default_size[0] / shape[2])), shape[1])
            for name, shape in self._shapes.items()
            if self._is_feature_map(name)
        )
        outputs = [layer for layer in self.layers if layer.name in self._outputs]
        deepest = max(
            reversed(outputs), key=lambda layer: (layer.stride <= 16, layer.stride), default=None
        )
        self.reference_layer = deepest.name if deepest else self._outputs[0]

    def layer(self, name: str) -> Layer:
        """Return a layer by its name.

        Raises:
            BackboneError: no tensor has that name, or it is not a feature map. The message lists
                the outputs first, then inner tensors.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        names = [layer.name for layer in self.layers]
        inner = [other for other in names if other not in self._outputs]
        outputs = ", ".join(other for other in names if other in self._outputs) or "(none)"
        tensors = ", ".join(inner[-LISTED:]) or "(none)"
        if name in self._shapes:
            found = f"{name} is no feature map: its shape is {_shape(self._shapes[name])}"
        else:
            found = f"there is no layer {name!r}"
        raise BackboneError(
            f"{self.name}: {found}; outputs that are feature maps (N, channels, h, w): {outputs}; "
            f"{'the last ' if inner[LISTED:] else ''}inner tensors that are: {tensors}"
        )

    def graph(self, layers: Sequence[str], size: tuple[int, int]) -> onnx.ModelProto:
        """See `Backbone.graph`."""
        names = list(dict.fromkeys(layers))
        for name in names:
            self.layer(name)
        for side, fixed in zip(size, self._fixed or size, strict=True):
            if side != fixed:
                height, width = self._fixed or size
                raise BackboneError(
                    f"{self.name} is made for images of {height} x {width} pixels, not "
                    f"{size[0]} x {size[1]}"
                )
        shapes = self._probe(names, size) if size != self.default_size else self._shapes
        maps = {name: (shapes[name][1], shapes[name][2], shapes[name][3]) for name in names}
        try:
            model = adopt(self._model, maps, prefix=f"{self.name}/", size=size)
        except onnx.checker.ValidationError as error:
            raise BackboneError(f"{self._path}: not valid ONNX: {first_line(error)}") from error
        self._check_batch(model, maps)
        return model

    def _tensors(self) -> list[str]:
        return [name for node in self._model.graph.node for name in node.output if name]

    def _is_feature_map(self, name: str) -> bool:
        shape = self._shapes[name]
        return len(shape) == 4 and shape[0] == self._batch and 0 not in shape

    def _modernise(self) -> None:
        """Convert the network to the operator set of fre's own nodes."""
        standard = [o for o in self._model.opset_import if o.domain in ("", "ai.onnx")]
        if not standard:
            self._model.opset_import.append(helper.make_opsetid("", OPSET))
        elif standard[0].version < OPSET:
            self._convert(standard[0].version)

    def _convert(self, version: int) -> None:
        shape = (self._batch, 3, *self.default_size)
        images = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        before = self._run(self._outputs, images)
        what = f"{self._path}: can't convert opset {version} to {OPSET}"
        way_out = f"export the network with opset {OPSET} or newer"
        try:
            self._model = version_converter.convert_version(self._model, OPSET)
        except Exception as error:  # of the C++ library, of several types
            raise BackboneError(f"{what}: {first_line(error)}; {way_out}") from error
        after = self._run(self._outputs, images)
        for name, old, new in zip(self._outputs, before, after, strict=True):
            limit = TOLERANCE * np.abs(old).max(initial=0)
            # Not the other way round: a NaN must fail, too.
            if old.shape != new.shape or not np.all(np.abs(new - old) <= limit):
                raise BackboneError(f"{what}: it changes {name}; {way_out}")

    def _probe(self, names: Sequence[str], size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of those tensors that are float32, name to shape."""
        results = self._run(names, np.zeros((self._batch, 3, *size), np.float32))
        return {
            name: result.shape
            for name, result in zip(names, results, strict=True)
            if getattr(result, "dtype", None) == np.float32
        }

    def _run(self, names: Sequence[str], images: FloatArray) -> list[NDArray[Any]]:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        present = {value.name for value in model.graph.output}
        model.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in names if name not in present
        )
        try:
            return run(model, names, images)
        except Exception as error:  # each fault has a type of its own in ONNX Runtime
            height, width = images.shape[2:]
            raise BackboneError(
                f"{self._path}: the network does not run on images of {height} x {width} pixels: "
                f"{first_line(error)}"
            ) from error

    def _check_batch(
        self, model: onnx.ModelProto, shapes: Mapping[str, tuple[int, int, int]]
    ) -> None:
        """Check before training whether the batch can be of any size."""
        _, _, height, width = (dim.dim_value for dim in _dims(model.graph.input[0]))
        refused = BackboneError(
            f"{self._path}: the network works on batches of {self._batch} only; export it "
            "with a dynamic batch dimension"
        )
        try:
            results = run(model, shapes, np.zeros((2, 3, height, width), np.float32))
        except Exception as error:  # each fault has a type of its own in ONNX Runtime
            raise refused from error
        if [result.shape for result in results] != [(2, *shape) for shape in shapes.values()]:
            raise refused


def _read(path: Path) -> tuple[onnx.ModelProto, str]:
    """Read a model that passes `check_model`, and the digest of its file."""
    try:
        data = read_regular(path)
    except OSError as error:
        raise BackboneError(f"{path}: can't read the network: {error.strerror}") from error
    try:
        check_model(data, free=FREE_SIDE)
        model = onnx.load_model_from_string(data)
    except (ModelFileError, DecodeError) as error:
        raise BackboneError(f"{path}: {first_line(error)}") from error
    if not model.graph.output:
        raise BackboneError(f"{path}: not an ONNX model, or a damaged one")
    return model, hashlib.sha256(data).hexdigest()


def _image_input(path: Path, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    constants = {tensor.name for tensor in model.graph.initializer}
    sources: list[onnx.ValueInfoProto] = [
        value for value in model.graph.input if value.name not in constants
    ]
    if len(sources) != 1:
        raise BackboneError(
            f"{path}: expected one input, float32 (N, 3, H, W), found {len(sources)}"
        )
    tensor = sources[0].type.tensor_type
    dims = [dim.dim_value or dim.dim_param or "?" for dim in _dims(sources[0])]
    # A dimension without a number is free.
    fits = len(dims) == 4 and (dims[1] == 3 or isinstance(dims[1], str))
    if not fits or tensor.elem_type != TensorProto.FLOAT:
        # ONNX has FLOAT16 and FLOAT, and means 32 bits by the latter.
        kind = (
            "float32"
            if tensor.elem_type == TensorProto.FLOAT
            else (TensorProto.DataType.Name(tensor.elem_type).lower())
        )
        raise BackboneError(
            f"{path}: expected an input of float32 (N, 3, H, W), found {kind} {_shape(dims)}"
        )
    return sources[0]


def _dims(value: onnx.ValueInfoProto) -> list[Any]:
    return list(value.type.tensor_type.shape.dim)


def _free_batch(model: onnx.ModelProto, source: onnx.ValueInfoProto) -> None:
    """Free the batch size, and drop the shapes that were inferred for one size."""
    _dims(source)[0].dim_param = "N"
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")


def _normalisation(path: Path, model: onnx.ModelProto) -> Normalisation:
    text = next((p.value for p in model.metadata_props if p.key == NORMALISATION_KEY), None)
    if text is None:
        return IMAGENET
    try:
        values = json.loads(text)
        (mr, mg, mb), (sr, sg, sb) = (map(float, values[key]) for key in ("mean", "std"))
    except (ValueError, TypeError, KeyError) as error:
        raise _bad_normalisation(path) from error
    if not all(map(math.isfinite, (mr, mg, mb))) or not all(0 < s < math.inf for s in (sr, sg, sb)):
        raise _bad_normalisation(path)
    return Normalisation((mr, mg, mb), (sr, sg, sb))


def _bad_normalisation(path: Path) -> BackboneError:
    return BackboneError(
        f"{path}: its metadata {NORMALISATION_KEY} must be JSON with 'mean' and 'std', three "
        "numbers each, for pixels in 0..255, std above 0"
    )


def _shape(dims: Sequence[object]) -> str:
    return f"({', '.join(map(str, dims))})"
