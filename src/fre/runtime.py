"""Run an ONNX model, on ONNX Runtime or on OpenVINO, behind one small protocol.

Threads and hints are those that `benchmarks/runtimes.py` favours: docs/runtimes.md.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fre.errors import (
    FREError,
    InternalError,
    MissingDependencyError,
    ModelFileError,
    OptionError,
)
from fre.wire import encode_field, fields

__all__ = [
    "RUNTIMES",
    "Runtime",
    "available_runtimes",
    "open_runtime",
    "read_metadata",
    "with_outputs",
]

CPU = "CPUExecutionProvider"
PROVIDERS: dict[str, tuple[str, dict[str, str]] | None] = {
    "onnxruntime": None,
    # TensorFloat-32 keeps ten bits of each factor, and the scores would differ.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    "coreml": ("CoreMLExecutionProvider", {}),
    "directml": ("DmlExecutionProvider", {}),
}
"""Names of ONNX Runtime here, and what computes all that it can before the processor does."""

RUNTIMES = (*PROVIDERS, "openvino")


class Runtime(Protocol):
    """A model that is ready to run, on any thread.

    Attributes:
        name: which of `RUNTIMES` it is.
    """

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
    def __init__(
        self, model: bytes, outputs: Sequence[str], threads: int, name: str, many: bool
    ) -> None:
        self.name = name
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if many:
            # Threads that wait for work by turning in a loop take the cores from those that decode.
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers: list[Any] = [CPU]
        wanted = PROVIDERS[name]
        if wanted is not None:
            if wanted[0] not in ort.get_available_providers():
                raise _absent(name, f"this ONNX Runtime has no {wanted[0]}")
            providers.insert(0, wanted)
        if name == "directml":
            # It supports neither of them, says the documentation of ONNX Runtime.
            options.enable_mem_pattern = False
            options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        self._session = ort.InferenceSession(model, options, providers=providers)
        # Where its driver is missing, ONNX Runtime goes on without a provider.
        if wanted is not None and wanted[0] not in self._session.get_providers():
            raise _absent(name, f"ONNX Runtime can't start its {wanted[0]} on this machine")
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
        if not _has_openvino():
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
        self._inputs = len(network.inputs)
        self._request = core.compile_model(network, "CPU", config).create_infer_request()
        self._outputs = list(outputs)
        self._turn = Lock()

    def run(
        self, images: NDArray[Any], tiles: NDArray[np.int64] | None = None
    ) -> list[NDArray[np.float32]]:
        # A request serves one thread at a time.
        with self._turn:
            self._request.infer([images, tiles][: self._inputs])
            return [self._request.get_tensor(name).data.copy() for name in self._outputs]


def _has_openvino() -> bool:
    try:
        return importlib.util.find_spec("openvino") is not None
    except ModuleNotFoundError:  # of someone's import hook
        return False


def available_runtimes() -> list[str]:
    """Those of `RUNTIMES` that are installed here."""
    there = _onnxruntime().get_available_providers()
    found = [name for name, wanted in PROVIDERS.items() if wanted is None or wanted[0] in there]
    return [*found, "openvino"] if _has_openvino() else found


def _absent(name: str, reason: str) -> OptionError:
    others = ", ".join(other for other in available_runtimes() if other != name)
    return OptionError(f"the runtime {name} is not available: {reason}; choose from: {others}")


def open_runtime(
    model: bytes,
    outputs: Sequence[str],
    *,
    runtime: str = "onnxruntime",
    threads: int = 0,
    many: bool = False,
) -> Runtime:
    """Make a model ready to run.

    Args:
        model: a serialised ONNX model.
        outputs: names of the outputs that are wanted.
        runtime: ``"onnxruntime"`` or ``"openvino"``; or ``"cuda"``, ``"coreml"`` or
            ``"directml"``, ONNX Runtime with a provider that computes all that it can.
        threads: threads for one run; 0 leaves it to the runtime, which takes all cores.
        many: whether images come in batches, while others are decoded; else the time that one
            takes is what counts.

    Raises:
        OptionError: an unknown runtime, or one whose provider is not there.
        MissingDependencyError: the runtime is not installed.
        InternalError: the runtime refuses the model.
    """
    if runtime not in RUNTIMES:
        raise OptionError(f"no runtime is called {runtime!r}; choose from: {', '.join(RUNTIMES)}")
    try:
        if runtime == "openvino":
            return _OpenVINO(model, outputs, threads)
        return _OnnxRuntime(model, outputs, threads, runtime, many)
    except FREError:
        raise
    except Exception as error:  # each fault of a model has a type of its own, derived from this
        raise InternalError(f"{runtime} can't load the model: {error}") from error


def with_outputs(model: bytes, names: Sequence[str]) -> bytes:
    """A serialised ONNX model with some of its tensors as further outputs.

    What is appended is another model, of a graph that has outputs and nothing else: see `fre.wire`.
    """
    outputs = b"".join(
        encode_field(GRAPH_OUTPUT, encode_field(VALUE_NAME, name.encode())) for name in names
    )
    return model + encode_field(MODEL_GRAPH, outputs)


MODEL_GRAPH, GRAPH_OUTPUT, VALUE_NAME = 7, 12, 1
MODEL_METADATA, ENTRY_KEY, ENTRY_VALUE = 14, 1, 2
"""Numbers of the fields in onnx.proto: ModelProto, GraphProto, ValueInfoProto; then those of
ModelProto and StringStringEntryProto."""


def read_metadata(model: bytes) -> dict[str, str]:
    """The ``metadata_props`` of a serialised ONNX model.

    Read from the encoding itself, past the weights: a runtime would load all of the model first.

    Raises:
        ModelFileError: the bytes are not an ONNX model, or end too early.
    """
    metadata: dict[str, str] = {}
    graphs = 0
    try:
        for field in fields(model):
            graphs += field.number == MODEL_GRAPH
            if field.number == MODEL_METADATA:
                entry = {
                    part.number: bytes(part.content).decode() for part in fields(field.content)
                }
                metadata[entry.get(ENTRY_KEY, "")] = entry.get(ENTRY_VALUE, "")
        if not graphs:
            raise ValueError("no graph")
    except (ValueError, IndexError) as error:
        raise ModelFileError("not an ONNX model, or a damaged one") from error
    return metadata
