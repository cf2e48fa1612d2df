"""Evaluation: figures of a known predictor, and of the real data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from fre import FRE, evaluate
from fre.cli.common import suggest_skipping
from fre.cli.evaluate import evaluation_text
from fre.datasets import open_dataset
from fre.errors import DatasetError, ImageError
from fre.evaluation.compare import compare
from fre.evaluation.metrics import (
    aupimo,
    auroc,
    bootstrap_resamples,
    percentile_interval,
    wilson_interval,
)
from fre.images.decode import read_image
from fre.inference.prediction import Prediction
from fre.scoring.calibration import Decision
from fre.scoring.regions import Region, find_regions


class Brightness:
    """Predicts by how bright an image is, and where."""

    def predict_many(self, images: Sequence[Path], **_: object) -> Iterator[Prediction]:
        for path in images:
            grey = read_image(path)[:, :, 0].astype(np.float32)
            score = float(grey.mean())
            yield Prediction(path, score, 0.5, score > 100, (), grey.shape, grey)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Good images are dark with noise; defects have a brighter square, and one has no mask."""
    rng = np.random.default_rng(0)
    for split, kind, count in (("train", "good", 3), ("test", "good", 9), ("test", "spot", 6)):
        for index in range(count):
            image = rng.integers(0, 180 if kind == "good" else 150, (40, 30), dtype=np.uint8)
            mask = np.zeros_like(image)
            if kind == "spot":
                mask[index : index + 12, 5:15] = 255
                image[mask > 0] |= 96
            for folder, pixels in ((f"{split}/{kind}", image), (f"ground_truth/{kind}", mask)):
                name = f"{index}_mask.png" if "truth" in folder else f"{index}.png"
                if ("truth" in folder) and (kind == "good" or index == 5):
                    continue
                path = tmp_path / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return tmp_path


def test_figures_equal_scikit_learn(dataset: Path) -> None:
    result = evaluate(Brightness(), dataset)
    samples = open_dataset(dataset).test
    images = [read_image(sample.path)[:, :, 0] for sample in samples]
    labels = [not sample.good for sample in samples]
    scores = [image.mean() for image in images]
    assert result.image_auroc == pytest.approx(roc_auc_score(labels, scores))
    assert result.image_aupr == pytest.approx(average_precision_score(labels, scores))
    pixels, truth = [], []
    for sample, image in zip(samples, images, strict=True):
        if sample.masks or sample.good:
            pixels.append(image.ravel())
            mask = read_image(sample.masks[0])[:, :, 0] if sample.masks else np.zeros_like(image)
            truth.append(mask.ravel() > 0)
    expected = roc_auc_score(np.concatenate(truth), np.concatenate(pixels))
    assert result.pixel_auroc == pytest.approx(expected, abs=1e-6)
    assert 0 < result.aupro < 1
    masks = [read_image(s.masks[0])[:, :, 0] > 0 if s.masks else None for s in samples]
    known = [i for i, sample in enumerate(samples) if sample.masks or sample.good]
    per_image = aupimo([images[i] for i in known], [masks[i] for i in known])
    assert result.aupimo == pytest.approx(np.nanmean(per_image), abs=1e-6)
    assert (result.n_good, result.n_defect) == (9, 6)
    alarms = [score > 100 for score, label in zip(scores, labels, strict=True) if not label]
    assert result.false_alarm_rate_observed == pytest.approx(np.mean(alarms))
    assert result.images_per_second > 0
    decided = {"recall", "f1", "false_alarm_rate_observed"}
    names = ["image_auroc", "image_aupr", "image_f1", "pixel_auroc", "pixel_f1", "aupro", "aupimo"]
    assert set(result.resamples) == {*names, *decided, "region_f1", "region_iou"}
    assert set(result.intervals) - {"region_touch_rate"} == set(result.resamples)
    assert result.intervals["image_auroc"] == percentile_interval(
        bootstrap_resamples(auroc, scores, labels)
    )
    for name in names[3:]:
        low, high = result.intervals[name]
        assert low < getattr(result, name) < high, name
    assert result.intervals["false_alarm_rate_observed"] == wilson_interval(sum(alarms), 9)
    assert [row.sample for row in result.images] == list(samples)


