"""The first view of the page: four steps, and where a visit begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from fre import FRE
from page_tools import (
    SIZE,
    Opener,
    Shoot,
    accessible,
    choose,
    expect,
    fits,
    serve,
    write_plate,
)

pytestmark = pytest.mark.slow


def test_a_visit_begins_at_the_steps_until_there_is_a_result(
    plates: Path, open_page: Opener, shoot: Shoot, tmp_path: Path
) -> None:
    with serve(tmp_path) as service:
        page = open_page(service, view="")
        steps = page.locator(".step")
        current = page.locator('.step[aria-current="step"]')
        expect(steps).to_have_count(4)
        expect(current).to_contain_text("Photograph good parts")
        accessible(page, "start")
        fits(page, "start")
        shoot(page, "start")
        current.get_by_role("link").click()
        expect(page.locator("#view-train")).to_be_visible()

        FRE(size=SIZE).fit(plates / "train").save(service.models / "plate.onnx")
        page.locator(".brand").click()
        expect(current).to_contain_text("Check on good and bad parts")
        expect(steps.nth(1)).to_contain_text("1 model: plate")
        current.get_by_role("link").click()
        choose(page, [write_plate(tmp_path / "part.png", 7)])
        inspected_one = page.get_by_text("1 image inspected.")
        expect(inspected_one).to_be_visible()
        page.locator(".brand").click()
        expect(current).to_contain_text("Use it at the line")
        expect(steps.nth(2)).to_contain_text("1 result")
        page.goto(service.url)
        expect(page.locator("#view-inspect .card")).to_have_count(1)
        page.close()


@pytest.mark.parametrize(
    ("width", "language"), [(390, "en"), (390, "de"), (1280, "en"), (1280, "de")]
)
def test_the_steps_fit(
    open_page: Opener, shoot: Shoot, tmp_path: Path, width: int, language: str
) -> None:
    with serve(tmp_path) as service:
        page = open_page(service, view="start", width=width, height=844, locale=language)
        expect(page.locator(".step")).to_have_count(4)
        fits(page, "start")
        accessible(page, "start")
        shoot(page, f"start-{width}-{language}")
        page.close()
