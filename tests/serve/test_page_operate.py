"""The operator's screen, roles and the source on the page, in a real browser."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fre import FRE
from line_peers import Rtsp, needs_camera, needs_rtsp_server, write_video
from page_tools import (
    PATIENCE,
    SIZE,
    Opener,
    Service,
    Shoot,
    accessible,
    expect,
    fits,
    serve,
    write_plate,
)

pytestmark = pytest.mark.slow
ENGINEER, OPERATOR = "a-secret-of-the-engineers", "a-secret-of-operators"


@pytest.fixture(scope="module")
def model(plates: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FRE(size=SIZE).fit(plates / "train").save(tmp_path_factory.mktemp("m") / "plate.onnx")


@pytest.fixture
def service(model: Path, tmp_path: Path) -> Iterator[Service]:
    """A service whose page may choose what lies below the test's folder."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "plate.onnx").write_bytes(model.read_bytes())
    with serve(tmp_path, "--source-root", str(tmp_path)) as running:
        yield running


def post(service: Service, file: Path, source: str = "camera-1") -> None:
    url = f"{service.url}/v1/models/plate/predict?source={source}&name={file.name}"
    request = urllib.request.Request(url, file.read_bytes(), {"Content-Type": "image/png"})
    urllib.request.urlopen(request).close()


def counts(page: Any) -> dict[str, str]:
    pairs = page.locator(".operate-counts > div").evaluate_all(
        "rows => rows.map((row) => [row.className, row.querySelector('dd').textContent])"
    )
    return dict(pairs)


def test_an_operator_sees_judges_and_counts(
    service: Service, plates: Path, open_page: Opener, shoot: Shoot
) -> None:
    page = open_page(service, "plate", view="operate", width=1280, height=800)
    verdict = page.locator(".operate-verdict")
    expect(verdict).to_have_text("No part yet")
    expect(page.locator(".bar")).to_be_hidden()
    parts = page.locator(".operate-counts .parts dd")
    expect(parts).to_have_text("0")
    page.evaluate(
        """() => {
            window.tones = [];
            const start = OscillatorNode.prototype.start;
            OscillatorNode.prototype.start = function (when) {
                window.tones.push(Math.round(this.frequency.value));
                start.call(this, when);
            };
        }"""
    )
    post(service, plates / "test" / "good-0.png")
    expect(verdict).to_have_text("GOOD")
    expect(page.locator(".operate-picture img")).to_be_visible()
    assert page.evaluate("window.tones") == [], "silent until somebody asks for sound"
    page.get_by_role("button", name="Sound off").click()
    expect(page.get_by_role("button", name="Sound on")).to_have_attribute("aria-pressed", "true")
    assert page.evaluate("window.tones") == [1320]

    post(service, plates / "test" / "scratch.png")
    expect(verdict).to_have_text("ANOMALOUS")
    expect(verdict.locator("use")).to_have_attribute("href", "#icon-anomalous")
    assert page.evaluate("window.tones") == [1320, 220, 165, 220]
    # What people try on the page is no part of the line.
    post(service, plates / "test" / "good-1.png", "page")
    expect(page.locator(".operate-strip li")).to_have_count(2)
    expect(page.locator(".operate-picture .boxes")).to_be_attached()
    shown = page.locator(".operate-word > span").evaluate(
        "span => span.getBoundingClientRect().height"
    )
    assert shown >= 100, f"{shown} px can't be read from 3 m"
    accessible(page, "operate")
    fits(page, "operate")
    shoot(page, "operate-1280")

    with page.expect_response("**/verdict"):
        page.get_by_role("button", name="False alarm").click()
    expect(page.locator(".operate-judged")).to_have_text("False alarm")
    results = service.get("/v1/results?source=camera-1")["results"]
    assert [(r["name"], r["verdict"]) for r in results] == [
        ("scratch.png", "good"),
        ("good-0.png", None),
    ]
    page.get_by_role("button", name="good-0.png, GOOD").click()
    expect(verdict).to_have_text("GOOD")
    page.get_by_role("button", name="Confirm").click()
    expect(page.locator(".operate-judged")).to_have_text("Confirmed good")
    page.get_by_role("button", name="Back to the newest").click()
    expect(verdict).to_have_text("ANOMALOUS")
    page.get_by_role("button", name="Confirm", exact=True).click()
    expect(page.locator(".operate-judged")).to_have_text("Confirmed defect")

    expect(parts).to_have_text("2")
    page.get_by_role("button", name="New shift").click()
    expect(parts).to_have_text("0")
    page.get_by_role("button", name="Bring it back").click()
    expect(parts).to_have_text("2")
    post(service, plates / "test" / "stain.png")
    expect(parts).to_have_text("3")
    page.reload()
    expect(parts).to_have_text("3")
    assert counts(page)["anomalous_parts"] == "2"


