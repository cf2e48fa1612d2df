"""``fre watch``: each file is judged once, however it arrives, whatever happens in between."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import fre
from commands import FRE
from commands import fre as run
from conftest import texture
from fre.errors import DatasetError, FREWarning, OutputError
from fre.line.folder import FolderOptions, FolderSource
from fre.line.follower import Follower, original_name, printable
from fre.line.journal import Journal
from fre.line.sinks import Receivers
from fre.line.sinks.files import LinesFile
from fre.line.watch import Inspection, ModelScorer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    detector = fre.FRE(size=64, false_alarm_rate=0.05)
    fitted = detector.fit([texture(seed) for seed in range(40)])
    return fitted.save(tmp_path_factory.mktemp("model") / "weave.onnx")


def encoded(seed: int) -> bytes:
    pixels = texture(seed)
    if seed % 4 == 0:
        pixels[30:40, 20:70] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def fill(folder: Path, n: int, *, first: int = 100) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}.png" for seed in range(first, first + n)]
    for path, seed in zip(paths, range(first, first + n), strict=True):
        path.write_bytes(encoded(seed))
    return paths


class Watch:
    """``fre watch`` in a process of its own."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fre", "watch", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, Any]] = []
        self.errors = ""
        self._readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                self.lines.append(json.loads(line))

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self.errors = self.process.stderr.read()

    def wait(self, n: int) -> None:
        for _ in range(1200):
            if len(self.lines) >= n:
                return
            assert self.process.poll() is None, self.errors
            time.sleep(0.05)
        raise AssertionError(self.lines)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(30)
        for reader in self._readers:
            reader.join(10)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()
        return code


def once(*arguments: object) -> tuple[list[dict[str, Any]], subprocess.CompletedProcess[str]]:
    done = run("watch", *arguments, "--once")
    return [json.loads(line) for line in done.stdout.splitlines()], done


def test_the_lines_are_those_of_predict(model: Path, tmp_path: Path) -> None:
    paths = fill(tmp_path / "in", 10)
    lines, done = once(model, tmp_path / "in")
    assert done.returncode == 0, done.stderr
    assert "10 images scored, 3 of them anomalous" in done.stderr
    expected = {str(p.path): p for p in fre.load(model).predict_many(paths)}
    assert len(lines) == 10
    for line in lines:
        prediction = expected[line["path"]]
        assert line["score"] == pytest.approx(prediction.score, rel=1e-4)
        assert line["anomalous"] == prediction.anomalous
        assert {"path", "score", "p_value", "anomalous", "regions", "time", "id"} <= set(line)
        assert line["decision"] == ("fail" if prediction.anomalous else "pass")
    again, _ = once(model, tmp_path / "in")
    assert again == []
    os.utime(paths[0])  # written anew, as far as anyone can tell
    (again,), _ = once(model, tmp_path / "in")
    assert again["path"] == str(paths[0])


