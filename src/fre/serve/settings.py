"""What a service is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """What a service refuses, so that no client can exhaust it.

    Attributes:
        max_upload_bytes: of one request that predicts.
        max_train_bytes: of one request that trains, packed or unpacked.
        max_train_images: of one request that trains.
        max_staged_bytes: bytes on disk of all uploads for trainings that run or wait.
        max_pixels: of one image.
        max_batch: images of one request that predicts.
        max_queue: images of one model that wait at once.
        max_buffered_bytes: of all uploads that are in memory at once.
        max_jobs: jobs that wait at once.
        max_listeners: open event streams.
        max_connections: open connections; fewer where the process may open few files.
        keep_bytes: of pictures kept on disk; the oldest go first.
        body_seconds: how long an upload may pause.
        large_pixels: images of more than this are decoded on a thread of their own.
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
class Settings:
    """What a service is told when it starts.

    Attributes:
        models: a model file, or a folder of them.
        data: folder for the results and their pictures.
        host: address to bind.
        port: 0 takes a free one.
        token: that clients must present; ``None`` asks for none.
        cors: origins whose pages may call the service.
        limits: what it refuses.
        watch: a folder to follow.
        watch_model: the model that judges what arrives there.
        runtime: of the models.
        threads: of a run of a model; 0 takes all cores.
        batch_size: images to a run of the network.
        batch_wait: seconds that a batch waits for images that are being decoded.
        reload_seconds: how often the model files are looked at.
        shutdown_seconds: time for ending, in seconds; then the process ends by force.
    """

    models: Path
    data: Path
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    cors: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    watch: Path | None = None
    watch_model: str | None = None
    runtime: str = "onnxruntime"
    threads: int = 0
    batch_size: int = 8
    batch_wait: float = 0.004
    reload_seconds: float = 0.5
    shutdown_seconds: float = 20.0
