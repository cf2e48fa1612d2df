"""Settings and limits of a service."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fre.line.frame import SourceOptions
from fre.runtimes.lanes import BATCH
from fre.serve.roles import ENGINEER, OPERATOR, Role

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Limits that keep a client from exhausting the service.

    Attributes:
        max_upload_bytes: size of a prediction request, in bytes.
        max_train_bytes: size of a training request, in bytes, packed or unpacked.
        max_train_images: number of images in a training request.
        max_staged_bytes: disk space of all uploads for queued and running trainings, in bytes.
        max_pixels: number of pixels of an image.
        max_batch: number of images in a prediction request.
        max_queue: number of images that wait for one model.
        max_buffered_bytes: memory of all uploads at any time, in bytes.
        max_jobs: number of waiting jobs.
        max_listeners: number of open event streams.
        max_connections: number of open connections; fewer if the process may open few files.
        keep_bytes: disk space of pictures, in bytes; the oldest are deleted first.
        body_seconds: longest pause of an upload, in seconds.
        large_pixels: number of pixels above which an image is decoded on a thread of its own.
    """

    max_upload_bytes: int = 64 * MIB
    max_train_bytes: int = 2048 * MIB
    max_train_images: int = 20_000
    max_staged_bytes: int = 4096 * MIB
    max_pixels: int = 89_478_485
    max_batch: int = 64
    max_queue: int = 256
    max_buffered_bytes: int = 512 * MIB
    max_jobs: int = 4
    max_listeners: int = 64
    max_connections: int = 1000
    keep_bytes: int = 2048 * MIB
    body_seconds: float = 30.0
    large_pixels: int = 8_000_000


@dataclass(frozen=True)
class LineSettings:
    """The source of a service.

    Attributes:
        source: folder, camera, stream or video, as for `fre.line.sources.open_source`.
        frames: selection of frames.
        model: name of the model; ``None`` if there is only one.
    """

    source: str
    frames: SourceOptions = field(default_factory=SourceOptions)
    model: str | None = None


@dataclass(frozen=True)
class Settings:
    """Settings of a service.

    Attributes:
        models: a model file, or a folder of model files.
        data: folder for results and pictures.
        host: address to bind.
        port: port to bind; 0 chooses a free port.
        token: token of engineers, who may do everything; ``None`` needs no token.
        operator_token: token of operators, who see, predict and review; ``None`` for no operators.
        cors: origins whose pages may call the service.
        limits: limits for requests.
        line: source that is followed from the start on, or ``None``.
        targets: receivers of the results of a source, as for `fre.line.sinks.open_sinks`.
        source_roots: folders below which clients may choose folders and videos as the source.
        runtime: name of the runtime of the models.
        threads: number of threads per run of a model, 0 for all cores.
        batch_size: number of images per run of the network.
        batch_wait: time that a batch waits for images in decoding, in seconds.
        keep_versions: number of earlier files of each model to keep; 0 keeps none.
        reload_seconds: interval between two looks at the model files, in seconds.
        shutdown_seconds: time to end in, in seconds; then the process ends by force.
    """

    models: Path
    data: Path
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    operator_token: str | None = None
    cors: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    line: LineSettings | None = None
    targets: tuple[str, ...] = ()
    source_roots: tuple[Path, ...] = ()
    runtime: str = "onnxruntime"
    threads: int = 0
    batch_size: int = BATCH
    batch_wait: float = 0.004
    keep_versions: int = 10
    reload_seconds: float = 0.5
    shutdown_seconds: float = 20.0

    def tokens(self) -> dict[Role, str]:
        """Return the tokens by role; empty needs no token."""
        given = {ENGINEER: self.token, OPERATOR: self.operator_token}
        return {role: token for role, token in given.items() if token is not None}
