"""Comparing two models: paired intervals, disagreements, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import fre
from conftest import texture
from fre import FRE, Method, compare, evaluate
from fre.errors import DatasetError, OptionError
from fre.evaluation.compare import FIGURES
from fre.evaluation.metrics import (
    Metric,
    auroc,
    average_precision,
    bootstrap_resamples,
    percentile_interval,
)
from fre.inference.prediction import Prediction


class Table:
    """Predicts what a table says: (score, p-value, anomalous) by the name of the file."""

    def __init__(self, rows: dict[str, tuple[float, float, bool]], noise: int = 0) -> None:
        self.rows = rows
        self.noise = noise

    def predict_many(self, images: Sequence[Path], **_: object) -> Iterator[Prediction]:
        rng = np.random.default_rng(self.noise)
        for path in images:
            score, p_value, anomalous = self.rows[f"{path.parent.name}/{path.stem}"]
            anomaly_map = rng.normal(size=(8, 8)).astype(np.float32)
            yield Prediction(path, score, p_value, anomalous, (), (8, 8), anomaly_map)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def four(tmp_path: Path) -> Path:
    """Two good and two defective images of 8 x 8; one of the defects has a mask."""
    grey = np.zeros((8, 8), np.uint8)
    for name in ("train/good/0", "test/good/0", "test/good/1", "test/dent/0", "test/dent/1"):
        save(tmp_path / f"{name}.png", grey)
    mask = grey.copy()
    mask[2:5, 2:5] = 255
    save(tmp_path / "ground_truth" / "dent" / "0_mask.png", mask)
    return tmp_path


A = {
    "good/0": (1.0, 0.9, False),
    "good/1": (2.0, 0.02, False),
    "dent/0": (4.0, 0.01, True),
    "dent/1": (2.0, 0.02, False),
}
B = {
    "good/0": (30.0, 0.5, False),
    "good/1": (60.0, 0.01, True),
    "dent/0": (40.0, 0.4, False),
    "dent/1": (70.0, 0.01, True),
}


def test_the_figures_are_those_of_evaluate_and_the_differences_theirs(four: Path) -> None:
    a, b = Table(A, noise=1), Table(B, noise=2)
    result = compare(a, b, four)
    for model, figures in ((a, result.a), (b, result.b)):
        alone = evaluate(model, four)
        assert [getattr(figures, name) for name in FIGURES] == [
            getattr(alone, name) for name in FIGURES
        ]
    assert list(result.differences) == list(FIGURES)
    for name, difference in result.differences.items():
        assert difference is not None
        assert difference.value == getattr(result.b, name) - getattr(result.a, name)
        low, high = difference.interval
        assert low <= difference.value <= high, name
    scores = [[rows[name][0] for name in A] for rows in (A, B)]
    assert result.differences["image_auroc"].interval == paired_interval(
        auroc, *([s[2], s[3], s[0], s[1]] for s in scores), [1, 1, 0, 0]
    )


def test_disagreements_come_strongest_first_with_places(four: Path) -> None:
    result = compare(Table(A), Table(B), four)
    found = [
        (d.sample.kind, d.sample.path.stem, d.place_a, d.place_b) for d in result.disagreements
    ]
    # The first by 0.4 to 0.01. The others are equal by p-value, but places 2.5 and 2.5 of A
    # become 2 and 1.
    assert found == [("dent", "0", 1, 3), ("dent", "1", 2.5, 1), ("good", "1", 2.5, 2)]
    assert [d.strength for d in result.disagreements] == [40, 2, 2]
    back = compare(Table(B), Table(A), four).disagreements
    assert [(d.sample, d.strength, d.place_b, d.place_a) for d in back] == [
        (d.sample, d.strength, d.place_a, d.place_b) for d in result.disagreements
    ]


def test_figures_that_a_dataset_does_not_give_have_no_difference(four: Path) -> None:
    (four / "ground_truth" / "dent" / "0_mask.png").unlink()
    differences = compare(Table(A), Table(B), four).differences
    assert [name for name in FIGURES if differences[name] is None] == [
        "region_f1",
        "region_iou",
        "pixel_auroc",
        "pixel_f1",
        "aupro",
        "aupimo",
    ]
    for image in (four / "test" / "dent").iterdir():
        image.unlink()
    result = compare(Table(A), Table(B), four)
    assert set(result.differences.values()) == {None}
    assert [d.sample.path.stem for d in result.disagreements] == ["1"]


def test_nothing_to_compare_on(good_folder: Path) -> None:
    with pytest.raises(DatasetError, match="no test images"):
        compare(Table({}), Table({}), good_folder)


def paired_interval(
    metric: Metric, scores: Any, others: Any, labels: Any, *, level: float = 0.95, **options: Any
) -> tuple[float, float]:
    first, second = (
        bootstrap_resamples(metric, values, labels, **options) for values in (scores, others)
    )
    return percentile_interval(second - first, level)


def two_scores() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A figure that varies a lot with the images, and a second one that follows it closely."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) >= 40
    scores = rng.normal(size=80) + labels
    return scores, scores + rng.normal(scale=0.1, size=80) + 0.1 * labels, labels


def test_bootstrap_difference_is_paired() -> None:
    scores, others, labels = two_scores()
    # AUROC sees only the order: drawn alike, the two never differ.
    assert paired_interval(auroc, scores, np.exp(scores), labels, n=50) == (0, 0)
    low, high = paired_interval(auroc, scores, others, labels, n=400)
    alone = percentile_interval(bootstrap_resamples(auroc, scores, labels, n=400))
    assert low < auroc(others, labels) - auroc(scores, labels) < high
    assert high - low < 0.3 * (alone[1] - alone[0])


def test_bootstrap_difference_agrees_with_its_definition() -> None:
    scores, others, labels = two_scores()
    rng = np.random.default_rng(3)
    literal = []
    for _ in range(60):
        drawn = np.concatenate([rng.choice(40, 40), rng.choice(np.arange(40, 80), 40)])
        literal.append(
            average_precision(others[drawn], labels[drawn])
            - average_precision(scores[drawn], labels[drawn])
        )
    found = paired_interval(average_precision, scores, others, labels, n=60, level=0.8, seed=3)
    assert found == pytest.approx(np.quantile(literal, [0.1, 0.9]))


@pytest.mark.parametrize("options", [{"n": 0}, {"level": 0}, {"level": 1}])
def test_bootstrap_difference_refuses(options: dict[str, float]) -> None:
    with pytest.raises(OptionError):
        paired_interval(auroc, [1, 2], [1, 2], [0, 1], **options)
    with pytest.raises(OptionError, match="one shape"):
        paired_interval(auroc, [1, 2], [1, 2, 3], [0, 1])


# The command.


@pytest.fixture(scope="module")
def weave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weave with thin scratches, which a small input misses."""
    root = tmp_path_factory.mktemp("weave")
    for seed in range(24):
        save(root / f"train/good/{seed}.png", texture(seed))
    for seed in range(100, 106):
        save(root / f"test/good/{seed}.png", texture(seed))
        image, mask = texture(seed + 100), np.zeros((96, 96), np.uint8)
        mask[30:32, 20 : 30 + 10 * (seed - 100)] = 255
        image[mask > 0] = 255
        save(root / f"test/scratch/{seed}.png", image)
        save(root / f"ground_truth/scratch/{seed}_mask.png", mask)
    return root


