"""The service over real HTTP: every endpoint, its answers and its errors."""

from __future__ import annotations

import base64
import csv
import io
import json
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fre
from commands import fre as command
from conftest import texture
from serving import LocalServer, Server, check_shape, needs_serve, problem, write_images

pytestmark = needs_serve
TOKEN = "a-token-for-the-tests-0123456789"


@pytest.fixture(scope="module")
def server(weave: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One service for the tests that leave the model as it is."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(weave, folder)
    with Server(folder) as running:
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_images(tmp_path_factory.mktemp("images"), 16)


def close(a: float, b: float) -> bool:
    return abs(a - b) <= 1e-4 * max(1.0, abs(b))


def test_predictions_equal_those_of_the_command_line(
    server: Server, weave: Path, images: list[Path]
) -> None:
    done = command("predict", weave, *images)
    expected = [json.loads(line) for line in done.stdout.splitlines()]
    got = server.predict(*images)
    assert [item["name"] for item in got] == [path.name for path in images]
    for ours, theirs in zip(got, expected, strict=True):
        assert close(ours["score"], theirs["score"])
        assert ours["p_value"] == theirs["p_value"]
        assert ours["anomalous"] == theirs["anomalous"]
        assert [r["bbox"] for r in ours["regions"]] == [r["bbox"] for r in theirs["regions"]]
    assert {item["anomalous"] for item in got} == {True, False}


def test_one_image_as_the_body_and_its_map(server: Server, weave: Path, images: list[Path]) -> None:
    expected = fre.load(weave).predict(images[1])
    for form in ("npy", "png"):
        answer = server.client.post(
            "/v1/models/weave/predict",
            content=images[1].read_bytes(),
            headers={"Content-Type": "image/jpeg"},
            params={"map": form, "name": "dir/part 1.jpg", "source": "camera-1"},
        )
        body = answer.json()
        (item,) = body["predictions"]
        assert item["name"] == "dir/part 1.jpg"
        assert body["model_sha256"] == fre.load(weave).sha256
        data = base64.b64decode(item["map"]["data"])
        if form == "npy":
            values = np.load(io.BytesIO(data))
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, expected.anomaly_map, rtol=1e-3, atol=1e-2)
        else:
            low, high = item["map"]["range"]
            grey = np.asarray(Image.open(io.BytesIO(data))).astype(float) / 65535
            shown = np.clip((expected.anomaly_map - low) / (high - low), 0, 1)
            np.testing.assert_allclose(grey, shown, atol=1e-3)
    latest = server.client.get("/v1/results", params={"source": "camera-1"}).json()["results"][0]
    assert latest["name"] == "dir/part 1.jpg"


