"""The real command line, in processes of its own: results, errors, exit codes, interruption."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import texture

FRE = [sys.executable, "-m", "fre"]


def fre(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*FRE, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=cwd
    )


def picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def refused(*arguments: object, cwd: Path | None = None) -> str:
    """Run what is a mistake of the user; the one line that says so."""
    done = fre(*arguments, cwd=cwd)
    assert done.returncode == 2, done
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fre: error: ")
    return lines[0]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weave with bright scratches, in the layout of MVTec AD."""
    root = tmp_path_factory.mktemp("weave")

    def save(path: str, pixels: np.ndarray) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(root / path)

    for seed in range(30):
        save(f"train/good/{seed}.png", texture(seed))
    for seed in range(100, 108):
        save(f"test/good/{seed}.png", texture(seed))
        image, mask = texture(seed + 100), np.zeros((96, 96), np.uint8)
        mask[30:40, 20:70] = 255
        image[mask > 0] = 255
        save(f"test/scratch/{seed}.png", image)
        save(f"ground_truth/scratch/{seed}_mask.png", mask)
    return root


@pytest.fixture(scope="module")
def model(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "weave.onnx"
    done = fre("train", dataset, "-o", path, "--size", 96)
    assert done.returncode == 0, done.stderr
    return path


def test_help_has_an_example_for_each_command() -> None:
    from fre.cli import cli

    for name in cli.commands:
        done = fre(name, "--help")
        assert done.returncode == 0
        assert f"Example: fre {name}" in done.stdout
    assert fre("--version").stdout.startswith("fre, version ")


def test_the_help_of_train_fits_one_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = fre("train", "--help").stdout.splitlines()
    assert len(lines) <= 25
    options = [line for line in lines if line.startswith("  -")]
    assert len(options) == 17
    everything = fre("train", "--help-all").stdout
    assert all(line in everything for line in options[:-1])
    for title in ("Input:", "Method:", "Memory and machines:", "Output:"):
        assert f"\n{title}\n" in everything


def test_every_option_has_a_line_in_the_full_help() -> None:
    from click import Context, Option

    from fre.cli import cli
    from fre.cli.help import ALL, LongCommand

    for name, command in cli.commands.items():
        context = Context(command, info_name=name)
        context.meta[ALL] = True
        text = command.get_help(context)
        for parameter in command.params:
            if isinstance(parameter, Option) and parameter.name != "help_all":
                assert parameter.help, f"{name} {parameter.opts}"
                assert max(parameter.opts, key=len) in text
        if isinstance(command, LongCommand):
            assert {*command.title_of} <= {opt for p in command.params for opt in p.opts}


def test_the_help_groups_every_command() -> None:
    from fre.cli import cli
    from fre.cli.help import CommandGroup

    assert isinstance(cli, CommandGroup)
    assert sorted(" ".join(cli.titles.values()).split()) == sorted(cli.commands)
    assert "..." not in fre("--help").stdout.replace("[ARGS]...", "")


def test_without_a_command_it_helps() -> None:
    done = fre()
    assert done.returncode == 0
    assert done.stdout == fre("--help").stdout
    assert done.stderr == ""


def test_train_reports_in_words_and_as_json(dataset: Path, tmp_path: Path) -> None:
    done = fre("train", dataset, "-o", tmp_path / "m.onnx", "--size", "96", "--json", "-")
    assert done.returncode == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["model"] == str(tmp_path / "m.onnx")
    assert values["n_images"] == 30
    assert list(values["seconds"]) == ["total", "features", "fit"]
    assert values["images_per_second"] > 0
    layers = {(layer["name"], layer["scope"]): layer for layer in values["layers"]}
    assert list(layers) == [
        ("blocks.2", "position"),
        ("blocks.4", "position"),
        ("blocks.5", "image"),
        ("blocks.4", "image"),
    ]
    assert layers["blocks.4", "image"]["dimension"] == 112 * 9
    assert layers["blocks.4", "image"]["rank"] <= 29
    assert all(layer["kept_variance"] >= 0.97 for layer in layers.values())
    assert values["threshold"] > 0
    assert done.stderr.startswith("fre: 30 good images can't promise a false-alarm rate of 0.01")
    reference = ["--preset", "reference", "--backbone", "efficientnet_lite0", "--set", "rank=5"]
    words = fre("train", dataset, "-o", tmp_path / "m.onnx", "--size", "96x64", *reference)
    assert "5 of 672 dimensions" in words.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_folders_that_mean_defects_or_masks_are_not_learnt(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    scratch = dataset / "test" / "scratch"
    error = refused("train", scratch, "-o", output)
    assert "8 images taken as defective" in error
    assert "--good scratch" in error
    for folder in ("A", "B"):
        shutil.copytree(scratch, tmp_path / "ask" / folder)
    assert "A (8 images), B (8 images)" in refused("train", tmp_path / "ask", "-o", output)
    assert not output.exists()


def test_train_says_what_is_odd_about_a_folder(dataset: Path, tmp_path: Path) -> None:
    for kind in ("good", "scratch"):
        shutil.copytree(dataset / "test" / kind, tmp_path / "plain" / kind)
    done = fre("train", tmp_path / "plain", "-o", tmp_path / "m.onnx", "--size", 64, "--json", "-")
    assert done.returncode == 0
    assert "are kept for testing" in done.stderr
    values = json.loads(done.stdout)
    assert values["n_images"] < 8
    assert values["dataset"]["n_train"] == values["n_images"]
    assert values["dataset"]["kinds"] == {"scratch": 8}


def test_predict_prints_a_line_for_each_image(model: Path, dataset: Path) -> None:
    done = fre("predict", model, dataset / "test" / "scratch", dataset / "test" / "good")
    assert done.returncode == 0
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 16
    assert list(lines[0]) == ["path", "score", "p_value", "anomalous", "regions"]
    assert all(line["anomalous"] and line["regions"] for line in lines[:8])
    assert not any(line["anomalous"] for line in lines[8:])
    assert "8 of 16 images anomalous" in done.stderr


def test_predict_writes_overlays_maps_and_lines(model: Path, dataset: Path, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    scratch = picture(dataset / "test" / "scratch" / "100.png")
    Image.fromarray(scratch).resize((640, 480)).save(large)
    for form in ("tiff", "npy", "png"):
        out = tmp_path / form
        done = fre("predict", model, large, "-o", out, "--maps", form)
        assert done.returncode == 0, done.stderr
        lines = (out / "predictions.jsonl").read_text()
        assert lines == done.stdout
        assert picture(out / "overlays" / "large.png").shape == (480, 640, 3)
        file = out / "maps" / f"large.{form}"
        values = np.load(file) if form == "npy" else picture(file)
        assert values.shape == (480, 640)
        assert values.dtype == (np.uint16 if form == "png" else np.float32)
    assert "not empty" in refused("predict", model, large, "-o", tmp_path / "npy")
    assert fre("predict", model, large, "-o", tmp_path / "npy", "--overwrite").returncode == 0
    assert not (tmp_path / "npy" / "maps").exists()
    assert "--maps needs" in refused("predict", model, large, "--maps", "npy")


def test_predict_names_each_image_s_files(model: Path, dataset: Path, tmp_path: Path) -> None:
    """Equal stems, names that are not Unicode, and earlier results among the images."""
    folder = tmp_path / "parts"
    (folder / "day").mkdir(parents=True)
    scratch = dataset / "test" / "scratch" / "100.png"
    odd = os.fsdecode(b"day/caf\xe9.png")
    for name in ("day/part.png", odd, f"day/{'n' * 251}.png"):
        shutil.copy(scratch, folder / name)
    with Image.open(scratch) as image:
        image.resize((80, 60)).save(folder / "day" / "part.jpg")
    command = ("predict", model, folder, "-o", folder / "out", "--masks", "--maps", "png")
    done = fre(*command)
    assert done.returncode == 0, done.stderr
    text = (folder / "out" / "predictions.jsonl").read_bytes()
    assert text == done.stdout.encode()
    lines = {json.loads(line)["path"]: json.loads(line) for line in text.splitlines()}
    assert set(lines) == {str(path) for path in (folder / "day").iterdir()}
    for path, line in lines.items():
        with Image.open(path) as image:
            for key in ("overlay", "map", "mask"):
                with Image.open(folder / "out" / line[key]) as made:
                    assert made.size == image.size
    assert lines[str(folder / odd)]["mask"] == "masks/day/caf%E9.png"
    again = fre(*command, "--overwrite")
    assert again.stdout == done.stdout
    assert f"{folder / 'out'}: holds results of fre predict" in again.stderr


def test_output_is_utf_8_whatever_the_console(model: Path, dataset: Path, tmp_path: Path) -> None:
    image = tmp_path / "\u90e8\u54c1.png"
    shutil.copy(dataset / "test" / "good" / "100.png", image)
    for encoding in ("cp1252", "ascii:strict"):
        done = subprocess.run(
            [*FRE, "predict", model, image],
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.decode("utf-8"))["path"] == str(image)
        done = subprocess.run(
            [*FRE, "predict", model, image.with_suffix(".gone")],
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert done.returncode == 2
        assert "\u90e8\u54c1.gone" in done.stderr.decode("utf-8")


def test_overlays_have_one_scale(model: Path, dataset: Path, tmp_path: Path) -> None:
    """A good image stays as it is; a defect is coloured. Per-image scaling would colour both."""
    good, bad = (dataset / "test" / kind / "100.png" for kind in ("good", "scratch"))
    assert fre("predict", model, good, "-o", tmp_path / "g").returncode == 0
    assert fre("predict", model, bad, "-o", tmp_path / "b").returncode == 0
    changed = {}
    for image, out in ((good, "g"), (bad, "b")):
        overlay = picture(tmp_path / out / "overlays" / "100.png").astype(int)
        changed[out] = np.abs(overlay - picture(image)).max()
    assert changed["b"] > 100
    assert changed["g"] < 60


def test_predict_json_goes_to_a_file(model: Path, dataset: Path, tmp_path: Path) -> None:
    done = fre("predict", model, dataset / "test" / "good", "--json", tmp_path / "p.jsonl")
    assert done.stdout == ""
    assert len((tmp_path / "p.jsonl").read_text().splitlines()) == 8


def test_predict_survives_the_end_of_its_reader(model: Path, dataset: Path, tmp_path: Path) -> None:
    command = [*FRE, "predict", str(model), str(dataset / "train"), "-o", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr
    assert "Traceback" not in process.stderr.read()
    assert process.wait() == 0
    process.stderr.close()
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 30


def test_nothing_is_lost_if_nobody_reads_the_figures(
    model: Path, dataset: Path, tmp_path: Path
) -> None:
    figures, report = tmp_path / "e.json", tmp_path / "e.html"
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*FRE, "evaluate", str(model), str(dataset), "--json", figures, "--report", report],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(figures.read_text())["n_good"]
    assert report.exists()


def test_evaluate(model: Path, dataset: Path, tmp_path: Path) -> None:
    done = fre(
        "evaluate", model, dataset, "--json", tmp_path / "e.json", "--report", tmp_path / "e.html"
    )
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "e.json").read_text())
    assert list(values) == [
        "image_auroc",
        "image_aupr",
        "image_f1",
        "pixel_auroc",
        "pixel_f1",
        "aupro",
        "n_good",
        "n_defect",
        "false_alarm_rate_observed",
        "images_per_second",
        "aupimo",
        "intervals",
        "kinds",
        "n_masks",
        "n_unreadable",
        "unreadable",
        "reasons",
        "notes",
    ]
    assert (values["kinds"], values["n_masks"], values["n_unreadable"]) == ({"scratch": 8}, 8, 0)
    assert (values["reasons"], values["notes"]) == ({}, [])
    assert "8 good and 8 defective images (scratch 8), 8 masks" in done.stdout
    figures = {name for name in values if name[:5] in ("image", "pixel", "aupro", "aupim", "false")}
    assert set(values["intervals"]) == figures - {"images_per_second"}
    for name, (low, high) in values["intervals"].items():
        assert 0 <= low <= values[name] + 1e-3
        assert values[name] - 1e-3 <= high <= 1
        assert f"{low:.3f} to {high:.3f}" in done.stdout
    assert values["image_auroc"] == values["image_aupr"] == values["image_f1"] == 1
    assert values["pixel_auroc"] > 0.9
    assert values["aupimo"] > 0.9
    assert (values["n_good"], values["n_defect"]) == (8, 8)
    assert "1.000" in done.stdout
    html = (tmp_path / "e.html").read_text()
    assert "weave" in html
    assert '<p class="caution">' not in html


def test_the_report_says_when_the_threshold_is_from_known_defects(
    model: Path, dataset: Path, tmp_path: Path
) -> None:
    known, report = tmp_path / "known.onnx", tmp_path / "known.html"
    fre("threshold", model, "-o", known, "--from-dataset", dataset, "--max-f1")
    assert fre("evaluate", known, dataset, "--report", report).returncode == 0
    (caution,) = re.findall(r'<p class="caution">(.*?)</p>', report.read_text())
    chosen = f"largest F1 on the known defects of {dataset.name}"
    assert f"chosen with known defects ({chosen}), not from good images alone" in caution


def test_info(model: Path) -> None:
    done = fre("info", model, "--json", "-")
    values = json.loads(done.stdout)
    assert values["format"] == 1
    assert values["backbone"]["name"] == "efficientnet_lite0"
    assert len(values["calibration"]["scores"]) == 30
    assert "efficientnet_lite0" in fre("info", model).stdout


def test_an_unreadable_image_in_training(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "good"
    shutil.copytree(dataset / "train" / "good", folder)
    bad = folder / "15.png"
    bad.write_bytes(bad.read_bytes()[:2000])
    output = tmp_path / "m.onnx"
    empty = folder / "20.png"
    content = empty.read_bytes()
    empty.write_bytes(b"")
    error = refused("train", folder, "-o", output, "--size", 64)
    assert str(bad) in error
    assert f"{empty} can't be read, either; leave such images out with --skip-unreadable" in error
    empty.write_bytes(content)
    assert not output.exists()
    done = fre("train", folder, "-o", output, "--size", 64, "--skip-unreadable", "--json", "-")
    assert done.returncode == 0
    assert json.loads(done.stdout)["n_images"] == 29
    assert json.loads(done.stdout)["n_skipped"] == 1
    assert f"left out: {bad}" in done.stderr


def test_an_unreadable_image_in_prediction(model: Path, dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    shutil.copytree(dataset / "test" / "good", folder)
    bad = folder / "103.png"
    bad.write_bytes(bad.read_bytes()[:2000])
    done = fre("predict", model, folder, "-o", tmp_path / "out")
    assert done.returncode == 2
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 8
    assert list(lines[3]) == ["path", "error"]
    assert lines[3]["path"] == str(bad)
    clean = fre("predict", model, dataset / "test" / "good").stdout.splitlines()
    for line, expected in zip(lines, map(json.loads, clean), strict=True):
        if "error" not in line:
            assert line["score"] == pytest.approx(expected["score"], rel=1e-4)
    assert "1 could not be read" in done.stderr
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 7


def test_an_unreadable_image_in_evaluation(model: Path, dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weave"
    shutil.copytree(dataset / "test", folder / "test")
    bad = folder / "test" / "good" / "103.png"
    bad.write_bytes(bad.read_bytes()[:2000])
    assert f"{bad}: " in (error := refused("evaluate", model, folder))
    assert "--skip-unreadable" in error
    done = fre("evaluate", model, folder, "--skip-unreadable", "--json", "-")
    assert done.returncode == 0
    assert f"left out: {bad}" in done.stderr
    values = json.loads(done.stdout)
    assert (values["n_good"], values["n_unreadable"]) == (7, 1)
    assert values["reasons"]["pixel_auroc"] == "no masks"


def test_predict_reads_a_list(model: Path, dataset: Path, tmp_path: Path) -> None:
    images = sorted((dataset / "test" / "good").iterdir())[:2]
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{image}\n" for image in images))
    done = fre("predict", model, listed)
    assert done.returncode == 0, done.stderr
    paths = [json.loads(line)["path"] for line in done.stdout.splitlines()]
    assert paths == list(map(str, images))
    listed.write_text("gone.png\n")
    assert "list.txt, line 1: no such image" in refused("predict", model, listed)


def test_training_mistakes(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "out" / "m.onnx"
    output.parent.mkdir()

    def train(data: Path, *options: object) -> str:
        message = refused("train", data, "-o", output, *options)
        assert not list(output.parent.iterdir())
        return message

    empty, text, one = (tmp_path / name for name in ("empty", "text", "one"))
    for folder in (empty, text, one):
        folder.mkdir()
    (text / "a.txt").write_text("no image")
    (text / "b.png").write_text("no image, whatever its name")
    Image.fromarray(texture(0)).save(one / "x.png")
    good = dataset / "train" / "good"
    assert f"{empty}: no images" in train(empty)
    assert "no such folder" in train(tmp_path / "nowhere")
    assert "3 good images or more, found 1" in train(one)
    for name in ("c.png", "d.png"):
        (text / name).write_text("neither this")
    assert "not a readable image" in train(text)
    (text / "b.png").unlink()
    (text / "c.png").unlink()
    (text / "d.png").unlink()
    assert f"{text}: no images" in train(text)
    reference = ["--preset", "reference", "--backbone", "efficientnet_lite0"]
    assert "span 29 dimensions" in train(good, *reference, "--set", "rank=500", "--size", 64)
    assert "top has no effect with the reference preset" in train(
        good, *reference, "--set", "top=0.1"
    )
    assert "no such mask" in train(good, "--roi", tmp_path / "nowhere.png")
    assert "expected a whole number" in train(good, "--set", "pool=two")
    assert "no backbone is called 'resnet0'" in train(good, "--backbone", "resnet0")
    assert "efficientnet_lite0" in train(good, "--backbone", "resnet0")
    assert "choose from: blocks.0" in train(good, "--layers", "layer9")
    assert "expected 256 or HxW" in train(good, "--size", "big")
    assert "variance" in train(good, "--set", "variance=2")
    assert "false-alarm rate" in train(good, "--false-alarm-rate", 0)
    assert "pool must be" in train(good, "--set", "pool=50")
    assert "--nonsense" in train(good, "--nonsense")


def test_model_file_mistakes(model: Path, dataset: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(model.read_bytes()[:5000])
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    for command in ("predict", "evaluate", "info"):
        rest = [] if command == "info" else [dataset]
        assert "damaged one" in refused(command, damaged, *rest)
        assert "not an ONNX model" in refused(command, text, *rest)
        assert "No such file" in refused(command, tmp_path / "nowhere.onnx", *rest)
    assert "no such file or folder" in refused("predict", model, tmp_path / "nowhere")


def test_an_enormous_image_is_refused(model: Path, tmp_path: Path) -> None:
    huge = tmp_path / "huge.png"
    Image.fromarray(texture(0)).save(huge)
    data = bytearray(huge.read_bytes())
    data[16:24] = 2 * (60_000).to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    huge.write_bytes(data)
    done = fre("predict", model, huge)
    assert done.returncode == 2
    assert "--max-pixels" in json.loads(done.stdout)["error"]
    small = tmp_path / "small.png"
    Image.fromarray(texture(0)).save(small)
    assert "--max-pixels" in refused("train", tmp_path, "-o", tmp_path / "m.onnx")
    assert fre("predict", model, small, "--max-pixels", 100).returncode == 2
    assert fre("predict", model, small, "--max-pixels", 10_000).returncode == 0


def test_places_that_cannot_be_written(model: Path, dataset: Path, tmp_path: Path) -> None:
    good = dataset / "train" / "good"
    for place in (tmp_path / "no" / "m.onnx", Path("/proc/m.onnx"), tmp_path):
        assert str(place) in refused("train", good, "-o", place)
    assert "/proc" in refused("predict", model, good, "-o", "/proc/out")
    assert "/proc" in refused("evaluate", model, dataset, "--report", "/proc/x.html")
    assert "is a file" in refused("predict", model, good, "-o", model)


def wait_until_it_works(process: subprocess.Popen[str]) -> None:
    """Until the network is loaded, on any machine; and then a moment into the images."""
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "onnxruntime" not in maps.read_text():
        time.sleep(0.1)
    time.sleep(1)
    assert process.poll() is None, "done before it could be interrupted"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["train", "predict"])
def test_interruption_leaves_nothing(
    model: Path, dataset: Path, tmp_path: Path, command: str, sent: signal.Signals
) -> None:
    many = tmp_path / "many"
    many.mkdir()
    source = Image.fromarray(texture(0)).resize((1500, 1500))
    source.save(many / "0.png")
    for index in range(1, 300):
        os.link(many / "0.png", many / f"{index}.png")
    out = tmp_path / "out"
    out.mkdir()
    arguments = (
        ["train", many, "-o", out / "m.onnx"]
        if command == "train"
        else ["predict", model, many, "-o", out / "results"]
    )
    process = subprocess.Popen(
        [*FRE, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_until_it_works(process)
    process.send_signal(sent)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 2
    assert stderr.splitlines() == ["fre: error: interrupted; no partial result is left behind"]
    assert not list(out.iterdir())


def test_a_fault_of_ours_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    code = (
        "import fre.model, fre.cli, sys\n"
        "def broken(*_, **__): raise RuntimeError('a wheel came off')\n"
        "fre.model.load = broken\n"
        "sys.argv = ['fre', 'info', 'x.onnx']\n"
        "fre.cli.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "fre: error: RuntimeError: a wheel came off (a fault of fre; FRE_DEBUG=1 shows where)"
    ]


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    done = fre("demo", "--json", "demo.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "demo.json").read_text())
    assert values["image_auroc"] > 0.9
    assert values["aupro"] > 0.9
    folder = tmp_path / "fre-demo"
    assert len(list(folder.glob("overlays/*/*.png"))) == 60
    assert (folder / "overview.png").stat().st_size > 10_000
    assert "<html" in (folder / "report.html").read_text()
    assert "fre train YOUR/GOOD/IMAGES" in done.stdout
    predicted = fre("predict", folder / "plate.onnx", folder / "plates/test/stain", cwd=tmp_path)
    assert predicted.returncode == 0
    assert "not empty" in refused("demo", "-o", folder)


def test_threshold_changes_the_decision_only(model: Path, dataset: Path, tmp_path: Path) -> None:
    images = dataset / "test" / "good"
    before = [json.loads(line) for line in fre("predict", model, images).stdout.splitlines()]
    own = tmp_path / "own.onnx"
    shutil.copy(model, own)
    done = fre("threshold", own, "--false-alarm-rate", 0.5, "--json", tmp_path / "t.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "14 of 30 good images score above it" in done.stdout
    values = json.loads((tmp_path / "t.json").read_text())
    assert values["false_alarm_rate"] == 0.5
    assert values["expected_false_alarm_rate"] == pytest.approx(15 / 31)
    assert values["threshold"] < values["previous_threshold"]
    assert values["pixel_threshold"] < values["previous_pixel_threshold"]
    after = [json.loads(line) for line in fre("predict", own, images).stdout.splitlines()]
    for old, new in zip(before, after, strict=True):
        assert (old["score"], old["p_value"]) == (new["score"], new["p_value"])
        assert new["anomalous"] == (new["score"] > values["threshold"])
    assert "false-alarm rate 0.5" in fre("info", own).stdout


def test_a_threshold_by_hand_and_its_report(model: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "hand.onnx"
    original = model.read_bytes()
    done = fre("threshold", model, "-o", out, "--value", 1e9)
    assert done.returncode == 0, done.stderr
    assert "expected false-alarm rate 0.0323: 0 of 30 good images" in done.stdout
    assert model.read_bytes() == original
    info = fre("info", out).stdout
    assert "expected false-alarm rate 0.0323, threshold 1e+09 (by hand)" in info
    values = json.loads(fre("info", out, "--json", "-").stdout)
    assert values["calibration"]["false_alarm_rate"] is None
    report = tmp_path / "hand.html"
    done = fre("evaluate", out, dataset, "--report", report)
    assert done.returncode == 0, done.stderr
    assert '<p class="caution">The threshold was set by hand' in report.read_text()
    # with the evaluated decision it is as bad as it must be: no alarm at all
    assert "false-alarm rate observed   0.000   0.000 to" in done.stdout


def test_a_threshold_keeps_the_link_and_the_mode_of_the_model(model: Path, tmp_path: Path) -> None:
    private, link = tmp_path / "private.onnx", tmp_path / "link.onnx"
    shutil.copy(model, private)
    private.chmod(0o600)
    link.symlink_to(private)
    done = fre("threshold", link, "--value", 5)
    assert done.returncode == 0, done.stderr
    assert link.is_symlink()
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.read_bytes() != model.read_bytes()


def test_a_threshold_from_known_defects(model: Path, dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "known.onnx"
    for options, figure in ((["--max-f1"], "F1 1.000"), (["--recall", 0.5], "recall 0.500")):
        done = fre("threshold", model, "-o", out, "--from-dataset", dataset, *options)
        assert done.returncode == 0, done.stderr
        assert f"8 good, 8 defective; {figure}, 0 false alarms" in done.stdout
        assert "known defects" in fre("info", out).stdout
    lines = fre("predict", out, dataset / "test" / "scratch").stdout.splitlines()
    assert sum(json.loads(line)["anomalous"] for line in lines) == 4


def test_threshold_refuses_what_makes_no_sense(model: Path, dataset: Path, tmp_path: Path) -> None:
    original = model.read_bytes()
    assert "give one of" in refused("threshold", model)
    assert "give one of" in refused("threshold", model, "--value", 1, "--false-alarm-rate", 0.1)
    assert "goes with one of" in refused("threshold", model, "--from-dataset", dataset)
    assert "goes with one of" in refused("threshold", model, "--value", 1, "--max-f1")
    assert "goes with one of" in refused(
        "threshold", model, "--from-dataset", dataset, "--max-f1", "--recall", 1
    )
    assert "false-alarm rate" in refused("threshold", model, "--false-alarm-rate", 1.5)
    assert "finite" in refused("threshold", model, "--value", "nan")
    assert "recall" in refused("threshold", model, "--from-dataset", dataset, "--recall", 2)
    assert "no test images" in refused(
        "threshold", model, "--from-dataset", dataset / "train" / "good", "--max-f1"
    )
    assert "can't be written" in refused(
        "threshold", model, "-o", tmp_path / "absent" / "m.onnx", "--value", 1
    )
    assert "absent.onnx" in refused("threshold", tmp_path / "absent.onnx", "--value", 1)
    assert model.read_bytes() == original


def test_train_names_near_duplicates_unless_they_are_grouped(tmp_path: Path) -> None:
    folder = tmp_path / "good"
    folder.mkdir()
    for part in range(6):
        for shot in ("a", "b"):
            Image.fromarray(texture(part)).save(folder / f"{part}{shot}.png")
    command = ("train", folder, "-o", tmp_path / "m.onnx", "--size", 96, "--false-alarm-rate", 0.1)
    done = fre(*command)
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("fre: 12 of 12 images have a near-duplicate")
    done = fre(*command, "--group-by", r"^(\d+)")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "all 12 images are of one group, 'good'" in refused(*command, "--group-by", "folder")
    assert "no regular expression" in refused(*command, "--group-by", "(")
