"""A real video, and a real RTSP server, by the command line."""

from __future__ import annotations

import csv
import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import fre
from commands import FRE, refused
from commands import fre as run
from fre.errors import DatasetError, OptionError
from fre.line.folder import FolderOptions
from fre.line.frame import SourceOptions
from fre.line.sources import open_source
from fre.line.video import without_password
from line_peers import (
    Mosquitto,
    Receiver,
    Rtsp,
    Subscriber,
    free_port,
    needs,
    needs_camera,
    needs_mosquitto,
    needs_rtsp_server,
    pixels_of,
    wait_for,
    write_video,
)

pytestmark = [needs_camera]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "part.mp4", 100)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    good = [pixels_of(seed) for seed in range(1, 60) if seed % 10]
    fitted = fre.FRE(size=64, false_alarm_rate=0.05).fit(good)
    return fitted.save(tmp_path_factory.mktemp("model") / "weave.onnx")


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_video_file(model: Path, video: Path, tmp_path: Path) -> None:
    table = tmp_path / "out.csv"
    done = run("watch", model, video, "--every", 2, "--to", table, "--to", f"pictures:{tmp_path}/p")
    assert done.returncode == 0, done.stderr
    lines = lines_of(done.stdout)
    assert [line["number"] for line in lines] == list(range(1, 101, 2))
    assert lines[3]["path"] == f"{video}#7"
    assert lines[3]["position"] == pytest.approx(6 / 25)
    loaded = fre.load(model)
    assert {line["model_sha256"] for line in lines} == {loaded.sha256}
    assert {line["threshold"] for line in lines} == {loaded.threshold}
    # Frames 1, 11, 21 and so on have a defect.
    anomalous = {line["number"] for line in lines if line["anomalous"]}
    assert {number for number in anomalous if number % 10 == 1} == set(range(1, 101, 10))
    assert "100 frames taken, 50 left out as asked" in done.stderr
    assert len(table.read_text().splitlines()) == 51
    for line in lines:
        assert line["anomalous"] == ("picture" in line)
        assert not line["anomalous"] or Path(line["picture"]).is_file()


def test_lines_on_stdin_take_frames(model: Path, video: Path) -> None:
    done = subprocess.run(
        [*FRE, "watch", model, video, "--trigger", "stdin"],
        input="A-1\nA-2\nA-3\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [line["part"] for line in lines_of(done.stdout)] == ["A-1", "A-2", "A-3"]


def test_mistakes(model: Path, video: Path, tmp_path: Path) -> None:
    assert "a folder has no --every" in refused("watch", model, tmp_path, "--every", 2)
    for option in (["--skip-existing"], ["--once"], ["--settle", 2]):
        assert "are for folders" in refused("watch", model, video, *option)
    told = refused("watch", model, video, "--trigger", "stdin", "--buffer", 9)
    assert "--buffer has no effect" in told
    assert "number of a camera" in refused("watch", model, "camera:front")
    assert "--trigger: expected" in refused("watch", model, video, "--trigger", "button")
    assert "expected mqtt://" in refused("watch", model, video, "--to", "results.txt")
    torn = tmp_path / "torn.mp4"
    torn.write_bytes(video.read_bytes()[:2000])
    done = run("watch", model, torn)
    assert done.returncode == 2
    assert f"{torn}: Invalid data found" in done.stderr
    image = tmp_path / "a.png"
    image.write_bytes(b"x")
    with pytest.raises(OptionError, match="fre predict"):
        open_source(str(image), SourceOptions(), FolderOptions(), warn=print)
    with pytest.raises(DatasetError, match="expected a folder"):
        open_source(str(tmp_path / "none.mp4"), SourceOptions(), FolderOptions(), warn=print)


def test_passwords_are_not_shown() -> None:
    assert without_password("rtsp://me:pass@cam:554/1?x=@") == "rtsp://cam:554/1?x=@"
    assert without_password("rtsp://cam/1") == "rtsp://cam/1"
    url = f"rtsp://me:secret@127.0.0.1:{free_port()}/1"
    told: list[str] = []
    source = open_source(url, SourceOptions(), FolderOptions(), warn=told.append)
    source.start(())
    wait_for(lambda: told)
    source.close()
    assert "secret" not in source.name + told[0]
    assert "Connection refused; trying again" in told[0]


@pytest.mark.slow
@needs_rtsp_server
def test_a_stream_that_breaks_comes_back_and_no_frame_goes_missing(
    model: Path, video: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    with Rtsp(video) as server, Receiver() as receiver:
        process = subprocess.Popen(
            [*FRE, "watch", model, server.url, "--to", out, "--to", receiver.url, "--rate", "10"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

        def more() -> None:
            before = len(receiver.got)
            wait_for(lambda: len(receiver.got) > before + 10)

        more()
        for _ in range(2):
            server.stop()
            time.sleep(1)
            server.start()
            more()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert len(re.findall("trying again until it is back", errors)) >= 2
    assert len(re.findall(": is back", errors)) >= 2
    found = re.search(r"([\d,]+) frames taken, ([\d,]+) left out as asked", errors)
    assert found is not None, errors
    taken, skipped = (int(text.replace(",", "")) for text in found.groups())
    drops = re.search(r"([\d,]+) dropped", errors.splitlines()[-1])
    dropped = int(drops[1].replace(",", "")) if drops else 0
    lines = lines_of(out.read_text())
    assert len(lines) == taken - skipped - dropped
    assert [line["id"] for line in lines] == [item["id"] for item in receiver.got]
    numbers = [line["number"] for line in lines]
    assert numbers == sorted(set(numbers))


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_frames(model: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "long.mp4", 10_000)
    process = subprocess.Popen(
        [*FRE, "watch", model, video, "--to", tmp_path / "out.csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    memory = {}
    for count, _ in enumerate(process.stdout, 1):
        if count in (2000, 6000, 9900):
            status = Path(f"/proc/{process.pid}/status").read_text()
            memory[count] = int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
    assert process.wait(60) == 0
    process.stdout.close()
    assert count == 10_000
    print(memory, file=sys.stderr)
    assert memory[9900] - memory[2000] < 20, memory


@pytest.mark.slow
@needs_rtsp_server
@needs("paho", "mqtt")
@needs_mosquitto
def test_the_first_command_of_the_page_runs(model: Path, video: Path, tmp_path: Path) -> None:
    """With the addresses of real peers in place of its own."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "line.md").read_text()
    line = next(line for line in page.splitlines() if line.startswith("fre watch part.onnx rtsp"))
    with Rtsp(video) as stream, Mosquitto(tmp_path) as broker:
        subscriber = Subscriber(broker.port, "line1/part")
        for name, value in {
            "part.onnx": str(model),
            "rtsp://camera/1": stream.url,
            "//broker/": f"//127.0.0.1:{broker.port}/",
            "results.csv": f"{tmp_path}/results.csv",
        }.items():
            assert name in line
            line = line.replace(name, value)
        process = subprocess.Popen(
            [*FRE, *shlex.split(line)[1:]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: len(subscriber.got.get("line1/part", [])) > 10)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        printed = lines_of(out.decode())
        wait_for(lambda: len(subscriber.got["line1/part"]) == len(printed))
        subscriber.close()
    assert subscriber.got["line1/part"] == printed
    with (tmp_path / "results.csv").open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == [line["id"] for line in printed]
