"""Run an ONNX model, on ONNX Runtime or on OpenVINO, behind one small protocol."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fre.errors import InternalError, MissingDependencyError, ModelFileError, OptionError

__all__ = ["RUNTIMES", "Runtime", "open_runtime", "read_metadata", "with_outputs"]

RUNTIMES = ("onnxruntime", "openvino")


class Runtime(Protocol):
    """A model that is ready to run."""

    name: str

    def run(
        self, images: NDArray[Any], tiles: NDArray[np.int64] | None = None
    ) -> list[NDArray[np.float32]]:
        """The model's outputs, in the order that was asked for.

        Args:
            images: the model's first input.
            tiles: its second, if it has one.
        """


def _onnxruntime() -> Any:
    import onnxruntime

    # Its warnings speak of graph optimisation, in words that no user can act upon.
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


class _OnnxRuntime:
    name = "onnxruntime"

    def __init__(self, model: bytes, outputs: Sequence[str], threads: int) -> None:
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = list(outputs)

    def run(
        self, images: NDArray[Any], tiles: NDArray[np.int64] | None = None
    ) -> list[NDArray[np.float32]]:
        feed = dict(zip(self._inputs, (images, tiles), strict=False))
        result: list[NDArray[np.float32]] = self._session.run(self._outputs, feed)
        return result


class _OpenVINO:
    name = "openvino"

    def __init__(self, model: bytes, outputs: Sequence[str], threads: int) -> None:
        if importlib.util.find_spec("openvino") is None:
            raise MissingDependencyError("the runtime openvino", "openvino")
        import openvino as ov

        core = ov.Core()
        config: dict[str, Any] = {
            # Some processors would compute in bfloat16 unasked, and the scores would differ.
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        network = core.read_model(model, b"")
        self._request = core.compile_model(network, "CPU", config).create_infer_request()
        self._outputs = list(outputs)

    def run(
        self, images: NDArray[Any], tiles: NDArray[np.int64] | None = None
    ) -> list[NDArray[np.float32]]:
        self._request.infer([images] if tiles is None else [images, tiles])
        return [self._request.get_tensor(name).data.copy() for name in self._outputs]


def open_runtime(
    model: bytes, outputs: Sequence[str], *, runtime: str = "onnxruntime", threads: int = 0
) -> Runtime:
    """Make a model ready to run.

    Args:
        model: a serialised ONNX model.
        outputs: names of the outputs that are wanted.
        runtime: ``"onnxruntime"`` or ``"openvino"``.
        threads: threads for one run; 0 leaves it to the runtime, which takes all cores.

    Raises:
        OptionError: an unknown runtime.
        MissingDependencyError: the runtime is not installed.
        InternalError: the runtime refuses the model.
    """
    if runtime not in RUNTIMES:
        raise OptionError(f"no runtime is called {runtime!r}; choose from: {', '.join(RUNTIMES)}")
    try:
        return (_OnnxRuntime if runtime == "onnxruntime" else _OpenVINO)(model, outputs, threads)
    except RuntimeError as error:
        raise InternalError(f"{runtime} can't load the model: {error}") from error


def with_outputs(model: bytes, names: Sequence[str]) -> bytes:
    """A serialised ONNX model with some of its tensors as further outputs.

    Messages of Protocol Buffers that are written one after the other are read as one, their
    repeated fields joined (its encoding guide, "Last One Wins"). So what is added is another
    model, of a graph that has outputs and nothing else; and neither the package onnx nor a
    second copy of the weights is needed.
    """
    outputs = b"".join(_field(GRAPH_OUTPUT, _field(VALUE_NAME, name.encode())) for name in names)
    return model + _field(MODEL_GRAPH, outputs)


MODEL_GRAPH, GRAPH_OUTPUT, VALUE_NAME = 7, 12, 1
"""Numbers of the fields in onnx.proto: ModelProto, GraphProto, ValueInfoProto."""


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes([*encoded, value])


def read_metadata(model: bytes) -> dict[str, str]:
    """The ``metadata_props`` of a serialised ONNX model.

    Raises:
        ModelFileError: the bytes are not an ONNX model.
    """
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # each fault of a file has a type of its own, derived from this
        raise ModelFileError("not an ONNX model, or a damaged one") from error
    metadata: dict[str, str] = session.get_modelmeta().custom_metadata_map
    return metadata
