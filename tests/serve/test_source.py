"""The source of a service: a real stream, a real receiver, and a folder that is taken."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

import fre
from commands import refused
from line_peers import (
    Receiver,
    Rtsp,
    needs_camera,
    needs_rtsp_server,
    pixels_of,
    wait_for,
    write_video,
)
from serving import Server, needs_serve, write_images

pytestmark = [needs_serve]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    good = [pixels_of(seed) for seed in range(1, 60) if seed % 10]
    fitted = fre.FRE(size=64, false_alarm_rate=0.05).fit(good)
    return fitted.save(tmp_path_factory.mktemp("model") / "weave.onnx")


@pytest.mark.slow
@needs_camera
@needs_rtsp_server
def test_a_stream_into_history_page_and_receivers(model: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "part.mp4", 500)
    data = tmp_path / "data"
    with Rtsp(video) as stream, Receiver() as receiver:
        options = ["--data", data, "--source", stream.url, "--rate", 5, "--to", receiver.url]
        with Server(model, *options) as server:
            wait_for(lambda: len(receiver.got) > 10)
            told = server.client.get("/v1/service").json()["watch"]
            assert told == {"folder": stream.url, "model": "weave", "error": None}
            message = receiver.got[5]
            result = server.client.get(f"/v1/results/{message['result']}").json()["result"]
            assert result["name"] == message["path"]
            for key in ("score", "p_value", "anomalous", "threshold", "model", "model_sha256"):
                assert result[key] == message[key]
            picture = server.client.get(f"/v1/results/{message['result']}/image")
            assert picture.headers["content-type"] == "image/png"
            stream.stop()
            wait_for(lambda: server.client.get("/v1/service").json()["watch"]["error"])
            stored = server.client.get("/v1/results").json()["total"]
        assert any("frames taken" in line for line in server.log)
    assert len({message["id"] for message in receiver.got}) == len(receiver.got) == stored


@pytest.mark.slow
def test_a_receiver_gets_what_was_scored_while_it_was_away(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "incoming"
    write_images(folder, 6)
    receiver = Receiver()
    receiver.stop()
    options = ["--data", tmp_path / "data", "--watch", folder, "--to", receiver.url]
    with Server(model, *options) as server:
        wait_for(lambda: server.client.get("/v1/results").json()["total"] == 6)
        told = refused("watch", model, folder)
        assert f"fre serve (process {server.process.pid}) watches it already" in told
        time.sleep(0.5)
    assert any("6 messages for" in line and "are kept" in line for line in server.log)
    receiver.start()
    write_images(folder, 2, first=3000)
    with Server(model, *options):
        wait_for(lambda: len(receiver.got) == 8)
    receiver.stop()
    assert len({message["path"] for message in receiver.got}) == 8


def test_mistakes(model: Path, tmp_path: Path) -> None:
    assert "--to needs a --source" in refused("serve", model, "--to", "results.csv")
    assert "need a --source" in refused("serve", model, "--rate", 3)
    one, two = (("--data", tmp_path / name, "--port", 0) for name in ("one", "two"))
    assert "expected mqtt://" in refused("serve", model, "--watch", tmp_path, "--to", "a.txt", *one)
    assert "a folder has no" in refused("serve", model, "--watch", tmp_path, "--every", 2, *two)
