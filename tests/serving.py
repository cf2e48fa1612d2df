"""A real service in a process of its own, on a free port."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import texture

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "httpx")

needs_serve = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="needs fre[serve]: pip install 'fre[test,serve]'",
)


class Server:
    """``fre serve``, started and ready; use as a context."""

    def __init__(self, models: Path, *options: object, token: str | None = None) -> None:
        self.models = models
        import httpx

        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("FRE_TOKEN", None)
        if token:
            environment["FRE_TOKEN"] = token
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fre", "serve", models, "--port", "0", *map(str, options)],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.log: list[str] = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(60) or not self.url:
            self.process.kill()
            raise AssertionError("the service did not start:\n" + "".join(self.log))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client = httpx.Client(base_url=self.url, timeout=60, headers=headers)
        self.wait_ready()

    url = ""

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"the page is at (\S+)", line):
                self.url = found.group(1)
                self._listening.set()
        self._listening.set()

    def wait_ready(self) -> None:
        import httpx

        for _ in range(600):
            try:
                if self.client.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
        raise AssertionError("the service is not ready:\n" + "".join(self.log))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, and wait; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(90)
        self._reader.join(10)
        self.client.close()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return 1024 * int(found.group(1))

    def predict(
        self, *files: Path, model: str = "weave", **parameters: Any
    ) -> list[dict[str, Any]]:
        answer = self.client.post(
            f"/v1/models/{model}/predict",
            files=[("files", (file.name, file.read_bytes())) for file in files],
            params=parameters,
        )
        assert answer.status_code == 200, answer.text
        predictions: list[dict[str, Any]] = answer.json()["predictions"]
        return predictions

    def job(self, identity: int, *, until: str = "done") -> dict[str, Any]:
        """Wait for a job's end."""
        for _ in range(1200):
            job: dict[str, Any] = self.client.get(f"/v1/jobs/{identity}").json()["job"]
            if job["state"] not in ("queued", "running"):
                assert job["state"] == until, job
                return job
            time.sleep(0.05)
        raise AssertionError(job)


def scratched(seed: int) -> np.ndarray:
    """A weave with a bright scratch, and a corner that makes each file its own."""
    image = texture(seed)
    image[30:40, 20 : 30 + seed % 40] = 255
    return image


def write_images(folder: Path, n: int, *, first: int = 1000) -> list[Path]:
    """Images that differ, every fourth with a defect; PNG, JPEG, BMP and TIFF in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for index in range(n):
        seed = first + index
        suffix = ("png", "jpg", "bmp", "tif")[index % 4]
        path = folder / f"{seed}.{suffix}"
        pixels = scratched(seed) if index % 4 == 1 else texture(seed, (80 + index % 40, 96))
        Image.fromarray(pixels).save(path)
        found.append(path)
    return found


def problem(answer: Any, status: int, code: str) -> str:
    """Check the shape of an error; its message."""
    assert answer.status_code == status, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    assert body["error"]["code"] == code, body
    message: str = body["error"]["message"]
    assert message
    assert "\n" not in message
    assert "Traceback" not in message
    return message
