"""A process that draws small pictures of huge images, and what happens when it dies."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("starlette", reason="needs fre-vision[serve]: starlette is not installed")

from fre.serve import drawing_process
from fre.serve.drawing_process import Painter, order
from fre.serve.pictures import PictureRequest, Pictures, StoredImage, draw
from fre.serve.responses import Problem

SIZE = (900, 1000)
OVERLAY = PictureRequest("overlay", 320)


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8)).save(buffer, "JPEG")
    kept = Pictures(tmp_path, 10**9)
    kept.save(1, buffer.getvalue(), rng.random((8, 8)).astype(np.float32))
    kept.save(2, b"no image", rng.random((8, 8)).astype(np.float32))
    return kept


@pytest.fixture
def painter() -> Iterator[Painter]:
    made = Painter()
    yield made
    made.close()


def stored(identity: int) -> StoredImage:
    return StoredImage(identity, "JPEG", SIZE, (0.0, 1.0))


def process_of(painter: Painter) -> int:
    assert painter._process is not None
    return painter._process.pid


def test_one_process_draws_what_the_service_would_draw(
    pictures: Pictures, painter: Painter
) -> None:
    expected = io.BytesIO()
    draw(pictures, stored(1), OVERLAY, expected)
    first = painter.draw(order(pictures, stored(1), OVERLAY))
    number = process_of(painter)
    with pytest.raises(Problem, match="not a readable image") as caught:
        painter.draw(order(pictures, stored(2), OVERLAY))
    assert caught.value.status == 422
    again = painter.draw(order(pictures, stored(1), OVERLAY))
    assert process_of(painter) == number
    assert first == again == expected.getvalue()
    assert max(Image.open(io.BytesIO(first)).size) == 320


def test_a_process_that_dies_is_replaced(pictures: Pictures, painter: Painter) -> None:
    painter.draw(order(pictures, stored(1), OVERLAY))
    number = process_of(painter)
    os.kill(number, signal.SIGKILL)
    assert painter._process is not None
    painter._process.wait()
    painter.draw(order(pictures, stored(1), OVERLAY))
    assert process_of(painter) != number


def test_a_picture_that_takes_too_long_is_given_up(
    pictures: Pictures, painter: Painter, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Reading a pipe that nobody writes to never ends.
    pictures.path(1, ".image").unlink()
    os.mkfifo(pictures.path(1, ".image"))
    monkeypatch.setattr(drawing_process, "DRAW_SECONDS", 0.05)
    with pytest.raises(Problem, match="more than 0 s to draw"):
        painter.draw(order(pictures, stored(1), OVERLAY))


def test_it_ends_when_idle_and_draws_nothing_after_the_end(
    pictures: Pictures, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = threading.Event()
    end = painter._end

    def told() -> None:
        end()
        ended.set()

    monkeypatch.setattr(painter, "_end", told)
    monkeypatch.setattr(drawing_process, "IDLE_SECONDS", 0.01)
    painter.draw(order(pictures, stored(1), OVERLAY))
    assert ended.wait(60)
    assert painter._process is None
    painter.close()
    with pytest.raises(Problem) as caught:
        painter.draw(order(pictures, stored(1), OVERLAY))
    assert caught.value.code == "shutting_down"
