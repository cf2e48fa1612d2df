"""Bounds on what clients, model files and folders can do to a service."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fre
from conftest import texture
from serving import NEEDED, Server, needs_serve, problem, write_images

pytestmark = needs_serve

for name in NEEDED:
    pytest.importorskip(
        name, reason="needs fre-vision[serve]: pip install 'fre-vision[test,serve]'"
    )

from fre.errors import ImageError, InternalError  # noqa: E402
from fre.serve import server  # noqa: E402
from fre.serve.access import AccessControl  # noqa: E402
from fre.serve.batching import Batcher  # noqa: E402
from fre.serve.database import Database  # noqa: E402
from fre.serve.events import EventBroadcaster  # noqa: E402
from fre.serve.outcomes import UnjudgedError  # noqa: E402
from fre.serve.pictures import Pictures  # noqa: E402
from fre.serve.registry import ModelRegistry  # noqa: E402
from fre.serve.responses import (  # noqa: E402
    Problem,
    json_response,
    to_json,
)
from fre.serve.result_rows import Filters, NewResult  # noqa: E402
from fre.serve.results import Results  # noqa: E402
from fre.serve.server import Connection, most_connections  # noqa: E402
from fre.serve.settings import Limits, LineSettings, Settings  # noqa: E402
from fre.serve.staging import DiskBudget, Staging  # noqa: E402

SHAPE = (64, 128)
NO_FILTERS = Filters()
PAGE: dict[str, Any] = {"order": "newest", "limit": 100, "cursor": None}


@pytest.fixture(scope="module")
def masked() -> fre.Model:
    """A model of images twice as wide as high, with a mask of that shape."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[8:, :] = 1
    detector = fre.FRE(size=64, roi=mask, false_alarm_rate=0.05)
    return detector.fit([texture(seed, SHAPE) for seed in range(20)])


@pytest.fixture
def folder(masked: fre.Model, tmp_path: Path) -> Path:
    models = tmp_path / "models"
    models.mkdir()
    masked.save(models / "weave.onnx")
    return models


@pytest.fixture
def make_batcher(tmp_path: Path) -> Iterator[Callable[..., Batcher]]:
    made: list[tuple[Batcher, Database]] = []

    def make(**options: Any) -> Batcher:
        database = Database(tmp_path / f"results{len(made)}.sqlite3")
        batcher = Batcher(
            Results(database, Pictures(tmp_path / "pictures", 1 << 20)),
            **{
                "batch_size": 8,
                "batch_wait": 0.5,
                "max_queue": 32,
                "large_pixels": 1 << 20,
                "observer": lambda *_: None,
                **options,
            },
        )
        made.append((batcher, database))
        return batcher

    yield make
    for batcher, database in made:
        batcher.close()
        database.close()


def png(seed: int, shape: tuple[int, int] = SHAPE) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(texture(seed, shape)).save(buffer, "PNG")
    return buffer.getvalue()


# One image's failure is its own.


def test_an_image_that_the_mask_does_not_fit_fails_alone(
    folder: Path, make_batcher: Callable[..., Batcher]
) -> None:
    entry = ModelRegistry(folder).get("weave")
    images = [("a.png", png(1)), ("square.png", png(2, (64, 64))), ("b.png", png(3))]
    first, square, last = make_batcher().admit(entry, images, source="test")
    with pytest.raises(ImageError, match=r"64 x 64 pixels, where the mask .* 128 x 64"):
        square.result(60)
    for future, data in ((first, images[0][1]), (last, images[2][1])):
        with Image.open(io.BytesIO(data)) as image:
            expected = entry.model.predict(np.asarray(image)).score
        assert future.result(60).prediction.score == pytest.approx(expected, rel=1e-4)