class Decided:
    """Predicts what a table says by the name of the file: score, decision, and marked rows."""

    def __init__(self, rows: dict[str, tuple[float, Decision, slice | None]]) -> None:
        self.rows = rows

    def predict_many(self, images: Sequence[Path], **_: object) -> Iterator[Prediction]:
        for path in images:
            score, decision, marked = self.rows[f"{path.parent.name}/{path.stem}"]
            values = np.zeros((8, 8), np.float32)
            regions: tuple[Region, ...] = ()
            if marked is not None:
                values[marked] = 5
                regions = find_regions(values, 4, (8, 8))
            yield Prediction(
                path, score, 0.5, decision == "fail", regions, (8, 8), values, 4, decision=decision
            )


@pytest.fixture
def decided(tmp_path: Path) -> Path:
    """Two good images, three dents and a scratch of 8 x 8; masks are rows 2 and 3: 16 pixels."""
    for name in ("train/good/0", "test/good/0", "test/good/1", "test/dent/0", "test/dent/1",
                 "test/dent/2", "test/scratch/0"):  # fmt: skip
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(path)
        if "dent" in name or "scratch" in name:
            mask = np.zeros((8, 8), np.uint8)
            mask[2:4] = 255
            folder = tmp_path / "ground_truth" / path.parent.name
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(folder / f"{path.stem}_mask.png")
    return tmp_path


DECIDED: dict[str, tuple[float, Decision, slice | None]] = {
    "good/0": (1.0, "pass", None),
    "good/1": (9.0, "fail", slice(0, 1)),  # a false alarm of 8 pixels
    "dent/0": (8.0, "fail", slice(3, 5)),  # 8 pixels right, 8 wrong, 8 missed
    "dent/1": (7.0, "fail", slice(6, 8)),  # 16 wrong, 16 missed
    "dent/2": (4.0, "review", None),  # 16 missed
    "scratch/0": (2.0, "pass", None),  # 16 missed
}


def test_decisions_and_regions_are_counted_at_the_model_s_thresholds(decided: Path) -> None:
    result = evaluate(Decided(DECIDED), decided)
    values = result.to_dict()
    assert values["confusion"] == {"tp": 2, "fp": 1, "fn": 2, "tn": 1}
    assert (result.recall, result.precision, result.f1) == (2 / 4, 2 / 3, 4 / 7)
    assert values["recall_by_kind"] == {"dent": pytest.approx(2 / 3), "scratch": 0.0}
    assert result.false_alarm_rate_observed == 1 / 2
    assert result.image_f1 == pytest.approx(8 / 9), "all four defects and the false alarm"
    assert values["in_review"] == {"defect": 1, "good": 0}
    assert result.region_touch_rate == 1 / 2
    right, wrong, missed = 8, 8 + 8 + 16, 8 + 16 + 16 + 16
    assert result.region_iou == right / (right + wrong + missed)
    assert result.region_f1 == 2 * right / (2 * right + wrong + missed)
    assert result.region_f1 <= result.pixel_f1
    assert result.intervals["recall"] == wilson_interval(2, 4)
    assert result.intervals["precision"] == wilson_interval(2, 3)
    assert result.intervals["region_touch_rate"] == wilson_interval(1, 2)
    for name in ("f1", "region_f1", "region_iou"):
        low, high = result.intervals[name]
        assert low <= values[name] <= high
    lines = evaluation_text(replace(result, threshold=6.0, false_alarm_rate=0.01)).splitlines()
    assert lines[:4] == [
        "found 2 of 4 defects (50 %), 1 of 2 false alarms, at threshold 6 (1 % asked)",
        "  dent     2 of 3 (67 %)",
        "  scratch  0 of 1 (0 %)",
        "in the review band: 1 of the other 2 defects, 0 of the other 1 good images",
    ]


def test_a_model_without_a_band_has_no_images_in_it(dataset: Path) -> None:
    result = evaluate(Brightness(), dataset)
    assert result.in_review is None
    assert "review" not in evaluation_text(result)


