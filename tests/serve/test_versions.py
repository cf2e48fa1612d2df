"""Versions of the models over HTTP, and updates that are looked at first."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fre
from conftest import texture
from fre.drawing.heatmaps import encode
from serving import LocalServer, check_shape, needs_serve, problem, scratched

pytestmark = needs_serve

URL = "/v1/models/weave"
VERSIONS = f"{URL}/versions"
PREVIEW = f"{URL}/preview"


@pytest.fixture(scope="module")
def weave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a weave, small and quick."""
    model = fre.FRE(size=64, false_alarm_rate=0.05).fit([texture(seed) for seed in range(24)])
    return model.save(tmp_path_factory.mktemp("weave") / "weave.onnx")


@pytest.fixture
def server(models: Path) -> Iterator[LocalServer]:
    with LocalServer(models) as running:
        yield running


def versions(server: LocalServer) -> list[dict[str, Any]]:
    answer = server.client.get(VERSIONS)
    assert answer.status_code == 200, answer.text
    document = server.client.get("/openapi.json").json()
    check_shape(document, {"$ref": "#/components/schemas/VersionsBody"}, answer.json())
    found: list[dict[str, Any]] = answer.json()["versions"]
    return found


def set_threshold(server: LocalServer, value: float) -> str:
    answer = server.client.put(f"{URL}/threshold", json={"threshold": value})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["sha256"])


def restore(server: LocalServer, version: str) -> Any:
    return server.client.post(f"{VERSIONS}/{version}/restore")


def present(server: LocalServer) -> str:
    return fre.load(server.models / "weave.onnx").sha256


def files(server: LocalServer) -> list[str]:
    return sorted(path.name for path in (server.models / ".versions" / "weave").glob("*.onnx"))


def test_each_change_is_a_version_that_can_be_put_back(server: LocalServer, weave: Path) -> None:
    first = fre.load(weave)
    (version,) = versions(server)
    assert version["id"] == first.sha256
    assert version["current"] is True
    assert (version["why"], version["by"]) == ("uploaded", None)
    assert (version["n_images"], version["threshold"]) == (24, first.threshold)
    assert version["bytes"] == weave.stat().st_size

    second = set_threshold(server, 7.5)
    newest, oldest = versions(server)
    assert (newest["id"], newest["why"], newest["by"]) == (second, "threshold", "local")
    assert (newest["threshold"], newest["current"], oldest["current"]) == (7.5, True, False)
    kept = server.client.get(f"{VERSIONS}/{first.sha256}/file")
    assert kept.content == weave.read_bytes()
    assert f"weave-{first.sha256[:8]}.onnx" in kept.headers["content-disposition"]

    answer = restore(server, first.sha256)
    assert answer.status_code == 200, answer.text
    assert present(server) == first.sha256
    assert (server.models / "weave.onnx").read_bytes() == weave.read_bytes()
    restored, other = versions(server)
    assert answer.json()["versions"] == [restored, other]
    assert (restored["id"], restored["why"], restored["by"]) == (first.sha256, "restored", "local")
    assert [save["why"] for save in restored["saves"]] == ["restored", "uploaded"]
    # What was in place before is still there, and equal files are stored once.
    assert other["id"] == second
    assert files(server) == sorted([f"{first.sha256}.onnx", f"{second}.onnx"])

    problem(restore(server, first.sha256), 409, "conflict")
    problem(restore(server, "0" * 64), 404, "not_found")
    problem(restore(server, "..%2F..%2Fweave"), 404, "not_found")
    problem(server.client.delete(f"{VERSIONS}/{first.sha256}"), 409, "conflict")
    assert server.client.delete(f"{VERSIONS}/{second}").status_code == 204
    problem(server.client.delete(f"{VERSIONS}/{second}"), 404, "not_found")
    assert files(server) == [f"{first.sha256}.onnx"]
    problem(server.client.get("/v1/models/none/versions"), 404, "not_found")
    problem(server.client.get("/v1/models/../versions"), 404, "not_found")


@pytest.mark.slow
def test_versions_are_bounded_and_outlive_the_service(models: Path) -> None:
    with LocalServer(models, keep_versions=2) as server:
        made = [set_threshold(server, value) for value in (5.0, 6.0, 7.0, 8.0)]
        before = versions(server)
        assert [version["id"] for version in before] == made[:0:-1]
        assert len(files(server)) == 3
    with LocalServer(models, keep_versions=2) as server:
        assert versions(server) == before
        assert restore(server, made[1]).status_code == 200
        assert [version["id"] for version in versions(server)] == [made[1], made[3], made[2]]
    assert fre.load(models / "weave.onnx").threshold == 6.0


