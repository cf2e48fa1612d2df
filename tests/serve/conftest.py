"""The models, images and browser that the tests of the service share.

Screenshots go to the folder that ``FRE_SCREENSHOTS`` names, if it is set.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fre.datasets.plates import KINDS

if TYPE_CHECKING:
    from page_tools import Opener, Service, Shoot


@pytest.fixture(scope="session")
def weave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a weave, small and quick."""
    import fre
    from conftest import texture

    good = [texture(seed) for seed in range(40)]
    model = fre.FRE(size=64, false_alarm_rate=0.05).fit(good)
    return model.save(tmp_path_factory.mktemp("weave") / "weave.onnx")


@pytest.fixture
def models(weave: Path, tmp_path: Path) -> Path:
    """A folder with the model of the weave."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(weave, folder)
    return folder


@pytest.fixture(scope="module")
def plates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train``: good plates; ``test``: four good ones and one of each defect."""
    from page_tools import N_TRAIN, write_plate

    root = tmp_path_factory.mktemp("plates")
    for seed in range(N_TRAIN):
        write_plate(root / "train" / f"{seed:02d}.png", seed)
    for seed in range(4):
        write_plate(root / "test" / f"good-{seed}.png", 100 + seed)
    for seed, kind in enumerate(KINDS):
        write_plate(root / "test" / f"{kind}.png", 200 + seed, kind)
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from page_tools import CHROMIUM, playwright

    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Opener]:
    """Opens a page on a model; nothing that the browser complains of passes unseen."""
    from page_tools import PATIENCE, expect

    contexts: list[Any] = []
    complaints: list[str] = []

    def open_page(
        service: Service,
        model: str | None = None,
        *,
        view: str = "inspect",
        width: int = 1440,
        height: int = 900,
        scheme: str = "light",
        density: float = 1,
        locale: str = "en-US",
        forgive: str | None = None,
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=scheme,
            device_scale_factor=density,
            locale=locale,
            accept_downloads=True,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)

        def complain(text: str) -> None:
            if forgive is None or not re.search(forgive, text):
                complaints.append(text)

        page.on(
            "console",
            lambda line: line.type == "error" and complain(f"{line.text} {line.location}"),
        )
        page.on("pageerror", lambda error: complain(str(error)))
        if model is not None:
            # Once, so that a model chosen later is what a reload finds.
            page.add_init_script(
                f"""if (!sessionStorage.getItem("chosen")) {{
                    localStorage.setItem("fre.model", {json.dumps(model)});
                    sessionStorage.setItem("chosen", "yes");
                }}"""
            )
        page.goto(f"{service.url}/#/{view}")
        if model is not None:
            expect(page.locator("#model")).to_have_value(model, timeout=PATIENCE)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def shoot(tmp_path: Path) -> Shoot:
    folder = Path(os.environ.get("FRE_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def shoot(page: Any, name: str) -> Path:
        file = folder / f"{name}.png"
        page.screenshot(path=file)
        return file

    return shoot
