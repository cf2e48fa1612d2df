"""Run an ONNX model on ONNX Runtime or OpenVINO, behind one small protocol.

`benchmarks/runtimes.py` chose the threads and hints: see docs/runtimes.md.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from queue import SimpleQueue
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fre.errors import FREError, InternalError, MissingDependencyError, OptionError
from fre.parallel import available_cores, forget_in_children, leave_alone
from fre.runtimes.lanes import Sharing

CPU = "CPUExecutionProvider"
PROVIDERS: dict[str, tuple[str, dict[str, str]] | None] = {
    "onnxruntime": None,
    # TensorFloat-32 keeps ten bits of each factor, and the scores would differ.
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),
    "coreml": ("CoreMLExecutionProvider", {}),
    "directml": ("DmlExecutionProvider", {}),
}
"""Name of a runtime -> provider of ONNX Runtime and its options; ``None`` for the processor alone.
The processor computes the operators that a provider lacks."""

RUNTIMES = (*PROVIDERS, "openvino")

Tiles: TypeAlias = "NDArray[np.int64] | None"
Outputs: TypeAlias = "list[NDArray[np.float32]]"
Out: TypeAlias = "Sequence[NDArray[np.float32]] | None"

LANE_ROWS = 4
"""Largest number of images in one of these runs."""

SPIN_MICROSECONDS = 200
"""Time that an idle thread of a run polls for work before it sleeps: as fast as ONNX Runtime's own
setting, by which it polls for tens of milliseconds after each image (`benchmarks/cadence.py`)."""


class Runtime(Protocol):
    """A model that is ready to run, on any thread.

    Attributes:
        name: one of `RUNTIMES`.
        at_once: number of batches in flight; more than 1 keeps all threads busy at the end of a
            batch.
        lane: this model for up to ``lanes`` calls at a time, each computed on the thread that
            calls it: for a caller with a thread per core that also does other work.
        lanes: number of such calls at a time.
        cores: number of threads that such a caller should have.
    """

    name: str
    at_once: int = 1
    lanes: int = 1
    cores: int = 1

    @property
    def lane(self) -> Runtime:
        return self

    def run(self, images: NDArray[Any], tiles: Tiles = None, out: Out = None) -> Outputs:
        """Return the model's outputs, in the order of the names it was opened with.

        Args:
            images: uint8 (N, H, W, 3), first input of the model.
            tiles: int64 (N,), second input, of models with a subspace for each tile.
            out: arrays to write the outputs to and return; ``None`` for new arrays.
        """


def _onnxruntime() -> Any:
    import onnxruntime

    # Users can't act upon its warnings about graph optimisation.
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


def import_runtime(name: str) -> None:
    """Import the package of a runtime ahead of its use, except OpenVINO's.

    Args:
        name: as for `open_runtime`, which reports a package that can't be imported.
    """
    if name != "openvino":
        with suppress(ImportError):
            _onnxruntime()


class _OnnxRuntime(Runtime):
    """A session of ONNX Runtime.

    Args:
        model: a serialised ONNX model.
        outputs: names of the outputs to return.
        name: key of `PROVIDERS`.
        threads: number of threads of one run, 0 for all cores.
        spinning: whether idle threads poll for work for `SPIN_MICROSECONDS`: they answer sooner,
            but keep the cores from other work.
    """

    def __init__(
        self, model: bytes, outputs: Sequence[str], name: str, *, threads: int, spinning: bool
    ) -> None:
        self.name = name
        ort = _onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        if spinning:
            # Versions of ONNX Runtime that do not know the entry poll longer.
            entry = "session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS)
        else:
            entry = "session.intra_op.allow_spinning", "0"
        options.add_session_config_entry(*entry)
        providers: list[Any] = [CPU]
        wanted = PROVIDERS[name]
        if wanted is not None:
            if wanted[0] not in ort.get_available_providers():
                raise _absent(name, f"this ONNX Runtime has no {wanted[0]}")
            providers.insert(0, wanted)
        if name == "directml":
            # ONNX Runtime's documentation: DirectML supports neither.
            options.enable_mem_pattern = False
            options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        self._session: Any = ort.InferenceSession(model, options, providers=providers)
        # ONNX Runtime drops a provider whose driver is missing.
        if wanted is not None and wanted[0] not in self._session.get_providers():
            raise _absent(name, f"ONNX Runtime can't start its {wanted[0]} on this machine")
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._outputs = list(outputs)
        forget_in_children(self)

    def forget(self) -> None:
        leave_alone(self._session)
        self._session = None

    def run(self, images: NDArray[Any], tiles: Tiles = None, out: Out = None) -> Outputs:
        if self._session is None:
            raise _forked(self.name)
        feed = dict(zip(self._inputs, (images, tiles), strict=False))
        result: Outputs = self._session.run(self._outputs, feed)
        return result if out is None else _written(result, out)


class _Opening:
    """A lock that is free in a forked child."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        forget_in_children(self)

    def forget(self) -> None:
        self.lock = threading.Lock()


_opening = _Opening()