def test_none_are_kept_if_they_are_switched_off(models: Path) -> None:
    with LocalServer(models, keep_versions=0) as server:
        set_threshold(server, 5.0)
        assert versions(server) == []
        assert not (models / ".versions").exists()
        assert "--keep-versions" in problem(restore(server, "0" * 64), 409, "conflict")


def test_a_file_that_somebody_overwrites_is_kept(models: Path, weave: Path) -> None:
    from fre.serve.registry import ModelRegistry

    registry = ModelRegistry(models, keep_versions=3)
    first = registry.get("weave").model.sha256
    other = fre.load(weave).with_calibration(fre.load(weave).calibration.at_threshold(9.0))
    # In place, as cp does: a link to it would change, too.
    (models / "weave.onnx").write_bytes(other.data)
    registry.refresh()
    records = registry.versions.records("weave")
    assert [record["id"] for record in records] == [other.sha256, first]
    assert {record["saves"][0]["why"] for record in records} == {"uploaded"}
    assert registry.versions.load("weave", first).data == weave.read_bytes()
    # A damaged file goes on serving what was loaded, which can be put back.
    (models / "weave.onnx").write_bytes(b"damaged")
    registry.refresh()
    assert registry.get("weave").error is not None
    from fre.serve.versions import Save

    registry.save("weave", registry.versions.load("weave", first), Save("restored", "local"))
    assert registry.get("weave").error is None
    assert fre.load(models / "weave.onnx").sha256 == first


@pytest.mark.slow
def test_a_damaged_or_removed_file_comes_back(models: Path, weave: Path) -> None:
    with LocalServer(models) as server:
        (version,) = versions(server)
    (models / "weave.onnx").write_bytes(b"damaged")
    # With another model left, the folder is not away when this one is removed.
    shutil.copy(weave, models / "other.onnx")
    with LocalServer(models) as server:
        problem(server.client.get(URL), 404, "not_found")
        assert versions(server) == [{**version, "current": False}]
        assert restore(server, version["id"]).status_code == 200
        assert server.client.get(URL).json()["model"]["sha256"] == version["id"]
        (models / "weave.onnx").unlink()
        for _ in range(200):
            if server.client.get(URL).status_code == 404:
                break
            time.sleep(0.05)
        assert restore(server, version["id"]).status_code == 200
        assert server.client.get(URL).json()["model"]["sha256"] == version["id"]
    assert (models / "weave.onnx").read_bytes() == weave.read_bytes()


