"""Every layout, as a miniature with the published file names; and what is odd or missing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fre.datasets import (
    LAYOUTS,
    categories,
    check_masks,
    count_kinds,
    describe,
    listed_images,
    load_mask,
    open_dataset,
    open_datasets,
    require_test,
    require_train,
    training_images,
)
from fre.datasets._contents import TEST_SHARE, split_good
from fre.datasets._layouts import locate
from fre.datasets._names import Meaning, are_neutral, meaning
from fre.datasets.samples import Dataset, Sample
from fre.errors import DatasetError, ImageError, OptionError
from fre.storage.listing import find_images

SIZE = (6, 8)
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def touch(root: Path, *names: str) -> Path:
    """Empty files: enough wherever no image is to be opened."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write_mask(path: Path, *, value: int = 255, size: tuple[int, int] = SIZE, at: int = 0) -> Path:
    """A grey image, black but for one pixel of the first row."""
    pixels = np.zeros(size, np.uint8)
    pixels[0, at] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def names(samples: tuple[Sample, ...], root: Path) -> list[str]:
    return [sample.path.relative_to(root).as_posix() for sample in samples]


def masks(samples: tuple[Sample, ...], root: Path) -> dict[str, list[str]]:
    """The masks of every sample that has any."""
    return {
        sample.path.relative_to(root).as_posix(): [
            mask.relative_to(root).as_posix() for mask in sample.masks
        ]
        for sample in samples
        if sample.masks
    }


def kinds(dataset: Dataset) -> set[str]:
    return {sample.kind for sample in dataset.test}


# --- MVTec AD and its relatives -------------------------------------------------------------


def mvtec_category(root: Path) -> Path:
    return touch(
        root,
        "train/good/000.png",
        "train/good/001.png",
        "test/good/000.png",
        "test/scratch_head/000.png",
        "test/scratch_head/001.png",
        "ground_truth/scratch_head/000_mask.png",
        "ground_truth/scratch_head/001_mask.png",
        "license.txt",
    )


def test_mvtec_category(tmp_path):
    root = mvtec_category(tmp_path / "screw")
    dataset = open_dataset(root)
    assert (dataset.name, dataset.root, dataset.layout) == ("screw", root, "mvtec")
    assert names(dataset.train, root) == ["train/good/000.png", "train/good/001.png"]
    assert [sample.kind for sample in dataset.test] == ["good", "scratch_head", "scratch_head"]
    assert masks(dataset.test, root) == {
        "test/scratch_head/000.png": ["ground_truth/scratch_head/000_mask.png"],
        "test/scratch_head/001.png": ["ground_truth/scratch_head/001_mask.png"],
    }
    assert dataset.notes == ()


def test_mvtec_root_of_categories(tmp_path):
    mvtec_category(tmp_path / "bottle")
    mvtec_category(tmp_path / "screw")
    touch(tmp_path, "readme.txt", "papers/figure.png")
    assert categories(tmp_path) == ["bottle", "screw"]
    assert [dataset.name for dataset in open_datasets(tmp_path)] == ["bottle", "screw"]
    assert open_dataset(tmp_path, category="screw").root == tmp_path / "screw"
    with pytest.raises(DatasetError, match=r"2 categories: choose one.*bottle, screw"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match=r"no category 'cable'; there are bottle, screw"):
        open_dataset(tmp_path, category="cable")


def test_a_category_is_the_only_category_of_itself(tmp_path):
    root = mvtec_category(tmp_path / "screw")
    assert categories(root) == ["screw"]
    assert open_dataset(root, category="screw") == open_dataset(root)
    assert open_datasets(root) == [open_dataset(root)]


def test_working_directory_as_root(tmp_path, monkeypatch):
    monkeypatch.chdir(mvtec_category(tmp_path / "screw"))
    dataset = open_dataset(".")
    assert (dataset.name, dataset.notes) == ("screw", ())
    assert dataset.test[1].masks == (Path("ground_truth/scratch_head/000_mask.png"),)
    monkeypatch.chdir("train")
    assert (open_dataset("..").name, open_dataset("..").notes) == ("screw", ())


def test_mvtec_masks_named_as_the_images(tmp_path):
    # So are VisA's and BTAD's in the copies that follow MVTec AD.
    root = touch(tmp_path, "train/good/0.png", "test/bad/1.JPG", "ground_truth/bad/1.png")
    assert masks(open_dataset(root).test, root) == {"test/bad/1.JPG": ["ground_truth/bad/1.png"]}


def test_mpdd_is_mvtec_by_another_name(tmp_path):
    root = mvtec_category(tmp_path / "bracket_black")
    assert locate(root, None)[0].name == "mvtec"
    dataset = open_dataset(root, layout="mpdd")
    assert dataset.layout == "mpdd"
    assert (dataset.train, dataset.test) == (open_dataset(root).train, open_dataset(root).test)


def test_btad(tmp_path):
    root = touch(
        tmp_path / "BTech_Dataset_transformed",
        "01/train/ok/0000.bmp",
        "01/test/ok/0000.bmp",
        "01/test/ko/0001.bmp",
        "01/ground_truth/ko/0001.png",
        "03/train/ok/0000.bmp",
        "03/test/ko/0001.bmp",
        "03/ground_truth/ko/0001.bmp",
    )
    assert locate(root, None)[0].name == "btad"
    assert categories(root) == ["01", "03"]
    dataset = open_dataset(root, category="01")
    assert names(dataset.train, root / "01") == ["train/ok/0000.bmp"]
    assert all(sample.good for sample in dataset.train)
    assert kinds(dataset) == {"good", "ko"}
    assert masks(dataset.test, root / "01") == {"test/ko/0001.bmp": ["ground_truth/ko/0001.png"]}
    third = open_dataset(root / "03")
    assert masks(third.test, root / "03") == {"test/ko/0001.bmp": ["ground_truth/ko/0001.bmp"]}


def test_mvtec_loco(tmp_path):
    root = touch(
        tmp_path / "pushpins",
        "train/good/000.png",
        "validation/good/000.png",
        "test/good/000.png",
        "test/logical_anomalies/000.png",
        "test/structural_anomalies/000.png",
        "ground_truth/logical_anomalies/000/000.png",
        "ground_truth/logical_anomalies/000/001.png",
        "ground_truth/structural_anomalies/000/000.png",
    )
    dataset = open_dataset(root)
    assert dataset.layout == "mvtec_loco"
    assert names(dataset.train, root) == ["train/good/000.png"]
    assert masks(dataset.test, root) == {
        "test/logical_anomalies/000.png": [
            "ground_truth/logical_anomalies/000/000.png",
            "ground_truth/logical_anomalies/000/001.png",
        ],
        "test/structural_anomalies/000.png": ["ground_truth/structural_anomalies/000/000.png"],
    }
    assert dataset.notes == ("validation: 1 image neither trained nor tested on",)


