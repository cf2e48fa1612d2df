"""Batches of images and the socket of the service, without a service around them."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from serving import needs_serve


@needs_serve
def test_a_client_that_leaves_and_a_fault_elsewhere_do_not_break_a_batch(tmp_path: Path) -> None:
    import fre
    from conftest import texture
    from fre.serve.batching import Batcher
    from fre.serve.database import Database
    from fre.serve.pictures import Pictures
    from fre.serve.registry import ModelRegistry
    from fre.serve.results import Results
    from serving import write_images

    fre.FRE(size=64).fit([texture(seed) for seed in range(20)]).save(tmp_path / "weave.onnx")
    registry = ModelRegistry(tmp_path / "weave.onnx")

    def observer(*_: object) -> None:
        raise ZeroDivisionError

    database = Database(tmp_path / "results.sqlite3")
    batcher = Batcher(
        Results(database, Pictures(tmp_path / "pictures", 1 << 20)),
        batch_size=4,
        batch_wait=0.01,
        max_queue=16,
        large_pixels=1 << 20,
        observer=observer,
    )
    images = [(path.name, path.read_bytes()) for path in write_images(tmp_path / "images", 8)]
    futures = batcher.admit(registry.get("weave"), images, source="test")
    assert not any(future.cancel() for future in futures[::2])
    assert [future.result(60).result["name"] for future in futures] == [name for name, _ in images]
    assert batcher.depths() == {"weave": 0}
    batcher.close()
    database.close()


@needs_serve
def test_pending_images_are_shared_by_two_runs_that_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fre
    from conftest import texture
    from fre.inference.predictor import Predictor
    from fre.serve.batching import Batcher
    from fre.serve.database import Database
    from fre.serve.pictures import Pictures
    from fre.serve.registry import ModelRegistry
    from fre.serve.results import Results
    from serving import write_images

    fre.FRE(size=64).fit([texture(seed) for seed in range(20)]).save(tmp_path / "weave.onnx")
    registry = ModelRegistry(tmp_path / "weave.onnx")
    images = [(path.name, path.read_bytes()) for path in write_images(tmp_path / "images", 8)]
    expected = [p.score for p in registry.get("weave").model.predict_many(tmp_path / "images")]
    # Each of the first runs waits for another one to begin: one alone would fail.
    together, sizes, score = threading.Barrier(2), [], Predictor.predict_loaded

    def overlapping(model: Predictor, batch: list[Any]) -> Any:
        sizes.append(len(batch))
        if len(sizes) <= 2:
            together.wait(30)
        return score(model, batch)

    monkeypatch.setattr(Predictor, "predict_loaded", overlapping)
    monkeypatch.setattr("fre.serve.batching.available_cores", lambda: 2)
    database = Database(tmp_path / "results.sqlite3")
    batcher = Batcher(
        Results(database, Pictures(tmp_path / "pictures", 0)),
        batch_size=8,
        batch_wait=30.0,
        max_queue=16,
        large_pixels=1 << 20,
        observer=lambda *_: None,
    )
    futures = batcher.admit(registry.get("weave"), images, source="test")
    found = [future.result(60).prediction.score for future in futures]
    batcher.close()
    database.close()
    assert found == pytest.approx(expected)
    assert sizes[:2] == [4, 4]
    assert sum(sizes) == 8


@needs_serve
def test_answers_are_sent_at_once() -> None:
    """A socket that does not name its protocol is left with Nagle's algorithm by asyncio."""
    import socket

    from fre.serve.server import listen

    with listen("127.0.0.1", 0) as bound:
        assert bound.proto == socket.IPPROTO_TCP
