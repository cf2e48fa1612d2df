"""A folder of results appears whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fre.errors import OutputError
from fre.storage.staged_folder import staged_folder


def test_a_folder_is_filled_when_everything_is_there(tmp_path: Path) -> None:
    target = tmp_path / "a" / "out"
    with staged_folder(target) as staging:
        (staging / "x").touch()
        assert not [path for path in target.iterdir() if not path.name.startswith(".")]
    assert [path.name for path in target.iterdir()] == ["x"]
    assert [path.name for path in target.parent.iterdir()] == ["out"]


def test_an_interrupted_folder_leaves_nothing(tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        with staged_folder(folder) as staging:
            (staging / "x").touch()
            raise KeyboardInterrupt

    (tmp_path / "there").mkdir()
    for folder in (tmp_path / "a" / "out", tmp_path / "there"):
        with pytest.raises(KeyboardInterrupt):
            work(folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_earlier_results_are_only_replaced_when_asked_and_the_rest_stays(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with staged_folder(target) as staging:
        (staging / "lines").touch()
        (staging / "old").mkdir()
        (staging / "old" / "1").touch()
    (target / "notes.txt").write_text("of a person")
    with pytest.raises(OutputError, match="not empty"), staged_folder(target):
        pass
    names = ("lines", "old", "new")
    with staged_folder(target, replace=names, overwrite=True) as staging:
        (staging / "lines").write_text("new")
        (staging / "new").mkdir()
    assert {path.name for path in target.iterdir()} == {"lines", "new", "notes.txt"}
    assert (target / "lines").read_text() == "new"
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"), staged_folder(tmp_path / "file"):
        pass
    (tmp_path / "own" / "new").mkdir(parents=True)
    with (
        pytest.raises(OutputError, match="no lines says that these are results"),
        staged_folder(tmp_path / "own", replace=names, overwrite=True),
    ):
        pass
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["new"]


def test_a_link_to_a_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with staged_folder(tmp_path / "link") as staging:
        (staging / "x").touch()
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["x"]


def test_a_folder_belongs_to_one_run_at_a_time(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with staged_folder(target) as staging:
        for overwrite in (False, True):
            with (
                pytest.raises(OutputError, match="another run of fre is writing there"),
                staged_folder(target, overwrite=overwrite),
            ):
                pass
        (staging / "x").touch()
    assert [path.name for path in target.iterdir()] == ["x"]


KILLED = """
import os, pathlib, signal, sys
from fre.storage.staged_folder import staged_folder
calls = 0
def counted(function):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
with staged_folder(sys.argv[1], replace=("lines", "a", "b", "c"), overwrite=True) as staging:
    for name in ("a", "b"):
        (staging / name).mkdir()
        (staging / name / "x").write_text("new")
    (staging / "lines").write_text("new")
    for kind, name in ((pathlib.Path, "rename"), (pathlib.Path, "unlink"), (os, "rmdir")):
        setattr(kind, name, counted(getattr(kind, name)))
"""


def test_a_kill_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    """Killed at each step of the exchange, the next run finds all of the old or of the new."""
    old = {"lines": "old", "a/x": "old", "c/x": "old", "mine": "old"}
    new = {"lines": "new", "a/x": "new", "b/x": "new", "mine": "old"}
    outcomes = []
    for step in range(1, 30):
        target = tmp_path / str(step)
        for name, text in old.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_text(text)
        done = subprocess.run([sys.executable, "-c", KILLED, target, str(step)], check=False)
        with pytest.raises(OutputError, match="not empty"), staged_folder(target):
            pass
        found = {
            path.relative_to(target).as_posix(): path.read_text()
            for path in target.rglob("*")
            if path.is_file()
        }
        assert found in (old, new), step
        outcomes.append(found == new)
        if done.returncode == 0:
            break
    assert outcomes == sorted(outcomes)
    assert outcomes[-1]
    assert len(outcomes) > 6


def test_results_that_can_not_be_placed_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out"
    (target / "b").mkdir(parents=True)
    (target / "a").write_text("old")
    rename = Path.rename

    def refuse(path: Path, to: Path) -> Path:
        if path == target / "b":
            raise OSError(16, "Device or resource busy", str(path))
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", refuse)

    def work() -> None:
        with staged_folder(target, replace=("a", "b"), overwrite=True) as staging:
            (staging / "a").write_text("new")
            (staging / "b").mkdir()

    with pytest.raises(OutputError, match=r"out/b: can't be replaced: .* the new ones are in"):
        work()
    (kept,) = target.glob("new-results-*")
    assert {path.name for path in target.iterdir()} == {"a", "b", kept.name}
    assert (target / "a").read_text() == "old"
    assert (kept / "a").read_text() == "new"