@pytest.mark.slow
def test_slow_writes_renames_bursts_and_folders(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    watch = Watch(model, folder, "--settle", 0.4)

    def write_slowly() -> None:
        data = encoded(1)
        with (folder / "slow.png").open("wb", buffering=0) as file:
            for start in range(0, len(data), len(data) // 12):
                file.write(data[start : start + len(data) // 12])
                time.sleep(0.1)

    def write_with_a_long_pause() -> None:
        data = encoded(2)
        with (folder / "paused.png").open("wb", buffering=0) as file:
            file.write(data[: len(data) // 2])
            time.sleep(2.0)  # longer than it takes to settle
            file.write(data[len(data) // 2 :])

    writers = [
        threading.Thread(target=write_slowly),
        threading.Thread(target=write_with_a_long_pause),
    ]
    for writer in writers:
        writer.start()
    (tmp_path / "ready.png").write_bytes(encoded(3))
    (tmp_path / "ready.png").rename(folder / "renamed.png")
    (folder / ".hidden.png").write_bytes(encoded(4))
    (folder / "upload.png.part").write_bytes(encoded(5))
    for seed in range(200, 300):
        (folder / f"{seed}.png").write_bytes(encoded(seed))
        time.sleep(0.02)
    (folder / "below").mkdir()
    (folder / "below" / "deep.png").write_bytes(encoded(6))
    for writer in writers:
        writer.join()
    watch.wait(104)
    time.sleep(1.0)
    assert watch.end() == 0
    names = [Path(line["path"]).name for line in watch.lines]
    expected = ["slow.png", "paused.png", "renamed.png", "deep.png"]
    assert sorted(names) == sorted([*expected, *(f"{seed}.png" for seed in range(200, 300))])
    assert not any("error" in line for line in watch.lines)
    scores = {Path(line["path"]).name: line["score"] for line in watch.lines}
    loaded = fre.load(model)
    for name in ("slow.png", "paused.png"):
        assert scores[name] == pytest.approx(loaded.predict(folder / name).score, rel=1e-4)


@pytest.mark.slow
def test_a_file_that_cannot_be_read_is_given_up_once(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    fill(folder, 2)
    (folder / "bad.png").write_bytes(b"never an image")
    lines, done = once(model, folder, "--patience", 1.5, "--settle", 0.1)
    assert done.returncode == 0
    (bad,) = (line for line in lines if "error" in line)
    assert bad["path"] == str(folder / "bad.png")
    assert len(lines) == 3
    assert "2 images scored, 1 of them anomalous; 1 image could not be scored" in done.stderr
    assert once(model, folder)[0] == []


@pytest.mark.slow
def test_killed_again_and_again_each_file_is_judged_once(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    log = tmp_path / "commands"
    script = tmp_path / "note.py"
    script.write_text(
        "import os, sys\n"
        f"with open({str(log)!r}, 'a') as file:\n"
        "    file.write(f'{sys.argv[-2]} {sys.argv[-1]} {os.environ[\"FRE_PATH\"]}\\n')\n"
    )

    def write() -> None:
        for seed in range(100, 180):
            beside = tmp_path / f"{seed}.png"
            beside.write_bytes(encoded(seed))
            beside.rename(folder / beside.name)
            time.sleep(0.06)

    writer = threading.Thread(target=write)
    writer.start()
    command = f"{sys.executable} {script}"
    lines = []
    for n in (5, 9, 16):
        watch = Watch(model, folder, "--settle", 0.1, "--on-anomalous", command, "--batch-size", 3)
        watch.wait(n)
        watch.end(signal.SIGKILL)
        lines += watch.lines
    writer.join()
    # A process of its own: its journal is closed as it ends.
    done = subprocess.run(
        [*FRE, "watch", model, folder, "--on-anomalous", command, "--once"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines += [json.loads(line) for line in done.stdout.splitlines()]
    fresh = [line["path"] for line in lines if not line.get("redelivered")]
    assert len(fresh) == len(set(fresh))
    assert {line["path"] for line in lines} == {str(path) for path in folder.glob("*.png")}
    journal = Journal(folder / ".fre-watch-weave.sqlite3")
    assert len(journal.keys()) == 80
    assert journal.open_receivers([]) == []  # all had everything
    journal.close()
    ran = [entry.split() for entry in log.read_text().splitlines()]
    anomalous = {line["path"]: line["score"] for line in lines if line["anomalous"]}
    assert {entry[0] for entry in ran} == set(anomalous)
    assert all(entry[0] == entry[2] for entry in ran)
    assert all(float(entry[1]) == anomalous[entry[0]] for entry in ran)
    # A kill may repeat the command that ran just then, and no other.
    assert len(ran) - len(anomalous) <= 3


def test_the_command_is_run_without_a_shell(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    trap = tmp_path / "trap"
    names = [f"$(touch {trap.name}) ; touch {trap.name}.png", "-rf.png", "a b'c\"d.png"]
    for name in names:
        (folder / name).write_bytes(encoded(4))
    script = tmp_path / "show.py"
    script.write_text("import sys; print('GOT', repr(sys.argv[1:-1]))")
    lines, done = once(model, folder, "--on-anomalous", f"{sys.executable} {script} 'one word'")
    assert len(lines) == 3
    shown = [line for line in done.stderr.splitlines() if line.startswith("GOT")]
    assert sorted(shown) == sorted(f"GOT {['one word', str(folder / name)]!r}" for name in names)
    assert not list(tmp_path.glob("trap*"))
    assert not list(Path.cwd().glob("trap*"))


@pytest.mark.slow
def test_commands_that_fail_are_reported_and_counted(model: Path, tmp_path: Path) -> None:
    fill(tmp_path / "in", 1)
    slow, gone = tmp_path / "slow.py", tmp_path / "gone.sh"
    slow.write_text("import time; time.sleep(60)")
    gone.write_text("#!/nowhere/at-all\n")
    gone.chmod(0o755)
    for index, (command, message) in enumerate(
        [
            (f"{sys.executable} {slow}", "killed after 0.5 s, for"),
            ("false", "exit code 1, for"),
            (str(gone), "No such file"),
        ]
    ):
        options = ("--command-timeout", 0.5, "--state", tmp_path / f"state{index}")
        lines, done = once(model, tmp_path / "in", "--on-anomalous", command, *options)
        assert len(lines) == 1
        assert done.returncode == 1
        assert message in done.stderr
        assert "1 of 1 runs of" in done.stderr


@pytest.mark.slow
def test_a_command_that_can_not_be_run_is_refused_at_once(model: Path, tmp_path: Path) -> None:
    fill(tmp_path / "in", 1)
    (tmp_path / "plain.sh").write_text("exit")
    for command in ("/nowhere/at-all --now", "no-such-command", tmp_path / "plain.sh", tmp_path):
        lines, done = once(model, tmp_path / "in", "--on-anomalous", command)
        assert (done.returncode, lines) == (2, [])
        assert done.stderr.startswith(f"fre: error: --on-anomalous: {str(command).split()[0]}: no")
        assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["100.png"]


@pytest.mark.slow
def test_what_is_there_can_be_left_out(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    fill(folder, 5)
    watch = Watch(model, folder, "--skip-existing", "--settle", 0.1)
    for _ in range(1200):  # starting takes long on a busy machine
        if (folder / ".fre-watch-weave.sqlite3").exists():
            break
        time.sleep(0.05)
    time.sleep(2.5)
    fill(folder, 1, first=900)
    watch.wait(1)
    assert watch.end(signal.SIGINT) == 0
    assert [Path(line["path"]).name for line in watch.lines] == ["900.png"]
    assert "1 images scored" in watch.errors


@pytest.mark.slow
def test_mistakes(model: Path, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        _, done = once(*arguments)
        assert done.returncode == 2, done
        assert len(done.stderr.splitlines()) == 1, done.stderr
        return done.stderr

    folder = tmp_path / "in"
    fill(folder, 1)
    assert "expected a folder" in refused(model, tmp_path / "nothing")
    assert "can't read the model" in refused(tmp_path / "nothing.onnx", folder)
    assert "No closing quotation" in refused(model, folder, "--on-anomalous", "a 'b")
    assert "--state" in refused(model, folder, "--state", folder)
    watch = Watch(model, folder)
    watch.wait(1)
    assert "another fre watch" in (told := refused(model, folder))
    assert f"(process {watch.process.pid})" in told
    watch.end()


def test_the_follower_reports_what_has_settled(tmp_path: Path) -> None:
    follower = Follower(tmp_path, settle=0.2)
    assert follower.poll() == []
    fill(tmp_path, 1)
    assert follower.poll() == []
    time.sleep(0.25)
    (arrival,) = follower.poll()
    assert arrival.unchanged()
    assert not follower.idle()
    follower.postpone(arrival)
    assert follower.poll() == []
    time.sleep(0.35)
    (arrival,) = follower.poll()
    follower.leave_out([arrival.key])
    assert follower.poll() == []
    assert follower.idle()
    with pytest.raises(DatasetError, match="expected a folder"):
        Follower(tmp_path / "nothing")


def test_odd_things_have_a_line_each_and_are_never_opened(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (good,) = fill(folder, 1, first=101)
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "self.png").symlink_to("self.png")
    (folder / "dangling.png").symlink_to("nothing.png")
    (folder / "linked.png").symlink_to(good)
    (folder / "round").symlink_to("..")
    (folder / "folder.png").mkdir()
    (folder / "selfish").symlink_to("selfish")
    lines, done = once(model, folder, "--patience", 0.2, "--settle", 0.05)
    assert done.returncode == 0, done.stderr
    errors = {Path(line["path"]).name: line["error"] for line in lines if "error" in line}
    assert set(errors) == {"pipe.png", "zero.png", "self.png", "dangling.png"}
    assert "not a regular file" in errors["pipe.png"]
    assert "not a regular file" in errors["zero.png"]
    assert "a link that leads nowhere" in errors["self.png"]
    assert "a link to a file that is not there" in errors["dangling.png"]
    assert sorted(Path(line["path"]).name for line in lines if "score" in line) == [
        "101.png",
        "linked.png",
    ]
    assert once(model, folder, "--settle", 0.05)[0] == []


def test_a_folder_that_is_away_is_waited_for(tmp_path: Path) -> None:
    folder, warnings = tmp_path / "in", []
    fill(folder, 2)
    follower = Follower(folder, settle=0, warn=warnings.append)
    first, second = follower.poll()
    follower.leave_out([first.key])
    folder.rename(tmp_path / "gone")
    assert follower.poll() == follower.poll() == []
    assert follower.away is not None
    (tmp_path / "gone").rename(folder)
    assert [arrival.key for arrival in follower.poll()] == [second.key]
    assert follower.away is None
    told = [f"{folder}: can't be listed: No such file or directory; waiting", f"{folder}: is back"]
    assert len(warnings) == 2
    assert all(line.startswith(start) for line, start in zip(warnings, told, strict=True))


def test_a_subfolder_that_can_not_be_listed_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "in" / "a", 1)
    fill(tmp_path / "in" / "b", 1)
    scandir, errors = os.scandir, [PermissionError(13, "Permission denied")] * 2

    def fails(path: Path) -> Any:
        if Path(path).name == "a" and errors:
            raise errors.pop()
        return scandir(path)

    monkeypatch.setattr("fre.line.follower.os.scandir", fails)
    warnings: list[str] = []
    follower = Follower(tmp_path / "in", settle=0, warn=warnings.append)
    for _ in range(2):
        assert [arrival.path.parent.name for arrival in follower.poll()] == ["b"]
    assert warnings == [f"{tmp_path / 'in' / 'a'}: can't be listed: Permission denied"]
    assert len(follower.poll()) == 2
    errors.append(FileNotFoundError(2, "No such file or directory"))  # gone since: no fault
    assert len(follower.poll()) == 1
    assert len(warnings) == 1


def test_names_are_escaped_so_that_they_can_be_told_apart(model: Path, tmp_path: Path) -> None:
    names = [
        os.fsdecode(b"a\xff.png"),
        "a\\udcff.png",
        "a\\x5cudcff.png",
        "a\\\\udcff.png",
        os.fsdecode(b"a\\\xff.png"),
        "a\\x5c.png",
        "a\\u.png",
        "é|1|2\n.png",
    ]
    assert len({printable(name) for name in names}) == len(names)
    for name in names:
        assert original_name(printable(name)) == name
        printable(name).encode()
    assert printable("C:\\users\\x.png") == "C:\\users\\x.png"  # known from before, as it was
    folder = tmp_path / "in"
    folder.mkdir()
    for name in names:
        (folder / name).write_bytes(encoded(4))
    script = tmp_path / "show.py"
    script.write_text("import os, sys; assert os.path.exists(sys.argv[1]); print('THERE')")
    lines, done = once(model, folder, "--on-anomalous", f"{sys.executable} {script}")
    assert {original_name(Path(line["path"]).name) for line in lines} == set(names)
    assert len(lines) == len(names)
    assert done.stderr.count("THERE") == len(names), done.stderr
    assert once(model, folder)[0] == []


def test_a_file_that_breaks_a_batch_has_an_error_of_its_own(model: Path, tmp_path: Path) -> None:
    paths = fill(tmp_path / "in", 4, first=101)
    loaded, journal = fre.load(model), Journal(tmp_path / "state")
    judge = loaded.predict_many

    def predict_many(images: list[Path], **options: Any) -> Any:
        if paths[2] in images:
            raise ZeroDivisionError("a fault")
        return judge(images, **options)

    loaded.predict_many = predict_many  # type: ignore[method-assign]
    options = FolderOptions(once=True, settle=0, patience=0)
    source = FolderSource(tmp_path / "in", options, warn=print)
    sink = LinesFile(tmp_path / "out.jsonl")
    scorer = ModelScorer("weave", loaded)
    inspection = Inspection(
        source, scorer, journal, Receivers([sink], []), batch_size=8, warn=print
    )
    inspection.start()
    with pytest.warns(FREWarning, match="4 images together were not judged: ZeroDivisionError"):
        inspection.run()
    assert inspection.close(30) == []
    lines = [json.loads(line) for line in sink.path.read_text().splitlines()]
    errors = {line["path"]: line.get("error") for line in lines}
    assert errors.pop(str(paths[2])) == "not judged: ZeroDivisionError: a fault"
    assert set(errors) == {str(path) for path in (paths[0], paths[1], paths[3])}
    assert not any(errors.values())
    journal.close()


def test_a_journal_that_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("something else" * 200)
    with pytest.raises(OutputError, match="--state"):
        Journal(tmp_path / "state")