def test_mvtec_ad2(tmp_path):
    root = touch(
        tmp_path / "can",
        "train/good/000_regular.png",
        "validation/good/000_regular.png",
        "test_public/good/000_regular.png",
        "test_public/bad/000_overexposed.png",
        "test_public/ground_truth/bad/000_overexposed_mask.png",
        "test_private/000_regular.png",
        "test_private/001_regular.png",
        "test_private_mixed/000_mixed.png",
    )
    dataset = open_dataset(root)
    assert dataset.layout == "mvtec_ad2"
    assert names(dataset.train, root) == ["train/good/000_regular.png"]
    assert [sample.kind for sample in dataset.test] == ["bad", "good"]
    assert masks(dataset.test, root) == {
        "test_public/bad/000_overexposed.png": [
            "test_public/ground_truth/bad/000_overexposed_mask.png"
        ]
    }
    assert dataset.notes == (
        "validation: 1 image neither trained nor tested on",
        "test_private: 2 images not tested on: no labels are published",
        "test_private_mixed: 1 image not tested on: no labels are published",
    )


def test_mvtec_oddities_are_noted(tmp_path):
    root = touch(
        tmp_path,
        "train/loose.png",
        "train/good/0.png",
        "train/dent/0.png",
        "test/loose.png",
        "test/good/0.png",
        "test/dent/0.png",
        "test/dent/1.png",
        "test/empty/readme.txt",
        "ground_truth/dent/0_mask.png",
        "ground_truth/dent/7_mask.png",
        "ground_truth/gone/0_mask.png",
        "ground_truth/good/0_mask.png",
        "test/dent/._0.png",
    )
    dataset = open_dataset(root)
    assert names(dataset.train, root) == ["train/loose.png", "train/good/0.png"]
    assert names(dataset.test, root) == ["test/dent/0.png", "test/dent/1.png", "test/good/0.png"]
    assert dataset.notes == (
        "1 image directly in train/, taken as good",
        "train/dent: 1 image not trained on; only good images are",
        "1 image directly in test/, left out: good or not? test/loose.png",
        "test/empty: no images in it",
        "1 of 2 defective images without a mask, left out of the pixel figures: test/dent/1.png",
        "2 masks without an image of the same name, left out: "
        "ground_truth/dent/7_mask.png and 1 more",
    )


def test_a_missing_split_is_an_error_only_when_asked_for(tmp_path):
    no_test = open_dataset(touch(tmp_path / "a", "train/good/0.png"))
    assert no_test.test == ()
    assert require_train(no_test) == no_test.train
    with pytest.raises(DatasetError, match=r"a: no test images \(layout 'mvtec'\); expected"):
        require_test(no_test)
    no_train = open_dataset(touch(tmp_path / "b", "test/good/0.png"))
    assert require_test(no_train) == no_train.test
    with pytest.raises(DatasetError, match="b: no training images"):
        require_train(no_train)
    with pytest.raises(DatasetError, match="no training images"):
        training_images(tmp_path / "b")


# --- The other datasets ---------------------------------------------------------------------


def visa(root: Path) -> Path:
    rows = [
        "object,split,label,image,mask",
        "candle,train,normal,candle/Data/Images/Normal/0000.JPG,",
        "candle,test,normal,candle/Data/Images/Normal/0001.JPG,",
        "candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png",
        "pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,",
        "pcb1,train,normal,pcb1/Data/Images/Normal/0001.JPG,",
    ]
    for row in rows[1:]:
        touch(root, *filter(None, row.split(",")[3:]))
    touch(root, "split_csv/1cls.csv")
    (root / "split_csv" / "1cls.csv").write_text("\n".join(rows) + "\n")
    return root


def test_visa(tmp_path):
    root = visa(tmp_path / "VisA_20220922")
    assert locate(root, None)[0].name == "visa"
    assert categories(root) == ["candle", "pcb1"]
    for dataset in (open_dataset(root, category="candle"), open_dataset(root / "candle")):
        assert (dataset.name, dataset.root) == ("candle", root / "candle")
        assert names(dataset.train, root) == ["candle/Data/Images/Normal/0000.JPG"]
        assert [sample.kind for sample in dataset.test] == ["good", "anomaly"]
        assert masks(dataset.test, root) == {
            "candle/Data/Images/Anomaly/000.JPG": ["candle/Data/Masks/Anomaly/000.png"]
        }
        assert dataset.notes == ()


def test_visa_with_images_missing(tmp_path):
    root = visa(tmp_path)
    (root / "pcb1/Data/Images/Normal/0001.JPG").unlink()
    assert open_dataset(root, category="pcb1").notes == (
        "1 image of split_csv/1cls.csv not there, left out: pcb1/Data/Images/Normal/0001.JPG",
    )
    (root / "pcb1/Data/Images/Normal/0000.JPG").unlink()
    with pytest.raises(DatasetError, match=r"pcb1: no images found.*2 images of split_csv"):
        open_dataset(root, category="pcb1")


def test_visa_without_its_split(tmp_path):
    root = visa(tmp_path)
    (root / "split_csv" / "1cls.csv").unlink()
    dataset = open_dataset(root, category="candle")
    assert (len(dataset.train), len(dataset.test)) == (1, 2)
    assert masks(dataset.test, root)
    assert dataset.notes[0].startswith("no split of its own: 1 of 2 good images")


def test_visa_with_another_header(tmp_path):
    root = visa(tmp_path)
    (root / "split_csv" / "1cls.csv").write_text("object,image\n")
    with pytest.raises(DatasetError, match=r"1cls\.csv: expected the columns .* no label, mask"):
        open_dataset(root, category="candle")


def kolektorsdd(root: Path) -> Path:
    for item in range(1, 11):
        for part in range(3):
            touch(root, f"kos{item:02}/Part{part}.jpg")
            bad = part == 2 and item % 2
            write_mask(root / f"kos{item:02}/Part{part}_label.bmp", value=2 if bad else 0)
    return root


def test_kolektorsdd(tmp_path):
    root = kolektorsdd(tmp_path / "KolektorSDD")
    dataset = open_dataset(root)
    assert dataset.layout == "kolektorsdd"
    assert kinds(dataset) == {"good", "defect"}
    good = [sample for sample in dataset.test if sample.good]
    assert len(dataset.train) + len(good) == 25
    # No item is on both sides.
    items = [{sample.path.parent.name for sample in side} for side in (dataset.train, good)]
    assert all(items)
    assert not items[0] & items[1]
    assert len(masks(dataset.test, root)) == 5
    assert masks(dataset.test, root)["kos01/Part2.jpg"] == ["kos01/Part2_label.bmp"]
    assert not masks(dataset.train, root)


