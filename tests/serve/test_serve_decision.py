"""The decision over HTTP: odd training images, thresholds by rate, the review band, reviews."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fre
from conftest import texture
from fre.scoring.calibration import conformal_threshold
from serving import LocalServer, needs_serve, problem, scratched

pytestmark = needs_serve

FLASH = "parts/flash.png"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    """Names and files of 30 weaves, one of them with a scratch: the odd one."""
    folder = tmp_path_factory.mktemp("parts")
    found = []
    for seed in range(29):
        path = folder / f"{seed:02}.png"
        Image.fromarray(texture(seed)).save(path)
        found.append((f"parts/{path.name}", path))
    path = folder / "flash.png"
    Image.fromarray(scratched(77)).save(path)
    return [*found[:11], (FLASH, path), *found[11:]]


@pytest.fixture(scope="module")
def weave(parts: list[tuple[str, Path]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the weaves, with its odd image."""
    model = fre.FRE(size=64, false_alarm_rate=0.05).fit([path for _, path in parts])
    assert [image.name for image in model.odd_images] == ["flash.png"]
    return model.save(tmp_path_factory.mktemp("weave") / "weave.onnx")


@pytest.fixture
def server(models: Path) -> Iterator[LocalServer]:
    with LocalServer(models) as running:
        yield running