def test_without_masks_the_pixel_figures_are_null(dataset: Path) -> None:
    for mask in (dataset / "ground_truth" / "spot").iterdir():
        mask.unlink()
    result = evaluate(Brightness(), dataset)
    assert result.image_auroc is not None
    assert result.pixel_auroc is result.pixel_f1 is result.aupro is result.aupimo is None


def test_maps_of_the_size_of_the_images_are_not_kept(dataset: Path) -> None:
    kept: list[Prediction] = []

    class Remembering(Brightness):
        def predict_many(self, images: Sequence[Path], **_: object) -> Iterator[Prediction]:
            for prediction in super().predict_many(images):
                kept.append(replace(prediction, input_map=prediction.input_map[::2, ::2]))
                yield kept[-1]

    assert evaluate(Remembering(), dataset).pixel_auroc is not None
    held = [
        value.size
        for prediction in kept
        for value in vars(prediction).values()
        if isinstance(value, np.ndarray)
    ]
    assert held == [20 * 15] * 15


def test_without_good_images_there_is_no_aupimo(dataset: Path) -> None:
    for image in (dataset / "test" / "good").iterdir():
        image.unlink()
    result = evaluate(Brightness(), dataset)
    assert result.pixel_auroc is not None
    assert result.aupimo is None


def test_with_good_images_only_the_image_figures_are_null(dataset: Path) -> None:
    for image in (dataset / "test" / "spot").iterdir():
        image.unlink()
    result = evaluate(Brightness(), dataset)
    assert result.image_auroc is result.image_f1 is result.pixel_auroc is None
    assert (result.n_good, result.n_defect) == (9, 0)
    assert result.false_alarm_rate_observed is not None


def test_a_dataset_without_test_images_is_refused(good_folder: Path) -> None:
    with pytest.raises(DatasetError, match="no test images"):
        evaluate(Brightness(), good_folder)


def test_reasons_for_missing_figures(dataset: Path) -> None:
    assert evaluate(Brightness(), dataset).reasons == {
        "precision": "no test image is called anomalous",
        "region_touch_rate": "no image with a mask is called anomalous",
    }
    for mask in (dataset / "ground_truth" / "spot").iterdir():
        mask.unlink()
    pixel = ["pixel_auroc", "pixel_f1", "aupro", "aupimo"]
    pixel += ["region_f1", "region_iou", "region_touch_rate"]
    reasons = evaluate(Brightness(), dataset).reasons
    assert reasons.pop("precision") == "no test image is called anomalous"
    assert reasons == dict.fromkeys(pixel, "no masks")
    for image in (dataset / "test" / "good").iterdir():
        image.unlink()
    reasons = evaluate(Brightness(), dataset).reasons
    assert "recall" not in reasons
    assert reasons["f1"] == reasons["precision"] == "no good test images"
    assert reasons["image_auroc"] == "no good test images"
    assert reasons["false_alarm_rate_observed"] == "no good test images"
    assert reasons["pixel_auroc"] == "no masks"


def test_reasons_without_defects_and_without_good_images(dataset: Path) -> None:
    everything = open_dataset(dataset)
    good = replace(everything, test=tuple(s for s in everything.test if s.good))
    reasons = evaluate(Brightness(), good).reasons
    assert set(reasons.values()) == {"no defective test images"}
    assert "false_alarm_rate_observed" not in reasons
    bad = replace(everything, test=tuple(s for s in everything.test if not s.good))
    assert evaluate(Brightness(), bad).reasons["aupimo"] == "no good test images"
    text = evaluation_text(evaluate(Brightness(), good))
    assert "image AUROC                     -   no defective test images" in text


def test_masks_that_mark_nothing_or_most_are_noted(dataset: Path) -> None:
    before = evaluate(Brightness(), dataset)
    masks = dataset / "ground_truth" / "spot"
    Image.new("L", (30, 40)).save(masks / "0_mask.png")
    Image.new("L", (30, 40), 255).save(masks / "1_mask.png")
    result = evaluate(Brightness(), dataset)
    assert before.notes == ()
    assert result.notes == (
        "masks of 1 of 5 defective images mark nothing, left out of the pixel figures: "
        "ground_truth/spot/0_mask.png",
        "masks of 1 of 5 defective images mark more than half of the image: "
        "ground_truth/spot/1_mask.png; inverted, or with a coloured background? A mask is black "
        "where there is no defect",
    )
    assert result.to_dict()["notes"] == list(result.notes)


