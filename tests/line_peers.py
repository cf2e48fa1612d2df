"""The other ends of a line, for tests and for benchmarks/soak.py: streams, brokers, receivers."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import texture

SERVER = Path(__file__).resolve().parents[1] / "benchmarks" / "rtsp_server.py"
DEBIAN_PYTHON = "/usr/bin/python3"


def needs(module: str, extra: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(module) is None, reason=f"needs fre-vision[{extra}]"
    )


needs_camera = needs("av", "camera")
needs_mosquitto = pytest.mark.skipif(
    shutil.which("mosquitto") is None, reason="needs mosquitto: apt install mosquitto"
)


def has_rtsp_server() -> bool:
    if not Path(DEBIAN_PYTHON).exists():
        return False
    code = "import gi; gi.require_version('GstRtspServer', '1.0')"
    done = subprocess.run([DEBIAN_PYTHON, "-c", code], capture_output=True, check=False)
    return done.returncode == 0


needs_rtsp_server = pytest.mark.skipif(
    not has_rtsp_server(), reason=f"needs GStreamer's RTSP server: see {SERVER.name}"
)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def pixels_of(seed: int) -> np.ndarray:
    """A frame; every tenth has a defect."""
    pixels = texture(seed)
    if seed % 10 == 0:
        pixels[30:40, 20:70] = 255
    return pixels


def write_video(path: Path, n: int, *, fps: int = 25, first: int = 1000) -> Path:
    """An H.264 video with a key frame each second; every tenth frame has a defect."""
    import av

    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "crf": "4", "g": str(fps)}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width = stream.height = 96
        stream.pix_fmt = "yuv420p"
        few = [pixels_of(first + index) for index in range(min(n, 200))]
        for index in range(n):
            frame = av.VideoFrame.from_ndarray(few[index % len(few)], format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


class Peer:
    """A process that can be killed and started again on the same port."""

    def __init__(self, command: list[str], port: int) -> None:
        self.command = command
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: listens(self.port))

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
        self.process = None

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Rtsp(Peer):
    """A real RTSP server that plays a video to each client in real time."""

    def __init__(self, video: Path) -> None:
        port = free_port()
        self.url = f"rtsp://127.0.0.1:{port}/part"
        super().__init__([DEBIAN_PYTHON, str(SERVER), str(video), str(port)], port)


class Mosquitto(Peer):
    """A real broker that keeps its messages over a restart."""

    def __init__(self, folder: Path, *extra: str) -> None:
        port = free_port()
        config = folder / "mosquitto.conf"
        settings = [f"listener {port} 127.0.0.1", *(extra or ["allow_anonymous true"])]
        if os.getuid() == 0:
            settings.append("user root")
        settings += ["persistence true", f"persistence_location {folder}/", "max_queued_messages 0"]
        config.write_text("\n".join(settings) + "\n")
        super().__init__([str(shutil.which("mosquitto")), "-c", str(config)], port)


class Subscriber:
    """A durable MQTT subscriber: what it gets, by topic."""

    def __init__(self, port: int, topic: str) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.got: dict[str, list[dict[str, Any]]] = {}
        self.client = Client(CallbackAPIVersion.VERSION2, "subscriber", clean_session=False)
        self.client.on_connect = lambda client, *_: client.subscribe(f"{topic}/#", 1)
        self.client.on_message = self._on_message
        self.client.reconnect_delay_set(1, 1)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def _on_message(self, _: Any, __: Any, message: Any) -> None:
        self.got.setdefault(message.topic, []).append(json.loads(message.payload))

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


class Receiver:
    """An HTTP server for a webhook, which can be away or answer with errors."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/results"
        self.got: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.answers: list[int] = []
        self.server: ThreadingHTTPServer | None = None
        self.start()

    def start(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = receiver.answers.pop(0) if receiver.answers else 200
                if status == 200:
                    receiver.got.append(json.loads(body))
                    receiver.headers.append(self.headers)
                if status == 0:  # taken, without an answer
                    receiver.got.append(json.loads(body))
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def __init__(self) -> None:
                self.open: set[socket.socket] = set()
                super().__init__(("127.0.0.1", receiver.port), Handler)

            def process_request(self, request: Any, client: Any) -> None:
                self.open.add(request)
                super().process_request(request, client)

        self.server = Server()
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Go away, and cut all open connections."""
        if self.server is None:
            return
        self.server.shutdown()
        self.server.server_close()
        for connection in self.server.open:  # type: ignore[attr-defined]
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server = None

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
