"""The docs say what the program does."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from fre.cli import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_cli_reference_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("make_cli", ROOT / "docs" / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.FILE.read_text() == module.reference(), "run: python docs/make_cli.py"


def test_the_readme_names_every_command() -> None:
    for name in cli.commands:
        assert f"fre {name}" in README


def test_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.S))
def test_the_python_examples_run(
    block: str, good_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run in a folder that holds what the examples name."""
    import shutil

    files = sorted(good_folder.iterdir())
    for folder in ("parts/good", "parts/scratch", "incoming"):
        (tmp_path / folder).mkdir(parents=True)
    for index, file in enumerate(files):
        shutil.copy(file, tmp_path / "parts" / "good")
        shutil.copy(file, tmp_path / "incoming" / f"{index + 1:04d}.png")
        shutil.copy(file, tmp_path / "parts" / "scratch" / f"bad{index}.png")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "part.onnx").exists()
