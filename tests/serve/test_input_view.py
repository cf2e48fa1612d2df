"""The input of a training: what clients choose, and the view of what the network sees."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fre
from conftest import texture
from fre.drawing.heatmaps import encode
from fre.errors import OptionError
from serving import LocalServer, needs_serve, problem

pytestmark = needs_serve
SIZE = (120, 160)
LEFT = "160x120:0,0 80,0 80,120 0,120"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with LocalServer(tmp_path_factory.mktemp("models")) as running:
        yield running


def png(seed: int, size: tuple[int, int] = SIZE) -> bytes:
    return encode(texture(seed, size), "PNG")


def ask(server: LocalServer, **query: Any) -> Any:
    return server.client.post("/v1/input", content=png(1), params=query)


def pixels_of(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_a_polygon_holds_the_pixels_whose_centres_lie_in_it() -> None:
    from fre.serve.input_view import region_mask

    expected = np.zeros((8, 10), bool)
    expected[2:5, 3:7] = True
    np.testing.assert_array_equal(region_mask(["10x8:3,2 7,2 7,5 3,5"]), expected)
    expected[7, 9] = True
    both = region_mask(["10x8:3,2 7,2 7,5 3,5", "10x8:9,7 10,7 10,8 9,8"])
    np.testing.assert_array_equal(both, expected)
    triangle = region_mask(["8x8:0,0 8,0 0,8"])
    columns, rows = np.meshgrid(np.arange(8) + 0.5, np.arange(8) + 0.5)
    np.testing.assert_array_equal(triangle, columns + rows < 8)


@pytest.mark.parametrize(
    ("polygons", "said"),
    [
        (["10x8:3,2 17,2 7,5"], "reaches out of the image"),
        (["10x8:3,2 7,2 7,2"], "hold no pixel"),
        (["10x8:3,2 7,2 7,5", "20x16:3,2 7,2 7,5"], "images of different sizes: 10x8, 20x16"),
        (["0x8:0,0 0,1 0,2"], "no image that can be read"),
    ],
)
def test_polygons_that_make_no_region(polygons: list[str], said: str) -> None:
    from fre.serve.input_view import region_mask

    with pytest.raises(OptionError, match=said):
        region_mask(polygons)


def test_the_view_is_the_input_of_a_training(server: LocalServer, tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    file.write_bytes(png(1))
    for query, parameters in (
        ({}, {}),
        ({"size": "64x96"}, {"size": (64, 96)}),
        ({"preset": "fast"}, {"preset": "fast"}),
        ({"preset": "fast", "defect_size": 2}, {"preset": "fast", "defect_size": 2}),
    ):
        seen = ask(server, **query).json()
        preparation, choice = fre.FRE(**parameters).preparation([file])
        expected = [one.pixels for one in preparation.inputs(preparation.load(file))]
        assert seen["size"] == list(preparation.geometry.size)
        assert seen["image_size"] == list(SIZE)
        assert seen["notes"] == list(choice.notes)
        assert seen["n_inputs"] == len(seen["inputs"]) == len(expected)
        for text, pixels in zip(seen["inputs"], expected, strict=True):
            np.testing.assert_array_equal(pixels_of(text), pixels)


def test_what_is_not_inspected_has_one_colour(server: LocalServer) -> None:
    (text,) = ask(server, size="64x96", roi=LEFT).json()["inputs"]
    pixels = pixels_of(text)
    assert len(np.unique(pixels[:, 49:].reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(pixels[:, :46].reshape(-1, 3), axis=0)) > 10


def test_what_can_not_be_shown(server: LocalServer) -> None:
    problem(ask(server, size="8"), 422, "invalid")
    problem(ask(server, size="64x2000"), 422, "invalid")
    problem(ask(server, size="64", defect_size=9), 422, "invalid")
    assert "no effect with this preset" in problem(
        ask(server, preset="reference", defect_size=9), 422, "invalid"
    )
    problem(ask(server, roi="160x120:0,0 1,1"), 422, "invalid")
    assert "marks every pixel" in problem(
        ask(server, roi="160x120:0,0 160,0 160,120 0,120"), 422, "invalid"
    )
    assert "where the mask of the inspected region has" in problem(
        ask(server, roi="160x160:0,0 80,0 80,80"), 422, "unreadable"
    )
    answer = server.client.post("/v1/input", content=b"no image")
    assert "not a readable image" in problem(answer, 422, "unreadable")
    kind = {"Content-Type": "text/plain"}
    answer = server.client.post("/v1/input", content=b"x", headers=kind)
    problem(answer, 415, "unsupported_media_type")


def test_a_training_inspects_the_region_alone(server: LocalServer) -> None:
    files = [("files", (f"{seed}.png", png(seed))) for seed in range(12)]
    query = {"name": "left", "size": "64", "roi": LEFT, "false_alarm_rate": 0.1}
    answer = server.client.post("/v1/train", files=files, params=query)
    assert answer.status_code == 202, answer.text
    server.job(answer.json()["job"]["id"])
    model = fre.load(server.models / "left.onnx")
    assert model.size == (64, 64)
    before = texture(1, SIZE)
    hidden, seen = before.copy(), before.copy()
    hidden[:, 90:] = 255
    seen[40:80, 20:60] = 255
    assert model.predict(hidden).score == pytest.approx(model.predict(before).score, rel=1e-3)
    assert model.predict(seen).score > 2 * abs(model.predict(before).score)
    bad = {**query, "name": "bad", "roi": "160x120:0,0 170,0 80,80"}
    problem(server.client.post("/v1/train", files=files, params=bad), 422, "invalid")