def test_an_image_that_cannot_be_read_is_an_item_among_the_others(
    server: Server, images: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(images[0].read_bytes()[:500])
    first, second = server.predict(images[0], bad)
    assert first["score"] > 0
    assert second["name"] == "bad.png"
    assert "not a readable image" in second["error"]
    answer = server.client.post(
        "/v1/models/weave/predict", files={"files": ("bad.png", bad.read_bytes())}
    )
    assert "bad.png" in problem(answer, 422, "unreadable")


def test_models_and_calibration(server: Server, weave: Path) -> None:
    model = fre.load(weave)
    (summary,) = server.client.get("/v1/models").json()["models"]
    assert summary["name"] == "weave"
    assert summary["sha256"] == model.sha256
    assert summary["size"] == [64, 64]
    assert summary["n_images"] == 40
    body = server.client.get("/v1/models/weave").json()
    assert body["model"] == summary
    assert body["metadata"]["backbone"]["name"] == "efficientnet_lite0"
    calibration = server.client.get("/v1/models/weave/calibration").json()
    assert calibration["scores"] == model.calibration.scores.tolist()
    assert calibration["threshold"] == model.threshold
    assert calibration["expected_false_alarm_rate"] == model.calibration.expected_rate
    message = problem(server.client.get("/v1/models/nothing"), 404, "not_found")
    assert "weave" in message


def test_a_model_is_downloaded_and_deleted(
    models: Path, images: list[Path], tmp_path: Path
) -> None:
    from fre.serve.settings import LineSettings

    shutil.copy(models / "weave.onnx", models / "b \u00e4.onnx")
    (tmp_path / "incoming").mkdir()
    line = LineSettings(str(tmp_path / "incoming"), model="weave")
    with LocalServer(models, line=line) as server:
        get, delete = server.client.get, server.client.delete
        server.predict(*images[:2])
        file = get("/v1/models/b \u00e4/file")
        assert file.content == (models / "weave.onnx").read_bytes()
        assert "UTF-8''b%20%C3%A4.onnx" in file.headers["content-disposition"]
        assert "stop that source first" in problem(delete("/v1/models/weave"), 409, "conflict")
        assert delete("/v1/source").status_code == 200
        wrong = {"sha256": "0" * 64}
        problem(delete("/v1/models/weave", params=wrong), 409, "conflict")
        right = {"sha256": get("/v1/models/weave").json()["model"]["sha256"]}
        assert delete("/v1/models/weave", params=right).status_code == 204
        problem(delete("/v1/models/weave"), 404, "not_found")
        assert delete("/v1/models/b \u00e4").status_code == 204
        assert get("/v1/models").json() == {"models": [], "errors": []}
        # Not even as a version.
        assert not list(models.rglob("*.onnx"))
        assert get("/v1/results").json()["total"] == 2
        assert server.client.get("/readyz").status_code == 200


def test_the_threshold_is_written_into_the_model(
    models: Path, weave: Path, images: list[Path]
) -> None:
    url = "/v1/models/weave/threshold"
    with LocalServer(models) as server:
        before = server.client.get("/v1/models/weave/calibration").json()
        # In another batch a score may differ in its last digits.
        highest = max(item["score"] for item in server.predict(*images)) + 0.01
        highest = float(np.float32(highest))
        after = server.client.put(url, json={"threshold": highest}).json()
        highest = float(np.float32(highest))  # as the graph compares it
        assert after["threshold"] == highest
        assert after["sha256"] != before["sha256"]
        assert not any(item["anomalous"] for item in server.predict(*images))
        on_disk = fre.load(models / "weave.onnx")
        assert on_disk.threshold == highest
        assert on_disk.sha256 == after["sha256"]
        stale = server.client.put(url, json={"threshold": 1.0, "sha256": before["sha256"]})
        problem(stale, 409, "conflict")
        again = server.client.put(url, json={"false_alarm_rate": 0.1, "sha256": after["sha256"]})
        calibration = fre.load(weave).calibration.at_rate(0.1)
        assert again.json()["threshold"] == calibration.threshold
        problem(server.client.put(url, json={}), 422, "invalid")
        both = {"threshold": 1, "false_alarm_rate": 0.1}
        problem(server.client.put(url, json=both), 422, "invalid")
        problem(server.client.put(url, json={"false_alarm_rate": 7}), 422, "invalid")
        problem(server.client.put(url, content=b'{"threshold": NaN}'), 422, "invalid")
        problem(server.client.put(url, content=b"{" + b" " * 100_000), 413, "too_large")


def test_the_history_is_paged_filtered_and_exported(models: Path, images: list[Path]) -> None:
    with LocalServer(models) as server:
        server.predict(*images[:8], source="page")
        server.predict(*images[8:], source="line")
        everything = server.client.get("/v1/results", params={"limit": 500}).json()
        assert everything["total"] == 16
        assert everything["next"] is None
        assert [r["id"] for r in everything["results"]] == list(range(16, 0, -1))
        for order in ("newest", "worst"):
            seen: list[dict[str, Any]] = []
            cursor = None
            while True:
                parameters = {"limit": 5, "order": order, **({"cursor": cursor} if cursor else {})}
                page = server.client.get("/v1/results", params=parameters).json()
                seen += page["results"]
                cursor = page["next"]
                if cursor is None:
                    break
            assert len({r["id"] for r in seen}) == 16
            if order == "worst":
                scores = [r["score"] for r in seen]
                assert scores == sorted(scores, reverse=True)
        anomalous = server.client.get("/v1/results", params={"anomalous": True}).json()
        assert 0 < anomalous["total"] < 16
        assert all(r["anomalous"] for r in anomalous["results"])
        line = server.client.get("/v1/results", params={"source": "line"}).json()
        assert line["total"] == 8
        assert server.client.get("/v1/results", params={"after": 10}).json()["total"] == 6
        assert server.client.get("/v1/results?since=2100-01-01T00:00:00Z").json()["total"] == 0
        assert server.client.get("/v1/results?until=2100-01-01T00:00:00Z").json()["total"] == 16
        text = server.client.get("/v1/results.csv", params={"source": "line"})
        assert text.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(text.text)))
        assert [int(row["id"]) for row in rows] == sorted(r["id"] for r in line["results"])
        for text, n in (("1003", 1), (".PNG", 4), ("100", 10), ("%", 0), ("_", 0), ("\\", 0)):
            named = server.client.get("/v1/results", params={"name": text}).json()
            assert named["total"] == n, text
            assert all(text.lower() in r["name"] for r in named["results"])
        exported = server.client.get("/v1/results.csv", params={"name": "1003"}).text
        assert len(exported.splitlines()) == 2
        problem(server.client.get("/v1/results", params={"name": ""}), 422, "invalid")
        problem(server.client.get("/v1/results?cursor=nonsense"), 422, "invalid")
        problem(server.client.get("/v1/results?since=yesterday"), 422, "invalid")
        problem(server.client.get("/v1/results?limit=0"), 422, "invalid")
        problem(server.client.get("/v1/results/99"), 404, "not_found")