@pytest.mark.parametrize(
    ("view", "parts"), [("operate", ".operate-past"), ("live", "#view-live .card")]
)
def test_a_part_that_comes_while_the_list_is_asked_for_is_shown(
    service: Service, plates: Path, open_page: Opener, view: str, parts: str
) -> None:
    page = open_page(service, "plate", view=view)
    post(service, plates / "test" / "good-0.png")
    expect(page.locator(parts)).to_have_count(1)
    page.evaluate(
        """async () => {
            const { events } = await import("/static/events.js");
            const real = window.fetch;
            window.fetch = async (address, ...rest) => {
                const answer = await real(address, ...rest);
                if (!address.startsWith("/v1/results?")) return answer;
                window.answered = true;
                await new Promise((done) => {
                    events.addEventListener("result", done, { once: true });
                });
                return answer;
            };
            events.dispatchEvent(new CustomEvent("lagged"));
        }"""
    )
    page.wait_for_function("window.answered")
    post(service, plates / "test" / "good-1.png")
    expect(page.locator(parts)).to_have_count(2)


@pytest.mark.parametrize("locale", ["en-US", "de-DE"])
def test_the_screen_fits_a_phone(
    service: Service, plates: Path, open_page: Opener, shoot: Shoot, locale: str
) -> None:
    for name in ("good-0", "good-1", "stain", "scratch"):
        post(service, plates / "test" / f"{name}.png")
    page = open_page(service, "plate", view="operate", width=390, height=844, locale=locale)
    expect(page.locator(".operate-strip li")).to_have_count(4)
    expect(page.locator(".operate-picture img")).to_be_visible()
    fits(page, "operate")
    accessible(page, "operate")
    shoot(page, f"operate-390-{locale[:2]}")
    page.set_viewport_size({"width": 1280, "height": 800})
    fits(page, "operate")
    shoot(page, f"operate-1280-{locale[:2]}")


def test_a_lost_connection_is_loud(
    model: Path, plates: Path, tmp_path: Path, open_page: Opener, shoot: Shoot
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "plate.onnx").write_bytes(model.read_bytes())
    with serve(tmp_path) as service:
        page = open_page(service, "plate", view="operate", forgive="ERR_|Failed to load")
        post(service, plates / "test" / "good-0.png")
        verdict = page.locator(".operate-verdict")
        expect(verdict).to_have_text("GOOD")
    expect(verdict).to_have_text("NO CONNECTION")
    expect(page.get_by_role("alert")).to_contain_text("What is shown is old")
    shoot(page, "operate-lost")


def sign_in(page: Any, token: str) -> None:
    field = page.get_by_label("Token", exact=True)
    field.fill(token)
    page.keyboard.press("Enter")
    expect(field).to_be_hidden()


