"""The docs say what the program does."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

import fre
from conftest import texture
from fitted_models import defective
from fre import FRE
from fre.cli import cli
from house import LEVELS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def shell_lines() -> list[str]:
    """The command lines in blocks of the pages, each once."""
    lines: dict[str, None] = {}
    for page in PAGES:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.M | re.S)
        for block in (block for language, block in blocks if language in ("", "sh")):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                lines.update(dict.fromkeys(shlex.join(words).split(" '&&' ")))
    return [line for line in lines if line]


def inline_commands() -> list[str]:
    """The command lines within sentences of the pages."""
    lines: dict[str, None] = {}
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
        for code in re.findall(r"`([^`]+)`", prose):
            lines.update(dict.fromkeys(" ".join(code.split()).split(" && ")))
    return list(lines)


FRE_LINES = [line for line in shell_lines() if line.startswith("fre ")]
SCRIPT_LINES = [
    line
    for line in [*shell_lines(), *inline_commands()]
    if re.match(r"(python )?benchmarks/", line)
]
MENTIONS = [line for line in inline_commands() if re.match(r"fre [a-z]", line)]


def maker(name: str) -> ModuleType:
    """The module in docs that writes a reference page."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cli_reference_is_up_to_date() -> None:
    module = maker("make_cli")
    assert module.FILE.read_text() == module.reference(), "run: python docs/make_cli.py"


def test_the_rest_reference_is_up_to_date() -> None:
    pytest.importorskip("fastapi", reason="needs fre-vision[serve]")
    module = maker("make_rest")
    assert module.FILE.read_text() == module.reference(), "run: python docs/make_rest.py"


def test_the_readme_is_short_and_installs_first() -> None:
    """`.ci/run` runs the first two lines of the README that begin with pip install."""
    lines = README.splitlines()
    assert len(lines) <= 130
    assert [line for line in lines if line.startswith("pip install")] == [
        "pip install . && fre demo",
        "pip install '.[test]' && pytest",
    ]


