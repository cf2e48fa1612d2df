"""The page in other languages: chosen by the browser, switched on the page, and no wider."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from page_tools import (
    PATIENCE,
    VIEWS,
    Opener,
    Service,
    Shoot,
    accessible,
    expect,
    fits,
    go,
    serve_copies,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(plates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serve_copies(plates, tmp_path_factory.mktemp("service"), "platte") as running:
        yield running


def test_the_browser_chooses_and_the_switch_is_remembered(
    service: Service, open_page: Opener
) -> None:
    page = open_page(service, "platte", locale="de-DE")
    html, inspect = page.locator("html"), page.locator('.views a[href="#/inspect"]')
    expect(html).to_have_attribute("lang", "de")
    expect(inspect).to_have_text("Prüfen")
    page.get_by_label("Sprache").select_option("en")
    expect(html).to_have_attribute("lang", "en")
    expect(inspect).to_have_text("Inspect")
    page.reload()
    expect(inspect).to_have_text("Inspect")
    expect(page.get_by_label("Language")).to_have_value("en")


def test_a_language_without_messages_gives_english(service: Service, open_page: Opener) -> None:
    page = open_page(service, "platte", locale="fr-FR")
    expect(page.locator("html")).to_have_attribute("lang", "en")
    expect(page.locator('.views a[href="#/train"]')).to_have_text("Train")


def test_a_page_without_its_words_says_so(service: Service, open_page: Opener) -> None:
    page = open_page(service, "platte", locale="de-DE", forgive="503|messages/")
    page.route("**/static/messages/*.json", lambda route: route.fulfill(status=503))
    page.reload()
    line = page.get_by_role("alert")
    expect(line).to_have_text(
        "The words of this page can't be loaded (/static/messages/de.json: the service answered "
        "503). Is fre serve running? Reload the page."
    )
    expect(line).to_be_in_viewport()
    page.unroute("**/static/messages/*.json")
    page.reload()
    expect(page.locator('.views a[href="#/inspect"]')).to_have_text("Prüfen")


def test_numbers_below_zero_have_a_minus(service: Service, open_page: Opener) -> None:
    for locale, expected in (
        ("en-US", ["−1.500", "0.000", "1e−4"]),
        ("de-DE", ["−1,500", "0,000", "1e−4"]),
    ):
        page = open_page(service, "platte", locale=locale)
        shown = page.evaluate(
            """async () => {
                const format = await import("/static/format.js");
                return [format.score(-1.5), format.score(-0.0001), format.pValue(0.0001)];
            }"""
        )
        assert shown == expected


@pytest.mark.parametrize("width", [390, 1280])
def test_german_fits_and_can_be_read_aloud(
    service: Service, plates: Path, open_page: Opener, shoot: Shoot, width: int
) -> None:
    page = open_page(service, "platte", width=width, height=844, locale="de-DE")
    files = sorted((plates / "test").glob("*.png"))
    page.locator("#view-inspect input[type=file]").first.set_input_files(files)
    expect(page.get_by_text(f"{len(files)} Bilder geprüft.")).to_be_visible(timeout=PATIENCE)
    threshold = service.get("/v1/models")["models"][0]["threshold"]
    for view in VIEWS:
        go(page, view)
        accessible(page, view)
        fits(page, view)
        shoot(page, f"{view}-{width}-de")
    go(page, "inspect")
    page.locator("#view-inspect .card").first.click()
    fits(page, "viewer")
    comma = f"{threshold:.{3 if threshold < 10 else 2}f}".replace(".", ",")
    expect(page.locator("#viewer .facts")).to_contain_text(comma)
    shoot(page, f"viewer-{width}-de")