def test_a_score_that_is_not_finite_fails_alone_and_is_no_row(
    folder: Path, make_batcher: Callable[..., Batcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = ModelRegistry(folder).get("weave")
    judge = entry.model.predict_loaded
    poisoned = {png(2): float("nan"), png(4): float("inf")}
    digests = {hashlib.sha256(data).hexdigest(): x for data, x in poisoned.items()}

    def predict_loaded(batch: Any) -> Any:
        return [
            ImageError(None, "the model refuses it")
            if image.sha256 == refused
            else dataclasses.replace(prediction, score=digests.get(image.sha256, prediction.score))
            for image, prediction in zip(batch, judge(batch), strict=True)
        ]

    refused = hashlib.sha256(png(6)).hexdigest()
    monkeypatch.setattr(entry.model, "predict_loaded", predict_loaded)
    batcher = make_batcher()
    images = [(f"{seed}.png", png(seed)) for seed in range(1, 7)]
    futures = batcher.admit(entry, images, source="test")
    with pytest.raises(UnjudgedError, match=r"6.png: not judged: the model refuses it"):
        futures[5].result(60)
    for place in (1, 3):
        with pytest.raises(UnjudgedError, match=r"the model gives (nan|inf) in the score"):
            futures[place].result(60)
    names = [futures[place].result(60).result["name"] for place in (0, 2, 4)]
    assert names == ["1.png", "3.png", "5.png"]
    assert batcher.depths() == {"weave": 0}
    assert batcher.results.count() == 3


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"threshold": float("nan")}, "threshold"),
        ({"map_range": (0.0, float("inf"))}, "range of the map"),
        ({"prediction": {"p_value": float("nan")}}, "p-value"),
        ({"prediction": {"input_map": np.array([[0, np.nan]], np.float32)}}, "anomaly map"),
        ({"prediction": {"input_map": np.array([[-np.inf, 1]], np.float32)}}, "anomaly map"),
    ],
)
def test_no_number_of_a_row_is_nan_or_infinite(
    masked: fre.Model, change: dict[str, Any], what: str
) -> None:
    prediction = masked.predict(texture(1, SHAPE))
    prediction = dataclasses.replace(prediction, **change.pop("prediction", {}))
    values: dict[str, Any] = {
        **dict.fromkeys(("model", "model_sha256", "calibration_sha256", "name", "source"), "x"),
        "threshold": 1.0,
        "map_range": (0.0, 1.0),
        "image_sha256": "x",
        "form": "PNG",
        "prediction": prediction,
        "data": b"",
    }
    with pytest.raises(InternalError, match=what):
        NewResult(**{**values, **change})