def test_the_site_has_every_page_once() -> None:
    named = re.findall(r"^ +- [^:]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(named) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_python_reference_has_every_public_name() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    for name in set(fre.__all__) - {"__version__"}:
        public = getattr(fre, name)
        assert re.search(rf"^::: {public.__module__}(\.{name})?$", page, re.M), name


def test_the_readme_names_every_command() -> None:
    for name in cli.commands:
        assert f"fre {name}" in README


def test_extras_are_those_of_the_distribution() -> None:
    """`pip install fre` installs another project; ours is called fre-vision."""
    wrong = re.compile(r"\bfre\\?\[|pip install fre(?!-)")
    for folder in ("src", "tests", "docs", "benchmarks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".j2") and path != Path(__file__).resolve():
                assert not wrong.search(path.read_text()), path
    for path in (ROOT / "README.md", ROOT / "pyproject.toml", ROOT / ".ci" / "run"):
        assert not wrong.search(path.read_text()), path


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"(?:\]\(|src=\")(?!http)([^)#\"]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_architecture_page_names_what_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page[page.index("## Where do I change X?") :]
    assert len(re.findall(r"^\| (?!X |---)", table, re.M)) == 17
    named = set(re.findall(r"`([\w/.-]+(?:\.(?:py|md|j2)|/))`", page))
    assert len(named) > 40
    for path in named:
        assert (ROOT / "src" / "fre" / path).exists() or (ROOT / path).exists(), path
    for room in (
        path for path in (ROOT / "src" / "fre").iterdir() if (path / "__init__.py").exists()
    ):
        assert f"`{room.name}/`" in page, room.name


def test_the_architecture_page_has_the_levels_of_the_import_test() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    lines = re.findall(r"^\d+\. (.*)$", page, re.M)
    assert [re.findall(r"`(\w+)`", line) for line in lines] == LEVELS


@pytest.mark.parametrize("line", FRE_LINES)
def test_the_command_lines_parse(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    cli.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("line", MENTIONS)
def test_commands_in_sentences_name_options_that_there_are(line: str) -> None:
    _, name, *words = line.split()
    options = {option for p in cli.commands[name].params for option in (*p.opts, *p.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= options


@pytest.mark.parametrize("line", SCRIPT_LINES)
def test_benchmarks_have_the_options_that_pages_give_them(line: str) -> None:
    """By their sources, since some need packages that are not installed."""
    script, *words = line.removeprefix("python ").split()
    source = (ROOT / script).read_text()
    for word in words:
        if word.startswith("--"):
            assert f'"{word}"' in source


def test_the_pages_have_command_lines() -> None:
    assert len(FRE_LINES) > 35
    assert len(SCRIPT_LINES) > 15
    assert len(MENTIONS) > 15


@pytest.fixture
def examples(good_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the images that the examples name."""
    files = sorted(good_folder.iterdir())
    for folder in ("parts/good", "parts/scratch", "incoming"):
        (tmp_path / folder).mkdir(parents=True)
    for index, file in enumerate(files):
        shutil.copy(file, tmp_path / "parts" / "good")
        bad = Image.fromarray(defective(texture(200 + index)))
        bad.save(tmp_path / "parts" / "scratch" / f"bad{index}.png")
    # None of the same images, which would not be learnt twice.
    for index in range(1, len(files)):
        name = tmp_path / "incoming" / f"{index:04d}.png"
        Image.fromarray(texture(100 + index)).save(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", README, re.S))
def test_the_python_examples_run(block: str, examples: Path) -> None:
    exec(compile(block, "README.md", "exec"), {})
    assert (examples / "part.onnx").exists()


@pytest.mark.slow
def test_the_notebook_page_runs(examples: Path) -> None:
    for package in ("IPython", "pandas"):
        pytest.importorskip(package, reason="needs fre-vision[test]")
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "notebook.md").read_text(), re.S)
    exec(compile(block, "notebook.md", "exec"), {})
    for name in ("part.onnx", "overlay.png", "report.html"):
        assert (examples / name).exists()


RECIPES = (ROOT / "docs" / "recipes.md").read_text().split("\n## ")[2:]
CHECKS = {
    "A table of scores": "assert set(frame['kind']) == {'good', 'scratch'}",
    "Choosing parameters": "assert search.best_score_ > 0.9; assert Path('best.onnx').exists()",
    "Camera frames": "assert prediction.score == model.predict('incoming/0011.png').score",
    "Boxes and masks": "assert len(detections) == len(prediction.regions); assert Path('boxes.png')"
    ".exists()",
    "A page to try a model": "from PIL import Image; image = Image.open('parts/scratch/bad1.png'); "
    "picture, text = page.fn(image); assert picture.size == image.size; assert 'anomalous' in text",
}
"""What holds after each recipe that is run."""


def test_every_recipe_is_run_or_said_to_be_untested() -> None:
    for recipe in RECIPES:
        assert recipe.partition(":")[0] in CHECKS or "\nNot tested: " in recipe
        [block] = re.findall(r"```python\n(.*?)```", recipe, re.S)
        compile(block, "recipes.md", "exec")


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKS)
def test_the_recipes_run(name: str, examples: Path) -> None:
    [recipe] = [recipe for recipe in RECIPES if recipe.startswith(f"{name}: ")]
    [block] = re.findall(r"```python\n(.*?)```", recipe, re.S)
    for package in re.findall(r"^(?:import|from) (\w+)", block, re.M):
        if importlib.util.find_spec(package) is None:
            of_test = package in ("pandas", "sklearn")
            pytest.skip("needs fre-vision[test]" if of_test else f"needs the package {package}")
    FRE(size=96).fit(examples / "parts" / "good").save(examples / "part.onnx")
    # In a process of its own: what these packages warn of is not ours.
    done = subprocess.run(
        [sys.executable, "-c", f"__name__ = 'recipe'\n{block}\n{CHECKS[name]}"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"},
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel", "pandas"):
        pytest.importorskip(package, reason="needs fre-vision[test]")
    file = tmp_path / "quickstart.ipynb"
    shutil.copy(ROOT / "examples" / file.name, file)
    code = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
resources = {"metadata": {"path": sys.argv[2]}}
NotebookClient(notebook, timeout=600, resources=resources).execute()
nbformat.write(notebook, sys.argv[1])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    texts = ["".join(cell["outputs"][0]["data"]["text/plain"]) for cell in cells[1:]]
    assert texts[0].startswith("Model(")
    assert ", anomalous, " in texts[1]
    assert texts[-1] == "True"
    page = (tmp_path / "quickstart-report.html").read_text()
    assert "Inspection report for quickstart-plates" in page