@pytest.fixture(scope="module")
def models(weave: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The second sees less than the first."""
    folder = tmp_path_factory.mktemp("models")
    FRE(size=96).fit(weave).save(folder / "a.onnx")
    FRE(size=32, method=Method(rank=1)).fit(weave).save(folder / "b.onnx")
    return folder / "a.onnx", folder / "b.onnx"


def test_the_command(models: tuple[Path, Path], weave: Path, tmp_path: Path) -> None:
    a, b = models
    done = fre("compare", a, b, weave, "--limit", 1, "--json", tmp_path / "c.json")
    assert done.returncode == 0, done.stderr
    values = json.loads((tmp_path / "c.json").read_text())
    assert list(values) == ["a", "b", "differences", "disagreements"]
    assert [values[which]["model"] for which in "ab"] == [str(a), str(b)]
    assert list(values["differences"]) == list(FIGURES)
    difference = values["differences"]["image_auroc"]
    assert difference["value"] == values["b"]["image_auroc"] - values["a"]["image_auroc"] < 0
    low, high = difference["interval"]
    assert low <= difference["value"] <= high
    difference_of_maps = values["differences"]["aupro"]
    assert difference_of_maps["interval"][0] <= difference_of_maps["value"]
    assert difference_of_maps["value"] <= difference_of_maps["interval"][1] < 0
    assert f"{'image AUROC':25}  {values['a']['image_auroc']:.3f}" in done.stdout
    assert done.stdout.count("  found ") == 2
    assert [values[which]["confusion"]["tp"] / 6 for which in "ab"] == [
        values[which]["recall"] for which in "ab"
    ]
    assert f"{difference['value']:+.3f}   {low:+.3f} to {high:+.3f}" in done.stdout

    found = values["disagreements"]
    assert len(found) > 1
    assert list(found[0]) == ["path", "kind", "a", "b"]
    assert list(found[0]["a"]) == ["score", "p_value", "place", "anomalous"]
    assert all(item["a"]["anomalous"] != item["b"]["anomalous"] for item in found)
    images = {str(path.relative_to(weave)) for path in weave.glob("test/*/*.png")}
    listed = [line.split()[-1] for line in done.stdout.splitlines() if ".png" in line]
    assert listed == [str(Path(found[0]["path"]).relative_to(weave))]
    assert set(listed) < images
    assert f"and {len(found) - 1} more" in done.stdout


def test_a_model_agrees_with_itself(models: tuple[Path, Path], weave: Path) -> None:
    done = fre("compare", models[0], models[0], weave)
    assert done.returncode == 0, done.stderr
    assert "both call the same images anomalous" in done.stdout
    assert done.stdout.count("+0.000 to +0.000") == len(FIGURES)


def test_mistakes_are_one_line(models: tuple[Path, Path], weave: Path, tmp_path: Path) -> None:
    a, b = models
    nowhere = tmp_path / "nowhere"
    for arguments, message in (
        ((a, nowhere, weave), f"{nowhere}: can't read the model"),
        ((weave / "test/good/100.png", b, weave), "100.png: "),
        ((a, b, nowhere), str(nowhere)),
        ((a, b, weave / "train"), "no test images"),
        ((a, b), "DATASET"),
        ((a, b, weave, "--limit", -1), "--limit"),
    ):
        done = fre("compare", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), done
        (line,) = done.stderr.splitlines()
        assert line.startswith("fre: error: ")
        assert message in line
