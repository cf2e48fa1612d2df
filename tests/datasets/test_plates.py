from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fre.datasets.plate_dataset import PlateSet, write_dataset
from fre.datasets.plates import KINDS, draw_plate
from fre.errors import OptionError, OutputError
from fre.types import MaskArray


def files(root: Path) -> dict[str, bytes]:
    return {
        file.relative_to(root).as_posix(): file.read_bytes()
        for file in sorted(root.rglob("*"))
        if file.is_file()
    }


def dilate(mask: MaskArray, reach: int) -> MaskArray:
    grown = Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * reach + 1))
    return np.asarray(grown) > 0


def test_layout_and_counts(tmp_path: Path) -> None:
    root = tmp_path / "new" / "plates"
    write_dataset(root, PlateSet(n_train=3, n_good=2, n_defect=6, size=64))
    expected = {f"train/good/{i:03d}.png" for i in range(3)}
    expected |= {f"test/good/{i:03d}.png" for i in range(2)}
    for kind, count in zip(KINDS, (1, 2, 1, 2), strict=True):
        expected |= {f"test/{kind}/{i:03d}.png" for i in range(count)}
        expected |= {f"ground_truth/{kind}/{i:03d}_mask.png" for i in range(count)}
    assert set(files(root)) == expected
    assert [path.name for path in root.parent.iterdir()] == ["plates"]


def test_images_are_rgb_and_masks_are_two_valued(tmp_path: Path) -> None:
    write_dataset(tmp_path / "plates", PlateSet(n_train=1, n_good=1, n_defect=4, size=64))
    for name in files(tmp_path / "plates"):
        with Image.open(tmp_path / "plates" / name) as image:
            assert image.size == (64, 64)
            is_mask = name.startswith("ground_truth")
            assert image.mode == ("L" if is_mask else "RGB")
            if is_mask:
                assert set(np.unique(np.asarray(image))) == {0, 255}


def test_same_seed_gives_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        write_dataset(
            tmp_path / name, PlateSet(n_train=1, n_good=1, n_defect=4, size=64, seed=seed)
        )
    first, same, other = (files(tmp_path / name) for name in "abc")
    assert first == same
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if "ground_truth" not in name)


def test_no_two_images_of_a_set_are_alike(tmp_path: Path) -> None:
    write_dataset(tmp_path / "plates", PlateSet(n_train=3, n_good=3, n_defect=0, size=64))
    images = files(tmp_path / "plates")
    assert len(set(images.values())) == len(images) == 6


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("severity", [0.0, 0.5, 1.0])
def test_mask_covers_what_differs_from_the_sound_twin(kind: str, severity: float) -> None:
    for seed in range(4):
        image, mask = draw_plate(seed, kind=kind, severity=severity, size=128)
        twin, empty = draw_plate(seed, size=128)
        difference = np.abs(image.astype(int) - twin).max(axis=2)
        assert not empty.any()
        assert 0 < mask.mean() < 0.1
        assert not difference[~dilate(mask, 3)].any()
        assert (difference[mask] > 0).mean() > 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_severe_defects_stand_out_more(kind: str) -> None:
    def change(severity: float) -> float:
        total = 0
        for seed in range(4):
            image, _ = draw_plate(seed, kind=kind, severity=severity, size=128)
            total += np.abs(image.astype(int) - draw_plate(seed, size=128)[0]).sum()
        return total

    assert change(1.0) > change(0.0)


def test_good_plates_differ_as_parts_on_a_line_do() -> None:
    plates = np.stack([draw_plate(seed, size=64)[0] for seed in range(6)]).astype(float)
    brightness = plates.mean(axis=(1, 2, 3))
    assert brightness.std() > 1
    assert brightness.max() - brightness.min() < 60


def test_image_is_well_exposed() -> None:
    image, mask = draw_plate(0, size=128)
    assert image.shape == (128, 128, 3)
    assert image.dtype == np.uint8
    assert mask.shape == (128, 128)
    assert mask.dtype == np.bool_
    assert (image == 255).mean() < 0.01
    assert np.percentile(image, 95) - np.percentile(image, 5) > 100


@pytest.mark.parametrize("size", [64, 65, 99])
def test_any_size_from_the_least_on(size: int) -> None:
    image, mask = draw_plate(1, kind="stain", size=size)
    assert image.shape == (size, size, 3)
    assert mask.any()


def test_progress_counts_every_image(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    write_dataset(
        tmp_path / "plates",
        PlateSet(n_train=1, n_good=1, n_defect=2, size=64),
        lambda what, done, total: calls.append((done, total)),
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_fills_an_empty_folder(tmp_path: Path) -> None:
    write_dataset(tmp_path, PlateSet(n_train=1, n_good=0, n_defect=0, size=64))
    assert list(files(tmp_path)) == ["train/good/000.png"]


def test_refuses_a_folder_with_something_in_it(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("keep me")
    with pytest.raises(OutputError, match="is not empty; give a new folder") as caught:
        write_dataset(tmp_path, PlateSet(n_train=1, n_good=0, n_defect=0, size=64))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == {"notes.txt": b"keep me"}


def test_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "plates").write_text("a file")
    for root in (tmp_path / "plates", tmp_path / "plates" / "below"):
        with pytest.raises(OutputError):
            write_dataset(root, PlateSet(n_train=1, n_good=0, n_defect=0, size=64))
    assert files(tmp_path) == {"plates": b"a file"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("exists", [False, True])
def test_leaves_nothing_half_written(
    tmp_path: Path, error: type[BaseException], exists: bool
) -> None:
    root = tmp_path / "plates"
    if exists:
        root.mkdir()

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 2:
            raise error

    with pytest.raises(error):
        write_dataset(root, PlateSet(n_train=3, n_good=0, n_defect=0, size=64), interrupt)
    assert list(tmp_path.rglob("*")) == ([root] if exists else [])


@pytest.mark.parametrize(
    "wrong", [{"n_train": 0}, {"n_good": -1}, {"n_defect": -1}, {"size": 63}, {"seed": -1}]
)
def test_refuses_numbers_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        PlateSet(**wrong)


def test_draw_plate_refuses_what_it_does_not_know() -> None:
    with pytest.raises(OptionError, match="kind"):
        draw_plate(0, kind="rust")
    with pytest.raises(OptionError, match="severity"):
        draw_plate(0, kind="stain", severity=1.5)
    with pytest.raises(OptionError, match="size"):
        draw_plate(0, size=32)
    with pytest.raises(OptionError, match="seed"):
        draw_plate(-1)
