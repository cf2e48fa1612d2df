"""Run an ONNX model, on ONNX Runtime or on OpenVINO, behind one small protocol.

Threads and hints are those that `benchmarks/runtimes.py` favours: docs/runtimes.md.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fre.errors import (
    FREError,
    InternalError,
    MissingDependencyError,
    OptionError,
)
from fre.onnx_tools.protobuf import encode_field
from fre.parallel import available_cores, forget_in_children, leave_alone

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

LANES = 8
"""Runs at the same time, at most: batches are no larger."""

LANE_ROWS = 4
"""Images to one of these runs, at most."""


class Runtime(Protocol):
    """A model that is ready to run, on any thread.

    Attributes:
        name: which of `RUNTIMES` it is.
        at_once: how many batches to have under way, where there are many: more than one where
            the next fills what the last images of the one before leave idle.
        lane: the same, but up to `LANES` runs at a time, each on the thread that calls it: for a
            caller that has a thread for each core, and other work for them.
        cores: how many threads such a caller should have.
    """

    name: str
    at_once: int = 1
    cores: int = 1

    @property
    def lane(self) -> Runtime:
        return self

    def run(
        self,
        images: NDArray[Any],
        tiles: NDArray[np.int64] | None = None,
        out: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[NDArray[np.float32]]:
        """The model's outputs, in the order that was asked for.

        Args:
            images: the model's first input.
            tiles: its second, if it has one.
            out: arrays to write the outputs to, which are then what is returned; ``None`` makes
                new ones.
        """


def _onnxruntime() -> Any:
    import onnxruntime

    # Its warnings speak of graph optimisation, in words that no user can act upon.
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


class _OnnxRuntime(Runtime):
    """A session of ONNX Runtime.

    Args:
        model: a serialised ONNX model.
        outputs: names of the outputs that are wanted.
        name: which of `PROVIDERS` computes.
        threads: of one run; 0 takes all cores.
        spinning: whether threads that wait for work turn in a loop: they answer sooner, and take
            the cores from whatever else there is to do.
    """

    def __init__(
        self, model: bytes, outputs: Sequence[str], name: str, *, threads: int, spinning: bool
    ) -> None:
        self.name = name
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if not spinning:
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
        self._session: Any = ort.InferenceSession(model, options, providers=providers)
        # Where its driver is missing, ONNX Runtime goes on without a provider.
        if wanted is not None and wanted[0] not in self._session.get_providers():
            raise _absent(name, f"ONNX Runtime can't start its {wanted[0]} on this machine")
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = list(outputs)
        forget_in_children(self)

    def forget(self) -> None:
        leave_alone(self._session)
        self._session = None

    def run(
        self,
        images: NDArray[Any],
        tiles: NDArray[np.int64] | None = None,
        out: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[NDArray[np.float32]]:
        if self._session is None:
            raise _forked(self.name)
        feed = dict(zip(self._inputs, (images, tiles), strict=False))
        result: list[NDArray[np.float32]] = self._session.run(self._outputs, feed)
        return result if out is None else _written(result, out)


class _Opening:
    """A lock that a forked child finds free."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        forget_in_children(self)

    def forget(self) -> None:
        self.lock = threading.Lock()


_opening = _Opening()


