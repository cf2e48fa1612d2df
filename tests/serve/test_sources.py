"""Sources that are started and stopped while the service runs, and what may be chosen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from commands import refused
from line_peers import Receiver, Rtsp, needs_camera, needs_rtsp_server, wait_for, write_video
from serving import LocalServer, needs_serve, problem, write_images

pytestmark = needs_serve


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder below which the page may choose."""
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def server(
    weave: Path, root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    models = tmp_path_factory.mktemp("models")
    for name in ("weave", "other"):
        shutil.copy(weave, models / f"{name}.onnx")
    with LocalServer(models, source_roots=(root,)) as running:
        yield running


def start(server: LocalServer, source: object, **body: Any) -> dict[str, Any]:
    answer = server.client.post(
        "/v1/source", json={"source": str(source), "model": "weave", **body}
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["source"]
    return found


def state(server: LocalServer) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get("/v1/source").json()["source"]
    return found


def test_a_folder_is_followed_until_it_is_stopped(server: LocalServer, root: Path) -> None:
    assert server.client.get("/v1/source").json() == {
        "source": None,
        "roots": [str(root)],
        "n_receivers": 0,
    }
    problem(server.client.delete("/v1/source"), 404, "not_found")
    incoming = root / "incoming"
    write_images(incoming, 4)
    told = start(server, "incoming")
    assert (told["source"], told["model"], told["state"]) == (str(incoming), "weave", "running")
    wait_for(lambda: state(server)["scored"] == 4)
    assert server.client.get("/v1/service").json()["watch"]["folder"] == str(incoming)
    again = server.client.post("/v1/source", json={"source": str(root), "model": "weave"})
    assert f"{incoming} is followed already" in problem(again, 409, "conflict")
    ended = server.client.delete("/v1/source").json()["source"]
    assert (ended["state"], ended["taken"], ended["scored"]) == ("stopped", 4, 4)
    write_images(incoming, 2, first=3000)
    assert server.client.get("/v1/source").json()["source"] is None
    # What arrived meanwhile is scored at the next start, and nothing twice.
    start(server, incoming)
    wait_for(lambda: state(server)["scored"] == 2)
    stored = server.client.get("/v1/results", params={"source": "watch"}).json()["results"]
    assert len({item["name"] for item in stored}) == len(stored) == 6
    assert server.client.delete("/v1/source").json()["source"]["taken"] == 2


def test_a_folder_that_another_watches_is_refused(server: LocalServer, root: Path) -> None:
    from fre.line.lock import FolderLock

    (root / "taken").mkdir()
    lock = FolderLock(root / "taken", print)
    answer = server.client.post("/v1/source", json={"source": "taken", "model": "weave"})
    assert "watches it already" in problem(answer, 409, "conflict")
    lock.close()
    start(server, "taken")
    server.client.delete("/v1/source")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("/etc", "/etc: is not below a folder of --source-root"),
        ("../", "is not below"),
        ("link", "is not below"),
        ("nothing", "expected a folder or a video file"),
        ("file:///etc/passwd", "expected a stream such as rtsp://HOST/PATH"),
        ("concat://a|b", "expected a stream"),
        ("http://", "expected a stream"),
        ("genicam:/tmp/evil.cti", "is not below a folder that GENICAM_GENTL64_PATH names"),
        ("camera:zero", "expected the number of a camera"),
        ("a\nb", "printable"),
    ],
)
def test_what_may_not_be_followed(
    server: LocalServer, root: Path, source: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GENICAM_GENTL64_PATH", raising=False)
    if not (root / "link").exists():
        (root / "link").symlink_to("/etc")
    if source == "camera:zero":
        pytest.importorskip("av")
    answer = server.client.post("/v1/source", json={"source": source, "model": "weave"})
    assert said in problem(answer, 422, "invalid")
    assert server.client.get("/v1/source").json()["source"] is None


def test_the_model_and_the_numbers_are_checked(server: LocalServer) -> None:
    post = server.client.post
    answer = post("/v1/source", json={"source": "camera:0"})
    assert "2 models could judge it; name one of them: other, weave" in problem(
        answer, 422, "invalid"
    )
    answer = post("/v1/source", json={"source": "camera:0", "model": "none"})
    assert "no model is called 'none'" in problem(answer, 404, "not_found")
    for wrong in ({"every": 0}, {"rate": 0.0}, {"rate": "5"}, {"buffer": 1000}, {"source": ""}):
        answer = post("/v1/source", json={"source": "camera:0", "model": "weave", **wrong})
        problem(answer, 422, "invalid")


def test_a_producer_in_the_folders_of_producers_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fre.serve.sources import allowed_source

    monkeypatch.setenv("GENICAM_GENTL64_PATH", str(tmp_path))
    wanted = f"genicam:{tmp_path / 'vendor.cti'}?serial_number=3"
    assert allowed_source(wanted, ()) == wanted
    assert allowed_source("rtsp://user:secret@camera/1", ()) == "rtsp://user:secret@camera/1"


@needs_camera
def test_a_video_ends_and_another_source_may_follow(server: LocalServer, root: Path) -> None:
    write_video(root / "part.mp4", 30)
    start(server, "part.mp4", every=3)
    wait_for(lambda: state(server)["state"] == "ended")
    told = state(server)
    assert (told["taken"], told["skipped"], told["scored"]) == (30, 20, 10)
    assert told["error"] is None
    (root / "bad.mp4").write_bytes(b"no video at all")
    start(server, "bad.mp4")
    wait_for(lambda: state(server)["state"] == "failed")
    assert "bad.mp4" in state(server)["error"]
    server.client.delete("/v1/source")


def _fed(weave: Path, folder: Path, receiver: Receiver) -> LocalServer:
    return LocalServer(weave, data=folder / "data", targets=(receiver.url,))


@pytest.mark.slow
@needs_camera
@needs_rtsp_server
def test_a_stream_goes_away_and_comes_back(weave: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "part.mp4", 500)
    with Rtsp(video) as stream, Receiver() as receiver, _fed(weave, tmp_path, receiver) as server:
        url = stream.url.replace("rtsp://", "rtsp://user:secret@")
        start(server, url, rate=5.0)
        wait_for(lambda: state(server)["scored"] > 5)
        told = state(server)
        assert told["state"] == "running"
        assert "secret" not in str(told)
        stream.stop()
        wait_for(lambda: state(server)["state"] == "reconnecting")
        assert state(server)["error"]
        before = state(server)["scored"]
        stream.start()
        wait_for(lambda: state(server)["scored"] > before)
        assert (state(server)["state"], state(server)["reconnects"]) == ("running", 1)
        ended = server.client.delete("/v1/source").json()["source"]
        left_out = ended["skipped"] + ended["dropped"] + ended["damaged"]
        assert ended["taken"] == ended["scored"] + ended["unreadable"] + left_out
        total = server.client.get("/v1/results").json()["total"]
        assert total == ended["scored"] == len(receiver.got)


def test_a_source_that_fails_to_open_is_let_go(weave: Path, tmp_path: Path) -> None:
    from fre.errors import OutputError
    from fre.serve.responses import Problem
    from fre.serve.settings import LineSettings

    line = LineSettings(str(tmp_path / "incoming"))
    (tmp_path / "incoming").mkdir()
    with LocalServer(weave, data=tmp_path / "data") as server:
        journal = tmp_path / "data" / "line.sqlite3"
        journal.mkdir()
        source = server._server.service.source
        # The error holds the frames of the failed call, so no garbage collection helps.
        with pytest.raises(OutputError, match=r"line\.sqlite3") as held:
            source.follow(line)
        assert source.state() is None
        journal.rmdir()
        assert source.follow(line)["state"] == "running"
        del held
        source.close()
        with pytest.raises(Problem, match="the service is ending"):
            source.follow(line)


def test_mistakes(tmp_path: Path) -> None:
    assert "expected a folder" in refused("serve", tmp_path, "--source-root", tmp_path / "none")
    assert "--to needs a --source, or a --source-root" in refused(
        "serve", tmp_path, "--to", "a.csv"
    )
