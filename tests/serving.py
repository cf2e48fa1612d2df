"""A real service on a free port: in a process of its own, or in a thread of the tests'."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from conftest import texture

if TYPE_CHECKING:
    from typing import Self

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "httpx")

needs_serve = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="needs fre-vision[serve]: pip install 'fre-vision[test,serve]'",
)


class Running:
    """A service that is ready, with a client of its own; use as a context.

    Attributes:
        models: what it serves.
        url: address of the page.
        client: httpx client of that address.
        log: lines that the service wrote.
    """

    models: Path
    url = ""
    client: Any
    log: list[str]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> int:
        raise NotImplementedError

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


class Server(Running):
    """``fre serve`` in a process of its own."""

    def __init__(self, models: Path, *options: object, token: str | None = None) -> None:
        import httpx

        self.models = models
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
        self.log = []
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(60) or not self.url:
            self.process.kill()
            raise AssertionError("the service did not start:\n" + "".join(self.log))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.client = httpx.Client(base_url=self.url, timeout=60, headers=headers)
        self.wait_ready()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"the page is at (\S+)", line):
                self.url = found.group(1)
                self._listening.set()
        self._listening.set()

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

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return 1024 * int(found.group(1))


class LocalServer(Running):
    """The service of ``fre serve`` in a thread, which saves the seconds that a process takes.

    Args:
        models: a model file, or a folder of them.
        settings: of `Settings`, such as ``cors=("https://line.example",)``.
    """

    def __init__(self, models: Path, **settings: Any) -> None:
        import httpx
        import uvicorn

        from fre.images.formats import pixel_limit, set_pixel_limit
        from fre.serve import server
        from fre.serve.app import create_app
        from fre.serve.service import Service
        from fre.serve.settings import Settings

        class Threaded(server._Server):
            def capture_signals(self) -> contextlib.AbstractContextManager[None]:
                return contextlib.nullcontext()  # only a main thread has signals

        self.models, self.log = models, []
        folder = models if models.is_dir() else models.parent
        chosen = Settings(
            models=models, **{"data": folder / ".fre-serve", "threads": 1, **settings}
        )
        self._bound = server.listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._bound.getsockname()[1]}"
        self._restore = partial(set_pixel_limit, pixel_limit())
        service = Service(chosen)
        config = uvicorn.Config(
            create_app(service),
            http=partial(server.Connection, most=100),
            ws="none",
            log_config=None,
            lifespan="on",
        )
        self._server = Threaded(config, service)
        self._thread = threading.Thread(target=self._server.run, args=([self._bound],))
        self._thread.start()
        headers = {"Authorization": f"Bearer {chosen.token}"} if chosen.token else {}
        self.client = httpx.Client(base_url=self.url, timeout=60, headers=headers)
        self.wait_ready()

    def end(self) -> None:
        """Finish open requests, and end; the client stays."""
        self._server.service.draining = True
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._bound.close()
        self._restore()

    def stop(self) -> int:
        self.end()
        self.client.close()
        return 0


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


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def fits(document: dict[str, Any], schema: dict[str, Any], value: Any) -> bool:
    try:
        check_shape(document, schema, value)
    except AssertionError:
        return False
    return True


def check_shape(document: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """A small check of a JSON value against its schema; unknown keys are errors, too."""
    schema = resolve(document, schema)
    if "anyOf" in schema:
        assert any(fits(document, option, value) for option in schema["anyOf"]), (schema, value)
        return
    kinds = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
    if schema.get("type") == "null":
        assert value is None
    elif schema.get("type") == "number":
        assert isinstance(value, (int, float))
    elif "type" in schema:
        assert isinstance(value, kinds[schema["type"]]), (schema, value)
    if schema.get("type") == "array":
        for item in value:
            check_shape(document, schema.get("items", {}), item)
    if "properties" in schema:
        assert set(value) <= set(schema["properties"]), (schema, value)
        assert set(schema.get("required", [])) <= set(value), (schema, value)
        for key, item in value.items():
            check_shape(document, schema["properties"][key], item)