def test_the_page_hides_what_an_operator_may_not(
    model: Path, plates: Path, tmp_path: Path, open_page: Opener, shoot: Shoot
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "plate.onnx").write_bytes(model.read_bytes())
    tokens = ("--token", ENGINEER, "--operator-token", OPERATOR)
    with serve(tmp_path, *tokens) as service:
        page = open_page(service, view="", forgive="401|403|/v1/events")
        sign_in(page, OPERATOR)
        expect(page.locator("#view-operate")).to_be_visible()
        page.get_by_role("link", name="Leave").click()
        expect(page.locator("#view-live")).to_be_visible()
        expect(page.get_by_role("link", name="Train", exact=True)).to_be_hidden()
        page.locator(".source-panel summary").click()
        expect(page.locator(".source-form")).to_be_hidden()
        page.get_by_role("link", name="Inspect", exact=True).click()
        expect(page.locator("#inspect-histogram")).to_be_visible()
        expect(page.locator("#inspect-threshold")).to_be_hidden()
        for forbidden in ("start", "train"):
            page.evaluate(f"location.hash = '#/{forbidden}'")
            expect(page.locator("#view-operate")).to_be_visible()
            page.get_by_role("link", name="Leave").click()
        # What is hidden is refused by the service, too.
        status = page.evaluate("() => fetch('/v1/check', {method: 'POST'}).then((r) => r.status)")
        assert status == 403
        accessible(page, "live of an operator")
        shoot(page, "live-operator")
        page.get_by_role("button", name="Operator: sign out").click()
        sign_in(page, ENGINEER)
        page.get_by_role("link", name="Train", exact=True).click()
        expect(page.locator("#view-train")).to_be_visible()
        page.close()


def test_a_source_is_started_and_stopped_on_the_page(
    service: Service, plates: Path, open_page: Opener, shoot: Shoot, tmp_path: Path
) -> None:
    page = open_page(service, "plate", view="live", width=1280, forgive="422")
    panel = page.locator(".source-panel")
    expect(panel.locator("summary")).to_contain_text("None: only images that are posted")
    panel.locator("summary").click()
    expect(panel.get_by_text(f"Below {tmp_path}")).to_be_visible()
    panel.get_by_label("Folder on the service").fill("/etc")
    panel.get_by_role("button", name="Start").click()
    expect(page.get_by_text("/etc: is not below a folder of --source-root")).to_be_visible()
    accessible(page, "source settings")
    shoot(page, "source-1280")

    panel.get_by_label("Folder on the service").fill("watched")
    panel.get_by_role("button", name="Start").click()
    expect(panel.locator("summary")).to_contain_text(f"{service.watched}: running, 0 images scored")
    for seed in range(3):
        write_plate(tmp_path / "new.png", 400 + seed).rename(service.watched / f"{seed}.png")
    expect(panel.locator("summary")).to_contain_text("running, 3 images scored")
    expect(page.locator("#view-live .card")).to_have_count(3)
    page.get_by_label("File name").fill("1.PNG")
    expect(page.locator("#view-live .card .name")).to_have_text(["1.png"])
    page.get_by_label("File name").fill("100%")
    expect(page.get_by_text("No result has “100%” in its file name")).to_be_visible()
    page.get_by_label("File name").fill("")
    expect(page.locator("#view-live .card")).to_have_count(3)
    accessible(page, "source that runs")
    shoot(page, "source-running-1280")
    phone = open_page(service, "plate", view="live", width=390, height=844, locale="de-DE")
    phone.locator(".source-panel summary").click()
    expect(phone.locator("#view-live .card")).to_have_count(3)
    fits(phone, "source that runs")
    shoot(phone, "source-running-390-de")
    panel.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("is stopped: 3 taken, 3 scored.")).to_be_visible()
    expect(panel.get_by_label("Folder on the service")).to_be_visible()
    expect(phone.locator(".source-form")).to_be_visible()
    fits(phone, "source settings")
    accessible(phone, "source settings on a phone")
    shoot(phone, "source-390-de")
    assert service.get("/v1/source")["source"] is None


def test_a_video_that_can_not_be_read_is_said(
    service: Service, open_page: Opener, tmp_path: Path
) -> None:
    pytest.importorskip("av")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    page = open_page(service, "plate", view="live")
    panel = page.locator(".source-panel")
    panel.locator("summary").click()
    panel.get_by_label("Kind").select_option("video")
    panel.get_by_label("File on the service").fill("bad.mp4")
    panel.get_by_role("button", name="Start").click()
    expect(panel.locator("summary")).to_contain_text("failed")
    expect(panel.locator(".caveat")).to_contain_text("bad.mp4")
    page.get_by_role("link", name="Operator screen").click()
    expect(page.get_by_role("alert")).to_contain_text("No images from")


