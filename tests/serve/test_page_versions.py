"""Versions and updates on the page: looked at before they are made, undone with one click."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fre import load
from page_tools import (
    N_TRAIN,
    PATIENCE,
    Opener,
    Service,
    Shoot,
    accessible,
    card,
    cards,
    choose,
    expect,
    fits,
    go,
    inspected,
    serve_copies,
    write_plate,
)

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def service(plates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with serve_copies(plates, folder, "taught", "kept", "left") as running:
        yield running


def mark(page: Any, name: str, key: str) -> None:
    card(page, name).focus()
    page.keyboard.press(key)
    expect(card(page, name).locator(".flag")).to_be_visible()


def on_a_phone(page: Any) -> None:
    page.set_viewport_size(PHONE)
    # The grid behind takes a moment to lay itself out anew.
    page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth")


def asked(page: Any) -> Any:
    """The dialogue, once it has something to ask."""
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Discard")).to_be_visible(timeout=PATIENCE)
    return dialog


def test_teaching_asks_and_is_undone_with_one_click(
    service: Service, plates: Path, open_page: Opener, shoot: Shoot
) -> None:
    page = open_page(service, "taught", width=1280, height=800)
    files = sorted((plates / "test").glob("*.png"))
    choose(page, files)
    inspected(page, len(files))
    names = [name for name, _ in cards(page)]
    worst = names[0]
    mark(page, worst, "g")
    for name in names[1:3]:
        mark(page, name, "d")
    mark(page, names[-1], "g")
    before = load(service.models / "taught.onnx")

    go(page, "review")
    # By the keyboard alone.
    page.get_by_role("button", name="Add 1 good part to the model").focus()
    page.keyboard.press("Enter")
    dialog = asked(page)
    title = dialog.get_by_role("heading", name="Add 1 good image to taught?")
    expect(title).to_be_focused()
    assert load(service.models / "taught.onnx").sha256 == before.sha256
    preview = service.get("/v1/models/taught/preview")
    expect(dialog.locator(".teach-images img")).to_have_count(1)
    for row, shown in (
        ("Good images", f"{N_TRAIN} {N_TRAIN + 1}"),
        ("Threshold", f"{before.threshold:.3f} {preview['after']['threshold']:.3f}"),
        ("Reviewed defects found", "2 of 2"),
    ):
        cells = dialog.get_by_role("row", name=re.compile(f"^{row}")).get_by_role("cell")
        assert shown in " ".join(cells.all_inner_texts()), row
    changes = dialog.locator(".teach-changes li")
    expect(changes).to_have_count(preview["reviewed"]["n_changes"])
    taught = changes.filter(has=page.get_by_title(worst, exact=True))
    expect(taught).to_contain_text(re.compile(r"Anomalous.*Good.*Is added itself\.", re.S))
    expect(dialog).to_contain_text("of 4 reviewed images, scored by both models")
    accessible(page, "teach")
    shoot(page, "teach-1280")
    on_a_phone(page)
    fits(page, "teach on a phone")
    accessible(page, "teach on a phone")
    shoot(page, "teach-390")
    page.set_viewport_size({"width": 1280, "height": 800})

    # Nothing is learnt by a look.
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Add 1 good part to the model").click()
    asked(page)
    preview = service.get("/v1/models/taught/preview")
    page.keyboard.press("Tab")
    expect(dialog.get_by_role("button", name="Add 1 image")).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    told = page.get_by_text("1 image was added to taught.")
    expect(told).to_be_visible()
    after = load(service.models / "taught.onnx")
    assert after.sha256 == preview["sha256"]
    expect(page.get_by_role("button", name=re.compile("^Add .* to the model$"))).to_be_hidden()

    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("The earlier version of taught is in use.")).to_be_visible()
    assert load(service.models / "taught.onnx").sha256 == before.sha256
    # It can be taught again.
    expect(page.get_by_role("button", name="Add 1 good part to the model")).to_be_visible()


def test_versions_are_listed_restored_downloaded_and_deleted(
    service: Service, open_page: Opener, shoot: Shoot
) -> None:
    page = open_page(service, "kept", width=1280, height=1000)
    first = load(service.models / "kept.onnx")
    page.locator("#threshold-value").fill("9.5")
    page.keyboard.press("Tab")
    page.get_by_role("button", name="Save into the model").click()
    panel = page.locator("#inspect-versions")
    expect(panel.locator("summary")).to_have_text("2 versions")
    panel.locator("summary").focus()
    page.keyboard.press("Enter")
    newest, oldest = panel.get_by_role("listitem").all()
    expect(newest).to_contain_text("decision changed")
    expect(newest).to_contain_text(f"{N_TRAIN} good images, threshold 9.500. From this machine.")
    expect(newest).to_contain_text("In use")
    expect(oldest).to_contain_text("file put there by hand")
    panel.scroll_into_view_if_needed()
    accessible(page, "versions")
    shoot(page, "versions-1280")
    with page.expect_download() as download:
        oldest.get_by_role("link", name=re.compile("^Download")).click()
    assert Path(download.value.path()).read_bytes() == first.data

    oldest.get_by_role("button", name=re.compile("^Restore")).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("The earlier version of kept is in use.")).to_be_visible()
    assert load(service.models / "kept.onnx").sha256 == first.sha256
    expect(panel.get_by_role("listitem").first).to_contain_text("restored")
    expect(page.locator("#threshold-value")).not_to_have_value("9.5")
    on_a_phone(page)
    page.locator("#inspect-summary").click()
    panel.scroll_into_view_if_needed()
    fits(page, "versions on a phone")
    accessible(page, "versions on a phone")
    shoot(page, "versions-390")
    delete = panel.get_by_role("button", name=re.compile("^Delete the version of"))
    delete.click()
    question = page.get_by_role("dialog")
    expect(question.get_by_role("heading")).to_have_text(
        re.compile(r"^Delete the version of .*\?$")
    )
    expect(question).to_contain_text("can't be restored after that")
    expect(question.get_by_role("button", name="Keep it")).to_be_focused()
    accessible(page, "question before a version is deleted")
    page.keyboard.press("Enter")
    assert len(service.get("/v1/models/kept/versions")["versions"]) == 2
    delete.click()
    question.get_by_role("button", name=re.compile("^Delete the version of")).click()
    expect(panel.locator("summary")).to_have_text("1 version")
    assert len(service.get("/v1/models/kept/versions")["versions"]) == 1


def test_an_update_that_can_not_be_made_says_why_and_a_prepared_one_waits(
    service: Service, plates: Path, open_page: Opener, tmp_path: Path, shoot: Shoot
) -> None:
    page = open_page(service, "left", view="train", width=1280, height=800, forgive="409")
    more = page.get_by_role("region", name="Add good images")
    upload = more.locator("input[type=file]").first
    upload.set_input_files(plates / "test" / "scratch.png")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="These images can't be added to left")).to_be_visible(
        timeout=PATIENCE
    )
    expect(dialog.get_by_role("alert")).to_contain_text("scratch.png")
    accessible(page, "refused")
    shoot(page, "teach-refused")
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()

    upload.set_input_files([write_plate(tmp_path / f"new-{seed}.png", seed) for seed in (500, 501)])
    expect(asked(page)).to_contain_text("Nothing is reviewed yet")
    # Whoever leaves the page finds it again under the runs.
    page.evaluate('localStorage.setItem("fre.language", "de")')
    page.reload()
    page.locator(".job").first.get_by_role("button", name="Ansehen").click()
    expect(dialog.get_by_role("heading", level=2)).to_have_text("2 Gutbilder in left aufnehmen?")
    on_a_phone(page)
    fits(page, "in German, on a phone")
    shoot(page, "teach-de-390")
    # Another threshold meanwhile: the update was not prepared for it.
    changed = page.request.put(f"{service.url}/v1/models/left/threshold", data={"threshold": 9.5})
    assert changed.ok
    dialog.get_by_role("button", name="2 Bilder aufnehmen").click()
    expect(dialog.get_by_role("alert")).to_contain_text("has changed meanwhile")
    dialog.get_by_role("button", name="Verwerfen").click()
    expect(dialog).to_be_hidden()
    assert load(service.models / "left.onnx").threshold == 9.5