def test_a_mask_that_marks_nothing_is_left_out_of_the_pixel_figures(dataset: Path) -> None:
    masks = dataset / "ground_truth" / "spot"
    (masks / "0_mask.png").unlink()
    without = evaluate(Brightness(), dataset)
    Image.new("L", (30, 40)).save(masks / "0_mask.png")
    assert evaluate(Brightness(), dataset).pixel_auroc == without.pixel_auroc
    for mask in masks.iterdir():
        Image.new("L", (30, 40)).save(mask)
    assert evaluate(Brightness(), dataset).reasons["pixel_auroc"] == "the masks mark nothing"


def test_a_mask_of_another_size_is_refused_before_scoring(dataset: Path) -> None:
    Image.new("L", (20, 20), 255).save(dataset / "ground_truth" / "spot" / "0_mask.png")

    class Never(Brightness):
        def predict_many(self, images: Sequence[Path], **_: object) -> Iterator[Prediction]:
            raise AssertionError("scored")

    with pytest.raises(DatasetError, match="mask of 20 x 20 pixels for an image of 30 x 40"):
        evaluate(Never(), dataset)


class Careful(Brightness):
    """Gives back errors of images that can't be read."""

    def predict_many(
        self, images: Sequence[Path], **_: object
    ) -> Iterator[Prediction | ImageError]:
        yield from map(self._one, images)

    def _one(self, path: Path) -> Prediction | ImageError:
        try:
            (prediction,) = super().predict_many([path])
        except ImageError as error:
            return error
        return prediction


def test_unreadable_test_images_are_refused_or_left_out(dataset: Path) -> None:
    (dataset / "test" / "good" / "3.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"good/3\.png"):
        evaluate(Careful(), dataset)
    result = evaluate(Careful(), dataset, skip_unreadable=True)
    assert (result.n_good, result.n_defect) == (8, 6)
    values = result.to_dict()
    assert values["n_unreadable"] == 1
    assert "3.png" in values["unreadable"][0]
    assert "1 unreadable" in evaluation_text(result)
    both = compare(Careful(), Careful(), dataset, skip_unreadable=True)
    assert both.a.n_good == both.b.n_good == 8
    for image in (dataset / "test").rglob("*.png"):
        image.write_bytes(b"no image")
    with pytest.raises(DatasetError, match="none of the 15 test images can be read"):
        evaluate(Careful(), dataset, skip_unreadable=True)


def test_the_error_of_an_unreadable_image_names_others_and_the_option(dataset: Path) -> None:
    good = dataset / "test" / "good"
    for name in ("3.png", "5.png", "6.png", "8.png"):
        (good / name).write_bytes(b"no image")
    paths = sorted(good.iterdir())
    error = suggest_skipping(ImageError(good / "3.png", "damaged"), paths)
    assert str(error) == (
        f"{good / '3.png'}: damaged; {good / '5.png'} and {good / '6.png'} can't be read, either; "
        "leave such images out with --skip-unreadable"
    )
    other = ImageError(dataset / "roi.png", "damaged")
    assert suggest_skipping(other, paths) is other


@pytest.mark.slow
def test_magnetic_tiles_reach_the_promised_auroc(tiles: Path) -> None:
    model = FRE(frozen=True).fit(tiles)
    assert len(model.data) < 30e6
    result = evaluate(model, tiles)
    assert (result.n_good, result.n_defect) == (191, 392)
    assert result.image_auroc >= 0.985
    assert result.false_alarm_rate_observed <= 0.03
    assert result.aupro > 0.7


@pytest.mark.slow
def test_screws_stay_where_they_were_measured(screws: Path) -> None:
    reference = FRE("efficientnet_lite0", preset="reference")
    result = evaluate(reference.fit(screws), screws)
    assert result.image_auroc == pytest.approx(0.835, abs=0.01)
    assert result.pixel_auroc == pytest.approx(0.974, abs=0.005)
