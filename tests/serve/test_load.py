"""Many clients at once, and ends of all kinds: nothing mixed up, nothing acknowledged lost."""

from __future__ import annotations

import hashlib
import random
import signal
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fre
from conftest import texture
from serving import Server, needs_serve, scratched, write_images

pytestmark = needs_serve

PREDICT = "/v1/models/weave/predict"


@pytest.fixture(scope="module")
def weave(tmp_path_factory: pytest.TempPathFactory) -> fre.Model:
    model = fre.FRE(size=64, false_alarm_rate=0.05).fit([texture(seed) for seed in range(40)])
    model.save(tmp_path_factory.mktemp("weave") / "weave.onnx")
    return model


@pytest.fixture
def models(weave: fre.Model, tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    weave.save(tmp_path / "models" / "weave.onnx")
    return tmp_path / "models"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 64)


def load(server: Server, model: fre.Model, images: list[Path], n: int, clients: int) -> None:
    """Send n requests of one to three images from so many clients, and check every answer."""
    import httpx

    expected = {
        path.name: prediction.score
        for path, prediction in zip(images, model.predict_many(images), strict=True)
    }
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in images}
    data = {path: path.read_bytes() for path in images}

    def client(number: int) -> int:
        rng = random.Random(number)
        done = 0
        with httpx.Client(base_url=server.url, timeout=120) as http:
            for _ in range(n // clients):
                chosen = rng.sample(images, rng.choice((1, 1, 1, 2, 3)))
                files = [("files", (path.name, data[path])) for path in chosen]
                answer = http.post(PREDICT, files=files)
                assert answer.status_code == 200, answer.text
                items = answer.json()["predictions"]
                assert [item["name"] for item in items] == [path.name for path in chosen]
                for item in items:
                    assert item["image_sha256"] == digests[item["name"]]
                    assert item["score"] == pytest.approx(expected[item["name"]], rel=1e-3)
                done += 1
        return done

    with ThreadPoolExecutor(clients) as pool:
        assert sum(pool.map(client, range(clients))) == n // clients * clients


@pytest.mark.slow
def test_many_clients_get_their_own_results(
    models: Path, weave: fre.Model, images: list[Path]
) -> None:
    with Server(models) as server:
        load(server, weave, images, 400, 32)


@pytest.mark.slow
def test_two_thousand_requests_in_memory_that_stays_flat(
    models: Path, weave: fre.Model, images: list[Path]
) -> None:
    with Server(models, "--keep", 20) as server:
        load(server, weave, images, 600, 32)
        before = server.memory()
        load(server, weave, images, 2000, 32)
        assert server.memory() - before < 32 << 20
        total = server.client.get("/v1/results").json()["total"]
        assert total >= 2560


class Clients:
    """Clients that send one image after another, and note what was acknowledged."""

    def __init__(self, server: Server, images: list[Path], n: int) -> None:
        self.server = server
        self.images = images
        self.acknowledged: dict[int, tuple[str, float, str]] = {}
        self.refused: list[int] = []
        self.broken = 0
        self.models: set[str] = set()
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(i,)) for i in range(n)]
        for thread in self.threads:
            thread.start()

    def _run(self, number: int) -> None:
        import httpx

        rng = random.Random(number)
        with httpx.Client(base_url=self.server.url, timeout=60) as http:
            while not self.stop.is_set():
                path = rng.choice(self.images)
                try:
                    answer = http.post(PREDICT, files={"files": (path.name, path.read_bytes())})
                except httpx.TransportError:
                    self.broken += 1
                    return
                if answer.status_code != 200:
                    self.refused.append(answer.status_code)
                    continue
                body = answer.json()
                (item,) = body["predictions"]
                self.models.add(body["model_sha256"])
                self.acknowledged[item["id"]] = (item["name"], item["score"], item["image_sha256"])

    def wait(self, n: int) -> None:
        for _ in range(1200):
            if len(self.acknowledged) >= n:
                return
            time.sleep(0.05)
        raise AssertionError(len(self.acknowledged))

    def join(self, *, stop: bool = True) -> None:
        if stop:
            self.stop.set()
        for thread in self.threads:
            thread.join(90)