@needs_camera
@needs_rtsp_server
def test_a_camera_that_goes_away_is_said_to_the_operator(
    model: Path, tmp_path: Path, open_page: Opener, shoot: Shoot
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "plate.onnx").write_bytes(model.read_bytes())
    video = write_video(tmp_path / "part.mp4", 500)
    with Rtsp(video) as stream, serve(tmp_path) as service:
        page = open_page(service, "plate", view="live")
        panel = page.locator(".source-panel")
        panel.locator("summary").click()
        panel.get_by_label("Kind").select_option("stream")
        panel.get_by_label("Address").fill(stream.url.replace("rtsp://", "rtsp://user:secret@"))
        panel.get_by_label("Most frames per second").fill("2")
        panel.get_by_role("button", name="Start").click()
        expect(panel.locator("summary")).to_contain_text(f"{stream.url}: running", timeout=PATIENCE)
        assert "secret" not in page.content()
        page.get_by_role("link", name="Operator screen").click()
        expect(page.locator(".operate-strip li")).to_have_count(10, timeout=PATIENCE)
        expect(page.get_by_role("alert")).to_be_hidden()
        stream.stop()
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text(f"No images from {stream.url}", timeout=PATIENCE)
        fits(page, "operate without images")
        accessible(page, "operate without images")
        shoot(page, "operate-away")
        stream.start()
        expect(alert).to_be_hidden(timeout=PATIENCE)
        page.close()


def test_lists_of_models_are_left_alone_while_they_say_the_same(
    service: Service, open_page: Opener
) -> None:
    page = open_page(service, "plate", view="train", width=1280)
    page.get_by_role("button", name="Delete plate").focus()
    kept, after = page.evaluate(
        """async () => {
            const { state } = await import("/static/state.js");
            const lists = ["#model", "#view-operate select", "#source-model"];
            const places = [...lists.map((list) => `${list} option`), ".model-list li"];
            const found = () => places.map((place) => document.querySelector(place));
            const before = found();
            await state.load();
            const kept = found().map((element, i) => element !== null && element === before[i]);
            state.models = [...state.models, { ...state.model, name: "other" }];
            state.dispatchEvent(new Event("models"));
            const options = lists.map((list) => [...document.querySelector(list).options]);
            return [kept, options.map((each) => each.map(({ value }) => value))];
        }"""
    )
    assert kept == [True] * 4
    assert after == [["plate", "other"]] * 3


def test_a_model_is_deleted_once_its_name_was_read(
    service: Service, open_page: Opener, shoot: Shoot
) -> None:
    page = open_page(service, "plate", view="train", width=1280)
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download plate").click()
    file = service.models / "plate.onnx"
    assert Path(waiting.value.path()).read_bytes() == file.read_bytes()
    assert waiting.value.suggested_filename == "plate.onnx"
    page.get_by_role("button", name="Delete plate").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_have_text("Delete the model plate?")
    expect(dialog.get_by_role("button", name="Keep it")).to_be_focused()
    accessible(page, "question before a model is deleted")
    shoot(page, "delete-1280")
    page.keyboard.press("Enter")
    assert file.exists()
    page.get_by_role("button", name="Delete plate").click()
    dialog.get_by_role("button", name="Delete plate").click()
    expect(page.get_by_text("plate is deleted.")).to_be_visible()
    assert not file.exists()