def test_crashes_and_damage_leave_no_wrong_version(server: LocalServer, weave: Path) -> None:
    folder = server.models / ".versions" / "weave"
    first = fre.load(weave).sha256
    (folder / f"{'a' * 64}.onnx").write_bytes(b"without a record, as a crash leaves it")
    (folder / f"{'b' * 64}.json").write_text("{}")
    assert [version["id"] for version in versions(server)] == [first]
    set_threshold(server, 7.5)
    assert not (folder / f"{'a' * 64}.onnx").exists()
    # Another model under the name of this one, and half a model.
    good = (folder / f"{first}.onnx").read_bytes()
    present_before = present(server)
    for damaged, reason in (
        ((server.models / "weave.onnx").read_bytes(), "has changed since it was kept"),
        (good[: len(good) // 2], "can't be used"),
    ):
        (folder / f"{first}.onnx").write_bytes(damaged)
        assert reason in problem(restore(server, first), 409, "conflict")
    assert present(server) == present_before


def test_a_change_that_can_not_be_undone_is_refused(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fre.errors import OutputError
    from fre.serve import versions as module
    from fre.serve.registry import ModelRegistry

    def full(path: Path, data: bytes) -> None:
        raise OutputError(f"{path}: can't be written: No space left on device")

    monkeypatch.setattr(module, "write_atomic", full)
    registry = ModelRegistry(models, keep_versions=3)
    before = registry.get("weave").model  # serves all the same
    with pytest.raises(OutputError, match="No space left"):
        registry.recalibrate("weave", lambda model: (model.calibration.at_threshold(9.0), None))
    assert fre.load(models / "weave.onnx").sha256 == before.sha256
    monkeypatch.undo()
    registry.recalibrate("weave", lambda model: (model.calibration.at_threshold(9.0), None))
    assert [record["threshold"] for record in registry.versions.records("weave")] == [
        9.0,
        before.threshold,
    ]


def test_nothing_is_restored_or_applied_while_a_job_changes_the_model(
    server: LocalServer, weave: Path
) -> None:
    from fre.serve.jobs import Work

    first, ended = fre.load(weave).sha256, threading.Event()
    second = set_threshold(server, 7.5)

    def run(_: Any) -> dict[str, Any]:
        ended.wait(60)
        return {}

    jobs = server._server.service.jobs
    job = jobs.add("update", "weave", Work(run, lambda: None))
    try:
        message = problem(restore(server, first), 409, "conflict")
        assert f"job {job['id']} (update of weave)" in message
        assert present(server) == second
    finally:
        ended.set()
    server.job(job["id"])
    assert restore(server, first).status_code == 200


def test_the_client_of_a_change_is_named() -> None:
    from starlette.requests import Request

    from fre.serve.parameters import _caller

    def caller(client: tuple[str, int] | None) -> str | None:
        return asyncio.run(_caller(Request({"type": "http", "client": client})))

    assert caller(None) is None
    assert caller(("127.0.0.1", 1)) == caller(("::1", 1)) == caller(("::ffff:127.0.0.1", 1))
    assert caller(("127.0.0.1", 1)) == "local"
    assert caller(("::ffff:192.168.0.7", 1)) == "192.168.0.7"
    assert caller(("testclient", 1)) == "testclient"


# Updates that are looked at first ---------------------------------------------------------------


def inspect(server: LocalServer, folder: Path, images: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Predictions of images, by their name."""
    folder.mkdir(exist_ok=True)
    paths = [folder / name for name in images]
    for path, image in zip(paths, images.values(), strict=True):
        path.write_bytes(encode(image, "PNG"))
    return {item["name"]: item for item in server.predict(*paths)}


def review(server: LocalServer, item: dict[str, Any], verdict: str) -> None:
    answer = server.client.put(f"/v1/results/{item['id']}/verdict", json={"verdict": verdict})
    assert answer.status_code == 200


def prepare(server: LocalServer, *results: int, **options: Any) -> dict[str, Any]:
    answer = server.client.post(
        f"{URL}/update", params={"preview": True, "results": results}, **options
    )
    assert answer.status_code == 202, answer.text
    assert answer.json()["job"]["kind"] == "preview"
    job = server.job(answer.json()["job"]["id"])
    document = server.client.get("/openapi.json").json()
    check_shape(document, {"$ref": "#/components/schemas/JobInfo"}, job)
    body: dict[str, Any] = server.client.get(PREVIEW).json()
    assert job["result"]["preview"] == body
    return body


@pytest.mark.slow
def test_a_prepared_update_says_what_changes_and_is_applied_as_it_was_seen(
    server: LocalServer, weave: Path, tmp_path: Path
) -> None:
    # One defect that is taught as good; others like it then pass, too, or not: both are computed.
    images = {f"scratch-{seed}.png": scratched(seed) for seed in range(5, 9)}
    images |= {f"good-{seed}.png": texture(seed) for seed in range(300, 303)}
    found = inspect(server, tmp_path / "images", images)
    for name, item in found.items():
        review(server, item, "defect" if name in list(images)[1:4] else "good")
    taught = found["scratch-5.png"]
    assert taught["anomalous"]
    new = [(f"new-{seed}.png", encode(texture(seed), "PNG")) for seed in range(400, 404)]
    body = prepare(server, taught["id"], files=[("files", one) for one in new])

    before = fre.load(weave)
    assert present(server) == before.sha256
    assert server.client.get(f"/v1/results/{taught['id']}").json()["result"]["learnt_at"] is None
    for name, data in new:
        (tmp_path / name).write_bytes(data)
    local = before.update([tmp_path / name for name, _ in new])
    local = local.update([tmp_path / "images" / "scratch-5.png"], accept_anomalous=True)
    assert body["before"] | body["after"] == body["after"]
    assert body["before"]["threshold"] == before.threshold
    assert body["after"]["threshold"] == pytest.approx(local.threshold, abs=1e-3)
    assert body["after"]["n_images"] == 24 + 5
    assert body["after"]["expected_false_alarm_rate"] == pytest.approx(
        local.calibration.expected_rate, abs=1e-6
    )
    assert [image["name"] for image in body["images"]] == [*dict(new), "scratch-5.png"]
    picture = server.client.get(body["images"][-1]["picture"])
    assert Image.open(io.BytesIO(picture.content)).size == (96, 96)
    problem(server.client.get(f"{PREVIEW}/0123456789abcdef/image"), 404, "not_found")

    # Both models have scored the stored images.
    reviewed = body["reviewed"]
    assert (reviewed["n_reviewed"], reviewed["n_checked"], reviewed["n_taught"]) == (7, 7, 1)
    decisions: dict[str, tuple[str, str]] = {}
    for name in images:
        path = tmp_path / "images" / name
        judged = [model.predict(path).anomalous for model in (before, local)]
        decisions[name] = tuple("fail" if anomalous else "pass" for anomalous in judged)  # type: ignore[assignment]
    expected = {name: pair for name, pair in decisions.items() if pair[0] != pair[1]}
    assert "scratch-5.png" in expected
    assert {
        change["name"]: (change["decision_before"], change["decision_after"])
        for change in reviewed["changes"]
    } == expected
    for change in reviewed["changes"]:
        path = tmp_path / "images" / change["name"]
        assert change["score_before"] == pytest.approx(before.predict(path).score, abs=1e-3)
        assert change["score_after"] == pytest.approx(local.predict(path).score, abs=1e-3)
        assert change["taught"] == (change["name"] == "scratch-5.png")
        assert change["result"] == found[change["name"]]["id"]
    defects = list(images)[1:4]
    for when, place in (("before", 0), ("after", 1)):
        counts = reviewed["confusion"][when]
        assert counts["tp"] == sum(decisions[name][place] == "fail" for name in defects)
        assert sum(counts.values()) == 6

    message = problem(
        server.client.post(f"{PREVIEW}/apply", json={"sha256": "0" * 64}), 409, "conflict"
    )
    assert "another update" in message
    answer = server.client.post(f"{PREVIEW}/apply", json={"sha256": body["sha256"]})
    assert answer.status_code == 200, answer.text
    assert present(server) == body["sha256"]
    newest, oldest = answer.json()["versions"]
    assert (newest["id"], newest["why"], newest["by"]) == (body["sha256"], "taught", "local")
    assert oldest["id"] == body["before_sha256"]
    assert server.client.get(f"/v1/results/{taught['id']}").json()["result"]["learnt_at"]
    problem(server.client.get(PREVIEW), 404, "not_found")
    problem(
        server.client.post(f"{PREVIEW}/apply", json={"sha256": body["sha256"]}), 404, "not_found"
    )

    # Undone, the result can be taught again; put back, it is learnt again.
    assert restore(server, oldest["id"]).status_code == 200
    assert present(server) == before.sha256
    assert server.client.get(f"/v1/results/{taught['id']}").json()["result"]["learnt_at"] is None
    assert restore(server, newest["id"]).status_code == 200
    assert server.client.get(f"/v1/results/{taught['id']}").json()["result"]["learnt_at"]
    assert not list((server.models / ".fre-serve" / "uploads").iterdir())


def test_a_prepared_update_is_refused_after_a_change_and_can_be_discarded(
    server: LocalServer, tmp_path: Path
) -> None:
    upload = {"files": ("new.png", encode(texture(400), "PNG"))}
    body = prepare(server, files=upload)
    second = set_threshold(server, 7.5)
    message = problem(
        server.client.post(f"{PREVIEW}/apply", json={"sha256": body["sha256"]}), 409, "conflict"
    )
    assert "changed meanwhile" in message
    assert present(server) == second
    assert server.client.delete(PREVIEW).status_code == 204
    problem(server.client.delete(PREVIEW), 404, "not_found")

    # What can't be checked any more is counted.
    gone, kept = inspect(
        server, tmp_path / "x", {"a.png": texture(1), "b.png": texture(2)}
    ).values()
    for item in (gone, kept):
        review(server, item, "good")
    server._server.service.results.pictures.path(gone["id"], ".image").unlink()
    body = prepare(server, files=upload)
    assert body["before"]["threshold"] == 7.5
    reviewed = body["reviewed"]
    assert (reviewed["n_reviewed"], reviewed["n_checked"], reviewed["n_unreadable"]) == (2, 1, 1)
    assert server.client.post(f"{PREVIEW}/apply", json={"sha256": body["sha256"]}).is_success
    assert (
        json.loads((server.models / ".versions" / "weave" / f"{body['sha256']}.json").read_text())[
            "n_images"
        ]
        == 25
    )
