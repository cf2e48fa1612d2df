"""Where images are read from, and what a sharded run writes: all without Ray."""

from __future__ import annotations

import importlib.util
import json
import pickle
import threading
import uuid
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fre.distributed import shards
from fre.distributed.shards import (
    Counts,
    Shard,
    ShardFile,
    ShardPlan,
    forget_run,
    iter_shards,
    open_run,
)
from fre.errors import DatasetError, ImageError, MissingDependencyError, OptionError, OutputError
from fre.images.decode import read_image
from fre.inference.prediction import Prediction, prediction_row
from fre.scoring.regions import Region
from fre.storage.remote import (
    FetchError,
    Folder,
    check_sources,
    fetch,
    is_url,
    iter_sources,
    locate,
)

needs_fsspec = pytest.mark.skipif(
    importlib.util.find_spec("fsspec") is None or importlib.util.find_spec("aiohttp") is None,
    reason="needs fre-vision[ray]",
)
needs_arrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="needs fre-vision[ray]"
)


def plan(*sources: object, shard_size: int = 5, form: str = "jsonl") -> ShardPlan:
    return ShardPlan("ab12", tuple(map(str, sources)), shard_size, form, "1")


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if "/forbidden/" in self.path:
            self.send_error(403)
        else:
            super().do_GET()


