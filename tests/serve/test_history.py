"""The stored results: damaged files, numbers that are not finite, exports, and their pictures."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import texture
from fre.errors import OutputError
from fre.images.resize import resize_map, resized_bands
from fre.inference.prediction import Prediction
from fre.serve.database import SCHEMA, Database, open_history
from fre.serve.pictures import IMAGE, PREVIEW, PictureRequest, Pictures, StoredImage, draw
from fre.serve.responses import Problem
from fre.serve.result_rows import Filters, NewResult
from fre.serve.results import Results
from serving import needs_serve

MAP = np.linspace(0, 9, 64, dtype=np.float32).reshape(8, 8)


def image_file(size: tuple[int, int] = (40, 60), form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(texture(1, size)).save(buffer, form)
    return buffer.getvalue()


def new_result(size: tuple[int, int] = (40, 60), **values: Any) -> NewResult:
    prediction = Prediction(
        path=None,
        score=values.pop("score", 1.5),
        p_value=values.pop("p_value", 0.25),
        anomalous=values.pop("anomalous", False),
        regions=(),
        input_map=values.pop("input_map", MAP),
        image_size=size,
        pixel_threshold=3.0,
        reason=values.pop("reason", None),
    )
    standard: dict[str, Any] = {
        "model": "part",
        "model_sha256": "a" * 64,
        "calibration_sha256": "c" * 64,
        "threshold": 2.0,
        "map_range": (0.0, 9.0),
        "name": "part.png",
        "source": "api",
        "image_sha256": "b" * 64,
        "form": "PNG",
        "prediction": prediction,
        "data": image_file(size),
    }
    return NewResult(**{**standard, **values})


def fill(data: Path, n: int = 30) -> None:
    database, note = open_history(data)
    assert note is None
    results = Results(database, Pictures(data / "pictures", 1 << 20))
    results.add([new_result(name=f"{i}.png") for i in range(n)]).result(30)
    database.close()


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Results]:
    database, _ = open_history(tmp_path)
    yield Results(database, Pictures(tmp_path / "pictures", 1 << 24))
    database.close()


def cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def overwrite(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[4096:12288] = b"\x5a" * 8192
    file.write_bytes(data)


def without_table(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP TABLE results")
        connection.commit()


def of_another_program(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE results (id INTEGER PRIMARY KEY, name TEXT)")


DAMAGES: list[Callable[[Path], object]] = [
    lambda file: file.write_bytes(b""),
    lambda file: file.write_bytes(b"no database, by far. " * 500),
    lambda file: file.write_bytes(bytes(file.stat().st_size)),
    cut,
    overwrite,
    without_table,
    of_another_program,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_history_is_set_aside_and_said(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    fill(tmp_path)
    file = tmp_path / "results.sqlite3"
    damage(file)
    damaged = file.read_bytes()
    database, note = open_history(tmp_path)
    (aside,) = tmp_path.glob("history.damaged-*.sqlite")
    assert aside.read_bytes() == damaged
    assert note is not None
    assert aside.name in note
    assert "lost earlier results" in note
    assert "\n" not in note
    # Old pictures, and browsers that keep them for ever, never stand for new results.
    results = Results(database, Pictures(tmp_path / "pictures", 1 << 20))
    assert results.count() == 0
    (added,) = results.add([new_result()]).result(30)
    assert added["id"] == 31
    assert len(list(tmp_path.glob("pictures.damaged-*/*/*.image"))) == 30
    database.close()
    again, note = open_history(tmp_path)
    again.close()
    assert note is None


def test_a_history_that_is_gone_is_said(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "results.sqlite3").unlink()
    database, note = open_history(tmp_path)
    database.close()
    assert note is not None
    assert "the file is missing" in note


def test_a_history_whose_rows_are_gone_is_said(tmp_path: Path) -> None:
    fill(tmp_path)
    with closing(sqlite3.connect(tmp_path / "results.sqlite3")) as connection:
        connection.execute("DELETE FROM results")
        connection.commit()
    database, note = open_history(tmp_path)
    database.close()
    assert note is not None
    assert "no result is left" in note
    assert not (tmp_path / "pictures").exists()


def test_a_sound_history_and_a_new_one_need_no_words(tmp_path: Path) -> None:
    fill(tmp_path)
    database, note = open_history(tmp_path)
    assert note is None
    assert Results(database, Pictures(tmp_path / "pictures", 1 << 20)).count() == 30
    database.close()
    assert not list(tmp_path.glob("*.damaged-*"))


def test_what_cannot_be_opened_is_not_taken_for_damage(tmp_path: Path) -> None:
    (tmp_path / "results.sqlite3").mkdir()
    with pytest.raises(OutputError, match="can't be used"):
        open_history(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.sqlite3"]


@pytest.mark.parametrize(
    ("layout", "without"),
    [
        (2, ("decision", "reason", "pixel_threshold")),
        (3, ("decision", "reason")),
        (4, ("decision",)),
    ],
)
def test_a_history_of_an_older_layout_is_taken_over(
    tmp_path: Path, layout: int, without: tuple[str, ...]
) -> None:
    file = tmp_path / "results.sqlite3"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(SCHEMA)
        for column in without:
            connection.execute(f"ALTER TABLE results DROP COLUMN {column}")
        # watch_key, and the columns that the layout has after it
        nulls = ", NULL" * (4 - len(without))
        for score, threshold in ((1.0, 2.0), (1.0, float("inf"))):
            connection.execute(
                "INSERT INTO results VALUES (NULL, 'part', 'a', 'c', 'x.png', 'api', 'b', 4, 6, ?,"
                " 0.5, 0, ?, '[]', '2026-01-01T00:00:00.000Z', NULL, NULL, NULL, 'PNG', 0, 9, 0"
                f"{nulls})",
                (score, threshold),
            )
        connection.execute(f"PRAGMA user_version = {layout}")
        connection.commit()
    database, note = open_history(tmp_path)
    assert note is None
    results = Results(database, Pictures(tmp_path / "pictures", 1 << 20))
    sound, odd = results.get(1), results.get(2)
    assert (sound["anomalous"], sound["pixel_threshold"], sound["note"]) == (False, None, None)
    assert odd["anomalous"] is True
    dark = "too dark: the mean level of red is 0"
    (added,) = results.add([new_result(reason=dark, anomalous=True)]).result(30)
    assert [results.get(n)["reason"] for n in (1, 2, added["id"])] == [None, None, dark]
    everything = results.page(Filters(anomalous=True), order="newest", limit=9, cursor=None)
    # Layout 3 stored no infinite numbers any more.
    assert [result["id"] for result in everything["results"]] == ([3, 2] if layout == 2 else [3])
    rows = list(csv.DictReader(io.StringIO("".join(results.csv(Filters())))))
    assert [row["reason"] for row in rows] == ["", "", dark]
    database.close()
    database, note = open_history(tmp_path)
    assert note is None
    assert Results(database, Pictures(tmp_path / "pictures", 1 << 20)).get(3)["reason"] == dark
    database.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("score", float("inf")),
        ("score", float("-inf")),
        ("p_value", float("inf")),
        ("threshold", float("inf")),
        ("map_high", float("inf")),
        ("regions", '[{"peak": Infinity}]'),
        ("regions", '[{"peak": NaN'),
        ("name", b"\xff\xfe.png"),
    ],
)
def test_a_poisoned_row_breaks_no_list_and_is_never_good(
    results: Results, column: str, value: Any
) -> None:
    results.add([new_result(), new_result()]).result(30)
    results.database.write(
        lambda connection: connection.execute(
            f"UPDATE results SET {column} = CAST(? AS {'TEXT' if column == 'name' else 'REAL'}) "
            "WHERE id = 1"
            if column not in ("regions",)
            else f"UPDATE results SET {column} = ? WHERE id = 1",
            (value,),
        )
    )
    for order in ("newest", "worst"):
        page = results.page(Filters(), order=order, limit=1, cursor=None)
        more = results.page(Filters(), order=order, limit=1, cursor=page["next"])
        text = json.dumps([page, more], allow_nan=False)
        assert len(json.loads(text)) == 2
        assert {page["results"][0]["id"], more["results"][0]["id"]} == {1, 2}
    poisoned = results.get(1)
    if column not in ("map_high", "name"):
        assert poisoned["anomalous"] is True
        assert "not finite" in poisoned["note"]
    assert results.get(2)["note"] is None
    assert len(list(csv.DictReader(io.StringIO("".join(results.csv(Filters())))))) == 2


def test_a_result_keeps_what_it_was_judged_by(results: Results) -> None:
    (added,) = results.add([new_result(map_range=(0.5, 7.0), threshold=2.5)]).result(30)
    assert added == results.get(1)
    assert (added["threshold"], added["pixel_threshold"]) == (2.5, 3.0)
    assert added["map_range"] == [0.5, 7.0]
    assert added["model_sha256"] == "a" * 64


def test_a_stalled_export_holds_no_transaction(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 600
    monkeypatch.setattr("fre.serve.results.CSV_WINDOW", 200)
    results.add([new_result(data=b"", name=f"{i:05d}" * 20) for i in range(n)]).result(60)
    pieces = results.csv(Filters(model="part"))
    text = next(pieces)
    assert text.count("\n") < n
    results.add([new_result(name="later")]).result(30)
    checkpoint = results.database.write(lambda connection: None)
    assert checkpoint is None
    with closing(sqlite3.connect(results.database.path, timeout=10)) as connection:
        busy, log, moved = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, log, moved) == (0, 0, 0)
    rows = list(csv.DictReader(io.StringIO(text + "".join(pieces))))
    assert [int(row["id"]) for row in rows] == list(range(1, n + 1))


def test_uploads_on_the_page_are_no_drift(results: Results) -> None:
    results.add(
        [new_result(source=source, p_value=0.01 * i) for source in ("page", "api") for i in (1, 2)]
    ).result(30)
    assert results.recent_p_values("part", "c" * 64, None, 10) == [0.02, 0.01]
    assert results.recent_p_values("part", "c" * 64, "api", 10) == [0.02, 0.01]
    assert results.recent_p_values("part", "c" * 64, "page", 10) == []


# Pictures -------------------------------------------------------------------------------------


def picture(results: Results, identity: int, wanted: PictureRequest) -> Image.Image:
    buffer = io.BytesIO()
    draw(results.pictures, results.stored(identity), wanted, buffer)
    return Image.open(buffer)


def test_a_small_picture_of_a_large_image_is_decoded_once(results: Results) -> None:
    size = (1200, 1600)
    results.add([new_result(size), new_result()]).result(30)
    before = results.pictures.size(1)
    first = picture(results, 1, PictureRequest("overlay", 320))
    assert first.size == (320, 240)
    preview = results.pictures.path(1, PREVIEW)
    assert 0 < preview.stat().st_size < 1 << 18
    # From now on the image itself is not needed for that.
    results.pictures.path(1, IMAGE).write_bytes(b"changed")
    assert picture(results, 1, PictureRequest("overlay", 320)).size == (320, 240)
    assert picture(results, 1, PictureRequest("image", 200)).size == (200, 150)
    with pytest.raises(Problem, match="not a readable image"):
        picture(results, 1, PictureRequest("image", 1000))
    # Small images need no preview, and damaged previews are drawn anew.
    assert picture(results, 2, PictureRequest("image", 32)).size == (32, 21)
    assert not results.pictures.path(2, PREVIEW).exists()
    results.pictures.path(1, IMAGE).write_bytes(image_file(size))
    preview.write_bytes(b"cut")
    assert picture(results, 1, PictureRequest("image", 200)).size == (200, 150)
    assert results.pictures.size(1) > before


def test_previews_count_towards_the_bound_and_go_with_their_image(results: Results) -> None:
    results.add([new_result((1200, 1600))]).result(30)
    picture(results, 1, PictureRequest("image", 320))
    results.recount(1).result(30)
    (kept,) = results.database.read().execute("SELECT kept_bytes FROM results").fetchone()
    assert kept == results.pictures.size(1)
    assert Results(results.database, results.pictures)._kept == results._kept == kept
    results.pictures.bound = 1
    results.add([new_result()]).result(30)
    assert not list(results.pictures.folder.glob("*/1.*"))
    # A preview that comes too late goes, too.
    results.pictures.save_preview(1, b"late")
    results.recount(1).result(30)
    assert not list(results.pictures.folder.glob("*/1.*"))


@pytest.mark.parametrize("size", [(8, 8), (37, 1001), (1500, 1400)])
def test_bands_of_a_resized_map_are_the_resized_map(size: tuple[int, int]) -> None:
    rows = [(band.start, band.stop) for band, _ in resized_bands(MAP, size)]
    assert rows[0][0] == 0
    assert rows[-1][1] == size[0]
    whole = np.concatenate([values for _, values in resized_bands(MAP, size)])
    np.testing.assert_allclose(whole, resize_map(MAP, size), rtol=1e-5, atol=1e-5)


@needs_serve
def test_pictures_of_large_images_are_drawn_one_at_a_time(results: Results) -> None:
    from fre.serve.gallery import LIMITS, Gallery

    results.add([new_result((300, 400)), new_result((300, 400), data=b"damaged")]).result(30)
    gallery = Gallery(results.pictures, 1000, results.recount)
    stored = results.stored(1)

    left = False

    async def gone() -> bool:
        return left

    async def body(wanted: PictureRequest, of: StoredImage = stored) -> bytes:
        sent: list[bytes] = []

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))

        answer = await gallery.answer(of, wanted, gone)
        await answer({"type": "http"}, None, send)  # type: ignore[arg-type]
        return b"".join(sent)

    async def several() -> list[bytes]:
        wanted = [
            PictureRequest("overlay", 200),
            PictureRequest("overlay", 200),
            PictureRequest("map", map_format="npy"),
            PictureRequest("map", map_format="tiff"),
            PictureRequest("map"),
            PictureRequest("image"),
            PictureRequest("heat"),
        ]
        found = await asyncio.gather(*(body(picture) for picture in wanted))
        with pytest.raises(Problem, match="not a readable image") as caught:
            await body(PictureRequest("overlay", 200), results.stored(2))
        assert caught.value.status == 422
        nonlocal left
        left = True
        with pytest.raises(Problem, match="has left"):
            await body(PictureRequest("overlay", 200))
        held = [gallery._take("whole") for _ in range(LIMITS["whole"])]
        with pytest.raises(Problem) as caught:
            await body(PictureRequest("map"))
        assert (caught.value.status, caught.value.retry_after) == (503, 2)
        for release in held:
            release()
        return found

    overlay, same, raw, tiff, grey, image, heat = asyncio.run(several())
    assert overlay == same
    assert gallery._drawing == {}
    gallery.close()
    assert set(gallery._busy.values()) == {0}
    assert Image.open(io.BytesIO(overlay)).size == (200, 150)
    values = np.load(io.BytesIO(raw))
    np.testing.assert_allclose(values, resize_map(MAP, (300, 400)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.asarray(Image.open(io.BytesIO(tiff))), values, atol=1e-5)
    levels = np.asarray(Image.open(io.BytesIO(grey)))
    np.testing.assert_allclose(levels / 65535 * 9, values, atol=1e-3)
    assert image == image_file((300, 400))
    assert Image.open(io.BytesIO(heat)).size == (8, 8)


def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    Database(tmp_path / "results.sqlite3").close()
    with closing(sqlite3.connect(tmp_path / "results.sqlite3")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(OutputError, match="another version"):
        open_history(tmp_path)
    assert not list(tmp_path.glob("*.damaged-*"))
