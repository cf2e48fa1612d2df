"""The page of the service in a real browser: what its tests share."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fre import FRE
from fre.datasets.plates import draw_plate

for module in ("fastapi", "uvicorn", "python_multipart", "prometheus_client"):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs fre-vision[serve]: {module} is not installed", allow_module_level=True)
playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs fre-vision[test-page]: Playwright is not installed"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("needs Chromium: apt install chromium", allow_module_level=True)

expect = playwright.expect

SIZE = 128
N_TRAIN = 24
VIEWS = ("inspect", "start", "live", "review", "train")
# What a busy machine may take; nothing waits for so long where it is not.
PATIENCE = 60_000


@dataclass(frozen=True)
class Service:
    url: str
    models: Path
    watched: Path

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path) as answer:
            return json.load(answer)


@contextmanager
def serve(folder: Path, *options: str) -> Iterator[Service]:
    """A service on ``folder/models`` that watches ``folder/watched``."""
    models, watched = folder / "models", folder / "watched"
    models.mkdir(parents=True, exist_ok=True)
    watched.mkdir(exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log.txt"
    command = [sys.executable, "-m", "fre", "serve", str(models), "--port", str(port), *options]
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"{url}/healthz", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        else:
            pytest.fail(f"fre serve did not start: {log.read_text()}")
        yield Service(url, models, watched)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text()


@contextmanager
def serve_copies(
    plates: Path, folder: Path, *names: str, options: Sequence[str] = ()
) -> Iterator[Service]:
    """A service on copies of one model, so that no test sees what another did."""
    (folder / "models").mkdir(exist_ok=True)
    model = FRE(size=SIZE).fit(plates / "train")
    for name in names:
        model.save(folder / "models" / f"{name}.onnx")
    with serve(folder, *options) as running:
        yield running


def write_plate(file: Path, seed: int, kind: str = "good", size: int = SIZE) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw_plate(seed, kind=kind, severity=0.8, size=size)[0]).save(file)
    return file


Opener = Callable[..., Any]
Shoot = Callable[[Any, str], Path]


def drop(page: Any, files: list[Path]) -> None:
    """What a browser does when files are dropped on the page."""
    contents = [(file.name, base64.b64encode(file.read_bytes()).decode()) for file in files]
    page.evaluate(
        """files => {
            const transfer = new DataTransfer();
            for (const [name, data] of files) {
                const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
                transfer.items.add(new File([bytes], name));
            }
            for (const kind of ["dragenter", "dragover", "drop"]) {
                const event = new DragEvent(kind, {
                    dataTransfer: transfer, bubbles: true, cancelable: true });
                document.body.dispatchEvent(event);
            }
        }""",
        contents,
    )


def choose(page: Any, files: list[Path]) -> None:
    page.locator("#view-inspect input[type=file]").first.set_input_files(files)


def inspected(page: Any, n: int) -> None:
    expect(page.get_by_text(f"{n} images inspected.")).to_be_visible(timeout=PATIENCE)


def cards(page: Any, view: str = "inspect") -> list[tuple[str, float]]:
    """Name and score of the cards that exist, in the order of the document."""
    return page.locator(f"#view-{view} .card").evaluate_all(
        """cards => cards.map((card) => [
            card.querySelector(".name").title,
            Number(card.querySelector(".score").textContent.replaceAll(",", "").replace("−", "-")),
        ])"""
    )


def card(page: Any, name: str, view: str = "inspect") -> Any:
    """The card of an image, wherever it stands."""
    return page.locator(f"#view-{view} .card").filter(has=page.get_by_title(name, exact=True))


def go(page: Any, view: str) -> None:
    """By its link; the keyboard goes there only once the view is shown."""
    page.locator(f'.bar a[href="#/{view}"]').click()
    expect(page.locator(f"#view-{view}")).to_be_visible()


def count(page: Any, kind: str) -> int:
    return int(page.locator(f".count.{kind} strong").inner_text())


def axe_script() -> str:
    spec = importlib.util.find_spec("axe_core_python")
    if spec is None or spec.origin is None:
        pytest.skip("needs fre-vision[test-page]: axe-core-python is not installed")
    return (Path(spec.origin).parent / "axe.min.js").read_text("utf-8")


def accessible(page: Any, where: str) -> None:
    """axe finds nothing."""
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate(axe_script())
    # The animation of an element that goes meanwhile is cancelled, which is an end, too.
    page.evaluate("() => Promise.allSettled(document.getAnimations().map((a) => a.finished))")
    found = page.evaluate("() => axe.run({ resultTypes: ['violations'] })")["violations"]
    told = [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]
    assert told == [], f"{where}: {told}"


def fits(page: Any, where: str) -> None:
    """Nothing is wider than the window."""
    wide = page.evaluate(
        """() => {
            const root = document.documentElement;
            const out = [...document.querySelectorAll("button, a, input, select, h1, h2, p")]
                .filter((element) => element.offsetParent)
                .filter((element) => !element.closest(".skip, .visually-hidden"))
                .filter((element) => element.getBoundingClientRect().right > innerWidth + 1)
                .map((element) => element.outerHTML.slice(0, 120));
            return [root.scrollWidth - root.clientWidth, out];
        }"""
    )
    assert wide == [0, []], f"{where}: {wide}"