@pytest.fixture
def site(good_folder: Path) -> Iterator[str]:
    """A web server on this machine that has the good images."""
    handler = partial(Silent, directory=str(good_folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_places() -> None:
    assert is_url("s3://bucket/a.png")
    assert not is_url("C:/a.png")
    assert not is_url(Path("a.png"))
    assert locate("file:///tmp/a%20b.png") == Path("/tmp/a b.png")
    assert locate("s3://bucket/a.png") == "s3://bucket/a.png"
    assert locate("a.png") == Path("a.png")


def test_folders_files_and_lists_become_images_in_order(good_folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(f"b.png\n\n{good_folder / '3.png'}\ns3://bucket/x.png\n")
    found = list(iter_sources([str(good_folder), f"@{listed}", str(good_folder / "7.png")]))
    assert found == [
        *(str(good_folder / f"{number}.png") for number in range(12)),
        str(tmp_path / "b.png"),
        str(good_folder / "3.png"),
        "s3://bucket/x.png",
        str(good_folder / "7.png"),
    ]
    assert list(iter_sources([str(listed)])) == found[12:15]


def test_listing_streams(good_folder: Path, tmp_path: Path) -> None:
    found = iter_sources([str(good_folder), str(tmp_path / "missing")])
    assert next(found) == str(good_folder / "0.png")
    with pytest.raises(DatasetError, match="missing: no such file or folder"):
        list(found)


def test_nothing_to_score_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images here or below"):
        list(iter_sources([str(tmp_path)]))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DatasetError, match="no line names an image"):
        list(iter_sources([str(tmp_path / "empty.txt")]))
    with pytest.raises(DatasetError, match="no such list"):
        list(iter_sources(["@" + str(tmp_path / "gone.txt")]))


@needs_fsspec
def test_an_image_on_a_server_is_that_of_the_file(site: str, good_folder: Path) -> None:
    assert (read_image(f"{site}/3.png") == read_image(good_folder / "3.png")).all()
    assert list(iter_sources([f"{site}/3.png"])) == [f"{site}/3.png"]
    with pytest.raises(ImageError, match="no such file") as caught:
        read_image(f"{site}/nothing.png")
    assert not isinstance(caught.value, FetchError)


@needs_fsspec
def test_what_is_out_of_reach_differs_from_what_is_damaged(
    site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fre.storage.remote.PAUSE", 0)
    with pytest.raises(FetchError, match="can't be fetched: 403"):
        fetch(f"{site}/forbidden/3.png")


@needs_fsspec
def test_a_protocol_that_is_not_installed_is_named() -> None:
    with pytest.raises(OptionError, match=r"nowhere://x/a\.png"):
        read_image("nowhere://x/a.png")


def test_a_url_without_fsspec_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingDependencyError, match=r"fre-vision\[ray\]"):
        read_image("s3://bucket/a.png")


def folders(tmp_path: Path) -> list[Folder]:
    found = [Folder(tmp_path / "out")]
    if importlib.util.find_spec("fsspec") is not None:
        found.append(Folder(f"memory://{uuid.uuid4().hex}/out"))
    return found


def test_a_folder_here_and_in_an_object_store(tmp_path: Path) -> None:
    for folder in folders(tmp_path):
        assert folder.empty()
        assert folder.read("a/b.txt") is None
        folder.write("a/b.txt", b"one")
        folder.write("a/b.txt", b"two")
        assert folder.read("a/b.txt") == b"two"
        assert not folder.empty()
        folder.tidy()
        assert folder.read("a/b.txt") == b"two"
        folder.clear()
        assert folder.empty()


def test_half_written_files_are_tidied_away(tmp_path: Path) -> None:
    (tmp_path / ".fre-0123abcd-x7f.tmp").write_text("{")
    (tmp_path / "part-0000000.jsonl").write_text("{}")
    (tmp_path / ".hidden").touch()
    Folder(tmp_path).tidy()
    assert sorted(file.name for file in tmp_path.iterdir()) == [".hidden", "part-0000000.jsonl"]


def test_shards_are_the_list_cut_up(good_folder: Path, tmp_path: Path) -> None:
    for folder in folders(tmp_path):
        found = list(iter_shards(folder, plan(good_folder)))
        assert [shard.number for shard in found] == [0, 1, 2]
        assert [len(shard.paths) for shard in found] == [5, 5, 2]
        assert [path for shard in found for path in shard.paths] == [
            str(good_folder / f"{number}.png") for number in range(12)
        ]


@pytest.mark.parametrize("listed", [1, 2, 3, 5, 12, 50])
def test_shards_do_not_depend_on_how_the_list_is_written(
    listed: int, good_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "LISTED", listed)
    paths = [shard.paths for shard in iter_shards(Folder(tmp_path), plan(good_folder))]
    assert [len(names) for names in paths] == [5, 5, 2]
    assert [shard.paths for shard in iter_shards(Folder(tmp_path), plan(good_folder))] == paths


def test_a_list_that_is_complete_is_kept(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(7):
        (images / f"{number}.png").touch()
    before = list(iter_shards(Folder(tmp_path / "out"), plan(images)))
    (images / "0a.png").touch()
    (images / "5.png").unlink()
    assert list(iter_shards(Folder(tmp_path / "out"), plan(images))) == before


def test_a_list_that_was_cut_short_must_go_on_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "LISTED", 2)
    images, folder = tmp_path / "images", Folder(tmp_path / "out")
    images.mkdir()
    for number in range(7):
        (images / f"{number}.png").touch()
    assert next(iter_shards(folder, plan(images, shard_size=2))).number == 0
    assert len(list(iter_shards(folder, plan(images, shard_size=2)))) == 4
    (tmp_path / "out/_fre/images/end.json").unlink()
    (images / "0a.png").touch()
    with pytest.raises(DatasetError, match="no longer those of the run"):
        list(iter_shards(folder, plan(images, shard_size=2)))


def test_a_run_goes_on_only_with_what_it_began_with(tmp_path: Path) -> None:
    for folder in folders(tmp_path):
        open_run(folder, plan("/a"), overwrite=False)
        open_run(folder, plan("/a"), overwrite=False)
        with pytest.raises(OutputError, match="whose sources is"):
            open_run(folder, plan("/b"), overwrite=False)
        folder.write("part-0000000.jsonl", b"")
        open_run(folder, plan("/b"), overwrite=True)
        assert folder.read("part-0000000.jsonl") is None


def test_a_run_that_found_no_image_is_not_in_the_way_of_another(tmp_path: Path) -> None:
    for folder in folders(tmp_path):
        open_run(folder, plan("/a"), overwrite=False)
        forget_run(folder)
        open_run(folder, plan("/b"), overwrite=False)
    images, begun = tmp_path / "images", Folder(tmp_path / "begun")
    images.mkdir()
    (images / "0.png").touch()
    open_run(begun, plan(images), overwrite=False)
    assert len(list(iter_shards(begun, plan(images)))) == 1
    forget_run(begun)
    with pytest.raises(OutputError, match="whose sources is"):
        open_run(begun, plan("/b"), overwrite=False)


def test_what_is_not_there_is_seen_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    check_sources([str(tmp_path), str(tmp_path / "a.png"), f"@{tmp_path / 'a.png'}", "s3://b/c"])
    for missing in (str(tmp_path / "b.png"), f"@{tmp_path / 'list.txt'}"):
        with pytest.raises(DatasetError, match="no such file or folder"):
            check_sources([missing])


def test_an_error_of_a_worker_still_names_the_url() -> None:
    error = pickle.loads(pickle.dumps(FetchError("https://host/a.png", "can't be fetched")))
    assert isinstance(error, FetchError)
    assert str(error) == "https://host/a.png: can't be fetched"


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="is not empty"):
        open_run(Folder(tmp_path), plan("/a"), overwrite=False)
    with pytest.raises(OutputError, match="is a file"):
        open_run(Folder(tmp_path / "letter.txt"), plan("/a"), overwrite=False)


@pytest.mark.parametrize("form", ["jsonl", pytest.param("parquet", marks=needs_arrow)])
def test_the_file_of_a_shard_is_counted_as_it_was_written(form: str) -> None:
    import numpy as np

    region = Region((1, 2, 3, 4), 9, 2.5, (2, 3), (2.0, 3.5), {"blocks.2": 0.25})
    good = Prediction(None, 1.5, 0.2, False, (), (8, 8), np.zeros((8, 8), np.float32))
    bad = Prediction(None, 9.0, 0.01, True, (region,), (8, 8), np.zeros((8, 8), np.float32))
    rows = [
        prediction_row(good, "s3://b/1.png"),
        prediction_row(bad, "s3://b/2.png"),
        prediction_row(ImageError("s3:/b/3.png", "no such file"), "s3://b/3.png"),
    ]
    file = ShardFile(form)
    data = file.encode(rows)
    assert file.name(12) == f"part-0000012.{form}"
    assert file.count(data) == Counts(3, 1, 1)
    damaged = file.count(data[:-3])
    assert damaged is None
    if form == "jsonl":
        assert [json.loads(line) for line in data.splitlines()] == rows
        assert rows[2] == {"path": "s3://b/3.png", "error": "no such file"}
    else:
        import io

        import pyarrow.parquet as pq

        read = pq.read_table(io.BytesIO(data)).to_pylist()
        assert [row["path"] for row in read] == ["s3://b/1.png", "s3://b/2.png", "s3://b/3.png"]
        assert read[1]["regions"][0]["bbox"] == [1, 2, 3, 4]
        assert read[1]["regions"][0]["layers"] == [("blocks.2", 0.25)]
        assert read[2]["score"] is None
        assert read[2]["error"] == "no such file"


def test_bad_options_are_refused() -> None:
    with pytest.raises(OptionError, match="no format is called 'csv'"):
        plan("/a", form="csv")
    with pytest.raises(OptionError, match="1 image or more"):
        plan("/a", shard_size=0)


def test_a_shard_that_is_out_of_reach_is_not_written(
    good_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be taken for done."""
    import fre
    from fre.distributed.scoring import Scorer, ScoringTask

    model = fre.FRE(size=64).fit(good_folder)
    monkeypatch.setattr("fre.images.decode.fetch", out_of_reach)
    task = ScoringTask(
        model=None,
        folder=Folder(tmp_path),
        form="jsonl",
        batch_size=8,
        threads=1,
        runtime="onnxruntime",
        version="",
    )
    scorer = Scorer(task)
    monkeypatch.setattr(Scorer, "_model", model)
    with pytest.raises(FetchError, match="can't be fetched"):
        scorer._score(Shard(0, ("s3://b/1.png", "s3://b/2.png"), 2), "part")
    assert Folder(tmp_path).read("part") is None
    mixed = Shard(0, ("s3://b/1.png", str(good_folder / "1.png")), 2)
    assert scorer._score(mixed, "part") == Counts(2, 0, 1)


def out_of_reach(url: str) -> bytes:
    raise FetchError(url, "can't be fetched: the network is down")


def test_errors_come_back_from_workers_whole() -> None:
    import pickle

    for error in (
        MissingDependencyError("the runtime openvino", "openvino"),
        FetchError("s3://b/1.png", "can't be fetched: no"),
        OptionError("no"),
    ):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        if not isinstance(error, FetchError):  # whose path is normalised
            assert str(copy) == str(error)
