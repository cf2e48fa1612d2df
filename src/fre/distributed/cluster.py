"""A Ray cluster: join or start it, and configure Ray Data."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fre.errors import FREError, InternalError, MissingDependencyError, OptionError
from fre.version import __version__

READERS = 4
"""Number of reading threads of a worker for each core; they mostly wait."""

DEATHS = 100
"""Number of workers that may die in a row before they begin."""

PATIENCE = 10.0
"""Seconds to wait for the answer of a cluster."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster and how much of it is used.

    Args:
        address: address of the cluster, such as ``10.0.0.1:6379`` or ``auto``. ``None`` takes the
            environment's ``RAY_ADDRESS``, or else this machine alone.
        workers: number of processes with the network; ``None`` uses all cores.
        threads: number of cores of each worker.
    """

    address: str | None = None
    workers: int | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.threads < 1 or (self.workers is not None and self.workers < 1):
            raise OptionError("workers and threads must be at least 1")

    @contextmanager
    def joined(self, *, ordered: bool) -> Iterator[int]:
        """Join the cluster while the block runs.

        If the process has already joined a cluster, that one is used and not left.

        Args:
            ordered: whether results keep the order of their inputs.

        Yields:
            The number of workers.

        Raises:
            MissingDependencyError: Ray is not installed.
            OptionError: there is no cluster at the address, or it is too small.
        """
        if importlib.util.find_spec("ray") is None:
            raise MissingDependencyError("work on several machines", "ray")
        import ray

        here = not ray.is_initialized()
        if here:
            _join(ray, self.address)
        try:
            cores = int(ray.cluster_resources().get("CPU", 0))
            workers = self.workers or cores // self.threads
            if workers * self.threads > cores or workers < 1:
                raise OptionError(
                    f"{workers or 1} workers of {self.threads} cores are more than the cluster's "
                    f"{cores} cores; give fewer --workers or --threads"
                )
            with _reporting(), _settings(ray, ordered):
                yield workers
        finally:
            if here:
                ray.shutdown()

    def pool(self, workers: int) -> dict[str, Any]:
        """Return options of `ray.data.Dataset.map_batches` for a class on a pool of workers.

        Ray Data restarts a worker that dies and repeats its work, on which the output relies.
        """
        from ray.data import ActorPoolStrategy

        return {
            "compute": ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
            "num_cpus": self.threads,
        }


def check_version(version: str) -> None:
    """Refuse the work of another version of fre.

    Raises:
        OptionError: this worker has another version than the command.
    """
    if version != __version__:
        raise OptionError(
            f"a worker has fre {__version__}, and the command fre {version}; install the same "
            "version on all machines of the cluster"
        )


def _join(ray: Any, address: str | None) -> None:
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    # Ray's core writes to the terminal about restarts of workers, attempts to connect, and its own
    # log level. Errors that matter are raised.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address == "local":
        options["include_dashboard"] = False
        # A cluster of our own reports no use to Ray's makers.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        _knock(address)
        with _silent():
            ray.init(address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error) or type(error).__name__
        raise OptionError(f"no Ray cluster at {address}: {reason}") from error


@contextmanager
def _silent() -> Iterator[None]:
    """Silence standard error, also that of native code."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _knock(address: str) -> None:
    """Raise an OSError if nothing listens at an address, where Ray would wait for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in host:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


@contextmanager
def _settings(ray: Any, ordered: bool) -> Iterator[None]:
    """Change settings of Ray Data during a block."""
    context = ray.data.DataContext.get_current()
    wanted = {
        # Each row is a block, so that a worker gets one piece of work at a time.
        "target_max_block_size": 1,
        "enable_progress_bars": ordered and sys.stderr.isatty(),
        "print_on_execution_start": False,
        "enable_auto_log_stats": False,
        # A piece of work may take any time.
        "execution_no_progress_timeout_s": -1,
        "max_consecutive_actor_init_deaths": DEATHS,
        # Ray's wrapper would lose the cause of an exception.
        "raise_original_map_exception": True,
    }
    # Some settings exist in some versions only.
    before = {name: getattr(context, name) for name in wanted if hasattr(context, name)}
    ordered_before = context.execution_options.preserve_order
    logger = logging.getLogger("ray.data")
    level = logger.level
    for name in before:
        setattr(context, name, wanted[name])
    context.execution_options.preserve_order = ordered
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        context.execution_options.preserve_order = ordered_before
        for name, value in before.items():
            setattr(context, name, value)


@contextmanager
def _reporting() -> Iterator[None]:
    """Raise the original errors of workers, without Ray's wrappers."""
    from ray.exceptions import RayError

    try:
        yield
    except RayError as error:
        cause = _origin(error)
        if isinstance(cause, FREError):
            raise _without_advice(cause) from error
        if isinstance(cause, ModuleNotFoundError) and cause.name == "fre":
            raise OptionError(
                f"the workers can't import fre; install fre {__version__} with the extra ray on "
                "all machines of the cluster"
            ) from error
        raise InternalError(f"a worker failed: {_summary(cause)}") from error


def _without_advice(error: FREError) -> FREError:
    """Return the error without the advice that Ray Data adds to the message."""
    if error.args and isinstance(error.args[0], str):
        message, found, _ = error.args[0].partition("\nFailed to apply UDF")
        if found:
            error.args = (message, *error.args[1:])
    return error


def _origin(error: BaseException) -> BaseException:
    seen: set[int] = set()
    found = error
    while id(found) not in seen:
        seen.add(id(found))
        found = getattr(found, "cause", None) or found.__cause__ or found
        if isinstance(found, FREError):
            break
    return found


def _summary(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"
