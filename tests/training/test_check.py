"""Checks of good images before a training, with images whose faults are known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from commands import fre, refused
from fre.datasets.plates import draw_plate
from fre.errors import DatasetError, OptionError
from fre.training.check import check_images, recommended_input, separate_groups
from fre.training.findings import DataCheck

SHARED = Path(__file__).parents[3] / "shared" / "data"


def plate(seed: int) -> Image.Image:
    return Image.fromarray(draw_plate(seed, size=192)[0])


def checked(files: Sequence[Path], **options: float) -> DataCheck:
    return check_images(files, [file.name for file in files], **options)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "good"
    folder.mkdir()
    for seed in range(30):
        plate(seed).save(folder / f"{seed:02}.png")
    return folder


@pytest.fixture
def faulty(good: Path, tmp_path: Path) -> Path:
    """Good plates, and a photo of each fault."""
    folder = Path(shutil.copytree(good, tmp_path / "parts" / "good"))
    plate(100).filter(ImageFilter.GaussianBlur(4)).save(folder / "blurred.png")
    bright = np.clip(np.asarray(plate(101)) * 1.7, 0, 255).astype(np.uint8)
    Image.fromarray(bright).save(folder / "bright.png")
    Image.open(folder / "03.png").save(folder / "again.jpg", quality=80)
    noise = np.random.default_rng(0).integers(0, 256, (192, 192, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    (folder / "cut.png").write_bytes((folder / "05.png").read_bytes()[:-500])
    return folder


def test_good_plates_have_no_findings(good: Path) -> None:
    found = checked(sorted(good.iterdir()))
    assert found.n_images == found.n_quick == 30
    assert found.sizes == ((192, 192, 30),)
    assert found.aspects == (1, 1, 1)
    assert (found.closest, found.odd, found.outliers, found.groups) == ((), (), (), ())
    assert found.attainable_rate == 1 / 31
    assert found.images_needed == 99
    assert "30 good images can guarantee 3.2 % at best; 1 % takes 99 or more" in found.lines()[-1]
    assert found.next_command("my parts") == (
        "fre train 'my parts' -o model.onnx --false-alarm-rate 0.05"
    )


def test_each_fault_is_named(faulty: Path) -> None:
    found = checked(sorted(faulty.iterdir()))
    assert found.n_images == 34
    assert [name for name, _ in found.unreadable] == ["cut.png"]
    reasons = {one.name: one.reason for one in found.outliers}
    assert set(reasons) == {"blurred.png", "bright.png", "noise.png"}
    assert reasons["blurred.png"].startswith("blurred")
    assert "bright" in reasons["bright.png"]
    assert "noisy" in reasons["noise.png"]
    (pair,) = found.closest
    assert {pair.first, pair.second} == {"03.png", "again.jpg"}
    assert found.n_near_duplicates == 2
    # At most 5 % of the images are odd, and one of ten to 39.
    assert len(found.odd) == 1
    assert found.odd[0].name in reasons
    assert "--skip-unreadable" in found.next_command("parts")
    json.dumps(found.to_dict())


def test_a_rate_that_is_attainable_is_kept(good: Path) -> None:
    found = checked(sorted(good.iterdir())[:12], false_alarm_rate=0.1)
    assert found.lines()[-1] == "false alarms: 12 good images can guarantee 7.7 %"
    assert found.next_command("parts").endswith("--false-alarm-rate 0.1")
    with pytest.raises(OptionError, match="above 0 and below 1"):
        checked(sorted(good.iterdir()), false_alarm_rate=0)


def test_few_images_are_not_searched_for_outliers(good: Path, tmp_path: Path) -> None:
    found = checked(sorted(good.iterdir())[:5])
    assert found.n_quick == 0
    assert any("fewer than 10" in line for line in found.lines())
    bad = tmp_path / "a.png"
    bad.write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"2 of 3 can be read \(a\.png: "):
        checked([*sorted(good.iterdir())[:2], bad])


def test_equal_images_neither_fail_nor_stand_out(good: Path, tmp_path: Path) -> None:
    source = next(iter(good.iterdir()))
    files = [Path(shutil.copy(source, tmp_path / f"{number}.png")) for number in range(12)]
    found = checked(files)
    assert found.equal is not None
    assert found.n_near_duplicates == 12
    assert len(found.closest) == 3
    assert (found.odd, found.outliers, found.groups) == ((), (), ())


def test_groups_are_found_only_if_they_are_separate() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(100, 20)).astype(np.float32)
    assert separate_groups(one) == []
    two = np.vstack([one, one[:20] + 10])
    large, small = separate_groups(two)
    assert sorted(large) == list(range(100))
    assert sorted(small) == list(range(100, 120))
    assert separate_groups(np.vstack([one, one[:4] + 10])) == []  # these are odd, not a product
    assert separate_groups(np.ones((20, 5), np.float32)) == []


def test_tiles_are_advised_for_large_images_only() -> None:
    small = recommended_input([(300, 300)] * 3 + [(9000, 9000)])
    assert (small.size, small.visible) == ((288, 288), 12.5)
    large = recommended_input([(4096, 2048)])
    assert large.size == (448, 224)
    assert large.text.startswith("2048 x 4096 px images -> 224 x 448 input (width x height)")


def test_the_command_checks_the_training_split(faulty: Path, tmp_path: Path) -> None:
    file = tmp_path / "check.json"
    done = fre("check", faulty.parent, "--json", file)
    assert done.returncode == 0, done
    values = json.loads(file.read_text())
    assert {one["name"] for one in values["outliers"]} == {
        "good/blurred.png",
        "good/bright.png",
        "good/noise.png",
    }
    assert values["unreadable"][0]["name"] == "good/cut.png"
    assert values["next"].startswith(f"fre train {faulty.parent} -o model.onnx")
    # The next command works as it is printed, apart from where it writes.
    words = values["next"].split()[1:]
    words[words.index("model.onnx")] = str(tmp_path / "model.onnx")
    assert fre(*words).returncode == 0
    assert "no such folder" in refused("check", tmp_path / "nothing")


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs real images in ../shared/data")
def test_real_images() -> None:
    """Screws are one product, and screws among tiles are another one."""
    screws = sorted((SHARED / "screw" / "train" / "good").iterdir())[:120]
    tiles = sorted((SHARED / "magnetic_tile" / "train" / "good").iterdir())[:60]
    alone = checked(screws)
    assert alone.groups == ()
    assert len(alone.odd) + len(alone.outliers) <= 2
    mixed = checked([*screws, *tiles])
    assert [group.n for group in mixed.groups] == [120, 60]
    few = checked([*screws, *tiles[:5]])
    assert few.groups == ()
    assert {one.name for one in (*few.odd, *few.outliers)} >= {tile.name for tile in tiles[:5]}