class _OpenVINO(Runtime):
    """A network compiled by OpenVINO, which has run once.

    OpenVINO initialises itself in the first calls of a process. Two threads that call it at once
    can deadlock, one of them holding the interpreter's lock. So one thread at a time opens a
    network, and no thread gets a request before the first run is over.

    Args:
        model: a serialised ONNX model.
        outputs: names of the outputs to return.
        threads: number of threads of all runs together, 0 for all cores.
        streams: number of runs at a time, which share the threads.
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

    def run(self, images: NDArray[Any], tiles: Tiles = None, out: Out = None) -> Outputs:
        free = self._free
        if free is None:
            raise _forked(self.name)
        request = free.get()
        try:
            return self._infer(request, [images, tiles][: self._inputs], out)
        finally:
            free.put(request)

    def _infer(self, request: Any, inputs: list[Any], out: Out) -> Outputs:
        request.infer(inputs)
        found = [request.get_tensor(name).data for name in self._outputs]
        return [array.copy() for array in found] if out is None else _written(found, out)


def _zeros(value: Any) -> NDArray[Any]:
    """Return the smallest array that an input of OpenVINO accepts."""
    shape = [1 if size.is_dynamic else size.get_length() for size in value.get_partial_shape()]
    return np.zeros(shape, value.get_element_type().to_dtype())


class _Lanes:
    """Divides a batch among simultaneous runs, one core each.

    Threads that share a run wait for one another after each operation; separate runs do not, and
    leave cores free to decode other images. A caller with threads of its own computes on them (see
    `Runtime.lane`), because more threads than cores cost a twentieth of the time.

    Args:
        sharing: number of runs at a time, and of cores that they share.
        shared: a runtime that several threads may call at a time.
        opened_alone: opens a runtime for a single image on all cores.
    """

    def __init__(
        self, sharing: Sharing, shared: Runtime, opened_alone: Callable[[], Runtime]
    ) -> None:
        self.name = shared.name
        self.at_once = sharing.batches
        self.lane = shared
        self.lanes = sharing.lanes
        self.cores = sharing.cores
        self._opened_alone = opened_alone
        self._pool = ThreadPoolExecutor(self.lanes, thread_name_prefix="fre-run")
        self._alone_before = False
        self._under_way = 0
        self._count = threading.Lock()
        forget_in_children(self)

    def forget(self) -> None:
        leave_alone(self._pool)
        self._count = threading.Lock()

    @cached_property
    def _alone(self) -> Runtime:
        return self._opened_alone()

    def run(self, images: NDArray[Any], tiles: Tiles = None, out: Out = None) -> Outputs:
        with self._count:
            self._under_way += 1
            # Beside other runs, an image on all cores would only wait for them.
            alone = len(images) == 1 and self._under_way == 1
        try:
            return (self._run_alone if alone else self._run_divided)(images, tiles, out)
        finally:
            with self._count:
                self._under_way -= 1

    def _run_alone(self, image: NDArray[Any], tiles: Tiles, out: Out) -> Outputs:
        # The last image of many is no reason to open the model a second time.
        runtime = self._alone if self._alone_before else self.lane
        self._alone_before = True
        return runtime.run(image, tiles, out)

    def _run_divided(self, images: NDArray[Any], tiles: Tiles, out: Out) -> Outputs:
        n = len(images)
        self._alone_before = False
        step = min(LANE_ROWS, -(-n // self.lanes))
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
        for _ in found:  # raises the error of a run
            pass
        return list(out)


def _written(found: Outputs, out: Sequence[NDArray[np.float32]]) -> Outputs:
    for array, place in zip(found, out, strict=True):
        place[...] = array
    return list(out)


def _open_one(model: bytes, outputs: Sequence[str], name: str, threads: int) -> Runtime:
    """Open a model for the shortest time of one image."""
    if name == "openvino":
        return _OpenVINO(model, outputs, threads=threads)
    return _OnnxRuntime(model, outputs, name, threads=threads, spinning=True)


def _open_many(model: bytes, outputs: Sequence[str], name: str, threads: int) -> Runtime:
    """Open a model for the most images per second, while other images are decoded."""
    sharing = Sharing.of(threads or available_cores())
    cores, lanes = sharing.cores, sharing.lanes
    if name == "openvino":
        if lanes == 1:
            return _OpenVINO(model, outputs, threads=threads)
        shared = _OpenVINO(model, outputs, threads=cores, streams=lanes)
        return _Lanes(sharing, shared, lambda: _OpenVINO(model, outputs, threads=threads))

    def quiet(count: int) -> Runtime:
        return _OnnxRuntime(model, outputs, name, threads=count, spinning=False)

    def alone() -> Runtime:
        return _OnnxRuntime(model, outputs, name, threads=threads, spinning=True)

    if PROVIDERS[name] is not None:
        return quiet(threads)
    if lanes == 1:
        return quiet(1)
    # Each run computes on the thread that calls it; cores beyond those help whichever asks.
    return _Lanes(sharing, quiet(sharing.threads), alone)


def _has_openvino() -> bool:
    try:
        return importlib.util.find_spec("openvino") is not None
    except ModuleNotFoundError:  # of someone's import hook
        return False


def available_runtimes() -> list[str]:
    """Return the names of the installed runtimes."""
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
        outputs: names of the outputs to return.
        runtime: ``"onnxruntime"`` or ``"openvino"``; or ``"cuda"``, ``"coreml"`` or
            ``"directml"``, ONNX Runtime with that provider.
        threads: number of threads of all runs together, 0 for all cores.
        many: whether to open the model for the most images per second; else for the shortest time
            of one image.

    Raises:
        OptionError: the runtime is unknown, or its provider is not available.
        MissingDependencyError: the runtime is not installed.
        InternalError: the runtime refuses the model.
    """
    if runtime not in RUNTIMES:
        raise OptionError(f"no runtime is called {runtime!r}; choose from: {', '.join(RUNTIMES)}")
    try:
        return (_open_many if many else _open_one)(model, outputs, runtime, threads)
    except FREError:
        raise
    except Exception as error:  # runtimes raise errors of their own types
        said = " ".join(str(error).split())
        raise InternalError(f"{runtime} can't load the model: {said}") from error