class _OpenVINO(Runtime):
    """A network compiled by OpenVINO, which has run once.

    OpenVINO sets itself up in the first calls of a process. Two threads that make them at once
    can wait for each other for ever, one of them with the interpreter's lock. So one thread at a
    time opens a network, and no thread gets a request before the first run is over.

    Args:
        model: a serialised ONNX model.
        outputs: names of the outputs that are wanted.
        threads: of all runs; 0 takes all cores.
        streams: runs at a time, which share the threads.
    """

    name = "openvino"

    def __init__(
        self, model: bytes, outputs: Sequence[str], *, threads: int, streams: int = 1
    ) -> None:
        if not _has_openvino():
            raise MissingDependencyError("the runtime openvino", "openvino")
        self._outputs = list(outputs)
        # A request serves one thread at a time.
        self._free: SimpleQueue[Any] | None = SimpleQueue()
        with _opening.lock:
            for request in self._requests(model, threads, streams):
                self._free.put(request)
        forget_in_children(self)

    def forget(self) -> None:
        leave_alone(self._free)
        self._free = None

    def _requests(self, model: bytes, threads: int, streams: int) -> list[Any]:
        import openvino as ov

        core = ov.Core()
        config: dict[str, Any] = {
            # Some processors would compute in bfloat16 unasked, and the scores would differ.
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if streams > 1:
            config["NUM_STREAMS"] = streams
        if threads:
            config["INFERENCE_NUM_THREADS"] = threads
        network = core.read_model(model, b"")
        self._inputs = len(network.inputs)
        compiled = core.compile_model(network, "CPU", config)
        requests = [compiled.create_infer_request() for _ in range(streams)]
        self._infer(requests[0], [_zeros(value) for value in network.inputs], None)
        return requests

    def run(
        self,
        images: NDArray[Any],
        tiles: NDArray[np.int64] | None = None,
        out: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[NDArray[np.float32]]:
        free = self._free
        if free is None:
            raise _forked(self.name)
        request = free.get()
        try:
            return self._infer(request, [images, tiles][: self._inputs], out)
        finally:
            free.put(request)

    def _infer(
        self, request: Any, inputs: list[Any], out: Sequence[NDArray[np.float32]] | None
    ) -> list[NDArray[np.float32]]:
        request.infer(inputs)
        found = [request.get_tensor(name).data for name in self._outputs]
        return [array.copy() for array in found] if out is None else _written(found, out)


def _zeros(value: Any) -> NDArray[Any]:
    """The smallest array that an input of OpenVINO takes."""
    shape = [1 if size.is_dynamic else size.get_length() for size in value.get_partial_shape()]
    return np.zeros(shape, value.get_element_type().to_dtype())


class _Lanes:
    """Divides a batch among runs at the same time, a core each.

    Threads that share a run wait for one another after each of its operations; runs of their own
    do not, and let the cores decode other images in between: on the very threads, if the caller
    has some (see `lane`), as more threads than cores cost a twentieth of the time.

    Args:
        lanes: number of runs at a time.
        cores: that they share.
        shared: can be run by several threads at a time.
        opened_alone: opens what runs an image that is by itself on all cores.
    """

    at_once = 2

    def __init__(
        self, lanes: int, cores: int, shared: Runtime, opened_alone: Callable[[], Runtime]
    ) -> None:
        self.name = shared.name
        self.lane = shared
        self.cores = cores
        self._lanes = lanes
        self._opened_alone = opened_alone
        self._pool = ThreadPoolExecutor(lanes, thread_name_prefix="fre-run")
        self._alone_before = False
        forget_in_children(self)

    def forget(self) -> None:
        leave_alone(self._pool)

    @cached_property
    def _alone(self) -> Runtime:
        return self._opened_alone()

    def run(
        self,
        images: NDArray[Any],
        tiles: NDArray[np.int64] | None = None,
        out: Sequence[NDArray[np.float32]] | None = None,
    ) -> list[NDArray[np.float32]]:
        n = len(images)
        if n == 1:
            # The last of many is no reason to open the model a second time.
            runtime = self._alone if self._alone_before else self.lane
            self._alone_before = True
            return runtime.run(images, tiles, out)
        self._alone_before = False
        step = min(LANE_ROWS, -(-n // self._lanes))
        found = self._pool.map(
            lambda part: self.lane.run(
                images[part],
                None if tiles is None else tiles[part],
                None if out is None else [array[part] for array in out],
            ),
            [slice(start, start + step) for start in range(0, n, step)],
        )
        if out is None:
            return [np.concatenate(outputs) for outputs in zip(*found, strict=True)]
        for _ in found:  # raises what a run has raised
            pass
        return list(out)


def _written(
    found: Sequence[NDArray[np.float32]], out: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    for array, place in zip(found, out, strict=True):
        place[...] = array
    return list(out)


def _open_one(model: bytes, outputs: Sequence[str], name: str, threads: int) -> Runtime:
    """For the time that one image takes."""
    if name == "openvino":
        return _OpenVINO(model, outputs, threads=threads)
    return _OnnxRuntime(model, outputs, name, threads=threads, spinning=True)


def _open_many(model: bytes, outputs: Sequence[str], name: str, threads: int) -> Runtime:
    """For the images that it takes in a time, while others are decoded."""
    cores = threads or available_cores()
    lanes = min(LANES, cores)
    if name == "openvino":
        if lanes == 1:
            return _OpenVINO(model, outputs, threads=threads)
        shared = _OpenVINO(model, outputs, threads=cores, streams=lanes)
        return _Lanes(lanes, cores, shared, lambda: _OpenVINO(model, outputs, threads=threads))

    def quiet(count: int) -> Runtime:
        return _OnnxRuntime(model, outputs, name, threads=count, spinning=False)

    if PROVIDERS[name] is not None:
        return quiet(threads)
    if lanes == 1:
        return quiet(1)
    # Each run computes on the thread that calls it; cores beyond those help whichever asks.
    return _Lanes(lanes, cores, quiet(1 + cores - lanes), lambda: quiet(threads))


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


def _forked(name: str) -> OptionError:
    return OptionError(
        f"the runtime {name} was opened before this process was forked; load the model in the "
        "child, or start the process with multiprocessing.get_context('spawn')"
    )


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
        threads: of all runs together; 0 takes all cores.
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
        return (_open_many if many else _open_one)(model, outputs, runtime, threads)
    except FREError:
        raise
    except Exception as error:  # each fault of a model has a type of its own, derived from this
        said = " ".join(str(error).split())
        raise InternalError(f"{runtime} can't load the model: {said}") from error


def with_outputs(model: bytes, names: Sequence[str]) -> bytes:
    """A serialised ONNX model with some of its tensors as further outputs.

    The appended bytes are a model whose graph has outputs and nothing else: see
    `fre.onnx_tools.protobuf`.
    """
    outputs = b"".join(
        encode_field(GRAPH_OUTPUT, encode_field(VALUE_NAME, name.encode())) for name in names
    )
    return model + encode_field(MODEL_GRAPH, outputs)


MODEL_GRAPH, GRAPH_OUTPUT, VALUE_NAME = 7, 12, 1
"""Numbers of the fields in onnx.proto: ModelProto, GraphProto, ValueInfoProto."""
