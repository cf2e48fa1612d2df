"""Uploads that mean no good: each is a clean refusal, and the service goes on."""

from __future__ import annotations

import io
import select
import socket
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fre
from conftest import texture
from serving import Server, needs_serve, problem, write_images

pytestmark = needs_serve

PREDICT = "/v1/models/weave/predict"
TRAIN = "/v1/train?name=new&size=64"
BOUNDARY = "multipart/form-data; boundary=x"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    fre.FRE(size=64).fit([texture(seed) for seed in range(20)]).save(folder / "weave.onnx")
    limits = ("--max-upload", 2, "--max-train-upload", 4, "--max-pixels", 2_000_000)
    with Server(folder, *limits, "--max-batch", 4, "--max-queue", 8) as running:
        yield running


@pytest.fixture(autouse=True)
def _alive(server: Server, tmp_path: Path) -> Iterator[None]:
    """Whatever was sent, the next image is judged."""
    yield
    image = write_images(tmp_path / "after", 1)[0]
    assert server.predict(image)[0]["score"] > 0
    assert not list(server.models.glob(".fre-serve/uploads/*"))


def png(pixels: Any = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(texture(1) if pixels is None else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def bomb_png(side: int, claimed: int | None = None) -> bytes:
    """A PNG of a few kilobytes with side x side pixels, or that claims another side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = zlib.compress(b"\0" * (side // 8 + 1) * side, 9)
    shown = claimed or side
    header = struct.pack(">IIBBBBB", shown, shown, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_what_is_no_image(server: Server) -> None:
    truncated = png()[:-200]
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"
    for name, data in {
        "truncated.png": truncated,
        "empty.png": b"",
        "text.png": b"hello",
        "vector.svg": svg,
        "script.eps": eps,
        "page.html": b"<script>alert(1)</script>",
        "archive.zip": b"PK\x03\x04" + b"\0" * 100,
        "header.png": b"\x89PNG\r\n\x1a\n",
        "header.jpg": b"\xff\xd8\xff\xe0",
        "header.tif": b"II*\x00\x08\x00\x00\x00\xff\xff",
    }.items():
        answer = server.client.post(PREDICT, files={"files": (name, data)})
        assert name in problem(answer, 422, "unreadable")
        if data:
            answer = server.client.post(PREDICT, content=data)
            problem(answer, 422, "unreadable")


def test_bombs(server: Server) -> None:
    for data in (bomb_png(2_000), bomb_png(20_000), bomb_png(100, 60_000)):
        assert len(data) < 1_000_000
        answer = server.client.post(PREDICT, files={"files": ("bomb.png", data)})
        assert "limit" in problem(answer, 422, "unreadable")
    assert server.memory() < 600_000_000


def test_too_much(server: Server) -> None:
    post = server.client.post
    answer = post(PREDICT, content=b"x" * (3 << 20))
    assert "2,097,152" in problem(answer, 413, "too_large")

    def endless() -> Iterator[bytes]:
        for _ in range(48):
            yield b"x" * 65536

    problem(post(PREDICT, content=endless()), 413, "too_large")
    problem(post(TRAIN, content=b"x" * (5 << 20)), 413, "too_large")
    many = [("files", (f"{n}.png", png())) for n in range(5)]
    assert "4 files" in problem(post(PREDICT, files=many), 413, "too_many")


def test_bodies_that_are_damaged(server: Server) -> None:
    post = server.client.post
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    for body in (
        b"",
        b"garbage",
        part + png(),  # no end
        b"--x\r\n\r\nno header\r\n--x--\r\n",
        b"--x\r\nContent-Disposition: form-data\r\n\r\nno name\r\n--x--\r\n",
        b"--x\r\n" + b"A" * 10_000 + b": b\r\n\r\n\r\n--x--\r\n",
        b"--x\r\n" + b"a: b\r\n" * 100 + b"\r\n\r\n--x--\r\n",
        b"--x\r\nbad\x00header: y\r\n\r\n\r\n--x--\r\n",
    ):
        problem(post(PREDICT, content=body, headers={"Content-Type": BOUNDARY}), 400, "bad_request")
        problem(post(TRAIN, content=body, headers={"Content-Type": BOUNDARY}), 400, "bad_request")
    for kind in ("multipart/form-data", f"multipart/form-data; boundary={'y' * 300}"):
        problem(post(PREDICT, content=b"x", headers={"Content-Type": kind}), 400, "bad_request")
    fields = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'
    message = problem(
        post(PREDICT, content=fields + b"--x--\r\n", headers={"Content-Type": BOUNDARY}),
        422,
        "invalid",
    )
    assert "'a'" in message
    body = fields * 3 + b"--x--\r\n"
    problem(post(PREDICT, content=body, headers={"Content-Type": BOUNDARY}), 422, "invalid")
    body = fields * 50 + b"--x--\r\n"
    problem(post(PREDICT, content=body, headers={"Content-Type": BOUNDARY}), 400, "bad_request")
    problem(post(PREDICT, json={"image": "x"}), 415, "unsupported_media_type")
    problem(post(PREDICT), 422, "invalid")


def test_names_are_only_shown(server: Server) -> None:
    for name, shown in (
        ("../../../etc/passwd", "etc/passwd"),
        ("/abs/olute.png", "abs/olute.png"),
        ("..\\..\\windows.png", "windows.png"),
        ("<img src=x onerror=alert(1)>.png", "?img src=x onerror=alert(1)?.png"),
        ("a\x07b.png", "a?b.png"),
        ("x" * 400 + ".png", ("x" * 400 + ".png")[-255:]),
        ("schräg 検査.png", "schräg 検査.png"),
        ("=cmd().png", "=cmd().png"),
    ):
        answer = server.client.post(PREDICT, content=png(), params={"name": name})
        assert answer.json()["predictions"][0]["name"] == shown
    row = server.client.get("/v1/results.csv").text.splitlines()[-1]
    assert ",'=cmd().png," in row


def zip_of(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def train(server: Server, data: bytes) -> Any:
    return server.client.post(TRAIN, content=data, headers={"Content-Type": "application/zip"})


def test_zip_files_with_tricks(server: Server) -> None:
    good = {f"{n}.png": png(texture(n)) for n in range(3)}
    for name in ("../evil.png", "/etc/evil.png", "a/../../evil.png", "C:/evil.png", "a\\evil.png"):
        message = problem(train(server, zip_of(**good, **{name: png()})), 422, "invalid")
        assert "path" in message, name
    link = io.BytesIO()
    with zipfile.ZipFile(link, "w") as archive:
        entry = zipfile.ZipInfo("link.png")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    assert "neither" in problem(train(server, link.getvalue()), 422, "invalid")
    encrypted = bytearray(zip_of(**good))
    start = 0
    while (start := encrypted.find(b"PK\x01\x02", start)) >= 0:
        encrypted[start + 8] |= 1
        start += 4
    assert "encrypted" in problem(train(server, bytes(encrypted)), 422, "invalid")
    lzma = io.BytesIO()
    with zipfile.ZipFile(lzma, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("a.png", png())
    assert "deflate" in problem(train(server, lzma.getvalue()), 422, "invalid")
    whole = zip_of(**good)
    for broken in (whole[:-30], whole[: len(whole) // 2], b"PK\x03\x04" + b"x" * 500):
        problem(train(server, broken), 422, "invalid")
    damaged = bytearray(whole)
    damaged[200:260] = b"\xff" * 60
    problem(train(server, bytes(damaged)), 422, "invalid")
    assert "found 0" in problem(train(server, zip_of(**{"readme.txt": b"x"})), 422, "invalid")


def test_zip_bombs(server: Server) -> None:
    bomb = zip_of(**{f"{n}.bmp": b"\0" * (3 << 20) for n in range(4)})
    assert len(bomb) < 100_000
    problem(train(server, bomb), 413, "too_large")
    # One that lies about its size: what comes out counts, not what it claims.
    liar = bytearray(zip_of(**{"0.bmp": b"\0" * (64 << 20)}))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = liar.find(signature) + offset
        liar[at : at + 4] = struct.pack("<I", 1000)
    answer = train(server, bytes(liar))
    assert answer.status_code == 422
    assert server.memory() < 600_000_000


@pytest.mark.slow
def test_a_slow_client_does_not_hold_up_the_others(server: Server, tmp_path: Path) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    image = write_images(tmp_path, 1)[0]
    slow = []
    for _ in range(40):
        connection = socket.create_connection((host, int(port)))
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\n"
        connection.sendall(head.encode() + b"x" * 10)
        slow.append(connection)
    for _ in range(5):
        server.predict(image)
    # None of them had to be ended first.
    assert not select.select(slow, [], [], 0)[0]
    for connection in slow:
        connection.close()


@pytest.mark.slow
def test_a_huge_image_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """With one lane for all, small images would wait for the large ones before them."""
    import threading

    folder = tmp_path / "models"
    folder.mkdir()
    fre.FRE(size=64).fit([texture(seed) for seed in range(20)]).save(folder / "weave.onnx")
    buffer = io.BytesIO()
    Image.effect_noise((5000, 5000), 50).save(buffer, "PNG", compress_level=1)
    huge = buffer.getvalue()
    small = write_images(tmp_path / "images", 1)[0]
    with Server(folder) as server:
        finished: list[str] = []

        def send_huge() -> None:
            import httpx

            answer = httpx.post(server.url + PREDICT, content=huge, timeout=120)
            assert answer.status_code == 200, answer.text
            finished.append("huge")

        threads = [threading.Thread(target=send_huge) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        server.predict(small)
        finished.append("small")
        for thread in threads:
            thread.join()
    assert len(finished) == 5
    assert finished.index("small") < 4


@pytest.mark.slow
def test_a_full_queue_is_refused_and_empties_again(server: Server, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    import httpx

    images = write_images(tmp_path, 4)
    files = [("files", (path.name, path.read_bytes())) for path in images]

    def send(_: int) -> httpx.Response:
        return httpx.post(server.url + PREDICT, files=files, timeout=60)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(send, range(64)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) < 64
    assert refused, "the queue of 8 never filled up"
    for answer in refused:
        problem(answer, 503, "queue_full")
        assert answer.headers["retry-after"] == "1"


@pytest.mark.slow
def test_a_body_that_stalls() -> None:
    """Inside the process, where the patience can be shorter than the service's 30 seconds."""
    import asyncio

    from fre.serve.bodies import body_chunks
    from fre.serve.responses import Problem

    async def run() -> Problem:
        async def receive() -> Any:
            await asyncio.sleep(10)

        try:
            async for _ in body_chunks({}, receive, limit=10, pause=0.05):
                pass
        except Problem as found:
            return found
        raise AssertionError

    assert asyncio.run(run()).status == 408