def test_a_shift_is_counted(models: Path, images: list[Path]) -> None:
    with LocalServer(models) as server:
        before = server.predict(*images[:4], source="line")
        counted = server.client.get("/v1/models/weave/shift").json()
        assert (counted["n"], counted["last"]) == (4, max(item["id"] for item in before))
        server.predict(*images[:2], source="page")
        items = server.predict(*images[4:16], source="line")
        anomalous = [item["id"] for item in items if item["anomalous"]]
        good = [item["id"] for item in items if not item["anomalous"]]
        for identity, verdict in ((anomalous[0], "good"), (good[0], "defect"), (good[1], "good")):
            url = f"/v1/results/{identity}/verdict"
            server.client.put(url, json={"verdict": verdict})
        shift = {"after": counted["last"]}
        assert server.client.get("/v1/models/weave/shift", params=shift).json() == {
            "model": "weave",
            "after": counted["last"],
            "last": max(item["id"] for item in items),
            "n": 12,
            "n_anomalous": len(anomalous),
            "n_review": 0,
            "n_false_alarm": 1,
            "n_missed": 1,
        }
        problem(server.client.get("/v1/models/none/shift"), 404, "not_found")


def test_verdicts_are_kept(models: Path, images: list[Path]) -> None:
    with LocalServer(models) as server:
        results = server.predict(*images)
        alarm = next(item["id"] for item in results if item["anomalous"])
        fine = next(item["id"] for item in results if not item["anomalous"])
        url = f"/v1/results/{alarm}/verdict"
        marked = server.client.put(url, json={"verdict": "good"}).json()["result"]
        assert marked["verdict"] == "good"
        assert marked["verdict_at"]
        server.client.put(f"/v1/results/{fine}/verdict", json={"verdict": "defect"})
        wrong = server.client.get("/v1/results?wrong=true").json()["results"]
        assert {r["id"] for r in wrong} == {alarm, fine}
        good = server.client.get("/v1/results?verdict=good").json()["results"]
        assert [r["id"] for r in good] == [alarm]
        assert server.client.get("/v1/results?verdict=none").json()["total"] == 14
    with LocalServer(models) as server:
        assert server.client.get("/v1/results?verdict=any").json()["total"] == 2
        server.client.put(f"/v1/results/{fine}/verdict", json={"verdict": None})
        assert server.client.get("/v1/results?verdict=any").json()["total"] == 1
        problem(server.client.put(url, json={"verdict": "bad"}), 422, "invalid")
        answer = server.client.put("/v1/results/99/verdict", json={"verdict": "good"})
        problem(answer, 404, "not_found")


def test_pictures_of_results(server: Server, weave: Path, images: list[Path]) -> None:
    items = server.predict(*images[:4])
    for path, item in zip(images, items, strict=False):
        base = f"/v1/results/{item['id']}"
        height, width = item["image_size"]
        original = server.client.get(f"{base}/image")
        if path.suffix != ".tif":
            assert original.content == path.read_bytes()
        else:
            assert original.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(original.content)).size == (width, height)
        small = Image.open(io.BytesIO(server.client.get(f"{base}/image?size=48").content))
        assert max(small.size) == 48
        overlay = Image.open(io.BytesIO(server.client.get(f"{base}/overlay").content))
        assert overlay.size == (width, height)
        heat = Image.open(io.BytesIO(server.client.get(f"{base}/heat").content))
        assert heat.mode == "RGBA"
        assert heat.size == (64, 64)
        raw = np.load(io.BytesIO(server.client.get(f"{base}/map?format=npy").content))
        expected = fre.load(weave).predict(path).anomaly_map
        np.testing.assert_allclose(raw, expected, rtol=1e-3, atol=1e-2)
        tiff = Image.open(io.BytesIO(server.client.get(f"{base}/map?format=tiff").content))
        np.testing.assert_array_equal(np.asarray(tiff), raw)
        digest = item["image_sha256"][:16]
        mine = server.client.get(f"{base}/overlay?size=64&sha256={digest}")
        assert mine.status_code == 200
        assert "immutable" in mine.headers["cache-control"]
        # After the history was deleted, ids begin anew: the browser must not show old pictures.
        other = server.client.get(f"{base}/overlay?size=64&sha256={'0' * 16}")
        problem(other, 404, "not_found")
        assert "immutable" not in other.headers.get("cache-control", "")
    problem(server.client.get("/v1/results/999999/heat"), 404, "not_found")