def test_kolektorsdd_without_a_label_image(tmp_path):
    root = kolektorsdd(tmp_path)
    (root / "kos03/Part1_label.bmp").unlink()
    assert open_dataset(root).notes[0] == (
        "1 image without a label image (<name>_label), left out: kos03/Part1.jpg"
    )
    (root / "kos04/Part0_label.bmp").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"Part0_label\.bmp: not a readable image"):
        open_dataset(root)


def test_kolektorsdd2(tmp_path):
    root = tmp_path / "KolektorSDD2"
    for name, bad in (
        ("train/10000", False),
        ("train/10001", True),
        ("test/20000", False),
        ("test/20001", True),
    ):
        touch(root, f"{name}.png")
        write_mask(root / f"{name}_GT.png", value=255 if bad else 0)
    touch(root, "train/10001_GT (copy).png")
    dataset = open_dataset(root)
    assert dataset.layout == "kolektorsdd2"
    assert names(dataset.train, root) == ["train/10000.png"]
    assert [sample.kind for sample in dataset.test] == ["good", "defect"]
    assert masks(dataset.test, root) == {"test/20001.png": ["test/20001_GT.png"]}
    assert dataset.notes == ("train: 1 defective image not trained on",)


def test_magnetic_tile(tmp_path):
    root = tmp_path / "Magnetic-tile-defect-datasets."
    for number in range(50):
        touch(root, f"MT_Free/Imgs/exp1_num_{number}.jpg", f"MT_Free/Imgs/exp1_num_{number}.png")
    touch(root, "MT_Blowhole/Imgs/exp1_num_108719.jpg", "MT_Blowhole/Imgs/exp1_num_108719.png")
    touch(root, "MT_Fray/Imgs/exp1_num_1.jpg", "MT_Fray/Imgs/exp1_num_2.png")
    dataset = open_dataset(root)
    assert dataset.layout == "magnetic_tile"
    assert kinds(dataset) == {"good", "blowhole", "fray"}
    assert len(dataset.train) + len(dataset.test) == 52
    assert 30 < len(dataset.train) < 50
    assert masks(dataset.test, root) == {
        "MT_Blowhole/Imgs/exp1_num_108719.jpg": ["MT_Blowhole/Imgs/exp1_num_108719.png"]
    }
    assert "1 of 2 defective images without a mask" in dataset.notes[0]
    assert dataset.notes[1].startswith("1 mask without a .jpg of the same name")
    assert dataset.notes[2].startswith("no split of its own")


def real_iad(root: Path, json_folder: str = "realiad_jsons") -> Path:
    ok, bad = "OK/S0001/audiojack_0001_OK_C1", "NG/BX/S0007/audiojack_0007_NG_C1"
    touch(
        root / "realiad_1024" / "audiojack",
        f"{ok}_1.jpg",
        f"{ok}_2.jpg",
        f"{bad}_1.jpg",
        f"{bad}_1_mask.png",
        f"{bad}_2.jpg",
    )

    def row(image: str, kind: str, mask: str | None = None) -> dict[str, str | None]:
        return {
            "category": "audiojack",
            "anomaly_class": kind,
            "image_path": image,
            "mask_path": mask,
        }

    touch(root, f"{json_folder}/audiojack.json")
    (root / json_folder / "audiojack.json").write_text(
        json.dumps(
            {
                "meta": {"prefix": "audiojack/", "normal_class": "OK", "pre_transform": None},
                "train": [row(f"{ok}_1.jpg", "OK"), row(f"{bad}_2.jpg", "BX")],
                "test": [
                    row(f"{ok}_2.jpg", "OK"),
                    row(f"{bad}_1.jpg", "BX", f"{bad}_1_mask.png"),
                    row("OK/S0009/gone.jpg", "OK"),
                ],
            }
        )
    )
    return root


@pytest.mark.parametrize("json_folder", ["realiad_jsons", "realiad_jsons/realiad_jsons"])
def test_real_iad(tmp_path, json_folder):
    root = real_iad(tmp_path, json_folder)
    images = root / "realiad_1024" / "audiojack"
    assert locate(root, None)[0].name == "real_iad"
    assert categories(root) == ["audiojack"]
    for place in (root, root / json_folder / "audiojack.json"):
        dataset = open_dataset(place)
        assert dataset.name == "audiojack"
        assert names(dataset.train, images) == ["OK/S0001/audiojack_0001_OK_C1_1.jpg"]
        assert [sample.kind for sample in dataset.test] == ["good", "BX"]
        assert masks(dataset.test, images) == {
            "NG/BX/S0007/audiojack_0007_NG_C1_1.jpg": [
                "NG/BX/S0007/audiojack_0007_NG_C1_1_mask.png"
            ]
        }
        assert dataset.notes == (
            "train: 1 defective image not trained on",
            "1 image of audiojack.json not there, left out: audiojack/OK/S0009/gone.jpg",
        )


def test_real_iad_says_which_size_it_reads(tmp_path):
    root = real_iad(tmp_path)
    touch(root, "realiad_256/audiojack/OK/readme.txt")
    assert "several sizes of the images: realiad_1024 is read" in open_dataset(root).notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't be read as JSON"),
        ("[]", "expected a file of Real-IAD"),
        ('{"train": [{"image_path": "x"}]}', r"train\[0\]: expected image_path, anomaly_class"),
    ],
)
def test_real_iad_with_a_damaged_json(tmp_path, text, message):
    root = real_iad(tmp_path)
    (root / "realiad_jsons" / "audiojack.json").write_text(text)
    with pytest.raises(DatasetError, match=rf"audiojack\.json: {message}"):
        open_dataset(root)


def test_real_iad_without_images(tmp_path):
    touch(tmp_path, "realiad_jsons/mint.json")
    (tmp_path / "realiad_jsons" / "mint.json").write_text('{"train": [], "test": []}')
    with pytest.raises(DatasetError, match=r"expected its images in realiad_1024/mint/"):
        open_dataset(tmp_path)


# --- Plain folders --------------------------------------------------------------------------


def test_flat_folder_is_all_good(tmp_path):
    root = touch(tmp_path, "10.png", "9.JPEG", "b.TIF", "a.webp", "notes.txt", ".hidden.png")
    dataset = open_dataset(root)
    assert dataset.layout == "folder"
    assert names(dataset.train, root) == ["9.JPEG", "10.png", "a.webp", "b.TIF"]
    assert (dataset.test, dataset.notes) == ((), ())
    assert training_images(root) == [sample.path for sample in dataset.train]