def get(server: LocalServer, path: str, **query: Any) -> Any:
    answer = server.client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def put(server: LocalServer, path: str, **body: Any) -> Any:
    answer = server.client.put(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def train(server: LocalServer, parts: list[tuple[str, Path]], **query: Any) -> dict[str, Any]:
    files = [("files", (name, path.read_bytes())) for name, path in parts]
    query = {"name": "new", "size": 64, "false_alarm_rate": 0.05} | query
    answer = server.client.post("/v1/train", files=files, params=query)
    assert answer.status_code == 202, answer.text
    return server.job(answer.json()["job"]["id"])["result"]


def uploads(server: LocalServer) -> list[Path]:
    return list((server.models / ".fre-serve" / "uploads").iterdir())


def test_an_odd_image_is_shown_left_out_and_trained_without(
    server: LocalServer, parts: list[tuple[str, Path]]
) -> None:
    result = train(server, parts)
    (odd,) = result["odd"]
    assert odd["name"] == "flash.png"
    assert result["calibration"]["odd_share"] == 1 / 30
    before = fre.load(server.models / "new.onnx")
    assert sorted(before.training_images.names) == sorted(path.name for _, path in parts)
    before.check_digest()

    shown = get(server, "/v1/models/new/odd")
    (image,) = shown["images"]
    assert (image["name"], image["score"]) == (odd["name"], odd["score"])
    assert shown["next_score"] == before.calibration.others[-1] < image["score"]
    assert shown["can_train_again"] is True
    assert shown["note"] is None
    picture = server.client.get(image["picture"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(picture.content)).size == (96, 96)
    problem(server.client.get("/v1/models/new/odd/0123456789abcdef/image"), 404, "not_found")
    assert len(uploads(server)) == 1

    again = "/v1/models/new/train"
    message = problem(server.client.post(again, params={"without": "none.png"}), 422, "invalid")
    assert "no image is called none.png" in message
    answer = server.client.post(again)
    assert answer.status_code == 202, answer.text
    result = server.job(answer.json()["job"]["id"])["result"]
    assert result["left_out"] == [FLASH]
    assert result["n_images"] == 29
    after = fre.load(server.models / "new.onnx")
    local = fre.FRE(size=64, false_alarm_rate=0.05).fit(
        [path for name, path in parts if name != FLASH]
    )
    np.testing.assert_allclose(after.calibration.scores, local.calibration.scores, rtol=1e-3)
    assert after.calibration.false_alarm_rate == 0.05
    if not result["odd"]:
        assert uploads(server) == []


def test_a_second_training_decides_like_the_first(
    server: LocalServer, parts: list[tuple[str, Path]]
) -> None:
    train(server, parts)
    calibration = get(server, "/v1/models/new/calibration")
    by_hand = (calibration["scores"][-3] + calibration["scores"][-4]) / 2
    begin = calibration["scores"][15]
    put(server, "/v1/models/new/threshold", threshold=by_hand, review_threshold=begin)
    answer = server.client.post("/v1/models/new/train", params={"without": "flash.png"})
    server.job(answer.json()["job"]["id"])
    after = fre.load(server.models / "new.onnx")
    assert after.calibration.false_alarm_rate is None
    assert after.document.provenance.threshold == "by hand"
    assert after.calibration.review_threshold is not None
    # 2 of the 29 other images were above the threshold.
    assert after.calibration.n_above == pytest.approx(2, abs=1)


def test_images_can_be_left_out_of_a_first_training(
    server: LocalServer, parts: list[tuple[str, Path]]
) -> None:
    result = train(server, parts, without=["00.png", "parts/01.png"], without_odd=True)
    assert result["left_out"] == ["parts/00.png", "parts/01.png", FLASH]
    assert result["n_images"] == 27
    files = [("files", (name, path.read_bytes())) for name, path in parts]
    answer = server.client.post("/v1/train?name=other&without=missing.png", files=files)
    assert "missing.png" in problem(answer, 422, "invalid")
    answer = server.client.post("/v1/train?name=other&without=a.png&samples=12")
    problem(answer, 422, "invalid")


def test_without_its_files_an_odd_image_can_only_be_kept(server: LocalServer, weave: Path) -> None:
    shown = get(server, "/v1/models/weave/odd")
    (image,) = shown["images"]
    assert (image["name"], image["picture"]) == ("flash.png", None)
    assert shown["can_train_again"] is False
    assert "no longer kept" in shown["note"]
    answer = server.client.post("/v1/models/weave/train")
    assert "no longer kept" in problem(answer, 409, "conflict")

    model = fre.load(weave)
    begin = float(model.calibration.others[10])
    put(server, "/v1/models/weave/threshold", review_threshold=begin)
    kept = put(server, "/v1/models/weave/odd", keep=True)
    expected = model.calibration.with_odd(keep=True)
    assert (kept["keep_odd"], kept["n_odd"], kept["odd_share"]) == (True, 0, 0)
    assert kept["threshold"] == expected.threshold > model.threshold
    assert kept["review_threshold"] == begin
    stale = server.client.put("/v1/models/weave/odd", json={"keep": False, "sha256": model.sha256})
    problem(stale, 409, "conflict")
    assert get(server, "/v1/models/weave/odd")["keep_odd"] is True
    aside = put(server, "/v1/models/weave/odd", keep=False)
    assert (aside["threshold"], aside["n_odd"]) == (model.threshold, 1)


def test_kept_images_give_way_to_new_uploads(
    weave: Path, parts: list[tuple[str, Path]], tmp_path: Path
) -> None:
    from fre.serve.settings import Limits

    (tmp_path / "models").mkdir()
    total = sum(path.stat().st_size for _, path in parts)
    limits = Limits(max_staged_bytes=int(1.5 * total))
    with LocalServer(tmp_path / "models", limits=limits) as server:
        train(server, parts)
        train(server, parts, name="second")
        assert get(server, "/v1/models/second/odd")["can_train_again"] is True
        first = get(server, "/v1/models/new/odd")
        assert first["can_train_again"] is False
        assert server.client.get(first["images"][0]["picture"]).status_code == 200
        assert len(uploads(server)) == 1
        (server.models / "second.onnx").unlink()
        server._server.service.registry.refresh()
        shutil.copy(weave, server.models / "third.onnx")
        server._server.service.registry.refresh()
        assert uploads(server) == []


def test_thresholds_by_rate_name_both_parts(server: LocalServer, weave: Path) -> None:
    calibration = fre.load(weave).calibration
    shown = get(server, "/v1/models/weave/calibration")
    assert [row["false_alarm_rate"] for row in shown["thresholds"]] == [0.01, 0.02, 0.05, 0.1]
    for row in shown["thresholds"]:
        at = calibration.at_rate(row["false_alarm_rate"])
        assert row["threshold"] == at.threshold
        assert row["rate_of_others"] == at.rate_of_others
        assert row["odd_share"] == 1 / 30
        assert row["expected_false_alarm_rate"] == at.rate_of_others + 1 / 30
    assert [row["attainable"] for row in shown["thresholds"]] == [False, False, True, True]
    changed = put(server, "/v1/models/weave/threshold", false_alarm_rate=0.1)
    assert changed["threshold"] == shown["thresholds"][-1]["threshold"]
    assert changed["chosen"] is None


def test_a_new_threshold_keeps_the_review_band_or_is_refused(
    server: LocalServer, weave: Path
) -> None:
    calibration, url = fre.load(weave).calibration, "/v1/models/weave/threshold"
    assert get(server, "/v1/models")["models"][0]["review_threshold"] is None
    band = put(server, url, review_rate=0.3)
    begin = conformal_threshold(calibration.others, 0.3)
    assert (band["review_threshold"], band["threshold"]) == (begin, calibration.threshold)
    assert get(server, "/v1/models")["models"][0]["review_threshold"] == begin

    assert put(server, url, false_alarm_rate=0.1)["review_threshold"] == begin
    moved = put(server, url, threshold=calibration.threshold + 1)
    assert (moved["review_threshold"], moved["chosen"]) == (begin, "by hand")
    message = problem(server.client.put(url, json={"threshold": begin}), 422, "invalid")
    assert "the review band begins at" in message
    assert "no_review" in message
    assert fre.load(server.models / "weave.onnx").threshold == moved["threshold"]
    assert put(server, url, threshold=begin, no_review=True)["review_threshold"] is None
    problem(server.client.put(url, json={"review_threshold": begin + 1}), 422, "invalid")
    problem(server.client.put(url, json={"review_rate": 2}), 422, "invalid")
    twice = {"review_rate": 0.2, "no_review": True}
    problem(server.client.put(url, json=twice), 422, "invalid")


def test_decisions_of_a_band_are_everywhere(
    server: LocalServer, weave: Path, tmp_path: Path
) -> None:
    files = [weave_image(tmp_path, seed) for seed in range(500, 512)]
    files.append(tmp_path / "defect.png")
    Image.fromarray(scratched(3)).save(files[-1])
    assert all("decision" not in item for item in server.predict(*files))
    model = fre.load(weave)
    begin = float(model.calibration.others[12])
    put(server, "/v1/models/weave/threshold", review_threshold=begin)
    items = server.predict(*files, source="line")
    local = fre.load(server.models / "weave.onnx").predict_many(files)
    assert [item["decision"] for item in items] == [one.decision for one in local]
    decisions = {item["decision"] for item in items}
    assert decisions == {"pass", "review", "fail"}
    for item in items:
        assert (item["decision"] == "fail") is item["anomalous"]
        assert bool(item["regions"]) is item["anomalous"]
    review = get(server, "/v1/results", decision="review")
    n_review = sum(item["decision"] == "review" for item in items)
    assert review["total"] == n_review > 0
    assert get(server, "/v1/results")["results"][-1]["decision"] is None
    table = server.client.get("/v1/results.csv", params={"source": "line"}).text
    rows = {int(row["id"]): row["decision"] for row in csv.DictReader(io.StringIO(table))}
    assert rows == {item["id"]: item["decision"] for item in items}
    metrics = server.client.get("/metrics").text
    assert f'fre_predictions_total{{decision="review",model="weave"}} {n_review}.0' in metrics


def test_reviewed_results_say_what_the_threshold_finds(
    server: LocalServer, weave: Path, parts: list[tuple[str, Path]], tmp_path: Path
) -> None:
    defects = []
    for seed in range(3):
        defects.append(tmp_path / f"defect-{seed}.png")
        Image.fromarray(scratched(200 + seed)).save(defects[-1])
    url = "/v1/models/weave/reviewed"
    empty = get(server, url)
    assert (empty["recall"], empty["n_good"]) == (None, 0)
    assert empty["lines"] == ["nothing is reviewed for this version of the model"]

    good = [path for name, path in parts if name != FLASH][:4]
    items = server.predict(*defects, *good)
    scores = [item["score"] for item in items]
    for place, item in enumerate(items):
        verdict = "defect" if place < 3 else "good"
        put(server, f"/v1/results/{item['id']}/verdict", verdict=verdict)
    # Between the second and the third defect, and below the highest good score.
    ordered = sorted(scores[:3])
    threshold = (ordered[0] + ordered[1]) / 2
    put(server, "/v1/models/weave/threshold", threshold=threshold)
    found = get(server, url)
    assert found["confusion"] == {"tp": 2, "fn": 1, "fp": 0, "tn": 4}
    assert found["recall"] == 2 / 3
    assert found["lines"][0].startswith(
        "found 2 of 3 reviewed defects, missed 1; 0 false alarms among 4 reviewed good parts"
    )
    assert any("3 defects are too few" in line for line in found["lines"])
    low, high = found["recall_interval"]
    assert 0 < low < 2 / 3 < high < 1

    # The same image once more, and now it is good: its last review counts, once.
    (again,) = server.predict(defects[0])
    put(server, f"/v1/results/{again['id']}/verdict", verdict="good")
    found = get(server, url)
    assert (found["n_defect"], found["n_good"]) == (2, 5)

    # With the highest good score as the threshold's upper neighbour there is a false alarm.
    highest = max(scores[3:])
    put(server, "/v1/models/weave/threshold", threshold=highest - 1e-3)
    assert get(server, url)["confusion"]["fp"] == 2
    band = put(
        server,
        "/v1/models/weave/threshold",
        threshold=highest + 1e-3,
        review_threshold=highest - 1e-3,
    )
    found = get(server, url)
    assert found["in_review"] == {"defect": 0, "good": 1}
    assert found["review_threshold"] == band["review_threshold"]


def test_a_threshold_set_by_hand_keeps_its_rate_in_an_update(
    server: LocalServer, weave: Path, tmp_path: Path
) -> None:
    before = fre.load(weave).calibration
    by_hand = float((before.others[-3] + before.others[-4]) / 2)
    begin = float(before.others[8])
    put(server, "/v1/models/weave/threshold", threshold=by_hand, review_threshold=begin)
    hand = fre.load(server.models / "weave.onnx").calibration
    (item,) = server.predict(weave_image(tmp_path, 500))
    put(server, f"/v1/results/{item['id']}/verdict", verdict="good")
    new = [weave_image(tmp_path, seed) for seed in range(300, 308)]
    files = [("files", (path.name, path.read_bytes())) for path in new]
    answer = server.client.post(
        "/v1/models/weave/update", files=files, params={"accept_anomalous": True}
    )
    result = server.job(answer.json()["job"]["id"])["result"]
    model = fre.load(server.models / "weave.onnx")
    after = model.calibration
    assert after.false_alarm_rate is None
    assert model.document.provenance.threshold == "by hand"
    assert after.threshold != hand.threshold  # the scores moved, and it moved with them
    assert after.rate_of_others == pytest.approx(hand.rate_of_others, abs=1 / len(after.others))
    assert result["threshold"] == after.threshold
    assert result["review_threshold"] == after.review_threshold
    assert (result["note"] is None) is (after.review_threshold is not None)
    assert model.training_images.names[-8:] == tuple(path.name for path in new)
    # Scores of the model before the update do not compare with its new threshold.
    assert get(server, "/v1/models/weave/reviewed")["n_earlier"] == 1
    again = server.client.post("/v1/models/weave/update", files=files[:1])
    failed = server.job(again.json()["job"]["id"], until="failed")
    assert "has learnt these 1 images already: 300.png" in failed["error"]["message"]


def weave_image(folder: Path, seed: int) -> Path:
    path = folder / f"{seed}.png"
    Image.fromarray(texture(seed)).save(path)
    return path
