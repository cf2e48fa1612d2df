"""The real command line, in processes of its own: results, errors, exit codes, interruption."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from commands import FRE, fre, refused
from conftest import huge_png, texture


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
    assert len(lines) <= 26
    options = [line for line in lines if line.startswith("  -")]
    assert len(options) == 19
    everything = fre("train", "--help-all").stdout
    assert all(line in everything for line in options[:-1])
    for title in ("Input:", "Method:", "Odd images:", "Memory and machines:", "Output:"):
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


@pytest.mark.slow
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
    huge = huge_png(tmp_path / "huge.png", 60_000, 60_000)
    done = fre("predict", model, huge)
    assert done.returncode == 2
    assert "--max-pixels" in json.loads(done.stdout)["error"]
    small = tmp_path / "small.png"
    for seed, path in enumerate([small, tmp_path / "a.png", tmp_path / "b.png"]):
        Image.fromarray(texture(seed)).save(path)
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