@pytest.mark.slow
def test_pictures_are_dropped_to_stay_within_the_bound(models: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 40)
    with Server(models, "--keep", 1) as server:  # 40 maps and images are about 1.5 MB
        for start in range(0, 40, 8):
            server.predict(*images[start : start + 8])
        results = server.client.get("/v1/results?limit=500").json()["results"]
        assert len(results) == 40
        kept = [r["id"] for r in results if r["kept"]]
        assert kept
        assert min(kept) > 1
        assert kept == list(range(40, min(kept) - 1, -1))
        assert server.client.get(f"/v1/results/{kept[0]}/heat").status_code == 200
        problem(server.client.get("/v1/results/1/heat"), 404, "not_kept")
    pictures = (models / ".fre-serve" / "pictures").rglob("*.*")
    assert sum(path.stat().st_size for path in pictures) <= 1 << 20


def test_images_are_checked_before_a_training(
    models: Path, good_folder: Path, server: Server
) -> None:
    from dataclasses import fields

    from fre.serve.job_schemas import CheckBody

    paths = sorted(good_folder.iterdir())
    uploads = [("files", (path.name, path.read_bytes())) for path in paths]
    uploads.append(("files", ("copy.png", paths[0].read_bytes())))
    uploads.append(("files", ("notes.png", b"not an image")))
    post = server.client.post
    answer = post("/v1/check?false_alarm_rate=0.1", files=uploads)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert set(found) == {field.name for field in fields(CheckBody)}
    assert found["n_images"] == len(paths) + 1
    assert [item["name"] for item in found["unreadable"]] == ["notes.png"]
    assert found["equal"] == f"{paths[0].name} = copy.png"
    assert found["attainable_rate"] == 1 / (len(paths) + 2)
    assert any("notes.png" in line for line in found["lines"])
    uploaded = server.models / ".fre-serve" / "uploads"
    assert not list(uploaded.iterdir())
    message = problem(post("/v1/check", files=uploads[-1:]), 422, "invalid")
    assert "0 of 1 can be read (notes.png: " in message
    problem(post("/v1/check", json={}), 415, "unsupported_media_type")


def test_training_from_images_zip_and_samples(
    models: Path, good_folder: Path, tmp_path: Path
) -> None:
    import zipfile

    paths = sorted(good_folder.iterdir())
    archive = tmp_path / "good.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in paths:
            file.write(path, f"parts/{path.name}")
        file.writestr("parts/readme.txt", "not an image")
        file.writestr("__MACOSX/parts/._0.png", "not an image")
    with LocalServer(models) as server:
        post = server.client.post
        uploads = [("files", (path.name, path.read_bytes())) for path in paths]
        uploads.append(("files", ("notes.png", b"not an image")))
        uploads.append(("files", ("cut.png", paths[0].read_bytes()[:-400])))
        answer = post("/v1/train?name=one&size=64&false_alarm_rate=0.1", files=uploads)
        assert answer.status_code == 202, answer.text
        job = answer.json()["job"]
        assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
        done = server.job(job["id"])
        result = done["result"]
        assert result["n_images"] == len(paths)
        assert sorted(item["name"] for item in result["skipped"]) == ["cut.png", "notes.png"]
        assert done["finished"] >= done["started"] >= done["created"]
        model = fre.load(models / "one.onnx")
        local = fre.FRE(size=64, false_alarm_rate=0.1).fit(paths)
        np.testing.assert_allclose(model.calibration.scores, local.calibration.scores, atol=1e-3)
        expected = local.predict(paths[0]).score
        served = server.predict(paths[0], model="one")[0]["score"]
        assert served == pytest.approx(expected, abs=1e-3)
        problem(post("/v1/train?name=one", files=uploads), 409, "conflict")
        answer = post(
            "/v1/train?name=one&size=96&overwrite=true",
            content=archive.read_bytes(),
            headers={"Content-Type": "application/zip"},
        )
        server.job(answer.json()["job"]["id"])
        assert fre.load(models / "one.onnx").size == (96, 96)
        assert server.client.get("/v1/models/one").json()["model"]["size"] == [96, 96]
        answer = post("/v1/train?name=plate&samples=12&size=64")
        server.job(answer.json()["job"]["id"])
        sample = server.client.get("/v1/samples").json()["samples"][0]
        png = server.client.get(sample["url"])
        assert Image.open(io.BytesIO(png.content)).size == (256, 256)
        answer = post("/v1/models/plate/predict", content=png.content)
        assert answer.status_code == 200
        assert [j["model"] for j in server.client.get("/v1/jobs").json()["jobs"]] == [
            "plate",
            "one",
            "one",
        ]
        problem(server.client.delete("/v1/jobs/1"), 409, "conflict")
        problem(server.client.get("/v1/jobs/77"), 404, "not_found")
        assert not list((models / ".fre-serve" / "uploads").iterdir())