def rows(server: Server) -> dict[int, tuple[str, float, str]]:
    found: dict[int, tuple[str, float, str]] = {}
    cursor = None
    while True:
        parameters: dict[str, Any] = {"limit": 500, **({"cursor": cursor} if cursor else {})}
        page = server.client.get("/v1/results", params=parameters).json()
        for row in page["results"]:
            found[row["id"]] = (row["name"], row["score"], row["image_sha256"])
        cursor = page["next"]
        if cursor is None:
            return found


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_by_a_kill(models: Path, images: list[Path]) -> None:
    acknowledged: dict[int, tuple[str, float, str]] = {}
    for round_ in range(3):
        server = Server(models)
        clients = Clients(server, images, 8)
        clients.wait(60 + 7 * round_)
        server.process.kill()
        clients.join(stop=False)
        server.stop()
        assert clients.broken == 8
        assert not set(acknowledged) & set(clients.acknowledged)
        acknowledged.update(clients.acknowledged)
    with sqlite3.connect(models / ".fre-serve" / "results.sqlite3") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with Server(models) as server:
        kept = rows(server)
        assert {key: kept.get(key) for key in acknowledged} == acknowledged
        for identity in list(acknowledged)[-3:]:
            assert server.client.get(f"/v1/results/{identity}/heat").status_code == 200


@pytest.mark.slow
def test_a_request_to_end_finishes_what_was_begun(models: Path, images: list[Path]) -> None:
    server = Server(models)
    clients = Clients(server, images, 8)
    clients.wait(40)
    server.process.send_signal(signal.SIGTERM)
    clients.join()
    assert server.stop() == 0
    assert set(clients.refused) <= {503}
    with Server(models) as again:
        kept = rows(again)
    # Each was answered: what a client heard of, and nothing that nobody heard of.
    assert kept == clients.acknowledged


@pytest.mark.slow
def test_models_are_exchanged_under_load(
    models: Path, weave: fre.Model, images: list[Path]
) -> None:

    versions = [
        weave.with_calibration(weave.calibration.at_threshold(float(value)))
        for value in range(1, 5)
    ]
    larger = fre.FRE(size=96).fit([texture(seed) for seed in range(12)])
    with Server(models) as server:
        clients = Clients(server, images, 8)
        clients.wait(20)
        for model in [*versions, larger, weave]:
            model.save(models / "weave.onnx")
            seen = len(clients.acknowledged)
            for _ in range(400):
                if model.sha256 in clients.models:
                    break
                time.sleep(0.05)
            clients.wait(seen + 10)
        clients.join()
        assert clients.broken == 0
        assert clients.refused == []
        assert clients.models == {m.sha256 for m in (*versions, larger, weave)}


@pytest.mark.slow
def test_a_training_does_not_stop_predictions(models: Path, images: list[Path]) -> None:
    with Server(models) as server:
        clients = Clients(server, images, 2)
        answer = server.client.post("/v1/train?name=plate&samples=20&size=64")
        server.job(answer.json()["job"]["id"])
        seen = len(clients.acknowledged)
        assert seen > 0
        clients.wait(seen + 4)
        clients.join()
        assert clients.broken == 0
        assert clients.refused == []


@pytest.mark.slow
def test_a_training_that_a_kill_cut_short_is_marked(models: Path) -> None:
    server = Server(models)
    server.client.post("/v1/train?name=plate&samples=200")
    for _ in range(200):
        if server.client.get("/v1/jobs/1").json()["job"]["state"] == "running":
            break
        time.sleep(0.02)
    server.process.kill()
    server.stop()
    with Server(models) as again:
        job = again.client.get("/v1/jobs/1").json()["job"]
        assert job["state"] == "failed"
        assert job["error"]["code"] == "interrupted"
        assert not list((models / ".fre-serve").glob("uploads/*"))


@pytest.mark.slow
def test_a_watched_folder_survives_kills(models: Path, tmp_path: Path) -> None:
    """Files arrive all the time, the service is killed twice: each file has one result."""
    folder = tmp_path / "incoming"
    folder.mkdir()
    names = []

    def write() -> None:
        for number in range(60):
            pixels = scratched(number) if number % 5 == 0 else texture(number)
            beside = tmp_path / f"{number}.png"
            Image.fromarray(pixels).save(beside)
            beside.replace(folder / beside.name)
            names.append(beside.name)
            time.sleep(0.05)

    writer = threading.Thread(target=write)
    writer.start()
    for total in (10, 30):
        server = Server(models, "--watch", folder)
        for _ in range(400):
            if server.client.get("/v1/results").json()["total"] >= total:
                break
            time.sleep(0.02)
        server.process.kill()
        server.stop()
    writer.join()
    with Server(models, "--watch", folder) as server:
        for _ in range(400):
            if server.client.get("/v1/results").json()["total"] >= 60:
                break
            time.sleep(0.05)
        time.sleep(1.0)
        found = [name for name, _, _ in rows(server).values()]
    assert sorted(found) == sorted(names)
