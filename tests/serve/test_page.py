"""The page of the service, as a person uses it: a real `fre serve` in a real browser."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fre import FRE, load
from fre.datasets.plates import KINDS
from page_tools import (
    N_TRAIN,
    PATIENCE,
    SIZE,
    VIEWS,
    Opener,
    Service,
    Shoot,
    accessible,
    card,
    cards,
    choose,
    count,
    drop,
    expect,
    fits,
    go,
    inspected,
    serve,
    serve_copies,
    write_plate,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(plates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "models").mkdir()
    # A quick one, for a thousand images.
    quick = FRE("efficientnet_lite0", preset="reference", size=64).fit(plates / "train")
    quick.save(folder / "models" / "many.onnx")
    names = (
        "drop drag review look live axe shown keys grow busy late types zoomed judged band counted"
    )
    watched = ("--watch", str(folder / "watched"), "--watch-model", "live")
    with serve_copies(plates, folder, *names.split(), options=watched) as running:
        yield running


def test_dropped_images_come_worst_first_with_the_scores_of_the_model(
    service: Service, plates: Path, open_page: Opener, tmp_path: Path
) -> None:
    page = open_page(service, "drop", forgive="422")
    expect(page.get_by_text("Drop images or a folder here")).to_be_visible()
    files = sorted((plates / "test").glob("*.png"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    drop(page, [*files, broken])
    inspected(page, len(files) + 1)

    predictions = load(service.models / "drop.onnx").predict_many(files)
    expected = sorted(((p.path.name, p.score) for p in predictions), key=lambda row: -row[1])
    shown = [row for row in cards(page) if row[0] != "broken.png"]
    assert [name for name, _ in shown] == [name for name, _ in expected]
    np.testing.assert_allclose(
        [s for _, s in shown], [s for _, s in expected], rtol=2e-3, atol=1e-3
    )

    threshold = load(service.models / "drop.onnx").calibration.threshold
    assert count(page, "anomalous") == sum(score > threshold for _, score in expected)
    assert count(page, "good") == sum(score <= threshold for _, score in expected)
    worst = page.locator("#view-inspect .card").first
    expect(worst.locator(".boxes .box").first).to_be_attached()
    assert worst.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)")
    page.get_by_role("button", name=re.compile(r"^Not read")).click()
    expect(page.locator("#view-inspect .card")).to_have_count(1)

    page.reload()
    expect(page.locator("#view-inspect .card")).to_have_count(len(files))
    assert [name for name, _ in cards(page)] == [name for name, _ in expected]


def test_a_folder_and_a_sample_can_be_inspected(
    service: Service, plates: Path, open_page: Opener, shoot: Callable[[Any, str], Path]
) -> None:
    page = open_page(service, "look")
    page.locator("#view-inspect input[webkitdirectory]").set_input_files(plates / "test")
    inspected(page, 4 + len(KINDS))
    assert all(name.startswith("test/") for name, _ in cards(page))
    page.get_by_role("button", name="Samples…").click()
    tiles = page.locator(".sample")
    tiles.first.locator("img").evaluate("image => image.decode()")
    tiles.first.click()
    shoot(page, "samples")
    page.get_by_role("button", name="Inspect 1").click()
    expect(page.get_by_role("button", name=f"All {5 + len(KINDS)}")).to_be_visible()


def test_the_threshold_is_dragged_and_saved_into_the_model(
    service: Service, plates: Path, open_page: Opener, shoot: Callable[[Any, str], Path]
) -> None:
    page = open_page(service, "drag")
    choose(page, sorted((plates / "test").glob("*.png")))
    inspected(page, 4 + len(KINDS))
    file = service.models / "drag.onnx"
    calibration = load(file).calibration
    handle = page.get_by_role("slider", name="Threshold")
    plot = page.locator("#inspect-histogram .plot")

    def state() -> tuple[float, int, int, str]:
        return (
            float(handle.get_attribute("aria-valuenow")),
            count(page, "anomalous"),
            count(page, "good"),
            page.locator(".rate").inner_text(),
        )

    def check() -> float:
        page.evaluate("() => new Promise(requestAnimationFrame)")
        threshold, anomalous, good, rate = state()
        scores = [score for _, score in cards(page)]
        assert anomalous == sum(score > threshold for score in scores)
        assert good == len(scores) - anomalous
        share = (1 + np.count_nonzero(calibration.scores > threshold)) / (1 + N_TRAIN)
        assert float(rate.strip("≤ %")) == pytest.approx(100 * share, rel=0.1)
        assert page.locator(".card.anomalous").count() == anomalous
        return threshold

    assert check() == pytest.approx(calibration.threshold)
    box, grip = plot.bounding_box(), handle.bounding_box()
    page.mouse.move(grip["x"] + grip["width"] / 2, grip["y"] + 20)
    page.mouse.down()
    seen = []
    for share in (0.1, 0.25, 0.4):
        page.mouse.move(box["x"] + share * box["width"], grip["y"] + 30, steps=4)
        seen.append(check())
    shoot(page, "dragging")
    page.mouse.up()
    assert seen == sorted(seen)
    assert seen[0] < calibration.threshold
    page.get_by_text(re.compile("Not saved")).wait_for()

    handle.focus()
    page.keyboard.press("ArrowRight")
    moved = check()
    assert moved > seen[-1]
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    assert check() == pytest.approx(moved)
    # However fast they are pressed, each goes on from where the one before led.
    handle.evaluate(
        """handle => {
            for (const key of ["ArrowLeft", "ArrowRight", "ArrowRight", "ArrowLeft"]) {
                handle.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
            }
        }"""
    )
    assert check() == pytest.approx(moved)
    page.get_by_role("button", name="Undo").click()
    assert check() == pytest.approx(calibration.threshold)
    page.keyboard.press("Tab")
    page.get_by_label("Threshold", exact=True).and_(page.locator("input")).fill(str(moved))
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Save into the model").click()
    expect(page.get_by_text("Saved into drag.")).to_be_visible()
    assert load(file).calibration.threshold == pytest.approx(moved)

    page.reload()
    expect(page.locator("#model")).to_have_value("drag", timeout=PATIENCE)
    expect(page.locator(".card")).to_have_count(4 + len(KINDS))
    assert check() == pytest.approx(moved)


def test_filters_follow_the_threshold(service: Service, plates: Path, open_page: Opener) -> None:
    page = open_page(service, "keys")
    choose(page, sorted((plates / "test").glob("*.png")))
    inspected(page, 4 + len(KINDS))
    page.get_by_role("button", name=re.compile("^Anomalous")).click()
    handle = page.get_by_role("slider", name="Threshold")
    handle.focus()
    page.keyboard.press("End")
    expect(page.locator("#view-inspect .card")).to_have_count(0)
    expect(page.get_by_text("None of the results.")).to_be_visible()
    page.keyboard.press("Home")
    expect(page.locator("#view-inspect .card")).to_have_count(4 + len(KINDS))


def test_a_model_is_trained_from_good_images_and_used(
    plates: Path, open_page: Opener, tmp_path: Path, shoot: Callable[[Any, str], Path]
) -> None:
    with serve(tmp_path) as service:
        page = open_page(service)
        expect(page.get_by_text("No model yet")).to_be_visible()
        shoot(page, "no-model")
        page.get_by_role("link", name="Train a model").click()
        start = page.get_by_role("button", name="Train", exact=True)
        expect(start).to_be_disabled()
        page.get_by_label("Product or camera").fill("no spaces")
        expect(page.get_by_text("Letters, digits, dot")).to_be_visible()
        page.get_by_label("Product or camera").fill("bracket")
        drop(page, sorted((plates / "train").glob("*.png")))
        expect(page.get_by_text(f"{N_TRAIN} images,")).to_be_visible()
        page.get_by_text("Faster").click()
        shoot(page, "train")
        page.get_by_role("button", name="Check the images").click()
        checked = page.locator(".checked")
        expect(checked).to_contain_text(
            f"{N_TRAIN} good images can guarantee 4 % at best", timeout=PATIENCE
        )
        expect(checked).to_contain_text("128 x 128 (24)")
        shoot(page, "train-checked")
        start.click()
        expect(page.locator(".job-state")).to_have_text("Ready", timeout=2 * PATIENCE)
        expect(page.get_by_text(f"{N_TRAIN} good images in")).to_be_visible()
        expect(page.locator(".job .chart .calibration")).to_be_visible()
        expect(page.locator(".job .caveat").first).to_contain_text("Too few good images to promise")
        shoot(page, "trained")
        page.get_by_role("button", name="Use this model").click()
        expect(page.locator("#model")).to_have_value("bracket")
        choose(page, sorted((plates / "test").glob("*.png")))
        inspected(page, 4 + len(KINDS))
        before = cards(page)

        page.reload()
        expect(page.locator("#model")).to_have_value("bracket")
        expect(page.locator("#view-inspect .card")).to_have_count(len(before))
        assert cards(page) == before
        page.get_by_role("link", name="Train", exact=True).click()
        expect(page.locator(".job-state")).to_have_text("Ready")
        page.get_by_label("Product or camera").fill("bracket")
        expect(page.get_by_text("There is a model of that name.")).to_be_visible()

        # The run shows the calibration that it ended with, whatever the model has by now.
        (run,) = service.get("/v1/jobs")["jobs"]
        kept = run["result"]["calibration"]
        chart = page.locator(".job svg.chart")
        label = chart.get_attribute("aria-label")
        request = urllib.request.Request(
            f"{service.url}/v1/models/bracket/threshold",
            json.dumps({"threshold": 3 * kept["threshold"]}).encode(),
            {"Content-Type": "application/json"},
            method="PUT",
        )
        urllib.request.urlopen(request).close()
        assert service.get("/v1/models/bracket/calibration")["sha256"] != kept["sha256"]
        page.reload()
        page.get_by_role("link", name="Train", exact=True).click()
        expect(chart).to_have_attribute("aria-label", label)
        found = re.search(r"threshold of ([0-9,.]*[0-9])", label)
        assert found is not None
        drawn = float(found.group(1).replace(",", ""))
        assert drawn == pytest.approx(kept["threshold"], rel=1e-2)
        (model := service.models / "bracket.onnx").rename(tmp_path / "away.onnx")
        page.reload()
        page.get_by_role("link", name="Train", exact=True).click()
        expect(chart).to_have_attribute("aria-label", label)
        (tmp_path / "away.onnx").rename(model)
        page.close()
    assert load(tmp_path / "models" / "bracket.onnx").calibration.scores.size == N_TRAIN


def test_a_model_learns_more_from_images_and_from_marked_results(
    service: Service,
    plates: Path,
    open_page: Opener,
    tmp_path: Path,
    shoot: Callable[[Any, str], Path],
) -> None:
    page = open_page(service, "grow")
    choose(page, sorted((plates / "test").glob("*.png")))
    inspected(page, 4 + len(KINDS))
    worst = cards(page)[0][0]

    page.get_by_role("link", name="Train", exact=True).click()
    more = page.get_by_role("region", name="Add good images")
    expect(more.get_by_role("heading", name="Add good images to grow")).to_be_visible()
    more.locator("input[type=file]").first.set_input_files(plates / "test" / worst)
    dialog = page.get_by_role("dialog")
    refused = f"1 of 1 images are anomalous to the model: {worst}"
    expect(dialog).to_contain_text(refused, timeout=PATIENCE)
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator(".job[data-state=failed]")).to_contain_text(refused)
    new = [write_plate(tmp_path / f"new-{seed}.png", 400 + seed) for seed in range(3)]
    more.get_by_label("Also add what the model calls anomalous").check()
    more.locator("input[type=file]").first.set_input_files(new)
    dialog.get_by_role("button", name="Add 3 images").click(timeout=PATIENCE)
    expect(page.get_by_text("3 images were added to grow.")).to_be_visible()
    expect(page.get_by_text(f"3 images, {N_TRAIN + 3} then.")).to_be_visible()
    shoot(page, "updated")

    go(page, "inspect")
    card(page, worst).focus()
    page.keyboard.press("g")
    expect(card(page, worst).locator(".flag")).to_have_text("False alarm")
    go(page, "review")
    teach = page.get_by_role("button", name="Add 1 good part to the model")
    shoot(page, "teach")
    teach.click()
    dialog.get_by_role("button", name="Add 1 image").click(timeout=PATIENCE)
    expect(page.get_by_text("1 image was added to grow.")).to_be_visible()
    grown = load(service.models / "grow.onnx")
    assert grown.metadata["provenance"]["n_images"] == N_TRAIN + 4
    assert grown.calibration.scores.size == N_TRAIN + 4

    # What was learnt is not offered again.
    expect(page.locator("#view-review .card")).to_have_count(1)
    expect(page.get_by_role("button", name=re.compile("^Add .* to the model$"))).to_be_hidden()
    page.reload()
    expect(page.locator("#view-review .card")).to_have_count(1)
    expect(page.get_by_role("button", name=re.compile("^Add .* to the model$"))).to_be_hidden()


def test_training_tells_why_it_failed(open_page: Opener, tmp_path: Path) -> None:
    broken = [tmp_path / f"{i}.png" for i in range(3)]
    for file in broken:
        file.write_bytes(b"no image")
    with serve(tmp_path) as service:
        page = open_page(service, view="train", forgive="422")
        page.get_by_label("Product or camera").fill("bracket")
        drop(page, broken[:2])
        expect(page.get_by_text("At least three images are needed.")).to_be_visible()
        drop(page, broken[2:])
        page.get_by_role("button", name="Train", exact=True).click()
        expect(page.locator(".message.error, .job[data-state=failed] .job-body")).to_contain_text(
            re.compile("read|image")
        )
        page.close()


def test_wrong_results_are_marked_kept_and_exported(
    service: Service, plates: Path, open_page: Opener, shoot: Callable[[Any, str], Path]
) -> None:
    page = open_page(service, "review", view="review")
    expect(page.get_by_text("Nothing is reviewed yet")).to_be_visible()
    go(page, "inspect")
    choose(page, sorted((plates / "test").glob("*.png")))
    inspected(page, 4 + len(KINDS))
    worst, best = cards(page)[0][0], cards(page)[-1][0]
    assert count(page, "anomalous") > 0
    assert count(page, "good") > 0

    card(page, worst).click()
    viewer = page.get_by_role("dialog")
    viewer.get_by_role("button", name="Good part").click()
    expect(viewer.get_by_text("False alarm.")).to_be_visible()
    page.keyboard.press("Escape")
    expect(card(page, worst).locator(".flag")).to_have_text("False alarm")
    expect(card(page, worst)).to_be_focused()
    card(page, best).focus()
    page.keyboard.press("d")
    expect(card(page, best).locator(".flag")).to_have_text("Missed")
    expect(page.get_by_role("button", name="Wrong 2")).to_be_visible()

    page.reload()
    expect(card(page, best).locator(".flag")).to_have_text("Missed", timeout=PATIENCE)
    go(page, "review")
    expect(page.locator("#view-review .card")).to_have_count(2)
    figures = page.locator("#view-review .figure-value").all_inner_texts()
    assert figures == ["1", "1", "0"]
    shoot(page, "review")
    with page.expect_download() as downloading:
        page.get_by_role("link", name="Export as CSV").click()
    rows = list(csv.DictReader(downloading.value.path().read_text("utf-8").splitlines()))
    assert {(row["name"], row["verdict"]) for row in rows} == {(worst, "good"), (best, "defect")}

    page.locator("#view-review .card").first.focus()
    page.keyboard.press("u")
    expect(page.locator("#view-review .card")).to_have_count(1)
    expect_marked(service, 1)
    # Nothing is lost if the page is left at once.
    page.locator("#view-review .card").first.evaluate(
        """card => {
            card.dispatchEvent(new KeyboardEvent("keydown", { key: "u", bubbles: true }));
            location.reload();
        }"""
    )
    expect_marked(service, 0)


def expect_marked(service: Service, n: int) -> None:
    """The page shows a verdict before the service has it."""
    deadline = time.monotonic() + PATIENCE / 1000
    while (found := service.get("/v1/results?model=review&verdict=any")["total"]) != n:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


def test_the_large_view(
    service: Service, plates: Path, open_page: Opener, shoot: Callable[[Any, str], Path]
) -> None:
    page = open_page(service, "shown")
    choose(page, sorted((plates / "test").glob("*.png")))
    inspected(page, 4 + len(KINDS))
    names = [name for name, _ in cards(page)]
    first = page.locator("#view-inspect .card").first
    first.focus()
    page.keyboard.press("Enter")
    viewer = page.get_by_role("dialog")
    expect(viewer.get_by_role("heading", name=names[0])).to_be_visible()
    for image in viewer.locator("img.full, img.heat").all():
        width, height = image.evaluate(
            "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
        )
        assert (width, height) == (SIZE, SIZE)
    shoot(page, "viewer")

    heat = viewer.locator("img.heat")
    viewer.get_by_label("Heat map", exact=True).fill("0.25")
    assert float(heat.evaluate("heat => getComputedStyle(heat).opacity")) == 0.25
    sheets = viewer.locator(".sheet")
    scales = "sheets => sheets.map((sheet) => new DOMMatrix(getComputedStyle(sheet).transform).a)"
    assert sheets.evaluate_all(scales) == [1, 1]
    box = viewer.locator(".pane").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -300)
    left, right = sheets.evaluate_all(scales)
    assert left == right > 1.5
    offset = "sheet => new DOMMatrix(getComputedStyle(sheet).transform).e"
    before = sheets.last.evaluate(offset)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 40, box["y"] + box["height"] / 2)
    page.mouse.up()
    assert sheets.last.evaluate(offset) == pytest.approx(before + 40, abs=1)
    viewer.get_by_role("button", name=re.compile("^Region 1")).click()
    assert sheets.evaluate_all(scales)[0] > 1
    shoot(page, "viewer-region")
    viewer.get_by_role("button", name="Fit").click()
    assert sheets.evaluate_all(scales) == [1, 1]

    viewer.get_by_role("button", name="Next image").click()
    expect(viewer.get_by_role("heading", name=names[1])).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(viewer.get_by_role("heading", name=names[2])).to_be_visible()
    page.keyboard.press("Escape")
    expect(viewer).to_be_hidden()
    # The focus is where the looking ended, and arrows go on from there.
    focused = "() => document.activeElement.querySelector('.name')?.title"
    assert page.evaluate(focused) == names[2]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == names[3]
    # It is there as soon as the view is gone, so that the next key means that image.
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowLeft")
    expect(viewer.get_by_role("heading", name=names[2])).to_be_visible()
    close = """() => {
        const dialog = document.querySelector("dialog[open]");
        dialog.dispatchEvent(new Event("cancel", { cancelable: true }));
        return document.activeElement.querySelector(".name")?.title;
    }"""
    assert page.evaluate(close) == names[2]


def test_images_wait_for_a_service_that_has_not_answered_yet(
    service: Service, plates: Path, open_page: Opener
) -> None:
    page = open_page(service, "late")
    requests: list[Any] = []
    page.route("**/calibration", lambda route: requests.append(route), times=2)
    page.reload()
    while not requests:
        page.wait_for_timeout(20)
    expect(page.locator("#model")).to_have_value("Loading…")
    choose(page, sorted((plates / "test").glob("*.png"))[:2])
    while len(requests) < 2:
        page.wait_for_timeout(20)
    assert page.get_by_role("alert").count() == 0
    for request in requests:
        request.continue_()
    inspected(page, 2)


def test_marking_and_typing_go_on_while_images_come(
    service: Service, plates: Path, open_page: Opener
) -> None:
    page = open_page(service, "busy")
    requests: list[Any] = []

    def hold(route: Any) -> None:
        requests.append(route)
        if len(requests) == 1:
            route.continue_()

    page.route("**/predict?*", hold)
    files = sorted(plates.glob("t*/*.png"))[:16]
    choose(page, files)
    expect(page.get_by_role("button", name="All 8")).to_be_visible(timeout=PATIENCE)
    worst = cards(page)[0][0]
    card(page, worst).focus()
    page.keyboard.press("g")
    expect(card(page, worst).locator(".flag")).not_to_be_empty()
    field = page.get_by_label("Threshold", exact=True).and_(page.locator("input"))
    field.fill("12.5")
    assert len(requests) == 2
    requests[1].continue_()
    inspected(page, len(files))
    expect(page.get_by_role("button", name=f"All {len(files)}")).to_be_visible()
    assert field.input_value() == "12.5"
    expect(card(page, worst).locator(".flag")).not_to_be_empty()


def test_live_follows_a_folder(
    service: Service, open_page: Opener, tmp_path: Path, shoot: Callable[[Any, str], Path]
) -> None:
    page = open_page(service, "live", view="live")
    expect(page.get_by_text(str(service.watched))).to_be_visible()
    expect(page.get_by_text("Nothing has come yet")).to_be_visible()

    def arrive(name: str, seed: int, kind: str = "good") -> None:
        write_plate(tmp_path / name, seed, kind).rename(service.watched / name)

    arrive("first.png", 300)
    newest = page.locator("#view-live .card").first
    expect(newest.locator(".name")).to_have_text("first.png")
    arrive("second.png", 301, "stain")
    expect(newest.locator(".name")).to_have_text("second.png")
    assert [name for name, _ in cards(page, "live")] == ["second.png", "first.png"]
    expect(page.get_by_text("Too few parts to tell")).to_be_visible()
    expect(page.locator(".drift")).to_contain_text("Kolmogorov-Smirnov")

    page.get_by_role("button", name="Pause").click()
    arrive("third.png", 302)
    page.get_by_role("button", name="Show 1 new part").click()
    expect(newest.locator(".name")).to_have_text("third.png")
    expect(page.get_by_text("of 3 parts in the last")).to_be_visible()

    body = (service.watched / "second.png").read_bytes()
    # Images that people try on the page say nothing of the line.
    predict(service, "live", [(f"tried-{i}.png", body) for i in range(40)])
    expect(page.get_by_text("of 43 parts in the last")).to_be_visible()
    expect(page.locator(".drift-title")).to_have_text("Too few parts to tell")
    for i in range(35):
        request = urllib.request.Request(
            f"{service.url}/v1/models/live/predict?source=camera-1&name=frame-{i}.png",
            body,
            {"Content-Type": "image/png"},
        )
        urllib.request.urlopen(request).close()
    # All of them score as a stained plate does: these are not the parts that were learnt.
    expect(page.locator(".drift-title")).to_have_text("Parts have drifted")
    page.get_by_label("Source").select_option("watch")
    expect(page.locator("#view-live .card")).to_have_count(3)
    page.get_by_label("Source").select_option("camera-1")
    expect(page.locator("#view-live .card .name").first).to_have_text("frame-34.png")
    shoot(page, "live")


def test_files_of_other_types_are_named(
    service: Service, plates: Path, open_page: Opener, tmp_path: Path, shoot: Shoot
) -> None:
    page = open_page(service, "types")
    files = [tmp_path / name for name in ("notes.txt", "clip.gif", "plan.pdf")]
    for file in files:
        file.write_bytes(b"something else")
    drop(page, files)
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("notes.txt, clip.gif, plan.pdf")
    expect(alert).to_contain_text("JPEG, PNG, BMP, TIFF and WebP are read")
    assert service.get("/v1/results?model=types")["total"] == 0
    alert.get_by_role("button").click()
    drop(page, [files[0], plates / "test" / "good-0.png"])
    expect(alert).to_contain_text("notes.txt")
    expect(page.get_by_text("1 image inspected.")).to_be_visible()
    shoot(page, "types")
    alert.get_by_role("button").click()
    go(page, "train")
    drop(page, [*files, plates / "train" / "00.png"])
    expect(alert).to_contain_text("notes.txt, clip.gif, plan.pdf")
    expect(page.locator(".train-total")).to_contain_text("1 image,")


@pytest.mark.parametrize("density", [1, 2])
def test_one_to_one_is_a_pixel_on_a_pixel(
    service: Service, open_page: Opener, tmp_path: Path, shoot: Shoot, density: int
) -> None:
    file = tmp_path / f"wide-{density}.png"
    pixels = np.kron(np.indices((75, 100)).sum(axis=0) % 2, np.ones((20, 20))) * 200
    Image.fromarray(pixels.astype(np.uint8)).convert("RGB").save(file)  # 2000 x 1500
    page = open_page(service, "zoomed", density=density)
    choose(page, [file, write_plate(tmp_path / f"small-{density}.png", 3, size=64)])
    inspected(page, 2)
    shown: dict[str, list[float]] = {}
    for name, width in ((file.name, 2000), (f"small-{density}.png", 64)):
        card(page, name).click()
        viewer = page.get_by_role("dialog")
        full = viewer.locator("img.full").first
        full.evaluate("image => image.decode()")
        level = viewer.locator("output.zoom-level")
        size = "image => image.getBoundingClientRect().width * devicePixelRatio"
        fitted = full.evaluate(size)
        assert (
            abs(float(level.inner_text().replace(",", "").rstrip(" %")) - 100 * fitted / width) < 1
        )
        page.keyboard.press("1")
        expect(level).to_have_text("100 %")
        assert full.evaluate(size) == pytest.approx(width, abs=0.5)
        for side in ("left", "top"):
            edge = full.evaluate(
                f"image => image.getBoundingClientRect().{side} * devicePixelRatio"
            )
            assert abs(edge - round(edge)) < 0.02
        shown[name] = [fitted, full.evaluate(size)]
        shoot(page, f"one-to-one-{density}-{width}")
        if name == file.name:
            page.keyboard.press("b")
            expect(viewer.locator(".boxes")).to_have_count(0)
            # The browser may draw a coarse image first. Then the squares are as sharp as in the
            # file, and nothing is blurred between them.
            for _ in range(40):
                seen = viewer.locator(".pane").first.screenshot()
                grey = np.asarray(Image.open(io.BytesIO(seen)).convert("L"))[20:-20, 20:-20]
                values, counts = np.unique(grey, return_counts=True)
                sharp = dict(zip(values.tolist(), counts.tolist(), strict=True))
                squares = sharp.pop(0) + sharp.pop(200)
                sharp.pop(int(grey[0, 0]), None)
                if sum(sharp.values()) < 0.001 * squares:
                    break
                page.wait_for_timeout(250)
            assert sum(sharp.values()) < 0.001 * squares, sharp
            page.keyboard.press("b")
        viewer.get_by_role("button", name="Fit").click()
        assert full.evaluate(size) == pytest.approx(fitted, abs=0.5)
        viewer.get_by_role("button", name="100 %").click()
        assert full.evaluate(size) == pytest.approx(width, abs=0.5)
        page.keyboard.press("Escape")
    assert shown[file.name][0] < shown[file.name][1]


def test_a_result_says_by_what_it_was_judged(
    service: Service, plates: Path, open_page: Opener, shoot: Shoot
) -> None:
    page = open_page(service, "judged")
    choose(page, [plates / "test" / "good-0.png"])
    expect(page.get_by_text("1 image inspected.")).to_be_visible(timeout=PATIENCE)
    (result,) = service.get("/v1/results?model=judged")["results"]
    calibration = service.get("/v1/models/judged/calibration")
    assert result["threshold"] == calibration["threshold"]
    assert result["pixel_threshold"] == pytest.approx(calibration["pixel_threshold"])
    assert result["map_range"] == calibration["map_range"]
    assert result["model_sha256"] == calibration["sha256"]
    field = page.get_by_label("Threshold", exact=True).and_(page.locator("input"))
    field.fill(str(result["score"] - 0.25))
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Save into the model").click()
    expect(page.get_by_text("Saved into judged.")).to_be_visible()
    page.reload()
    shoot(page, "judged")
    anomalous = page.locator("#view-inspect .card.anomalous")
    expect(anomalous.locator(".detail")).to_have_text("was good")
    anomalous.click()
    facts = page.get_by_role("dialog").locator(".facts")
    expect(facts).to_contain_text("at the time: good")
    page.keyboard.press("Escape")
    # Another threshold repaints nothing that was decided before.
    go(page, "live")
    expect(page.locator("#view-live .card.good")).to_have_count(1)
    assert service.get("/v1/results?model=judged")["results"][0] == result


def field(page: Any, label: str) -> Any:
    return page.get_by_label(label, exact=True).and_(page.locator("input"))


PHONE = {"width": 390, "height": 844}


def no_sideways_scrolling(page: Any) -> None:
    page.wait_for_function("() => document.documentElement.scrollWidth <= window.innerWidth")


def test_odd_images_are_left_out_or_kept(
    plates: Path, open_page: Opener, tmp_path: Path, shoot: Shoot
) -> None:
    wrong = write_plate(tmp_path / "wrong-part.png", 300, KINDS[0])
    with Image.open(wrong) as image:
        pixels = np.asarray(image).copy()
    pixels[20:70, 30:90] = 255
    Image.fromarray(pixels).save(wrong)
    with serve(tmp_path) as service:
        page = open_page(service, view="train")
        page.get_by_label("Product or camera").fill("plate")
        drop(page, [*sorted((plates / "train").glob("*.png")), wrong])
        page.get_by_role("button", name="Train", exact=True).click()
        card = page.locator(".job").last
        expect(card.locator(".job-state")).to_have_text("Ready", timeout=2 * PATIENCE)
        odd = card.get_by_role("region", name="Odd training images")
        expect(odd.get_by_role("heading")).to_have_text("1 odd training image")
        expect(odd).to_contain_text("wrong-part.png")
        expect(odd).to_contain_text("The next score is")
        width = "image => image.decode().then(() => image.naturalWidth)"
        assert odd.locator("img").evaluate(width) == SIZE
        expect(card).to_contain_text("of ordinary good parts and 4 % as odd")
        odd.scroll_into_view_if_needed()
        shoot(page, "odd-trained")

        odd.get_by_role("button", name="Leave out and train again").click()
        expect(page.locator(".job")).to_have_count(2)
        again = page.locator(".job").first
        expect(again.locator(".job-state")).to_have_text("Ready", timeout=2 * PATIENCE)
        expect(again).to_contain_text("Left out: wrong-part.png.")
        expect(card.get_by_role("button", name="Leave out and train again")).to_have_count(0)
        model = load(service.models / "plate.onnx")
        assert "wrong-part.png" not in model.training_images.names
        page.close()

    # The files are gone with the service: all that is left to do is to keep them.
    model = FRE(size=SIZE).fit([*sorted((plates / "train").glob("*.png")), wrong])
    model.save(tmp_path / "models" / "plate.onnx")
    with serve(tmp_path) as service:
        page = open_page(service, "plate")
        odd = page.locator("#inspect-odd")
        expect(odd).to_contain_text("no longer kept")
        expect(odd.get_by_role("button")).to_have_text(["Keep"])
        odd.scroll_into_view_if_needed()
        shoot(page, "odd-gone")
        odd.get_by_role("button", name="Keep").click()
        expect(odd.get_by_role("heading")).to_have_text("1 odd training image, kept")
        kept = load(service.models / "plate.onnx").calibration
        assert kept.keep_odd
        assert kept.threshold == model.calibration.with_odd(keep=True).threshold
        assert float(field(page, "Threshold").input_value()) == pytest.approx(kept.threshold)
        odd.get_by_role("button", name="Set aside again").click()
        expect(odd.get_by_role("heading")).to_have_text("1 odd training image")
        assert load(service.models / "plate.onnx").threshold == model.threshold
        page.set_viewport_size(PHONE)
        page.get_by_role("button", name=re.compile("above")).click()
        odd.scroll_into_view_if_needed()
        no_sideways_scrolling(page)
        shoot(page, "odd-phone")


def test_a_threshold_by_rate_and_a_review_band(
    service: Service, plates: Path, open_page: Opener, shoot: Shoot
) -> None:
    page = open_page(service, "band")
    files = sorted((plates / "test").glob("*.png"))
    choose(page, files)
    inspected(page, len(files))
    before = load(service.models / "band.onnx").calibration
    expect(page.locator(".count.review")).to_be_hidden()
    page.get_by_role("button", name=re.compile("^10 % false alarms")).click()
    value = f"{before.at_rate(0.1).threshold:.6g}"
    expect(field(page, "Threshold")).to_have_value(value)
    page.get_by_role("button", name="Save into the model").click()
    expect(page.get_by_text("Saved into band.")).to_be_visible()
    assert load(service.models / "band.onnx").calibration.false_alarm_rate == 0.1

    scores = sorted(score for _, score in cards(page))
    threshold, begin = scores[-2] + 0.01, scores[1] + 0.01
    field(page, "Threshold").fill(str(threshold))
    page.keyboard.press("Enter")
    page.get_by_label("A band of parts to review").check()
    field(page, "Review above a score of").fill(str(threshold + 1))
    page.keyboard.press("Enter")
    expect(page.get_by_text("The band must begin below the threshold.")).to_be_visible()
    expect(page.get_by_role("button", name="Save into the model")).to_be_disabled()
    field(page, "Review above a score of").fill(str(begin))
    page.keyboard.press("Enter")
    kinds = [
        "anomalous" if score > threshold else "review" if score > begin else "good"
        for score in scores
    ]
    for kind in ("anomalous", "review", "good"):
        assert kinds.count(kind) > 0
        expect(page.locator(f".count.{kind} strong")).to_have_text(str(kinds.count(kind)))
        expect(page.locator(f"#view-inspect .card.{kind}")).to_have_count(kinds.count(kind))
    colours = {
        page.locator(f"#view-inspect .card.{kind} .verdict").first.evaluate(
            "mark => getComputedStyle(mark).color"
        )
        for kind in ("anomalous", "review", "good")
    }
    assert len(colours) == 3
    # Regions explain a decision: there are none where it is another one now.
    expect(page.locator("#view-inspect .card:not(.anomalous) .boxes:visible")).to_have_count(0)
    page.get_by_role("button", name="Save into the model").click()
    expect(page.get_by_text(re.compile("band decides by this threshold"))).to_be_visible()
    saved = load(service.models / "band.onnx").calibration
    assert saved.threshold == pytest.approx(threshold)
    assert saved.review_threshold == pytest.approx(begin)
    shoot(page, "band")

    # New images are decided by the band, live and in the history, too.
    choose(page, files[:4])
    expect(page.get_by_text("4 images inspected.")).to_be_visible(timeout=PATIENCE)
    latest = service.get("/v1/results?model=band&limit=4")["results"]
    assert {row["decision"] for row in latest} <= {"pass", "review", "fail"}
    page.get_by_role("button", name=re.compile("^Review")).click()
    marked = page.locator("#view-inspect .card.review").first
    marked.focus()
    page.keyboard.press("g")
    expect(page.locator(".flag", has_text="Reviewed: good").first).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("^Wrong 0"))).to_be_visible()

    page.get_by_label("A band of parts to review").uncheck()
    page.get_by_role("button", name="Save into the model").click()
    expect(page.get_by_text(re.compile("band decides by this threshold"))).to_be_visible()
    expect(page.locator(".count.review")).to_be_hidden()
    assert load(service.models / "band.onnx").calibration.review_threshold is None
    field(page, "Threshold").focus()
    page.get_by_label("A band of parts to review").check()
    page.set_viewport_size(PHONE)
    no_sideways_scrolling(page)
    page.get_by_role("button", name=re.compile("above")).click()
    no_sideways_scrolling(page)
    page.locator(".rates").scroll_into_view_if_needed()
    shoot(page, "band-phone")


def test_reviewed_results_show_what_is_found(
    service: Service, plates: Path, open_page: Opener, shoot: Shoot
) -> None:
    page = open_page(service, "counted")
    files = sorted((plates / "test").glob("*.png"))
    choose(page, files)
    inspected(page, len(files))
    names = [name for name, _ in cards(page)]
    anomalous = count(page, "anomalous")
    for name, key in ((names[0], "d"), (names[-1], "d"), (names[-2], "g")):
        card(page, name).focus()
        page.keyboard.press(key)
    assert anomalous > 0
    go(page, "review")
    said = page.locator(".reviewed")
    expect(said).to_contain_text(
        "Found 1 of 2 reviewed defects, missed 1. False alarms for 0 of 1 reviewed good part"
    )
    expect(said).to_contain_text("Of all defects, 9.5 % to 91 % are found")
    shoot(page, "counted")
    card(page, names[-1], "review").focus()
    page.keyboard.press("g")
    expect(said).to_contain_text("Found 1 of 1 reviewed defect, missed 0")
    page.set_viewport_size(PHONE)
    no_sideways_scrolling(page)
    shoot(page, "counted-phone")


def test_a_lost_history_is_said(open_page: Opener, tmp_path: Path, shoot: Shoot) -> None:
    data = tmp_path / "models" / ".fre-serve"
    data.mkdir(parents=True)
    (data / "results.sqlite3").write_bytes(b"no database, by far. " * 500)
    with serve(tmp_path) as service:
        page = open_page(service)
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("lost earlier results")
        expect(alert).to_contain_text("history.damaged-")
        assert service.get("/readyz")["note"] == service.get("/v1/service")["note"]
        assert "history.damaged-" in service.get("/readyz")["note"]
        shoot(page, "lost-history")
        page.close()
    (line,) = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "lost" in line]
    assert "history.damaged-" in line


def test_a_dead_camera_and_a_damaged_model_are_said(
    service: Service, plates: Path, open_page: Opener, tmp_path: Path, shoot: Shoot
) -> None:
    black = tmp_path / "black.png"
    Image.new("RGB", (SIZE, SIZE)).save(black)
    models = tmp_path / "models"
    models.mkdir()
    shutil.copy(service.models / "drop.onnx", models / "part.onnx")
    damaged = bytearray((models / "part.onnx").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (models / "damaged.onnx").write_bytes(damaged)
    with serve(tmp_path) as alone:
        page = open_page(alone, "part")
        notice = page.locator("#broken-models")
        expect(notice.locator("summary")).to_have_text("1 model file can't be loaded")
        notice.locator("summary").click()
        expect(notice).to_contain_text("damaged.onnx: the file is damaged or was changed")
        # A threshold above every score: only the reason decides.
        page.get_by_label("Threshold", exact=True).and_(page.locator("input")).fill("1e9")
        page.keyboard.press("Enter")
        drop(page, [*sorted((plates / "test").glob("*.png")), black])
        inspected(page, 5 + len(KINDS))
        assert (count(page, "anomalous"), count(page, "good")) == (1, 4 + len(KINDS))
        first = page.locator("#view-inspect .card").first
        expect(first.locator(".name")).to_have_text("black.png")
        expect(first.locator(".detail")).to_have_text("no contrast")
        shoot(page, "dead-camera")
        results = alone.get("/v1/results?anomalous=true")["results"]
        (found,) = [result for result in results if result["name"] == "black.png"]
        assert found["reason"].startswith("no contrast: ")
        first.click()
        expect(page.locator("#viewer .caveat")).to_contain_text(found["reason"][1:])
        shoot(page, "dead-camera-large")
        page.keyboard.press("Escape")
        go(page, "live")
        dead = card(page, "black.png", "live")
        expect(dead.locator(".detail")).to_have_text("no contrast")
        shutil.copy(service.models / "drop.onnx", models / "damaged.onnx")
        expect(notice).to_be_hidden(timeout=PATIENCE)


def predict(service: Service, model: str, files: list[tuple[str, bytes]]) -> None:
    import httpx

    body = [("files", (name, data, "image/png")) for name, data in files]
    url = f"{service.url}/v1/models/{model}/predict"
    httpx.post(url, params={"source": "page"}, files=body, timeout=600).raise_for_status()


@pytest.mark.slow
def test_a_thousand_images(
    service: Service, plates: Path, open_page: Opener, shoot: Callable[[Any, str], Path]
) -> None:
    images = [file.read_bytes() for file in sorted((plates / "test").glob("*.png"))]
    for start in range(0, 1000, 50):
        batch = [(f"{i:04d}.png", images[i % len(images)]) for i in range(start, start + 50)]
        predict(service, "many", batch)
    page = open_page(service, "many")
    expect(page.get_by_role("button", name="All 1,000")).to_be_visible()
    assert page.locator(".card").count() < 100
    # Frames that come late while the threshold moves over a thousand results.
    late = page.evaluate(
        """async () => {
            const slider = document.querySelector("[role=slider]");
            let longest = 0;
            let before = performance.now();
            for (let i = 0; i < 40; i += 1) {
                const key = i % 2 ? "ArrowLeft" : "ArrowRight";
                slider.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
                await new Promise(requestAnimationFrame);
                longest = Math.max(longest, performance.now() - before);
                before = performance.now();
            }
            return longest;
        }"""
    )
    assert late < 1000
    page.evaluate("window.scrollTo(0, document.documentElement.scrollHeight)")
    lowest = min(row["score"] for row in service.get("/v1/results?model=many&limit=500")["results"])
    last = page.locator("#view-inspect .card").last
    expect(last).to_have_attribute("aria-label", re.compile(r"good|anomalous"))
    expect(page.locator('#view-inspect [aria-posinset="1000"]')).to_be_visible()
    bottom = page.locator('#view-inspect [aria-posinset="1000"] .score').inner_text()
    bottom = bottom.replace(",", "").replace("−", "-")
    assert float(bottom) == pytest.approx(lowest, rel=2e-3, abs=1e-3)
    assert page.locator(".card").count() < 100
    # As often to the right as to the left: it is where it was, and nothing waits to be saved.
    expect(page.get_by_role("button", name="Save into the model")).to_be_disabled()
    shoot(page, "thousand")


def test_nothing_jumps_while_results_stream_in(
    service: Service, plates: Path, open_page: Opener
) -> None:
    page = open_page(service, "axe")
    page.evaluate(
        """() => {
            window.shifted = 0;
            new PerformanceObserver((list) => {
                for (const entry of list.getEntries()) window.shifted += entry.value;
            }).observe({ type: "layout-shift", buffered: false });
        }"""
    )
    choose(page, sorted((plates / "test").glob("*.png")))
    inspected(page, 4 + len(KINDS))
    page.wait_for_timeout(500)
    assert page.evaluate("window.shifted") < 0.02


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(
    service: Service,
    plates: Path,
    open_page: Opener,
    shoot: Callable[[Any, str], Path],
    scheme: str,
) -> None:
    page = open_page(service, "axe", scheme=scheme)
    choose(page, sorted((plates / "test").glob("*.png"))[:5])
    inspected(page, 5)

    accessible(page, "inspect")
    shoot(page, f"inspect-{scheme}")
    page.locator("#view-inspect .card").first.click()
    accessible(page, "viewer")
    shoot(page, f"viewer-{scheme}")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Samples…").click()
    accessible(page, "samples")
    page.keyboard.press("Escape")
    for view in VIEWS[1:]:
        go(page, view)
        accessible(page, view)
        shoot(page, f"{view}-{scheme}")


@pytest.mark.parametrize("width", [360, 768, 1024, 1440, 3840])
def test_every_width_holds_every_view(
    service: Service,
    plates: Path,
    open_page: Opener,
    shoot: Callable[[Any, str], Path],
    width: int,
) -> None:
    page = open_page(service, "axe", width=width, height=max(740, width * 9 // 16))
    if page.locator("#view-inspect .card").count() == 0:
        choose(page, sorted((plates / "test").glob("*.png"))[:5])
        inspected(page, 5)

    fits(page, "inspect")
    shoot(page, f"inspect-{width}")
    # Results are there without scrolling; on a phone the decision is a line that opens.
    top = page.locator("#view-inspect .card").first.bounding_box()["y"]
    assert top + 120 < page.viewport_size["height"]
    summary = page.locator("#inspect-summary")
    assert summary.is_visible() == (width <= 860)
    if width <= 860:
        expect(summary).to_contain_text(re.compile(r"\d anomalous.*\d good.*above"))
        expect(page.get_by_role("slider", name="Threshold")).to_be_hidden()
        summary.click()
        fits(page, "decision")
        shoot(page, f"decision-{width}")
    expect(page.get_by_role("slider", name="Threshold")).to_be_visible()
    page.locator("#view-inspect .card").first.click()
    fits(page, "viewer")
    shoot(page, f"viewer-{width}")
    page.keyboard.press("Escape")
    for view in VIEWS[1:]:
        go(page, view)
        fits(page, view)
        shoot(page, f"{view}-{width}")


def test_the_token_is_asked_for(
    open_page: Opener, tmp_path: Path, shoot: Callable[[Any, str], Path]
) -> None:
    with serve(tmp_path, "--token", "a-secret-of-good-length") as service:
        page = open_page(service, forgive="401|/v1/events")
        field = page.get_by_label("Token", exact=True)
        expect(field).to_be_focused()
        shoot(page, "token")
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(field).to_have_attribute("aria-invalid", "true")
        field.fill("a-secret-of-good-length")
        page.keyboard.press("Enter")
        expect(page.get_by_text("No model yet")).to_be_visible()
        page.reload()
        expect(page.get_by_text("No model yet")).to_be_visible()
        page.close()


def test_a_lost_service_is_told_and_nothing_entered_is_lost(
    plates: Path, open_page: Opener, tmp_path: Path, shoot: Callable[[Any, str], Path]
) -> None:
    with serve(tmp_path) as service:
        page = open_page(service, forgive="ERR_|Failed to load")
        expect(page.locator("#service")).to_have_text("Connected")
    expect(page.locator("#service")).to_have_text("No connection")
    page.get_by_role("link", name="Train", exact=True).click()
    page.get_by_label("Product or camera").fill("bracket")
    drop(page, sorted((plates / "train").glob("*.png"))[:4])
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_text("The service can't be reached.").first).to_be_visible()
    shoot(page, "lost")
    # What was entered is still there for the next try.
    expect(page.get_by_text("4 images,")).to_be_visible()
    expect(page.get_by_label("Product or camera")).to_have_value("bracket")


def test_the_picture_of_the_readme(
    open_page: Opener, tmp_path: Path, shoot: Callable[[Any, str], Path]
) -> None:
    """Written as ``serve.png``; docs/serve.png is a copy of it."""
    for seed in range(60):
        write_plate(tmp_path / "train" / f"{seed:02d}.png", seed, size=256)
    tested = [
        write_plate(tmp_path / "test" / f"{kind}-{seed}.png", seed, kind, size=256)
        for kind in ("good", *KINDS)
        for seed in range(100, 112 if kind == "good" else 103)
    ]
    (tmp_path / "models").mkdir()
    FRE().fit(tmp_path / "train").save(tmp_path / "models" / "plate.onnx")
    with serve(tmp_path) as service:
        page = open_page(service, "plate", width=1200, height=720)
        choose(page, tested)
        inspected(page, len(tested))
        # Other views have pictures that nothing is loaded into yet.
        page.locator("#view-inspect .card img").evaluate_all(
            "images => Promise.all(images.map((image) => image.decode()))"
        )
        page.wait_for_timeout(500)
        picture = shoot(page, "serve")
        page.close()
    with Image.open(picture) as image:
        image.save(picture, optimize=True)
    for file in (picture, Path(__file__).parents[2] / "docs" / "serve.png"):
        assert file.stat().st_size < 450_000
        with Image.open(file) as image:
            assert image.size == (1200, 720)