def test_a_model_learns_more_from_uploads_and_from_marked_results(
    models: Path, weave: Path, images: list[Path], tmp_path: Path
) -> None:
    from serving import scratched

    fre.FRE(size=64, frozen=True).fit([texture(seed) for seed in range(12)]).save(
        models / "frozen.onnx"
    )
    new = [tmp_path / f"{seed}.png" for seed in range(200, 206)]
    for seed, path in enumerate(new, 200):
        Image.fromarray(texture(seed)).save(path)
    uploads = [("files", (path.name, path.read_bytes())) for path in new]
    with LocalServer(models) as server:
        post, url = server.client.post, "/v1/models/weave/update"
        able = {
            m["name"]: m["can_update"] for m in server.client.get("/v1/models").json()["models"]
        }
        assert able == {"weave": True, "frozen": False}
        problem(post("/v1/models/frozen/update", files=uploads), 409, "conflict")
        problem(post("/v1/models/other/update", files=uploads), 404, "not_found")
        problem(post(url), 422, "invalid")
        problem(post(url, json={}), 415, "unsupported_media_type")
        problem(post(url, params={"results": 0}), 422, "invalid")
        problem(post(url, params={"results": 99}), 404, "not_found")

        bad = [
            ("files", ("notes.png", b"no image")),
            ("files", ("cut.png", uploads[0][1][1][:-400])),
        ]
        twins = [*uploads[:2], ("files", ("twin.png", uploads[0][1][1]))]
        answer = post(url, files=twins, params={"accept_anomalous": True})
        failed = server.job(answer.json()["job"]["id"], until="failed")
        assert "equal: 200.png = twin.png; " in failed["error"]["message"]

        answer = post(url, files=[*uploads, *bad], params={"accept_anomalous": True})
        assert answer.status_code == 202, answer.text
        result = server.job(answer.json()["job"]["id"])["result"]
        assert (result["n_added"], result["n_images"]) == (6, 46)
        assert sorted(item["name"] for item in result["skipped"]) == ["cut.png", "notes.png"]
        local = fre.load(weave).update(new, accept_anomalous=True)
        served = fre.load(models / "weave.onnx")
        np.testing.assert_allclose(served.calibration.scores, local.calibration.scores, atol=1e-3)
        assert result["threshold"] == served.threshold
        assert server.client.get("/v1/models/weave").json()["model"]["n_images"] == 46
        (item,) = server.predict(images[0])
        assert item["score"] == pytest.approx(served.predict(images[0]).score, abs=1e-3)

        defect = tmp_path / "defect.png"
        Image.fromarray(scratched(5)).save(defect)
        (item,) = server.predict(defect)
        assert item["anomalous"]
        answer = post(url, files={"files": ("defect.png", defect.read_bytes())})
        failed = server.job(answer.json()["job"]["id"], until="failed")
        assert failed["error"]["code"] == "anomalous"
        assert "1 of 1" in failed["error"]["message"]
        assert "defect.png" in failed["error"]["message"]
        assert fre.load(models / "weave.onnx").sha256 == served.sha256

        marked = {"results": item["id"]}
        assert "not marked" in problem(post(url, params=marked), 422, "invalid")
        verdict = f"/v1/results/{item['id']}/verdict"
        assert (
            server.client.put(verdict, json={"verdict": "good"}).json()["result"]["learnt_at"]
            is None
        )
        result = server.job(post(url, params=marked).json()["job"]["id"])["result"]
        assert (result["n_added"], result["n_images"]) == (1, 47)
        assert result["n_accepted_anomalous"] == 1
        assert server.client.get(f"/v1/results/{item['id']}").json()["result"]["learnt_at"]
        assert server.predict(defect)[0]["score"] < item["score"]
        assert not list((models / ".fre-serve" / "uploads").iterdir())


@pytest.mark.slow
def test_an_update_does_not_undo_what_happened_meanwhile(models: Path) -> None:
    from fre.serve.registry import ModelRegistry
    from fre.serve.responses import Problem
    from fre.serve.versions import Save

    registry = ModelRegistry(models)
    before = registry.get("weave").model
    entry = registry.recalibrate(
        "weave", lambda model: (model.calibration.at_threshold(9.0), "by hand")
    )
    with pytest.raises(Problem, match="changed meanwhile"):
        registry.replace("weave", before, Save("taught", None), before=before.sha256)
    assert fre.load(models / "weave.onnx").threshold == 9.0
    registry.replace("weave", before, Save("taught", None), before=entry.model.sha256)
    assert registry.get("weave").model.sha256 == before.sha256