def test_nested_folder_is_all_good_and_says_so(tmp_path):
    root = touch(tmp_path, "0.png", "monday/1.png", "tuesday/late/2.png")
    dataset = open_dataset(root)
    assert names(dataset.train, root) == ["0.png", "monday/1.png", "tuesday/late/2.png"]
    assert dataset.notes == ("no folder called good: all 3 images in 2 subfolders taken as good",)


def plain_folder(root: Path, good: str = "good") -> Path:
    touch(root, *(f"{good}/{number:03}.png" for number in range(100)))
    return touch(root, "scratch/000.png", "scratch/late/001.png", "dent/000.png")


@pytest.mark.parametrize("good", ["good", "OK", "Normal"])
def test_folder_with_defects_keeps_good_images_for_testing(tmp_path, good):
    root = plain_folder(tmp_path, good)
    dataset = open_dataset(root)
    assert kinds(dataset) == {"good", "scratch", "dent"}
    test_good = [sample for sample in dataset.test if sample.good]
    assert not set(dataset.train) & set(test_good)
    assert len(dataset.train) + len(test_good) == 100
    assert 10 <= len(test_good) <= 30
    assert "no split of its own" in dataset.notes[0]
    assert training_images(root) == [sample.path for sample in dataset.train]


def test_folder_of_good_images_alone_is_for_training(tmp_path):
    dataset = open_dataset(touch(tmp_path, "good/0.png", "good/1.png"))
    assert (len(dataset.train), dataset.test, dataset.notes) == (2, (), ())


@pytest.mark.parametrize("mask_root", ["ground_truth", "masks"])
def test_folder_masks(tmp_path, mask_root):
    root = plain_folder(tmp_path)
    touch(root, f"{mask_root}/scratch/000_mask.png", f"{mask_root}/scratch/late/001.png")
    dataset = open_dataset(root)
    assert masks(dataset.test, root) == {
        "scratch/000.png": [f"{mask_root}/scratch/000_mask.png"],
        "scratch/late/001.png": [f"{mask_root}/scratch/late/001.png"],
    }
    assert "1 of 3 defective images without a mask" in dataset.notes[0]


def test_folder_masks_without_kinds(tmp_path):
    root = plain_folder(tmp_path)
    touch(root, "masks/000.png", "masks/001.png", "masks/zzz.png")
    (root / "scratch" / "late" / "001.png").rename(root / "scratch" / "001.png")
    dataset = open_dataset(root)
    # 000 might be the scratch or the dent.
    assert masks(dataset.test, root) == {"scratch/001.png": ["masks/001.png"]}
    assert any("1 name shared by several kinds of defect" in note for note in dataset.notes)
    assert any("2 masks without an image of the same name" in note for note in dataset.notes)


def test_folder_masks_beside_the_images(tmp_path):
    root = touch(tmp_path, "good/0.png", "good/1.png", "dent/5.jpg", "dent/5_mask.png")
    dataset = open_dataset(root)
    assert masks(dataset.test, root) == {"dent/5.jpg": ["dent/5_mask.png"]}
    touch(root, "masks/dent/5.png", "gt/dent/5.png")
    assert masks(open_dataset(root).test, root) == {
        "dent/5.jpg": ["dent/5_mask.png", "gt/dent/5.png"]
    }
    assert "masks: not read, gt is" in open_dataset(root).notes


def test_images_of_a_flat_folder_are_judged_by_the_masks_beside_them(tmp_path):
    root = touch(tmp_path, "5.jpg", "6.jpg")
    write_mask(root / "5_mask.png", value=0)
    write_mask(root / "6_mask.png", value=255)
    dataset = open_dataset(root)
    assert names(dataset.train, root) == ["5.jpg"]
    assert masks(dataset.test, root) == {"6.jpg": ["6_mask.png"]}
    touch(root, "7.jpg")
    with pytest.raises(DatasetError, match=r"which images are good\? .*directly in the folder \(1"):
        open_dataset(root)


@pytest.mark.parametrize("extra", ["masks/dent/0.png", "bad/0.png"])
def test_folder_without_good_images_is_not_taken_as_good(tmp_path, extra):
    dataset = open_dataset(touch(tmp_path, "dent/0.png", extra))
    assert dataset.train == ()
    assert "good" not in kinds(dataset)


def test_folder_oddities_are_noted(tmp_path):
    root = touch(tmp_path, "loose.png", "good/0.png", "empty/readme.txt")
    assert open_dataset(root).notes == (
        "1 image directly in the folder, left out: good or not? loose.png",
        "empty: no images in it",
    )


def test_root_of_plain_folders(tmp_path):
    plain_folder(tmp_path / "line1")
    plain_folder(tmp_path / "line2")
    assert locate(tmp_path, None)[0].name == "folder"
    assert categories(tmp_path) == ["line1", "line2"]
    with pytest.raises(DatasetError, match=r"2 categories.*line1, line2"):
        training_images(tmp_path)


# --- Names of folders -----------------------------------------------------------------------

NAMES = {
    Meaning.GOOD: (
        "good OK Normal good_parts GoodParts goodparts pass PASSED non_defective no_defect "
        "defect_free kein_fehler fehlerfrei nondefective undamaged i.O. iO o.k. Gutteile "
        "zero-defects free_of_defects without_defects train_good normal_dir not_bad scratch_free "
        "良品 正常 无缺陷"
    ),
    Meaning.DEFECT: (
        "bad BAD_PARTS fail failed ng NG_2024 nok defects Defective abnormal abnormal_dir anomaly "
        "anomalies reject scrap faulty not_good ungood no_good notok n_ok n.i.O. NiO_teile "
        "nicht_ok Fehlerbilder défauts badparts test_bad DefectTypeA nonconforming scratches "
        "不良 不良品 不合格 异常"
    ),
    Meaning.MASK: (
        "mask masks mask_dir Ground_Truth GroundTruth gt label Labels_2024 annotations "
        "defect_masks good_masks segmentation"
    ),
    Meaning.MIXED: "good_and_bad ok_ng GoodBad",
    Meaning.OTHER: "depth xyz overlays",
    None: "monday camera_1 A 2024-05-01 anomaly_detection front_label no_mask noise position print",
}


@pytest.mark.parametrize(
    ("name", "expected"), [(name, key) for key, text in NAMES.items() for name in text.split()]
)
def test_meaning_of_a_name(name, expected):
    assert meaning(name) is expected


def test_neutral_names_tell_when_or_where():
    assert are_neutral(["monday", "2024-05-01", "cam_a", "Line2", "batch3", "7"])
    for names_ in (["A", "B"], ["0", "1"], ["monday", "kratzig"], ["good"], ["bad"]):
        assert not are_neutral(names_)