def test_a_region_is_drawn_and_the_input_is_shown(
    service: Service, plates: Path, open_page: Opener, shoot: Shoot
) -> None:
    page = open_page(service, "plate", view="train", width=1280, height=1400)
    files = sorted((plates / "train").glob("*.png"))
    page.locator("#view-train form input[type=file]").first.set_input_files(files)
    page.get_by_label("Product or camera").fill("left")
    page.get_by_text("What the network looks at").click()
    expect(page.get_by_text("The network sees 1 input of 128 × 128 px.")).to_be_visible()
    page.get_by_label("Input of the network").select_option("size")
    page.get_by_role("spinbutton", name="Width").fill("64")
    page.get_by_role("spinbutton", name="Height").fill("96")
    expect(page.get_by_text("The network sees 1 input of 64 × 96 px.")).to_be_visible()
    seen = page.locator(".input-seen img")
    assert seen.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [64, 96]
    assert seen.evaluate("image => [image.width, image.height]") == [64, 96]

    page.get_by_label("Region to inspect").select_option("rectangle")
    expect(page.locator(".train-start")).to_contain_text("Draw the region")
    expect(page.get_by_role("button", name="Train", exact=True)).to_be_disabled()
    box = page.locator(".region-canvas").bounding_box()

    def at(x: float, y: float) -> tuple[float, float]:
        return box["x"] + box["width"] * x / SIZE, box["y"] + box["height"] * y / SIZE

    page.mouse.move(*at(10, 20))
    page.mouse.down()
    page.mouse.move(*at(40, 60))
    page.mouse.move(*at(70, 110))
    page.mouse.up()
    numbers = page.locator(".region-numbers input")
    assert [float(value) for value in numbers.evaluate_all("all => all.map((e) => e.value)")] == [
        10,
        20,
        60,
        90,
    ]
    page.get_by_label("Left", exact=True).fill("12")
    corner = page.get_by_role("button", name="Corner 3")
    corner.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowUp")
    expect(page.locator(".region-numbers input").nth(2)).to_have_value("59")
    expect(page.locator(".region-numbers input").nth(3)).to_have_value("80")
    # Outside the rectangle the input that comes back has one colour.
    right = """image => {
        const canvas = new OffscreenCanvas(64, 96), context = canvas.getContext("2d");
        context.drawImage(image, 0, 0);
        return new Set(context.getImageData(40, 0, 24, 96).data.filter((_, i) => i % 4 < 3)).size;
    }"""
    page.wait_for_function(f"() => ({right})(document.querySelector('.input-seen img')) <= 3")
    accessible(page, "train with a region")
    shoot(page, "region-1280")
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.locator(".job-state").first).to_have_text("Ready", timeout=120_000)
    metadata = service.get("/v1/models/left")["metadata"]
    assert metadata["preprocessing"]["size"] == [96, 64]
    share = 59 * 80 / SIZE**2
    assert abs(metadata["roi"]["inspected"] - share) < 1e-9


def test_a_polygon_is_drawn_by_finger_and_by_keyboard(
    service: Service, plates: Path, open_page: Opener, shoot: Shoot
) -> None:
    page = open_page(service, "plate", view="train", width=390, height=844, locale="de-DE")
    files = sorted((plates / "train").glob("*.png"))[:4]
    page.locator("#view-train form input[type=file]").first.set_input_files(files)
    page.get_by_text("Was das Netz ansieht").click()
    page.get_by_label("Zu prüfender Bereich").select_option("polygon")
    canvas = page.locator(".region-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for x, y in ((0.2, 0.2), (0.8, 0.25), (0.5, 0.8)):
        canvas.click(position={"x": box["width"] * x, "y": box["height"] * y})
    corners = page.locator(".region-handle")
    expect(corners).to_have_count(3)
    page.get_by_role("button", name="Ecke hinzufügen").click()
    expect(corners).to_have_count(4)
    expect(page.get_by_role("button", name="Ecke 4")).to_be_focused()
    page.keyboard.press("Delete")
    expect(corners).to_have_count(3)
    expect(page.get_by_role("button", name="Ecke 3")).to_be_focused()
    expect(page.locator(".input-seen img")).to_be_visible()
    fits(page, "region")
    accessible(page, "region on a phone")
    canvas.scroll_into_view_if_needed()
    shoot(page, "region-390-de")