def test_training_that_cannot_work_is_refused(server: Server, images: list[Path]) -> None:
    post = server.client.post
    one = {"files": ("1.png", images[0].read_bytes())}
    assert "found 1" in problem(post("/v1/train?name=x", files=one), 422, "invalid")
    problem(post("/v1/train?name=x"), 422, "invalid")
    problem(post("/v1/train", files=one), 422, "invalid")
    for name in ("../x", ".x", "a/b", "", "x" * 65, "a%00b"):
        problem(post(f"/v1/train?name={name}&samples=10"), 422, "invalid")
    problem(post("/v1/train?name=x&samples=10", files=one), 422, "invalid")
    problem(post("/v1/train?name=x", json={}), 415, "unsupported_media_type")
    broken = [("files", (f"{n}.png", b"not an image")) for n in range(3)]
    answer = post("/v1/train?name=x", files=broken)
    failed = server.job(answer.json()["job"]["id"], until="failed")
    assert failed["error"]["code"] == "invalid"
    assert "0 of 3" in failed["error"]["message"]
    assert [m["name"] for m in server.client.get("/v1/models").json()["models"]] == ["weave"]


@pytest.mark.slow
def test_a_job_can_be_cancelled_and_too_many_are_refused(models: Path) -> None:
    with Server(models) as server:
        post = server.client.post
        for number in range(5):
            assert post(f"/v1/train?name=m{number}&samples=200").status_code == 202
        answer = post("/v1/train?name=m9&samples=200")
        problem(answer, 429, "busy")
        assert int(answer.headers["retry-after"]) > 0
        for identity in range(1, 6):
            assert server.client.delete(f"/v1/jobs/{identity}").status_code == 200
        for identity in range(1, 6):
            server.job(identity, until="cancelled")
    assert [path.name for path in models.glob("*.onnx")] == ["weave.onnx"]


def test_a_single_file_serves_but_does_not_train(models: Path, images: list[Path]) -> None:
    with LocalServer(models / "weave.onnx") as server:
        assert len(server.predict(*images[:2])) == 2
        assert server.client.get("/v1/service").json()["can_train"] is False
        problem(server.client.post("/v1/train?name=x&samples=10"), 409, "conflict")
        problem(server.client.delete("/v1/models/weave"), 409, "conflict")
    assert (models / "weave.onnx").exists()