def picture(path: Path, seed: int = 0) -> Path:
    """A photograph: more colours than a mask has."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def photographs(root: Path, **numbers: int) -> Path:
    """Photographs in folders, whose names have double underscores for slashes."""
    for folder, number in numbers.items():
        for index in range(number):
            picture(root / folder.replace("__", "/") / f"{index}.png", index)
    return root


@pytest.mark.parametrize(
    ("good", "bad"),
    [("good_parts", "bad_parts"), ("pass", "fail"), ("non_defective", "defective"), ("OK", "NiO")],
)
def test_names_that_mean_good_or_defective(tmp_path, good, bad):
    dataset = open_dataset(photographs(tmp_path, **{good: 6, bad: 3}))
    assert kinds(dataset) == {"good", bad}
    assert sum(not sample.good for sample in dataset.test) == 3
    assert {sample.path.parent.name for sample in dataset.train} == {good}


@pytest.mark.parametrize("folder", ["annotations", "outlines", "mask_dir", "LABELS", "defect"])
def test_masks_in_a_folder_of_any_name_or_beside_the_images(tmp_path, folder):
    root = photographs(tmp_path, good=6, defect=3)
    ending = "_gt" if folder == "defect" else ""
    for index in range(3):
        write_mask(root / folder / f"{index}{ending}.png")
    dataset = open_dataset(root)
    assert masks(dataset.test, root) == {
        f"defect/{index}.png": [f"{folder}/{index}{ending}.png"] for index in range(3)
    }
    assert kinds(dataset) == {"good", "defect"}
    assert count_kinds(dataset)["n_masks"] == 3
    assert "3 defective (defect 3), 3 masks" in describe(dataset)


def test_photographs_with_equal_names_are_no_masks(tmp_path):
    root = photographs(tmp_path, good=6, dent=3)
    write_mask(root / "dent/9.png")
    assert count_kinds(open_dataset(root))["kinds"] == {"dent": 4}


def test_masks_among_test_images_of_another_name(tmp_path):
    root = photographs(tmp_path, train__good=2, test__good=3, test__bad=3)
    for index in range(3):
        write_mask(root / f"test/outlines/{index}.png")
    dataset = open_dataset(root)
    assert kinds(dataset) == {"good", "bad"}
    assert len(masks(dataset.test, root)) == 3
    assert any("taken as masks: test/outlines/0.png and 2 more" in n for n in dataset.notes)


@pytest.mark.parametrize(
    ("train", "test", "good"), [("Train", "Test", "Good"), ("TRAIN", "TESTING", "OK")]
)
def test_capitals_are_read_as_lower_case(tmp_path, train, test, good):
    root = touch(
        tmp_path,
        f"{train}/{good}/0.png",
        f"{test}/{good}/0.png",
        f"{test}/NG/1.png",
        "Ground_Truth/NG/1_mask.png",
        "VAL/ok/0.png",
    )
    dataset = open_dataset(root)
    assert names(dataset.train, root) == [f"{train}/{good}/0.png"]
    assert kinds(dataset) == {"good", "NG"}
    assert masks(dataset.test, root) == {f"{test}/NG/1.png": ["Ground_Truth/NG/1_mask.png"]}
    assert dataset.notes == ("VAL: 1 image neither trained nor tested on",)


def test_folders_below_good_and_below_a_kind_are_read(tmp_path):
    root = touch(
        tmp_path,
        "train/good/0.png",
        "train/good/monday/0.png",
        "test/good/tuesday/0.png",
        "test/defect/typeA/0.png",
        "test/defect/typeA/1.png",
        "ground_truth/defect/typeA/0_mask.png",
    )
    dataset = open_dataset(root)
    assert names(dataset.train, root) == ["train/good/0.png", "train/good/monday/0.png"]
    assert count_kinds(dataset)["kinds"] == {"defect": 2}
    assert masks(dataset.test, root) == {
        "test/defect/typeA/0.png": ["ground_truth/defect/typeA/0_mask.png"]
    }
    assert len(dataset.notes) == 1
    assert "1 of 2 defective images without a mask" in dataset.notes[0]


def test_train_with_folders_of_days_only(tmp_path):
    root = touch(tmp_path, "train/monday/0.png", "train/tuesday/0.png", "test/good/0.png")
    assert len(open_dataset(root).train) == 2
    unknown = touch(tmp_path / "b", "train/A/0.png", "train/B/0.png", "test/good/0.png")
    with pytest.raises(DatasetError, match=r"train/A: 1 image not trained on.*--good NAME"):
        training_images(unknown)
    assert len(open_dataset(unknown, good=["a", "B"]).train) == 2


def test_depth_images_are_no_photographs(tmp_path):
    root = touch(
        tmp_path,
        "train/good/rgb/0.png",
        "train/good/xyz/0.tiff",
        "test/hole/rgb/0.png",
        "test/hole/gt/0.png",
        "test/hole/xyz/0.tiff",
    )
    dataset = open_dataset(root)
    assert names(dataset.train, root) == ["train/good/rgb/0.png"]
    assert masks(dataset.test, root) == {"test/hole/rgb/0.png": ["test/hole/gt/0.png"]}
    assert "no photographs" in dataset.notes[0]


@pytest.mark.parametrize(
    "folders",
    [
        ["A", "B"],
        ["0", "1"],
        ["monday", "bad"],
        ["monday", "monday/bad"],
        [".", "bad"],
        ["good_and_bad", "x"],
        [".", "kratzig"],
    ],
)
def test_folders_that_do_not_say_what_is_good_are_asked_about(tmp_path, folders):
    root = touch(tmp_path, *(f"{folder}/{n}.png" for folder in folders for n in range(2)))
    with pytest.raises(DatasetError, match=r"which images are good\?.*2 images.*--good NAME"):
        open_dataset(root)


def test_naming_the_good_folders(tmp_path):
    root = touch(tmp_path / "p", *(f"{kind}/{n}.png" for kind in ("A", "B", "bad") for n in "123"))
    dataset = open_dataset(root, good=["a"])
    assert {sample.path.parent.name for sample in dataset.train} == {"A"}
    assert kinds(dataset) == {"good", "B", "bad"}
    # A pattern does not reach what names call defective.
    assert kinds(open_dataset(root, good=["*"])) == {"good", "bad"}
    loose = touch(tmp_path / "c", "0.png", "1.png", "bad/0.png")
    assert len(open_dataset(loose, good=["."]).train) == 1
    with pytest.raises(DatasetError, match=r"no folder .* 'zzz' \(--good\); there are A, B, bad"):
        open_dataset(root, good=["zzz"])
    with pytest.raises(OptionError, match="says itself which images are good"):
        open_dataset(kolektorsdd(tmp_path / "d"), good=["x"])


def test_a_neutral_folder_beside_good_ones_is_no_kind_of_defect(tmp_path):
    root = touch(tmp_path, "good/0.png", "bad/0.png", "monday/0.png", "3/0.png")
    dataset = open_dataset(root)
    assert count_kinds(dataset)["kinds"] == {"bad": 1, "3": 1}
    assert dataset.notes[0].startswith("1 image in monday/, left out: good or not?")


def test_bad_below_good_is_not_learnt(tmp_path):
    root = touch(tmp_path, "good/monday/0.png", "good/monday/bad/0.png", "good/1.png")
    dataset = open_dataset(root)
    assert len(dataset.train) == 2
    assert "good/monday/bad: 1 image left out: the folders' names say both" in dataset.notes[0]


@pytest.mark.parametrize("place", ["NG_2024", "parts/test/kratz", "parts/bad/monday"])
def test_pointing_at_a_folder_of_defects(tmp_path, place):
    touch(tmp_path, "parts/good/0.png", "parts/train/good/0.png")
    root = touch(tmp_path, f"{place}/0.png", f"{place}/1.png") / place
    with pytest.raises(DatasetError, match=r"no training images.*2 images taken as defective"):
        training_images(root)
    assert [sample.kind for sample in open_dataset(root).test] == [root.name] * 2
    assert len(open_dataset(root, good=[root.name]).train) == 2


@pytest.mark.parametrize("place", ["ground_truth", "ground_truth/dent", "Masks"])
def test_pointing_at_a_folder_of_masks(tmp_path, place):
    root = touch(tmp_path, "train/good/0.png", f"{place}/0.png") / place
    with pytest.raises(DatasetError, match=r"a folder of masks by its name.*--good"):
        open_dataset(root)


def test_good_images_whose_mask_marks_a_defect_are_not_learnt(tmp_path):
    plain = photographs(tmp_path / "a", good=5, bad=2)
    split = photographs(tmp_path / "b", train__good=5)
    for folder in (plain / "good", split / "train/good"):
        write_mask(folder / "1_mask.png")
        write_mask(folder / "2_mask.png", value=0)
    dataset = open_dataset(plain)
    assert sum(sample.good for sample in (*dataset.train, *dataset.test)) == 4
    assert "the mask marks a defect: good/1.png" in dataset.notes[0]
    learnt = names(open_dataset(split).train, split)
    assert learnt == [f"train/good/{number}.png" for number in (0, 2, 3, 4)]


def test_splits_below_good_and_bad(tmp_path):
    root = touch(tmp_path, "good/train/0.png", "good/test/1.png", "bad/test/2.png")
    dataset = open_dataset(root)
    assert names(dataset.train, root) == ["good/train/0.png"]
    assert names(dataset.test, root) == ["bad/test/2.png", "good/test/1.png"]


def test_folders_beside_train_and_test_are_noted(tmp_path):
    root = touch(tmp_path, "train/good/0.png", "good/1.png", "2.png")
    notes = open_dataset(root).notes
    assert "1 image beside the folders of the dataset, left out: 2.png" in notes
    assert "good: 1 image neither trained nor tested on" in notes


# --- Lists ----------------------------------------------------------------------------------


def write_list(root: Path, text: str, name: str = "parts.csv") -> Path:
    touch(root, *(f"a/{number}.png" for number in range(6)), "m/4.png", "m/5.png")
    path = root / name
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_list(tmp_path):
    path = write_list(
        tmp_path,
        "path,label,mask,split\n"
        "a/0.png,good,,train\n"
        "a/1.png,OK,,train\n"
        "a/2.png,0,,test\n"
        "a/3.png,1,,test\n"
        "a/4.png,scratch,m/4.png,test\n"
        "a/5.png,good,,val\n",
    )
    dataset = open_dataset(path)
    assert (dataset.name, dataset.layout, dataset.root) == ("parts", "list", tmp_path)
    assert names(dataset.train, tmp_path) == ["a/0.png", "a/1.png"]
    assert [sample.kind for sample in dataset.test] == ["good", "defect", "scratch"]
    assert masks(dataset.test, tmp_path) == {"a/4.png": ["m/4.png"]}
    assert dataset.notes == (
        "1 of 2 defective images without a mask, left out of the pixel figures: a/3.png",
        "1 image of neither train nor test not used",
    )
    assert training_images(path) == [tmp_path / "a/0.png", tmp_path / "a/1.png"]


def test_csv_list_from_a_spreadsheet(tmp_path):
    path = write_list(tmp_path, "\ufeffPath;Label\r\na/0.png;good\r\na/1.png;dent\r\n")
    dataset = open_dataset(path)
    assert [sample.kind for sample in dataset.train + dataset.test] == ["good", "dent"]


def test_list_without_labels_is_all_good(tmp_path):
    dataset = open_dataset(write_list(tmp_path, "path\na/0.png\na/1.png\n"))
    assert (len(dataset.train), dataset.test) == (2, ())


def test_jsonl_list(tmp_path):
    absolute = json.dumps(str(tmp_path / "a/3.png"))
    path = write_list(
        tmp_path,
        '{"path": "a/0.png", "label": "good"}\n\n'
        '{"path": "a/1.png", "label": false}\n'
        '{"path": "a/2.png", "label": 0}\n'
        f'{{"path": {absolute}, "label": true}}\n'
        '{"path": "a/4.png", "label": "dent", "mask": ["m/4.png", "m/5.png"]}\n',
        "parts.jsonl",
    )
    dataset = open_dataset(path)
    assert len(dataset.train) == 2
    assert [sample.kind for sample in dataset.test] == ["good", "defect", "dent"]
    assert masks(dataset.test, tmp_path) == {"a/4.png": ["m/4.png", "m/5.png"]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "", r"x\.csv: expected a first line such as 'path,label,mask', found ''"),
        ("x.csv", "a/0.png,good\n", "expected a first line .* found 'a/0.png,good'"),
        ("x.csv", "path,label\na/0.png,good\nb.png,good\n", "line 3: no such image: .*b.png"),
        ("x.csv", "path,label,mask\na/0.png,dent,b.png\n", "line 2: no such mask: .*b.png"),
        ("x.csv", "path,label\na/0.png,\n", "line 2: expected a label"),
        ("x.csv", "path,split\na/0.png,all\n", "line 2: expected the split train, .* 'all'"),
        ("x.csv", "path\n", r"x\.csv: no images found"),
        ("x.jsonl", "{\n", "line 1: expected a JSON object, but"),
        ("x.jsonl", "[1]\n", r"line 1: expected a JSON object, found \[1\]"),
        ("x.jsonl", '{"label": "good"}\n', "line 1: expected the path of an image, found None"),
        ("x.jsonl", '{"path": "a/0.png", "label": "x", "mask": 3}\n', "path of a mask, or a list"),
    ],
)
def test_list_errors_name_the_line(tmp_path, name, text, message):
    with pytest.raises(DatasetError, match=message):
        open_dataset(write_list(tmp_path, text, name))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["A", "B"], r"label 'A' .* labels found: A \(1 row\), B \(1 row\); known for good: good"),
        (["good", "goood"], r"the label 'goood' .*is 'goood' meant as 'good'\?"),
        (["good", "-1"], "the label '-1'"),
        (["1", "-1"], "the label '-1'"),
        (["2", "3"], "the label '2'"),
        (["good", "good or bad"], "the label 'good or bad'"),
    ],
)
def test_labels_that_mean_nothing_known_are_refused(tmp_path, labels, message):
    rows = [f"a/{number}.png,{label}" for number, label in enumerate(labels)]
    path = write_list(tmp_path, "\n".join(["path,label", *rows]))
    with pytest.raises(DatasetError, match=rf"parts\.csv, line \d: can't tell .*{message}"):
        open_dataset(path)


@pytest.mark.parametrize("good", ["pass", "non_defective", "0.0", "i.O.", "OK"])
def test_labels_that_mean_good(tmp_path, good):
    path = write_list(tmp_path, f"path,label\na/0.png,{good}\na/1.png,{good}\na/2.png,fail\n")
    dataset = open_dataset(path)
    assert sum(not sample.good for sample in dataset.test) == 1


def test_errors_name_the_list(tmp_path, monkeypatch):
    write_list(tmp_path, "path,label\na/0.png,good\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match=r"^parts\.csv: no test images"):
        require_test(open_dataset("parts.csv"))


def test_a_text_file_of_paths(tmp_path):
    path = write_list(tmp_path, "a/0.png\n\na/1.png\n", "parts.txt")
    expected = [tmp_path / "a/0.png", tmp_path / "a/1.png"]
    assert training_images(path) == listed_images(path) == expected
    csv = write_list(tmp_path, "path,label\na/3.png,A\na/2.png,B\n")
    assert listed_images(csv) == [tmp_path / "a/3.png", tmp_path / "a/2.png"]
    with pytest.raises(DatasetError, match="line 2: no such image"):
        listed_images(write_list(tmp_path, "a/0.png\nb.png\n", "gone.txt"))


def test_list_of_files_without_suffix(tmp_path):
    rows = [f"{number},{'dent' if number == 9 else 'good'}" for number in range(10)]
    touch(tmp_path, *(str(number) for number in range(10)))
    path = write_list(tmp_path, "\n".join(["path,label", *rows]))
    dataset = open_dataset(path)
    assert (len(dataset.train) + len(dataset.test), len(dataset.train) > 1) == (10, True)


def test_list_that_is_not_text(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"path\n\xff\xfe\x00")
    with pytest.raises(DatasetError, match="can't be read as UTF-8 text"):
        open_dataset(path)


# --- Detection and errors -------------------------------------------------------------------


def test_unknown_layout_lists_the_valid_ones(tmp_path):
    with pytest.raises(OptionError, match=r"unknown layout 'coco'; choose from btad, folder"):
        open_dataset(tmp_path, layout="coco")
    assert len(LAYOUTS) == 12


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - {"folder"}))
def test_forced_layout_that_does_not_fit(tmp_path, layout):
    touch(tmp_path, "good/0.png")
    with pytest.raises(DatasetError, match=f"not laid out as '{layout}': expected "):
        open_dataset(tmp_path, layout=layout)


def test_forced_layout_overrides_detection(tmp_path):
    root = mvtec_category(tmp_path)
    dataset = open_dataset(root / "test", layout="folder")
    assert kinds(dataset) == {"scratch_head"}
    assert len(dataset.train) == 1


def test_nothing_there(tmp_path):
    with pytest.raises(DatasetError, match="nowhere: no such folder"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"no images found .*\.png"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="found an image; give its folder"):
        open_dataset(write_mask(tmp_path / "0.png"))
    with pytest.raises(DatasetError, match="found neither"):
        open_dataset(touch(tmp_path, "archive.zip") / "archive.zip")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_folder_without_permission(tmp_path):
    locked = touch(tmp_path, "good/0.png") / "good"
    locked.chmod(0)
    try:
        with pytest.raises(DatasetError, match="Permission denied"):
            open_dataset(tmp_path)
    finally:
        locked.chmod(0o700)


def test_links_in_a_circle_end(tmp_path):
    touch(tmp_path, "a/0.png")
    try:
        (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("no symbolic links here")
    assert find_images(tmp_path) == [tmp_path / "a" / "0.png"]


# --- The split ------------------------------------------------------------------------------


def good(*stems: str) -> list[Sample]:
    return [Sample(Path(f"{stem}.png"), "good") for stem in stems]


def stem(sample: Sample) -> str:
    return sample.path.stem


def test_split_keeps_its_side_when_images_are_added():
    few = good(*(f"{number:04}" for number in range(200)))
    many = good(*(f"{number:04}" for number in range(1000)))
    train, test = split_good(few, stem)
    later_train, later_test = split_good(many, stem)
    assert set(train) <= set(later_train)
    assert set(test) <= set(later_test)
    assert len(later_test) / 1000 == pytest.approx(TEST_SHARE, abs=0.04)


@pytest.mark.parametrize("number", range(6))
def test_split_of_few_images_leaves_no_side_empty(number):
    samples = good(*(f"{index}" for index in range(number)))
    train, test = split_good(samples, stem)
    assert sorted(train + test, key=stem) == samples
    assert bool(train) == (number >= 1)
    assert bool(test) == (number >= 2)


# --- Masks ----------------------------------------------------------------------------------


def test_load_mask_is_the_union(tmp_path):
    one = write_mask(tmp_path / "1.png", value=1, at=1)
    two = write_mask(tmp_path / "2.png", value=255, at=3)
    mask = load_mask(Sample(tmp_path / "0.png", "dent", (one, two)), SIZE)
    assert mask is not None
    assert (mask.dtype, mask.shape) == (np.bool_, SIZE)
    assert [tuple(xy) for xy in np.argwhere(mask)] == [(0, 1), (0, 3)]


def test_load_mask_without_masks(tmp_path):
    assert load_mask(Sample(tmp_path / "0.png", "dent"), SIZE) is None
    of_good = load_mask(Sample(tmp_path / "0.png", "good"), SIZE)
    assert of_good is not None
    assert (of_good.shape, of_good.any()) == (SIZE, False)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16", "I", "F"])
def test_load_mask_in_any_mode(tmp_path, mode):
    grey = Image.new("L", SIZE[::-1])
    grey.putpixel((2, 4), 255)
    path = tmp_path / ("mask.tif" if mode in ("F", "I") else "mask.png")
    if mode == "P":
        image = grey.point(lambda value: value // 255).convert("L")
        image.putpalette([0, 0, 0, 128, 0, 0])
    else:
        image = grey.convert("RGB").convert(mode) if mode in ("LA", "RGBA") else grey.convert(mode)
    image.save(path)
    mask = load_mask(Sample(tmp_path / "0.png", "dent", (path,)), SIZE)
    assert mask is not None
    assert np.argwhere(mask).tolist() == [[4, 2]]


def test_load_mask_ignores_the_specks_of_jpeg(tmp_path):
    pixels = np.zeros((32, 32), np.uint8)
    pixels[5:19, 5:19] = 255
    path = tmp_path / "mask.jpg"
    Image.fromarray(pixels).save(path, quality=70)
    assert (np.asarray(Image.open(path)) != 0).sum() > 14 * 14
    mask = load_mask(Sample(tmp_path / "0.png", "dent", (path,)), (32, 32))
    assert mask is not None
    assert mask.sum() == 14 * 14


@pytest.mark.parametrize("value", [1, 2, 128, 255])
def test_load_mask_of_a_jpeg_whatever_its_value(tmp_path, value):
    pixels = np.zeros((32, 32), np.uint8)
    pixels[8:16, 8:24] = value
    path = tmp_path / "mask.jpg"
    Image.fromarray(pixels).save(path, quality=95)
    mask = load_mask(Sample(tmp_path / "0.png", "dent", (path,)), (32, 32))
    assert mask is not None
    assert mask.sum() == 8 * 16


@pytest.mark.parametrize(
    ("colour", "background"),
    [((0, 0, 0), (0, 0, 0)), ((255, 255, 255), (255, 255, 255)), ((255, 0, 0), (255, 255, 255))],
)
def test_load_mask_from_the_alpha_channel(tmp_path, colour, background):
    image = Image.new("RGBA", SIZE[::-1], (*background, 0))
    image.putpixel((2, 4), (*colour, 255))
    image.save(tmp_path / "mask.png")
    mask = load_mask(Sample(tmp_path / "0.png", "dent", (tmp_path / "mask.png",)), SIZE)
    assert mask is not None
    assert np.argwhere(mask).tolist() == [[4, 2]]


def test_load_mask_with_a_palette_that_is_black_all_over(tmp_path):
    image = Image.new("P", SIZE[::-1])
    image.putpalette([0, 0, 0] * 4)
    image.putpixel((2, 4), 3)
    image.save(tmp_path / "mask.png")
    mask = load_mask(Sample(tmp_path / "0.png", "dent", (tmp_path / "mask.png",)), SIZE)
    assert mask is not None
    assert np.argwhere(mask).tolist() == [[4, 2]]


def test_load_mask_errors(tmp_path):
    image = tmp_path / "0.png"
    small = write_mask(tmp_path / "small.png", size=(3, 4))
    with pytest.raises(ImageError, match=r"small\.png: mask of 4 x 3 pixels for an image of 8 x 6"):
        load_mask(Sample(image, "dent", (small,)), SIZE)
    with pytest.raises(ImageError, match=r"gone\.png: no such file"):
        load_mask(Sample(image, "dent", (tmp_path / "gone.png",)), SIZE)
    cut = write_mask(tmp_path / "cut.png", size=(200, 200))
    cut.write_bytes(cut.read_bytes()[:60])
    with pytest.raises(
        ImageError, match=r"cut\.png: not a readable image: image file is truncated"
    ):
        load_mask(Sample(image, "dent", (cut,)), (200, 200))
    touch(tmp_path, "empty.png")
    with pytest.raises(ImageError, match=r"empty\.png: not a readable image: it is empty"):
        load_mask(Sample(image, "dent", (tmp_path / "empty.png",)), SIZE)


def test_check_masks(tmp_path):
    root = touch(tmp_path, "train/good/0.png")
    for number in range(4):
        write_mask(root / f"test/dent/{number}.png")
    write_mask(root / "ground_truth/dent/0_mask.png")
    write_mask(root / "ground_truth/dent/1_mask.png", size=(3, 4))
    (root / "ground_truth/dent/2_mask.png").write_text("no image")
    # Lying on its side: 8 x 6 in the file is shown as 6 x 8.
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("L", (8, 6)).save(root / "test/dent/3.png", exif=turned)
    write_mask(root / "ground_truth/dent/3_mask.png", size=(8, 6))
    problems = check_masks(open_dataset(root))
    assert len(problems) == 2
    assert "1_mask.png: mask of 4 x 3 pixels for an image of 8 x 6" in problems[0]
    assert "2_mask.png: not a readable image" in problems[1]


# --- Speed and real data --------------------------------------------------------------------


def test_listing_many_files_opens_none(tmp_path):
    for folder in ("train/good", "test/dent", "ground_truth/dent"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(600):
        (tmp_path / f"train/good/{number}.png").touch()
        (tmp_path / f"test/dent/{number}.png").touch()
        (tmp_path / f"ground_truth/dent/{number}_mask.png").touch()
    dataset = open_dataset(tmp_path)
    assert len(dataset.train) == len(dataset.test) == 600
    assert [sample.path.stem for sample in dataset.train[8:11]] == ["8", "9", "10"]


@pytest.mark.parametrize(
    ("name", "train", "test_good", "defects", "n_kinds"),
    [("screw", 320, 41, 119, 5), ("magnetic_tile", 761, 191, 392, 5)],
)
def test_real_data(name, train, test_good, defects, n_kinds):
    root = SHARED / name
    if not root.is_dir():
        pytest.skip(f"real data not at {root}")
    dataset = open_dataset(root)
    assert (dataset.layout, dataset.notes) == ("mvtec", ())
    assert len(dataset.train) == train
    assert sum(sample.good for sample in dataset.test) == test_good
    bad = [sample for sample in dataset.test if not sample.good]
    assert len(bad) == defects
    assert len({sample.kind for sample in bad}) == n_kinds
    assert all(len(sample.masks) == 1 for sample in bad)
    assert check_masks(dataset) == []
    with Image.open(bad[0].path) as image:
        size = image.height, image.width
    mask = load_mask(bad[0], size)
    assert mask is not None
    assert mask.shape == size
    assert 0 < mask.mean() < 0.5