def test_a_slow_image_stops_no_other_model(
    folder: Path, make_batcher: Callable[..., Batcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as there are cores, small and large ones: decoding can't be interrupted."""
    from fre.images import preparation

    (folder / "other.onnx").write_bytes((folder / "weave.onnx").read_bytes())
    registry, released = ModelRegistry(folder), threading.Event()
    decode = preparation.decode_resized

    def slow(data: bytes, target: Any, *, name: str) -> Any:
        if name == "slow.png":
            assert released.wait(60)
        return decode(data, target, name=name)

    monkeypatch.setattr(preparation, "decode_resized", slow)
    batcher = make_batcher()
    stuck = batcher.admit(registry.get("weave"), [("slow.png", png(1))] * 16, source="test")
    (good,) = batcher.admit(registry.get("other"), [("good.png", png(2))], source="test")
    assert good.result(60).result["model"] == "other"
    assert not any(future.done() for future in stuck)
    released.set()
    assert len([future.result(60) for future in stuck]) == 16


def test_large_images_of_models_take_turns(
    folder: Path, make_batcher: Callable[..., Batcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fre.images import preparation

    (folder / "other.onnx").write_bytes((folder / "weave.onnx").read_bytes())
    registry, order, begun = ModelRegistry(folder), [], threading.Event()
    decode = preparation.decode_resized

    def recorded(data: bytes, target: Any, *, name: str) -> Any:
        assert begun.wait(60)
        order.append(name)
        return decode(data, target, name=name)

    monkeypatch.setattr(preparation, "decode_resized", recorded)
    batcher = make_batcher(large_pixels=1)
    first = batcher.admit(registry.get("weave"), [("many", png(1))] * 8, source="test")
    while sum(len(waiting) for waiting in batcher._large_waiting.values()) < 7:
        time.sleep(0.01)
    (other,) = batcher.admit(registry.get("other"), [("one", png(2))], source="test")
    while "other" not in batcher._large_waiting:
        time.sleep(0.01)
    begun.set()
    other.result(60)
    assert [future.result(60) for future in first]
    assert order.index("one") <= 2


def test_a_watched_file_that_can_not_be_judged_stops_no_other(
    folder: Path,
    tmp_path: Path,
    make_batcher: Callable[..., Batcher],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from fre.serve import watch as module

    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(module, "SETTLE", 0.0)
    incoming = tmp_path / "incoming"
    incoming.mkdir()
    for seed in range(6):
        (incoming / f"{seed}.png").write_bytes(png(seed))
    os.mkfifo(incoming / "pipe.png")
    (incoming / "zero.png").symlink_to("/dev/zero")
    (incoming / "large.png").write_bytes(b"x" * 100_001)
    (incoming / os.fsdecode(b"a\xff.png")).write_bytes(png(7))
    (incoming / "a\\udcff.png").write_bytes(png(8))
    entry = ModelRegistry(folder).get("weave")
    judge, poison = entry.model.predict_loaded, hashlib.sha256(png(3)).hexdigest()

    def predict_loaded(batch: Any) -> Any:
        if any(image.sha256 == poison for image in batch):
            raise ZeroDivisionError("a fault")
        return judge(batch)

    monkeypatch.setattr(entry.model, "predict_loaded", predict_loaded)
    batcher = make_batcher()
    entries: list[Any] = []
    watch = module.SourceWatch(
        LineSettings(str(incoming)),
        Settings(
            folder,
            tmp_path,
            limits=Limits(max_upload_bytes=100_000, max_queue=4),
            targets=(str(tmp_path / "out.jsonl"),),
        ),
        batcher,
        lambda: entries[0] if entries else None,
    )
    watch.start()
    while "no model is loaded to judge it" not in caplog.text:
        time.sleep(0.05)
    entries.append(entry)
    try:
        for _ in range(600):
            if watch.inspection.scored + watch.inspection.errors == 11:
                break
            time.sleep(0.05)
    finally:
        watch.close()
    names = {item["name"] for item in batcher.results.page(NO_FILTERS, **PAGE)["results"]}
    assert names == {
        *(f"{seed}.png" for seed in (0, 1, 2, 4, 5)),
        "a\\udcff.png",
        "a\\x5cudcff.png",
    }
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    errors = {Path(line["path"]).name: line["error"] for line in lines if "error" in line}
    stored = batcher.results.page(NO_FILTERS, **PAGE)["results"]
    assert {line["result"] for line in lines if "result" in line} == {item["id"] for item in stored}
    assert set(errors) == {"3.png", "pipe.png", "zero.png", "large.png"}
    assert errors["3.png"] == "not judged: ZeroDivisionError: a fault"
    assert re.search(r"the model weave: a batch of \d failed: a fault", caplog.text)
    assert "not a regular file" in errors["zero.png"]
    assert "100,001 bytes" in errors["large.png"]


def test_the_command_line_has_the_defaults_of_the_settings() -> None:
    """Help needs the numbers, and must not import the service for them."""
    from fre.cli.serve import MIB, serve

    given = {option.name: option.default for option in serve.params}
    settings, limits = Settings(Path(), Path()), Limits()
    for name in ("host", "port", "runtime", "threads", "batch_size", "keep_versions"):
        assert given[name] == getattr(settings, name), name
    assert given["shutdown_seconds"] == settings.shutdown_seconds
    for name in ("max_pixels", "max_batch", "max_queue"):
        assert given[name] == getattr(limits, name), name
    assert given["max_upload"] * MIB == limits.max_upload_bytes
    assert given["max_train_upload"] * MIB == limits.max_train_bytes
    assert 2 * given["max_train_upload"] * MIB == limits.max_staged_bytes
    assert given["keep"] * MIB == limits.keep_bytes


# Answers are JSON, whatever is in them.


def test_answers_are_json_whatever_is_in_them() -> None:
    odd = {"nan": float("nan"), "list": [float("-inf"), 1.5, (2,)], "name": "a\udcff", "é": None}
    assert json.loads(to_json(odd)) == {
        "nan": None,
        "list": [None, 1.5, [2]],
        "name": "a\\udcff",
        "é": None,
    }
    assert json.loads(json_response(odd, status_code=202).body)["nan"] is None
    assert to_json({"name": "é"}) == '{"name":"é"}'


# A model file is its own failure.


@pytest.mark.parametrize("error", [RecursionError, OverflowError, MemoryError, AttributeError])
def test_a_file_that_raises_anything_is_its_own_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    from fre.serve import registry as module

    load = module.load

    def fails(path: Path, **options: Any) -> Any:
        if path.stem == "bad":
            raise error("of a\nstranger's file " + "x" * 5000)
        return load(path, **options)

    monkeypatch.setattr(module, "load", fails)
    (folder / "bad.onnx").write_bytes(b"whatever")
    registry = ModelRegistry(folder)
    assert registry.names() == ["weave"]
    (reason,) = registry.broken().values()
    assert error.__name__ in reason
    assert str(folder / "bad.onnx") in reason
    assert "\n" not in reason
    assert len(reason) < 600
    (folder / "new.onnx").write_bytes((folder / "weave.onnx").read_bytes())
    registry.refresh()
    assert registry.names() == ["new", "weave"]
    entry = registry.recalibrate(
        "weave", lambda model: (model.calibration.at_threshold(5.0), "by hand")
    )
    assert entry.model.threshold == 5.0


def test_failures_are_listed_and_lists_go_on(folder: Path) -> None:
    (folder / "broken.onnx").write_bytes(b"half a file")
    (folder / os.fsdecode(b"a\xff.onnx")).write_bytes((folder / "weave.onnx").read_bytes())
    (folder / "noted.onnx").write_bytes(b"")
    os.mkfifo(folder / "pipe.onnx")
    with Server(folder) as server:
        body = server.client.get("/v1/models").json()
        assert [model["name"] for model in body["models"]] == ["weave"]
        errors = {failure["name"]: failure["error"] for failure in body["errors"]}
        assert set(errors) == {"broken", "noted", "a\\udcff"}
        assert "not an ONNX model" in errors["broken"]
        assert "not UTF-8" in errors["a\\udcff"]
        assert "rename it" in errors["a\\udcff"]
        assert server.client.get("/metrics").status_code == 200
        ready = server.client.get("/readyz").json()
        assert (ready["status"], ready["models"]) == ("ready", 1)
        problem(server.client.get("/v1/models/broken"), 404, "not_found")


def test_models_stay_while_their_folder_is_away(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fre.serve import registry as module

    registry = ModelRegistry(folder)
    entry = registry.get("weave")
    folder.rename(folder.with_name("gone"))
    assert not registry.refresh()
    assert registry.get("weave") is entry
    assert registry.away is not None
    assert str(folder) in registry.away
    assert registry.path("new").parent == folder  # not beside it
    folder.with_name("gone").rename(folder)
    assert not registry.refresh()
    assert registry.away is None
    # A place where nothing is mounted is an empty folder.
    file = folder / "weave.onnx"
    file.rename(folder / "weave.bak")
    registry.refresh()
    assert registry.names() == ["weave"]
    assert "no model files are left" in str(registry.away)
    monkeypatch.setattr(module, "EMPTY_SECONDS", 0.0)
    assert registry.refresh()
    assert registry.names() == []
    assert registry.away is None


def test_a_file_that_can_not_be_read_just_now_is_tried_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fre.serve import registry as module

    load, failing = module.load, [True]

    def flaky(path: Path, **options: Any) -> Any:
        if failing[0]:
            try:
                raise OSError(5, "Input/output error")
            except OSError as error:
                raise fre.errors.ModelFileError(f"{path}: can't be read") from error
        return load(path, **options)

    monkeypatch.setattr(module, "load", flaky)
    registry = ModelRegistry(folder)
    assert list(registry.broken()) == ["weave"]
    assert not registry.refresh()
    failing[0] = False
    assert registry.refresh()
    assert registry.names() == ["weave"]
    assert registry.broken() == {}


def test_readiness_says_that_the_folder_is_away(folder: Path, tmp_path: Path) -> None:
    with Server(folder, "--data", tmp_path / "data") as server:
        folder.rename(tmp_path / "gone")
        for _ in range(200):
            answered = server.client.get("/readyz")
            if answered.status_code != 200:
                break
            time.sleep(0.05)
        message = problem(answered, 503, "models_away")
        assert "1 loaded models stay in use" in message
        assert server.client.get("/healthz").status_code == 200
        assert len(server.client.get("/v1/models").json()["models"]) == 1
        (tmp_path / "gone").rename(folder)
        server.wait_ready()


# Connections.


OPENED: list[asyncio.StreamWriter] = []


@asynccontextmanager
async def served(most: int, app: Any) -> AsyncIterator[int]:
    """A server of connections with an application; its port."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as bound:
        config = uvicorn.Config(
            app, http=partial(Connection, most=most), lifespan="off", log_level="critical"
        )
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve([bound]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            yield bound.getsockname()[1]
        finally:
            while OPENED:
                writer = OPENED.pop()
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()
        server.should_exit = True
        server.force_exit = True
        await task


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def connect(
    port: int, data: bytes = b""
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    OPENED.append(writer)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def read(reader: asyncio.StreamReader, n: int = 65536) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(n), 20)
    except ConnectionError:
        return b""


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def test_unfinished_heads_make_room() -> None:
    async def run() -> None:
        async with served(4, hello) as port:
            kept, _ = await connect(port, GET)
            assert b"hello" in await read(kept)
            partial = [await connect(port, GET[: 5 * i]) for i in range(3)]
            for _ in range(10):
                reader, writer = await connect(port, GET)
                assert b"hello" in await read(reader)
                writer.close()
                await asyncio.sleep(0.01)
            assert await read(partial[0][0]) == b""  # closed

    asyncio.run(run())


def test_heads_have_their_time_however_slowly_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)

    async def run() -> None:
        async with served(100, hello) as port:
            silent, _ = await connect(port)
            trickle, writer = await connect(port, b"GET / HTTP/1.1\r\nX: ")
            second, again = await connect(port, GET)  # a head that comes after an answer
            assert b"hello" in await read(second)
            again.write(b"GET / HT")

            async def drip() -> None:
                while True:
                    writer.write(b"x")
                    await asyncio.sleep(0.02)

            task = asyncio.create_task(drip())
            for reader in (silent, trickle, second):
                assert await read(reader) == b""
            task.cancel()

    asyncio.run(run())


def test_one_more_than_can_be_answered_is_told_so() -> None:
    async def run() -> None:
        release = asyncio.Event()

        async def waits(scope: Any, receive: Any, send: Any) -> None:
            await release.wait()
            await hello(scope, receive, send)

        async with served(2, waits) as port:
            busy = [await connect(port, GET) for _ in range(2)]
            await asyncio.sleep(0.2)
            reader, _ = await connect(port)
            refused = await read(reader)
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert json.loads(refused.split(b"\r\n\r\n")[1])["error"]["code"] == "queue_full"
            release.set()
            for reader, _ in busy:
                assert b"hello" in await read(reader)

    asyncio.run(run())


def test_a_client_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READ_SECONDS", 0.3)
    left = []

    async def run() -> None:
        async def endless(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            gone = asyncio.create_task(_disconnected(receive))
            while not gone.done():
                body = {"type": "http.response.body", "body": b"x" * 65536, "more_body": True}
                await send(body)
                await asyncio.sleep(0)
            left.append(True)

        async def _disconnected(receive: Any) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        async with served(4, endless) as port:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(GET)
                for _ in range(1000):
                    if left:
                        return
                    await asyncio.sleep(0.02)

    asyncio.run(run())
    assert left


def test_connections_leave_files_for_the_rest() -> None:
    resource = pytest.importorskip("resource", reason="of POSIX systems")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        assert most_connections(1000) == 128
        assert most_connections(50) == 50
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_body_that_trickles_is_ended() -> None:
    from fre.serve.bodies import body_chunks

    async def run() -> Problem:
        async def receive() -> Any:
            await asyncio.sleep(0.03)  # less than the pause that is allowed
            return {"type": "http.request", "body": b"x", "more_body": True}

        with pytest.raises(Problem) as found:
            async for _ in body_chunks({}, receive, limit=10_000, pause=0.1):
                pass
        return found.value

    found = asyncio.run(asyncio.wait_for(run(), 30))
    assert found.status == 408
    assert "bytes a second" in found.message


def test_streams_of_events_are_counted_before_they_begin() -> None:
    hub = EventBroadcaster(2)
    listeners = [hub.listen(None, None) for _ in range(2)]
    with pytest.raises(Problem) as refused:
        hub.listen(None, None)
    assert refused.value.status == 503
    listeners.pop()  # its client has gone before the stream began
    listeners.append(hub.listen(None, None))
    with pytest.raises(Problem):
        hub.listen(None, None)


# Pages of others.


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "else"])
def test_writes_from_other_sites_are_refused_without_an_origin(site: str) -> None:
    access = AccessControl({}, "127.0.0.1", ("https://line.example",))
    own = {"host": "127.0.0.1:8000"}
    foreign = {**own, "sec-fetch-site": site}
    for method in ("POST", "PUT", "DELETE"):
        with pytest.raises(Problem) as refused:
            access.check(method, "/v1/train", foreign)
        assert refused.value.status == 403
        access.check(method, "/v1/train", {**foreign, "origin": "https://line.example"})
        access.check(method, "/v1/train", own)
        for allowed in ("same-origin", "none"):
            access.check(method, "/v1/train", {**own, "sec-fetch-site": allowed})
    access.check("GET", "/v1/models", foreign)


# Disk.


def zipped(n: int, size: int) -> bytes:
    """Images without content, stored: as large in the archive as outside."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(n):
            archive.writestr(f"{index}.png", os.urandom(size))
    return buffer.getvalue()


def test_uploads_for_trainings_share_a_bound_on_disk(tmp_path: Path) -> None:
    budget = DiskBudget(10_000)
    first, second = (Staging.make(tmp_path, budget) for _ in range(2))
    sink = first.sink("a.zip")
    sink.write(zipped(2, 2000))
    sink.close()
    assert len(first.unpack(Limits())) == 2
    assert budget.used == 4000  # the archive is gone again
    sink = second.sink("b.png")
    sink.write(b"x" * 6000)
    with pytest.raises(Problem) as refused:
        sink.write(b"x")
    assert refused.value.status == 507
    assert "10,000 bytes" in refused.value.message
    assert "--max-train-disk" in refused.value.message
    sink.close()
    first.remove()
    first.remove()
    assert budget.used == 6000
    second.remove()
    assert budget.used == 0
    assert list(tmp_path.iterdir()) == []


def test_an_upload_without_room_is_answered_and_leaves_nothing(folder: Path) -> None:
    with Server(folder, "--max-train-upload", 1, "--max-train-disk", 1) as server:
        data = zipped(3, 200_000)  # fits, but not packed and unpacked at once
        refused = server.client.post(
            "/v1/train?name=new", content=data, headers={"Content-Type": "application/zip"}
        )
        problem(refused, 507, "disk_full")
        assert refused.headers["retry-after"]
        assert list((folder / ".fre-serve" / "uploads").iterdir()) == []
        (again,) = write_images(folder.parent / "images", 1)
        few = [("files", (again.name, again.read_bytes()))]
        problem(server.client.post("/v1/train?name=new", files=few), 422, "invalid")


# The end.

STUCK = """
import ctypes, sys, threading, time
from pathlib import Path
from fre.images import preparation
from fre.serve.server import serve
from fre.serve.settings import Settings
import fre.serve.jobs as jobs

decode = preparation.decode_resized

def stuck(data, target, *, name):
    if name == "stuck.png":
        print("stuck", flush=True)
        if sys.argv[2] == "lock":
            ctypes.PyDLL(None).sleep(1000)  # without letting go of Python's global lock
        threading.Event().wait()
    return decode(data, target, name=name)

preparation.decode_resized = stuck
models = Path(sys.argv[1])
settings = Settings(models, models / ".fre-serve", port=0, shutdown_seconds=2.0)

def started(address, service):
    print(address, flush=True)
    if sys.argv[2] == "job":
        work = jobs.Work(lambda _: threading.Event().wait(), lambda: None)
        service.jobs.add("train", "endless", work)

serve(settings, started)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "job", "lock"])
def test_an_end_is_bounded_whatever_a_worker_does(folder: Path, kind: str) -> None:
    import httpx

    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(folder), kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        client = httpx.Client(base_url=url, timeout=30)
        assert process.stderr is not None
        path = "/v1/models/weave/predict"
        for _ in range(300):
            try:
                client.get("/readyz")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        done = client.post(f"{path}?name=done.png", content=png(1)).json()["predictions"][0]
        if kind != "job":

            def send() -> None:
                with suppress(httpx.TransportError):
                    httpx.post(f"{url}{path}?name=stuck.png", content=png(2), timeout=60)

            threading.Thread(target=send, daemon=True).start()
            assert process.stdout.readline() == "stuck\n"
        if kind != "lock":
            assert client.get("/healthz").status_code == 200
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        client.close()
    errors = errors.replace("1 requests, ", "")
    said = {
        "image": "ended by force after 2 seconds; not finished: 1 images of weave",
        "job": "ended by force after 2 seconds; not finished: train of endless",
        "lock": "ended by force after 5 seconds, as Python itself was stuck",
    }
    assert said[kind] in errors
    assert process.returncode == (-signal.SIGKILL if kind == "lock" else 1)
    with Server(folder) as server:
        assert server.client.get(f"/v1/results/{done['id']}").status_code == 200