@pytest.mark.slow
def test_rate_and_drift(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    good = []
    for seed in range(300, 348):
        Image.fromarray(texture(seed)).save(folder / f"{seed}.png")
        good.append(folder / f"{seed}.png")
    with Server(models) as server:
        empty = server.client.get("/v1/models/weave/drift").json()
        assert empty["enough"] is False
        assert empty["warning"] is False
        for start in range(0, 48, 8):
            server.predict(*good[start : start + 8], source="good")
        calm = server.client.get("/v1/models/weave/drift?source=good").json()
        assert calm["enough"] is True
        assert calm["warning"] is False, calm
        for start in range(0, 48, 8):
            dark = []
            for path in good[start : start + 8]:
                with Image.open(path) as image:
                    (0.4 * np.asarray(image)).astype(np.uint8)
                    target = tmp_path / f"dark-{path.name}"
                    Image.fromarray((0.4 * np.asarray(image)).astype(np.uint8)).save(target)
                dark.append(target)
            server.predict(*dark, source="dark")
        warned = server.client.get("/v1/models/weave/drift?source=dark").json()
        assert warned["warning"] is True
        assert warned["direction"] == "higher"
        assert warned["n"] == 48
        rate = server.client.get("/v1/models/weave/rate?seconds=600&buckets=10").json()
        assert rate["bucket_seconds"] == 60
        assert len(rate["buckets"]) == 10
        assert sum(bucket["n"] for bucket in rate["buckets"]) == 96
        # A known defect is no sign of drift.
        for result in server.client.get("/v1/results?source=dark&limit=500").json()["results"]:
            server.client.put(f"/v1/results/{result['id']}/verdict", json={"verdict": "defect"})
        assert server.client.get("/v1/models/weave/drift?source=dark").json()["n"] == 0


def test_events(models: Path, images: list[Path]) -> None:
    with LocalServer(models) as server, server.client.stream("GET", "/v1/events") as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("retry:")
        next(lines)
        (item,) = server.predict(images[1], source="camera-1")
        assert next(lines) == "event: result"
        result = json.loads(next(lines).removeprefix("data: "))
        assert result["id"] == item["id"]
        assert result["source"] == "camera-1"
        next(lines)
        server.client.put(f"/v1/results/{item['id']}/verdict", json={"verdict": "good"})
        assert next(lines) == "event: verdict"
        assert json.loads(next(lines).removeprefix("data: "))["verdict"] == "good"
        next(lines)
        server.end()
        assert list(lines) == []


def test_a_watched_folder(models: Path, tmp_path: Path) -> None:
    from fre.serve.settings import LineSettings

    folder = tmp_path / "incoming"
    first = write_images(folder, 6)
    with LocalServer(models, line=LineSettings(str(folder))) as server:
        assert server.client.get("/v1/service").json()["watch"]["model"] == "weave"

        def wait(n: int) -> list[dict[str, Any]]:
            for _ in range(300):
                found = server.client.get("/v1/results?source=watch&limit=500").json()
                if found["total"] >= n:
                    break
                time.sleep(0.05)
            results: list[dict[str, Any]] = found["results"]
            return results

        assert {r["name"] for r in wait(6)} == {path.name for path in first}
        beside = write_images(tmp_path / "beside", 1, first=5000)[0]
        beside.rename(folder / "renamed.png")
        assert "renamed.png" in {r["name"] for r in wait(7)}
    write_images(folder, 4, first=2000)
    with LocalServer(models, line=LineSettings(str(folder))) as server:
        names = [r["name"] for r in wait(11)]
        time.sleep(1.0)
        assert server.client.get("/v1/results?source=watch").json()["total"] == 11
    assert len(set(names)) == 11


def test_a_token_is_asked_for(models: Path, images: list[Path]) -> None:
    import httpx

    with LocalServer(models, token=TOKEN) as server:
        assert server.client.get("/v1/models").status_code == 200
        with httpx.Client(base_url=server.url) as stranger:
            assert stranger.get("/healthz").status_code == 200
            for path in ("/v1/models", "/v1/results", "/metrics", "/openapi.json"):
                answer = stranger.get(path)
                problem(answer, 401, "unauthorized")
                assert answer.headers["www-authenticate"] == "Bearer"
            for value in ("Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer", "é"):
                headers = {"Authorization": value.encode()}
                problem(stranger.get("/v1/models", headers=headers), 401, "unauthorized")
            problem(stranger.post("/v1/session", json={"token": "wrong"}), 401, "unauthorized")
            answer = stranger.post("/v1/session", json={"token": TOKEN})
            assert answer.status_code == 204
            cookie = answer.headers["set-cookie"].lower()
            assert "httponly" in cookie
            assert "samesite=strict" in cookie
            assert TOKEN not in cookie
            assert stranger.get("/v1/models").status_code == 200
            assert stranger.delete("/v1/session").status_code == 204
            problem(stranger.get("/v1/models"), 401, "unauthorized")


def test_other_pages_and_names_are_refused(server: Server, models: Path) -> None:
    get, put = server.client.get, server.client.put
    problem(get("/v1/models", headers={"Host": "evil.example"}), 403, "forbidden")
    body = {"threshold": 1.0}
    url = "/v1/models/weave/threshold"
    foreign = {"Origin": "http://evil.example"}
    problem(put(url, json=body, headers=foreign), 403, "forbidden")
    problem(put(url, json=body, headers={"Origin": "null"}), 403, "forbidden")
    assert "access-control-allow-origin" not in get("/v1/models", headers=foreign).headers
    own = {"Origin": server.url}
    assert put(url, json={}, headers=own).status_code == 422
    assert get("/healthz").headers["x-content-type-options"] == "nosniff"
    with LocalServer(models, cors=("https://line.example",)) as other:
        headers = {"Origin": "https://line.example"}
        answer = other.client.get("/v1/models", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://line.example"
        assert other.client.put(url, json={}, headers=headers).status_code == 422
        problem(other.client.put(url, json={}, headers=foreign), 403, "forbidden")


def test_mistakes_on_the_command_line(models: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        done = command("serve", *arguments)
        assert done.returncode == 2, done
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr

    assert "FRE_TOKEN" in refused(models, "--host", "0.0.0.0")
    assert "16 characters" in refused(models, "--token", "short")
    assert "no such file" in refused(tmp_path / "nothing")
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    assert "not an ONNX model" in refused(tmp_path / "bad.onnx", "--port", "0")
    assert "expected a folder" in refused(models, "--port", "0", "--watch", tmp_path / "nothing")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "can't listen" in refused(models, "--port", taken.getsockname()[1])
    with Server(models):
        assert "another fre serve" in refused(models, "--port", "0")


def test_metrics(models: Path, images: list[Path]) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    with LocalServer(models) as server:
        items = server.predict(*images)
        text = server.client.get("/metrics").text
    values = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    model = ("model", "weave")
    n_anomalous = sum(item["anomalous"] for item in items)
    assert values["fre_predictions_total", ("decision", "anomalous"), model] == n_anomalous
    assert values["fre_anomalous_rate", model] == n_anomalous / len(items)
    # Scores of the default preset may be negative, and of such histograms there is no sum.
    assert values["fre_score_bucket", ("le", "+Inf"), model] == len(items)
    assert values["fre_p_value_count", model] == len(items)
    assert values["fre_queue_depth", model] == 0
    route = ("route", "/v1/models/{model}/predict")
    assert values["fre_http_requests_total", ("method", "POST"), route, ("status", "200")] == 1
    bounds = sorted(
        (float(dict(key[1:])["le"]), value)
        for key, value in values.items()
        if key[0] == "fre_score_bucket"
    )
    for bound, count in bounds:
        assert count == sum(item["score"] <= bound for item in items)


@pytest.mark.slow
def test_a_changed_file_is_loaded_and_a_broken_one_is_not(
    models: Path, weave: Path, images: list[Path]
) -> None:

    model = fre.load(weave)
    changed = model.with_calibration(model.calibration.at_threshold(1e9))
    with Server(models) as server:

        def wait(**expected: Any) -> dict[str, Any]:
            for _ in range(200):
                summary: dict[str, Any] = server.client.get("/v1/models/weave").json()["model"]
                if all(summary[key] == value for key, value in expected.items()):
                    return summary
                time.sleep(0.05)
            raise AssertionError(summary)

        changed.save(models / "weave.onnx")
        wait(sha256=changed.sha256)
        assert not any(item["anomalous"] for item in server.predict(*images))
        (models / "weave.onnx").write_bytes(b"half a file")
        time.sleep(1.2)
        summary = wait(sha256=changed.sha256)
        assert "not an ONNX model" in summary["error"]
        assert len(server.predict(*images[:2])) == 2
        model.save(models / "weave.onnx")
        wait(sha256=model.sha256, error=None)
        (models / "weave.onnx").unlink()
        for _ in range(200):
            if server.client.get("/v1/models").json()["models"] == []:
                break
            time.sleep(0.05)
        problem(server.client.get("/v1/models/weave"), 404, "not_found")


NOT_CALLED = (
    *("events", "cancel_job", "train_again", "get_odd_image"),
    *("delete_model", "start_source", "stop_source", "view_input"),
    *("get_version", "restore_version", "delete_version"),
    *("get_preview", "get_preview_image", "apply_preview", "discard_preview"),
)
"""Operations that never end, need a camera, job, version or large image, or delete a model."""


@pytest.mark.slow
def test_the_documentation_is_complete_and_its_examples_run(
    models: Path, images: list[Path]
) -> None:
    """Every operation is called with the examples of its documentation; answers fit it."""
    body_examples: dict[str, Any] = {}
    with Server(models) as server:
        server.client.post("/v1/train?name=plate&samples=10&size=64")
        server.job(1)
        document = server.client.get("/openapi.json").json()
        called = 0
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                if operation["operationId"] in NOT_CALLED:
                    continue
                assert operation["summary"]
                url, query = path, {}
                for parameter in operation.get("parameters", []):
                    schema = parameter["schema"]
                    examples = schema.get("examples") or parameter.get("examples")
                    if parameter["in"] == "path":
                        assert examples, (path, parameter)
                        url = url.replace(f"{{{parameter['name']}}}", str(examples[0]))
                    elif examples:
                        query[parameter["name"]] = examples[0]
                    assert parameter["description"]
                options: dict[str, Any] = {}
                content = operation.get("requestBody", {}).get("content", {})
                if "multipart/form-data" in content:
                    options["files"] = [
                        ("files", (image.name, image.read_bytes())) for image in images
                    ]
                elif content:
                    schema = content["application/json"]["schema"]
                    options["json"] = schema["examples"][0]
                    body_examples[operation["operationId"]] = options["json"]
                answer = server.client.request(method.upper(), url, params=query, **options)
                assert answer.is_success, (method, url, answer.text)
                described = operation["responses"][str(answer.status_code)]
                called += 1
                if answer.status_code == 204:
                    continue
                media = answer.headers["content-type"].split(";")[0]
                assert media in described["content"], (url, media)
                if media == "application/json":
                    schema = described["content"][media]["schema"]
                    check_shape(document, schema, answer.json())
        assert called >= 25
    assert set(body_examples) == {"open_session", "set_threshold", "keep_odd", "set_verdict"}
